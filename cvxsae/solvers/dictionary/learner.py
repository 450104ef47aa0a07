"""The search for the joint optimum: rounds of stochastic and exact minibatches, then full-batch polishing.

*Stochastic steps.* A round begins with stochastic gradient steps (:mod:`~cvxsae.solvers.dictionary.stages.stochastic`):
4 passes over the data in the first, 12 in the second, 36 in the third. If F is not lower after them than before, they
are undone.

*Exact passes.* A round ends with a pass of block coordinate descent (:mod:`~cvxsae.solvers.dictionary.stages.exact`).

*Polishing.* Full-batch quasi-Newton steps on F(D, b) (:mod:`~cvxsae.solvers.dictionary.stages.polish`) until every
stationarity residual (T3) is within the target.

*Moves.* When descent slows, and when it has ended, atoms that are of less use than a new atom (T7) or a split (T8)
would be are replaced by it (:mod:`~cvxsae.solvers.dictionary.moves`); dead atoms at the end of every pass over the
data.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import scipy.sparse as sp
import torch
from jaxtyping import Float64

from cvxsae.data.deadline import OutOfTime, until, whatever_the_time
from cvxsae.parallel.threads import library_threads
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.dictionary.checkpoint import Checkpoint
from cvxsae.solvers.dictionary.evaluator import Evaluator
from cvxsae.solvers.dictionary.stages.exact import ExactPasses, in_order
from cvxsae.solvers.dictionary.stages.polish import Polishing
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps
from cvxsae.solvers.dictionary.state import Evaluation, Exact, Polish, SearchState, State, Stochastic
from cvxsae.solvers.dictionary.watching import Watch

EXACT_CODING = 2
"""Codings of the search that the exact one of the returned point may take (measured: 1.6 times as long)."""

WARM_CODING = 1
"""Codings of the search that an exact one may take which starts from codes nearby."""

COMPARISON = 2
"""Codings that tell whether stochastic steps led down."""

GRACE = 1.0
"""Seconds past its limit that a search may take to code the point it returns."""


def grace(end: float) -> float:
    """The deadline of the last codings."""
    return max(end, time.perf_counter() + GRACE)


@dataclass(frozen=True)
class Learner:
    """The algorithm, for the driver: which stage takes the next step. See the module's first lines.

    Attributes
    ----------
    evaluator
        The problem and passes over its data.
    start
        Dictionary and offset to begin with.
    rounds
        Stochastic passes over the data before each exact one.
    stochastic, exact, polishing
        The stages.
    checkpoint
        Where to keep the state, or None.
    resumed
        A state to go on from.
    watch
        Rows set aside on which the search is watched, or None.
    end
        When the whole call must end, its last coding included.
    """

    evaluator: Evaluator
    start: tuple[Float64[torch.Tensor, "K d"], Float64[torch.Tensor, " d"]]
    rounds: tuple[int, ...]
    polishing: Polishing
    stochastic: StochasticSteps = field(default_factory=StochasticSteps)
    exact: ExactPasses = field(default_factory=ExactPasses)
    checkpoint: Checkpoint | None = None
    resumed: State | None = None
    watch: Watch | None = None
    end: float = math.inf

    name = "dictionary"
    default_iterations = 10**9
    first_check = 1
    patience = 10**9

    # ------------------------------------------------------------------ what the driver asks for

    def init(self, problem: JointProblem, device: torch.device) -> State:
        """Zero codes at the start, or the state that was kept."""
        if self.resumed is not None:
            return self.resumed
        start = self._first(problem)
        return start if self.watch is None else self.watch.follow(self.evaluator, None, start)

    def _first(self, problem: JointProblem) -> State:
        """Zero codes, and the first round if there is one."""
        dictionary, offset = self.start
        value = self.evaluator.no_sums(len(dictionary)).value(dictionary, offset, problem.lam)
        state = Polish(dictionary=dictionary, offset=offset, value=self.evaluator.group.same_number(value))
        if not self.rounds or self.evaluator.summary.n_points <= self.exact.minibatch(problem.n_atoms):
            return state
        try:
            return self._begin_round(state, 0, None)
        except OutOfTime:
            return state

    def step(self, problem: JointProblem, state: State) -> State:
        """One minibatch, one descent step, or one round of moves; nothing where the deadline came before its end."""
        try:
            with library_threads(1, user_api="blas"):
                after = replace(self._step(state), step=state.step + 1)
        except OutOfTime:
            return state
        if self.watch is not None:
            after = self.watch.follow(self.evaluator, state, after)
        if self.checkpoint is not None:
            with whatever_the_time():
                self.checkpoint.offer(after, self.evaluator)
        return after

    def bounds(self, problem: JointProblem, state: State) -> tuple[float, float]:
        """The value at the codes at hand (of the last full evaluation), and the lower bound of every width."""
        return state.value, self.evaluator.summary.lower_bound

    def verdict(self, problem: JointProblem, state: State) -> Status | None:
        """Stationary within the target and no move left that pays; no way down at this precision; or time to end.

        Where no exact codes of all datapoints are at hand, they have to be made in the time that is left.
        """
        if (
            self.watch is not None
            and self.watch.is_over(state)
            and not (isinstance(state, Polish) and state.is_settled)
        ):
            return Status.EARLY_STOPPED
        if not isinstance(state, Polish):
            codings = EXACT_CODING + (COMPARISON if isinstance(state, Stochastic) else 0)
            return Status.TIME_LIMIT if self._is_late(codings, self.end) else None
        if state.is_settled:
            return Status.STATIONARY
        return Status.STALLED if state.is_stuck else None

    def finish(self, problem: JointProblem, state: State) -> Candidate:
        """Dictionary and bias; the caller codes the data once more and certifies that."""
        return Candidate(bias=self.evaluator.bias(state.offset).numpy(), dictionary=state.dictionary.cpu().numpy())

    def info(self, state: State) -> dict[str, Any]:
        """Counters."""
        return dict(state.counts)

    def held_out(self, state: State) -> float | None:
        """F on the rows set aside, where it was evaluated at this very state."""
        seen = state.watched
        return seen.value if seen is not None and seen.last == state.step else None

    # ------------------------------------------------------------------ stages

    def _step(self, state: State) -> State:
        """A step of the state's stage, and the first state of the next stage where that ends this one."""
        if isinstance(state, Polish):
            return self.polishing.step(self.evaluator, state)
        if isinstance(state, Stochastic):
            passes = self.rounds[state.round]
            moved = self.stochastic.step(self.evaluator, state, passes)
            return self._end_stochastic(moved, passes) if self.stochastic.is_finished(moved, passes) else moved
        swept = self.exact.step(self.evaluator, state)
        return self._end_exact(swept) if self.exact.is_finished(swept) else swept

    def _begin_round(self, state: SearchState, number: int, codes: sp.csr_array | None) -> State:
        """Stochastic steps if this round has some, else its exact pass; codes as far as they are known."""
        if self.rounds[number]:
            return self.stochastic.begin(self.evaluator, state, number, codes)
        found = self.evaluator.evaluate(state.dictionary, state.offset, codes, self.exact.code_tol)
        return self.exact.begin(self.evaluator, state, number, found)

    def _end_stochastic(self, state: Stochastic, passes: int) -> State:
        """The exact pass after stochastic steps; where they did not lower F, polishing from where they began."""
        state = state.counting(epochs=passes)
        codes = self._known_codes(state)
        found = self.evaluator.evaluate(state.dictionary, state.offset, codes, self.exact.code_tol)
        start = state.start
        if start is not None and not found.value < start.value:
            back = replace(state, dictionary=start.dictionary, offset=start.offset, value=start.value)
            return Polish(**back.at_hand, warm=start.codes, last_moves=state.step)
        return self.exact.begin(self.evaluator, state, state.round, found)

    def _end_exact(self, state: Exact) -> State:
        """After an exact pass the next round, or polishing."""
        state, codes, has_moved = self.exact.end(self.evaluator, state, self.polishing.moves)
        if state.round >= len(self.rounds):
            return Polish(**state.at_hand, warm=codes, last_moves=state.step)
        if not has_moved and not self.rounds[state.round]:
            return replace(state, part=0)  # another exact pass goes on from these sums
        return self._begin_round(state, state.round, codes)

    def _known_codes(self, state: Stochastic) -> sp.csr_array | None:
        """Codes of all datapoints in the order of the data, if all of them, of all processes, are known."""
        held = tuple(codes for codes in state.codes if codes is not None)
        known = all(self.evaluator.group.gather(len(held) == len(state.codes)))
        return in_order(held, state.minibatches) if known else None

    # ------------------------------------------------------------------ the end

    def _is_late(self, codings: int, end: float, *, unknown: bool = False) -> bool:
        """Whether so many codings of all datapoints would go on past the end, in any process; ``unknown``: or might."""
        evaluator = self.evaluator
        pace = evaluator.pace.seconds or (math.inf if unknown else 0.0)
        late = math.isfinite(end) and time.perf_counter() + codings * pace * evaluator.problem.n_points > end
        return evaluator.group.any(late)

    def better_end(self, state: State, last: float) -> tuple[State, sp.csr_array | None, Evaluation | None]:
        """The point to return, codes that its last coding may start from, and what to return if that is cut off.

        That coding must end by ``last``; where it does not, the better of two points with codes of all datapoints does.
        Stochastic steps that ended early have not grown short: coding all datapoints and one sweep over the atoms, as
        where an exact pass begins, take the noise back. Where F is not lower then than where the steps began, that is
        what is returned.
        """
        if not isinstance(state, Stochastic) or self._is_late(COMPARISON + WARM_CODING, last, unknown=True):
            return state, None, None
        first = last - GRACE / 2  # the rest is for that last coding
        start, evaluator, tol = state.start, self.evaluator.until(first), self.exact.code_tol
        began, codes = (self.start, None) if start is None else ((start.dictionary, start.offset), start.codes)
        try:
            with until(first) if self.evaluator.group.is_alone else nullcontext():
                now = evaluator.evaluate(state.dictionary, state.offset, self._known_codes(state), tol)
                then = evaluator.evaluate(*began, codes, tol)
        except OutOfTime:
            return state, None, None
        whole = now if now.value < then.value else then
        dictionary, offset = self.exact.swept(evaluator, now.sums, state.dictionary, state.offset)
        if now.sums.value(dictionary, offset, self.evaluator.lam) < then.value:
            return replace(state, dictionary=dictionary, offset=offset), now.codes.codes, whole
        return replace(state, dictionary=then.dictionary, offset=then.offset), then.codes.codes, whole
