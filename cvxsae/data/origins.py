"""The origin of rows that are not in memory: files that must be the same at every later read.

The state of a file (identity, size, time of change) is compared at every read, and what it holds is read with
``pread``, which can fail in a sentence.
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from cvxsae.data.atomic import shown
from cvxsae.errors import InputError

State = tuple[Any, ...]
"""What changes when a file is written again: device, inode, size, time of change in nanoseconds; of several files, the
state of each."""


@runtime_checkable
class Origin(Protocol):
    """Where rows are that are not in memory."""

    state: State

    @property
    def has_name(self) -> bool:
        """Whether another process can find it."""

    def state_now(self) -> State:
        """As it is now."""

    def age(self) -> float:
        """Seconds since it was last changed."""

    def changed(self) -> InputError:
        """What to say of one that holds something else."""


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

    @property
    def has_name(self) -> bool:
        """Whether another process can find it."""
        return self.path is not None

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


class StoredFiles:
    """Several files, each of which must be the same at every later read."""

    def __init__(self, name: str, files: Iterable[StoredFile]) -> None:
        self.name, self.files = name, tuple(dict.fromkeys(files))
        self._differ: tuple[StoredFile, ...] = ()

    @property
    def state(self) -> State:
        """As they were accepted."""
        return tuple(file.state for file in self.files)

    @state.setter
    def state(self, states: State) -> None:
        self._differ = tuple(file for file, state in zip(self.files, states, strict=True) if file.state != state)
        for file, state in zip(self.files, states, strict=True):
            file.state = state

    @property
    def has_name(self) -> bool:
        """Whether another process can find them."""
        return all(file.has_name for file in self.files)

    def state_now(self) -> State:
        """As they are now."""
        return tuple(file.state_now() for file in self.files)

    def age(self) -> float:
        """Seconds since one of them was last changed."""
        return min(file.age() for file in self.files)

    def changed(self) -> InputError:
        """What to say when one of them holds something else."""
        differ = self._differ or tuple(file for file in self.files if file.state != file.state_now())
        return (differ or self.files)[0].changed()


class LazyRows(ABC):
    """A matrix that is not in memory: read in parts, each into memory of its own."""

    file: Origin
    """What holds it."""

    shape: tuple[int, int]
    """Number of rows, and their width."""

    @property
    @abstractmethod
    def torch_dtype(self) -> torch.dtype:
        """The precision of the entries as torch has it."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> LazyRows:
        """Some rows; nothing is read."""

    @abstractmethod
    def tensor(self) -> torch.Tensor:
        """All entries as a tensor, in memory of its own."""

    @abstractmethod
    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Chosen rows (indices or a mask), in the order asked for, in memory of their own."""

    @property
    def is_forward_only(self) -> bool:
        """Whether rows come in one order, so that some of them cost a pass."""
        return False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Of the matrix."""
        return self.shape[0] * self.shape[1] * self.torch_dtype.itemsize
