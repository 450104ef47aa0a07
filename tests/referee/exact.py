"""Exact arithmetic on float64 arrays: every float is a whole number over a power of two."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

_DIGITS = 160
"""Binary digits of a square root beyond those of a float64."""


def whole(*arrays: np.ndarray | float) -> tuple[int, list[np.ndarray]]:
    """A shift s and arrays of Python integers, ``2^s`` times those given, exactly."""
    given = [np.asarray(array, dtype=np.float64) for array in arrays]
    exponents = [np.frexp(array[array != 0])[1].min(initial=53) for array in given]
    shift = max(0, 53 - int(min(exponents)))
    return shift, [_integers(array, shift) for array in given]


def _integers(array: np.ndarray, shift: int) -> np.ndarray:
    mantissa, exponent = np.frexp(array)
    digits = np.ldexp(mantissa, 53).astype(np.int64).astype(object)
    powers = exponent.astype(object) - 53 + shift
    out = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        m, p = int(np.asarray(digits)[index]), int(np.asarray(powers)[index])
        out[index] = m << p if p >= 0 else m >> -p  # shifts down lose nothing: the shift covers the smallest entry
    return out


def fraction(number: int, shift: int) -> Fraction:
    """``number / 2^shift``."""
    return Fraction(int(number), 1 << shift)


def root(square: Fraction) -> Fraction:
    """The square root, rounded down, to 160 binary digits more than a float64 has."""
    if square <= 0:
        return Fraction(0)
    p = max(0, _DIGITS + (square.denominator.bit_length() - square.numerator.bit_length()) // 2)
    return Fraction(math.isqrt((square.numerator << 2 * p) // square.denominator), 1 << p)


def is_positive_semidefinite(matrix: np.ndarray) -> bool:
    """Whether a symmetric matrix of whole numbers is positive semidefinite: elimination without fractions (Bareiss)."""
    M, previous = matrix.copy(), 1
    for k in range(len(M)):
        pivot = M[k, k]
        if pivot < 0 or (pivot == 0 and any(M[k, k + 1 :] != 0)):
            return False
        if pivot == 0:
            continue
        for i in range(k + 1, len(M)):
            M[i, k + 1 :] = (pivot * M[i, k + 1 :] - M[i, k] * M[k, k + 1 :]) // previous
        previous = pivot
    return True
