"""The main loop of all algorithms: limits, finiteness, gap evaluations, history, progress and interruption.

An algorithm supplies ``init``, ``step``, ``bounds`` and ``finish``; it holds no state of its own.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from tqdm.auto import tqdm

from cvxsae.data.deadline import OutOfTime, until
from cvxsae.parallel.context import GRACE, Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.linalg import FactorizationError
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Evaluated, Record, Solution, Status, judge, relative_gap

P = TypeVar("P", bound=Problem, contravariant=True)
S = TypeVar("S")
S_in = TypeVar("S_in", contravariant=True)

_PROGRESS = 1e-3
"""A gap that shrank by less than this share has not moved: it counts against the algorithm's patience. Where the
optimum is zero the relative gap stays at 1, and the difference of value and bound is what moves."""

_NOTHING = 1e-20
"""Of the first value: a difference of value and bound below this is rounding, and no relative gap closes at zero."""

_STRIDE = 4
"""Evaluations are spaced by one part in this many of the iterations done: their cost stays a fraction of the steps'."""


@runtime_checkable
class Algorithm(Protocol, Generic[P, S]):
    """An iterative method for problems of type P with state S."""

    name: str
    default_iterations: int
    first_check: int
    patience: int

    def init(self, problem: P, device: torch.device) -> S:
        """The starting state."""

    def step(self, problem: P, state: S) -> S:
        """One iteration; the state passed in is not used again."""

    def bounds(self, problem: P, state: S) -> tuple[float, float]:
        """Value and certified lower bound at the point that ``finish`` would return now."""

    def finish(self, problem: P, state: S) -> Candidate:
        """The candidate of a state."""

    def info(self, state: S) -> dict[str, Any]:
        """What the algorithm wants to report."""


@runtime_checkable
class Decides(Protocol[P, S_in]):
    """An algorithm that knows when it is done, whatever the gap: one whose own part of the gap has closed, say."""

    def verdict(self, problem: P, state: S_in) -> Status | None:
        """How the solve ended, or None if it goes on."""


@runtime_checkable
class BoundStands(Protocol):
    """An algorithm whose lower bound is that of exactly the dual point that ``finish`` returns, in float64."""

    bound_stands: Literal[True]


@runtime_checkable
class CutsShort(Protocol[P, S_in]):
    """An algorithm whose :meth:`Algorithm.finish` can take long, and that has something quicker for the end of time."""

    def cut_short(self, problem: P, state: S_in) -> Evaluated | None:
        """The candidate with its value and its lower bound; None where ``finish`` is quick."""


@runtime_checkable
class HoldsOut(Protocol[S_in]):
    """An algorithm that evaluates some of its points on rows set aside."""

    def held_out(self, state: S_in) -> float | None:
        """The value there, if it was evaluated at this very state."""


@runtime_checkable
class Relaxes(Protocol[S_in]):
    """An algorithm of two gaps: it keeps the value of its relaxation too, and all three numbers with its state."""

    def relaxed_value(self, state: S_in) -> float:
        """The lowest value so far of a point of the relaxation."""


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What the loop leaves behind.

    Attributes
    ----------
    primal, dual
        The states with the lowest value and the highest lower bound.
    bound
        That lower bound.
    status
        How it ended.
    history
        Value and lower bound over time.
    iterations
        Steps made.
    seconds
        Wall-clock time.
    """

    primal: S
    dual: S
    bound: float
    status: Status
    history: tuple[Record, ...]
    iterations: int
    seconds: float


def iterate(algorithm: Algorithm[P, S], problem: P, tol: float, run: Run) -> Solution:
    """Run an algorithm until its certified relative gap is within ``tol`` or a limit is met, and judge where it ends.

    The lowest value and the highest bound seen are kept, each with its point: any dual point certifies any primal one.
    """
    is_mine = run.is_outermost and problem.group.is_alone

    def nothing(status: Status) -> Solution:
        """No codes, which are a point too; not even a bound is worth the time that is over."""
        bound = None if status is Status.BREAKDOWN else 0.0
        found = Evaluated(problem.zero_candidate(), bound=bound)
        return judge(problem, found, status, tol=tol, solver=algorithm.name)

    try:
        outcome = run_loop(algorithm, problem, tol, run, every_step=isinstance(algorithm, Relaxes))
    except OutOfTime:  # before there was a point to return
        return nothing(Status.TIME_LIMIT)
    except FactorizationError:
        return nothing(Status.BREAKDOWN)
    except KeyboardInterrupt:
        if not is_mine:
            raise
        return nothing(Status.INTERRUPTED)
    if outcome.status is Status.INTERRUPTED and not outcome.history:  # in the first evaluation
        return nothing(Status.INTERRUPTED)
    try:
        return _judged(algorithm, problem, outcome, tol, run)
    except FactorizationError:
        return nothing(Status.BREAKDOWN)
    except KeyboardInterrupt:  # what was reached is there: a second one passes through
        if not is_mine:
            raise
        return _judged(algorithm, problem, replace(outcome, status=Status.INTERRUPTED), tol, run)


def _judged(algorithm: Algorithm[P, S], problem: P, outcome: Outcome[S], tol: float, run: Run) -> Solution:
    """The solution at the best points of a loop; where that was cut short, what stands is not proved a second time."""
    is_cut = outcome.status in (Status.TIME_LIMIT, Status.INTERRUPTED) and problem.group.is_alone
    short = algorithm.cut_short(problem, outcome.primal) if is_cut and isinstance(algorithm, CutsShort) else None
    found: Candidate | Evaluated
    if short is not None:
        found = short
    else:
        candidate = algorithm.finish(problem, outcome.primal)
        if outcome.dual is not outcome.primal and candidate.dual is not None:
            best = algorithm.finish(problem, outcome.dual)
            candidate = replace(candidate, dual=best.dual, proof=best.proof)
        stands = is_cut and isinstance(algorithm, BoundStands)
        relaxed = algorithm.relaxed_value(outcome.primal) if isinstance(algorithm, Relaxes) else None
        found = Evaluated(candidate, None, outcome.bound if stands else None, relaxed) if is_cut else candidate
    return judge(
        problem,
        found,
        outcome.status,
        tol=tol,
        history=outcome.history,
        seconds=outcome.seconds,
        solver=algorithm.name,
        info={"iterations": outcome.iterations, "device": str(run.device), **algorithm.info(outcome.primal)},
    )


def announce(solution: Solution, run: Run) -> Solution:
    """Tell the callback of a solve that has no loop what is in its history; an interrupt of it ends the solve."""
    if run.callback is None:
        return solution
    try:
        for record in solution.history:
            run.callback(record)
    except KeyboardInterrupt:
        if not run.is_outermost:
            raise
        return solution if solution.is_certified else replace(solution, status=Status.INTERRUPTED)
    return solution


def run_loop(algorithm: Algorithm[P, S], problem: P, tol: float, run: Run, *, every_step: bool = False) -> Outcome[S]:
    """The loop itself.

    Value and bound are evaluated at iterations spaced by a growing stride (a quarter of the iterations done), or at
    ``every_step`` where they cost nothing, always at the point that would be returned. ``patience`` evaluations in a
    row without a better gap, relative or absolute, mean STALLED. Processes of a group take each step together, so their
    clocks are asked together and an interrupt ends them all. An interrupt becomes a status in the outermost call only.

    Of one process, a step that the deadline finds unfinished is given up, and so is an evaluation ``GRACE`` seconds
    after it: the best points before are the answer. As long as the longest evaluation took is set aside for the end.

    Raises
    ------
    OutOfTime
        If the deadline passed, by as much, before anything was evaluated.
    """
    start, group = time.perf_counter(), problem.group
    most = algorithm.default_iterations if run.max_steps is None else run.max_steps
    history: list[Record] = []
    bar = tqdm(total=None, disable=not run.progress, desc=f"{problem.name} ({algorithm.name})", unit="it")
    limits = _Limits(run.deadline, is_firm=group.is_alone)
    with limits.of_an_evaluation():
        state = primal = dual = algorithm.init(problem, run.device)
    lowest, highest, best_gap, best_rest = math.inf, -math.inf, math.inf, math.inf
    idle, iteration, next_check = 0, 0, 0
    status = Status.MAX_ITER
    try:
        while True:
            now = time.perf_counter()
            elapsed = now - start
            late = math.isfinite(run.deadline) and group.any(now >= limits.last_step)
            if iteration >= next_check or late or iteration >= most:
                with limits.of_an_evaluation():
                    record = Record(iteration, elapsed, *algorithm.bounds(problem, state))
                if isinstance(algorithm, HoldsOut):
                    record = replace(record, held_out=algorithm.held_out(state))
                if isinstance(algorithm, Relaxes):
                    record = replace(record, relaxed_value=algorithm.relaxed_value(state))
                limits.took(time.perf_counter() - now)
                history.append(record)
                if math.isfinite(record.gap):
                    if record.value <= lowest:
                        lowest, primal = record.value, state
                    if record.lower_bound >= highest:
                        highest, dual = record.lower_bound, state
                if run.callback is not None:  # after the state is kept: it may interrupt
                    run.callback(record)
                if not math.isfinite(record.gap):
                    status = Status.NONFINITE
                    break
                gap = relative_gap(lowest, highest)
                moves = gap < best_gap * (1 - _PROGRESS) or lowest - highest < best_rest * (1 - _PROGRESS)
                idle = 0 if moves else idle + 1
                best_gap, best_rest = min(best_gap, gap), min(best_rest, lowest - highest)
                bar.set_postfix_str(f"value {lowest:.6g}, gap {gap:.1e}", refresh=False)
                if best_gap <= tol:
                    status = Status.CERTIFIED
                    break
                if idle >= algorithm.patience or 0 <= lowest - highest <= _NOTHING * history[0].value:
                    status = Status.STALLED
                    break
                verdict = algorithm.verdict(problem, state) if isinstance(algorithm, Decides) else None
                if verdict is not None:
                    status = verdict
                    break
                next_check = iteration + (1 if every_step else max(algorithm.first_check, iteration // _STRIDE))
            if late:
                status = Status.TIME_LIMIT
                break
            if iteration >= most:
                break
            with limits.of_a_step():
                state = algorithm.step(problem, state)
            iteration += 1
            bar.update()
    except OutOfTime:
        if not history:
            raise
        status = Status.TIME_LIMIT
    except KeyboardInterrupt:
        if not (run.is_outermost and group.is_alone):
            raise
        status = Status.INTERRUPTED
    except FactorizationError:
        if not group.is_alone:
            raise
        status = Status.BREAKDOWN
    finally:
        bar.close()
    return Outcome(primal, dual, highest, status, tuple(history), iteration, time.perf_counter() - start)


class _Limits:
    """The moments at which parts of a loop are given up; never, if other processes would be left waiting."""

    def __init__(self, deadline: float, *, is_firm: bool) -> None:
        self.deadline, self.is_firm, self.longest = deadline, is_firm, 0.0

    @property
    def last_step(self) -> float:
        """When steps end: before the deadline by the time of an evaluation, which what is returned may need again."""
        return self.deadline - self.longest if self.is_firm else self.deadline

    def took(self, seconds: float) -> None:
        """Note how long an evaluation took."""
        self.longest = max(self.longest, seconds)

    def of_a_step(self) -> AbstractContextManager[None]:
        """For the time of a step."""
        return until(self.last_step) if self.is_firm else nullcontext()

    def of_an_evaluation(self) -> AbstractContextManager[None]:
        """For the time of an evaluation."""
        return until(max(self.last_step, time.perf_counter()) + GRACE) if self.is_firm else nullcontext()
