"""Residuals and codes that are updated after moves, and the two moves that need an atom: a new atom, a split.

With all other codes held fixed every number here is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float64, Int64

from cvxsae.solvers.dictionary.sample import ResidualSample
from cvxsae.solvers.dictionary.spheres import unit

Piece: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"
"""An atom's direction, the datapoints that use it, and their codes."""


class MoveTable:
    """Residuals and codes that follow the moves; the caller's are left alone. Everything in units of the length."""

    def __init__(
        self, sample: ResidualSample, codes: sp.csr_array, dictionary: Float64[np.ndarray, "K d"], lam: float
    ) -> None:
        self.residuals = sample.values.astype(np.float32)
        self.all_codes, self.rows = sp.csr_array(codes / sample.length), sample.rows
        self.lam = lam / sample.length
        self.columns = (self.all_codes if self.rows is None else self.all_codes[self.rows]).tocsc()
        self.dictionary = dictionary.copy()
        self.changed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.n = len(self.residuals)

    def column(self, atom: int) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Datapoints that use an atom, and their codes."""
        if atom in self.changed:
            return self.changed[atom]
        part = slice(self.columns.indptr[atom], self.columns.indptr[atom + 1])
        return self.columns.indices[part].astype(np.int64), self.columns.data[part]

    def least_useful(self, at_most: int) -> list[int]:
        """Atoms by what their removal costs at exact codes, the cheapest first."""
        squares = np.zeros(len(self.dictionary))
        np.add.at(squares, np.repeat(np.arange(len(squares)), np.diff(self.columns.indptr)), self.columns.data**2)
        return [int(k) for k in np.argsort(squares, kind="stable")[:at_most]]

    def removal_cost(self, atom: int) -> float:
        """What removing an atom costs with other codes fixed, mean per datapoint."""
        rows, z = self.column(atom)
        along = self.residuals[rows] @ self.dictionary[atom].astype(np.float32)
        return float((z * (along + z / 2 - self.lam)).sum()) / self.n

    def remove(self, atom: int) -> None:
        """Set an atom's codes to zero."""
        rows, z = self.column(atom)
        self.residuals[rows] += np.outer(z, self.dictionary[atom]).astype(np.float32)
        self.changed[atom] = (rows[:0], z[:0])

    def place(self, atom: int, direction: Float[np.ndarray, " d"], rows: np.ndarray, z: np.ndarray) -> None:
        """Give an atom without codes a direction and codes."""
        self.dictionary[atom] = unit(direction[None].astype(np.float64))[0]
        active = z > 0
        rows, z = rows[active], z[active].astype(np.float64)
        self.residuals[rows] -= np.outer(z, self.dictionary[atom]).astype(np.float32)
        self.changed[atom] = (rows, z)

    def collect(self) -> sp.csr_array:
        """All codes with the changed columns replaced."""
        rows = self.rows
        return with_columns(
            self.all_codes, {k: (on if rows is None else rows[on], z) for k, (on, z) in self.changed.items()}
        )


def with_columns(codes: sp.csr_array, columns: dict[int, tuple[np.ndarray, np.ndarray]]) -> sp.csr_array:
    """The codes with some atoms' replaced by those of the given datapoints."""
    kept = np.ones(codes.shape[1], dtype=bool)
    kept[list(columns)] = False
    old = codes.tocoo()
    held = kept[old.col]
    parts = [(old.row[held], old.col[held], old.data[held])]
    parts += [(rows, np.full(len(rows), atom), z) for atom, (rows, z) in columns.items()]
    row, col, data = (np.concatenate(piece) for piece in zip(*parts, strict=True))
    replaced = sp.csr_array((data, (row, col)), shape=codes.shape)
    replaced.sort_indices()
    return replaced


@dataclass(frozen=True)
class NewAtom:
    """A direction that some residuals are longer than λ along (T7)."""

    direction: Float[np.ndarray, " d"]

    def gain(self, table: MoveTable) -> tuple[float, list[Piece]]:
        """How far it lowers F now, after one more step of its ascent, and its codes."""
        direction = self.direction.astype(np.float32)
        over = np.clip(table.residuals @ direction - table.lam, 0, None)
        if over.any():
            direction = (over / over.max()) @ table.residuals  # squares of what is short would vanish in float32
            direction /= np.linalg.norm(direction)
            over = np.clip(table.residuals @ direction - table.lam, 0, None)
        rows = np.flatnonzero(over)
        return float((over[rows].astype(np.float64) ** 2).sum()) / (2 * table.n), [(direction, rows, over[rows])]


@dataclass(frozen=True)
class Split:
    """An atom whose datapoints gain by choosing between two directions (T8).

    Attributes
    ----------
    atom
        The atom to split.
    direction
        Datapoints whose residuals lie on one side of it begin with one half, the others with the other.
    steps
        Alternations between choosing the better half and improving both.
    """

    atom: int
    direction: Float[np.ndarray, " d"]
    steps: int

    def gain(self, table: MoveTable) -> tuple[float, list[Piece]]:
        """How far the two halves lower F below the whole, each improved on the datapoints that prefer it."""
        rows, z = table.column(self.atom)
        old = table.dictionary[self.atom].astype(np.float32)
        points = table.residuals[rows]
        along = points @ old
        targets = points + z[:, None].astype(np.float32) * old
        side = points @ self.direction.astype(np.float32) >= 0
        halves = np.zeros((2, len(old)), np.float32)
        for _ in range(self.steps):
            for half in range(2):
                chosen = targets[side == bool(half)]
                direction = (
                    z[side == bool(half)].astype(np.float32) @ chosen
                    if not halves[half].any()
                    else (np.clip(chosen @ halves[half] - table.lam, 0, None) @ chosen)
                )
                norm = np.linalg.norm(direction)
                if norm > 0:
                    halves[half] = direction / norm
            side = targets @ halves[1] > targets @ halves[0]
        if not halves.any(axis=1).all():  # one half was never preferred: nothing is split, and it has no direction
            return 0.0, []
        over = np.clip(targets @ halves.T - table.lam, 0, None)
        best = over.max(axis=1).astype(np.float64)
        gain = float((best**2 / 2 - z * (along + z / 2 - table.lam)).sum()) / table.n
        if not math.isfinite(gain):
            return 0.0, []
        return gain, [(halves[half], rows[side == bool(half)], over[side == bool(half), half]) for half in range(2)]


Move: TypeAlias = NewAtom | Split
