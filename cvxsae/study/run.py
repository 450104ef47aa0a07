"""Running a study: levels of cells through joblib, each written by its worker as soon as it ends."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.data.storage import strict_json
from cvxsae.errors import reason
from cvxsae.relaxations.solution import CertificateError
from cvxsae.study.datapoints import datapoints
from cvxsae.study.methods import Outcome, Setting, Warm, compute
from cvxsae.study.plan import SCHEMA, Cell
from cvxsae.study.status import seconds_left, told
from cvxsae.study.store import Record, Store
from cvxsae.study.table import table, violations

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.study.spec import ScaleStudy


_UNMET = "the cell it needs failed"


@dataclass(frozen=True)
class Task:
    """A cell with all it needs: what it starts from travels along, data are made from their recipe."""

    cell: Cell
    folder: str
    token: str
    threads: int
    lam: float | None = None
    warm: Warm | None = None
    warm_from: str | None = None
    note: str | None = None
    failure: str | None = None


def run(
    study: ScaleStudy, *, n_jobs: int | None, threads: int | None, retry_failed: bool, progress: bool
) -> pd.DataFrame:
    """See :meth:`ScaleStudy.run`."""
    import joblib

    store = Store(study.folder)
    if n_jobs == 0:
        raise InputError("n_jobs is 0; pass a number of cells at a time, or -1 for one a core.")
    jobs = max(1, joblib.effective_n_jobs(n_jobs))
    each = max(1, joblib.cpu_count() // jobs) if threads is None else arguments.count(threads, "threads")
    cells = study.plan()  # before anything is written: the data can be refused
    with store.locked() as token:
        store.write_plan(study.to_dict(), cells)
        journey = _Journey(store, cells, token, each, n_jobs, retry_failed)
        try:
            with tqdm(total=len(cells), disable=not progress, desc=f"study {study.name}", unit="cell") as bar:
                journey.run(bar)
        finally:  # interrupted or not, the table says what there is
            found = table(cells, store)
            store.write_table(found)
    return found


@dataclass
class _Journey:
    """One run over the levels of a plan."""

    store: Store
    cells: Sequence[Cell]
    token: str
    threads: int
    n_jobs: int | None
    retry_failed: bool

    def run(self, bar: tqdm) -> None:
        """Level after level; what is there already counts as done."""
        self.records: dict[str, Record] = {}
        for cell in self.cells:
            known = self.store.record(cell.id)
            if known is not None and not (self.retry_failed and known["status"] == "failed"):
                self.records[cell.id] = known
        bar.update(len(self.records))
        for level in sorted({cell.level for cell in self.cells}):
            waiting = [cell for cell in self.cells if cell.level == level and cell.id not in self.records]
            for record in self._computed([self._task(cell) for cell in waiting]):
                self._keep(record, bar)

    def _keep(self, record: Record, bar: tqdm) -> None:
        import joblib

        arrays = record.pop("arrays", None)
        if arrays is not None:  # its worker does not see the folder
            self.store.write(record, arrays)
        self.records[record["id"]] = record
        cell = next(cell for cell in self.cells if cell.id == record["id"])
        said = [f"failed: {cell}: {record['reason']}"] if record["status"] == "failed" else []
        said += [f"VIOLATION: {cell}: {sentence}" for sentence in violations(self.records, self.cells, cell)]
        for line in () if bar.disable else said:  # a table says it too
            bar.write(line, file=sys.stderr)
        left = seconds_left(self.cells, self.records, max(1, joblib.effective_n_jobs(self.n_jobs)))
        bar.set_postfix_str("" if left is None else f"about {told(left)} left", refresh=False)
        bar.update()

    def _task(self, cell: Cell) -> Task:
        """The cell with λ and start, or with the reason why it cannot be computed."""
        lam, warm, warm_from, note, failure = cell.lam, None, None, None, None
        for needed in cell.needs:
            record = self.records[needed]
            if record["status"] == "failed":
                reason = record["reason"]
                failure = reason if reason.startswith(_UNMET) else f"{_UNMET} ({reason})"
            elif record["method"] == "calibrate":
                lam = record["numbers"]["lam"]
            else:
                warm, warm_from = self.store.arrays(needed), needed
                failure = None if warm else f"the arrays of the cell it needs, {needed}, are gone"
        if cell.warm is not None:
            done = self.records[cell.warm]["status"] == "done"
            warm = self.store.arrays(cell.warm) if done else None
            warm_from = cell.warm if warm else None
            why = "has lost its arrays" if done else "failed"
            note = None if warm else f"cold start, as cell {cell.warm}, which it would start from, {why}"
        if failure is not None:  # it starts from nothing, as it does not start
            warm = warm_from = note = None
        return Task(
            cell, str(self.store.folder.absolute()), self.token, self.threads, lam, warm, warm_from, note, failure
        )

    def _computed(self, tasks: list[Task]) -> Iterator[Record]:
        """Records in the order in which cells end. A worker that dies takes its cells along: each is tried alone."""
        ended: set[str] = set()
        engine_said = "its worker died"
        try:
            for record in _parallel(tasks, self.n_jobs):
                ended.add(record["id"])
                yield record
        except Exception as error:  # cells catch their own: this is the engine's
            engine_said = f"{type(error).__name__}: {reason(error)}"
        for task in tasks:
            known = None if task.cell.id in ended else self.store.record(task.cell.id)
            if task.cell.id in ended:
                continue
            if known is not None and not (known["status"] == "failed" and self.retry_failed):
                yield known
                continue
            try:
                yield from _parallel([task], 2 if self.n_jobs in (None, 1) else self.n_jobs)
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
    cell, outcome, reason = task.cell, Outcome({}), task.failure
    violated: str | None = None
    if reason is None:
        try:
            with _threads(task.threads):
                outcome = compute(_setting(task))
        except CertificateError as error:
            reason = violated = f"CertificateError: {error}"
        except Exception as error:  # a failed cell must not stop the others
            reason = _told(error)
    record = {
        **_failed(cell, reason),
        "status": "done" if reason is None else "failed",
        "numbers": {"lam": task.lam, **strict_json(outcome.numbers)},
        "objections": [violated] if violated else list(outcome.objections),
        "ledger": strict_json(outcome.ledger) if outcome.ledger else None,
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


def _setting(task: Task) -> Setting:
    cell = task.cell
    X, digest = datapoints(cell.source, cell.n_points)
    if digest != cell.data_hash:
        raise InputError(
            f"data {cell.data!r} differ here from those the study was planned with; give workers the same."
        )
    assert task.lam is not None or cell.method == "calibrate"
    warm = None if task.warm is None else (np.array(task.warm[0]), np.array(task.warm[1]))  # joblib's are read-only
    return Setting(cell, X, math.nan if task.lam is None else task.lam, warm)


def _failed(cell: Cell, reason: str | None) -> Record:
    return {
        "schema": SCHEMA, "id": cell.id, "method": cell.method, "status": "failed", "reason": reason, "numbers": {},
        "objections": [], "ledger": None, "warm_from": None, "note": None, "threads": None, "seconds": 0.0,
        "cpu_seconds": 0.0, "versions": versions(), "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }  # fmt: skip


def _told(error: Exception) -> str:
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


@contextmanager
def _threads(limit: int) -> Iterator[None]:
    """Threads of BLAS, OpenMP and numba in this process."""
    import numba

    before = numba.get_num_threads()
    with threadpool_limits(limits=limit):
        numba.set_num_threads(min(limit, before))
        try:
            yield
        finally:
            numba.set_num_threads(before)
