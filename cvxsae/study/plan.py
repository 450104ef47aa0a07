"""The cells of a study, what each depends on, and an order in which they can run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from cvxsae.data.activations import Activations
from cvxsae.errors import InputError
from cvxsae.study.files import ARRAY
from cvxsae.study.registry import CALIBRATION, METHODS
from cvxsae.study.rows import Rows, rows_of
from cvxsae.study.sources import CONFIDENCE, GENERATORS, GROUPS, HELD_OUT, HELD_OUT_GROUPS
from cvxsae.study.spec import StudySpec

SCHEMA = 2
"""Raised when a method changes so that old cells no longer answer for new ones."""


ID_LENGTH = 16
"""Hexadecimal digits of a cell's name: 64 bits, so that two of a billion cells are alike with a chance of 3 %."""


ONLY_OF_INTERVALS = (CONFIDENCE, HELD_OUT_GROUPS)
"""What is said of held-out rows that decides intervals, and no answer of a method without any."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method at one point of the grid; axes it does not depend on are None.

    Attributes
    ----------
    method
        What is computed; ``calibrate`` finds λ for a target L0.
    data, source, data_hash
        Name, recipe and hash of the datapoints.
    n_points, n_atoms, lam, target_l0, atom_cost, bias, seed
        N, K, λ (or what it is calibrated for), τ, bias, seed.
    options
        Of the method.
    held_out
        What identifies the rows that nothing is learned from (:class:`~cvxsae.study.rows.Rows`); None without any.
    needs
        Cells without which this one cannot be computed: the λ it takes, the dictionary it checks. They decide its
        answer, so they are part of its identity; what it merely starts from is not.
    warm
        The cell whose dictionary it starts from, if that succeeded.
    level
        Cells of one level do not depend on each other, only on those of lower levels.
    """

    method: str
    data: str
    source: Mapping[str, Any]
    data_hash: str
    n_points: int
    dim: int
    n_atoms: int | None = None
    lam: float | None = None
    target_l0: float | None = None
    atom_cost: float | None = None
    bias: str
    seed: int | None = None
    options: Mapping[str, Any]
    held_out: Mapping[str, Any] | None = None
    needs: tuple[str, ...] = ()
    warm: str | None = None
    level: int = 0

    @cached_property
    def id(self) -> str:
        """Hash of what decides the answer, not of the grid around it, so that cells outlive a change of grid."""
        own = {
            key: value for key, value in asdict(self).items() if key not in ("data", "source", "warm", "level", "id")
        }
        if self.held_out is None:  # cells of studies that hold nothing out keep the names they had
            del own["held_out"]
        elif not self.is_evaluated:  # and those that say nothing of a distribution whatever the confidence
            own["held_out"] = self._split
        own["options"] = {key: value for key, value in self.options.items() if key != "n_atoms"}
        text = json.dumps({"schema": SCHEMA, **own}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    @property
    def is_evaluated(self) -> bool:
        """Whether its dictionary is evaluated on held-out rows."""
        return self.held_out is not None and self.method in METHODS and METHODS[self.method].evaluates

    @property
    def problem(self) -> tuple[Any, ...]:
        """Data, penalty and bias: what cells of one problem share, whatever their width, τ, seed and confidence."""
        aside = None if self._split is None else tuple(sorted(self._split.items()))
        return (self.data_hash, self.lam, self.target_l0, self.bias, aside)

    @property
    def intervals(self) -> tuple[Any, ...]:
        """What decides the intervals of its problem."""
        return tuple((self.held_out or {}).get(key) for key in ONLY_OF_INTERVALS)

    @property
    def _split(self) -> dict[str, Any] | None:
        """Which rows are held out."""
        if self.held_out is None:
            return None
        return {key: value for key, value in self.held_out.items() if key not in ONLY_OF_INTERVALS}

    @property
    def share(self) -> float | None:
        """The share of the rows that is held out, if it is one."""
        return None if self.held_out is None else self.held_out.get("share")

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {**asdict(self), "needs": list(self.needs)}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Cell:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**known, "needs": tuple(known["needs"])})

    def __str__(self) -> str:
        parts = [f"{self.data}, N = {self.n_points}"]
        parts += [f"K = {self.n_atoms}"] if self.n_atoms is not None else []
        parts += [f"λ = {self.lam:g}"] if self.lam is not None else []
        parts += [f"L0 = {self.target_l0:g}"] if self.target_l0 is not None else []
        parts += [f"τ = {self.atom_cost:g}"] if self.atom_cost is not None else []
        parts += [f"bias {self.bias}"]
        parts += [f"seed {self.seed}"] if self.seed is not None else []
        return f"{self.method} ({', '.join(parts)})"


def plan(study: StudySpec) -> tuple[Cell, ...]:
    """Every cell once, those that others start from first."""
    cells: dict[str, Cell] = {}
    for name, n_points in itertools.product(study.data, study.n_points or (None,)):
        rows = _read(study, name, n_points)
        apart = rows.held_out if study.held_out is not None else None
        base = {
            "data": name,
            "source": study.sources[name],
            "data_hash": rows.digest,
            "n_points": len(rows.X) + (0 if apart is None else len(apart)),
            "dim": rows.X.shape[1],
            "held_out": rows.set_aside,
        }
        for bias in study.bias:
            for cell in _of_problem(study, {**base, "bias": bias}):
                cells.setdefault(cell.id, cell)
    return tuple(sorted(_leveled(cells).values(), key=lambda cell: cell.level))


def _read(study: StudySpec, name: str, n_points: int | None) -> Rows:
    """Datapoints and hash, or what is wrong with the table of this data set."""
    source = study.sources[name]
    try:
        return rows_of(source, n_points, study.held_out, arrays_of(study, source))
    except InputError as error:
        if not isinstance(source["source"], str) or source["source"] not in GENERATORS:
            raise
        raise InputError(f"[data.{name}] {error}") from None
    except MemoryError:
        raise InputError(f"[grid] n_points is {n_points}: data {name!r} do not fit in memory; pass fewer.") from None


def arrays_of(study: StudySpec, source: Mapping[str, Any]) -> dict[str, Activations]:
    """The arrays in memory that a source names, by fingerprint."""
    named = [source.get(key) for key in ("source", HELD_OUT, GROUPS, HELD_OUT_GROUPS)]
    names = [name.removeprefix(ARRAY) for name in named if isinstance(name, str)]
    return {name: study.arrays[name] for name in names if name in study.arrays}


def _of_problem(study: StudySpec, base: dict[str, Any]) -> Iterable[Cell]:
    """The cells of one data set and bias."""
    for penalty in _penalties(study):
        yield from _calibration(study, {**base, **penalty})
        point = _at_penalty(study, base, penalty)
        for method in study.methods:
            axes = METHODS[method].axes
            widths = _widths(study, method) if "n_atoms" in axes else (None,)
            seeds = study.seeds if "seed" in axes else (None,)
            costs = study.atom_cost if "atom_cost" in axes else (None,)
            for width, seed, cost in itertools.product(widths, seeds, costs):
                yield _joined(study, method, {**point, "n_atoms": width, "seed": seed, "atom_cost": cost})


def _calibration(study: StudySpec, point: Mapping[str, Any]) -> list[Cell]:
    """The cell that finds λ for a target L0, if there is one."""
    if point["target_l0"] is None:
        return []
    width = study.options[CALIBRATION.name].get("n_atoms") or min(study.n_atoms)
    return [_cell(study, CALIBRATION.name, {**point, "n_atoms": width, "seed": study.seeds[0], "needs": ()})]


def _at_penalty(study: StudySpec, base: Mapping[str, Any], penalty: Mapping[str, Any]) -> dict[str, Any]:
    """The same problem at this penalty, with the cell that its λ comes from."""
    point = {**base, **penalty}
    return {**point, "needs": tuple(cell.id for cell in _calibration(study, point))}


def _widths(study: StudySpec, method: str) -> tuple[int, ...]:
    """The widths of a method; one that needs another can only have the widths of that one."""
    widths, needed = tuple(study.options[method].get("n_atoms", study.n_atoms)), METHODS[method].needs
    return widths if needed is None else tuple(width for width in widths if width in _widths(study, needed))


def _penalties(study: StudySpec) -> list[dict[str, float | None]]:
    """Large λ first, as a warm start along λ goes down; few active atoms first likewise."""
    if study.lam:
        return [{"lam": float(lam), "target_l0": None} for lam in sorted(study.lam, reverse=True)]
    return [{"lam": None, "target_l0": float(target)} for target in sorted(study.target_l0)]


def _cell(study: StudySpec, method: str, point: Mapping[str, Any]) -> Cell:
    return Cell(**point, method=method, options=study.options[method])


def _joined(study: StudySpec, method: str, point: dict[str, Any]) -> Cell:
    """The cell with what it starts from."""
    cell, needed = _cell(study, method, point), METHODS[method].needs
    if needed is not None:
        return replace(cell, needs=(*cell.needs, _joined(study, needed, point).id))
    along = study.options[method].get("warm", ())
    if not along:
        return cell
    widths = _widths(study, method)
    index = widths.index(point["n_atoms"])
    if index > 0 and "n_atoms" in along:
        return replace(cell, warm=_cell(study, method, {**point, "n_atoms": widths[index - 1]}).id)
    penalties = _penalties(study)
    step = penalties.index({"lam": cell.lam, "target_l0": cell.target_l0})
    if step > 0 and "lam" in along:
        return replace(cell, warm=_cell(study, method, _at_penalty(study, point, penalties[step - 1])).id)
    return cell


def _leveled(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Levels: as early as dependencies allow, or beside the search of their own width (``Method.runs_beside``)."""
    levels: dict[str, int] = {}

    def level(cell: Cell) -> int:
        if cell.id not in levels:
            before = [*cell.needs, *([cell.warm] if cell.warm else [])]
            levels[cell.id] = max((level(cells[one]) + 1 for one in before if one in cells), default=0)
        return levels[cell.id]

    for cell in cells.values():
        level(cell)
    beside = {(*cell.problem, cell.n_atoms): levels[cell.id] for cell in cells.values() if cell.method == "learned"}
    for cell in cells.values():
        if cell.method in METHODS and METHODS[cell.method].runs_beside:
            levels[cell.id] = max(levels[cell.id], beside.get((*cell.problem, cell.n_atoms), 0))
    return {one: replace(cell, level=levels[one]) for one, cell in cells.items()}
