"""Rows in a file, which the system reads into memory of our own, and only while the file has not changed.

Touching a memory map whose file has become shorter kills the process (SIGBUS), and of a file that was written again it
gives other data. So maps are never touched: what lies under them is read with ``pread``, which can fail in a sentence.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cvxsae.data.origins import LazyRows, StoredFile
from cvxsae.data.tensors import share

MAPS = Path("/proc/self/maps")
"""Where Linux says which file lies under an address."""

WIDE = 4
"""How many times the bytes wanted a single read may span; beyond, each row or column is read by itself."""


@dataclass(frozen=True)
class StoredRows(LazyRows):
    """A matrix in a file, by where its entries are.

    Attributes
    ----------
    file
        What holds it.
    offset
        Of the first entry, in bytes.
    shape, strides
        As numpy has them, strides in bytes.
    dtype
        Of the entries as numpy reads them.
    is_bfloat16
        Whether they are bfloat16, which numpy reads as integers of 16 bits.
    """

    file: StoredFile
    offset: int
    shape: tuple[int, int]
    strides: tuple[int, int]
    dtype: np.dtype[Any]
    is_bfloat16: bool = False

    @classmethod
    def packed(cls, file: StoredFile, nbytes: int, like: torch.Tensor) -> StoredRows:
        """Rows of the width and precision of ``like`` that fill a file from its start."""
        size, width = like.element_size(), like.shape[1]
        return cls(file, 0, (nbytes // (size * width), width), (size * width, size), *_kind(like.dtype))

    def mapped(self) -> torch.Tensor:
        """All rows as a tensor that is read as it is used, of a temporary file that nobody else can change."""
        return torch.frombuffer(self.file.mapped(), dtype=self.torch_dtype).view(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the matrix."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> StoredRows:
        start, stop, step = rows.indices(len(self))
        return replace(
            self,
            offset=self.offset + start * self.strides[0],
            shape=(len(range(start, stop, step)), self.shape[1]),
            strides=(step * self.strides[0], self.strides[1]),
        )

    def read(self) -> np.ndarray:
        """All entries, in memory of their own."""
        (n, d), (down, across) = self.shape, self.strides
        span, least = self._span()
        if span <= WIDE * self.nbytes or 1 in self.shape:
            buffer = np.empty(span, np.uint8)
            self.file.read_into(buffer.data, self.offset + least)
            return np.ndarray(self.shape, self.dtype, buffer=buffer.data, offset=-least, strides=self.strides)
        found = np.empty(self.shape, self.dtype)
        if abs(down) >= abs(across):
            for row in range(n):
                found[row] = self[row : row + 1].read()[0]
        else:
            for column in range(d):
                one = replace(self, offset=self.offset + column * across, shape=(n, 1))
                found[:, column] = one.read()[:, 0]
        return found

    def _span(self) -> tuple[int, int]:
        """Bytes from the first to the last entry in the file, and where that is seen from the entry (0, 0)."""
        reach = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        least = sum(min(0, one) for one in reach)
        return sum(map(abs, reach)) + self.dtype.itemsize, least

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of the entries as torch has it."""
        return torch.bfloat16 if self.is_bfloat16 else torch.from_numpy(np.empty(0, self.dtype.newbyteorder("="))).dtype

    def tensor(self) -> torch.Tensor:
        """All entries as a tensor, in memory of its own."""
        return share(self.read()).view(self.torch_dtype)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Chosen rows (indices or a mask), in the order asked for, in memory of their own."""
        return share(self.taken(rows)).view(self.torch_dtype)

    def taken(self, rows: torch.Tensor) -> np.ndarray:
        """The same as numpy reads them."""
        chosen = torch.arange(len(self))[rows].numpy()
        found = np.empty((len(chosen), self.shape[1]), self.dtype)
        ends = [0, *(np.flatnonzero(np.diff(chosen) != 1) + 1), len(chosen)]
        for start, stop in itertools.pairwise(ends if len(chosen) else []):  # neighbors are read together
            found[start:stop] = self[int(chosen[start]) : int(chosen[stop - 1]) + 1].read()
        return found


class Mapping(NamedTuple):
    """A part of memory that a file lies under."""

    path: Path
    offset: int
    is_copy: bool
    """Whether what is written there stays in memory, so that it can differ from the file."""


def mapping_under(X: np.ndarray | torch.Tensor) -> Mapping | None:
    """The file under a matrix, with the place of its first entry; None for memory that no file with a name lies under.

    Only Linux says. Elsewhere maps count as memory: changes are seen, but a file must not become shorter.
    """
    if isinstance(X, torch.Tensor):
        if X.device.type != "cpu":
            return None
        address = X.data_ptr()
    else:
        root: Any = X
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root.flags.owndata:  # numpy made it
            return None
        address = int(X.__array_interface__["data"][0])
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        ends, access, offset, _, inode, *path = line.split(maxsplit=5)
        start, end = (int(one, 16) for one in ends.split("-"))
        if start <= address < end:
            break
    else:
        return None
    if inode == "0" or not path:
        return None
    file = Path(path[0].replace(r"\012", "\n"))
    try:
        if file.stat().st_ino != int(inode):  # another file has its name now
            return None
    except (OSError, ValueError):
        return None
    return Mapping(file, int(offset, 16) + address - start, access[1] == "w" and access[3] == "p")


def stored_rows(X: np.ndarray | torch.Tensor, name: str, found: Mapping) -> StoredRows:
    """The matrix X as rows of the file it is mapped from."""
    if isinstance(X, torch.Tensor):
        down, across = (stride * X.element_size() for stride in X.stride())
        dtype, is_bfloat16 = _kind(X.dtype)
    else:
        down, across = X.strides
        dtype, is_bfloat16 = X.dtype, False
    file = StoredFile(name, found.path)
    return StoredRows(file, found.offset, (X.shape[0], X.shape[1]), (down, across), dtype, is_bfloat16)


def _kind(dtype: torch.dtype) -> tuple[np.dtype[Any], bool]:
    """How numpy reads numbers of a precision of torch, and whether they are bfloat16."""
    name = str(dtype).removeprefix("torch.")
    return np.dtype("uint16" if dtype is torch.bfloat16 else name), dtype is torch.bfloat16
