"""Moves that descent cannot make: replacing atoms of little use by new atoms or splits that lower F most.

With all other codes held fixed every number here is exact. Atom k can be removed at the cost
``(1/N) Σ_n z_nk (d_k·r_n + ½z_nk − λ)``, which is ``(1/2N) Σ_n z_nk²`` at exact codes (T1: ``d_k·r_n = λ`` where it is
active) and nothing for a dead atom. A new atom u gains ``(1/N) Σ_n ½(u·r_n − λ)_+²`` (T7), a split of atom k into two
what its datapoints gain by choosing the better half (T8). A move is made where it gains more than it costs: F falls.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64

from cvxsae.data.deadline import go_on
from cvxsae.parallel.group import ProcessGroup
from cvxsae.relaxations.joint.refinement import best_new_atoms, residual_starts, split_scores
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.move_table import Move, MoveTable, NewAtom, Split, with_columns
from cvxsae.solvers.dictionary.sample import ResidualSample

Proposals: TypeAlias = "list[tuple[float, int, Move]]"
"""A heap of moves by minus their gains; the numbers in the middle break ties."""

CPU = torch.device("cpu")
"""Where to search unless another device is named."""


@dataclass(frozen=True)
class Replacement:
    """A dictionary and codes after some moves.

    Attributes
    ----------
    dictionary
        Unit-norm atoms, (K, d).
    codes
        Codes that go with them, (N, K): the given ones except for the atoms that moved.
    replaced
        Indices of the atoms that were replaced.
    gain
        By how much the moves lower F before other codes respond, mean per datapoint.
    """

    dictionary: Float64[np.ndarray, "K d"]
    codes: sp.csr_array
    replaced: tuple[int, ...]
    gain: float


@dataclass(frozen=True)
class Moves:
    """The search for moves.

    Attributes
    ----------
    only_dead
        Replace dead atoms alone.
    share
        One in so many atoms may be replaced at once, dead ones apart.
    margin
        What a move must gain, over what it costs: the estimate leaves out how other codes respond to both.
    ascent_steps, ascent_tol
        Of the ascent to a new atom, the relative gain of a step at which it ends.
    split_steps, split_starts, split_tol
        Alternations of a split, directions each search starts from, and the relative gain at which it ends.
    """

    only_dead: bool = False
    share: int = 16
    margin: float = 1.1
    ascent_steps: int = 12
    ascent_tol: float = 1e-3
    split_steps: int = 6
    split_starts: int = 2
    split_tol: float = 1e-2

    def propose(
        self,
        evaluator: Evaluator,
        dictionary: Float64[torch.Tensor, "K d"],
        offset: Float64[torch.Tensor, " d"],
        codes: sp.csr_array,
        step: int,
    ) -> Replacement | None:
        """The moves that pay at the codes of all processes' datapoints; each process gets its part of the new codes."""
        group = evaluator.group
        users = torch.from_numpy(np.bincount(codes.indices, minlength=len(dictionary)))
        dead = int((group.sum(users)[0] == 0).sum())
        share = 0 if self.only_dead else max(1, len(dictionary) // self.share)
        sample = evaluator.residual_sample(dictionary, offset, codes)
        options: dict[str, Any] = {
            "at_most": max(dead, share),
            "seed": evaluator.seed + step,
            "device": evaluator.device,
            "moves": self,
        }
        atoms = dictionary.cpu().numpy()
        if group.is_alone:
            return replace_atoms(sample, codes, atoms, evaluator.lam, **options)
        return replace_atoms_together(sample, codes, atoms, evaluator.lam, group, **options)

    def proposals(self, table: MoveTable, wanted: int, seed: int, device: torch.device) -> Proposals:
        """New atoms and splits, those that gain most first."""
        residuals = torch.from_numpy(table.residuals).to(device)
        heap: Proposals = []
        starts = residual_starts(residuals, table.lam, wanted, seed=seed)
        if len(starts):
            atoms, gains = best_new_atoms(
                residuals, table.lam, starts, iterations=self.ascent_steps, rtol=self.ascent_tol
            )
            for direction, gain in zip(atoms.cpu().numpy(), gains.tolist(), strict=True):
                heap.append((-gain, len(heap), NewAtom(direction)))
        lengths = torch.linalg.vector_norm(residuals, dim=1).double().cpu().numpy()
        ceilings = table.columns.T @ lengths  # Σ z_nk ‖r_n‖ bounds the score of T8
        likely = np.sort(np.argsort(-ceilings)[: 2 * wanted])
        directions = split_scores(
            residuals,
            table.columns,
            torch.from_numpy(table.dictionary).float().to(device),
            atoms=likely.astype(np.int64),
            iterations=self.split_steps,
            starts=self.split_starts,
            rtol=self.split_tol,
            seed=seed,
        )[1]
        for atom, direction in zip(likely.tolist(), directions.cpu().numpy(), strict=True):
            split = Split(atom, direction, self.split_steps)
            heap.append((-split.gain(table)[0], len(heap), split))
        heapq.heapify(heap)
        return heap

    def replace_atom(self, table: MoveTable, atom: int, proposals: Proposals) -> float | None:
        """Replace this atom by the best proposal if that lowers F; return the decrease."""
        cost = table.removal_cost(atom)
        while proposals:
            go_on()
            stale, tie, proposal = heapq.heappop(proposals)
            if isinstance(proposal, Split) and (proposal.atom in table.changed or proposal.atom == atom):
                continue
            gain, pieces = proposal.gain(table)
            if proposals and gain < -proposals[0][0] and -stale > gain:  # others may be better now: look again later
                heapq.heappush(proposals, (-gain, tie, proposal))
                continue
            if not gain > self.margin * cost:
                heapq.heappush(proposals, (-gain, tie, proposal))
                return None
            table.remove(atom)
            if isinstance(proposal, Split):
                table.remove(proposal.atom)
            targets = [atom] if isinstance(proposal, NewAtom) else [atom, proposal.atom]
            for target, (direction, rows, z) in zip(targets, pieces, strict=True):
                table.place(target, direction, rows, z)
            return gain - cost
        return None


DEFAULT_MOVES = Moves()
"""The search for moves as it is by default."""


# Of short float32 rows BLAS now and then flags a product of finite numbers as invalid; what is not finite never pays.
@np.errstate(invalid="ignore")
def replace_atoms(
    sample: ResidualSample,
    codes: sp.csr_array,
    dictionary: Float64[np.ndarray, "K d"],
    lam: float,
    *,
    at_most: int,
    seed: int,
    device: torch.device = CPU,
    moves: Moves = DEFAULT_MOVES,
) -> Replacement | None:
    """Replace atoms that are of less use than the best new atom or split would be; None where no move pays.

    Moves are judged on the datapoints of ``sample``; ``codes``, (N, K), are those of all, in units of the data like λ.
    Dead atoms go first, ``at_most`` in all. The seed is that of the residuals from which new atoms are searched for.
    """
    table = MoveTable(sample, codes, dictionary, lam)
    candidates = table.least_useful(at_most)
    proposals = moves.proposals(table, len(candidates), seed, device)
    replaced: list[int] = []
    total = 0.0
    for atom in candidates:
        if atom in table.changed:
            continue
        decrease = moves.replace_atom(table, atom, proposals)
        if decrease is None:
            break
        replaced.append(atom)
        total += decrease
    if not replaced:
        return None
    length = sample.length
    return Replacement(table.dictionary, sp.csr_array(table.collect() * length), tuple(replaced), total * length**2)


def replace_atoms_together(
    sample: ResidualSample,
    codes: sp.csr_array,
    dictionary: Float64[np.ndarray, "K d"],
    lam: float,
    group: ProcessGroup,
    **options: Any,
) -> Replacement | None:
    """:func:`replace_atoms` on several processes' datapoints: the first judges all, each gets its part of the codes.

    ``sample`` and ``codes`` are this process's, ``options`` those of :func:`replace_atoms`.
    """
    rows = sample.rows
    assert rows is not None

    def judge(parts: list[tuple[np.ndarray, sp.csr_array]]) -> Any:
        all_codes = sp.csr_array(sp.vstack([part for _, part in parts], format="csr"))
        everything = ResidualSample(np.concatenate([part for part, _ in parts]), None, sample.length)
        found = replace_atoms(everything, all_codes, dictionary, lam, **options)
        if found is None:
            return None
        changed = np.flatnonzero((found.dictionary != dictionary).any(axis=1))
        changed = np.union1d(changed, np.array(found.replaced, dtype=np.int64))
        ends = np.cumsum([0] + [len(part) for part, _ in parts])
        columns = found.codes[:, changed]
        parted = [columns[a:b].tocsc() for a, b in pairwise(ends)]
        return found.dictionary, found.replaced, found.gain, changed, parted

    answer = group.on_first((sample.values, codes[rows]), judge)
    if answer is None:
        return None
    atoms, replaced, gain, changed, parts = answer
    mine = parts[group.rank]
    pieces = {}
    for place, atom in enumerate(changed.tolist()):
        held = slice(mine.indptr[place], mine.indptr[place + 1])
        pieces[atom] = (rows[mine.indices[held]], mine.data[held])
    return Replacement(atoms, with_columns(codes, pieces), replaced, gain)
