"""Kernels for nonnegative least squares on known supports, one datapoint after another.

Everything is float64: a support has tens of atoms, so its inner products and their factor cost less than the choice of
the support did, and one correction by the factor reaches rounding.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import U, jit
from cvxsae.solvers.codes.engines.cpu_factor import Factor, factor, solve_factored
from cvxsae.solvers.codes.engines.cpu_kernels import System, gram, minimize, refresh, square
from cvxsae.solvers.codes.engines.cpu_vectors import LANES

LARGEST, CROWDED = 1024, 2
"""Atoms at most of a support that is solved here, 8 MB of inner products, and for every dimension: where many times as
many are in the span of few, each is traded against them alone."""

PIVOT_FLOOR = 1e-11
"""Squared distance from the span of others below which an atom is taken to lie in it: rounding, with room."""

STEPS = 12
"""Solutions and corrections at most; two or three are usual."""

SHARE = 1e-6
"""Share of the violation that a solution may leave to the next one."""

SETTLED = 1e-15
"""Violation, relative to ‖x‖, that another correction would not lower: some units of rounding."""


class Supports(NamedTuple):
    """Compressed rows: those of datapoint i are at ``indptr[i] : indptr[i + 1]`` of ``indices`` and ``codes``."""

    indptr: np.ndarray
    indices: np.ndarray
    codes: np.ndarray


@jit()
def _most(indptr):
    most = 0
    for i in range(len(indptr) - 1):
        most = max(most, indptr[i + 1] - indptr[i])
    return most


@jit()
def _violation(z, c, m):
    """Largest violation of ``z ≥ 0, c ≤ 0, z c = 0`` by codes that are not negative."""
    worst = 0.0
    for k in range(m):
        worst = max(worst, abs(c[k]) if z[k] > 0 else c[k])
    return worst


@jit()
def _correct(c, z, m, room, n, width):
    """Step to the minimum on the support, unless another atom asks to enter it or a code would reach zero."""
    support, held, L, y, work = room
    if n == 0:
        return False
    largest = 0.0
    for t in range(n):
        y[t] = c[support[t]]
        largest = max(largest, abs(y[t]))
    for k in range(m):
        if z[k] <= 0 and c[k] > SHARE * largest:
            return False
    solve_factored(L, n, width, held, y, work)
    for t in range(n):
        if z[support[t]] + y[t] <= 0:
            return False
    for t in range(n):
        z[support[t]] += y[t]
    return True


@jit()
def refit(data, d, atoms, supports, solved, rounding):
    """Least squares over z ≥ 0 on each support, from the codes at hand, which are overwritten; where it is ``solved``.

    ``data`` and ``atoms`` are flat; atoms have norm 1. Solved are rows whose conditions hold up to ``rounding``,
    relative to the norm of the datapoint, for the codes that are returned. Codes of the others are left as they were.
    """
    indptr, indices, codes = supports
    most = _most(indptr)
    capacity = (min(most, LARGEST) + 2 * LANES) // LANES * LANES
    length = (d + LANES - 1) // LANES * LANES
    rows = np.zeros(capacity * length)
    G, L = np.empty(capacity * capacity), np.empty(capacity * capacity)
    q, z, c, y, trial = (
        np.zeros(capacity),
        np.zeros(capacity),
        np.zeros(capacity),
        np.zeros(capacity),
        np.zeros(capacity),
    )
    members, r = np.empty(capacity, np.int64), np.empty(d)
    system = System(G, q, z)
    room = Factor(np.empty(capacity, np.int64), np.empty(capacity, np.bool_), L, y, trial)
    for i in range(len(indptr) - 1):
        first, m = indptr[i], indptr[i + 1] - indptr[i]
        solved[i] = m == 0
        if m == 0 or m > min(LARGEST, CROWDED * d):
            continue
        for j in range(U(d)):
            r[j] = data[U(i * d) + j]
        total = np.sqrt(square(r, d))
        for k in range(m):
            members[k], z[k] = indices[first + k], max(0.0, codes[first + k])
            to, of = U(k * length), U(members[k] * d)
            for j in range(U(d)):
                rows[to + j] = atoms[of + j]
        stride = (m + LANES - 1) // LANES * LANES
        for k in range(m, stride):
            z[k] = 0.0
        gram(rows, 0, m, length, G, stride)
        n, width, spare = factor(G, stride, m, z, room, PIVOT_FLOOR)
        n = n if spare == n else 0
        before, solved[i] = np.inf, False
        for _ in range(STEPS):
            refresh(data, i * d, d, atoms, members, z, m, r, c, None)
            worst = _violation(z, c, m)
            if not worst + total < np.inf:
                break
            if worst <= SETTLED * total or (worst <= rounding * total and worst > 0.5 * before):
                solved[i] = True
                break
            before = worst
            if _correct(c, z, m, room, n, width):
                continue
            for k in range(stride):
                q[k] = c[k] if k < m else 0.0
            n, width = minimize(system, stride, m, SHARE * worst, room, PIVOT_FLOOR, False)
        if solved[i]:
            for k in range(m):
                codes[first + k] = z[k]


@jit()
def judge(data, d, atoms, supports, stationarity, sums):
    """What remains of ``z ≥ 0, d_k·r ≤ 0, z_k d_k·r = 0`` relative to ‖x‖, and ‖r‖², ‖x̂‖², x̂·x of every datapoint."""
    indptr, indices, codes = supports
    capacity = _most(indptr) + 4
    z, c, members, r = np.zeros(capacity), np.zeros(capacity), np.zeros(capacity, np.int64), np.empty(d)
    for i in range(len(indptr) - 1):
        first, m = indptr[i], indptr[i + 1] - indptr[i]
        for k in range(m):
            members[k], z[k] = indices[first + k], codes[first + k]
        refresh(data, i * d, d, atoms, members, z, m, r, c, None)
        total, fitted, cross = 0.0, 0.0, 0.0
        for j in range(d):
            x = data[U(i * d + j)]
            total += x * x
            fitted += (x - r[j]) ** 2
            cross += (x - r[j]) * x
        worst = _violation(z, c, m)
        for k in range(m):
            worst = max(worst, -z[k])
        stationarity[i] = worst / np.sqrt(total) if total > 0 else 0.0
        sums[i, 0], sums[i, 1], sums[i, 2] = square(r, d), fitted, cross
