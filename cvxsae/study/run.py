"""Running a study: levels of cells through joblib, each written by its worker as soon as it ends."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.storage import strict_json
from cvxsae.errors import CertificateError, InputError, reason
from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import library_threads, torch_threads
from cvxsae.study.method import CellInput, Outcome, Start
from cvxsae.study.plan import SCHEMA, Cell, arrays_of, plan
from cvxsae.study.proof import proven
from cvxsae.study.registry import CALIBRATION, compute
from cvxsae.study.rows import Rows, rows_of
from cvxsae.study.spec import StudySpec
from cvxsae.study.status import in_words, seconds_left
from cvxsae.study.store import Record, Store
from cvxsae.study.table import table, violations

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm

UNMET = "the cell it needs failed"
"""How the reason of a cell begins that was not computed."""

LEAST_SECONDS = 1.0
"""What the cells that are left share at the least when the time is over: enough to end with something true."""


MOST_JOBS = 10_000
"""Cells at a time and threads of each: more than any machine runs, and few enough to be counted in C."""


@dataclass(frozen=True, kw_only=True)
class HowToRun:
    """What changes how a study runs, and no answer.

    Attributes
    ----------
    n_jobs, threads
        Cells at a time, as in :class:`joblib.Parallel`, and threads of each.
    device
        Where cells compute.
    retry_failed
        Whether to compute failed cells again.
    progress
        Whether to show a progress bar.
    deadline
        When the whole run must end, on the clock of ``time.perf_counter``; the cells that are left share the time.
    ended
        Called with every cell that has ended and its record.
    """

    n_jobs: int | None = None
    threads: int | None = None
    device: str | torch.device | None = None
    retry_failed: bool = False
    progress: bool = False
    deadline: float = math.inf
    ended: Callable[[Cell, Record], None] | None = None

    def __post_init__(self) -> None:
        arguments.flag(self.progress, "progress")
        arguments.flag(self.retry_failed, "retry_failed")
        arguments.compute_device(self.device)
        if self.n_jobs is not None and arguments.count(self.n_jobs, "n_jobs", least=-MOST_JOBS, most=MOST_JOBS) == 0:
            raise InputError("n_jobs is 0; pass a number of cells at a time, or -1 for one a core.")

    def jobs(self) -> int:
        """Cells at a time, as a number."""
        import joblib

        return max(1, joblib.effective_n_jobs(self.n_jobs))

    def threads_of_a_cell(self) -> int:
        """By default the cores shared out over the cells that run at a time."""
        import joblib

        if self.threads is not None:
            return arguments.count(self.threads, "threads", most=MOST_JOBS)
        return max(1, joblib.cpu_count() // self.jobs())


@dataclass(frozen=True)
class Task:
    """A cell with all it needs: what it starts from travels along, data are made from their recipe."""

    cell: Cell
    folder: str
    token: str
    threads: int
    lam: float | None = None
    start: Start | None = None
    warm_from: str | None = None
    note: str | None = None
    failure: str | None = None
    arrays: Mapping[str, Activations] = field(default_factory=dict)
    device: str | torch.device | None = None
    seconds: float | None = None


def run(study: StudySpec, folder: str | Path, how: HowToRun) -> pd.DataFrame:
    """See :meth:`ScaleStudy.run <cvxsae.ScaleStudy.run>`."""
    from tqdm.auto import tqdm

    threads, store = how.threads_of_a_cell(), Store(folder)
    cells = plan(study)  # before anything is written: the data can be refused
    with store.locked() as token:
        store.write_plan(study.to_dict(), cells)
        driver = _Driver(study, store, cells, token, threads, how)
        try:
            with tqdm(total=len(cells), disable=not how.progress, desc=f"study {study.name}", unit="cell") as bar:
                driver.run(bar)
        finally:  # interrupted or not, the table says what there is
            found = table(cells, store)
            store.write_table(found)
    return found


@dataclass
class _Driver:
    """One run over the levels of a plan."""

    study: StudySpec
    store: Store
    cells: Sequence[Cell]
    token: str
    threads: int
    how: HowToRun
    records: dict[str, Record] = field(default_factory=dict)

    def run(self, bar: tqdm) -> None:
        """Level after level; what is there already counts as done."""
        for cell in self.cells:
            known = self.store.record(cell.id, partial(proven, cell, self._run(), partial(self._data, cell)))
            if known is not None and not (self.how.retry_failed and known["status"] == "failed"):
                self.records[cell.id] = known
                if self.how.ended is not None:
                    self.how.ended(cell, known)
        bar.update(len(self.records))
        for level in sorted({cell.level for cell in self.cells}):
            waiting = [cell for cell in self.cells if cell.level == level and cell.id not in self.records]
            for record in self._computed(waiting):
                self._keep(record, bar)

    def _run(self) -> Run:
        """How what is kept is coded again: whatever the time, as what was finished is not lost."""
        return Run(device=arguments.compute_device(self.how.device), is_outermost=False)

    def _data(self, cell: Cell) -> Rows:
        return rows_of(dict(cell.source), cell.n_points, cell.share, arrays_of(self.study, cell.source))

    def _keep(self, record: Record, bar: tqdm) -> None:

        arrays = record.pop("arrays", None)
        if arrays is not None:  # its worker does not see the folder
            self.store.write(record, arrays)
        self.records[record["id"]] = record
        cell = next(cell for cell in self.cells if cell.id == record["id"])
        said = [f"failed: {cell}: {record['reason']}"] if record["status"] == "failed" else []
        said += [f"VIOLATION: {cell}: {sentence}" for sentence in violations(self.records, self.cells, cell)]
        for line in () if bar.disable else said:  # a table says it too
            bar.write(line, file=sys.stderr)
        left = seconds_left(self.cells, self.records, self.how.jobs())
        bar.set_postfix_str("" if left is None else f"about {in_words(left)} left", refresh=False)
        bar.update()
        if self.how.ended is not None:
            self.how.ended(cell, record)

    def _task(self, cell: Cell) -> Task:
        """The cell with λ and start, or with the reason why it cannot be computed."""
        lam, start, warm_from, note, failure = cell.lam, None, None, None, None
        for needed in cell.needs:
            record = self.records[needed]
            if record["status"] == "failed":
                said = record["reason"]
                failure = said if said.startswith(UNMET) else f"{UNMET} ({said})"
            elif record["method"] == CALIBRATION.name:
                lam = record["numbers"]["lam"]
            else:
                start, warm_from = self.store.arrays(needed), needed
                failure = None if start else f"the arrays of the cell it needs, {needed}, are gone"
        if cell.warm is not None:
            done = self.records[cell.warm]["status"] == "done"
            start = self.store.arrays(cell.warm) if done else None
            warm_from = cell.warm if start else None
            why = "has lost its arrays" if done else "failed"
            note = None if start else f"cold start, as cell {cell.warm}, which it would start from, {why}"
        if failure is not None:  # it starts from nothing, as it does not start
            start = warm_from = note = None
        return Task(
            cell=cell,
            folder=str(self.store.folder.absolute()),
            token=self.token,
            threads=self.threads,
            lam=lam,
            start=start,
            warm_from=warm_from,
            note=note,
            failure=failure,
            arrays=arrays_of(self.study, cell.source),
            device=self.how.device,
            seconds=self._seconds(),
        )

    def _seconds(self) -> float | None:
        """The share of a cell in the time that is left for all of them."""
        left, waiting = self.how.deadline - time.perf_counter(), len(self.cells) - len(self.records)
        return None if math.isinf(left) else max(left, LEAST_SECONDS) * self.how.jobs() / max(1, waiting)

    def _computed(self, cells: list[Cell]) -> Iterator[Record]:
        """Records in the order in which cells end. A worker that dies takes its cells along: each is tried alone."""
        ended: set[str] = set()
        if self.how.n_jobs == 1:  # one after the other, each with its share of the time that is left by then
            yield from (run_cell(self._task(cell)) for cell in cells)
            return
        engine_said, tasks = "its worker died", [self._task(cell) for cell in cells]
        try:
            for record in _parallel(tasks, self.how.n_jobs):
                ended.add(record["id"])
                yield record
        except InputError:  # cells catch their own: this is the folder's, which cannot be written
            raise
        except Exception as error:  # and this is the engine's
            engine_said = f"{type(error).__name__}: {reason(error)}"
        for task in tasks:
            known = None if task.cell.id in ended else self.store.record(task.cell.id)
            if task.cell.id in ended:
                continue
            if known is not None and not (known["status"] == "failed" and self.how.retry_failed):
                yield known
                continue
            try:
                yield from _parallel([task], 2 if self.how.n_jobs in (None, 1) else self.how.n_jobs)
            except Exception:
                record = _failed(task.cell, f"{engine_said} (also when tried alone).")
                self.store.write(record, {})
                yield record


def _parallel(tasks: list[Task], n_jobs: int | None) -> Iterable[Record]:
    import joblib

    if not tasks:
        return ()
    return joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="all")(
        joblib.delayed(run_cell)(task) for task in tasks
    )


def run_cell(task: Task) -> Record:
    """Compute a cell and write it, wherever this runs; whatever goes wrong is its record.

    Where the folder cannot be seen from here the arrays are in the record under ``arrays``, for the driver to write.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    cell, outcome, why = task.cell, Outcome({}), task.failure
    violated: str | None = None
    if why is None:
        try:
            with torch_threads(task.threads), library_threads(task.threads):
                outcome = compute(_input(task))
        except CertificateError as error:
            why = violated = f"CertificateError: {error}"
        except Exception as error:  # a failed cell must not stop the others
            why = _in_words(error)
    record = {
        **_failed(cell, why),
        "status": "done" if why is None else "failed",
        "numbers": {"lam": task.lam, **strict_json(outcome.numbers)},
        "objections": [violated] if violated else list(outcome.objections),
        "ledger": strict_json(outcome.ledger) if outcome.ledger else None,
        "held_out_ledger": strict_json(outcome.held_out_ledger) if outcome.held_out_ledger else None,
        "warm_from": task.warm_from,
        "note": task.note,
        "threads": task.threads,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    store = Store(task.folder)
    if store.is_held_with(task.token):
        store.write(record, outcome.arrays)
        return record
    return {**record, "arrays": outcome.arrays}


def _input(task: Task) -> CellInput:
    cell = task.cell
    rows = rows_of(dict(cell.source), cell.n_points, cell.share, task.arrays)
    if rows.digest != cell.data_hash or rows.set_aside != cell.held_out:
        raise InputError(
            f"data {cell.data!r} differ here from those the study was planned with; give workers the same."
        )
    assert task.lam is not None or cell.method == CALIBRATION.name
    start = None if task.start is None else (np.array(task.start[0]), np.array(task.start[1]))  # joblib's are read-only
    return CellInput(
        method=cell.method,
        X=rows.X,
        held_out=rows.held_out,
        groups=rows.groups,
        held_out_groups=rows.held_out_groups,
        confidence=rows.confidence,
        n_seen=rows.n_seen,
        lam=math.nan if task.lam is None else task.lam,
        bias=cell.bias,
        options=cell.options,
        n_atoms=cell.n_atoms,
        atom_cost=cell.atom_cost,
        target_l0=cell.target_l0,
        start=start,
        run=Run(
            device=arguments.compute_device(task.device),
            deadline=math.inf if task.seconds is None else time.perf_counter() + task.seconds,
            seed=cell.seed or 0,
            is_outermost=False,
        ),
    )


def _failed(cell: Cell, why: str | None) -> Record:
    """The record of a cell that has no numbers; of one that has, the rest is filled in."""
    nothing = dict.fromkeys(("ledger", "held_out_ledger", "warm_from", "note", "threads"))
    return {
        "schema": SCHEMA,
        "id": cell.id,
        "method": cell.method,
        "status": "failed",
        "reason": why,
        "numbers": {},
        "objections": [],
        **nothing,
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "versions": versions(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _in_words(error: Exception) -> str:
    said = str(error) if isinstance(error, InputError) else reason(error)
    return f"{type(error).__name__}: {said}" if said != type(error).__name__ else said


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What computed a cell."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("cvxsae", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            found[package] = __import__(package).__version__
    return found
