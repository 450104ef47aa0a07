"""The kernel that screens one datapoint after another: it certifies, or selects the atoms that enter a working set.

Units and conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import U, jit
from cvxsae.solvers.codes.engines.cpu_candidates import Own, bits_of_one, list_candidates, recheck, sift, value_of
from cvxsae.solvers.codes.engines.cpu_certificate import Member, best_gap, energy, rounding, settle
from cvxsae.solvers.codes.engines.cpu_factor import Factor
from cvxsae.solvers.codes.engines.cpu_kernels import weight_of
from cvxsae.solvers.codes.engines.cpu_vectors import LANES
from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDING

GROUP = 32
"""Atoms in a group, whose largest correlation is looked at first: more make fewer groups, each cheaper to skip."""

IN_SET, IN_SET_INT8 = -1, -(2**31)
"""Marks the atoms of the working set among the screened bits: those of a negative NaN, which no correlation has, and
the number that no sum of products in int8 reaches."""

LIST = 4096
"""Most candidates looked at before the largest are kept: more than any working set takes at once."""

SLACK = 1e-5
"""Relative error of residuals and atoms in float32 that is allowed for: where it is more, atoms are listed again."""


class Products(NamedTuple):
    """Computed correlations of a batch with all atoms, and what they prove.

    ``bits (B · K,)`` are the integer bits of float32, or (``shift`` 16) of bfloat16; where ``unit[a]`` is not 0, they
    are the correlations of row a in units of it. ``absent`` is what stands for an atom of the working set.
    Atom k of row a is provably below the penalty when the computed correlation is ≤ ``threshold[a]``, and its true one
    is at least ``least_share`` · computed − ``margin[a]``. Of a row with more candidates than ``most`` nothing is said.
    """

    bits: np.ndarray
    n_atoms: int
    threshold: np.ndarray
    margin: np.ndarray
    least_share: float
    unit: np.ndarray
    absent: int
    shift: int
    most: int


class Selected(NamedTuple):
    """Atoms that enter working sets (B, most), their correlations (NaN where unknown), and how many they are (B,)."""

    atoms: np.ndarray
    correlations: np.ndarray
    sizes: np.ndarray


class Verdicts(NamedTuple):
    """What a round found of each datapoint: :class:`cvxsae.solvers.codes.engines.state.Outcome`.

    ``blurred`` says where the product was too coarse to say anything.
    """

    values: np.ndarray
    gaps: np.ndarray
    done: np.ndarray
    rechecks: np.ndarray
    blurred: np.ndarray


@jit()
def _group_maxima(bits, row, K, maxima):
    """Write the maximum of every group of correlations; return the overall one.

    Group g of G holds the atoms g, g + G, g + 2G, ...: neighbors fall into different groups, and the maxima of all
    groups are updated with one vector instruction for many.
    """
    G = maxima.shape[0]
    for g in range(U(G)):
        maxima[g] = bits[U(row) + g]
    for start in range(G, K, G):
        first = U(row + start)
        for g in range(U(min(G, K - start))):
            value = bits[first + g]
            maxima[g] = value if value > maxima[g] else maxima[g]
    overall = maxima[0]
    for g in range(U(G)):
        overall = maxima[g] if maxima[g] > overall else overall
    return overall


@jit()
def _count_above(values, n, level):
    total = 0
    for g in range(n):
        total += values[g] > level
    return total


@jit()
def _level(values, n, low, high, p):
    """A level ≥ low above which about p (never fewer, unless low already has fewer) of the values lie."""
    if _count_above(values, n, low) <= p:
        return low
    while high - low > 1:
        middle = low + (high - low) // 2
        above = _count_above(values, n, middle)
        if above < p:
            high = middle
        else:
            low = middle
            if above <= p + p // 8:
                break
    return low


@jit()
def _collect(bits, row, K, maxima, level, found, values):
    """List the atoms whose correlation bits exceed a level, as many as fit."""
    n = 0
    for g in range(maxima.shape[0]):
        if maxima[g] > level:
            for k in range(g, K, maxima.shape[0]):
                value = bits[U(row + k)]
                if value > level and n < found.shape[0]:
                    found[n] = k
                    values[n] = value
                    n += 1
    return n


@jit()
def _select_by_bits(bits, row, K, maxima, top, own, p, selected, found, values):
    """Choose about p of the atoms whose computed correlation is largest and above the penalty."""
    one, top = bits_of_one(own), np.int64(top)
    level = _level(maxima, maxima.shape[0], one, top, p)
    n = _collect(bits, row, K, maxima, level, found, values)
    level = _level(values, n, level, top, p)
    chosen = 0
    for t in range(n):
        if values[t] > level and chosen < p:
            selected[chosen] = found[t]
            chosen += 1
    for t in range(n):  # ties at the level
        if values[t] == level and level > one and chosen < p:
            selected[chosen] = found[t]
            chosen += 1
    return chosen


@jit()
def _select_exact(found, exact_values, n, p, selected, selected_values, prices):
    """Choose the p largest of n violators whose ratio to their weight is known exactly."""
    order = np.argsort(-exact_values[:n])
    chosen = min(p, n)
    for t in range(chosen):
        selected[t] = found[order[t]]
        selected_values[t] = exact_values[order[t]] * weight_of(prices, selected[t])
    return chosen


@jit()
def _certain(bits, row, K, maxima, top, own, prices):
    """What the largest ratio of a correlation to its weight is at least, going by the largest computed one."""
    if top <= 0:
        return 0.0
    if prices is None:
        return own.least_share * value_of(top, own) - own.margin
    G = maxima.shape[0]
    for g in range(G):
        if maxima[g] == top:
            for k in range(g, K, maxima.shape[0]):
                if bits[U(row + k)] == top:
                    return own.least_share * value_of(top, own) - own.margin * prices.reach[k]
    return 0.0


@jit()
def _limit(threshold, moved, own, prices):
    """Computed correlation below which an atom is proved inactive by a residual that moved since."""
    if prices is None:
        return threshold - moved * own.least_share
    return (1.0 - (own.margin + moved) * prices.widest) * own.least_share


@jit()
def _moved(own, moved):
    """What products prove of a residual that moved since."""
    return Own(own.unit, own.shift, own.absent, own.least_share, own.margin + moved)


@jit()
def _largest(member, m, blur, prices):
    """The largest ratio of a correlation to its weight in a working set, with prices rounded up; at least 1."""
    members, codes, correlations, _ = member
    largest = 1.0
    for k in range(m):
        if prices is None:
            largest = max(largest, correlations[k])
        else:
            share = prices.shares[members[k]] * codes[k]
            reach = correlations[k] + blur + PRICE_ROUNDING * (blur + share)
            largest = max(largest, reach / prices.weights[members[k]])
    return largest


@jit()
def screen(active, products, block, atoms, rules, room, selected, verdicts, prices):
    """Certify each active datapoint, or select the atoms (at most ``room``) that enter its working set.

    Atoms that the computed products cannot place below the penalty are recomputed in float64 before anything is
    certified. A residual that is not ``settled`` is one in float32: it may select atoms; before anything else it is
    replaced by that of the codes in float64, and the threshold falls by how far it moved.
    """
    bits, K, threshold, margin, least_share, unit, absent, shift, most = products
    d, _, residual, settled, chosen, codes, correlations, count, grams, gram_room, _ = block
    entering, entering_correlations, n_entering = selected
    values, gaps, done, rechecks, blurred = verdicts
    exact = atoms.exact
    tol, dot_error = rules.tol, rules.dot_error
    capacity = chosen.shape[1] + LANES
    side = int(np.sqrt(2 * gram_room)) + LANES
    y, work = np.empty(side, grams.dtype), np.empty(side, grams.dtype)
    factors = Factor(np.empty(side, np.int64), np.empty(side, np.bool_), np.empty(side * side, grams.dtype), y, work)
    members, z, c, r = np.empty(capacity, np.int64), np.empty(capacity), np.empty(capacity), np.empty(d)
    member = Member(members, z, c, r)
    maxima = np.empty((K + GROUP - 1) // GROUP, bits.dtype)
    found, found_bits, found_values = np.empty(LIST, np.int32), np.empty(LIST, bits.dtype), np.empty(LIST, np.float64)
    candidates, widest = np.empty(K + LANES, np.int64), 1.0 if prices is None else prices.widest
    for a in range(active.shape[0]):
        i, row = active[a], a * K
        m = count[i]
        for j in range(U(d)):
            r[j] = residual[U(i * d) + j]
        for k in range(m):
            members[k], z[k], c[k] = chosen[i, k], codes[i, k], correlations[i, k]
            bits[U(row + chosen[i, k])] = absent
        own, blurred[a] = Own(unit[a], shift, absent, least_share, margin[a]), False  # a coarser product's verdict
        residual2 = energy(member, m, d, prices)
        largest = _largest(member, m, dot_error * np.sqrt(residual2), prices)
        top = _group_maxima(bits, row, K, maxima)
        certain = _certain(bits, row, K, maxima, top, own, prices)
        primal, gap, mass, scale = best_gap(residual2, member, m, max(largest, certain), prices)
        if certain > 1.0 and gap > tol * primal and room[a] > 0:
            # No dual point along r can certify these codes, whatever the exact correlations are.
            n_entering[a] = _select_by_bits(bits, row, K, maxima, top, own, room[a], entering[a], found, found_bits)
            entering_correlations[a, : n_entering[a]] = np.nan
            values[a], gaps[a], done[a], rechecks[a] = primal, np.inf, False, 0
            continue
        moved, slack = 0.0, 0.0 if settled[i] else SLACK * np.sqrt(residual2)
        limit, own = _limit(threshold[a], slack, own, prices), _moved(own, slack)
        n = list_candidates(bits, row, K, maxima, limit, own, most, candidates, prices)
        blurred[a] = n > most
        if blurred[a]:
            continue
        if prices is None and n > 0:
            n = sift(candidates, n, atoms, slack, dot_error, r, d, residual2)
        if not settled[i]:
            if room[a] > 0 and n > 0:
                listed, outside = recheck(candidates, n, r, d, atoms.working, found, found_values, 0.0, prices)
                certain = outside - (atoms.error + SLACK) * np.sqrt(residual2) * widest
                _, gap, _, _ = best_gap(residual2, member, m, max(largest, certain), prices)
                if certain > 1.0 and gap > tol * primal:
                    n_entering[a] = _select_exact(
                        found, found_values, listed, room[a], entering[a], entering_correlations[a], prices
                    )
                    entering_correlations[a, : n_entering[a]] = np.nan
                    values[a], gaps[a], done[a], rechecks[a] = primal, np.inf, False, n
                    continue
            moved = settle(block, i, exact, member, m, rules, factors, prices)
            settled[i] = True
            residual2 = energy(member, m, d, prices)
            for k in range(m):
                codes[i, k], correlations[i, k] = z[k], c[k]
            largest = _largest(member, m, dot_error * np.sqrt(residual2), prices)
        if moved > slack:
            own = Own(unit[a], shift, absent, least_share, margin[a])
            limit, own = _limit(threshold[a], moved, own, prices), _moved(own, moved)
            n = list_candidates(bits, row, K, maxima, limit, own, K, candidates, prices)
        rechecks[a] = n
        blur = (dot_error + (0.0 if prices is None else PRICE_ROUNDING)) * np.sqrt(residual2)
        listed, outside = recheck(candidates, n, r, d, exact, found, found_values, blur, prices)
        largest = max(largest, outside)
        largest = largest + blur if prices is None else largest * (1.0 + PRICE_ROUNDING)
        primal, gap, mass, scale = best_gap(residual2, member, m, largest, prices)
        gap += rounding(residual2, mass, z, m, scale, dot_error, prices)
        values[a], gaps[a], done[a] = primal, gap, gap <= tol * primal
        n_entering[a] = 0
        if not done[a]:
            n_entering[a] = _select_exact(
                found, found_values, listed, room[a], entering[a], entering_correlations[a], prices
            )
