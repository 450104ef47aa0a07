"""Activations in: one validated, read-only view of N datapoints, whatever they came as.

Accepted: numpy arrays and memory maps (float16, float32, float64, integers), torch tensors (also
bfloat16, on any device), paths to ``.npy``, ``.npz``, ``.safetensors`` and ``.pt`` files, and
iterables of ``(n, d)`` batches. Nothing is copied that can be shared: floats of native byte order
stay where they are. What has to be converted (integers, foreign byte order, reversed rows) is
converted block by block, in memory up to 1 GiB and beyond that in an unnamed temporary file, so
that a memory map is never in memory whole. Files are never unpickled.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import tensors
from cvxsae.data.files import gather, read_array
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from cvxsae.parallel.group import ProcessGroup

BATCH_BYTES = 32 * 2**20
"""Size of one batch in the precision it is computed in."""


class Activations:
    """N datapoints of dimension d, finite, one per row; read in batches, never modified.

    Parameters
    ----------
    X
        Anything this module accepts. See the module's first lines.
    name
        What messages call the argument.
    group
        The processes that hold the other rows, if these are one process's share
        (:meth:`cvxsae.parallel.ProcessGroup.shard`); None if they are all there are.

    Attributes
    ----------
    tensor
        The data where it was, in the precision it had: shape (N, d).
    group
        The processes that hold the other rows, or None. Rows chosen from the data belong to this process alone.

    Raises
    ------
    InputError
        If the data is not a non-empty matrix of finite real numbers.
    """

    def __init__(self, X: ActivationsLike, *, name: str = "X", group: ProcessGroup | None = None) -> None:
        self.group = group
        if isinstance(X, Activations):
            self.tensor: torch.Tensor = X.tensor
            self._mapping: mmap.mmap | None = X._mapping
            self.group = X.group if group is None else group
            return
        self.tensor, self._mapping = _open(X, name)
        row = 0
        for batch in self.batches(dtype=None):
            tensors.require_finite(batch, name, first_row=row)
            row += len(batch)

    @classmethod
    def _trusted(cls, tensor: torch.Tensor, mapping: mmap.mmap | None) -> Activations:
        """Wrap rows of data that has been checked before."""
        view = cls.__new__(cls)
        view.tensor, view._mapping, view.group = tensor, mapping, None
        return view

    @property
    def shape(self) -> tuple[int, int]:
        """Number of datapoints and their dimension, (N, d)."""
        return self.tensor.shape[0], self.tensor.shape[1]

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | torch.Tensor) -> Activations:
        chosen = self.tensor[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]
        if 0 in chosen.shape or chosen.ndim != 2:
            raise InputError(f"rows chosen from {self!r} give shape {tuple(chosen.shape)}; choose at least one row.")
        return Activations._trusted(chosen, self._mapping)

    def __repr__(self) -> str:
        n_points, dim = self.shape
        return f"Activations({n_points} x {dim}, {str(self.tensor.dtype).removeprefix('torch.')}, {self.tensor.device})"

    def batches(
        self,
        *,
        rows: int | None = None,
        dtype: torch.dtype | None = torch.float64,
        device: torch.device | None = None,
    ) -> Iterator[Float[torch.Tensor, "n d"]]:
        """Yield consecutive blocks of rows, converted to ``dtype`` (``None``: as stored) on ``device``.

        One full iteration is one pass over the data; memory is that of one block. Blocks may share
        memory with the data and must not be written to.
        """
        width = torch.finfo(dtype or torch.float64).bits // 8
        step = rows or max(1, BATCH_BYTES // (width * self.shape[1]))
        for start in range(0, len(self), step):
            block = self.tensor[start : start + step]
            yield block.to(device=device, dtype=dtype)
            if self._mapping is not None:
                _release(self._mapping, block)

    def spread(self, count: int) -> Activations:
        """Return ``count`` evenly spaced rows as a copy; of a memory map only the pages around them are read."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self))).long().to(self.tensor.device)
        parts = []
        for chosen in torch.split(rows, 64):
            parts.append(self.tensor[chosen])
            if self._mapping is not None:
                _release(self._mapping, self.tensor[int(chosen[0]) : int(chosen[-1]) + 1])
        return Activations._trusted(torch.cat(parts), None)

    def to_tensor(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Float[torch.Tensor, "N d"]:
        """Return all rows as one tensor, sharing memory when nothing has to be converted."""
        return self.tensor.to(device=device, dtype=dtype)

    def to_numpy(self) -> Float[np.ndarray, "N d"]:
        """Return all rows as a float64 numpy array, sharing memory when nothing has to be converted."""
        return self.to_tensor(device=torch.device("cpu")).numpy()


ActivationsLike: TypeAlias = (
    Activations | np.ndarray | torch.Tensor | str | Path | Sequence[Any] | Iterable[np.ndarray | torch.Tensor]
)
"""What :class:`Activations` accepts."""


def _open(X: Any, name: str) -> tuple[torch.Tensor, mmap.mmap | None]:
    """Return the data as a tensor, and the memory map it lies in if that is shared with a file."""
    if isinstance(X, str | os.PathLike):
        X = read_array(X, name)
    if isinstance(X, torch.Tensor | np.ndarray):
        if X.ndim == 2 and 0 not in X.shape and not tensors.shareable(X):
            tensors.float_tensor(X[:1], name)
            step = max(1, BATCH_BYTES // (8 * X.shape[1]))
            return gather(_blocks(X, step), name)
        return tensors.matrix(X, name), _shared_mapping(X)
    if hasattr(X, "__array__") or hasattr(X, "toarray") or (isinstance(X, Sequence) and not _is_batch(X)):
        return tensors.matrix(X, name), None
    if isinstance(X, Iterable):
        return gather(X, name)
    raise InputError(f"{name} is a {type(X).__name__}; pass an array, a tensor, a path or an iterable of batches.")


def _blocks(X: np.ndarray | torch.Tensor, step: int) -> Iterator[np.ndarray | torch.Tensor]:
    return (X[start : start + step] for start in range(0, len(X), step))


def _is_batch(sequence: Sequence[Any]) -> bool:
    return len(sequence) > 0 and isinstance(sequence[0], torch.Tensor | np.ndarray) and sequence[0].ndim == 2


def _shared_mapping(X: np.ndarray | torch.Tensor) -> mmap.mmap | None:
    """Return the map under a numpy memory map, unless it is copy-on-write and so may differ from its file."""
    base: Any = X
    shared = False
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            shared = base.mode != "c"
        base = base.base
    return base if shared and isinstance(base, mmap.mmap) else None


def _release(mapping: mmap.mmap, block: torch.Tensor) -> None:
    """Let go of the pages under a block that has been read; they are read from the file again if needed.

    Otherwise every page of a large file would count as memory of this process after one pass.
    """
    origin = np.frombuffer(mapping, dtype=np.uint8).ctypes.data
    start = block.data_ptr() - origin
    last = sum((size - 1) * stride for size, stride in zip(block.shape, block.stride(), strict=True))
    end = start + (last + 1) * block.element_size()
    if hasattr(mmap, "MADV_DONTNEED") and start >= 0 and end <= len(mapping):
        start -= start % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, start, end - start)
