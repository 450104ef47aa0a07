"""The optimality condition that a candidate violates most: a datapoint, an atom, a direction."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.problem import Problem, float64_tensor
from cvxsae.validation.certificate import Violation

_BLOCK_ENTRIES = 2**22
"""Most entries of a block of products ``d_k·r_n``: 32 MB in float64."""


def worst_violation(problem: Problem, candidate: Candidate) -> Violation | None:
    """The largest violation of the optimality conditions at a candidate, or None if none is found.

    Its residual R must be a dual point: ``d_k·r_n ≤ λ`` with equality where ``z_nk > 0``, ``mean_n r_n = 0`` for a free
    bias, and where atoms may be chosen no direction whose polar is above λ.
    """
    found = [
        *_of_codes(problem, candidate),
        *(_of_bias(problem, candidate) if problem.bias_is_free else ()),
        *_of_new_atoms(problem, candidate),
    ]
    found = [violation for violation in found if violation.excess > 0]
    return max(found, key=lambda violation: violation.excess) if found else None


def _of_codes(problem: Problem, candidate: Candidate) -> list[Violation]:
    """``d_k·r_n ≤ λ``, with equality where the code is positive; at τ > 0 it is not a condition for each code alone.

    With weights and ridge ``d_k·r_n ≤ λ(w_k + ρ_k z_nk)``.
    """
    if problem.penalty.atom_cost > 0 or candidate.codes is None or candidate.dictionary is None:
        return []
    if isinstance(problem, PenalizedCodes):
        return _of_polars(problem, candidate)
    atoms = float64_tensor(candidate.dictionary)
    priced = problem.prices if isinstance(problem, SparseCodes) and problem.has_prices else None
    worst, where = 0.0, (0, 0)
    for rows, residual in problem.residual_batches(candidate):
        step = max(1, _BLOCK_ENTRIES // max(1, len(atoms)))
        for start in range(0, len(residual), step):
            first = rows.start + start
            part = candidate.codes[first : min(first + step, rows.stop)]
            dense = part.toarray() if scipy.sparse.issparse(part) else np.asarray(part)
            off = (residual[start : start + step] @ atoms.T / problem.lam - 1).numpy()
            if priced is not None:
                off += 1 - priced.weights.numpy() - priced.ridge.numpy() * dense
            off = np.where(dense > 0, np.abs(off), off)
            if off.size and off.max() > worst:
                row, column = np.unravel_index(int(off.argmax()), off.shape)
                worst, where = float(off.max()), (first + int(row), int(column))
    if not worst:
        return []
    n, k = where
    active = np.asarray(candidate.codes[[n]][:, [k]].sum()) > 0
    limit = "λ" if priced is None else "λ(w_k + ρ_k z_nk)"
    condition = f"d_k·r_n = {limit} where z_nk > 0" if active else f"d_k·r_n ≤ {limit}"
    return [Violation(condition, worst, n, k, _unit(np.asarray(candidate.dictionary[k], dtype=np.float64)))]


def _of_polars(problem: PenalizedCodes, candidate: Candidate) -> list[Violation]:
    """``Ω°(D r_n) ≤ λ``, which is all that a residual has to meet whatever the codes; nothing where Ω is no gauge."""
    worst, where, direction = 0.0, 0, np.zeros(problem.dim)
    for rows, residual in problem.residual_batches(candidate):
        polars = problem.row_polars(residual)
        n = int(polars.argmax())
        if float(polars[n]) / problem.lam - 1 > worst:
            worst, where, direction = float(polars[n]) / problem.lam - 1, rows.start + n, residual[n].numpy().copy()
    return [Violation("Ω°(D r_n) ≤ λ", worst, where, None, _unit(direction))] if worst else []


def _of_bias(problem: Problem, candidate: Candidate) -> list[Violation]:
    total = torch.zeros(problem.dim, dtype=torch.float64)
    for _, residual in problem.residual_batches(candidate):
        total += residual.sum(dim=0)
    mean = (total / problem.n_points).numpy()
    return [Violation("mean_n r_n = 0", float(np.linalg.norm(mean)) / problem.lam, None, None, _unit(mean))]


def _of_new_atoms(problem: Problem, candidate: Candidate) -> list[Violation]:
    """The direction of the largest polar of the residual: a new atom where the problem may choose its atoms."""
    Y = problem.residual(candidate)
    if isinstance(problem, FixedAtoms):
        if problem.penalty.atom_cost == 0:
            return []  # its codes say it all
        polars = problem.atom_polars(Y)
        k = int(polars.argmax())
        excess = float(polars[k]) / problem.lam - 1
        return [Violation("θ°(R a_k) ≤ λ", excess, None, k, problem.atoms[k].numpy().copy())]
    norms = torch.linalg.vector_norm(Y, dim=1)
    if problem.penalty.atom_cost == 0:
        n = int(norms.argmax())
        condition = "‖r_n‖ ≤ λ at every width" if isinstance(problem, JointProblem) else "‖r_n‖ ≤ λ"
        return [Violation(condition, float(norms[n]) / problem.lam - 1, n, None, _unit(Y[n].numpy()))]
    attained, direction = problem.penalty.best_direction(Y)
    return [Violation("θ°(R u) ≤ λ", attained / problem.lam - 1, None, None, direction.numpy().copy())]


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector.copy()
