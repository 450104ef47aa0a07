"""Computing batches one after the other or in parallel, and keeping them in a folder that processes may share."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cvxsae.data import arguments
from cvxsae.data.atomic import one_sentence
from cvxsae.data.storage import Folder
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import library_threads, torch_threads
from cvxsae.population.cells import BatchFloor, Question, record_of
from cvxsae.relaxations.solution import Status

if TYPE_CHECKING:
    import torch

    from cvxsae.population.draws import Batch, Draws

KIND = "the batches of a population floor"
"""What the folder says it holds."""

MOST_JOBS = 10_000
"""Batches at a time: more than any machine runs, and few enough to be counted in C."""

MOST_WAITING = 8
"""Batches that other processes have in hand and whose rows are remembered: then the first of them is waited for."""

AHEAD = "2 * n_jobs"
"""Batches that are drawn before they are wanted, as joblib counts them: memory stays that of a few batches."""


@dataclass(frozen=True)
class Outcome:
    """What became of the batches: the first ones in their order, without a gap.

    Attributes
    ----------
    floors
        Of batches 0, 1, 2 and so on.
    status
        ``TIME_LIMIT`` or ``INTERRUPTED`` where that ended the work; None where every batch is there.
    """

    floors: tuple[BatchFloor, ...]
    status: Status | None


@dataclass(frozen=True)
class Task:
    """A batch with all that is needed to floor it, here or elsewhere."""

    batch: Batch
    question: Question
    folder: Folder | None
    seed: int
    device: torch.device
    until: float
    """When to give up, on the clock of ``time.time``, which processes of a machine share."""

    def run(self) -> Run:
        """How the floor is searched."""
        left = self.until - time.time()
        return Run(device=self.device, deadline=time.perf_counter() + left, seed=self.seed, is_outermost=False)


@dataclass(frozen=True)
class Busy:
    """Another process has the batch in hand."""


def jobs_of(value: Any) -> int:
    """Batches at a time, as :class:`joblib.Parallel` counts them."""
    if value is None:
        return 1
    count = arguments.count(value, "jobs", least=-MOST_JOBS, most=MOST_JOBS)
    if count == 0:
        raise InputError("jobs is 0; pass a number of batches at a time, or -1 for one a core.")
    if count == 1:
        return 1
    import joblib

    return max(1, int(joblib.effective_n_jobs(count)))


def floor_batches(draws: Draws, question: Question, run: Run, jobs: int) -> Outcome:
    """The floors of the first batches, as many as time allows.

    Batches are taken in their fixed order and only those before the first one that is missing count, so that which ones
    count does not depend on what they are worth. One that the deadline cuts short counts only if it is the first.
    """
    asked = {**question.mark(), **draws.mark()}
    folder = None if run.folder is None else Folder(run.folder, KIND, asked)
    return _Work(draws, question, run, jobs, folder).outcome()


@dataclass
class _Work:
    draws: Draws
    question: Question
    run: Run
    jobs: int
    folder: Folder | None
    found: dict[int, BatchFloor] = field(default_factory=dict)
    waiting: list[Batch] = field(default_factory=list)

    def outcome(self) -> Outcome:
        from tqdm.auto import tqdm

        status, total = None, self.draws.total()
        try:
            with (
                tqdm(total=total, disable=not self.run.progress, desc="population floor", unit="batch") as bar,
                closing(self._cells()) as cells,
            ):
                if not all(self._keep(batch, cell, bar) for batch, cell in cells):
                    status = Status.TIME_LIMIT
        except KeyboardInterrupt:
            if not self.run.is_outermost or 0 not in self.found:
                raise
            status = Status.INTERRUPTED
        floors: list[BatchFloor] = []
        while len(floors) in self.found:
            floors.append(self.found[len(floors)])
        return Outcome(tuple(floors), status)

    def _keep(self, batch: Batch, cell: BatchFloor | None, bar: Any) -> bool:
        """Count a batch; whether to go on."""
        if cell is None:
            return False
        self.found[batch.index] = cell
        bar.update()
        return not (batch.index == 0 and self.run.is_late)  # which may have cut it short

    def _cells(self) -> Generator[tuple[Batch, BatchFloor | None]]:
        """Batches with their floors, nearly in order: those that others have in hand come later."""
        with closing(self._here() if self.jobs == 1 else self._parallel()) as cells:
            for batch, cell in cells:
                if not isinstance(cell, Busy):
                    yield batch, cell
                    continue
                self.waiting.append(batch)
                while len(self.waiting) > MOST_WAITING:
                    yield self._waited()
        while self.waiting:
            yield self._waited()

    def _waited(self) -> tuple[Batch, BatchFloor | None]:
        batch = self.waiting.pop(0)
        cell = run_cell(self._task(batch), wait=True)
        assert not isinstance(cell, Busy)
        return batch, cell

    def _here(self) -> Generator[tuple[Batch, BatchFloor | Busy | None]]:
        for batch in self.draws:
            yield batch, run_cell(self._task(batch))

    def _parallel(self) -> Generator[tuple[Batch, BatchFloor | Busy | None]]:
        import joblib

        threads = max(1, joblib.cpu_count() // self.jobs)
        drawn: dict[int, Batch] = {}
        is_over = False

        def tasks() -> Iterator[Any]:
            for batch in self.draws:
                if is_over:
                    return
                drawn[batch.index] = batch
                yield joblib.delayed(run_on_threads)(self._task(batch), threads)

        cells: Iterable[Any] = joblib.Parallel(n_jobs=self.jobs, return_as="generator", pre_dispatch=AHEAD)(tasks())
        try:
            for index, cell in enumerate(cells):
                yield drawn.pop(index), cell
        finally:  # what has begun ends by its own deadline, and what has not does not begin
            is_over = True
            for _ in cells:
                pass

    def _task(self, batch: Batch) -> Task:
        self.question.require_range(batch.rows, f"batch {batch.index}")
        until = time.time() + self.run.left if math.isfinite(self.run.deadline) else math.inf
        return Task(batch, self.question, self.folder, self.run.seed, self.run.device, until)


def run_on_threads(task: Task, threads: int) -> BatchFloor | Busy | None:
    """:func:`run_cell` in a worker, on its share of the cores."""
    with torch_threads(threads), library_threads(threads):
        return run_cell(task)


def run_cell(task: Task, *, wait: bool = False) -> BatchFloor | Busy | None:
    """The floor of a batch: as it was kept, if its proof holds, else searched and kept.

    None where the time is over. Where another process has it in hand: :class:`Busy`, unless it is to be waited for.
    """
    batch, run, folder = task.batch, task.run(), task.folder
    if run.is_late and batch.index > 0:
        return None
    if folder is None:
        return _searched(task, run)
    key = f"batch-{batch.index:08d}"
    read = partial(folder.read_as, key, partial(task.question.proven, batch=batch))
    was_there = folder.file(key).exists()
    known = read()
    if known is not None:
        return known
    with _claimed(folder, key, run.left if wait else 0.0) as is_ours:
        if not is_ours:
            return None if wait else Busy()
        known = read() if folder.file(key).exists() and not was_there else None  # another process was faster
        return known if known is not None else _searched(task, run, key)


def _searched(task: Task, run: Run, key: str = "") -> BatchFloor | None:
    """Search the floor, and keep it unless the deadline cut it short or the referee objects."""
    answer = task.question.floor_of(task.batch, run)
    if answer is None:
        return None
    found, proof = answer
    if task.folder is not None and not found.objections and not run.is_late:
        task.folder.write(key, *record_of(task.batch, found, proof))
    return found


@contextmanager
def _claimed(folder: Folder, key: str, seconds: float) -> Iterator[bool]:
    """Hold a batch, so that processes that share the folder do different ones; released when its process ends.

    Where a file system has no locks a batch may be done twice, with the same answer.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.path / f".{key}.lock")
    with one_sentence(folder.path, folder.name), suppress(Timeout):
        lock.acquire(timeout=max(0.0, seconds) if math.isfinite(seconds) else -1)
    try:
        yield lock.is_locked
    finally:
        lock.release()
