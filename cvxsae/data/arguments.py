"""The one place where arguments are checked.

Every rejection is an :class:`InputError`: one sentence that names the argument, says what was
found and what to do about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike

from cvxsae.errors import InputError as InputError

BiasLike: TypeAlias = ArrayLike | torch.Tensor | None
"""A decoder bias: ``None`` (zero), ``"free"`` (optimised) or a vector (fixed)."""


def float_tensor(value: Any, name: str) -> torch.Tensor:
    """Return ``value`` as a floating-point tensor without copying when it already is one.

    numpy arrays and memory maps stay where they are; integers and booleans become float64.

    Raises
    ------
    InputError
        If the value is not numeric, is complex, sparse or masked, or holds Python objects.
    """
    if isinstance(value, torch.Tensor):
        return _float_torch(value.detach(), name)
    if isinstance(value, str | Path):
        raise InputError(f"{name} is the text {str(value)!r}; pass numbers (cvxsae.data.read_array opens a file).")
    if hasattr(value, "toarray"):
        raise InputError(f"{name} is a sparse {type(value).__name__}; pass a dense array, for example its toarray().")
    try:
        array = np.asanyarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as an array ({reason(error)}); pass rows of equal length.") from None
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array; fill or drop what is masked and pass a plain one.")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}; {_REAL}.")
    return share(array if array.dtype.kind == "f" and array.dtype.itemsize <= 8 else array.astype(np.float64))


def _float_torch(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise InputError(f"{name} is a sparse, quantised or empty-shell tensor; pass a dense one.")
    if (tensor.is_floating_point() and tensor.dtype not in _FLOATS) or tensor.is_complex():
        raise InputError(f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}; {_REAL}.")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


LARGEST = 1e140
"""What data and candidates may hold; it leaves room to sum the squares of any number of them."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REAL = "pass real numbers (float16, bfloat16, float32 or float64)"


def reason(error: Exception) -> str:
    """Return the first sentence of what a library says, to quote inside a sentence of ours."""
    return " ".join(str(error).split(". ")[0].split()).rstrip(".:;")[:200] or type(error).__name__


def shareable(value: np.ndarray | torch.Tensor) -> bool:
    """Whether torch can address real numbers where they are, in the precision they have."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return value.dtype.kind == "f" and value.dtype.itemsize <= 8 and _addressable(value)


def _addressable(array: np.ndarray) -> bool:
    return array.dtype.isnative and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)


def share(array: np.ndarray) -> torch.Tensor:
    """Wrap a numpy array as a tensor; copy only what torch cannot address, and never write to it."""
    if not _addressable(array):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if not array.flags.writeable:
        # torch warns about read-only memory because it cannot enforce it; nothing here writes to data.
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        array = np.asarray(_Borrowed(array, interface))
    return torch.from_numpy(array)


class _Borrowed:
    """Keeps ``owner`` alive while its memory is seen through another array interface."""

    def __init__(self, owner: np.ndarray, interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface


def matrix(value: Any, name: str, *, rows: str = "datapoint") -> torch.Tensor:
    """Return ``value`` as a non-empty, two-dimensional floating-point tensor."""
    tensor = float_tensor(value, name)
    if tensor.ndim != 2:
        hint = f"; reshape it to (1, {tensor.shape[0]}) for a single {rows}" if tensor.ndim == 1 else ""
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; it must be two-dimensional, one {rows} a row{hint}.")
    if 0 in tensor.shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)} and so is empty; pass at least one {rows}.")
    return tensor


def require_finite(tensor: torch.Tensor, name: str, *, first_row: int = 0) -> None:
    """Reject NaN and Inf, naming the first row that holds one, and values whose squares would overflow."""
    # Extremes propagate NaN, cannot overflow, and cost a seventh of an isfinite mask.
    largest = max(abs(float(extreme)) for extreme in torch.aminmax(tensor))
    if largest < LARGEST:
        return
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        raise InputError(f"{name} holds values so large (up to {largest:.1e}) that squares overflow; rescale it.")
    row = int((~finite).reshape(finite.shape[0], -1).any(dim=1).nonzero()[0])
    count = int((~finite).sum())
    raise InputError(
        f"{name} holds {count} NaN or infinite value(s), the first in row {first_row + row}; "
        "remove or repair those rows."
    )


def unit_rows(value: Any, name: str, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of a dictionary scaled to norm 1 in float64, and the norms they had.

    A dictionary with row norms ``n_k`` and codes ``z_k`` is the same model as the unit-norm one
    with codes ``n_k z_k`` (theory.md §0), so nothing is lost.
    """
    tensor = matrix(value, name, rows="atom")
    if tensor.shape[1] != dim:
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)} but the data has dimension {dim}; "
            f"atoms are rows, so its second axis must be {dim}{' (transpose it)' if tensor.shape[0] == dim else ''}."
        )
    require_finite(tensor, name)
    rows = tensor.to(torch.float64)
    scale = rows.abs().amax(dim=1)
    if bool((scale == 0).any()):
        index = int((scale == 0).nonzero()[0])
        raise InputError(f"{name} has a zero atom (row {index}); drop the atoms of norm 0.")
    rows = rows / scale[:, None]  # so that the squares below neither overflow nor vanish
    norms = torch.linalg.vector_norm(rows, dim=1)
    return rows / norms[:, None], norms * scale


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
