"""Nonnegative least squares on known supports: codes without the shrinkage that the L1 penalty causes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float64, Int

from cvxsae.parallel.threads import torch_threads
from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.engines.pivoting import masked_factor, pivot

ROUNDING = 1e-13
"""Correlation with a residual, relative to ‖x − b‖, below which its sign is rounding."""

CORRECTIONS = 2
"""Corrections of the normal equations' solution, which is right to half of the digits or more: each doubles them."""

COPY_BYTES = 2 * 2**20
"""Bytes of atoms copied out at a time: what stays in cache."""

CYCLES = 10
"""Cycles at most, for every atom of a support: supports do not repeat, so this only guards against rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refit:
    """Codes refitted on their support.

    Attributes
    ----------
    codes
        Sparse (N, K), for atoms of norm 1: per datapoint the minimizer of ½‖x − b − zD‖² over z ≥ 0 on the support.
    stationarity
        What remains of the optimality conditions ``z ≥ 0, d_k·r ≤ 0, z_k d_k·r = 0`` on the support, per datapoint
        and relative to ‖x − b‖, (N,). Zero up to rounding: it is checked from the returned codes.
    fvu_before, fvu_after
        Fraction of variance unexplained, Σ‖x − x̂‖²/Σ‖x − mean‖².
    shrinkage_before, shrinkage_after
        ‖x̂‖²/x̂·(x − b), summed over datapoints (x̂ without bias): 1 where nothing is shrunk.
    """

    codes: sp.csr_array
    stationarity: Float64[np.ndarray, " N"]
    fvu_before: float
    fvu_after: float
    shrinkage_before: float
    shrinkage_after: float


def refit_codes(problem: SparseCodes, codes: sp.csr_array) -> Refit:
    """Solve nonnegative least squares on the support of every row of ``codes``, at the problem's fixed bias."""
    atoms, offset = problem.atoms.numpy(), problem.fixed_bias()
    refitted = codes.data.copy()
    stationarity = np.zeros(codes.shape[0])
    row = 0
    before, after = _Sums(), _Sums()
    for batch in problem.X.batches():
        x = (batch.cpu() - offset).numpy()
        rows = slice(row, row + len(x))
        row = rows.stop
        part = slice(int(codes.indptr[rows.start]), int(codes.indptr[rows.stop]))
        here = codes[rows]
        refitted[part], stationarity[rows] = _refit_block(atoms, x, here)
        before.add(x, here @ atoms)
        after.add(x, sp.csr_array((refitted[part], here.indices, here.indptr), shape=here.shape) @ atoms)
    kept = sp.csr_array((refitted, codes.indices.copy(), codes.indptr.copy()), shape=codes.shape)
    kept.eliminate_zeros()
    return Refit(
        codes=kept,
        stationarity=stationarity,
        fvu_before=before.fvu(),
        fvu_after=after.fvu(),
        shrinkage_before=before.shrinkage(),
        shrinkage_after=after.shrinkage(),
    )


def _refit_block(
    atoms: Float64[np.ndarray, "K d"], x: Float64[np.ndarray, "n d"], codes: sp.csr_array
) -> tuple[Float64[np.ndarray, " nnz"], Float64[np.ndarray, " n"]]:
    """Refitted codes of a block and their stationarity: many supports at once, those of similar size together."""
    refitted, stationarity = codes.data.copy(), np.zeros(len(x))
    sizes = np.diff(codes.indptr)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    while len(order):
        width = int(sizes[order[-1]])
        some, order = np.split(order[::-1], [max(1, COPY_BYTES // (8 * width * atoms.shape[1]))])
        order = order[::-1]
        held = np.arange(width) < sizes[some, None]
        at = np.where(held, codes.indptr[some, None] + np.arange(width), 0)
        members = atoms[codes.indices[at]] * held[:, :, None]
        z = refit_members(members, x[some], codes.data[at] * held, held)
        residual = x[some] - np.einsum("nm,nmd->nd", z, members)
        gradient = np.einsum("nmd,nd->nm", members, residual)
        slack = np.where(held, np.maximum(gradient, np.where(z > 0, -gradient, 0.0)), 0.0).max(axis=1)
        scale = np.linalg.norm(x[some], axis=1)
        stationarity[some] = np.divide(slack, scale, out=np.zeros(len(some)), where=scale > 0)
        refitted[at[held]] = z[held]
    return refitted, stationarity


def refit_members(
    members: Float64[np.ndarray, "n m d"],
    x: Float64[np.ndarray, "n d"],
    start: Float64[np.ndarray, "n m"],
    held: Bool[np.ndarray, "n m"],
) -> Float64[np.ndarray, "n m"]:
    """Nonnegative least squares on the atoms that each datapoint holds; ``members`` are zero elsewhere."""
    with torch_threads(1):
        z, solved = _solve_together(members, x, start, held)
    for row in np.flatnonzero(~solved):
        own = held[row]
        z[row, own] = nonnegative_least_squares(members[row, own], x[row], start[row, own])
    return z


def _solve_together(
    members: Float64[np.ndarray, "n m d"],
    x: Float64[np.ndarray, "n d"],
    start: Float64[np.ndarray, "n m"],
    held: Bool[np.ndarray, "n m"],
) -> tuple[Float64[np.ndarray, "n m"], Bool[np.ndarray, " n"]]:
    """Block principal pivoting on the normal equations, corrected by residuals, and where that is the answer.

    That is where all conditions hold up to rounding; supports close to singular are not accepted.
    """
    A, b, z, valid = (torch.from_numpy(array) for array in (members, x, start, held))
    gram = torch.bmm(A, A.transpose(1, 2))

    def gradient() -> torch.Tensor:
        return torch.bmm(A, (b - torch.bmm(z[:, None], A)[:, 0])[:, :, None])[:, :, 0]

    z, support = pivot(gram, gradient(), z, valid, 0.0)
    factor = masked_factor(gram, support)
    for _ in range(CORRECTIONS):
        step = torch.cholesky_solve(torch.where(support, gradient(), 0.0)[:, :, None], factor)[:, :, 0]
        z = torch.where(support, z + step, 0.0)
    pull, rounding = gradient(), ROUNDING * torch.linalg.vector_norm(b, dim=1)[:, None]
    right = torch.where(support, (z > 0) & (pull.abs() <= rounding), pull <= rounding)
    return z.numpy(), (right | ~valid).all(dim=1).numpy()


def nonnegative_least_squares(
    members: Float64[np.ndarray, "m d"], x: Float64[np.ndarray, " d"], start: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    """Minimize ½‖x − z @ members‖² over z ≥ 0 by an active-set method that starts from a feasible z.

    Each cycle solves on the free set and stops at the first code that reaches zero; atoms whose gradient asks for
    them come back one at a time, so the objective falls strictly and the free sets do not repeat.
    """
    z = start.astype(np.float64, copy=True)
    free: Int[np.ndarray, " f"] = np.flatnonzero(z > 0)
    floor = ROUNDING * float(np.linalg.norm(x))
    for _ in range(CYCLES * (len(z) + 1)):
        if len(free):
            step = linalg.least_squares(members[free].T, x - z @ members)
            target = z[free] + step
            if (target < 0).any():
                blocking = step < 0
                ratio = np.where(blocking, z[free] / np.where(blocking, -step, 1.0), np.inf)
                z[free] += min(1.0, float(ratio.min())) * step
                z[free[ratio <= ratio.min()]] = 0.0
                z = np.maximum(z, 0.0)
                free = np.flatnonzero(z > 0)
                continue
            z[free] = target
        gradient = members @ (x - z @ members)
        gradient[z > 0] = -np.inf
        best = int(gradient.argmax()) if len(z) else -1
        if best < 0 or gradient[best] <= floor or best in free:
            return z
        free = np.append(np.flatnonzero(z > 0), best)
    return z


class _Sums:
    """Running sums behind FVU and shrinkage."""

    def __init__(self) -> None:
        self.n, self.residual, self.square, self.cross, self.total = 0, 0.0, 0.0, 0.0, 0.0
        self.mean: Float64[np.ndarray, " d"] | float = 0.0

    def add(self, x: Float64[np.ndarray, "n d"], reconstruction: Float64[np.ndarray, "n d"]) -> None:
        self.residual += float(((x - reconstruction) ** 2).sum())
        self.square += float((reconstruction**2).sum())
        self.cross += float((reconstruction * x).sum())
        mean = x.mean(axis=0)  # sums around means are added: no cancellation when the mean is large
        apart = float(np.square(mean - self.mean).sum()) * self.n * len(x) / (self.n + len(x))
        self.total += float(np.square(x - mean).sum()) + apart
        self.mean = self.mean + (mean - self.mean) * (len(x) / (self.n + len(x)))
        self.n += len(x)

    def fvu(self) -> float:
        return self.residual / self.total if self.total > 0 else float("nan")

    def shrinkage(self) -> float:
        return self.square / self.cross if self.cross > 0 else 1.0
