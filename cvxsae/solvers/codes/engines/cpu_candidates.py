"""The atoms that a computed product could not place below the penalty: listed, sifted in float32, then exact.

Units and conventions are those of :mod:`cvxsae.solvers.codes.engines.cpu_kernels`: the penalty is 1.
"""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxsae.solvers.codes.engines.compiled import U, jit
from cvxsae.solvers.codes.engines.cpu_kernels import dots_of_four, weight_of

ONE_BITS = 0x3F800000
"""The float32 one; its upper half is the bfloat16 one."""

LARGEST_INT32 = 2**31 - 1
"""The largest sum of products in int8."""

FLOAT32_ROUNDING = 1e-6
"""Relative margin for rounding a threshold to float32, many of its units."""


class Rows(NamedTuple):
    """Atoms (K · d,) in float64 and float32, and the largest distance between the two copies of one, rounded up."""

    exact: np.ndarray
    working: np.ndarray
    error: float


class Own(NamedTuple):
    """What the products of one datapoint mean and prove: :class:`Products`."""

    unit: float
    shift: int
    absent: int
    least_share: float
    margin: float


@jit()
def value_of(bits, own):
    """The correlation that screened bits stand for."""
    if own.unit > 0:
        return np.float64(bits) * own.unit
    return np.float64(np.int32(np.int64(bits) << own.shift).view(np.float32))


@jit()
def bits_of_one(own):
    """Bits of the correlation 1, rounded down."""
    return np.int64(min(1.0 / own.unit, LARGEST_INT32)) if own.unit > 0 else np.int64(ONE_BITS) >> own.shift


@jit()
def _bits_below(value, own):
    """Bits of a screened correlation not above a value; less than all where the value is not positive."""
    value *= 1.0 - FLOAT32_ROUNDING  # float32 rounds to nearest: stay below
    if not value > 0:
        return np.int64(-(2**31) - 1)  # −2³¹ are the bits of the negative zero
    if own.unit > 0:
        return np.int64(min(value / own.unit, LARGEST_INT32))
    return np.int64(np.float32(value).view(np.int32)) >> own.shift


@jit()
def _may_exceed(prices, k, value, own):
    """Whether an atom that is above the threshold of all is above its own."""
    if prices is None:
        return True
    return not (value_of(value, own) <= (1.0 - own.margin * prices.reach[k]) * own.least_share)  # NaN may


@jit()
def list_candidates(bits, row, K, maxima, limit, own, most, candidates, prices):
    """List the atoms whose computed correlations exceed a limit; how many, or more than ``most``."""
    n, G, threshold = 0, maxima.shape[0], _bits_below(limit, own)
    for g in range(G):
        if maxima[g] <= threshold:
            continue
        for k in range(g, K, maxima.shape[0]):
            value = bits[U(row + k)]
            if value > threshold and value != own.absent and _may_exceed(prices, k, value, own):
                candidates[n] = k
                n += 1
        if n > most:
            break
    return n


@jit()
def _four(candidates, start, atoms, r, d):
    """Products of four listed atoms with r."""
    k0, k1, k2, k3 = candidates[start], candidates[start + 1], candidates[start + 2], candidates[start + 3]
    return dots_of_four(atoms, k0, k1, k2, k3, r, d)


@jit()
def sift(candidates, n, atoms, slack, dot_error, r, d, residual2):
    """Keep the candidates whose rounded atoms do not prove them below the penalty, however r moves by ``slack``.

    Atoms in float32 are half as much to read as in float64, and few candidates are left.
    """
    kept, limit = 0, 1.0 - slack - (atoms.error + 4.0 * dot_error) * np.sqrt(residual2)
    for t in range(U(n), U(n + 3)):
        candidates[t] = candidates[0]
    for start in range(0, n, 4):
        values = _four(candidates, start, atoms.working, r, d)
        for t in range(min(4, n - start)):
            if not values[t] <= limit:  # NaN stays
                candidates[kept] = candidates[start + t]
                kept += 1
    return kept


@jit()
def recheck(candidates, n, r, d, exact, found, exact_values, blur, prices):
    """Exact correlations, in units of their weights, of candidates: how many violators are listed, and the largest."""
    listed, largest = 0, -np.inf
    if n == 0:
        return listed, largest
    for t in range(U(n), U(n + 3)):
        candidates[t] = candidates[0]
    for start in range(0, n, 4):
        values = _four(candidates, start, exact, r, d)
        for t in range(min(4, n - start)):
            k = candidates[start + t]
            weight = weight_of(prices, k)
            value = values[t] / weight
            largest = max(largest, value if prices is None else value + blur / weight)
            if value > 1.0 and listed < found.shape[0]:
                found[listed] = k
                exact_values[listed] = value
                listed += 1
    return listed, largest
