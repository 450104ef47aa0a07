"""The one loop: limits, finiteness, the schedule of gap evaluations, history, progress and interruption.

An algorithm supplies ``init``, ``step``, ``bounds`` and ``finish``; it holds no state of its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from tqdm.auto import tqdm

from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.linalg import FactorizationError
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Record, Solution, Status, judge, relative_gap

P = TypeVar("P", bound=Problem, contravariant=True)
S = TypeVar("S")
S_in = TypeVar("S_in", contravariant=True)

_PROGRESS = 1e-3
"""A gap that shrank by less than this share has not moved: it counts against the algorithm's patience."""

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


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What the loop leaves behind.

    Attributes
    ----------
    primal, dual
        The states with the lowest value and the highest lower bound.
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
    status: Status
    history: tuple[Record, ...]
    iterations: int
    seconds: float


def iterate(algorithm: Algorithm[P, S], problem: P, tol: float, run: Run) -> Solution:
    """Run an algorithm until its certified relative gap is within ``tol`` or a limit is met, and judge where it ends.

    The lowest value and the highest bound seen are kept, each with its point: any dual point certifies any primal one.
    """
    try:
        outcome = run_loop(algorithm, problem, tol, run)
        candidate = algorithm.finish(problem, outcome.primal)
        if outcome.dual is not outcome.primal and candidate.dual is not None:
            best = algorithm.finish(problem, outcome.dual)
            candidate = replace(candidate, dual=best.dual, proof=best.proof)
    except FactorizationError:  # before there was a point to return, or on the way out: no codes are one too
        return judge(problem, problem.zero_candidate(), Status.BREAKDOWN, tol=tol, solver=algorithm.name)
    except KeyboardInterrupt:
        if not (run.is_outermost and problem.group.is_alone):
            raise
        return judge(problem, problem.zero_candidate(), Status.INTERRUPTED, tol=tol, solver=algorithm.name)
    return judge(
        problem,
        candidate,
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
    row without a better gap mean STALLED. Processes of a group take each step together, so their clocks are asked
    together and an interrupt ends them all. An interrupt becomes a status in the outermost call only.
    """
    start, group = time.perf_counter(), problem.group
    most = algorithm.default_iterations if run.max_steps is None else run.max_steps
    history: list[Record] = []
    bar = tqdm(total=None, disable=not run.progress, desc=f"{problem.name} ({algorithm.name})", unit="it")
    state = primal = dual = algorithm.init(problem, run.device)
    lowest, highest, best_gap = math.inf, -math.inf, math.inf
    idle, iteration, next_check = 0, 0, 0
    status = Status.MAX_ITER
    try:
        while True:
            now = time.perf_counter()
            elapsed = now - start
            late = math.isfinite(run.deadline) and group.any(now >= run.deadline)
            if iteration >= next_check or late or iteration >= most:
                record = Record(iteration, elapsed, *algorithm.bounds(problem, state))
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
                idle = 0 if gap < best_gap * (1 - _PROGRESS) else idle + 1
                best_gap = min(best_gap, gap)
                bar.set_postfix_str(f"value {lowest:.6g}, gap {gap:.1e}", refresh=False)
                if best_gap <= tol:
                    status = Status.CERTIFIED
                    break
                if idle >= algorithm.patience:
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
            state = algorithm.step(problem, state)
            iteration += 1
            bar.update()
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
    return Outcome(primal, dual, status, tuple(history), iteration, time.perf_counter() - start)
