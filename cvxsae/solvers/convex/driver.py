"""The one loop: limits, finiteness, the schedule of gap evaluations, history, progress and interruption.

An algorithm supplies ``init``, ``step``, ``bounds`` and ``finish``; it holds no state of its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Record, Solution, Status, judge, relative_gap

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from cvxsae.relaxations.candidate import Candidate

P = TypeVar("P", bound=Problem, contravariant=True)
S = TypeVar("S")
S_in = TypeVar("S_in", contravariant=True)


@dataclass(frozen=True)
class Limits:
    """When a solve must end.

    Attributes
    ----------
    tol
        Relative gap to reach, at the point that is returned.
    max_seconds
        Wall-clock limit, or None.
    max_iterations
        Iteration limit, or None for the algorithm's own.
    """

    tol: float = 1e-6
    max_seconds: float | None = None
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        arguments.nonnegative(self.tol, "tol")
        if self.max_seconds is not None:
            arguments.positive(self.max_seconds, "max_seconds")
        if self.max_iterations is not None:
            arguments.count(self.max_iterations, "max_iterations", least=0)


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
class Run(Generic[S]):
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


def iterate(
    algorithm: Algorithm[P, S],
    problem: P,
    limits: Limits,
    *,
    device: torch.device,
    progress: bool = False,
    callback: Callable[[Record], None] | None = None,
    group: ProcessGroup = ALONE,
) -> Solution:
    """Run an algorithm until its certified relative gap is within ``tol`` or a limit is met, and judge where it ends.

    The lowest value and the highest bound seen are kept, each with its point: any dual point certifies any primal one.
    """
    run = run_loop(algorithm, problem, limits, device=device, progress=progress, callback=callback, group=group)
    candidate = algorithm.finish(problem, run.primal)
    if run.dual is not run.primal and candidate.dual is not None:
        proof = algorithm.finish(problem, run.dual)
        candidate = replace(candidate, dual=proof.dual, multipliers=proof.multipliers)
    return judge(
        problem,
        candidate,
        run.status,
        tol=limits.tol,
        history=run.history,
        seconds=run.seconds,
        solver=algorithm.name,
        info={"iterations": run.iterations, "device": str(device), **algorithm.info(run.primal)},
    )


def run_loop(
    algorithm: Algorithm[P, S],
    problem: P,
    limits: Limits,
    *,
    device: torch.device,
    progress: bool = False,
    callback: Callable[[Record], None] | None = None,
    every_step: bool = False,
    group: ProcessGroup = ALONE,
) -> Run[S]:
    """The loop itself.

    Value and bound are evaluated at iterations spaced by a growing stride (a quarter of the iterations done), or at
    ``every_step`` where they cost nothing, always at the point that would be returned. ``patience`` evaluations in a
    row without a better gap mean STALLED. Processes of a group take each step together, so their clocks are asked
    together and an interrupt ends them all.
    """
    start = time.perf_counter()
    most = algorithm.default_iterations if limits.max_iterations is None else limits.max_iterations
    history: list[Record] = []
    bar = tqdm(total=None, disable=not progress, desc=f"{problem.name} ({algorithm.name})", unit="it")
    state = primal = dual = algorithm.init(problem, device)
    lowest, highest, best_gap = math.inf, -math.inf, math.inf
    idle, iteration, next_check = 0, 0, 0
    status = Status.MAX_ITER
    try:
        while True:
            elapsed = time.perf_counter() - start
            late = limits.max_seconds is not None and group.any(elapsed >= limits.max_seconds)
            if iteration >= next_check or late or iteration >= most:
                record = Record(iteration, elapsed, *algorithm.bounds(problem, state))
                history.append(record)
                if math.isfinite(record.gap):
                    if record.value <= lowest:
                        lowest, primal = record.value, state
                    if record.lower_bound >= highest:
                        highest, dual = record.lower_bound, state
                if callback is not None:  # after the state is kept: it may interrupt
                    callback(record)
                if not math.isfinite(record.gap):
                    status = Status.NONFINITE
                    break
                gap = relative_gap(lowest, highest)
                idle = 0 if gap < best_gap * (1 - 1e-3) else idle + 1
                best_gap = min(best_gap, gap)
                bar.set_postfix_str(f"value {lowest:.6g}, gap {gap:.1e}", refresh=False)
                if best_gap <= limits.tol:
                    status = Status.CERTIFIED
                    break
                if idle >= algorithm.patience:
                    status = Status.STALLED
                    break
                verdict = algorithm.verdict(problem, state) if isinstance(algorithm, Decides) else None
                if verdict is not None:
                    status = verdict
                    break
                next_check = iteration + (1 if every_step else max(algorithm.first_check, iteration // 4))
            if late:
                status = Status.TIME_LIMIT
                break
            if iteration >= most:
                break
            state = algorithm.step(problem, state)
            iteration += 1
            bar.update()
    except KeyboardInterrupt:
        if not group.is_alone:
            raise
        status = Status.INTERRUPTED
    finally:
        bar.close()
    return Run(primal, dual, status, tuple(history), iteration, time.perf_counter() - start)
