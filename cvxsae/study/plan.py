"""The cells of a study: which there are, what each depends on, and in which order they can run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cvxsae.data.arguments import InputError
from cvxsae.study.datapoints import datapoints
from cvxsae.study.keys import GENERATORS, WITH_SEED, WITH_WIDTH

if TYPE_CHECKING:
    from cvxsae.study.spec import ScaleStudy

SCHEMA = 1
"""Raised when a method changes so that old cells no longer answer for new ones."""


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
    needs: tuple[str, ...] = ()
    warm: str | None = None
    level: int = 0

    @cached_property
    def id(self) -> str:
        """Hash of what decides the answer: not of the grid around it, so cells outlive a change of grid."""
        own = {
            key: value for key, value in asdict(self).items() if key not in ("data", "source", "warm", "level", "id")
        }
        own["options"] = {key: value for key, value in self.options.items() if key != "n_atoms"}
        text = json.dumps({"schema": SCHEMA, **own}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def place(self) -> tuple[Any, ...]:
        """Data, penalty and bias: cells of one place are about the same problem, but for width, τ and seed."""
        return (self.data_hash, self.lam, self.target_l0, self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
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


def plan(study: ScaleStudy) -> tuple[Cell, ...]:
    """Every cell once, those that others start from first."""
    cells: dict[str, Cell] = {}
    for name, n_points in itertools.product(study.data, study.n_points or (None,)):
        X, digest = _read(study, name, n_points)
        base = {"data": name, "source": study.sources[name], "data_hash": digest, "n_points": len(X),
                "dim": X.shape[1]}  # fmt: skip
        for bias in study.bias:
            for cell in _of_problem(study, {**base, "bias": bias}):
                cells.setdefault(cell.id, cell)
    return tuple(sorted(_levelled(cells).values(), key=lambda cell: cell.level))


def _read(study: ScaleStudy, name: str, n_points: int | None) -> tuple[Any, str]:
    """Datapoints and hash, or what is wrong with the table of this data set."""
    source = study.sources[name]
    try:
        return datapoints(source, n_points)
    except InputError as error:
        if source["source"] not in GENERATORS:
            raise
        raise InputError(f"[data.{name}] {error}") from None
    except MemoryError:
        raise InputError(f"[grid] n_points is {n_points}: data {name!r} do not fit in memory; pass fewer.") from None


def _of_problem(study: ScaleStudy, base: dict[str, Any]) -> Iterable[Cell]:
    """The cells of one data set and bias."""
    for penalty in _penalties(study):
        yield from _calibration(study, {**base, **penalty})
        place = _place(study, base, penalty)
        for method in study.methods:
            widths = _widths(study, method) if method in WITH_WIDTH else (None,)
            seeds = study.seeds if method in WITH_SEED else (None,)
            costs = study.atom_cost if method == "large_dictionary" else (None,)
            for width, seed, cost in itertools.product(widths, seeds, costs):
                yield _joined(study, method, {**place, "n_atoms": width, "seed": seed, "atom_cost": cost})


def _calibration(study: ScaleStudy, place: Mapping[str, Any]) -> list[Cell]:
    """The cell that finds λ for a target L0, if there is one."""
    if place["target_l0"] is None:
        return []
    width = study.options["calibrate"].get("n_atoms") or min(study.n_atoms)
    return [_cell(study, "calibrate", {**place, "n_atoms": width, "seed": study.seeds[0], "needs": ()})]


def _place(study: ScaleStudy, base: Mapping[str, Any], penalty: Mapping[str, Any]) -> dict[str, Any]:
    """The same problem at this penalty, with the cell that its λ comes from."""
    place = {**base, **penalty}
    return {**place, "needs": tuple(cell.id for cell in _calibration(study, place))}


def _widths(study: ScaleStudy, method: str) -> tuple[int, ...]:
    """The widths of a method; a check can only be of what is learned."""
    widths = tuple(study.options[method].get("n_atoms", study.n_atoms))
    return tuple(width for width in widths if width in _widths(study, "learned")) if method == "check" else widths


def _penalties(study: ScaleStudy) -> list[dict[str, float | None]]:
    """Large λ first, as a warm start along λ goes down; few active atoms first likewise."""
    if study.lam:
        return [{"lam": float(lam), "target_l0": None} for lam in sorted(study.lam, reverse=True)]
    return [{"lam": None, "target_l0": float(target)} for target in sorted(study.target_l0)]


def _cell(study: ScaleStudy, method: str, place: Mapping[str, Any]) -> Cell:
    return Cell(**place, method=method, options=study.options[method])


def _joined(study: ScaleStudy, method: str, place: dict[str, Any]) -> Cell:
    """The cell with what it starts from."""
    cell = _cell(study, method, place)
    if method == "check":
        learned = _joined(study, "learned", place)
        return replace(cell, needs=(*cell.needs, learned.id))
    if method != "learned":
        return cell
    options = study.options["learned"]
    widths, along = _widths(study, "learned"), options["warm"]
    index = widths.index(place["n_atoms"])
    if index > 0 and "n_atoms" in along:
        return replace(cell, warm=_cell(study, "learned", {**place, "n_atoms": widths[index - 1]}).id)
    penalties = _penalties(study)
    step = penalties.index({"lam": cell.lam, "target_l0": cell.target_l0})
    if step > 0 and "lam" in along:
        return replace(cell, warm=_cell(study, "learned", _place(study, place, penalties[step - 1])).id)
    return cell


def _levelled(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Levels: as early as dependencies allow; what nothing waits for runs beside the search of its own width.

    A chain of widths runs one after another, so that is when other cores are free.
    """
    levels: dict[str, int] = {}

    def level(cell: Cell) -> int:
        if cell.id not in levels:
            before = [*cell.needs, *([cell.warm] if cell.warm else [])]
            levels[cell.id] = max((level(cells[one]) + 1 for one in before if one in cells), default=0)
        return levels[cell.id]

    for cell in cells.values():
        level(cell)
    beside = {(*cell.place, cell.n_atoms): levels[cell.id] for cell in cells.values() if cell.method == "learned"}
    for cell in cells.values():
        if cell.method in ("width_floor", "trained_sae"):
            levels[cell.id] = max(levels[cell.id], beside.get((*cell.place, cell.n_atoms), 0))
    return {one: replace(cell, level=levels[one]) for one, cell in cells.items()}
