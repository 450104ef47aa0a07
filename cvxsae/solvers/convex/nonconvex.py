"""Codes under nonconvex penalties: values from a local search, with the bounds of the problem.

*L0.* With a ridge, that of longer atoms without one (:meth:`~cvxsae.penalties.L0.without_ridge`), K × (d + K) numbers.
Matching pursuit as long as an atom gains more than λ; then, until nothing helps, the atom whose removal costs
less than λ goes, one atom is exchanged for another, and atoms are added; every support is refitted exactly.
*TopK.* The same with a limit (:mod:`cvxsae.solvers.codes.k_sparse`).
*Log.* A log is below its tangents, so weighted L1 codes with the weights ``ε/(ε + z)`` of the last ones never cost more
(Candès et al. 2008); from the codes of L1 and from the best single atom.

The dual point of the bounds by big M is the residual, scaled to where the bound is largest; with a ridge also that of
codes under the convex envelope, the reverse Huber function, by accelerated proximal gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from tqdm.auto import tqdm

from cvxsae.data.deadline import OutOfTime, is_over, until
from cvxsae.parallel.context import Run
from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.coherence import Coherence
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.convex.penalties.nonconvex import L0, Log, TopK
from cvxsae.relaxations.convex.support_bounds import dual_bounds
from cvxsae.relaxations.joint.active_gram import gram_inverses
from cvxsae.relaxations.solution import Evaluated, Record, Solution, Status, judge
from cvxsae.solvers.codes.k_sparse import SWAP_ENTRIES, search
from cvxsae.solvers.codes.swaps import Atoms, Supports, pursue, swap
from cvxsae.solvers.convex.driver import announce

NAME = "local-search"
"""What ``solver`` calls it."""

ROUNDS = 8
"""Most rounds of dropping, exchanging and adding: two or three are usual."""

MOST_ACTIVE = 64
"""Most active atoms of a datapoint that the search for L0 takes: what it attains stays attained."""

REWEIGHTED, STEPS = 10, 60
"""Reweightings of a log penalty, and accelerated gradient steps for each."""

SCALES = np.geomspace(1e-3, 1.0, 13)
"""Multiples of the residual that are tried as dual points."""


def solve_nonconvex(problem: PenalizedCodes, asked: float, run: Run) -> Solution:
    """Search for codes, and bound them: ``CERTIFIED`` where the gap closes, ``BOUNDED`` where it does not.

    Past the deadline, or after an interrupt of the outermost call, what was found and proved before is returned.
    """
    began = time.perf_counter()
    found, status = Evaluated(problem.zero_candidate(), bound=0.0), Status.BOUNDED
    try:
        with until(run.last_moment):
            for better in _found(problem, run):
                found = better
        if run.is_late:
            status = Status.TIME_LIMIT
    except OutOfTime:
        status = Status.TIME_LIMIT
    except KeyboardInterrupt:
        if not run.is_outermost:
            raise
        status = Status.INTERRUPTED
    seconds = time.perf_counter() - began
    codes = found.candidate.codes
    active = 0 if codes is None else codes.nnz if sp.issparse(codes) else np.count_nonzero(codes)
    info = {"l0": active / problem.n_points, "device": str(run.device)}
    solution = judge(problem, found, status, tol=asked, seconds=seconds, solver=NAME, info=info)
    record = Record(1, seconds, solution.value, solution.lower_bound)
    return announce(replace(solution, history=(record,)), run)


def _found(problem: PenalizedCodes, run: Run) -> Iterator[Evaluated]:
    """Candidates, each with a bound that holds: of the search, of branch and bound, with a dual point."""
    penalty = problem.penalty
    offsets = problem.X.to_tensor().double().cpu() - problem.fixed_bias()
    if isinstance(penalty, TopK):
        plain = SparseCodes.of_unit_rows(problem.X, problem.atoms, 1.0, problem.bias)  # type: ignore[arg-type]
        k = np.full(problem.n_points, min(penalty.k, problem.n_atoms), dtype=np.int64)
        codes = search(plain, k, None, run).codes
    elif isinstance(penalty, L0):
        longer, atoms, scale = penalty.without_ridge(offsets.numpy(), problem.atoms.numpy(), problem.lam)
        codes = _priced(torch.from_numpy(longer), torch.from_numpy(atoms), problem.lam, run)
        codes.data /= scale
    else:
        codes = _reweighted(offsets, problem.atoms, problem.lam, penalty, run)
    bias = problem.fixed_bias().numpy()
    candidate = problem.candidate(codes, bias)
    yield Evaluated(candidate, bound=0.0)
    dual = _dual(problem, offsets, problem.row_values(candidate), codes, run)
    candidate = problem.candidate(codes, bias, dual)
    with until(run.deadline):
        rows = problem.row_bounds(candidate)
    yield Evaluated(candidate, bound=float(rows.bounds.mean()))
    if any(one is not None for one in rows.codes) and not run.is_late:  # other codes need bounds that are theirs
        candidate = problem.candidate(_with_better(codes, rows.codes), bias, dual)
        with until(run.deadline):
            rows = problem.row_bounds(candidate)
        yield Evaluated(candidate, bound=float(rows.bounds.mean()))


def _with_better(codes: sp.csr_array, better: tuple[Float64[np.ndarray, " K"] | None, ...]) -> sp.csr_array:
    """With those that branch and bound came across."""
    dense = codes.toarray()
    for n, one in enumerate(better):
        if one is not None:
            dense[n] = one
    return sp.csr_array(dense)


def _dual(
    problem: PenalizedCodes,
    offsets: Float64[torch.Tensor, "n d"],
    values: Float64[np.ndarray, " n"],
    codes: sp.csr_array,
    run: Run,
) -> Float64[np.ndarray, "n d"]:
    """Of every datapoint the multiple of a residual with the largest dual bound."""
    x, atoms, penalty, lam = offsets.numpy(), problem.atoms.numpy(), problem.penalty, problem.lam
    residuals = [x - codes @ atoms]
    rows = problem.atoms
    if isinstance(penalty, L0) and penalty.ridge:
        residuals.append(_envelope_residual(offsets, rows, lam, penalty, run))
        rows = torch.from_numpy(penalty.without_ridge(x[:0], atoms, lam)[1])
    most = penalty.k if isinstance(penalty, TopK) else int(min(max(values.max() / lam, 1), MOST_ACTIVE))
    coherence = Coherence.of(rows, min(most, len(atoms)))
    best, point = np.full(len(x), -np.inf), np.zeros_like(x)
    for residual in residuals:
        for scale in SCALES[::-1]:
            if is_over():
                return point
            bound = dual_bounds(x, atoms, lam, penalty, values, scale * residual, coherence)
            better = bound > best
            best[better], point[better] = bound[better], scale * residual[better]
    return point


def _envelope_residual(
    x: Float64[torch.Tensor, "n d"], rows: Float64[torch.Tensor, "K d"], lam: float, penalty: L0, run: Run
) -> Float64[np.ndarray, "n d"]:
    """What codes under the convex envelope of L0 with a ridge leave."""
    x, rows = x.to(run.device), rows.to(run.device)
    step = _step(rows)
    codes = x.new_zeros((len(x), len(rows)))
    for _ in range(REWEIGHTED):
        if is_over():
            break
        codes = _accelerated(x, rows, codes, lambda V: penalty.envelope_prox(V, lam, step), step)
    return (x - codes @ rows).cpu().numpy()


def _step(rows: Float64[torch.Tensor, "K d"]) -> float:
    """The longest step of a gradient method."""
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return 1 / float(linalg.extreme_eigenvalues(gram)[1])


def _priced(x: Float64[torch.Tensor, "n d"], rows: Float64[torch.Tensor, "K d"], lam: float, run: Run) -> sp.csr_array:
    """The search for L0, block by block."""
    atoms = Atoms.of(rows, run.device)
    worth = (x.square().sum(dim=1) / (2 * lam)).floor().clamp(min=0, max=min(MOST_ACTIVE, *rows.shape)).long()
    step = max(1, SWAP_ENTRIES // (max(1, int(worth.max())) * len(rows)))
    starts = tqdm(range(0, len(x), step), disable=not run.progress, desc="codes under L0", unit="block")
    parts = [_priced_block(x[i : i + step], worth[i : i + step], atoms, lam, run) for i in starts]
    return sp.csr_array(sp.vstack(parts, format="csr"))


def _priced_block(
    x: Float64[torch.Tensor, "n d"], worth: torch.Tensor, atoms: Atoms, lam: float, run: Run
) -> sp.csr_array:
    def cost(some: Supports) -> torch.Tensor:
        return some.errors(atoms) + lam * some.held.sum(dim=1)

    fresh = Supports.empty(x.to(run.device), worth.to(run.device))
    best = pursue(fresh, atoms, run, lam)
    for _ in range(ROUNDS):
        if run.is_late:
            break
        tried = _shortened(best, atoms, lam)
        tried = swap(replace(tried, k=tried.held.sum(dim=1), closed=fresh.closed, done=fresh.done), atoms, run)
        tried = pursue(replace(tried, k=fresh.k, closed=fresh.closed, done=fresh.done), atoms, run, lam)
        helps = cost(tried) < cost(best) - 1e-12 * best.scale
        if not bool(helps.any()):
            break
        where = helps.nonzero().ravel()
        best = best.updated(where, tried.rows(where))
    return best.to_sparse(atoms)


def _shortened(some: Supports, atoms: Atoms, lam: float) -> Supports:
    """Without the atoms whose removal costs less than λ, one after the other, the cheapest first."""
    for _ in range(some.index.shape[1]):
        members = atoms.rows[some.index] * some.held[:, :, None]
        inverse, _ = gram_inverses(members, some.held)
        own = inverse.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(torch.float64).tiny)
        costs = torch.where(some.held, some.z.square() / (2 * own), torch.inf)
        least, place = costs.min(dim=1)
        rows = (least < lam).nonzero().ravel()
        if not len(rows):
            break
        before = some.rows(rows)
        after = replace(before, held=before.held.scatter(1, place[rows, None], False)).refitted(atoms)
        keeps = after.errors(atoms) - before.errors(atoms) < lam
        if not bool(keeps.any()):
            break
        kept = keeps.nonzero().ravel()
        some = some.updated(rows[kept], after.rows(kept))
    return some


def _reweighted(
    x: Float64[torch.Tensor, "n d"], rows: Float64[torch.Tensor, "K d"], lam: float, penalty: Log, run: Run
) -> sp.csr_array:
    """The search for a log penalty."""
    x, rows = x.to(run.device), rows.to(run.device)
    step = _step(rows)

    def cost(codes: torch.Tensor) -> torch.Tensor:
        return (x - codes @ rows).square().sum(dim=1) / 2 + lam * penalty.value(codes)

    q = x @ rows.T
    most, atom = q.max(dim=1)
    single = torch.zeros_like(q)
    alone = torch.from_numpy(penalty.best_single(most.cpu().numpy(), lam)).to(q)
    single.scatter_(1, atom[:, None], alone[:, None])
    best = torch.zeros_like(q)
    for start in (torch.zeros_like(q), single):
        codes = start
        for _ in tqdm(range(REWEIGHTED), disable=not run.progress, desc="reweighted codes", unit="round"):
            if run.is_late:
                break
            weights = lam * step * penalty.epsilon / (penalty.epsilon + codes)
            codes = _accelerated(x, rows, codes, partial(_shifted, weights), step)
        better = (cost(codes) < cost(best))[:, None]
        best = torch.where(better, codes, best)
    return sp.csr_array(best.cpu().numpy())


def _shifted(thresholds: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Soft thresholding with a threshold for every code."""
    return (V - thresholds).clamp_(min=0)


def _accelerated(
    x: torch.Tensor,
    rows: torch.Tensor,
    codes: torch.Tensor,
    prox: Callable[[torch.Tensor], torch.Tensor],
    step: float,
) -> torch.Tensor:
    """Accelerated proximal gradient steps."""
    ahead, momentum = codes, 1.0
    for _ in range(STEPS):
        if is_over():
            break
        following = prox(ahead + step * (x - ahead @ rows) @ rows.T)
        move = following - codes
        if float(torch.sum((ahead - following) * move)) > 0:
            momentum = 1.0
        later = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        codes, ahead, momentum = following, following + (momentum - 1) / later * move, later
    return codes
