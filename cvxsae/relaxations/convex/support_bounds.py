"""Lower bounds of codes under penalties that are not convex, row by row: a price or a limit of active atoms, and a log.

For a datapoint x (less the bias), unit-norm atoms and codes z ≥ 0. Several bounds, of which the largest counts; none is
above the optimum.

*Every dictionary's.* The radial bound of T16.

*By the number of active atoms.* With at most m of them ``½‖x − zD‖²`` is at least E_m: ``E_0 = ½‖x‖²``, ``E_1`` and
``E_2`` exactly, by all atoms and all pairs, and beyond by :class:`Coherence`. So TopK has the bound E_k, and L0 the
least ``E_m + λm``; more than ``v/λ`` atoms are never worth it, where v is attained.

*By a bound of the codes (big M).* At an optimum whose codes are at most M the penalty may be replaced by its convex
envelope on [0, M], and any y gives ``φ(x) ≥ y·x − ½‖y‖² − Σ_k max_{0 ≤ z ≤ M} (z d_k·y − λω(z))``: of L0 the maximum is
``(M d_k·y − λ)_+`` and of a concave log ``(M d_k·y − λω(M))_+``. Of TopK, where it is the length of the codes that is
bounded, the sum is ``M`` times the length of the k largest ``(d_k·y)_+``, the dual of the k-support norm. M is proved:
optimal codes of L0 and TopK are least squares on their support, so ``‖x‖ ≥ ‖zD‖ ≥ √λ_m ‖z‖`` with λ_m of
:class:`Coherence`; those of a log do not cost less if they shrink a little, so ``zD·(x − zD) ≥ 0`` and the same is true
of them, and they obey ``λω(z_k) ≤ v``.

*L0 with a ridge ρ* is L0 of longer atoms (:meth:`~cvxsae.penalties.L0.without_ridge`), so all of this holds of it, and
``E_m ≥ ½‖x‖² λρ/(m + λρ)`` besides, for every dictionary: ``‖zD‖ ≤ Σz ≤ √m ‖z‖``. Its dual bound is that of ω itself,
and needs no M: ``φ(x) ≥ y·x − ½‖y‖² − Σ_k ((d_k·y)₊²/(2λρ) − λ)₊``, the *perspective bound*. For each k and z ≥ 0 what
is subtracted is at least ``z d_k·y − λω(z)``, by calculus where z > 0, and ½‖x − zD‖² ≥ y·(x − zD) − ½‖y‖².

*By branch and bound,* for few atoms. Of a set S that must be active and a set F that may be, codes cost at least
nonnegative least squares over S ∪ F and the price of S; if S alone does not do as well, of one more. The atom of F with
the largest code splits the node in two. Each least squares problem is bounded from below by its residual as a dual
point; what the residual lacks to be feasible is charged to codes that sum to at most ``LONGEST ‖x‖``, or more where
atoms are nearly opposite. That codes of an optimum are no larger is assumed of dictionaries whose atoms are otherwise
positively dependent up to a 1e-5. L0 with a ridge, before that, and a log have theirs in
:mod:`~cvxsae.relaxations.convex.box_bounds`, which assumes nothing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from cvxsae.data.deadline import is_over
from cvxsae.relaxations.convex.box_bounds import Boxes, Curved, Priced, Searched, reaches, search
from cvxsae.relaxations.convex.code_penalty import product_rounding
from cvxsae.relaxations.convex.coherence import BOUND_ROUNDING, Coherence
from cvxsae.relaxations.convex.penalties.nonconvex import L0, Log, NonconvexPenalty, TopK
from cvxsae.relaxations.linalg import EPS

MOST_PAIRED = 1024
"""Atoms up to which all pairs are looked at: K² products a datapoint."""

MOST_ACTIVE = 64
"""Active atoms up to which :class:`Coherence` is asked; beyond it says nothing of any dictionary that is not small."""

MOST_BRANCHED = 24
"""Atoms up to which supports are branched on: a node is a nonnegative least squares problem."""

MOST_BOXED = 12
"""Atoms up to which codes under a log are: every active one has to be halved some times."""

LARGEST_BOX = 1e12
"""Codes beyond which a box is not halved: its chord is too flat to say anything."""

NODES = 2_000
"""Nodes of a datapoint; where more are needed the bound is that of the nodes that are open."""

LONGEST = 100.0
"""What the codes of a least squares optimum of a few atoms are taken to sum to at most, in lengths of the datapoint."""

PARALLEL = 1e-10
"""Of ``1 − c²``: two atoms nearer than this are not told apart, and their pair is taken to reconstruct everything."""


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Lower bounds of every datapoint.

    Attributes
    ----------
    bounds
        The largest, (n,).
    is_exact
        Where branch and bound ended with no node open, (n,).
    nodes
        How many it looked at, (n,).
    codes
        The best that it came across, (K,), where they beat the value given; None elsewhere.
    """

    bounds: Float64[np.ndarray, " n"]
    is_exact: np.ndarray
    nodes: Int64[np.ndarray, " n"]
    codes: tuple[Float64[np.ndarray, " K"] | None, ...]


def row_bounds(
    x: Float64[np.ndarray, "n d"],
    atoms: Float64[np.ndarray, "K d"],
    lam: float,
    penalty: NonconvexPenalty,
    values: Float64[np.ndarray, " n"],
    duals: Float64[np.ndarray, "n d"] | None = None,
) -> RowBounds:
    """Bound ``min_{z ≥ 0} ½‖x − zD‖² + λΩ(z)`` from below, for datapoints less the bias.

    Parameters
    ----------
    x, atoms
        Datapoints (n, d), and atoms of norm 1 (K, d).
    lam, penalty
        λ and Ω.
    values
        Attained by some codes, (n,): nothing that costs more needs to be looked at, and no bound exceeds them.
    duals
        Points y of the bounds by big M, (n, d); None for none.
    """
    scale = (x**2).sum(axis=1) / 2
    plain: tuple[np.ndarray, np.ndarray, float] = (x, atoms, 1.0)
    if isinstance(penalty, L0):
        plain = penalty.without_ridge(x, atoms, lam)
    most = _most_active(penalty, lam, values, len(atoms))
    coherence = Coherence.of(torch.from_numpy(plain[1]), int(min(most.max(initial=1), MOST_ACTIVE)))
    if isinstance(penalty, Log):
        found = penalty.radial(np.sqrt(2 * scale), lam)
    else:
        found = _by_size(plain[0], plain[1], lam, penalty, most, coherence)
    if duals is not None:
        found = np.maximum(found, dual_bounds(x, atoms, lam, penalty, values, duals, coherence))
    branched = _few_atoms(x, atoms, lam, penalty, values, coherence)
    found = np.maximum(found, [one.low for one in branched]) - BOUND_ROUNDING * scale
    exact = np.array([one.is_exact for one in branched], dtype=bool)
    nodes = np.array([one.looked for one in branched], dtype=np.int64)
    return RowBounds(np.clip(found, 0.0, values), exact, nodes, tuple(one.codes for one in branched))


def _few_atoms(
    x: Float64[np.ndarray, "n d"],
    atoms: Float64[np.ndarray, "K d"],
    lam: float,
    penalty: NonconvexPenalty,
    values: Float64[np.ndarray, " n"],
    coherence: Coherence,
) -> list[Searched]:
    """Branch and bound, where there are few atoms."""
    n, K = len(x), len(atoms)
    found = [Searched(0.0, 0, False, None)] * n
    if (MOST_BOXED if isinstance(penalty, Log) else MOST_BRANCHED) < K:
        return found
    if isinstance(penalty, Log) or (isinstance(penalty, L0) and penalty.ridge):
        most = np.ones((n, K))
        if isinstance(penalty, Log):
            limits = largest_codes(x, lam, penalty, values, coherence, K)
            lengths = np.linalg.norm(x, axis=1) * (1 + BOUND_ROUNDING)
            with np.errstate(invalid="ignore"):  # zero times infinity
                most = np.fmin(limits[:, None], lengths[:, None] * reaches(atoms))
        rows = np.flatnonzero(most.max(axis=1) < LARGEST_BOX)
        roots = np.zeros((len(rows), 2, K))
        roots[:, 1] = most[rows]
        limit = NODES if isinstance(penalty, Log) else (NODES + 1) // 2
        boxes: Boxes = Curved(atoms, lam, penalty) if isinstance(penalty, Log) else Priced(atoms, lam, penalty)
        for row, one in zip(rows.tolist(), search(x[rows], boxes, roots, values[rows], limit), strict=True):
            found[row] = one
    if isinstance(penalty, Log):
        return found
    longer, plain, scale = penalty.without_ridge(x, atoms, lam) if isinstance(penalty, L0) else (x, atoms, 1.0)
    reach = _longest(plain)
    for row, one in enumerate(found):
        if one.is_exact or is_over():
            continue
        best = float(values[row])
        if one.codes is not None:
            best = float(np.square(x[row] - one.codes @ atoms).sum()) / 2 + lam * float(
                penalty.value(torch.from_numpy(one.codes)[None])
            )
        other = _branched(longer[row], plain, lam, penalty, min(best, float(values[row])), NODES - one.looked, reach)
        codes = one.codes if other.codes is None else other.codes / scale
        found[row] = Searched(max(one.low, other.low), one.looked + other.looked, other.is_exact, codes)
    return found


def _most_active(
    penalty: NonconvexPenalty, lam: float, values: Float64[np.ndarray, " n"], n_atoms: int
) -> Int64[np.ndarray, " n"]:
    """How many atoms can be active at an optimum."""
    if isinstance(penalty, TopK):
        return np.full(len(values), min(penalty.k, n_atoms), dtype=np.int64)
    if isinstance(penalty, L0):
        return np.minimum(np.floor(values / lam * (1 + BOUND_ROUNDING)), n_atoms).astype(np.int64)
    return np.full(len(values), n_atoms, dtype=np.int64)


def _by_size(
    x: Float64[np.ndarray, "n d"],
    atoms: Float64[np.ndarray, "K d"],
    lam: float,
    penalty: NonconvexPenalty,
    most: Int64[np.ndarray, " n"],
    coherence: Coherence,
) -> Float64[np.ndarray, " n"]:
    """The bounds by the number of active atoms."""
    scale, q = (x**2).sum(axis=1) / 2, x @ atoms.T
    top = max(2, min(int(most.max(initial=0)), MOST_ACTIVE))
    errors = np.zeros((top + 1, len(x)))
    errors[0] = scale
    if isinstance(penalty, L0) and penalty.ridge:
        share = lam * penalty.ridge / (np.arange(top + 1) + lam * penalty.ridge)
        errors = np.maximum(errors, share[:, None] * scale * (1 - 8 * EPS))
    errors[1] = np.maximum(errors[1], scale - np.maximum(q.max(axis=1), 0.0) ** 2 / 2)
    for m in range(2, top + 1):
        k = np.full(len(x), m)
        if m < len(coherence.least):
            errors[m] = np.maximum(errors[m], coherence.bounds(torch.from_numpy(x), torch.from_numpy(atoms), k))
    if len(atoms) <= MOST_PAIRED:
        errors[2] = np.maximum(errors[2], scale - _best_pair(q, atoms, scale))
    if isinstance(penalty, TopK):
        return errors[most[0]] if most[0] <= top else np.zeros(len(x))
    sizes = np.arange(top + 1)[:, None]
    each = np.where(sizes <= np.maximum(most, 0), errors + lam * sizes, np.inf)
    return np.minimum(each.min(axis=0), lam * (np.minimum(most, top) + 1))


def _best_pair(
    q: Float64[np.ndarray, "n K"], atoms: Float64[np.ndarray, "K d"], scale: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """What two atoms take off ``½‖x‖²`` at most, rounding of nearly parallel ones included.

    What is between two atoms is within half their angle of the nearer one, whose gain grows by ``2/(1 + c)`` at most.
    """
    best = np.maximum(q.max(axis=1), 0.0) ** 2 / 2
    gram = atoms @ atoms.T
    blur = 16 * product_rounding(atoms.shape[1]) * scale[:, None]
    for i in range(len(atoms) - 1):
        if is_over():
            return scale
        c, own, other = gram[i, i + 1 :], q[:, i, None], q[:, i + 1 :]
        apart = 1 - c**2
        both = (own > c * other) & (other > c * own)
        gain = (own**2 + other**2 - 2 * c * own * other) / (2 * np.maximum(apart, PARALLEL))
        gain = np.where(apart > PARALLEL, gain + blur / np.maximum(apart, PARALLEL), scale[:, None])
        near = np.where(c > 0, np.maximum(own, other) ** 2 / (1 + np.abs(c)), np.inf)
        gain = np.minimum(gain, near)
        best = np.maximum(best, np.where(both, gain, 0.0).max(axis=1))
    return np.minimum(best, scale)


def largest_codes(
    x: Float64[np.ndarray, "n d"],
    lam: float,
    penalty: NonconvexPenalty,
    values: Float64[np.ndarray, " n"],
    coherence: Coherence,
    n_atoms: int,
) -> Float64[np.ndarray, " n"]:
    """M of every datapoint: codes of an optimum are no longer than that (a log's no larger); infinite if not known."""
    most = _most_active(penalty, lam, values, n_atoms)
    least = np.where(most < len(coherence.least), coherence.least[np.minimum(most, len(coherence.least) - 1)], 0.0)
    ridge = lam * penalty.ridge if isinstance(penalty, L0) else 0.0
    known = least > PARALLEL
    root = np.sqrt(np.where(known, least, 1.0) * (1 + ridge))
    found = np.where(known, np.linalg.norm(x, axis=1) / root, np.inf)
    with np.errstate(over="ignore"):
        if isinstance(penalty, Log):
            found = np.minimum(found, penalty.epsilon * np.expm1(values / (lam * penalty.epsilon)))
        if ridge > 0:
            found = np.minimum(found, np.sqrt(2 * values / ridge))
    return found * (1 + BOUND_ROUNDING)


def dual_bounds(
    x: Float64[np.ndarray, "n d"],
    atoms: Float64[np.ndarray, "K d"],
    lam: float,
    penalty: NonconvexPenalty,
    values: Float64[np.ndarray, " n"],
    duals: Float64[np.ndarray, "n d"],
    coherence: Coherence,
) -> Float64[np.ndarray, " n"]:
    """The bounds by big M, and of a ridge without, at given points; minus infinity where there is none."""
    M = largest_codes(x, lam, penalty, values, coherence, len(atoms))
    known = np.isfinite(M)
    blur = product_rounding(x.shape[1]) * np.linalg.norm(duals, axis=1)
    products = duals @ atoms.T + blur[:, None]
    with np.errstate(over="ignore"):  # codes that may be as large as floating point holds prove nothing
        reach = np.where(known, M, 0.0)[:, None] * np.maximum(products, 0.0)
        if isinstance(penalty, TopK):
            k = min(penalty.k, len(atoms))
            charge = np.sqrt(np.square(np.partition(reach, -k, axis=1)[:, -k:]).sum(axis=1))
        elif isinstance(penalty, L0):
            charge = penalty.conjugate(products, lam, np.where(known, M, 0.0)[:, None]).sum(axis=1)
        else:
            price = lam * penalty.of_mass(np.where(known, M, 0.0))
            charge = np.maximum(reach - price[:, None], 0.0).sum(axis=1)
    value = (duals * x).sum(axis=1) - (duals**2).sum(axis=1) / 2 - charge * (1 + 2 * len(atoms) * EPS)
    return np.where(known, value, -np.inf)


def _branched(
    x: Float64[np.ndarray, " d"],
    atoms: Float64[np.ndarray, "K d"],
    lam: float,
    penalty: NonconvexPenalty,
    value: float,
    nodes: int = NODES,
    reach: float = LONGEST,
) -> Searched:
    """Halve the supports until none can cost less than the best found, or there are too many nodes, or time is over."""
    limit = penalty.k if isinstance(penalty, TopK) else len(atoms)
    price = 0.0 if isinstance(penalty, TopK) else lam
    best, ticket, looked, codes, least = value, count(), 0, None, value
    close = BOUND_ROUNDING * float(x @ x) / 2
    heap: list[tuple[float, int, tuple[int, ...], tuple[int, ...]]] = [
        (0.0, next(ticket), (), tuple(range(len(atoms))))
    ]
    while heap and looked < nodes and not is_over():
        low, _, needed, free = heapq.heappop(heap)
        if low >= best - close:
            return Searched(min(best, least, low), looked, True, codes)
        looked += 1
        whole = _least_squares(x, atoms, needed + free, reach)
        alone = _least_squares(x, atoms, needed, reach)
        if alone.attained + price * len(needed) < best:
            best, codes = alone.attained + price * len(needed), np.zeros(len(atoms))
            codes[list(needed)] = alone.codes
        least = min(least, max(low, alone.low + price * len(needed)))
        if len(needed) >= limit or not free:
            continue
        low = max(low, whole.low + price * (len(needed) + 1))
        if low >= best - close:
            least = min(least, low)
            continue
        j = free[int(np.argmax(whole.codes[len(needed) :]))]
        rest = tuple(k for k in free if k != j)
        heapq.heappush(heap, (low, next(ticket), (*needed, j), rest))
        heapq.heappush(heap, (max(low, 0.0), next(ticket), needed, rest))
    low = min(best, least, heap[0][0]) if heap else min(best, least)
    return Searched(low, looked, low >= best - close, codes)


class LeastSquares(NamedTuple):
    """Nonnegative least squares on a support: half the squared error attained, one that none is below, the codes."""

    attained: float
    low: float
    codes: Float64[np.ndarray, " s"]


def _least_squares(
    x: Float64[np.ndarray, " d"], atoms: Float64[np.ndarray, "K d"], support: tuple[int, ...], reach: float = LONGEST
) -> LeastSquares:
    """Half the squared error on a support: the residual y proves ``y·x − ½‖y‖² − Σ_k z_k (d_k·y)_+`` of all codes z.

    Those of an optimum are taken to sum to at most ``reach ‖x‖``.
    """
    from scipy.optimize import nnls

    if not support:
        half = float(x @ x) / 2
        return LeastSquares(half, half, np.zeros(0))
    rows = atoms[list(support)]
    try:
        z = nnls(rows.T, x)[0]
    except RuntimeError:  # too many exchanges: of degenerate supports
        z = np.zeros(len(support))
    y = x - z @ rows
    half = float(y @ y) / 2
    over = max(float((rows @ y).max()), 0.0) + product_rounding(len(x)) * float(np.sqrt(2 * half))
    return LeastSquares(half, max(float(y @ x) - half - over * reach * float(np.linalg.norm(x)), 0.0), z)


def _longest(atoms: Float64[np.ndarray, "K d"]) -> float:
    """How large codes of an optimum are taken to be, in lengths of the datapoint.

    What ``LONGEST`` says, and more where two atoms are nearly opposite: it takes codes of ``1/‖d_i + d_j‖`` to
    reconstruct what is across them. Atoms that are opposite up to rounding are taken to be opposite.
    """
    apart = np.sqrt(np.array([np.square(atoms + row).sum(axis=1) for row in atoms]))
    apart = apart[apart > 8 * product_rounding(atoms.shape[1])]
    return max(LONGEST, 4 / float(apart.min(initial=np.inf)))
