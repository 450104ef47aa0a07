"""Nonnegative least squares on known supports: codes without the shrinkage that the L1 penalty causes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float64, Int, Int64
from tqdm import tqdm

from cvxsae.parallel.threads import torch_threads, worker_pool
from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.engines.compiled import why_not_compiled
from cvxsae.solvers.codes.engines.pivoting import masked_factor, pivot

ROUNDING = 1e-13
"""Correlation with a residual, relative to ‖x − b‖, below which its sign is rounding."""

CORRECTIONS = 2
"""Corrections of the normal equations' solution, which is right to half of the digits or more: each doubles them."""

COPY_BYTES = 2 * 2**20
"""Bytes of atoms copied out at a time: what stays in cache."""

PIECE = 256
"""Datapoints that a thread refits at a time: tens of milliseconds, after which an interrupt is heard."""

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


@dataclass(frozen=True, eq=False)
class _Rows:
    """Supports of some datapoints as compressed rows, with their codes."""

    indptr: Int64[np.ndarray, " n_plus_1"]
    indices: Int64[np.ndarray, " nnz"]
    codes: Float64[np.ndarray, " nnz"]

    @classmethod
    def of(cls, codes: sp.csr_array) -> _Rows:
        """Those of a sparse array, whose codes are not touched."""
        return cls(codes.indptr.astype(np.int64), codes.indices.astype(np.int64), codes.data.copy())


def refit_codes(problem: SparseCodes, codes: sp.csr_array, *, progress: bool = False) -> Refit:
    """Solve nonnegative least squares on the support of every row of ``codes``, at the problem's fixed bias.

    Compiled kernels run on torch's number of threads. An interrupt passes through, within a fraction of a second.
    """
    atoms, offset = np.ascontiguousarray(problem.atoms.cpu().numpy()), problem.fixed_bias()
    refitted = codes.data.copy()
    stationarity = np.zeros(codes.shape[0])
    row = 0
    before, after = _Sums(), _Sums()
    workers = _workers(codes.shape[0])
    with (
        tqdm(total=codes.shape[0], unit="points", disable=not progress, desc="refit") as bar,
        worker_pool(workers, "refit", 1) as pool,
    ):
        for batch in problem.X.batches():
            x = np.ascontiguousarray((batch.cpu() - offset).numpy())
            rows = slice(row, row + len(x))
            row = rows.stop
            cuts = range(0, len(x), PIECE)
            pieces = [(x[cut : cut + PIECE], codes[rows][cut : cut + PIECE]) for cut in cuts]
            start = int(codes.indptr[rows.start])
            found = pool.map(lambda piece: _refit_rows(atoms, *piece), pieces)
            for cut, (piece, held), part in zip(cuts, pieces, found, strict=True):
                refitted[start : start + held.nnz] = part.codes
                stationarity[rows.start + cut : rows.start + cut + len(piece)] = part.stationarity
                start += held.nnz
                before.add(piece, part.before)
                after.add(piece, part.after)
                bar.update(len(piece))
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


def _workers(n: int) -> int:
    """Threads that have something to do: the compiled kernels release the interpreter, other ways do not."""
    return max(1, min(torch.get_num_threads(), -(-n // PIECE))) if why_not_compiled() is None else 1


class _Part(NamedTuple):
    """Refitted codes of some datapoints, their stationarity, and ‖r‖², ‖x̂‖², x̂·x of each before and after, (n, 3)."""

    codes: Float64[np.ndarray, " nnz"]
    stationarity: Float64[np.ndarray, " n"]
    before: Float64[np.ndarray, "n 3"]
    after: Float64[np.ndarray, "n 3"]


def _refit_rows(atoms: Float64[np.ndarray, "K d"], x: Float64[np.ndarray, "n d"], codes: sp.csr_array) -> _Part:
    """Refit some datapoints. What is said of codes, before and after, is computed from the codes alone."""
    judge = _judge_rows if why_not_compiled() else _judge_compiled
    rows = _Rows.of(codes)
    _, before = judge(atoms, x, rows)
    rows = replace(rows, codes=_solve_rows(atoms, x, rows))
    stationarity, after = judge(atoms, x, rows)
    return _Part(rows.codes, stationarity, before, after)


def _solve_rows(
    atoms: Float64[np.ndarray, "K d"], x: Float64[np.ndarray, "n d"], rows: _Rows
) -> Float64[np.ndarray, " nnz"]:
    """Nonnegative least squares on every support; what no fast way solves, an active set does."""
    z, solved = rows.codes.copy(), np.zeros(len(x), np.bool_)
    if why_not_compiled() is None:
        _solve_compiled(atoms, x, rows, z, solved)
    _solve_in_groups(atoms, x, rows, z, solved)
    for row in np.flatnonzero(~solved):
        own = slice(rows.indptr[row], rows.indptr[row + 1])
        z[own] = nonnegative_least_squares(atoms[rows.indices[own]], x[row], rows.codes[own])
    return z


def _solve_compiled(
    atoms: Float64[np.ndarray, "K d"],
    x: Float64[np.ndarray, "n d"],
    rows: _Rows,
    z: Float64[np.ndarray, " nnz"],
    solved: Bool[np.ndarray, " n"],
) -> None:
    """Solve one datapoint after another by the compiled kernel; write codes, and where they are the answer."""
    from cvxsae.solvers.codes.engines import cpu_refit

    supports = cpu_refit.Supports(rows.indptr, rows.indices, z)
    cpu_refit.refit(x.reshape(-1), x.shape[1], atoms.reshape(-1), supports, solved, ROUNDING)


def _judge_compiled(
    atoms: Float64[np.ndarray, "K d"], x: Float64[np.ndarray, "n d"], rows: _Rows
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n 3"]]:
    """:func:`_judge_rows`, compiled."""
    from cvxsae.solvers.codes.engines import cpu_refit

    stationarity, sums = np.zeros(len(x)), np.zeros((len(x), 3))
    supports = cpu_refit.Supports(rows.indptr, rows.indices, rows.codes)
    cpu_refit.judge(x.reshape(-1), x.shape[1], atoms.reshape(-1), supports, stationarity, sums)
    return stationarity, sums


def _judge_rows(
    atoms: Float64[np.ndarray, "K d"], x: Float64[np.ndarray, "n d"], rows: _Rows
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n 3"]]:
    """Stationarity of codes, and ‖r‖², ‖x̂‖², x̂·x of every datapoint."""
    codes = sp.csr_array((rows.codes, rows.indices, rows.indptr), shape=(len(x), len(atoms)))
    fitted = codes @ atoms
    residual = x - fitted
    stationarity = np.zeros(len(x))
    for row, scale in enumerate(np.linalg.norm(x, axis=1)):
        own = slice(rows.indptr[row], rows.indptr[row + 1])
        gradient, z = atoms[rows.indices[own]] @ residual[row], rows.codes[own]
        slack = np.maximum(np.maximum(gradient, np.where(z > 0, -gradient, 0.0)), -z).max(initial=0.0)
        stationarity[row] = slack / scale if scale > 0 else 0.0
    sums = np.stack([(residual**2).sum(axis=1), (fitted**2).sum(axis=1), (fitted * x).sum(axis=1)], axis=1)
    return stationarity, sums


def _solve_in_groups(
    atoms: Float64[np.ndarray, "K d"],
    x: Float64[np.ndarray, "n d"],
    rows: _Rows,
    z: Float64[np.ndarray, " nnz"],
    solved: Bool[np.ndarray, " n"],
) -> None:
    """Solve what is not solved yet by :func:`_solve_together`, supports of similar size at once."""
    sizes = np.diff(rows.indptr)
    solved |= sizes == 0
    order = np.argsort(sizes, kind="stable")
    order = order[~solved[order]]
    while len(order):
        width = int(sizes[order[-1]])
        some, order = np.split(order[::-1], [max(1, COPY_BYTES // (8 * width * atoms.shape[1]))])
        order = order[::-1]
        held = np.arange(width) < sizes[some, None]
        at = np.where(held, rows.indptr[some, None] + np.arange(width), 0)
        members = atoms[rows.indices[at]] * held[:, :, None]
        with torch_threads(1):
            found, solved[some] = _solve_together(members, x[some], rows.codes[at] * held, held)
        z[at[held]] = found[held]


def refit_members(
    members: Float64[np.ndarray, "n m d"],
    x: Float64[np.ndarray, "n d"],
    start: Float64[np.ndarray, "n m"],
    held: Bool[np.ndarray, "n m"],
) -> Float64[np.ndarray, "n m"]:
    """Nonnegative least squares on the atoms that each datapoint holds; ``members`` are zero elsewhere."""
    z = np.zeros(held.shape)
    indptr = np.concatenate([[0], held.sum(axis=1).cumsum()]).astype(np.int64)
    rows = _Rows(indptr, np.flatnonzero(held), start[held])
    z[held] = _solve_rows(members.reshape(-1, members.shape[2]), np.ascontiguousarray(x), rows)
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

    def add(self, x: Float64[np.ndarray, "n d"], sums: Float64[np.ndarray, "n 3"]) -> None:
        """Some datapoints, and ‖r‖², ‖x̂‖², x̂·x of each."""
        residual, square, cross = sums.sum(axis=0).tolist()
        self.residual, self.square, self.cross = self.residual + residual, self.square + square, self.cross + cross
        mean = x.mean(axis=0)  # sums around means are added: no cancellation when the mean is large
        apart = float(np.square(mean - self.mean).sum()) * self.n * len(x) / (self.n + len(x))
        self.total += float(np.square(x - mean).sum()) + apart
        self.mean = self.mean + (mean - self.mean) * (len(x) / (self.n + len(x)))
        self.n += len(x)

    def fvu(self) -> float:
        return self.residual / self.total if self.total > 0 else float("nan")

    def shrinkage(self) -> float:
        return self.square / self.cross if self.cross > 0 else 1.0
