"""Arguments that are not arrays: numbers, choices, paths, devices and the bias. :mod:`cvxsae.data.tensors` has arrays.

Every rejection is an :class:`InputError`: one sentence that names the argument, says what was
found and what to do about it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

from cvxsae.data.atomic import shown
from cvxsae.data.tensors import LARGEST, float_tensor, require_finite
from cvxsae.errors import InputError, in_short, reason

T = TypeVar("T")

BiasLike: TypeAlias = ArrayLike | torch.Tensor | None
"""A decoder bias: ``None`` (zero), ``"free"`` (optimized) or a vector (fixed)."""


def positive(value: Any, name: str) -> float:
    """Return a finite number above zero."""
    number = real(value, name)
    if not number > 0:
        raise InputError(f"{name} is {number:g}; it must be above zero.")
    return number


def penalty(value: Any, name: str) -> float:
    """Return λ: a finite number above zero whose square float64 can hold, so that no value of (P) vanishes."""
    number = positive(value, name)
    if not 1 / LARGEST <= number <= LARGEST:
        raise InputError(f"{name} is {number:g}, whose square float64 cannot hold; rescale the data and {name} alike.")
    return number


def nonnegative(value: Any, name: str) -> float:
    """Return a finite number that is zero or more."""
    number = real(value, name)
    if number < 0:
        raise InputError(f"{name} is {number:g}; it must be zero or more.")
    return number


def real(value: Any, name: str) -> float:
    """Return a finite number."""
    plain = value.detach() if isinstance(value, torch.Tensor) else value
    try:
        if isinstance(plain, _NO_NUMBERS) or getattr(plain, "ndim", None):
            raise TypeError
        number = float(plain)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError, ArithmeticError):
        raise InputError(f"{name} is {in_short(value)}; it must be a number.") from None
    if not math.isfinite(number):
        raise InputError(f"{name} is {in_short(value)}; it must be finite.")
    return number


_NO_NUMBERS = (str, bytes, bytearray, np.datetime64, np.timedelta64, np.ma.MaskedArray)
"""What ``float`` would make a number of, but nobody means as one."""

MOST = 2**53
"""Largest whole number: beyond it float64 skips some, and nothing that is counted here is as large."""

MOST_SEED = 2**63 - 1
"""Largest seed that the generators of numpy and of torch both take."""


def count(value: Any, name: str, *, least: int = 1, most: int = MOST) -> int:
    """Return a whole number from ``least`` to ``most``."""
    number = real(value, name)
    whole = int(value) if isinstance(value, int) else int(number)
    if number != int(number) or whole < least:
        raise InputError(f"{name} is {in_short(value)}; it must be a whole number of at least {least}.")
    if whole > most:
        raise InputError(f"{name} is {in_short(value)}; it must be a whole number of at most {most}.")
    return whole


def seed(value: Any, name: str = "seed") -> int:
    """Return what random numbers are drawn from: a whole number from 0 to 2⁶³ − 1."""
    return count(value, name, least=0, most=MOST_SEED)


def flag(value: Any, name: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise InputError(f"{name} is {in_short(value)}; pass True or False.")
    return bool(value)


def each(values: Any, name: str, check: Callable[[Any, str], T], *, least: int = 1) -> tuple[T, ...]:
    """Return what ``check`` makes of every one of several values, ``least`` or more."""
    try:
        found = None if isinstance(values, str | bytes | Mapping) else tuple(values)
    except (TypeError, RuntimeError):
        found = None
    if found is None:
        raise InputError(f"{name} is {in_short(values)}; pass a list or another sequence.")
    if len(found) < least:
        raise InputError(f"{name} is empty; pass at least one.")
    return tuple(check(value, name) for value in found)


def index(value: Any, name: str, size: int) -> int:
    """Return the index of one of ``size`` things."""
    number = count(value, name, least=0)
    if number >= size:
        raise InputError(f"{name} is {number} and there are {size}; pass an index from 0 to {size - 1}.")
    return number


def indices(values: Any, name: str, size: int) -> np.ndarray:
    """Return indices of some of ``size`` things, int64; of all of them for None."""
    chosen = range(size) if values is None else each(values, name, lambda value, name: index(value, name, size))
    return np.array(chosen, dtype=np.int64)


def instance(value: Any, name: str, kind: type[T] | tuple[type[T], ...], wanted: str) -> T:
    """Return a value of one of these types; ``wanted`` says what to pass."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is a {type(value).__name__}; pass {wanted}.")
    return value


def function_or_none(value: Any, name: str) -> Callable[..., Any] | None:
    """Return something to call, or None."""
    if value is not None and not callable(value):
        raise InputError(f"{name} is a {type(value).__name__}; pass a function.")
    return None if value is None else cast("Callable[..., Any]", value)


def path(value: Any, name: str) -> Path:
    """Return a path, whether or not there is anything."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise InputError(f"{name} is a {type(value).__name__}; pass a path.")
    return Path(value)


@dataclass(frozen=True, eq=False)
class Bias:
    """A decoder bias as it was asked for: zero, fixed or free. Made once, by :meth:`of`.

    Attributes
    ----------
    vector
        The fixed bias, (d,) float64; None for a bias of zero and for a free one.
    is_free
        Whether the bias is optimized.
    """

    vector: torch.Tensor | None = None
    is_free: bool = False

    @classmethod
    def of(cls, value: BiasLike | Bias, dim: int) -> Bias:
        """Check ``None`` (zero), ``"free"`` (optimized) or a vector of length ``dim`` (fixed)."""
        if isinstance(value, Bias):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            if value == "free":
                return cls(is_free=True)
            raise InputError(
                f"bias is {in_short(value)}; pass None (zero), 'free' (optimized) or an array of length {dim} (fixed)."
            )
        vector = float_tensor(value, "bias")
        if tuple(vector.shape) != (dim,):
            raise InputError(
                f"bias has shape {tuple(vector.shape)} but the data has dimension {dim}; pass shape ({dim},)."
            )
        require_finite(vector, "bias")
        return cls(vector.to(device="cpu", dtype=torch.float64, copy=True))

    @classmethod
    def fixed(cls, value: BiasLike | Bias, dim: int, remedy: str) -> Bias:
        """Check a bias that cannot be free; ``remedy`` says what to do about a free one."""
        bias = cls.of(value, dim)
        if bias.is_free:
            raise InputError(f"bias is 'free' but here it must be fixed; {remedy}.")
        return bias

    @property
    def public(self) -> torch.Tensor | Literal["free"] | None:
        """As the caller wrote it: None, a vector or ``"free"``."""
        return "free" if self.is_free else self.vector

    def vector_or_zeros(self, dim: int) -> torch.Tensor:
        """The fixed bias, (d,) float64, zeros where none was given; a copy."""
        return torch.zeros(dim, dtype=torch.float64) if self.vector is None else self.vector.clone()


def bias_vector(value: BiasLike, dim: int) -> torch.Tensor | Literal["free"] | None:
    """Return a bias as ``None`` (zero), ``"free"`` (optimized) or a float64 vector of length ``dim`` (fixed)."""
    return Bias.of(value, dim).public


def choice(value: str, name: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``."""
    if not isinstance(value, str) or value not in options:
        raise InputError(f"{name} is {in_short(value)}; choose one of {', '.join(options)}.")
    return value


def existing_file(value: str | os.PathLike[str], name: str) -> Path:
    """Return a path that points to a file."""
    file = path(value, name)
    try:
        if file.is_file():
            return file
        found = "is a directory" if file.is_dir() else "is not a file" if file.exists() else "does not exist"
    except (OSError, ValueError) as error:  # too long, or with characters that no name can have
        found = f"cannot be opened ({getattr(error, 'strerror', None) or reason(error)})"
    raise InputError(f"{name} {shown(file)} {found}; pass the path of a file.")


def compute_device(value: str | torch.device | None, name: str = "device") -> torch.device:
    """Return the device to compute on: the CPU unless one is named."""
    wanted = "pass 'cpu' or 'cuda' (or 'cuda:0', ...)"
    try:
        device = torch.device("cpu" if value is None else value)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {in_short(value)}; {wanted}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{name} is {str(device)!r}, which has no float64; {wanted}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{name} is {str(device)!r} but torch sees no CUDA device here; pass 'cpu'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{name} is {str(device)!r} but torch sees {torch.cuda.device_count()} here; {wanted}.")
    return device
