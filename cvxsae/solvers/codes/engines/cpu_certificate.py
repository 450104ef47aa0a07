"""What a datapoint's codes are worth: the duality gap, the rounding added to it, and codes corrected in float64.

Units and conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import U, jit
from cvxsae.solvers.codes.engines.cpu_factor import factor_packed, solve_factored
from cvxsae.solvers.codes.engines.cpu_kernels import refresh, square, weight_of
from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDING, PRICE_ROUNDINGS
from cvxsae.solvers.codes.engines.screening import SPARE_ROUNDINGS, SUM_ROUNDING, UNIT_ROUNDOFF

NEAR = 0.2
"""Share of the tolerance to which the working set itself is solved: the rest is for the atoms outside."""

ROUNDED_UP = 1e-9
"""Relative excess that makes a computed norm an upper bound, many times the rounding of its sum."""


class Block(NamedTuple):
    """A block of n datapoints: what they are, and how far each has come.

    ``data`` and ``residual`` are flat (n · dim); a residual that is not ``settled`` is one in float32. Row i of
    ``chosen``, ``codes`` and ``correlations`` (n, capacity) holds the ``sizes[i]`` atoms of its working set; ``grams``
    (n · gram_room) the lower triangle, row by row, of their inner products, of ``known[i]`` of them.
    """

    dim: int
    data: np.ndarray
    residual: np.ndarray
    settled: np.ndarray
    chosen: np.ndarray
    codes: np.ndarray
    correlations: np.ndarray
    sizes: np.ndarray
    grams: np.ndarray
    gram_room: int
    known: np.ndarray


class Rules(NamedTuple):
    """How precise a round is.

    Attributes
    ----------
    tol
        Relative duality gap at which a datapoint is finished.
    floor
        Projected gradient at which a working set counts as solved.
    pivot_floor
        Squared distance from the span of others below which an atom is taken to lie in it.
    refinements
        Corrections in float64, at most.
    hasty
        Leave residuals in float32 until something is certified.
    dot_error
        Bound on the relative error of a float64 correlation.
    """

    tol: float
    floor: float
    pivot_floor: float
    refinements: int
    hasty: bool
    dot_error: float


class Member(NamedTuple):
    """One datapoint's working set in float64: its atoms, codes and correlations (three spare places), its residual."""

    atoms: np.ndarray
    codes: np.ndarray
    correlations: np.ndarray
    r: np.ndarray


@jit()
def energy(member, m, d, prices):
    """‖r‖², and with a ridge Σ σ a² with it: the squared residual in all dimensions."""
    members, codes, _, r = member
    total = square(r, d)
    if prices is not None:
        for k in range(m):
            total += prices.shares[members[k]] * codes[k] * codes[k]
    return total


@jit()
def best_gap(residual2, member, m, largest, prices):
    """Primal value, and the smallest duality gap over the dual points s·r that are feasible: theory.md T1.

    For r = x − zD the gap at scale s is ½(1−s)²‖r‖² + Σ z_k (1 − s d_k·r): terms that are not negative as
    long as s·largest ≤ 1, ``largest`` ≥ max_k d_k·r. It is a parabola in s with its minimum at
    x·r/‖r‖² = 1 + Σ z_k d_k·r/‖r‖², so the best feasible s is that, clipped to [0, 1/largest]. With prices ω_k is in
    the place of 1, and ``largest`` ≥ max_k c_k/ω_k.
    """
    members, codes, correlations, _ = member
    mass, work = 0.0, 0.0
    for k in range(m):
        mass += weight_of(prices, members[k]) * codes[k]
        work += codes[k] * correlations[k]
    primal = 0.5 * residual2 + mass
    scale = 1.0 / largest
    if residual2 > 0:
        scale = max(0.0, min(scale, 1.0 + work / residual2))
    gap = 0.5 * (1.0 - scale) ** 2 * residual2
    for k in range(m):
        gap += codes[k] * max(0.0, weight_of(prices, members[k]) - scale * correlations[k])
    return primal, gap, mass, scale


@jit()
def rounding(residual2, mass, codes, m, scale, dot_error, prices):
    """What rounding in float64 can add to the gap: the residual, its correlations and the sums.

    The dual point is s times the residual r *as computed*, so nothing is asked of its feasibility but its own
    correlations. For x − zD = r + δ the gap is ½‖(1−s)r + δ‖² + Σ z_k (1 − s d_k·r).
    """
    norm = np.sqrt(residual2)
    if prices is not None:  # ν, σ and ω are rounded, and what they multiply
        length = 0.0
        for k in range(m):
            length += codes[k]
        drift = (m + SPARE_ROUNDINGS + PRICE_ROUNDINGS) * UNIT_ROUNDOFF * (norm + 2.0 * length)
        products = length * (dot_error + PRICE_ROUNDING) * norm
        terms = (mass + 2.0 * residual2) * (SUM_ROUNDING + PRICE_ROUNDING)
        return (1.0 + scale) * norm * drift + 0.5 * drift * drift + products + terms
    drift = (m + SPARE_ROUNDINGS) * UNIT_ROUNDOFF * (norm + 2.0 * mass)  # ‖computed r − (x − zD)‖
    return (1.0 + scale) * norm * drift + 0.5 * drift * drift + mass * (dot_error * norm + SUM_ROUNDING)


@jit()
def working_set_gap(member, m, d, prices):
    """Duality gap of the working set alone, relative to the value."""
    members, codes, correlations, _ = member
    largest = 1.0
    for k in range(m):
        if codes[k] > 0:
            largest = max(largest, correlations[k] / weight_of(prices, members[k]))
    primal, gap, _, _ = best_gap(energy(member, m, d, prices), member, m, largest, prices)
    return gap / primal if primal > 0 else 0.0


@jit()
def refine(block, i, exact, member, m, rules, room, n, width, prices):
    """Recompute the residual in float64 and correct the codes by the factor at hand until the working set is solved."""
    d, data = block.dim, block.data
    tol, refinements = rules.tol, rules.refinements
    members, codes, correlations, r = member
    support, held, L, y, work = room
    before = np.inf
    for attempt in range(refinements + 1):
        refresh(data, i * d, d, exact, members, codes, m, r, correlations, prices)
        if n == 0 or attempt == refinements:
            return
        gap = working_set_gap(member, m, d, prices)
        if gap <= NEAR * tol or gap > 0.5 * before:
            return
        before = gap
        for t in range(n):
            y[t] = correlations[support[t]] - weight_of(prices, members[support[t]])
        solve_factored(L, n, width, held, y, work)
        for t in range(n):
            if codes[support[t]] + y[t] <= 0:  # the support changes: leave that to the next round
                return
        for t in range(n):
            codes[support[t]] += y[t]


@jit()
def settle(block, i, exact, member, m, rules, room, prices):
    """Replace the float32 residual of a datapoint by the float64 one, correct its codes, and return how far it moved.

    The factor of the support is made only if the codes need correcting.
    """
    d, data, residual, grams, gram_room = block.dim, block.data, block.residual, block.grams, block.gram_room
    members, z, c, r = member
    refresh(data, i * d, d, exact, members, z, m, r, c, prices)
    n, width = 0, 0
    if rules.refinements > 0 and block.known[i] == m and working_set_gap(member, m, d, prices) > NEAR * rules.tol:
        n, width, spare = factor_packed(grams, i * gram_room, m, z, room, rules.pivot_floor)
        n = n if spare == n else 0
    if n > 0:
        refine(block, i, exact, member, m, rules, room, n, width, prices)
    moved = 0.0
    for j in range(U(d)):
        moved += (residual[U(i * d) + j] - r[j]) ** 2
        residual[U(i * d) + j] = r[j]
    return np.sqrt(moved) * (1 + ROUNDED_UP)
