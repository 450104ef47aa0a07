"""Activations in: one validated, read-only view of N datapoints, whatever they came as.

Accepted: numpy arrays and memory maps (float16, float32, float64, integers), torch tensors (also
bfloat16, on any device), paths to ``.npy``, ``.npz``, ``.safetensors`` and ``.pt`` files, and
iterables of ``(n, d)`` batches. Nothing is copied that can be shared, a memory map is never copied
whole, and files are never unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.data.files import gather_batches, read_array

BATCH_BYTES = 64 * 2**20
"""Size of one batch in the precision it is computed in."""


class Activations:
    """N datapoints of dimension d, finite, one per row; read in batches, never modified.

    Parameters
    ----------
    X
        Anything this module accepts. See the module's first lines.
    name
        What messages call the argument.

    Attributes
    ----------
    tensor
        The data where it was, in the precision it had: shape (N, d).

    Raises
    ------
    InputError
        If the data is not a non-empty matrix of finite real numbers.
    """

    def __init__(self, X: ActivationsLike, *, name: str = "X") -> None:
        if isinstance(X, Activations):
            self.tensor: torch.Tensor = X.tensor
            return
        self.tensor = _open(X, name)
        row = 0
        for batch in self.batches(dtype=None):
            arguments.require_finite(batch, name, first_row=row)
            row += len(batch)

    @classmethod
    def _trusted(cls, tensor: torch.Tensor) -> Activations:
        """Wrap rows of data that has been checked before."""
        view = cls.__new__(cls)
        view.tensor = tensor
        return view

    @property
    def shape(self) -> tuple[int, int]:
        """Number of datapoints and their dimension, (N, d)."""
        return self.tensor.shape[0], self.tensor.shape[1]

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | torch.Tensor) -> Activations:
        return Activations._trusted(self.tensor[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows])

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
            yield self.tensor[start : start + step].to(device=device, dtype=dtype)

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


def _open(X: Any, name: str) -> torch.Tensor:
    if isinstance(X, str) or hasattr(X, "__fspath__"):
        return arguments.matrix(read_array(X, name), name)
    if isinstance(X, torch.Tensor | np.ndarray):
        return arguments.matrix(X, name)
    if isinstance(X, Sequence) and not _is_batch(X[0] if len(X) else None):
        return arguments.matrix(X, name)
    if isinstance(X, Iterable):
        return gather_batches(X, name)
    raise InputError(f"{name} is a {type(X).__name__}; pass an array, a tensor, a path or an iterable of batches.")


def _is_batch(value: object) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 2
