"""The two kernels of a round on the CPU: ``screen`` certifies or selects, ``solve`` solves the working set.

Both walk over the datapoints of a batch, one at a time, with all of a datapoint's data in cache. Units and
conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np

from cvxsae.solvers.codes.engines.cpu_kernels import (
    GROUP,
    REORDER,
    U,
    dots_of_four,
    factor,
    gram,
    jit,
    minimise,
    refresh,
    solve_factored,
    square,
)
from cvxsae.solvers.codes.engines.cpu_vectors import LANES, eliminate

IN_SET = -1
"""Marks the atoms of the working set among the screened bits: those of a negative NaN, which no correlation has."""

LIST = 4096
"""Most candidates looked at before the largest are kept."""

NEAR = 0.2
"""Share of the tolerance to which the working set itself is solved."""


@jit()
def best_gap(residual2, codes, correlations, m, largest):
    """Primal value, and the smallest duality gap over the dual points s·r that are feasible: theory.md T1.

    For r = x − zD the gap at scale s is ½(1−s)²‖r‖² + Σ z_k (1 − s d_k·r): terms that are not negative as
    long as s·largest ≤ 1, ``largest`` ≥ max_k d_k·r. It is a parabola in s with its minimum at
    x·r/‖r‖² = 1 + Σ z_k d_k·r/‖r‖², so the best feasible s is that, clipped to [0, 1/largest].
    """
    mass, work = 0.0, 0.0
    for k in range(m):
        mass += codes[k]
        work += codes[k] * correlations[k]
    primal = 0.5 * residual2 + mass
    scale = 1.0 / largest
    if residual2 > 0:
        scale = max(0.0, min(scale, 1.0 + work / residual2))
    gap = 0.5 * (1.0 - scale) ** 2 * residual2
    for k in range(m):
        gap += codes[k] * max(0.0, 1.0 - scale * correlations[k])
    return primal, gap, mass, scale


@jit()
def _rounding(residual2, mass, m, scale, dot_error):
    """What rounding in float64 can add to the gap: the residual, its correlations and the sums.

    The dual point is s times the residual r *as computed*, so nothing is asked of its feasibility but its own
    correlations. For x − zD = r + δ the gap is ½‖(1−s)r + δ‖² + Σ z_k (1 − s d_k·r).
    """
    norm = np.sqrt(residual2)
    drift = (m + 8) * 1.2e-16 * (norm + 2.0 * mass)  # ‖computed r − (x − zD)‖, and x − b, x/λ rounded once each
    return (1.0 + scale) * norm * drift + 0.5 * drift * drift + mass * (dot_error * norm + 5e-16)


@jit()
def _value_of(bits, shift):
    """Read screened bits as the float they are."""
    return np.float64(np.int32(np.int64(bits) << shift).view(np.float32))


@jit()
def _group_maxima(bits, row, K, maxima):
    """Write the maximum of every group of correlations; return the overall one.

    Group g of G holds the atoms g, g + G, g + 2G, ...: neighbours fall into different groups, and the maxima of all
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
def _select_exact(found, exact_values, n, p, selected, selected_values):
    """Choose the p largest of n exactly known violators."""
    order = np.argsort(-exact_values[:n])
    chosen = min(p, n)
    for t in range(chosen):
        selected[t] = found[order[t]]
        selected_values[t] = exact_values[order[t]]
    return chosen


@jit()
def _recheck(bits, row, K, maxima, threshold, r, d, exact, found, exact_values):
    """Exact correlations of every atom that screening could not place below the penalty.

    Returns the number of violators listed, the largest correlation found and the number recomputed.
    """
    listed, rechecked, largest = 0, 0, -np.inf
    waiting = np.zeros(4, np.int64)
    pending = 0
    for g in range(maxima.shape[0]):
        if maxima[g] <= threshold:
            continue
        for k in range(g, K, maxima.shape[0]):
            value = bits[U(row + k)]
            if value > threshold and value != IN_SET:
                waiting[pending] = k
                pending += 1
                if pending == 4:
                    listed, largest = _recompute(waiting, pending, r, d, exact, found, exact_values, listed, largest)
                    rechecked, pending = rechecked + 4, 0
    if pending > 0:
        listed, largest = _recompute(waiting, pending, r, d, exact, found, exact_values, listed, largest)
    return listed, largest, rechecked + pending


@jit()
def _recompute(waiting, pending, r, d, exact, found, exact_values, listed, largest):
    values = dots_of_four(exact, waiting[0], waiting[1], waiting[2], waiting[3], r, d)
    for t in range(pending):
        value = values[t]
        largest = max(largest, value)
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
        norms[a] = np.sqrt(total) * (1 + 1e-12)
        errors[a, 0], errors[a, 1] = np.sqrt(lost_single) * (1 + 1e-12), np.sqrt(lost_half) * (1 + 1e-12)


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
    value *= 1.0 - 1e-6  # float32 rounds to nearest: stay below
    return np.int64(np.float32(value).view(np.int32)) >> shift if value > 0 else np.int64(-(2**31))


@jit()
def _settle(
    data, i, d, exact, members, z, m, r, c, residual, grams, held_size, known, tol, refinements, pivot_floor,
    support, held, L, y,
):  # fmt: skip
    """Replace the float32 residual of a datapoint by the float64 one, correct its codes, and return how far it moved.

    The factor of the support is made only if the codes need correcting.
    """
    refresh(data, i * d, d, exact, members, z, m, r, c)
    n, width = 0, 0
    if refinements > 0 and known == m and _gap(r, d, z, c, m) > NEAR * tol:
        n, width, spare = factor(grams[i * held_size : i * held_size + m * m], m, m, z, support, held, L, pivot_floor)
        n = n if spare == n else 0
    if n > 0:
        _refine(data, i * d, d, exact, members, z, m, r, c, tol, refinements, support, held, n, width, L, y)
    moved = 0.0
    for j in range(U(d)):
        moved += (residual[U(i * d) + j] - r[j]) ** 2
        residual[U(i * d) + j] = r[j]
    return np.sqrt(moved) * (1 + 1e-9)


@jit()
def screen(
    active, bits, K, threshold, margin, low_factor, one, shift, data, residual, settled, d, exact, chosen, codes,
    correlations, count, grams, held_size, known, tol, refinements, pivot_floor, room, dot_error, selected,
    selected_values, n_selected, values, gaps, done, rechecks,
):  # fmt: skip
    """Certify each active datapoint, or select the atoms that enter its working set.

    ``bits (B · K,)`` holds the computed correlations; atom k of row a is provably below the penalty when the computed
    one is ≤ ``threshold[a]``, and its true correlation is at least ``low_factor · computed − margin[a]``.
    All others are recomputed in float64 before anything is certified. A residual that is not ``settled`` is one in
    float32: it may select atoms; before anything else it is replaced by that of the codes in float64, and the threshold
    falls by how far it moved.
    """
    capacity = chosen.shape[1] + 16
    side = int(np.sqrt(held_size)) + 16
    support, held = np.empty(side, np.int64), np.empty(side, np.bool_)
    L, y, members = np.empty(side * side, grams.dtype), np.empty(side, grams.dtype), np.empty(capacity, np.int64)
    maxima = np.empty((K + GROUP - 1) // GROUP, bits.dtype)
    found = np.empty(LIST, np.int32)
    found_bits = np.empty(LIST, bits.dtype)
    found_values = np.empty(LIST, np.float64)
    r, z, c = np.empty(d), np.empty(capacity), np.empty(capacity)
    for a in range(active.shape[0]):
        i, row = active[a], a * K
        m = count[i]
        for j in range(U(d)):
            r[j] = residual[U(i * d) + j]
        residual2 = square(r, d)
        largest = 1.0
        for k in range(m):
            z[k], c[k] = codes[i, k], correlations[i, k]
            largest = max(largest, c[k])
            bits[U(row + chosen[i, k])] = IN_SET
        top = _group_maxima(bits, row, K, maxima)
        certain = low_factor * _value_of(top, shift) - margin[a] if top > 0 else 0.0
        primal, gap, mass, scale = best_gap(residual2, z, c, m, max(largest, certain))
        if certain > 1.0 and gap > tol * primal and room[a] > 0:
            # No dual point along r can certify these codes, whatever the exact correlations are.
            n_selected[a] = _select_by_bits(bits, row, K, maxima, top, one, room[a], selected[a], found, found_bits)
            selected_values[a, : n_selected[a]] = np.nan
            values[a], gaps[a], done[a], rechecks[a] = primal, np.inf, False, 0
            continue
        moved = 0.0
        if not settled[i]:
            for k in range(m):
                members[k] = chosen[i, k]
            moved = _settle(data, i, d, exact, members, z, m, r, c, residual, grams, held_size, known[i], tol,
                            refinements, pivot_floor, support, held, L, y)  # fmt: skip
            settled[i] = True
            residual2, largest = square(r, d), 1.0
            for k in range(m):
                codes[i, k], correlations[i, k] = z[k], c[k]
                largest = max(largest, c[k])
        limit = _bits_below(threshold[a] - moved * low_factor, shift)
        listed, outside, rechecks[a] = _recheck(bits, row, K, maxima, limit, r, d, exact, found, found_values)
        largest = max(largest, outside) + dot_error * np.sqrt(residual2)
        primal, gap, mass, scale = best_gap(residual2, z, c, m, largest)
        gap += _rounding(residual2, mass, m, scale, dot_error)
        values[a], gaps[a], done[a] = primal, gap, gap <= tol * primal
        n_selected[a] = 0
        if not done[a]:
            n_selected[a] = _select_exact(found, found_values, listed, room[a], selected[a], selected_values[a])


@jit(fastmath=REORDER)
def _gather(rows, place, atoms, atom, d, r):
    """Copy an atom to a row of the working set; its product with r in the working precision."""
    to, of = U(place), U(atom * d)
    total = rows.dtype.type(0)
    for j in range(U(d)):
        value = atoms[of + j]
        rows[to + j] = value
        total += value * r[j]
    return total


@jit()
def _copy_square(source, start, row, target, first, stride, size):
    """Copy a square of numbers from rows of one length to rows of another."""
    for p in range(size):
        of, to = U(start + p * row), U(first + p * stride)
        for k in range(U(size)):
            target[to + k] = source[of + k]


@jit()
def _look_up(table, n_atoms, members, known, m, G, stride):
    """Inner products of the first m members from a table, zeros after; those of the first ``known`` are there."""
    for p in range(known, m):
        row, place = U(members[p] * n_atoms), U(p * stride)
        for k in range(p + 1):
            value = table[row + U(members[k])]
            G[place + U(k)], G[U(k * stride + p)] = value, value
    for p in range(m):
        for k in range(m, stride):
            G[U(p * stride + k)] = 0.0


@jit()
def solve(
    active, selected, selected_values, n_selected, data, residual, settled, d, atoms, exact, table, chosen, codes,
    correlations, count, grams, held_size, known, tol, floor, pivot_floor, refinements, hasty,
):  # fmt: skip
    """Solve the working set of each active datapoint, drop its zero codes and recompute its residual from scratch.

    ``table (K²,)`` holds the inner products of all atoms, or nothing. ``grams (n · held_size,)`` keeps the inner
    products of the atoms that stay, ``known (n,)`` their number. If
    ``hasty``, the residual is computed in float32 from the rows at hand and marked as not ``settled``: that is enough
    to choose the next atoms, and what is certified is settled first.
    """
    capacity = chosen.shape[1] + 16
    length = (d + LANES - 1) // LANES * LANES  # of a row, zeros after d
    n_atoms = len(exact) // d
    rows = np.zeros(capacity * length, atoms.dtype)
    G, L = np.empty(capacity * capacity, atoms.dtype), np.empty(capacity * capacity, atoms.dtype)
    work = np.zeros(length, atoms.dtype)
    q, z, y, trial = (np.zeros(capacity, atoms.dtype), np.zeros(capacity, atoms.dtype),
                      np.zeros(capacity, atoms.dtype), np.zeros(capacity, atoms.dtype))  # fmt: skip
    support, held = np.empty(capacity, np.int64), np.empty(capacity, np.bool_)
    members, exact_codes, exact_correlations, r = (
        np.empty(capacity, np.int64),
        np.zeros(capacity),
        np.zeros(capacity),
        np.empty(d),
    )
    for a in range(active.shape[0]):
        i = active[a]
        m = count[i]
        for j in range(U(d)):
            work[j] = residual[U(i * d) + j]
        for k in range(m):
            members[k] = chosen[i, k]
            product = _gather(rows, k * length, atoms, members[k], d, work)
            z[k], q[k] = codes[i, k], (correlations[i, k] if settled[i] else product) - 1.0
        for t in range(n_selected[a]):
            members[m], z[m] = selected[a, t], 0.0
            product = _gather(rows, m * length, atoms, members[m], d, work)
            value = selected_values[a, t]
            q[m] = (product if np.isnan(value) else value) - 1.0
            m += 1
        if m == 0:
            continue
        stride = (m + LANES - 1) // LANES * LANES
        for k in range(m, stride):
            z[k], q[k] = 0.0, 0.0
        if known[i] != count[i]:
            known[i] = 0
        _copy_square(grams, i * held_size, known[i], G, 0, stride, known[i])
        if len(table) > 0:
            _look_up(table, n_atoms, members, known[i], m, G, stride)
        else:
            gram(rows, known[i], m, length, G, stride)
        n, width = minimise(G, stride, q, z, m, floor, support, held, L, y, trial, pivot_floor)
        positive = 0
        for k in range(m):
            exact_codes[k], exact_correlations[k] = z[k], 1.0 + q[k]
            positive += z[k] > 0
        settled[i] = not (hasty and positive * positive <= held_size)
        if settled[i]:
            _refine(data, i * d, d, exact, members, exact_codes, m, r, exact_correlations, tol, refinements,
                    support, held, n, width, L, y)  # fmt: skip
        else:
            _residual_of_rows(data, i * d, d, rows, length, z, m, work, r)
        for j in range(U(d)):
            residual[U(i * d) + j] = r[j]
        kept = 0
        for k in range(m):
            if exact_codes[k] > 0:
                support[kept] = k
                chosen[i, kept], codes[i, kept], correlations[i, kept] = (
                    members[k],
                    exact_codes[k],
                    exact_correlations[k],
                )
                kept += 1
        count[i] = kept
        known[i] = kept if kept * kept <= held_size else 0
        for p in range(known[i]):
            to, of = U(i * held_size + p * kept), U(support[p] * stride)
            for k in range(U(kept)):
                grams[to + k] = G[of + U(support[k])]


@jit()
def _gap(r, d, codes, correlations, m):
    """Duality gap of the working set alone, relative to the value."""
    largest = 1.0
    for k in range(m):
        if codes[k] > 0:
            largest = max(largest, correlations[k])
    primal, gap, _, _ = best_gap(square(r, d), codes, correlations, m, largest)
    return gap / primal if primal > 0 else 0.0


@jit()
def _residual_of_rows(data, offset, d, rows, length, z, m, work, r):
    """Residual in the precision of the rows."""
    for j in range(U(d)):
        work[j] = data[U(offset) + j]
    for k in range(m):
        if z[k] > 0:
            eliminate(work, 0, rows, k * length, length, length, (z[k],))
    for j in range(U(d)):
        r[j] = work[j]


@jit()
def _refine(
    data, offset, d, exact, members, codes, m, r, correlations, tol, refinements, support, held, n, width, L, y
):  # fmt: skip
    """Recompute the residual in float64 and correct the codes by the factor at hand until the working set is solved."""
    before = np.inf
    for attempt in range(refinements + 1):
        refresh(data, offset, d, exact, members, codes, m, r, correlations)
        if n == 0 or attempt == refinements:
            return
        gap = _gap(r, d, codes, correlations, m)
        if gap <= NEAR * tol or gap > 0.5 * before:
            return
        before = gap
        for t in range(n):
            y[t] = correlations[support[t]] - 1.0
        solve_factored(L, n, width, held, y)
        for t in range(n):
            if codes[support[t]] + y[t] <= 0:  # the support changes: leave that to the next round
                return
        for t in range(n):
            codes[support[t]] += y[t]


@jit()
def restore(active, data, residual, d, exact, chosen, codes, correlations, count):
    """Residuals and correlations of codes that came from outside."""
    capacity = chosen.shape[1] + 4
    members, z, c, r = np.empty(capacity, np.int64), np.zeros(capacity), np.zeros(capacity), np.empty(d)
    for a in range(active.shape[0]):
        i = active[a]
        for k in range(count[i]):
            members[k], z[k] = chosen[i, k], codes[i, k]
        refresh(data, i * d, d, exact, members, z, count[i], r, c)
        for k in range(count[i]):
            correlations[i, k] = c[k]
        for j in range(d):
            residual[U(i * d + j)] = r[j]
