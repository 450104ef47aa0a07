"""The numbers of done, failed and missing cells, and the estimated time for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvxsae.study.plan import Cell
from cvxsae.study.store import Record, Store

MOST_SECONDS, MOST_MINUTES = 90, 90
"""Up to so many seconds a time is given in seconds, up to so many minutes in minutes."""


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Attributes
    ----------
    name
        Of the study.
    counts
        By method: how many cells are done, failed and missing.
    reasons
        Why cells failed, by cell in words.
    seconds_left
        One cell at a time, from the cells that are done; None if nothing is known.
    """

    name: str
    counts: dict[str, dict[str, int]]
    reasons: dict[str, str]
    seconds_left: float | None

    def total(self, what: str) -> int:
        """Cells that are ``done``, ``failed`` or ``missing``."""
        return sum(count[what] for count in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        totals = {what: self.total(what) for what in ("done", "failed", "missing")}
        own = {"methods": self.counts, "reasons": self.reasons, "seconds_left": self.seconds_left}
        return {"name": self.name, **totals, **own}

    def __str__(self) -> str:
        done, failed, missing = (self.total(what) for what in ("done", "failed", "missing"))
        lines = [f"study {self.name}: {done} cells done, {failed} failed, {missing} missing"]
        for method, count in self.counts.items():
            parts = ", ".join(f"{number} {what}" for what, number in count.items() if number)
            lines.append(f"  {method:<17}{parts}")
        lines += [f"  failed: {cell}: {why}" for cell, why in self.reasons.items()]
        if missing:
            left = "unknown" if self.seconds_left is None else f"about {in_words(self.seconds_left)}"
            lines.append(f"  time left, one cell at a time: {left}")
        return "\n".join(lines)


def status_of(name: str, cells: Sequence[Cell], store: Store) -> StudyStatus:
    """Read the records of a plan."""
    records = {cell.id: record for cell in cells if (record := store.record(cell.id)) is not None}
    counts: dict[str, dict[str, int]] = {}
    reasons = {}
    for cell in cells:
        record = records.get(cell.id)
        what = "missing" if record is None else record["status"]
        count = counts.setdefault(cell.method, {"done": 0, "failed": 0, "missing": 0})
        count[what] += 1
        if record is not None and what == "failed":
            reasons[str(cell)] = record["reason"]
    return StudyStatus(name, counts, reasons, seconds_left(cells, records, 1))


def seconds_left(cells: Sequence[Cell], records: Mapping[str, Record], jobs: int) -> float | None:
    """Each missing cell as the done one of its method that is nearest in size, in proportion to N K.

    Where none is done: its time limit, else the mean of all that are.
    """
    ended = [cell for cell in cells if cell.id in records]
    done = [(cell, records[cell.id]["seconds"]) for cell in ended if records[cell.id]["status"] == "done"]
    missing = [cell for cell in cells if cell.id not in records]
    if not missing:
        return 0.0
    if not done:
        return None
    mean = math.fsum(seconds for _, seconds in done) / len(done)
    return math.fsum(_guess(cell, done, mean) for cell in missing) / jobs


def _guess(cell: Cell, done: Sequence[tuple[Cell, float]], mean: float) -> float:
    limits = [float(value) for key, value in cell.options.items() if key in ("max_seconds", "search_seconds")]
    alike = [(other, seconds) for other, seconds in done if other.method == cell.method]
    if not alike:
        return sum(limits) or mean
    nearest, seconds = min(alike, key=lambda pair: abs(math.log(_size(pair[0]) / _size(cell))))
    guess = seconds * _size(cell) / _size(nearest)
    return min(guess, max(sum(limits), seconds)) if limits else guess


def _size(cell: Cell) -> float:
    return float(cell.n_points * (cell.n_atoms or 1))


def in_words(seconds: float) -> str:
    """A time in words."""
    if seconds < MOST_SECONDS:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < MOST_MINUTES * 60 else f"{seconds / 3600:.1f} h"
