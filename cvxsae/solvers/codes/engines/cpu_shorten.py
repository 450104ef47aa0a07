"""The kernels that round residuals to the precision of a product, with bounds on what that loses."""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, U, jit
from cvxsae.solvers.codes.engines.screening import LARGEST_INT8, NORM_ROUNDING

LEAST_WHOLE, LARGEST_WHOLE = 1e-200, 1e200
"""Sizes of a residual's largest entry between which it has a scale in int8; others count as lost altogether."""


@jit()
def to_float32(active, residual, d, single, norms, errors):
    """Round residuals to float32; bounds on their norms and on the norms of the rounding errors."""
    for a in range(active.shape[0]):
        _bound(_to_float32(residual, active[a] * d, d, single, a * d), a, norms, errors)


@jit()
def to_bfloat16(active, residual, d, half_bits, norms, errors):
    """The same to bfloat16, by its bits."""
    single = np.empty(d, np.float32)
    bits = single.view(np.int32)
    for a in range(active.shape[0]):
        _bound(_to_bfloat16(residual, active[a] * d, d, single, bits, half_bits, a * d), a, norms, errors)


@jit()
def to_int8(active, residual, d, whole, scales, norms, errors):
    """The same to whole numbers up to 127 times a scale for each row."""
    for a in range(active.shape[0]):
        largest = _largest_size(residual, active[a] * d, d)
        has_scale = LEAST_WHOLE < largest < LARGEST_WHOLE
        scales[a] = largest / LARGEST_INT8 if has_scale else 1.0
        inverse = LARGEST_INT8 / largest if has_scale else 0.0
        _bound(_to_int8(residual, active[a] * d, d, whole, scales[a], inverse, a * d), a, norms, errors)


@jit()
def _bound(squares, a, norms, errors):
    norms[a] = np.sqrt(squares[0]) * (1 + NORM_ROUNDING)
    errors[a] = np.sqrt(squares[1]) * (1 + NORM_ROUNDING)


@jit(fastmath=REORDER)
def _to_float32(residual, offset, d, single, to):
    total, lost = 0.0, 0.0
    source, target = U(offset), U(to)
    for j in range(U(d)):
        single[target + j] = residual[source + j]
    for j in range(U(d)):
        value = residual[source + j]
        total += value * value
        lost += (value - single[target + j]) ** 2
    return total, lost


@jit(fastmath=REORDER)
def _to_bfloat16(residual, offset, d, single, bits, half_bits, to):
    total, lost = 0.0, 0.0
    source, target = U(offset), U(to)
    for j in range(U(d)):
        single[j] = residual[source + j]
    for j in range(U(d)):
        word = bits[j]
        rounded = np.int32((word + np.int32(0x7FFF) + ((word >> np.int32(16)) & np.int32(1))) >> np.int32(16))
        half_bits[target + j] = rounded  # to nearest, ties to even
        value = residual[source + j]
        total += value * value
        lost += (value - np.float64(np.int32(rounded << np.int32(16)).view(np.float32))) ** 2
    return total, lost


@jit(fastmath=REORDER)
def _largest_size(residual, offset, d):
    largest = 0.0
    source = U(offset)
    for j in range(U(d)):
        size = abs(residual[source + j])
        largest = size if size > largest else largest
    return largest


@jit(fastmath=REORDER)
def _to_int8(residual, offset, d, whole, scale, inverse, to):
    total, lost = 0.0, 0.0
    source, target = U(offset), U(to)
    for j in range(U(d)):
        value = residual[source + j]
        steps = value * inverse
        steps = steps if steps < LARGEST_INT8 else np.float64(LARGEST_INT8)  # NaN too
        steps = np.rint(steps if steps > -LARGEST_INT8 else -np.float64(LARGEST_INT8))
        whole[target + j] = np.int8(np.int32(steps))
        total += value * value
        lost += (value - steps * scale) ** 2
    return total, lost
