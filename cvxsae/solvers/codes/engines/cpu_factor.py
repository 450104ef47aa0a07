"""Cholesky factors of the Gram matrix of a support, in panels of four rows and whole vectors.

Some functions are inlined where they are called: for a few atoms a call takes as long as the work.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit
from cvxsae.solvers.codes.engines.cpu_vectors import LANES, dots, eliminate, scale


class Factor(NamedTuple):
    """Room for the factor L of a support, its atoms (``held``: in the span of those before) and two directions."""

    support: np.ndarray
    held: np.ndarray
    L: np.ndarray
    y: np.ndarray
    trial: np.ndarray


@jit()
def triangle(n):
    """Entries of a lower triangle with its diagonal."""
    return n * (n + 1) // 2


@jit(inline="always")
def _choose(m, z, support, held):
    """List the support {z > 0}; its size, and that in whole chunks."""
    n = 0
    for k in range(m):
        if z[k] > 0:
            support[n], held[n] = k, False
            n += 1
    return n, (n + LANES - 1) // LANES * LANES


@jit()
def factor(G, stride, m, z, room, pivot_floor):
    """Cholesky factor Lᵀ, by rows, of the Gram matrix of the support {z > 0}.

    An atom in the span of those before it gets the row and column of the identity and is ``held``: it keeps its code.
    Returns the size n, the row length, and the place of the first atom that is held (n if none is).
    """
    support, held, L, _, _ = room
    n, width = _choose(m, z, support, held)
    for i in range(n):
        of, to = U(support[i] * stride), U(i * width)
        for j in range(U(i // LANES * LANES), U(n)):
            L[to + j] = G[of + U(support[j])]
        for j in range(U(n), U(width)):
            L[to + j] = 0.0
    return n, width, _decompose(n, width, held, L, pivot_floor)


@jit()
def factor_packed(packed, start, m, z, room, pivot_floor):
    """The same of a Gram matrix whose lower triangle is kept row by row from a place of ``packed`` on."""
    support, held, L, _, _ = room
    n, width = _choose(m, z, support, held)
    for i in range(n):
        to = U(i * width)
        for j in range(U(i // LANES * LANES), U(width)):
            L[to + j] = 0.0
        for j in range(i, n):
            k = support[j]
            L[to + U(j)] = packed[U(start + triangle(k) + support[i])]
    return n, width, _decompose(n, width, held, L, pivot_floor)


@jit(inline="always")
def _decompose(n, width, held, L, pivot_floor):
    spare = n
    for panel in range(0, n, 4):
        end = min(panel + 4, n)
        for k in range(panel, end):
            row = k * width
            start = k // LANES * LANES
            if L[U(row + k)] <= pivot_floor:
                held[k] = True
                spare = min(spare, k)
                for j in range(k + 1, width):
                    L[U(row + j)] = 0.0
                for i in range(k):
                    L[U(i * width + k)] = 0.0
                L[U(row + k)] = 1.0
                continue
            scale(L, row + start, width - start, L.dtype.type(1) / np.sqrt(L[U(row + k)]))
            for i in range(k + 1, end):
                eliminate(L, i * width + start, L, (row + start,), width - start, (L[U(row + i)],))
        first = panel * width
        for i in range(end, n):
            start = i // LANES * LANES
            factors = L[U(first + i)], L[U(first + width + i)], L[U(first + 2 * width + i)], L[U(first + 3 * width + i)]
            eliminate(L, i * width + start, L, _four(first + start, width), width - start, factors)
    return spare


@jit(inline="always")
def solve_factored(L, n, width, held, y, work):
    """Solve L Lᵀ y = y in place; 0 for the atoms that are held. ``y`` and ``work`` have room for whole chunks."""
    if n <= LANES:
        _solve_short(L, n, width, held, y)
    else:
        _solve_long(L, n, width, held, y, work)


@jit(fastmath=REORDER)
def _solve_short(L, n, width, held, y):
    """One number at a time: vectors would wait for the numbers that were just written to them."""
    for k in range(U(n)):
        row = k * U(width)
        y[k] = 0.0 if held[k] else y[k] / L[row + k]
        value = y[k]
        for t in range(k + U(1), U(n)):
            y[t] -= value * L[row + t]
    for back in range(U(n)):
        last = U(n) - U(1) - back
        row = last * U(width)
        total = y[last]
        for t in range(last + U(1), U(n)):
            total -= L[row + t] * y[t]
        y[last] = total / L[row + last]


@jit()
def _solve_long(L, n, width, held, y, work):
    """Four rows at a time.

    What L holds below its diagonal meets zeros of y, or entries of y that are not read again.
    """
    for k in range(n, width):
        y[k] = 0.0
    for panel in range(0, n, 4):
        end = min(panel + 4, n)
        for k in range(panel, end):
            row = k * width
            work[k] = 0.0 if held[k] else y[k] / L[U(row + k)]
            for t in range(k + 1, end):
                y[t] -= work[k] * L[U(row + t)]
        if end < n:
            start = end // LANES * LANES
            factors = work[panel], work[panel + 1], work[panel + 2], work[panel + 3]
            eliminate(y, start, L, _four(panel * width + start, width), width - start, factors)
    for k in range(width):
        y[k] = 0.0
    for panel in range((n - 1) // 4 * 4, -1, -4):
        end = min(panel + 4, n)
        if end < n:
            start = end // LANES * LANES
            s0, s1, s2, s3 = dots(L, _four(panel * width + start, width), y, start, width - start)
            work[panel] -= s0
            work[panel + 1] -= s1
            work[panel + 2] -= s2
            work[panel + 3] -= s3
        for k in range(end - 1, panel - 1, -1):
            row = k * width
            for t in range(k + 1, end):
                work[k] -= L[U(row + t)] * y[t]
            y[k] = work[k] / L[U(row + k)]


@jit()
def _four(place, apart):
    return place, place + apart, place + 2 * apart, place + 3 * apart


@jit(inline="always")
def subtract_rows(target, rows, length, chosen, n, factors):
    """Subtract n of some rows, of whole chunks, each times its factor."""
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        places = chosen[i] * length, chosen[i + 1] * length, chosen[i + 2] * length, chosen[i + 3] * length
        eliminate(target, 0, rows, places, length, (factors[i], factors[i + 1], factors[i + 2], factors[i + 3]))
    for i in range(whole, n):
        eliminate(target, 0, rows, (chosen[i] * length,), length, (factors[i],))
