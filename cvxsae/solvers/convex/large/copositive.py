"""The large dictionary of few datapoints with a bound above the doubly nonnegative one: copositive proofs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.proofs import SliceProof, triple_bound
from cvxsae.relaxations.solution import Status, as_numpy, relative_gap
from cvxsae.solvers.convex.large import copositive_admm as triples
from cvxsae.solvers.convex.large.dual import DualPoint, best_multiple
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative, PairState, Patience, searched

_BLOCK = 50
"""Steps of the splitting between two proofs: a proof costs about five steps."""

_PATIENCE = 4
"""Blocks in a row without progress after which the tightening ends."""

_PROGRESS = 0.97
"""A gap above this share of the last has not moved."""

_MOST_BLOCKS = 40
"""Blocks at most: 2,000 steps, after which the gap no longer moves in any problem measured."""

_FIRST_SEED = 100
"""Seed of the first: the relaxation's own perturbations have used the small ones."""


@dataclass(frozen=True)
class CopositiveState:
    """The doubly nonnegative pair, then its tightening.

    Attributes
    ----------
    pair
        State of :class:`~cvxsae.solvers.convex.large.relaxation.DoublyNonnegative`; its best dictionary is kept up to
        date.
    tight
        The splitting over the tighter cone; None before it begins.
    dual
        The best dual point so far, of either.
    patience
        With the gap, in blocks of steps.
    blocks, restarts
        Blocks of steps and restarts of the descent done.
    phase
        ``"relax"``, ``"tighten"``, ``"search"`` or ``"done"``.
    """

    pair: PairState
    tight: triples.TripleState | None
    dual: DualPoint
    patience: Patience = field(default_factory=Patience)
    blocks: int = 0
    restarts: int = 0
    phase: str = "relax"

    @property
    def gap(self) -> float:
        """From the best dictionary and codes down to the best bound."""
        return relative_gap(self.pair.best[0], self.dual.bound)


@dataclass(frozen=True)
class Copositive:
    """Solve the doubly nonnegative relaxation, tighten it by copositive proofs, then look for a better dictionary.

    1. :class:`DoublyNonnegative` to its end. What is left, if more than ``tol``, is the relaxation's.
    2. :mod:`~cvxsae.solvers.convex.large.copositive_admm`: the dual may use any copositive matrix E that has a proof of
       first order (:mod:`cvxsae.relaxations.proofs`) where before it could use P ≥ 0 alone.
       ``⟨E, Q⟩ ≥ 0`` is an inequality that every completely positive Q obeys; E is chosen with Y to prove the most, not
       separated from one Q after another.
    3. Descent again from the best factor with its entries perturbed and a few sparse columns added, a few times.

    The solution's ``proof`` is a :class:`~cvxsae.relaxations.proofs.SliceProof`; the referee checks it in
    N eigenvalue computations. Tensors have N³ entries: for up to ``LARGEST_TRIPLES`` datapoints. Ends CERTIFIED or
    STALLED.

    Parameters
    ----------
    tol
        Relative gap between value and bound at which it ends.
    restarts
        Descents from a perturbation of the best factor.
    """

    tol: float = 1e-6
    restarts: int = 8

    name = "copositive"
    default_iterations = 5_000
    first_check = 1
    patience = 10**9
    bound_stands: ClassVar[Literal[True]] = True

    @property
    def pair(self) -> DoublyNonnegative:
        """What it begins with."""
        return DoublyNonnegative(self.tol)

    def init(self, problem: LargeDictionary, device: torch.device) -> CopositiveState:
        """The pair's start."""
        pair = self.pair.init(problem, device)
        return CopositiveState(pair, None, pair.dual)

    def step(self, problem: LargeDictionary, state: CopositiveState) -> CopositiveState:
        """One step of the pair, fifty steps of the tighter splitting, or one restart of the descent."""
        if state.phase == "relax":
            pair = self.pair.step(problem, state.pair)
            state = replace(state, pair=pair, dual=state.dual.or_better(pair.dual))
            if pair.phase != "done":
                return state
            assert pair.cone is not None
            assert pair.data is not None
            data, cone = pair.data.to(torch.float64), pair.cone.to(torch.float64)
            return replace(state, tight=triples.start(data, cone, pair.best[1].factor), phase="tighten")
        return self._tighten(problem, state) if state.phase == "tighten" else self._search(problem, state)

    def _tighten(self, problem: LargeDictionary, state: CopositiveState) -> CopositiveState:
        assert state.tight is not None and state.pair.data is not None
        data, tight = state.pair.data.to(torch.float64), state.tight
        for _ in range(_BLOCK):
            tight = triples.advance(data, tight)
        Y, slices = triples.dual_point(data, tight, problem.atom_cost)
        polar = triple_bound(Y @ Y.T, slices, problem.atom_cost, problem.dim)
        dual = best_multiple(problem, state.pair.factors.data, Y, SliceProof(as_numpy(slices)), polar)
        state = replace(state, tight=tight, dual=state.dual.or_better(dual), blocks=state.blocks + 1)
        state = replace(state, patience=state.patience.after(state.gap, _PROGRESS))
        ended = state.patience.idle >= _PATIENCE or state.blocks >= _MOST_BLOCKS or state.gap <= self.tol
        return replace(state, phase="search") if ended else state

    def _search(self, problem: LargeDictionary, state: CopositiveState) -> CopositiveState:
        """Descend from a perturbation of the best factor."""
        pair = searched(problem, state.pair, _FIRST_SEED + state.restarts)
        state = replace(state, pair=pair, restarts=state.restarts + 1)
        return replace(state, phase="done") if state.restarts >= self.restarts or state.gap <= self.tol else state

    def bounds(self, problem: LargeDictionary, state: CopositiveState) -> tuple[float, float]:
        """The best value and the best bound so far."""
        return state.pair.best[0], state.dual.bound

    def verdict(self, problem: LargeDictionary, state: CopositiveState) -> Status | None:
        """When it is done: STALLED, unless the gap says otherwise."""
        return Status.STALLED if state.phase == "done" else None

    def finish(self, problem: LargeDictionary, state: CopositiveState) -> Candidate:
        """The pair's answer, with the best dual point of either."""
        point = self.pair.finish(problem, state.pair)
        return replace(point, dual=as_numpy(state.dual.Y), proof=state.dual.proof)

    def info(self, state: CopositiveState) -> dict[str, Any]:
        """The pair's steps and bound before the tightening, and the steps of the tighter splitting."""
        steps = 0 if state.tight is None else state.tight.iteration
        return {**self.pair.info(state.pair), "relaxation_bound": state.pair.dual.bound, "copositive_steps": steps}
