"""The kernel that solves the working sets of one datapoint after another, with all of a datapoint's data in cache.

Units and conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import U, jit
from cvxsae.solvers.codes.engines.cpu_certificate import Member, refine
from cvxsae.solvers.codes.engines.cpu_factor import Factor, subtract_rows, triangle
from cvxsae.solvers.codes.engines.cpu_kernels import System, gram, minimize, refresh, share_of, weight_of
from cvxsae.solvers.codes.engines.cpu_vectors import LANES, take

AHEAD = 2
"""Rows by which an atom is asked for before it is copied: about as many as are on their way at once."""


class Atoms(NamedTuple):
    """The dictionary, flat: in the working precision, in float64, and the inner products of all atoms or nothing."""

    working: np.ndarray
    exact: np.ndarray
    table: np.ndarray


@jit()
def _gather(rows, place, atoms, atom, following, d, r):
    """Copy an atom to a row of the working set; its product with r in the working precision."""
    whole = d // LANES * LANES
    total = rows.dtype.type(0)
    if whole > 0:
        total = take(rows, place, atoms, atom * d, following * d, whole, r)
    for j in range(U(whole), U(d)):
        value = atoms[U(atom * d) + j]
        rows[U(place) + j] = value
        total += value * r[j]
    return total


@jit()
def _unpack(packed, start, size, G, stride):
    """Copy a square of numbers from where its lower triangle is kept."""
    of = U(start)
    for k in range(U(size)):
        to = k * U(stride)
        for p in range(k + U(1)):
            G[to + p] = packed[of + p]
        of += k + U(1)
        at = of + k
        for p in range(k + U(1), U(size)):
            G[to + p] = packed[at]
            at += p + U(1)


@jit()
def _pack(G, stride, kept, size, packed, start):
    """Keep the lower triangle of the square of chosen places."""
    to = U(start)
    for p in range(U(size)):
        of = U(kept[p] * stride)
        for k in range(p + U(1)):
            packed[to + k] = G[of + U(kept[k])]
        to += p + U(1)


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
def solve(active, selected, block, atoms, rules, prices):
    """Solve the working set of each active datapoint, drop its zero codes and recompute its residual from scratch.

    The inner products of the atoms that stay are kept for the next round. If ``hasty``, the residual is computed in
    float32 from the rows at hand and marked as not ``settled``: that is enough to choose the next atoms, and what is
    certified is settled first.
    """
    d, data, residual, settled, chosen, codes, correlations, count, grams, gram_room, known = block
    working, exact, table = atoms
    entering, entering_correlations, n_entering = selected
    kind = working.dtype
    capacity = 0
    for a in range(active.shape[0]):
        capacity = max(capacity, count[active[a]] + n_entering[a])
    capacity = (
        (capacity + 2 * LANES) // LANES * LANES
    )  # whole vectors; no more, or fresh pages would cost more than work
    length = (d + LANES - 1) // LANES * LANES  # of a row, zeros after d
    n_atoms = len(exact) // d
    rows, work = np.zeros(capacity * length, kind), np.zeros(length, kind)
    G, L = np.empty(capacity * capacity, kind), np.empty(capacity * capacity, kind)
    q, z, y, trial = (
        np.zeros(capacity, kind),
        np.zeros(capacity, kind),
        np.zeros(capacity, kind),
        np.zeros(capacity, kind),
    )
    support, held = np.empty(capacity, np.int64), np.empty(capacity, np.bool_)
    members, r = np.empty(capacity, np.int64), np.empty(d)
    exact_codes, exact_correlations = np.zeros(capacity), np.zeros(capacity)
    system, room = System(G, q, z), Factor(support, held, L, y, trial)
    member = Member(members, exact_codes, exact_correlations, r)
    for a in range(active.shape[0]):
        i = active[a]
        m = count[i]
        least = 1.0 if prices is None else np.inf
        for j in range(U(d)):
            work[j] = residual[U(i * d) + j]
        for k in range(m):
            members[k] = chosen[i, k]
        for t in range(n_entering[a]):
            members[m + t] = entering[a, t]
        last = m + n_entering[a] - 1
        for k in range(m):
            product = _gather(rows, k * length, working, members[k], members[min(k + AHEAD, last)], d, work)
            if not settled[i]:
                correlations[i, k] = product - share_of(prices, members[k]) * codes[i, k]
            z[k], q[k] = codes[i, k], correlations[i, k] - weight_of(prices, members[k])
        for t in range(n_entering[a]):
            z[m] = 0.0
            product = _gather(rows, m * length, working, members[m], members[min(m + AHEAD, last)], d, work)
            value = entering_correlations[a, t]
            q[m] = (product if np.isnan(value) else value) - weight_of(prices, members[m])
            m += 1
        if m == 0:
            continue
        stride = (m + LANES - 1) // LANES * LANES
        for k in range(m, stride):
            z[k], q[k] = 0.0, 0.0
        if known[i] != count[i]:
            known[i] = 0
        if prices is not None and not rules.hasty:  # in float64: those that are kept are rounded to float32
            known[i] = 0
        _unpack(grams, i * gram_room, known[i], G, stride)
        if len(table) > 0:
            _look_up(table, n_atoms, members, known[i], m, G, stride)
        else:
            gram(rows, known[i], m, length, G, stride)
        if prices is not None:
            for k in range(m):
                G[U(k * stride + k)] = 1.0
                least = min(least, prices.weights[members[k]])
        n, width = minimize(system, stride, m, rules.floor * least, room, rules.pivot_floor, prices is not None)
        positive = 0
        for k in range(m):
            exact_codes[k], exact_correlations[k] = z[k], weight_of(prices, members[k]) + q[k]
            positive += z[k] > 0
        settled[i] = not (rules.hasty and triangle(positive) <= gram_room)
        if settled[i]:
            refine(block, i, exact, member, m, rules, room, n, width, prices)
        else:
            _residual_of_rows(data, i * d, d, rows, length, z, m, work, room, r)
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
        known[i] = kept if triangle(kept) <= gram_room else 0
        _pack(G, stride, support, known[i], grams, i * gram_room)


@jit()
def _residual_of_rows(data, offset, d, rows, length, z, m, work, room, r):
    """Residual in the precision of the rows."""
    support, _, _, y, _ = room
    for j in range(U(d)):
        work[j] = data[U(offset) + j]
    n = 0
    for k in range(m):
        if z[k] > 0:
            support[n], y[n] = k, z[k]
            n += 1
    subtract_rows(work, rows, length, support, n, y)
    for j in range(U(d)):
        r[j] = work[j]


@jit()
def restore(active, block, exact, prices):
    """Residuals and correlations of codes that came from outside."""
    d, data, residual, _, chosen, codes, correlations, count, _, _, _ = block
    capacity = chosen.shape[1] + 4  # ``refresh`` writes three places more
    members, z, c, r = np.empty(capacity, np.int64), np.zeros(capacity), np.zeros(capacity), np.empty(d)
    for a in range(active.shape[0]):
        i = active[a]
        for k in range(count[i]):
            members[k], z[k] = chosen[i, k], codes[i, k]
        refresh(data, i * d, d, exact, members, z, count[i], r, c, prices)
        for k in range(count[i]):
            correlations[i, k] = c[k]
        for j in range(d):
            residual[U(i * d + j)] = r[j]
