"""The referee of a large dictionary's dual point: its own check of proofs of copositivity, in numpy and LAPACK.

A dual point Y is feasible if ``λ²(11ᵀ + τI) − YYᵀ`` is copositive (``docs/theory.md``, T11). Solvers prove that with
:mod:`cvxsae.relaxations.proofs`, by eigenvalues or by a factorization in torch. Nothing of that is used here but the
arrays. What they prove is found by Cholesky factorizations of ``t²(11ᵀ + τI) − YYᵀ − P``, at t = λ first: one that
runs to its end proves its matrix positive definite if what rounding can do was taken off the diagonal before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.proofs import CopositivityProof, NonnegativeProof, SliceProof

LARGEST_MATRIX = 20_000
"""Datapoints up to which N × N matrices are formed; beyond, the longest row bounds the polar."""

_ROUNDING = float(np.finfo(np.float64).eps)
"""Twice what one operation in float64 can err by, relative."""

_UNDERFLOW = float(np.finfo(np.float64).tiny)
"""What it can err by where its result is too small for that, with room even where such numbers become zero."""

_EXCESSES = np.geomspace(1e-13, 1e4, 18)
"""By what shares the square of t exceeds that of λ until it is proved."""

_HALVINGS = 6
"""Tries between the share that is proved and the one before."""

_MANY = 1500
"""Datapoints beyond which a try takes a second, so that the first share that is proved is good enough."""


class DualCheck(NamedTuple):
    """The lower bound that a dual point proves, per datapoint, and by how much it was outside its feasible set.

    ``excess`` is that of the polar and ``drift`` that of the mean of the rows (of a free bias), both relative to λ.
    """

    lower_bound: float
    excess: float
    drift: float


def own_check(problem: Problem, candidate: Candidate) -> DualCheck | None:
    """:func:`check_dual` where atoms cost and the polar is proved; None where it is computed, as in few dimensions."""
    if not isinstance(problem, LargeDictionary) or problem.atom_cost == 0:
        return None
    if candidate.proof is None and problem.dim <= LARGEST_DIM:
        return None
    return check_dual(problem, candidate)


def check_dual(problem: LargeDictionary, candidate: Candidate) -> DualCheck:
    """What the candidate's dual point proves with its proof; its residual where there is none (τ > 0).

    The point is centered if the bias is free, and shrunk where its polar is not proved to be at most λ.
    """
    X, lam = problem.X.to_numpy(), problem.lam
    Y, drift = _residual(X, candidate) if candidate.dual is None else np.array(candidate.dual, dtype=np.float64), 0.0
    origin = X.mean(axis=0) if problem.bias_is_free else problem.fixed_bias().numpy()
    if problem.bias_is_free:
        mean = Y.mean(axis=0)
        drift = float(np.linalg.norm(mean)) / lam
        Y -= mean
    level = proved_polar(Y, candidate.proof, problem.atom_cost, lam)
    if not math.isfinite(level):
        return DualCheck(0.0, math.inf, drift)
    # Exactly centered, no row would move further than this, and no polar is above the longest row.
    left = 2 * math.hypot(*(math.fsum(column) for column in Y.T)) / len(Y) if problem.bias_is_free else 0.0
    scale = min(1.0, lam * (1 - 4 * _ROUNDING) / (level + left)) if level + left > 0 else 1.0
    products, squares = (X - origin) * Y, Y**2
    along, square = math.fsum(products.ravel()), math.fsum(squares.ravel())
    slack = 4 * _ROUNDING * (float(np.abs(products).sum()) + square)
    slack += left * float(np.linalg.norm((X - origin).sum(axis=0)))
    bound = (scale * along - scale**2 * square / 2 - scale * slack) / len(Y)
    return DualCheck(bound, max(0.0, level / lam - 1), drift)


@np.errstate(over="ignore", invalid="ignore")
def proved_polar(Y: Float64[np.ndarray, "N d"], proof: CopositivityProof | None, tau: float, target: float) -> float:
    """A t with ``θ°_τ(Y) ≤ t``: ``target`` where that is proved, else the least that was; without a proof, one is made.

    Any arrays prove some t, and none more than they can: of P the symmetric part is taken and negative entries are
    dropped, and slices get on their diagonals what they lack of being semidefinite.
    """
    rows, (n, d) = Y / target, Y.shape
    ceiling = math.sqrt(float(np.square(rows).sum(axis=1).max(initial=0.0))) * (1 + (d + 4) * _ROUNDING)
    if not math.isfinite(ceiling) or ceiling <= 1 or n > LARGEST_MATRIX:
        return ceiling * target if ceiling > 1 or not math.isfinite(ceiling) else target
    if isinstance(proof, SliceProof):
        share = _level_of_slices(rows, np.asarray(proof.slices, dtype=np.float64) / target / target, tau)
    else:
        share = _level_of_matrix(rows, None if proof is None else _multiplier(proof, target), tau, ceiling)
    return min(share, ceiling) * target


def _residual(X: Float64[np.ndarray, "N d"], candidate: Candidate) -> Float64[np.ndarray, "N d"]:
    """``X − 1bᵀ − Z D``."""
    residual = X - candidate.bias
    if candidate.codes is not None and candidate.dictionary is not None:
        residual -= candidate.codes @ np.asarray(candidate.dictionary, dtype=np.float64)
    return np.asarray(residual)


def _multiplier(proof: CopositivityProof, target: float) -> Float64[np.ndarray, "N N"]:
    assert isinstance(proof, NonnegativeProof)
    P = np.asarray(proof.P, dtype=np.float64) / target / target
    P = P + P.T
    P /= 2
    return np.maximum(P, 0, out=P)


def _level_of_matrix(
    rows: Float64[np.ndarray, "N d"], P: Float64[np.ndarray, "N N"] | None, tau: float, ceiling: float
) -> float:
    """The t ≥ 1 for which ``t²(11ᵀ + τI) − YYᵀ − P ⪰ 0`` is proved; without P it is ``(1 − YYᵀ)₊`` off the diagonal."""
    n, d = rows.shape
    taken = rows @ rows.T
    trace = float(taken.trace())
    if P is None:
        P = np.maximum(1 - taken, 0)
        np.fill_diagonal(P, 0)
    taken += P
    del P
    size = float(np.linalg.norm(taken))
    if not math.isfinite(size):
        return math.inf

    def is_proved(square: float) -> bool:
        """Whether ``square (11ᵀ + τI) − taken`` is positive definite in exact arithmetic."""
        entries = (d + 4) * trace + size + square * (n + 2 * tau)  # of the matrix, by which its rounding is relative
        left = square - taken
        left.flat[:: n + 1] += square * tau
        total = float(left.trace())
        if not total > 0:
            return False
        left.flat[:: n + 1] -= 4 * _ROUNDING * entries + _factorization_error(n, total)
        factor, failed = scipy.linalg.lapack.dpotrf(left.T, lower=0, clean=0, overwrite_a=1)
        return failed == 0 and bool(np.isfinite(factor.diagonal()).all())

    return _least_level(is_proved, ceiling, _HALVINGS if n <= _MANY else 0)


def _factorization_error(n: int, trace: float) -> float:
    """What a Cholesky factorization of order n that ran to its end may differ by from its matrix, in spectral norm.

    ``γ_{n+1}/(1 − γ_{n+1})`` of the trace, in whatever order sums are taken (Higham 2002, theorem 10.3; Rump 2006), and
    for every entry what n products and a division lose where they underflow.
    """
    relative = (n + 1) * _ROUNDING / 2
    return relative / (1 - 2 * relative) * trace + n * (2 * n + 4 + trace) * _UNDERFLOW


def _least_level(is_proved: Callable[[float], bool], ceiling: float, halvings: int) -> float:
    """The least t tried for which ``t²`` is proved: 1, and then coarsely upwards; ``ceiling`` if none below it is."""
    if is_proved(1 - 4 * _ROUNDING):
        return 1.0
    low = 0.0
    for excess in _EXCESSES:
        if math.sqrt(1 + excess) >= ceiling:
            return ceiling
        if is_proved(1 + float(excess)):
            break
        low = float(excess)
    else:
        return ceiling
    high = float(excess)
    for _ in range(halvings if low else 0):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_proved(1 + middle) else (middle, high)
    return math.sqrt(1 + high) * (1 + 2 * _ROUNDING)


def _level_of_slices(rows: Float64[np.ndarray, "N d"], slices: Float64[np.ndarray, "N N N"], tau: float) -> float:
    """The least t for which the coefficients of ``(Σ z)(t² zᵀ(11ᵀ + τI)z − ‖Yᵀz‖²)`` are at least those of the slices.

    ``Σ_i z_i zᵀS_i z`` is nonnegative where every ``S_i`` is semidefinite, which its least eigenvalue, as computed, is
    corrected for.
    """
    n, d = rows.shape
    gram = rows @ rows.T
    halves = (slices + slices.transpose(0, 2, 1)) / 2
    if not np.isfinite(halves).all():
        return math.inf
    largest = 0.0
    for half in halves:
        size = float(np.linalg.norm(half))
        least = float(scipy.linalg.eigvalsh(half, subset_by_index=[0, 0])[0]) if size > 0 else 0.0
        half.flat[:: n + 1] += max(-least, 0.0) + 4 * n * _ROUNDING * size
        largest = max(largest, size)
    square = 0.0
    for i in range(n):  # of coefficients i, j, k, times three
        wanted = halves[i] + halves[:, i, :] + halves[:, :, i].T
        wanted += gram + gram[i][:, None] + gram[i][None, :]
        price = np.full((n, n), 3.0)
        price.flat[:: n + 1] += tau
        price[i] += tau
        price[:, i] += tau
        square = max(square, float((wanted / price).max()))
    slack = (32 + d) * _ROUNDING * (float(gram.trace()) + largest)
    return max(1.0, math.sqrt(max(square, 0.0) + slack) * (1 + 2 * _ROUNDING))
