"""The fused CPU kernels: for one datapoint after another, screen its correlations and solve its working set.

Everything is in units of λ: the datapoint is ``(x − b)/λ``, the penalty is 1 and the polyhedron of
theory.md (1) is ``{r : D r ≤ 1}``. Codes, residuals and every number of a certificate are float64;
correlations that only *screen* are read as the integer bits of bfloat16 or float32 (nonnegative
floats and their bits have the same order); the small systems are solved in the precision of the
``atoms`` passed in, with the float64 residual as iterative refinement.

The kernels release the interpreter lock and start no threads of their own. Arrays are flat and indices unsigned
on purpose: a signed index carries a branch for Python's negative ones, and a row view a reference count; either
keeps the compiler from using vector instructions.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit
from cvxsae.solvers.codes.engines.cpu_factor import factor, solve_factored, subtract_rows
from cvxsae.solvers.codes.engines.cpu_vectors import eliminate, tile, update_and_rank

BLOCK = 64
"""Numbers summed in any order, before their sums are added up in a given one: bounds the error of a product of rows."""

FIRST_DESCENT = 0.03
"""Share of the largest projected gradient at which coordinate descent hands over to a Newton step: it is to find the
support, which more precision does not change."""

PAST_ZERO = 1.000001
"""A step stopped by a code that reaches zero takes with it every code within this factor of doing so: it would be left
at the size of rounding."""

ROUNDING_FLOOR = 8
"""Machine epsilons of the largest gradient below which no gradient is known any better."""


class KernelPrices(NamedTuple):
    """Weights and ridge for kernels, as in :mod:`cvxsae.solvers.codes.engines.prices`: ω, σ, 1/w and its largest.

    Kernels take None for the plain penalty. Numba compiles them apart then, without the branches of the other case.
    """

    weights: np.ndarray
    shares: np.ndarray
    reach: np.ndarray
    widest: float


@jit()
def weight_of(prices, k):
    """ω of an atom."""
    if prices is None:
        return 1.0
    return prices.weights[k]


@jit()
def share_of(prices, k):
    """σ of an atom."""
    if prices is None:
        return 0.0
    return prices.shares[k]


class System(NamedTuple):
    """The small problem ``max q·δ − ½ δᵀGδ, z + δ ≥ 0`` of one datapoint: Gram matrix, gradient and codes."""

    G: np.ndarray
    q: np.ndarray
    z: np.ndarray


@jit(fastmath=REORDER)
def _block_of_four(a, a0, a1, a2, a3, r, start, stop):
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for j in range(U(start), U(stop)):
        value = r[j]
        s0 += a[a0 + j] * value
        s1 += a[a1 + j] * value
        s2 += a[a2 + j] * value
        s3 += a[a3 + j] * value
    return s0, s1, s2, s3


@jit()
def dots_of_four(atoms, k0, k1, k2, k3, r, d):
    """Float64 products of four atoms with r, in blocks of 64: each is off by at most (66 + d/64) 2⁻⁵³ ‖d_k‖‖r‖."""
    a0, a1, a2, a3 = U(k0 * d), U(k1 * d), U(k2 * d), U(k3 * d)
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, d, BLOCK):
        s0, s1, s2, s3 = _block_of_four(atoms, a0, a1, a2, a3, r, start, min(start + BLOCK, d))
        t0, t1, t2, t3 = t0 + s0, t1 + s1, t2 + s2, t3 + s3
    return t0, t1, t2, t3


@jit(fastmath=REORDER)
def _block_square(r, start, stop):
    total = 0.0
    for j in range(U(start), U(stop)):
        total += r[j] * r[j]
    return total


@jit()
def square(r, d):
    """‖r‖², summed in blocks."""
    total = 0.0
    for start in range(0, d, BLOCK):
        total += _block_square(r, start, min(start + BLOCK, d))
    return total


@jit(fastmath=REORDER)
def _subtract_four(r, atoms, a0, a1, a2, a3, c0, c1, c2, c3, d):
    for j in range(U(d)):
        r[j] -= (c0 * atoms[a0 + j] + c1 * atoms[a1 + j]) + (c2 * atoms[a2 + j] + c3 * atoms[a3 + j])


@jit()
def refresh(data, offset, d, atoms, chosen, codes, m, r, correlations, prices):
    """Residual of the codes from scratch, and its exact correlations with the chosen atoms.

    ``chosen``, ``codes`` and ``correlations`` have three spare entries after m.
    """
    for j in range(U(d)):
        r[j] = data[U(offset) + j]
    for k in range(m, m + 3):
        chosen[k], codes[k] = chosen[0], 0.0
    for k in range(0, m, 4):
        _subtract_four(r, atoms, U(chosen[k] * d), U(chosen[k + 1] * d), U(chosen[k + 2] * d), U(chosen[k + 3] * d),
                       codes[k], codes[k + 1], codes[k + 2], codes[k + 3], d)  # fmt: skip
    for k in range(0, m, 4):
        correlations[k], correlations[k + 1], correlations[k + 2], correlations[k + 3] = dots_of_four(
            atoms, chosen[k], chosen[k + 1], chosen[k + 2], chosen[k + 3], r, d
        )
    if prices is not None:
        for k in range(m):
            correlations[k] -= prices.shares[chosen[k]] * codes[k]


@jit()
def gram(rows, known, m, d, G, stride):
    """Inner products of the first m rows, as rows of length ``stride`` in G (of whole chunks, at least m), zeros after.

    Those of the first ``known`` rows are in G already. ``rows`` has three spare rows after m.
    """
    for i in range(known // 4 * 4, m, 4):
        for j in range(0, i + 1, 4):
            tile(rows, i * d, j * d, d, G, stride, i, j)
    for i in range(m):
        for j in range(m, stride):
            G[U(i * stride + j)] = 0.0


@jit()
def low_bits(stride):
    """Ones for the bits that hold a place below ``stride``."""
    low = 15
    while low < stride - 1:
        low = 2 * low + 1
    return low


@jit()
def _largest(key, q, low):
    """Size of the projected gradient at the place that a key names."""
    return max(q.dtype.type(0), abs(q[key & low])) if key >= 0 else q.dtype.type(0)


@jit()
def descend(G, q, z, stride, floor, steps, key, low):
    """Steepest coordinate descent on the working set (unit atoms: a step is the gradient)."""
    for _ in range(steps):
        if _largest(key, q, low) <= floor:
            return
        k = U(key & low)
        step = max(q[k], -z[k])
        z[k] += step
        key = update_and_rank(q, z, G, np.int64(k) * stride, stride, step, low)


@jit()
def _move(G, stride, z, support, n, y, trial, length):
    """Turn the direction y into the step y·length kept within z ≥ 0, and apply it to the gradient ``trial``."""
    for i in range(n):
        code = z[support[i]]
        step = length * y[i]
        if code + step <= 0 or (length < 1 and y[i] < 0 and code <= -PAST_ZERO * step):
            step = -code
        y[i] = step
    subtract_rows(trial, G, stride, support, n, y)


@jit()
def _newton(system, stride, room, n, width):
    """Step to the minimum on the support, projected on z ≥ 0 if that lowers the objective, cut short otherwise.

    Returns True if no code had to stop at zero: then the minimum was reached.
    """
    G, q, z = system
    support, held, L, y, trial = room
    inside, length = True, 1.0
    for attempt in range(2):
        for i in range(n):
            y[i] = q[support[i]]
        solve_factored(L, n, width, held, y, trial)
        for i in range(n):
            code = z[support[i]]
            if code + y[i] <= 0:
                inside = False
                length = min(length, -code / y[i])
        for j in range(stride):
            trial[j] = q[j]
        _move(G, stride, z, support, n, y, trial, 1.0 if attempt == 0 else length)
        decrease = 0.0  # of the objective: ½ δ·(gradient before + gradient after)
        for i in range(n):
            decrease += y[i] * (q[support[i]] + trial[support[i]])
        if inside or decrease > 0:
            break
    for j in range(stride):
        q[j] = trial[j]
    for i in range(n):
        z[support[i]] += y[i]
    return inside


@jit()
def _exchange(system, stride, room, n, width, spare, apart):
    """Trade an atom in the span of others against them, downhill, until the trade or one of the codes runs out.

    Along v = (1 on the atom, −its coefficients on the others) the reconstruction hardly moves, so the objective is
    almost linear, and bounded below on z ≥ 0: downhill, some code reaches zero. That keeps supports independent.

    ``apart``: atoms after it may be independent of those before, as with a ridge many are. Their inner products with it
    belong to the system then, or its solution is not the coefficients.
    """
    G, q, z = system
    support, held, L, y, trial = room
    k = support[spare]
    for i in range(n):
        y[i] = G[U(support[i] * stride + k)] if i < spare or apart else 0.0
    solve_factored(L, n, width, held, y, trial)
    for i in range(n):
        y[i] = -y[i] if i < spare else 0.0
    y[spare] = 1.0
    slope, curvature = 0.0, 0.0
    for i in range(spare + 1):
        slope += y[i] * q[support[i]]
        curvature += y[i] * G[U(support[i] * stride + k)]
    direction = 1.0 if slope >= 0 else -1.0
    length = abs(slope) / curvature if curvature > 0 else np.inf
    for i in range(spare + 1):
        if direction * y[i] < 0:
            length = min(length, z[support[i]] / abs(y[i]))
    if length == np.inf:
        return
    for i in range(spare + 1):
        j = support[i]
        step = length * direction * y[i]
        if z[j] + step <= 0 or (step < 0 and z[j] <= -PAST_ZERO * step):
            step = -z[j]
        z[j] += step
        eliminate(q, 0, G, (j * stride,), stride, (q.dtype.type(step),))


@jit()
def minimize(system, stride, m, floor, room, pivot_floor, apart):
    """Solve the working set from (z, q): coordinate descent to find the support, Newton steps to finish on it.

    Returns the size and row length of the factor of the support (0 when none belongs to the returned codes). Every
    step lowers the objective, so it ends; the caps on cycles and descent steps (a few per atom) only guard against
    rounding.
    """
    G, q, z = system
    still = q.dtype.type(0)
    low = low_bits(stride)
    key = update_and_rank(q, z, G, 0, stride, still, low)
    best = _largest(key, q, low)
    floor = max(floor, ROUNDING_FLOOR * np.finfo(q.dtype).eps * best)
    for cycle in range(2 * m + 20):
        descend(G, q, z, stride, max(floor, FIRST_DESCENT * best), 2 * m if cycle == 0 else m // 4 + 8, key, low)
        n, width, spare = factor(G, stride, m, z, room, pivot_floor)
        while spare < n:
            _exchange(system, stride, room, n, width, spare, apart)
            before = n
            n, width, spare = factor(G, stride, m, z, room, pivot_floor)
            if n == before:
                break
        if n == 0:
            return 0, 0
        inside = _newton(system, stride, room, n, width)
        key = update_and_rank(q, z, G, 0, stride, still, low)
        best = _largest(key, q, low)
        if inside and best <= floor:
            return n, width
    return 0, 0
