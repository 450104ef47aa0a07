"""Where dictionary learning starts: directions of datapoints, seen from the bias of the wide limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

    from cvxsae.parallel.group import ProcessGroup
    from cvxsae.relaxations.joint.joint import JointProblem

_SAME = 1e-9


def datapoint_directions(
    problem: JointProblem, origin: Float64[np.ndarray, " d"], seed: int, group: ProcessGroup
) -> Float64[np.ndarray, "K d"]:
    """K distinct directions of datapoints, drawn with probability ∝ ``(‖x_n − b‖ − λ)_+``.

    Those are the codes of the wide limit (T9): with as many atoms as distinct directions of datapoints longer than λ
    the start is its optimum already. What the data cannot fill is drawn at random. Processes draw from
    their own datapoints, in the order of exponential clocks: the first of all are among the first of each, so the
    start is the same for any number of them.
    """
    rng = np.random.default_rng(seed)
    excess = np.concatenate(
        [
            torch.linalg.vector_norm(batch.cpu() - torch.from_numpy(origin), dim=1).numpy()
            for batch in problem.X.batches()
        ]
    )
    excess = np.maximum(excess - problem.lam, 0.0)
    # The order of a weighted draw without replacement: exponential clocks.
    clocks = np.full(len(excess), np.inf)
    long = excess > 0
    first, total = group.places(int(long.sum()))
    clocks[long] = rng.exponential(size=total)[first : first + int(long.sum())] / excess[long]
    order = np.argsort(clocks, kind="stable")[: int(long.sum())]
    atoms = np.zeros((0, problem.dim))
    times = np.zeros(0)
    taken = 0
    while len(atoms) < problem.n_atoms and taken < len(order):
        rows = order[taken : taken + 2 * (problem.n_atoms - len(atoms))]
        taken += len(rows)
        fresh = unit(_rows(problem, rows) - origin)
        atoms, times = np.concatenate([atoms, fresh]), np.concatenate([times, clocks[rows]])
        kept = _first_of_each(atoms)[: problem.n_atoms]
        atoms, times = atoms[kept], times[kept]
    if not group.is_alone:
        drawn, clock = zip(*group.gather((atoms, times)), strict=True)
        atoms = np.concatenate(drawn)[np.argsort(np.concatenate(clock), kind="stable")]
        atoms = atoms[_first_of_each(atoms)][: problem.n_atoms]
    missing = problem.n_atoms - len(atoms)
    return np.concatenate([atoms, random_directions(missing, problem.dim, rng)])


def random_directions(count: int, dim: int, rng: np.random.Generator) -> Float64[np.ndarray, "K d"]:
    """Uniform on the sphere."""
    return unit(rng.standard_normal((count, dim)))


def _rows(problem: JointProblem, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, "n d"]:
    order = np.argsort(rows)
    found = np.empty((len(rows), problem.dim))
    found[order] = problem.X[rows[order]].to_numpy()
    return found


def _first_of_each(atoms: Float64[np.ndarray, "m d"]) -> Int64[np.ndarray, " k"]:
    """Indices of atoms that no earlier one equals to nine digits, in order."""
    _, first = np.unique(np.round(atoms / _SAME), axis=0, return_index=True)
    kept: Int64[np.ndarray, " k"] = np.sort(first).astype(np.int64)
    return kept


def unit(rows: Float[np.ndarray, "K d"]) -> Float64[np.ndarray, "K d"]:
    """Rows scaled to norm 1, in float64."""
    rows = rows.astype(np.float64, copy=False)
    scaled: Float64[np.ndarray, "K d"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
