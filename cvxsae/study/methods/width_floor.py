"""The best floor of one width (T9, T10, T14, T15)."""

from __future__ import annotations

from typing import Annotated, Any

from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.floors.search import FloorSearch, find_floors
from cvxsae.study.keys import COUNT, COUNTS, POSITIVE, YES_OR_NO
from cvxsae.study.method import CellInput, Method, Outcome
from cvxsae.study.methods.spectral_floor import floor_for

HELD_OUT_SHARE = 0.25
"""Part of the time for the held-out rows, if a floor of theirs is asked for: they are the fewer."""


def width_floor(
    cell: CellInput,
    *,
    kernels: Annotated[tuple[int, ...], COUNTS] = (1, 2, 3),
    max_points: Annotated[int | None, COUNT] = None,
    max_dim: Annotated[int | None, COUNT] = None,
    tol: Annotated[float, POSITIVE] = 1e-3,
    max_seconds: Annotated[float | None, POSITIVE] = None,
    held_out: Annotated[bool | None, YES_OR_NO] = None,
) -> Outcome:
    """Search for the weights of the datapoints that prove the highest floor; with ``held_out`` there too."""
    run, search = cell.within(max_seconds), FloorSearch.of(kernels, max_points, tol, max_dim)
    numbers: dict[str, Any] = {}
    if held_out and cell.held_out is not None:
        aside = JointProblem(cell.held_out, cell.width, cell.lam, bias=cell.bias_value)
        (there,) = find_floors([aside], search, run.inner(share=HELD_OUT_SHARE))
        numbers = {"held_out_floor": there.value, "held_out_floor_theorem": there.theorem}
    problem = JointProblem(cell.X, cell.width, cell.lam, bias=cell.bias_value)
    (floor,) = find_floors([problem], search, run)
    outcome = "TIME_LIMIT" if run.is_late else None
    return Outcome({"lower_bound": floor.value, "theorem": floor.theorem, "outcome": outcome, **numbers})


METHOD = Method(
    "width_floor",
    width_floor,
    axes=("n_atoms",),
    floor_for=floor_for,
    runs_beside=True,
    columns={
        "held_out_floor": (
            "Float64",
            "width_floor: no dictionary of this width costs less on the held-out rows; if requested",
        ),
        "held_out_floor_theorem": ("string", "width_floor: theorem that proves held_out_floor"),
    },
)
