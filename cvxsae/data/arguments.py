"""Arguments that are not arrays: numbers, choices, paths, devices and the bias. :mod:`cvxsae.data.tensors` has arrays.

Every rejection is an :class:`InputError`: one sentence that names the argument, says what was
found and what to do about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import ArrayLike

from cvxsae.data.tensors import LARGEST, float_tensor, require_finite
from cvxsae.errors import InputError

BiasLike: TypeAlias = ArrayLike | torch.Tensor | None
"""A decoder bias: ``None`` (zero), ``"free"`` (optimized) or a vector (fixed)."""


def positive(value: Any, name: str) -> float:
    """Return a finite number above zero."""
    number = _number(value, name)
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
    number = _number(value, name)
    if number < 0:
        raise InputError(f"{name} is {number:g}; it must be zero or more.")
    return number


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; it must be a number.") from None
    if not math.isfinite(number):
        raise InputError(f"{name} is {number}; it must be finite.")
    return number


def count(value: Any, name: str, *, least: int = 1) -> int:
    """Return a whole number of at least ``least``."""
    number = _number(value, name)
    if number != int(number) or number < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return int(number)


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
                f"bias is {value!r}; pass None (zero), 'free' (optimized) or an array of length {dim} (fixed)."
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
    if value not in options:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(options)}.")
    return value


def existing_file(path: str | Path, name: str) -> Path:
    """Return a path that points to a file."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        found = "is a directory" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
    except OSError as error:
        found = f"cannot be opened ({error.strerror})"
    raise InputError(f"{name} {str(path)!r} {found}; pass the path of a file.")


def compute_device(value: str | torch.device | None) -> torch.device:
    """Return the device to compute on: the CPU unless one is named."""
    wanted = "pass 'cpu' or 'cuda' (or 'cuda:0', ...)"
    try:
        device = torch.device("cpu" if value is None else value)
    except (RuntimeError, TypeError):
        raise InputError(f"device is {value!r}; {wanted}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device is {str(device)!r}, which has no float64; {wanted}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {str(device)!r} but torch sees no CUDA device here; pass device='cpu'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(device)!r} but torch sees {torch.cuda.device_count()} here; {wanted}.")
    return device
