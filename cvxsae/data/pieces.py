"""Matrices in several files, or in several parts of one file, read as a single matrix."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvxsae.data.origins import LazyRows, StoredFiles
from cvxsae.data.stored import StoredRows
from cvxsae.data.tensors import float_tensor


@dataclass(frozen=True)
class PiecedRows(LazyRows):
    """Matrices in files, one under the other, read as one: what has no precision of its own in torch as float64.

    Attributes
    ----------
    pieces
        The matrices, of one width and dtype, none of them empty.
    ends
        Where each ends, as a number of rows.
    chosen
        Which of all these rows.
    file
        What holds them.
    """

    pieces: tuple[StoredRows, ...]
    ends: tuple[int, ...]
    chosen: range
    file: StoredFiles

    @classmethod
    def of(cls, pieces: Iterable[StoredRows], name: str) -> PiecedRows:
        """All rows of some matrices."""
        pieces = tuple(pieces)
        ends = tuple(itertools.accumulate(map(len, pieces)))
        return cls(pieces, ends, range(ends[-1]), StoredFiles(name, (piece.file for piece in pieces)))

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Number of rows and their width."""
        return len(self.chosen), self.pieces[0].shape[1]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of the entries as torch has it."""
        return self.pieces[0].torch_dtype if self._is_float else torch.float64

    @property
    def _is_float(self) -> bool:
        first = self.pieces[0]
        return first.is_bfloat16 or (first.dtype.kind == "f" and first.dtype.itemsize <= torch.float64.itemsize)

    def __getitem__(self, rows: slice) -> PiecedRows:
        return replace(self, chosen=self.chosen[rows])

    def tensor(self) -> torch.Tensor:
        """All entries as a tensor, in memory of its own."""
        found, step = [], self.chosen.step
        ascending = self.chosen if step > 0 else self.chosen[::-1]
        first = bisect.bisect_right(self.ends, ascending[0]) if len(ascending) else len(self.pieces)
        for start, piece in zip((0, *self.ends)[first:], self.pieces[first:], strict=False):
            if start > ascending[-1]:
                break
            at = -(-max(0, start - ascending[0]) // ascending.step)  # the first of the chosen rows in this piece
            local = ascending[at] - start
            if local < len(piece):
                part = piece[local : ascending[-1] + 1 - start : ascending.step]
                found.append(self._read(part))
        rows = (
            found[0]
            if len(found) == 1
            else torch.cat([torch.empty((0, self.shape[1]), dtype=self.torch_dtype), *found])
        )
        return rows if step > 0 else rows.flip(0)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Chosen rows (indices or a mask), in the order asked for, in memory of their own."""
        chosen = (self.chosen.start + self.chosen.step * torch.arange(len(self))[rows]).numpy()
        owners = np.searchsorted(np.asarray(self.ends), chosen, side="right")
        found = torch.empty((len(chosen), self.shape[1]), dtype=self.torch_dtype)
        for owner in np.unique(owners).tolist():
            places, piece = np.flatnonzero(owners == owner), self.pieces[owner]
            local = torch.from_numpy(chosen[places] - (self.ends[owner] - len(piece)))
            taken = piece.take(local) if self._is_float else float_tensor(piece.taken(local), self.file.name)
            found[torch.from_numpy(places)] = taken
        return found

    def _read(self, piece: StoredRows) -> torch.Tensor:
        return piece.tensor() if self._is_float else float_tensor(piece.read(), self.file.name)


def without_rows(held: StoredRows | PiecedRows, rows: np.ndarray) -> PiecedRows | None:
    """All rows but these (ascending indices); None if there are no others, or if it takes a copy."""
    whole = PiecedRows.of([held], held.file.name) if isinstance(held, StoredRows) else held
    if whole.chosen.step != 1:
        return None
    gone = np.unique(rows) + whole.chosen.start
    pieces: list[StoredRows] = []
    for start, piece in zip((0, *whole.ends), whole.pieces, strict=False):
        low, high = max(start, whole.chosen.start), min(start + len(piece), whole.chosen.stop)
        here = gone[(gone >= low) & (gone < high)].tolist()
        for begin, end in zip([low, *(row + 1 for row in here)], [*here, high], strict=True):
            if begin < end:
                pieces.append(piece[begin - start : end - start])
    return PiecedRows.of(pieces, whole.file.name) if pieces else None
