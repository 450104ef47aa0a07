"""The kernel that screens one datapoint after another: it certifies, or selects the atoms that enter a working set.

Units and conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit
from cvxsae.solvers.codes.engines.cpu_certificate import Member, best_gap, energy, rounding, settle
from cvxsae.solvers.codes.engines.cpu_kernels import Factor, dots_of_four, weight_of
from cvxsae.solvers.codes.engines.cpu_vectors import LANES
from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDING
from cvxsae.solvers.codes.engines.screening import NORM_ROUNDING

GROUP = 32
"""Atoms in a group, whose largest correlation is looked at first: more make fewer groups, each cheaper to skip."""

IN_SET = -1
"""Marks the atoms of the working set among the screened bits: those of a negative NaN, which no correlation has."""

LIST = 4096
"""Most candidates looked at before the largest are kept: more than any working set takes at once."""

FLOAT32_ROUNDING = 1e-6
"""Relative margin for rounding a threshold to float32, many of its units."""


class Products(NamedTuple):
    """Computed correlations of a batch with all atoms, and what they prove.

    ``bits (B · K,)`` are the integer bits of float32, or (``shift`` 16) of bfloat16, ``one`` those of the number 1.
    Atom k of row a is provably below the penalty when the computed correlation is ≤ ``threshold[a]``, and its true one
    is at least ``least_share`` · computed − ``margin[a]``.
    """

    bits: np.ndarray
    n_atoms: int
    threshold: np.ndarray
    margin: np.ndarray
    least_share: float
    one: int
    shift: int


class Selected(NamedTuple):
    """Atoms that enter working sets (B, most), their correlations (NaN where unknown), and how many they are (B,)."""

    atoms: np.ndarray
    correlations: np.ndarray
    sizes: np.ndarray


class Verdicts(NamedTuple):
    """What a round found of each datapoint: :class:`cvxsae.solvers.codes.engines.state.Outcome`."""

    values: np.ndarray
    gaps: np.ndarray
    done: np.ndarray
    rechecks: np.ndarray


@jit()
def _value_of(bits, shift):
    """Read screened bits as the float they are."""
    return np.float64(np.int32(np.int64(bits) << shift).view(np.float32))


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
def _select_by_bits(bits, row, K, maxima, top, one, p, selected, found, values):
    """Choose about p of the atoms whose computed correlation is largest and above the penalty."""
    one, top = np.int64(one), np.int64(top)
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
def _certain(bits, row, K, maxima, top, shift, least_share, margin, prices):
    """What the largest ratio of a correlation to its weight is at least, going by the largest computed one."""
    if top <= 0:
        return 0.0
    if prices is None:
        return least_share * _value_of(top, shift) - margin
    G = maxima.shape[0]
    for g in range(G):
        if maxima[g] == top:
            for k in range(g, K, G):
                if bits[U(row + k)] == top:
                    return least_share * _value_of(top, shift) - margin * prices.reach[k]
    return 0.0


@jit()
def _may_exceed(prices, k, value, shift, least_share, margin):
    """Whether an atom that is above the threshold of all is above its own."""
    if prices is None:
        return True
    return not (_value_of(value, shift) <= (1.0 - margin * prices.reach[k]) * least_share)  # NaN may


@jit()
def _recheck(bits, row, K, maxima, threshold, own, r, d, exact, found, exact_values, prices):
    """Exact correlations, in units of their weights, of every atom that screening could not place below the penalty.

    Returns the number of violators listed, the largest correlation found and the number recomputed.
    """
    listed, rechecked, largest = 0, 0, -np.inf
    shift, least_share, margin, blur = own
    waiting = np.zeros(4, np.int64)
    pending = 0
    for g in range(maxima.shape[0]):
        if maxima[g] <= threshold:
            continue
        for k in range(g, K, maxima.shape[0]):
            value = bits[U(row + k)]
            if value > threshold and value != IN_SET and _may_exceed(prices, k, value, shift, least_share, margin):
                waiting[pending] = k
                pending += 1
                if pending == 4:
                    listed, largest = _recompute(
                        waiting, pending, r, d, exact, found, exact_values, listed, largest, blur, prices
                    )
                    rechecked, pending = rechecked + 4, 0
    if pending > 0:
        listed, largest = _recompute(waiting, pending, r, d, exact, found, exact_values, listed, largest, blur, prices)
    return listed, largest, rechecked + pending


@jit()
def _recompute(waiting, pending, r, d, exact, found, exact_values, listed, largest, blur, prices):
    values = dots_of_four(exact, waiting[0], waiting[1], waiting[2], waiting[3], r, d)
    for t in range(pending):
        weight = weight_of(prices, waiting[t])
        value = values[t] / weight
        largest = max(largest, value if prices is None else value + blur / weight)
        if value > 1.0 and listed < found.shape[0]:
            found[listed] = waiting[t]
            exact_values[listed] = value
            listed += 1
    return listed, largest


@jit()
def narrow_rows(active, residual, d, single, single_bits, half_bits, norms, errors):
    """Round residuals to float32 and bfloat16; their norms and the norms of both rounding errors (columns 0 and 1)."""
    for a in range(active.shape[0]):
        total, lost_single, lost_half = _narrow(residual, active[a] * d, d, single, single_bits, half_bits, a * d)
        norms[a] = np.sqrt(total) * (1 + NORM_ROUNDING)
        errors[a, 0], errors[a, 1] = (
            np.sqrt(lost_single) * (1 + NORM_ROUNDING),
            np.sqrt(lost_half) * (1 + NORM_ROUNDING),
        )


@jit(fastmath=REORDER)
def _narrow(residual, offset, d, single, single_bits, half_bits, to):
    total, lost_single, lost_half = 0.0, 0.0, 0.0
    source, target = U(offset), U(to)
    for j in range(U(d)):
        single[target + j] = residual[source + j]
    for j in range(U(d)):
        word = single_bits[target + j]
        rounded = np.int32((word + np.int32(0x7FFF) + ((word >> np.int32(16)) & np.int32(1))) >> np.int32(16))
        half_bits[target + j] = rounded  # to nearest, ties to even
        value = residual[source + j]
        total += value * value
        lost_single += (value - single[target + j]) ** 2
        lost_half += (value - np.float64(np.int32(rounded << np.int32(16)).view(np.float32))) ** 2
    return total, lost_single, lost_half


@jit()
def _bits_below(value, shift):
    """Bits of a screened correlation not above a value; less than all where the value is not positive."""
    value *= 1.0 - FLOAT32_ROUNDING  # float32 rounds to nearest: stay below
    # −2³¹ are the bits of the negative zero.
    return np.int64(np.float32(value).view(np.int32)) >> shift if value > 0 else np.int64(-(2**31) - 1)


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
def screen(active, products, block, exact, rules, room, selected, verdicts, prices):
    """Certify each active datapoint, or select the atoms (at most ``room``) that enter its working set.

    Atoms that the computed products cannot place below the penalty are recomputed in float64 before anything is
    certified. A residual that is not ``settled`` is one in float32: it may select atoms; before anything else it is
    replaced by that of the codes in float64, and the threshold falls by how far it moved.
    """
    bits, K, threshold, margin, least_share, one, shift = products
    d, _, residual, settled, chosen, codes, correlations, count, grams, gram_room, _ = block
    entering, entering_correlations, n_entering = selected
    values, gaps, done, rechecks = verdicts
    tol, dot_error = rules.tol, rules.dot_error
    capacity = chosen.shape[1] + LANES
    side = int(np.sqrt(gram_room)) + LANES
    y = np.empty(side, grams.dtype)
    factors = Factor(np.empty(side, np.int64), np.empty(side, np.bool_), np.empty(side * side, grams.dtype), y, y)
    members, z, c, r = np.empty(capacity, np.int64), np.empty(capacity), np.empty(capacity), np.empty(d)
    member = Member(members, z, c, r)
    maxima = np.empty((K + GROUP - 1) // GROUP, bits.dtype)
    found, found_bits, found_values = np.empty(LIST, np.int32), np.empty(LIST, bits.dtype), np.empty(LIST, np.float64)
    for a in range(active.shape[0]):
        i, row = active[a], a * K
        m = count[i]
        for j in range(U(d)):
            r[j] = residual[U(i * d) + j]
        for k in range(m):
            members[k], z[k], c[k] = chosen[i, k], codes[i, k], correlations[i, k]
            bits[U(row + chosen[i, k])] = IN_SET
        residual2 = energy(member, m, d, prices)
        largest = _largest(member, m, dot_error * np.sqrt(residual2), prices)
        top = _group_maxima(bits, row, K, maxima)
        certain = _certain(bits, row, K, maxima, top, shift, least_share, margin[a], prices)
        primal, gap, mass, scale = best_gap(residual2, member, m, max(largest, certain), prices)
        if certain > 1.0 and gap > tol * primal and room[a] > 0:
            # No dual point along r can certify these codes, whatever the exact correlations are.
            n_entering[a] = _select_by_bits(bits, row, K, maxima, top, one, room[a], entering[a], found, found_bits)
            entering_correlations[a, : n_entering[a]] = np.nan
            values[a], gaps[a], done[a], rechecks[a] = primal, np.inf, False, 0
            continue
        moved = 0.0
        if not settled[i]:
            moved = settle(block, i, exact, member, m, rules, factors, prices)
            settled[i] = True
            residual2 = energy(member, m, d, prices)
            for k in range(m):
                codes[i, k], correlations[i, k] = z[k], c[k]
            largest = _largest(member, m, dot_error * np.sqrt(residual2), prices)
        blur = dot_error * np.sqrt(residual2)
        limit = threshold[a] - moved * least_share
        if prices is not None:
            limit = (1.0 - (margin[a] + moved) * prices.widest) * least_share
            blur += PRICE_ROUNDING * np.sqrt(residual2)
        own = (shift, least_share, margin[a] + moved, blur)
        listed, outside, rechecks[a] = _recheck(
            bits, row, K, maxima, _bits_below(limit, shift), own, r, d, exact, found, found_values, prices
        )
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
