"""Interval arithmetic on arrays, rounded outwards, and Taylor arithmetic of second order on top of it.

A :class:`Jet` carries a function of the parameters of a box of dictionaries: its value, gradient and Hessian, each a
plain array (at the center of the box) or an :class:`Interval` (over the whole box). What does not depend on a parameter
has no entry for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

_ROUNDING = 2.0**-52
"""Relative error of one operation, twice over."""

_LIBRARY = 4 * 2.0**-52
"""Absolute error of sines and cosines."""

_SMALLEST = 1e-300
"""Widening of an end that is zero."""


class Interval:
    """Arrays of closed intervals; every operation contains all results.

    Parameters
    ----------
    lo, hi
        Ends, of one shape.
    """

    __slots__ = ("hi", "lo")
    __array_ufunc__ = None  # so that arrays on the left leave the operation to this class

    def __init__(self, lo: np.ndarray, hi: np.ndarray) -> None:
        self.lo, self.hi = lo, hi

    @classmethod
    def rounded(cls, lo: np.ndarray, hi: np.ndarray) -> Interval:
        """Ends computed with one rounding, moved outwards by more than that."""
        return cls(lo - (np.abs(lo) * _ROUNDING + _SMALLEST), hi + (np.abs(hi) * _ROUNDING + _SMALLEST))

    def __add__(self, other: Number) -> Interval:
        if isinstance(other, Interval):
            return Interval.rounded(self.lo + other.lo, self.hi + other.hi)
        return Interval.rounded(self.lo + other, self.hi + other)

    __radd__ = __add__

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __sub__(self, other: Number) -> Interval:
        return self + (-other)

    def __rsub__(self, other: Number) -> Interval:
        return (-self) + other

    def __mul__(self, other: Number) -> Interval:
        if not isinstance(other, Interval):
            ends = self.lo * other, self.hi * other
            return Interval.rounded(np.minimum(*ends), np.maximum(*ends))
        a, b, c, d = self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi
        lo = np.minimum(np.minimum(a, b), np.minimum(c, d))
        return Interval.rounded(lo, np.maximum(np.maximum(a, b), np.maximum(c, d)))

    __rmul__ = __mul__

    def square(self) -> Interval:
        """All squares."""
        a, b = self.lo * self.lo, self.hi * self.hi
        crosses = (self.lo <= 0) & (self.hi >= 0)
        return Interval.rounded(np.where(crosses, 0.0, np.minimum(a, b)), np.maximum(a, b))

    def reciprocal(self) -> Interval:
        """All reciprocals; everything where zero is inside."""
        with np.errstate(divide="ignore"):
            lo, hi = 1 / self.hi, 1 / self.lo
        unsure = (self.lo <= 0) & (self.hi >= 0)
        return Interval.rounded(np.where(unsure, -np.inf, lo), np.where(unsure, np.inf, hi))

    def meet(self, other: Interval) -> Interval:
        """What both contain, if both are right; an end that is not known (NaN) is the other's."""
        return Interval(np.fmax(self.lo, other.lo), np.fmin(self.hi, other.hi))

    def join(self, other: Interval) -> Interval:
        """All that one of them contains, and what lies between."""
        return Interval(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))

    @property
    def magnitude(self) -> np.ndarray:
        """Largest absolute value."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))


Number: TypeAlias = Interval | np.ndarray | float
"""What jets calculate with."""


def square(a: Number) -> Any:
    """The square, which is tighter than a product with itself."""
    return a.square() if isinstance(a, Interval) else a * a


def cosine(angle: Number) -> Any:
    """Cos of an angle."""
    if not isinstance(angle, Interval):
        return np.cos(angle)
    turns_lo, turns_hi = angle.lo / np.pi, angle.hi / np.pi  # extrema lie at whole numbers: even +1, odd −1
    a, b = np.cos(angle.lo), np.cos(angle.hi)
    slack = _LIBRARY * (1 + np.abs(turns_lo) + np.abs(turns_hi))
    has_top = np.floor(turns_hi / 2 + slack) >= np.ceil(turns_lo / 2 - slack)
    has_bottom = np.floor((turns_hi - 1) / 2 + slack) >= np.ceil((turns_lo - 1) / 2 - slack)
    lo = np.where(has_bottom, -1.0, np.maximum(np.minimum(a, b) - _LIBRARY, -1.0))
    return Interval(lo, np.where(has_top, 1.0, np.minimum(np.maximum(a, b) + _LIBRARY, 1.0)))


def sine(angle: Number) -> Any:
    """Sin of an angle."""
    if not isinstance(angle, Interval):
        return np.sin(angle)
    return cosine(angle - np.pi / 2)


def root(a: Number) -> Any:
    """The square root of what is positive."""
    if not isinstance(a, Interval):
        return np.sqrt(a)
    return Interval.rounded(np.sqrt(np.maximum(a.lo, 0.0)), np.sqrt(np.maximum(a.hi, 0.0)))


def inverse(a: Number) -> Any:
    """The reciprocal."""
    return a.reciprocal() if isinstance(a, Interval) else 1 / a


class Jet:
    """A function of the parameters with its first and second derivatives.

    Parameters
    ----------
    value
        Of the function.
    gradient
        By parameter.
    hessian
        By pairs of parameters (i, j), i ≤ j.
    """

    __slots__ = ("gradient", "hessian", "value")
    __array_ufunc__ = None

    def __init__(
        self,
        value: Any,
        gradient: Mapping[int, Any] | None = None,
        hessian: Mapping[tuple[int, int], Any] | None = None,
    ) -> None:
        self.value, self.gradient, self.hessian = value, dict(gradient or {}), dict(hessian or {})

    @classmethod
    def parameter(cls, index: int, value: Any) -> Jet:
        """A parameter itself."""
        return cls(value, {index: 1.0})

    def __add__(self, other: Jet | Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.gradient, self.hessian)
        return Jet(
            self.value + other.value,
            _sum(self.gradient, other.gradient),
            _sum(self.hessian, other.hessian),
        )

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return self.scaled(-1.0)

    def __sub__(self, other: Jet | Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def scaled(self, by: Any) -> Jet:
        """Times a constant."""
        return Jet(
            self.value * by,
            {i: one * by for i, one in self.gradient.items()},
            {ij: one * by for ij, one in self.hessian.items()},
        )

    def __mul__(self, other: Jet | Any) -> Jet:
        if not isinstance(other, Jet):
            return self.scaled(other)
        a, b = self, other
        gradient = _sum(
            {i: one * b.value for i, one in a.gradient.items()}, {i: one * a.value for i, one in b.gradient.items()}
        )
        hessian = _sum(
            {ij: one * b.value for ij, one in a.hessian.items()}, {ij: one * a.value for ij, one in b.hessian.items()}
        )
        for i, one in a.gradient.items():
            for j, two in b.gradient.items():
                cross = one * two * 2.0 if i == j else one * two
                hessian = _sum(hessian, {(min(i, j), max(i, j)): cross})
        return Jet(a.value * b.value, gradient, hessian)

    __rmul__ = __mul__

    def through(self, value: Any, first: Any, second: Any) -> Jet:
        """F of this, given f, f′ and f″ there."""
        gradient = {i: one * first for i, one in self.gradient.items()}
        hessian = {ij: one * first for ij, one in self.hessian.items()}
        for i, one in self.gradient.items():
            for j, two in self.gradient.items():
                if i <= j:
                    product = square(one) if i == j else one * two
                    hessian = _sum(hessian, {(i, j): product * second})
        return Jet(value, gradient, hessian)

    def square(self) -> Jet:
        """The square."""
        return self.through(square(self.value), self.value * 2.0, 2.0)

    def cosine(self) -> Jet:
        """The cosine."""
        value = cosine(self.value)
        return self.through(value, -sine(self.value), -value)

    def sine(self) -> Jet:
        """The sine."""
        value = sine(self.value)
        return self.through(value, cosine(self.value), -value)

    def inverse(self) -> Jet:
        """The reciprocal."""
        value = inverse(self.value)
        squared = square(value)
        return self.through(value, -squared, squared * value * 2.0)

    def inverse_root(self) -> Jet:
        """One over the square root of what is positive."""
        value = inverse(root(self.value))
        cubed = square(value) * value
        return self.through(value, cubed * -0.5, cubed * square(value) * 0.75)

    def over(self, half: list[np.ndarray], center: Jet) -> Jet:
        """Tighten the value by the mean value theorem around the center of the box."""
        spread: Any = 0.0
        for i, slope in self.gradient.items():
            spread = spread + (slope.magnitude if isinstance(slope, Interval) else np.abs(slope)) * half[i]
        spread = spread * (1 + 8 * _ROUNDING)
        around = Interval.rounded(_ends(center.value).lo - spread, _ends(center.value).hi + spread)
        return Jet(_ends(self.value).meet(around), self.gradient, self.hessian)


def _ends(value: Any) -> Interval:
    return value if isinstance(value, Interval) else Interval(np.asarray(value), np.asarray(value))


def _sum(one: dict[Any, Any], two: Mapping[Any, Any]) -> dict[Any, Any]:
    """Entries of both, added where both have one."""
    total = dict(one)
    for key, value in two.items():
        total[key] = total[key] + value if key in total else value
    return total
