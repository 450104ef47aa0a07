"""Polishing: full-batch descent on F(D, b) with exact codes, moves, and the way out of saddles.

Descent is a quasi-Newton method (:mod:`~cvxsae.solvers.dictionary.stages.quasi_newton`). Codes are as exact as the
stationarity reached needs them to be. When descent slows, and when it has ended, moves are judged; where the curvature
is asked for, a saddle is left along its escape direction (T5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from cvxsae.relaxations.joint.curvature import Curvature
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.moves import Moves
from cvxsae.solvers.dictionary.stages.quasi_newton import QuasiNewton, retract
from cvxsae.solvers.dictionary.state import CurvaturePair, Evaluation, Polish


@dataclass(frozen=True)
class Polishing:
    """The full-batch stage.

    Attributes
    ----------
    target
        Stationarity to reach.
    second_order
        Compute the least curvature at the end, and leave saddles.
    moves
        The search for moves.
    descent
        One step of descent.
    tightest, loosest
        Relative gaps of the codes, at most and at first.
    gap_per_residual
        Gap of the codes over the square of the stationarity residual: what the gradient's error needs.
    retighten
        Codes are computed again once their gap is so many times what the residual asks for.
    progress
        A residual below this share of the shortest so far is progress.
    patience
        Steps in a row without progress before moves are the last resort.
    fall
        Relative fall of F that is more than rounding.
    rest
        Steps between two rounds of moves, at least.
    slow
        Moves are judged when ``rest`` steps have lowered F by less than this share of its distance to the lower bound.
    worthwhile
        Least fall that a move must bring, as a share of the distance to the lower bound.
    saddle
        Scaled eigenvalue of the Hessian below which a point is a saddle.
    escapes
        Lengths of the steps tried along an escape direction.
    """

    target: float
    second_order: bool = False
    moves: Moves = field(default_factory=Moves)
    descent: QuasiNewton = field(default_factory=QuasiNewton)
    tightest: float = 1e-13
    loosest: float = 1e-6
    gap_per_residual: float = 1e-3
    retighten: float = 30
    progress: float = 0.9
    patience: int = 20
    fall: float = 1e-12
    rest: int = 10
    slow: float = 3e-4
    worthwhile: float = 1e-7
    saddle: float = -1e-4
    escapes: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3)

    def step(self, evaluator: Evaluator, state: Polish) -> Polish:
        """One evaluation, one descent step, or one round of moves."""
        here = state.evaluation
        if here is None:
            return self._at(
                replace(state, warm=None),
                evaluator.evaluate(state.dictionary, state.offset, state.warm, self.loosest),
            )
        worst = evaluator.worst_residual(here)
        tight = max(self.tightest, min(self.loosest, self.gap_per_residual * worst**2))
        if here.codes.tol > self.retighten * tight and here.codes.tol > self.tightest:
            found = evaluator.evaluate(state.dictionary, state.offset, here.codes.codes, tight)
            return self._at(state, found, pairs=state.pairs)
        if worst <= self.target:
            return self._settle(evaluator, state, here)
        is_shorter = worst < self.progress * state.least_residual
        state = replace(
            state, idle=0 if is_shorter else state.idle + 1, least_residual=min(worst, state.least_residual)
        )
        if self._is_due(evaluator, state):
            moved = self._move(evaluator, state, here, tight)
            if moved is not None:
                return moved
            state = replace(state, last_moves=state.step, value_at_moves=state.value)
        descended = self.descent.descend(evaluator, here, state.pairs, tight)
        if descended is not None and state.idle < self.patience:
            found, pairs = descended
            return self._at(state, found, pairs=pairs)
        if here.codes.tol > self.tightest:  # codes that are not exact enough can hide the way down
            return self._at(state, evaluator.evaluate(state.dictionary, state.offset, here.codes.codes, self.tightest))
        moved = self._move(evaluator, state, here, tight)
        return replace(state, is_stuck=True) if moved is None else moved

    def _at(self, state: Polish, found: Evaluation, *, pairs: tuple[CurvaturePair, ...] = ()) -> Polish:
        """The state at a new point. A fall of F beyond rounding is progress, whatever stationarity does."""
        fell = found.value < state.value - self.fall * abs(state.value)
        return replace(
            state,
            dictionary=found.dictionary,
            offset=found.offset,
            evaluation=found,
            pairs=pairs,
            value=min(found.value, state.value),
            idle=0 if fell else state.idle,
        ).counting(steps=1)

    def _is_due(self, evaluator: Evaluator, state: Polish) -> bool:
        """Moves are judged when a while has passed in which descent gained little."""
        since = state.step - state.last_moves
        if since < self.rest or not math.isfinite(state.value_at_moves):
            return since >= self.rest
        distance = state.value - evaluator.summary.lower_bound
        return state.value_at_moves - state.value < self.slow * since * distance / self.rest

    def _settle(self, evaluator: Evaluator, state: Polish, here: Evaluation) -> Polish:
        """Stationary: make the moves that pay, leave a saddle, or be done."""
        moved = self._move(evaluator, state, here, here.codes.tol)
        if moved is not None:
            return moved
        if not self.second_order:
            return replace(state, is_settled=True)
        least, found = self._escape(evaluator, here)
        state = replace(state, least_curvature=least)
        if found is None:
            return replace(state, is_settled=True)
        return self._at(state, found).counting(escapes=1)

    def _move(self, evaluator: Evaluator, state: Polish, here: Evaluation, tol: float) -> Polish | None:
        """Replace some atoms by better ones; None unless F falls by more than rounding."""
        if self.moves.only_dead and bool((here.sums.mass > 0).all()):
            return None
        proposed = self.moves.propose(evaluator, here.dictionary, here.offset, here.codes.codes, state.step)
        if proposed is None:
            return None
        atoms = torch.from_numpy(proposed.dictionary).to(evaluator.device)
        found = evaluator.evaluate(atoms, here.offset, proposed.codes, max(tol, self.tightest))
        if not self._is_worthwhile(evaluator, here, found):
            return None
        after = replace(state, last_moves=state.step, value_at_moves=found.value)
        return self._at(after, found).counting(renewed=len(proposed.replaced))

    def _is_worthwhile(self, evaluator: Evaluator, here: Evaluation, found: Evaluation) -> bool:
        return found.value < here.value - self.worthwhile * (here.value - evaluator.summary.lower_bound)

    def _escape(self, evaluator: Evaluator, here: Evaluation) -> tuple[float, Evaluation | None]:
        """The least curvature, and where following it leads if it is negative."""
        problem = evaluator.problem
        curvature = Curvature(
            problem.X.to_tensor(),
            here.dictionary,
            problem.lam,
            here.codes.codes,
            bias=evaluator.bias(here.offset),
            bias_is_free=problem.bias_is_free,
            device=evaluator.device,
        )
        least = curvature.least(seed=evaluator.seed)
        if not least.eigenvalue < self.saddle:
            return least.eigenvalue, None
        shift = torch.zeros_like(here.offset) if least.bias_direction is None else least.bias_direction
        direction = torch.cat([least.direction, shift[None]])
        for length in self.escapes:
            ends = [
                evaluator.evaluate(
                    *retract(here.variables, sign * length * direction), here.codes.codes, here.codes.tol
                )
                for sign in (1.0, -1.0)
            ]
            best = min(ends, key=lambda end: end.value)
            if self._is_worthwhile(evaluator, here, best):
                return least.eigenvalue, best
        return least.eigenvalue, None
