"""Arrays as tensors: one place that checks data, dictionaries and biases.

Every rejection is an :class:`~cvxsae.errors.InputError`, as in :mod:`cvxsae.data.arguments`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.errors import InputError, in_short, reason

LARGEST = 1e140
"""What data and candidates may hold; it leaves room to sum the squares of any number of them."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REAL = "pass real numbers (float16, bfloat16, float32 or float64)"


def float_tensor(value: Any, name: str) -> torch.Tensor:
    """Return ``value`` as a floating-point tensor without copying when it already is one.

    numpy arrays and memory maps stay where they are; integers and booleans become float64.

    Raises
    ------
    InputError
        If the value is not numeric, is complex, sparse or masked, or holds Python objects.
    """
    if isinstance(value, torch.Tensor):
        return _float_torch(value, name)
    if isinstance(value, str | bytes | Path):
        raise InputError(f"{name} is the text {in_short(value)}; pass numbers (cvxsae.data.read_array opens a file).")
    if hasattr(value, "toarray"):
        raise InputError(f"{name} is a sparse {type(value).__name__}; pass a dense array, for example its toarray().")
    try:
        array = np.asanyarray(value)
        if array.dtype.kind == "O" and _is_numeric_frame(value):  # nullable numbers, which numpy takes for objects
            array = value.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as an array ({reason(error)}); pass rows of equal length.") from None
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array; fill or drop what is masked and pass a plain one.")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}; {_REAL}.")
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return share(array)
    with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, and that is refused
        return share(array.astype(np.float64))


def _is_numeric_frame(value: Any) -> bool:
    """Whether this is a table or column of pandas that holds numbers, some perhaps missing."""
    kinds = getattr(value, "dtypes", None) if hasattr(value, "to_numpy") else None
    return kinds is not None and all(one.kind in "fiub" for one in (kinds if hasattr(kinds, "__iter__") else [kinds]))


def require_plain(value: torch.Tensor, name: str) -> None:
    """Refuse a tensor that does not hold its numbers one by one."""
    if value.is_nested or value.is_sparse or value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise InputError(f"{name} is a sparse, quantized, nested or empty-shell tensor; pass a dense one.")
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:  # fake, distributed, functional
        raise InputError(f"{name} is a {type(value).__name__}, whose numbers are elsewhere; pass a plain tensor.")
    if value.untyped_storage().nbytes() < value.element_size() * (value.numel() > 0):  # as sharded training leaves it
        raise InputError(f"{name} is a tensor whose memory has been freed; pass one that holds its numbers.")


def _float_torch(value: torch.Tensor, name: str) -> torch.Tensor:
    require_plain(value, name)
    tensor = value.detach().as_subclass(torch.Tensor).resolve_neg()
    if (tensor.is_floating_point() and tensor.dtype not in _FLOATS) or tensor.is_complex():
        raise InputError(f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}; {_REAL}.")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def float_type(value: Any, name: str = "dtype") -> torch.dtype:
    """Return one of the types that real numbers may have."""
    if not isinstance(value, torch.dtype) or value not in _FLOATS:
        raise InputError(f"{name} is {in_short(value)}; pass torch.float16, bfloat16, float32 or float64.")
    return value


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


def vector(value: Any, name: str) -> torch.Tensor:
    """Return ``value`` as a non-empty vector of finite float64 numbers on the CPU, a copy."""
    tensor = float_tensor(value, name)
    if tensor.ndim != 1 or len(tensor) == 0:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; it must be a vector with at least one entry.")
    require_finite(tensor, name)
    return tensor.to(device="cpu", dtype=torch.float64, copy=True)


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


def sparse_matrix(value: Any, name: str) -> sp.csr_array:
    """Return finite real numbers, dense or sparse, as a sparse float64 matrix that nobody else holds."""
    given: Any = value if sp.issparse(value) else matrix(value, name).to(device="cpu", dtype=torch.float64).numpy()
    if given.ndim != 2 or given.dtype.kind not in "fiub":
        raise InputError(f"{name} is sparse with shape {given.shape} and dtype {given.dtype}; pass a matrix of reals.")
    rows = sp.csr_array(given).astype(np.float64, copy=True)
    rows.sum_duplicates()
    if not np.isfinite(rows.data).all():
        raise InputError(f"{name} holds NaN or infinite values; remove or repair those rows.")
    return rows
