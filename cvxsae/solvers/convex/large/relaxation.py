"""The large dictionary with both of its gaps: descent on dictionary and codes, and the relaxation with its dual."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch

from cvxsae.relaxations import linalg
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary, fit_factor, similarity_value
from cvxsae.relaxations.convex.tidy import tidy
from cvxsae.relaxations.proofs import NonnegativeProof, pencil_bound
from cvxsae.relaxations.solution import Status, as_numpy, relative_gap
from cvxsae.solvers.convex.large import admm as splitting
from cvxsae.solvers.convex.large.dual import (
    DualPoint,
    best_multiple,
    best_residual,
    improved_multiplier,
    projected_similarity,
    shorter,
)
from cvxsae.solvers.convex.large.factorized import Factorized, FactorState, perturbed
from cvxsae.solvers.convex.large.rounding import (
    SMALL,
    attained,
    descended,
    is_settled,
    most_rounds,
    rounded,
)

_BLOCK = 10
"""Splitting steps between two proofs: a proof costs about two steps."""

_LARGE = linalg.FACTORIZED_ORDER
"""Datapoints above which a proof costs less than half a step, and twice as many are made."""

_NEAR, _NEARER = 16.0, 4.0
"""Gaps, in units of ``tol``, from which steps without an eigendecomposition may close it, and then those with one."""

_HOPE, _FADING = 1.15, 0.85
"""How near ``tol`` improvements must be expected to come, and how the expectation falls while they are not made."""

_IMPROVEMENTS = 2
"""Steps on P before Y is improved at it: each takes one eigendecomposition, and the first two gain most."""

_PATIENCE = 20
"""Blocks in a row without progress after which the splitting ends."""

_PROGRESS = 0.9
"""A gap above this share of the last has not moved."""

_SEARCHES = 2
"""Descents from a perturbation of the best factor, worth 1e-6 to 1e-4 of the value."""

_SEARCHED_TOL = 1e-4
"""Largest ``tol`` for which they are made."""

_IMPRECISE = 3
"""Blocks without progress after which a splitting in float32 goes on in float64."""


@dataclass(frozen=True)
class Patience:
    """The gap when it last moved, and the checks since."""

    mark: float = math.inf
    idle: int = 0

    def after(self, gap: float, share: float) -> Patience:
        """After a check; a gap above this share of the mark has not moved."""
        return Patience(gap) if gap < share * self.mark else Patience(self.mark, self.idle + 1)


@dataclass(frozen=True)
class Relaxed:
    """The best doubly nonnegative Q so far, feasible, and its value in (7), per datapoint."""

    similarity: torch.Tensor
    value: float


@dataclass(frozen=True)
class PairState:
    """Both halves of the solve, and the best of each so far.

    Attributes
    ----------
    factors
        What is being descended on: B of ``Q = BBᵀ``, B ≥ 0.
    value, best
        The value attained at ``factors``, and the best factors so far with theirs.
    cone, data
        The splitting's iterate and its data; None before it begins.
    dual, relaxed
        The best dual point and the best relaxed Q so far.
    rounds
        In this phase.
    patience
        With the solver's gap, in rounds of the splitting.
    phase
        ``"descend"``, ``"split"``, ``"round"``, ``"search"`` or ``"done"``.
    closed
        Whether the solver's gap is within tol.
    reached
        Lowest value and highest bound of the latest evaluation.
    closing
        The gap that improvements left when they were last made, as a share of the gap they began with.
    """

    factors: FactorState
    value: float
    best: tuple[float, FactorState]
    dual: DualPoint
    cone: splitting.ConeState | None = None
    data: splitting.ConeData | None = None
    relaxed: Relaxed | None = None
    rounds: int = 0
    patience: Patience = field(default_factory=Patience)
    phase: str = "descend"
    closed: bool = False
    reached: tuple[float, float] = (math.inf, 0.0)
    closing: float = 0.0

    @property
    def relaxed_value(self) -> float:
        """The lowest value known of a doubly nonnegative Q; a dictionary and codes have one too."""
        return self.best[0] if self.relaxed is None else min(self.relaxed.value, self.best[0])

    @property
    def solver_gap(self) -> float:
        """Between that value and the dual bound."""
        return relative_gap(self.relaxed_value, self.dual.bound)


@dataclass(frozen=True)
class DoublyNonnegative:
    """Close the solver's gap of the large dictionary, and say what the relaxation's own gap is.

    Three phases. *Descend*: a few rounds of :class:`Factorized` give a dictionary and codes, hence an upper bound and
    a starting point. *Split*: :mod:`~cvxsae.solvers.convex.large.admm` solves the doubly nonnegative relaxation from
    there; every ten steps its dual point is made feasible (T11, :func:`pencil_bound`) and its Q too, until the two
    values are within ``tol`` of each other. *Round*: a dictionary and codes are read off Q (nonnegative pivoted
    Cholesky), descended on, and the better of both answers is kept; for a tol of 1e-4 or less and up to 300 datapoints
    two perturbations of it are descended on too.

    In up to three dimensions :class:`~cvxsae.solvers.convex.large.column_generation.Directions` does better.

    The answer is CERTIFIED when the value attained by dictionary and codes is within ``tol`` of the bound; RELAXED when
    only the solver's gap closed, so that the rest is the relaxation's, or a dictionary's that was not found.
    Failures: STALLED when the splitting stops making progress above ``tol``; the time limit is checked between
    rounds of ten steps.

    Parameters
    ----------
    tol
        Relative gap at which the splitting ends.
    warm
        A factor B (N, K) to begin at; default: one atom per datapoint (T12), then the polar's directions.
    single_precision_order
        Order of the cone from which the splitting begins in float32, which is twice as fast; proofs are in float64.
    """

    tol: float = 1e-6
    warm: torch.Tensor | None = None
    single_precision_order: int = 1500

    name = "splitting"
    default_iterations = 2_000
    first_check = 1
    patience = 10**9
    bound_stands: ClassVar[Literal[True]] = True

    def init(self, problem: LargeDictionary, device: torch.device) -> PairState:
        """The factorized solver's start, or the warm one."""
        factors = Factorized().init(problem, device)
        if self.warm is not None:
            factors = replace(factors, factor=self.warm.to(factors.factor))
        nothing = replace(factors, factor=factors.factor[:, :0])
        worth = [(attained(problem, point), point) for point in (factors, nothing)]
        best = min(worth, key=lambda pair: pair[0])
        return PairState(factors, worth[0][0], best, _row_dual(problem, best[1]))

    def step(self, problem: LargeDictionary, state: PairState) -> PairState:
        """One round of descent, ten steps of splitting, or one round of rounding."""
        if state.phase == "split":
            return self._split(problem, state)
        if state.phase == "search":
            return self._search(problem, state)
        before, is_last = state.value, state.phase == "round"
        state = self._descend(problem, state)
        steps = state.cone.iteration if is_last and state.cone is not None else None
        allowed = most_rounds(problem, state.factors.factor.shape[1], steps)
        settled = is_settled(problem, state.value, before, self.tol, is_last=is_last)
        if not settled and state.rounds < allowed:
            return state
        if state.phase == "descend":
            return self._begin_split(problem, state)
        left = relative_gap(state.best[0], state.dual.bound) > self.tol
        searching = left and problem.n_points <= SMALL and self.tol <= _SEARCHED_TOL
        return replace(state, phase="search" if searching else "done", rounds=0)

    def _search(self, problem: LargeDictionary, state: PairState) -> PairState:
        """One more descent from a perturbation of the best factor, worth 1e-6 to 1e-4 of the value."""
        state = replace(searched(problem, state, state.rounds), rounds=state.rounds + 1)
        return replace(state, phase="done") if state.rounds >= _SEARCHES else state

    def _descend(self, problem: LargeDictionary, state: PairState) -> PairState:
        factors = descended(problem, state.factors, self.tol, is_last=state.phase == "round")
        value = attained(problem, factors)
        best = (value, factors) if value < state.best[0] else state.best
        dual = state.dual if state.cone is not None else state.dual.or_better(_row_dual(problem, factors))
        return replace(state, factors=factors, value=value, best=best, dual=dual, rounds=state.rounds + 1)

    def _begin_split(self, problem: LargeDictionary, state: PairState) -> PairState:
        factors = state.best[1]
        data = _cone_data(problem, state)
        if sum(data.data.shape) >= self.single_precision_order:
            data = data.to(torch.float32)
        fit = fit_factor(problem, factors.factor, factors.data)
        cone = splitting.start(data, factors.factor, factors.factor @ fit.atoms, fit.atoms)
        return _evaluate(problem, replace(state, cone=cone, data=data, phase="split", rounds=0), self.tol)

    def _split(self, problem: LargeDictionary, state: PairState) -> PairState:
        many = problem.n_points > _LARGE
        state = _evaluate(problem, _advanced(state, _BLOCK // 2 if many else _BLOCK, balanced=not many), self.tol)
        cone = state.cone
        assert cone is not None
        patience = state.patience.after(state.solver_gap, _PROGRESS)
        state = replace(state, patience=patience)
        if patience.idle >= _IMPRECISE and cone.cone.dtype == torch.float32:
            again = Patience(patience.mark)
            cone, data = cone.to(torch.float64), _cone_data(problem, state)
            return replace(state, cone=cone, data=data, patience=again, closing=0.0)
        closed = state.solver_gap <= self.tol
        if not closed and patience.idle < _PATIENCE:
            return state
        assert state.relaxed is not None
        factors = replace(state.factors, factor=rounded(problem, state.relaxed.similarity, cone.rank))
        state = replace(state, closed=closed, factors=factors, phase="round", rounds=0)
        return replace(state, value=attained(problem, factors))

    def bounds(self, problem: LargeDictionary, state: PairState) -> tuple[float, float]:
        """The best value and the best bound so far."""
        return state.best[0], state.dual.bound

    def relaxed_value(self, state: PairState) -> float:
        """The lowest value so far of a doubly nonnegative Q."""
        return state.relaxed_value

    def verdict(self, problem: LargeDictionary, state: PairState) -> Status | None:
        """When it is done: RELAXED if the solver's gap is within tol, STALLED if not."""
        if state.phase != "done":
            return None
        return Status.RELAXED if state.closed else Status.STALLED

    def finish(self, problem: LargeDictionary, state: PairState) -> Candidate:
        """The best dictionary and codes, tidied; the best dual point with its proof; the best relaxed Q."""
        point = tidy(problem, problem.from_factor(as_numpy(state.best[1].factor)))
        relaxed = state.relaxed
        lowest = relaxed is not None and relaxed.value < state.best[0]
        return replace(
            point,
            dual=as_numpy(state.dual.Y),
            proof=state.dual.proof,
            similarity=as_numpy(relaxed.similarity) if relaxed is not None and lowest else problem.similarity(point),
        )

    def info(self, state: PairState) -> dict[str, Any]:
        """Steps of the splitting, rank of its Q, and the precision it ended in."""
        if state.cone is None:
            return {"splitting_steps": 0}
        return {
            "splitting_steps": state.cone.iteration,
            "rank": state.cone.rank,
            "precision": str(state.cone.cone.dtype).removeprefix("torch."),
        }


def _cone_data(problem: LargeDictionary, state: PairState) -> splitting.ConeData:
    offsets = state.factors.data - problem.starting_bias().to(state.factors.data)
    return splitting.cone_data(offsets, problem.lam, problem.atom_cost, centered=problem.bias_is_free)


def searched(problem: LargeDictionary, state: PairState, seed: int) -> PairState:
    """After a descent from a perturbation of the best factor."""
    factors = perturbed(problem, state.best[1], seed)
    value = attained(problem, factors)
    return replace(state, best=(value, factors)) if value < state.best[0] else state


def _row_dual(problem: LargeDictionary, factors: FactorState) -> DualPoint:
    """The residual as a dual point that needs no P: by ``θ°_τ ≤ max_n ‖y_n‖``."""
    Y = problem.centered(fit_factor(problem, factors.factor, factors.data).residual)
    polar = float(torch.linalg.vector_norm(Y, dim=1).max())
    return best_multiple(problem, factors.data, Y, None, polar)


def _advanced(state: PairState, steps: int, *, balanced: bool) -> PairState:
    """After so many steps of the splitting."""
    cone, data = state.cone, state.data
    assert cone is not None and data is not None
    for _ in range(steps):
        cone = splitting.advance(data, cone, balanced=balanced)
    return replace(state, cone=cone, rounds=state.rounds + 1)


def _evaluate(problem: LargeDictionary, state: PairState, tol: float) -> PairState:
    """Make the splitting's dual point and its Q feasible, and keep what is better than before.

    Where the gap is small, the best Y at this P and the other Q that the splitting has are tried. Where it is nearly
    closed, P is improved at a shorter Y, Y again at that P, and last of all Q; but only where those improvements, which
    take as long as ten steps, would come near ``tol`` if they closed as much as the last time.
    """
    cone, data = state.cone, state.data
    assert cone is not None and data is not None
    lam, tau = problem.lam, problem.atom_cost
    state = replace(state, reached=(state.best[0], 0.0))
    Y, P = splitting.dual_point(data, cone)
    dual, polar = _dual(problem, state, Y, P)
    relaxed = _relaxed(problem, state, splitting.feasible_similarity(data, cone))
    state = _with(state, dual, relaxed)
    if problem.n_points > _LARGE and cone.iteration > 0:
        cone = splitting.balanced_by_losses(data, cone, relaxed.value, dual.bound)
        state = replace(state, cone=cone)
    del dual, relaxed  # each holds a matrix of order N
    if not tol < state.solver_gap <= _NEAR * tol:
        return state
    state = _with(state, relaxed=_relaxed(problem, state, splitting.clipped_similarity(data, cone)))
    state = _with_best_residual(problem, state, Y, P, polar)
    if not tol < state.solver_gap <= _NEARER * tol:
        return state
    before = relative_gap(*state.reached)
    if state.closing * before > _HOPE * tol and state.patience.idle < _PATIENCE - 1:
        return replace(state, closing=_FADING * state.closing)
    Y = shorter(Y, lam, polar)
    for _ in range(_IMPROVEMENTS):
        P = improved_multiplier(Y, P, lam, tau, cone.rank, cone.cone.dtype)
    dual, polar = _dual(problem, state, Y, P)
    state = _with(state, dual)
    del dual
    state = _with_best_residual(problem, state, Y, P, polar)
    del P
    if tol < state.solver_gap <= _NEARER * tol:
        state = _with(state, relaxed=_relaxed(problem, state, projected_similarity(data, cone)))
    return replace(state, closing=relative_gap(*state.reached) / before)


def _with(state: PairState, dual: DualPoint | None = None, relaxed: Relaxed | None = None) -> PairState:
    """With a dual point if its bound is higher, and with a relaxed Q if its value is lower."""
    value, bound = state.reached
    if dual is not None:
        bound = max(bound, dual.bound)
        state = replace(state, dual=state.dual.or_better(dual))
    if relaxed is not None:
        value = min(value, relaxed.value)
        if state.relaxed is None or relaxed.value < state.relaxed.value:
            state = replace(state, relaxed=relaxed)
    return replace(state, reached=(value, bound))


def _with_best_residual(
    problem: LargeDictionary, state: PairState, Y: torch.Tensor, P: torch.Tensor, polar: float
) -> PairState:
    """With the best Y at this P, if its bound is higher; ``polar`` is that of the Y at hand."""
    offsets = state.factors.data - problem.starting_bias().to(state.factors.data)
    lam, tau = problem.lam, problem.atom_cost
    assert state.cone is not None
    dtype = state.cone.cone.dtype
    better = best_residual(offsets, Y, P, lam, tau, polar, dtype, centered=problem.bias_is_free)
    return state if better is None else _with(state, _dual(problem, state, *better)[0])


def _dual(problem: LargeDictionary, state: PairState, Y: torch.Tensor, P: torch.Tensor) -> tuple[DualPoint, float]:
    """The best multiple of Y that P proves, and the polar that P proves for Y."""
    total = (Y @ Y.T).add_(P)  # as one matrix: its trace is larger than that of YYᵀ, so the slack for rounding is too
    polar = pencil_bound(total, None, problem.atom_cost, Y.shape[1])
    del total
    return best_multiple(problem, state.factors.data, Y, NonnegativeProof(as_numpy(P)), polar), polar


def _relaxed(problem: LargeDictionary, state: PairState, Q: torch.Tensor) -> Relaxed:
    """Q with its value."""
    offsets = state.factors.data - problem.starting_bias().to(state.factors.data)
    return Relaxed(Q, similarity_value(problem, Q, offsets, best_bias=problem.bias_is_free))
