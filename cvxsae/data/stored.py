"""Rows that lie in a file: read by the system into memory of our own, and only while the file is what it was.

Touching a memory map whose file has become shorter kills the process (SIGBUS), and of a file that was written again it
gives other data. So maps are never touched: what lies under them is read with ``pread``, which can fail in a sentence,
and the state of the file (identity, size, time of change) is compared at every read.
"""

from __future__ import annotations

import itertools
import mmap
import os
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cvxsae.data.atomic import shown
from cvxsae.data.tensors import share
from cvxsae.errors import InputError

MAPS = Path("/proc/self/maps")
"""Where Linux says which file lies under an address."""

WIDE = 4
"""How many times the bytes wanted a single read may span; beyond, each row or column is read by itself."""

State = tuple[int, ...]
"""What changes when a file is written again: device, inode, size, time of change in nanoseconds."""


class StoredFile:
    """A file that was opened once and must be the same at every later read.

    Attributes
    ----------
    path
        None for a temporary file that has no name.
    state
        As it was accepted.
    """

    def __init__(self, name: str, path: Path | None = None, handle: int | None = None) -> None:
        self.name, self.path, self._handle = name, path, handle
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        self.state = self.state_now()

    def state_now(self) -> State:
        """As it is now."""
        if self._handle is not None:
            return _state(os.fstat(self._handle))
        try:
            return _state(self._named().stat())
        except OSError as error:
            raise self.gone(error) from None

    def _named(self) -> Path:
        assert self.path is not None
        return self.path

    def age(self) -> float:
        """Seconds since it was last changed, as this machine's clock has it."""
        return time.time() - self.state[3] / 1e9

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from a place in the file.

        Raises
        ------
        InputError
            If the file is gone, or not what it was.
        """
        try:
            handle = os.open(self._named(), os.O_RDONLY) if self._handle is None else self._handle
            try:
                is_complete = _fill(handle, buffer, offset)
                state = _state(os.fstat(handle))
            finally:
                if self._handle is None:
                    os.close(handle)
        except OSError as error:
            raise self.gone(error) from None
        if state != self.state or not is_complete:
            raise self.changed()

    def mapped(self) -> mmap.mmap:
        """A map of a temporary file."""
        assert self._handle is not None
        return mmap.mmap(self._handle, 0)

    def changed(self) -> InputError:
        """What to say of a file that holds something else."""
        return InputError(
            f"{self.name} was read from {shown(self._named())}, which has changed since; compute again, and leave "
            "the file alone while results of it are in use."
        )

    def gone(self, error: OSError) -> InputError:
        """What to say of a file that cannot be read."""
        return InputError(
            f"{self.name} was read from {shown(self._named())}, which cannot be read now ({error.strerror}); put the "
            "file back, or compute again."
        )


def _state(found: os.stat_result) -> State:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _fill(handle: int, buffer: memoryview, offset: int) -> bool:
    """Whether the file had that many bytes."""
    done = 0
    while done < len(buffer):
        count = os.preadv(handle, [buffer[done:]], offset + done)  # at most 2 GiB a call
        if count == 0:
            return False
        done += count
    return True


@dataclass(frozen=True)
class StoredRows:
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

    def __len__(self) -> int:
        return self.shape[0]

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
        return torch.bfloat16 if self.is_bfloat16 else torch.from_numpy(np.empty(0, self.dtype)).dtype

    def tensor(self) -> torch.Tensor:
        """All entries as a tensor, in memory of its own."""
        return share(self.read()).view(self.torch_dtype)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Chosen rows (indices or a mask), in the order asked for, in memory of their own."""
        chosen = torch.arange(len(self))[rows].numpy()
        found = np.empty((len(chosen), self.shape[1]), self.dtype)
        ends = [0, *(np.flatnonzero(np.diff(chosen) != 1) + 1), len(chosen)]
        for start, stop in itertools.pairwise(ends if len(chosen) else []):  # neighbors are read together
            found[start:stop] = self[int(chosen[start]) : int(chosen[stop - 1]) + 1].read()
        return share(found).view(self.torch_dtype)


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
