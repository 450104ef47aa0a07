"""Moves that descent cannot make: atoms that earn little become the new atom, or half of the split, that lowers F most.

With all other codes held fixed every number here is exact. Atom k can be removed at the price
``(1/N) Σ_n z_nk (d_k·r_n + ½z_nk − λ)``, which is ``(1/2N) Σ_n z_nk²`` at exact codes (T1: ``d_k·r_n = λ`` where it is
active) and nothing for a dead atom. A new atom u earns ``(1/N) Σ_n ½(u·r_n − λ)_+²`` (T7), a split of atom k into two
what its datapoints gain by choosing the better half (T8). A move is made where it earns more than it costs: F falls.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.relaxations.joint.refinement import best_new_atoms, residual_starts, split_scores
from cvxsae.solvers.dictionary.start import unit

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

    from cvxsae.parallel.group import ProcessGroup

_CLIMB = 12
_HALVES = 6
_SAMPLE_ENTRIES = 2**26
_DEAR = 1.1
"""What a move must earn, over what it costs: the estimate leaves out how other codes respond to both."""


@dataclass(frozen=True)
class Renewal:
    """A dictionary and codes after some moves.

    Attributes
    ----------
    dictionary
        Unit-norm atoms, (K, d).
    codes
        Codes that go with them, (N, K): the given ones but for the atoms that moved.
    renewed
        Indices of the atoms that were given up for better ones.
    gain
        By how much the moves lower F before other codes respond, mean per datapoint.
    """

    dictionary: Float64[np.ndarray, "K d"]
    codes: sp.csr_array
    renewed: tuple[int, ...]
    gain: float


def sample_rows(n_points: int, dim: int) -> Int64[np.ndarray, " n"]:
    """Datapoints that moves are judged on: all of them, or as many evenly spaced ones as fit in a quarter of a GiB."""
    most = max(1, _SAMPLE_ENTRIES // dim)
    return np.unique(np.linspace(0, n_points - 1, min(n_points, most)).astype(np.int64))


def sample_here(n_points: int, dim: int, group: ProcessGroup) -> Int64[np.ndarray, " n"]:
    """Those of :func:`sample_rows` of all processes' datapoints, counted by rank, that are this process's."""
    first, total = group.places(n_points)
    rows = sample_rows(total, dim)
    return rows[(rows >= first) & (rows < first + n_points)] - first


def unit_length(mean_square: float) -> float:
    """A power of two about as long as datapoints are: divided by it, residuals fit float32, and no bit is lost."""
    return 2.0 ** round(math.log2(mean_square) / 2) if mean_square > 0 else 1.0


# Of short float32 rows BLAS now and then flags a product of finite numbers as invalid; what is not finite never pays.
@np.errstate(invalid="ignore")
def renew(
    residuals: Float[np.ndarray, "n d"],
    codes: sp.csr_array,
    dictionary: Float64[np.ndarray, "K d"],
    lam: float,
    *,
    at_most: int,
    seed: int,
    rows: Int64[np.ndarray, " n"] | None = None,
    length: float = 1.0,
    device: torch.device | None = None,
) -> Renewal | None:
    """Give up atoms that earn less than the best new atom or split would; None where no move pays.

    Parameters
    ----------
    residuals
        ``(x_n − b − z_n D) / length`` of the datapoints in ``rows``, (n, d), float32.
    codes
        Codes of all datapoints, (N, K).
    dictionary
        Unit-norm atoms, (K, d).
    lam
        Penalty λ.
    at_most
        Moves at most, dead atoms first.
    seed
        Of the residuals that the search for new atoms starts from.
    rows
        Which datapoints the residuals are of; all by default.
    length
        What the residuals were divided by, as :func:`unit_length` says; codes and λ are in units of the data.
    device
        Where to search.
    """
    table = _Table(residuals, sp.csr_array(codes / length), dictionary, lam / length, rows)
    victims = table.victims(at_most)
    proposals = _proposals(table, len(victims), seed, device or torch.device("cpu"))
    renewed: list[int] = []
    total = 0.0
    for victim in victims:
        if victim in table.changed:
            continue
        earned = _best_move(table, victim, proposals)
        if earned is None:
            break
        renewed.append(victim)
        total += earned
    if not renewed:
        return None
    return Renewal(table.dictionary, sp.csr_array(table.collect() * length), tuple(renewed), total * length**2)


def renew_together(
    residuals: Float[np.ndarray, "n d"],
    codes: sp.csr_array,
    dictionary: Float64[np.ndarray, "K d"],
    lam: float,
    rows: Int64[np.ndarray, " n"],
    group: ProcessGroup,
    **options: Any,
) -> Renewal | None:
    """:func:`renew` on the datapoints of several processes: the first one judges all, each gets its part of the codes.

    ``residuals``, ``codes`` and ``rows`` are this process's, ``options`` those of :func:`renew`.
    """

    def judge(parts: list[tuple[np.ndarray, sp.csr_array]]) -> Any:
        all_codes = sp.csr_array(sp.vstack([part for _, part in parts], format="csr"))
        renewal = renew(np.concatenate([part for part, _ in parts]), all_codes, dictionary, lam, **options)
        if renewal is None:
            return None
        changed = np.flatnonzero((renewal.dictionary != dictionary).any(axis=1))
        changed = np.union1d(changed, np.array(renewal.renewed, dtype=np.int64))
        ends = np.cumsum([0] + [len(part) for part, _ in parts])
        columns = renewal.codes[:, changed]
        return replace(renewal, codes=None), changed, [columns[a:b].tocsc() for a, b in pairwise(ends)]  # type: ignore[arg-type]

    found = group.on_first((residuals, codes[rows]), judge)
    if found is None:
        return None
    renewal, changed, parts = found
    mine = parts[group.rank]
    pieces = {}
    for place, atom in enumerate(changed.tolist()):
        held = slice(mine.indptr[place], mine.indptr[place + 1])
        pieces[atom] = (rows[mine.indices[held]], mine.data[held])
    return replace(renewal, codes=_with_columns(codes, pieces))


def _with_columns(codes: sp.csr_array, columns: dict[int, tuple[np.ndarray, np.ndarray]]) -> sp.csr_array:
    """The codes with some atoms' replaced by those of the datapoints given."""
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


class _Table:
    """Residuals and codes that follow the moves; the caller's are left alone."""

    def __init__(
        self,
        residuals: Float[np.ndarray, "n d"],
        codes: sp.csr_array,
        dictionary: Float64[np.ndarray, "K d"],
        lam: float,
        rows: Int64[np.ndarray, " n"] | None,
    ) -> None:
        self.residuals = residuals.astype(np.float32)
        self.all_codes, self.rows, self.lam = codes, rows, lam
        self.columns = (codes if rows is None else codes[rows]).tocsc()
        self.dictionary = dictionary.copy()
        self.changed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.n = len(residuals)

    def column(self, atom: int) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Datapoints that use an atom, and their codes."""
        if atom in self.changed:
            return self.changed[atom]
        part = slice(self.columns.indptr[atom], self.columns.indptr[atom + 1])
        return self.columns.indices[part].astype(np.int64), self.columns.data[part]

    def victims(self, at_most: int) -> list[int]:
        """Atoms in the order of what they earn, the least first."""
        squares = np.zeros(len(self.dictionary))
        np.add.at(squares, np.repeat(np.arange(len(squares)), np.diff(self.columns.indptr)), self.columns.data**2)
        return [int(k) for k in np.argsort(squares, kind="stable")[:at_most]]

    def price(self, atom: int) -> float:
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
        return _with_columns(
            self.all_codes, {k: (on if rows is None else rows[on], z) for k, (on, z) in self.changed.items()}
        )


@dataclass(frozen=True)
class _NewAtom:
    direction: Float[np.ndarray, " d"]

    def earn(self, table: _Table) -> tuple[float, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """What it earns now, after one more step of its climb, and its codes."""
        direction = self.direction.astype(np.float32)
        over = np.clip(table.residuals @ direction - table.lam, 0, None)
        if over.any():
            direction = (over / over.max()) @ table.residuals  # squares of what is short would vanish in float32
            direction /= np.linalg.norm(direction)
            over = np.clip(table.residuals @ direction - table.lam, 0, None)
        rows = np.flatnonzero(over)
        return float((over[rows].astype(np.float64) ** 2).sum()) / (2 * table.n), [(direction, rows, over[rows])]


@dataclass(frozen=True)
class _Split:
    atom: int
    direction: Float[np.ndarray, " d"]

    def earn(self, table: _Table) -> tuple[float, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """What the two halves earn over the whole, each climbing on the datapoints that prefer it."""
        rows, z = table.column(self.atom)
        old = table.dictionary[self.atom].astype(np.float32)
        points = table.residuals[rows]
        along = points @ old
        targets = points + z[:, None].astype(np.float32) * old
        side = points @ self.direction.astype(np.float32) >= 0
        halves = np.zeros((2, len(old)), np.float32)
        for _ in range(_HALVES):
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


def _proposals(
    table: _Table, wanted: int, seed: int, device: torch.device
) -> list[tuple[float, int, _NewAtom | _Split]]:
    """New atoms and splits, those that earn most first (a heap of minus their gains)."""
    residuals = torch.from_numpy(table.residuals).to(device)
    heap: list[tuple[float, int, _NewAtom | _Split]] = []
    starts = residual_starts(residuals, table.lam, wanted, seed=seed)
    if len(starts):
        atoms, gains = best_new_atoms(residuals, table.lam, starts, iterations=_CLIMB, rtol=1e-3)
        for direction, gain in zip(atoms.cpu().numpy(), gains.tolist(), strict=True):
            heap.append((-gain, len(heap), _NewAtom(direction)))
    lengths = torch.linalg.vector_norm(residuals, dim=1).double().cpu().numpy()
    ceilings = table.columns.T @ lengths  # Σ z_nk ‖r_n‖ bounds the score of T8
    likely = np.sort(np.argsort(-ceilings)[: 2 * wanted])
    directions = split_scores(
        residuals, table.columns, torch.from_numpy(table.dictionary).float().to(device),
        atoms=likely.astype(np.int64), iterations=_HALVES, starts=2, rtol=1e-2, seed=seed,
    )[1]  # fmt: skip
    for atom, direction in zip(likely.tolist(), directions.cpu().numpy(), strict=True):
        split = _Split(atom, direction)
        heap.append((-split.earn(table)[0], len(heap), split))
    heapq.heapify(heap)
    return heap


def _best_move(table: _Table, victim: int, proposals: list[tuple[float, int, _NewAtom | _Split]]) -> float | None:
    """Spend a victim on the best proposal, if that pays: what the move earns, net."""
    price = table.price(victim)
    while proposals:
        stale, tie, proposal = heapq.heappop(proposals)
        if isinstance(proposal, _Split) and (proposal.atom in table.changed or proposal.atom == victim):
            continue
        gain, pieces = proposal.earn(table)
        if proposals and gain < -proposals[0][0] and -stale > gain:  # others may be better now: look again later
            heapq.heappush(proposals, (-gain, tie, proposal))
            continue
        if not gain > _DEAR * price:
            heapq.heappush(proposals, (-gain, tie, proposal))
            return None
        table.remove(victim)
        if isinstance(proposal, _Split):
            table.remove(proposal.atom)
        for atom, (direction, rows, z) in zip(
            [victim] if isinstance(proposal, _NewAtom) else [victim, proposal.atom], pieces, strict=True
        ):
            table.place(atom, direction, rows, z)
        return gain - price
    return None
