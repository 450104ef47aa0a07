"""The best floor of one width (T9, T10, T14, T15)."""

from __future__ import annotations

from typing import Annotated

from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.floors.search import FloorSearch, find_floors
from cvxsae.study.keys import COUNT, COUNTS, POSITIVE
from cvxsae.study.method import CellInput, Method, Outcome
from cvxsae.study.methods.spectral_floor import floor_for


def width_floor(
    cell: CellInput,
    *,
    kernels: Annotated[tuple[int, ...], COUNTS] = (1, 2, 3),
    max_points: Annotated[int | None, COUNT] = None,
    tol: Annotated[float, POSITIVE] = 1e-3,
    max_seconds: Annotated[float | None, POSITIVE] = None,
) -> Outcome:
    """Search for the weights of the datapoints that prove the highest floor."""
    run = cell.within(max_seconds)
    problem = JointProblem(cell.X, cell.width, cell.lam, bias=cell.bias_value)
    (floor,) = find_floors([problem], FloorSearch.of(kernels, max_points, tol), run)
    outcome = "TIME_LIMIT" if run.is_late else None
    return Outcome({"lower_bound": floor.value, "theorem": floor.theorem, "outcome": outcome})


METHOD = Method("width_floor", width_floor, axes=("n_atoms",), floor_for=floor_for, runs_beside=True)
