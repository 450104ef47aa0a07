"""The specification of a scale study: grid, data sets and options, declared once and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.atomic import shown
from cvxsae.data.embedded import EMBEDDED_NAMES
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError, reason
from cvxsae.study.files import ARRAY, data_files, is_data
from cvxsae.study.keys import COUNTS, NONNEGATIVES, POSITIVES, SEEDS, SHARE, TEXT, Key, known, nearest, one_of, refuse
from cvxsae.study.registry import METHODS, OPTIONS, depending_on, options
from cvxsae.study.rows import labels_column
from cvxsae.study.sources import (
    DATA_NAMES,
    GENERATORS,
    GROUPS,
    HELD_OUT,
    HELD_OUT_GROUPS,
    Source,
    data_source,
    table_of_tables,
)

BIASES = ("none", "free", "mean")
"""Zero, optimized, or fixed at the mean of the data."""

GRID: dict[str, Key] = {
    "data": DATA_NAMES,
    HELD_OUT: SHARE,
    "n_points": COUNTS,
    "n_atoms": COUNTS,
    "lam": POSITIVES,
    "target_l0": POSITIVES,
    "atom_cost": NONNEGATIVES,
    "bias": one_of(BIASES, many=True),
    "seeds": SEEDS,
    "methods": one_of(tuple(METHODS), many=True),
}
"""The axes of the grid."""

TABLES = ("name", "grid", "data", *OPTIONS)
"""What a TOML file may hold."""

MAY_BE_EMPTY = ("n_points", "n_atoms", "lam", "target_l0", "atom_cost")
"""Axes that a study in Python may leave out."""


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A grid of cells: the axes, the data sets and the options of the methods.

    The fields are those of :class:`~cvxsae.ScaleStudy`, which also knows where to keep what it computes.
    """

    methods: Sequence[str]
    data: Any
    sources: Mapping[str, Any] = field(default_factory=dict)
    n_points: Sequence[int] = ()
    n_atoms: Sequence[int] = ()
    lam: Sequence[float] = ()
    target_l0: Sequence[float] = ()
    atom_cost: Sequence[float] = ()
    bias: Sequence[str] = ("free",)
    seeds: Sequence[int] = (0,)
    held_out: Any = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = ""
    beside: Path = field(default=Path(), repr=False, compare=False)
    arrays: Mapping[str, Activations] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        arrays = arguments.instance(self.arrays, "arrays", Mapping, "the arrays of another study")
        names, sources, arrays = _arrays_apart(self.data, self.sources, dict(arrays))
        read: dict[str, Any] = {"arrays": arrays}
        for axis, key in GRID.items():
            given = names if axis == "data" else getattr(self, axis)
            if isinstance(given, list | tuple) and not given and axis in MAY_BE_EMPTY:
                value: Any = ()
            elif axis == HELD_OUT and given is None:
                value = None
            else:
                value = key.read(given, f"[grid] {axis}")
            read[axis] = tuple(sorted(value)) if axis in ("n_points", "n_atoms") else value
        known("options", self.options, OPTIONS)
        widths = read["n_atoms"]
        read["options"] = {method: options(method, self.options.get(method, {}), widths) for method in OPTIONS}
        read["sources"] = _sources(read["data"], sources, self.beside)
        read["name"] = str(self.name)
        for name, value in read.items():
            object.__setattr__(self, name, value)
        self._check_axes()

    def _check_axes(self) -> None:
        """What one key alone cannot say: axes that belong together, and methods that need an axis."""
        if bool(self.lam) == bool(self.target_l0):
            found = "both" if self.lam else "neither"
            raise InputError(
                f"[grid] has {found} of lam and target_l0; give exactly one of the two, as a list of numbers."
            )
        widths, with_width = tuple(self.n_atoms), depending_on("n_atoms")
        with_cost = depending_on("atom_cost")
        by_width = [method for method in self.methods if method in with_width]
        for axis, users, who in (
            ("n_atoms", by_width, with_width),
            ("atom_cost", [method for method in self.methods if method in with_cost], with_cost),
        ):
            if users and not getattr(self, axis):
                raise InputError(f"[grid] lacks {axis}, which the method {users[0]} needs; give a list of numbers.")
            if getattr(self, axis) and not users and not (axis == "n_atoms" and self.target_l0):
                raise InputError(
                    f"[grid] has {axis} but none of its methods depends on it; drop it or add one of {', '.join(who)}."
                )
        if "check" in self.methods and "learned" not in self.methods:
            raise InputError("[grid] methods has 'check', which checks what is learned; add 'learned'.")
        learned = self.options["learned"].get("n_atoms", widths)
        stray = [width for width in self.options["check"].get("n_atoms", ()) if width not in learned]
        if stray and "check" in self.methods:
            among = f"among the widths that are learned, {', '.join(map(str, learned))}"
            refuse("[check] n_atoms", stray[0], among)
        if "spectral_floor" in self.methods and "free" in self.bias:
            raise InputError(
                "[grid] methods has 'spectral_floor', which holds at one bias, but [grid] bias has 'free'; "
                "take 'width_floor', which then holds for every bias, or a bias of none or mean."
            )
        if self.target_l0 and not (self.n_atoms or "n_atoms" in self.options["calibrate"]):
            raise InputError("[grid] has target_l0 but no width to calibrate λ at; give [calibrate] n_atoms.")
        for name, source in self.sources.items():
            if self.held_out is not None and HELD_OUT in source:
                raise InputError(
                    f"[grid] held_out is a share and [data.{name}] held_out has rows; give one of the two."
                )
            if isinstance(source["source"], str) and source["source"] in GENERATORS and not self.n_points:
                raise InputError(f"[grid] lacks n_points, which the generator of data {name!r} needs; give a list.")

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: axes, data sets and options."""
        axes = {axis: list(getattr(self, axis)) for axis in GRID if axis != HELD_OUT}
        if self.held_out is not None:
            axes[HELD_OUT] = [self.held_out]
        return {"name": self.name, "grid": axes, "data": dict(self.sources), "options": dict(self.options)}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The fields of a :class:`StudySpec` in a TOML file; data files in it are found relative to it.

    Raises
    ------
    InputError
        One sentence that names the key, what was found and what is allowed.
    """
    path = Path(path)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"STUDY {shown(path)} cannot be read ({error.strerror}); pass the path of a TOML file."
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested without an end
        raise InputError(
            f"STUDY {shown(path)} is not TOML ({reason(error)}); correct it, or pass the path of another."
        ) from None
    for table in given:
        if table not in TABLES:
            close = nearest(table, TABLES)
            raise InputError(
                f"STUDY {shown(path)} has the unknown table [{table}]{close}; its tables are "
                f"{', '.join(f'[{one}]' for one in TABLES[1:])}."
            )
    if "grid" not in given:
        raise InputError(f"STUDY {shown(path)} lacks the table [grid]; its keys are {', '.join(sorted(GRID))}.")
    grid = dict(known("grid", given["grid"], GRID))
    for axis in ("methods", "data"):
        if axis not in grid:
            raise InputError(f"[grid] lacks {axis}; it must be {GRID[axis].allowed}.")
    for axis, value in grid.items():  # an empty list in a file is a slip, not a default
        grid[axis] = GRID[axis].read(value, f"[grid] {axis}")
    sources = given.get("data", {})
    for name, source in table_of_tables("data", sources):
        data_source(name, source, path.parent)
    widths = tuple(grid.get("n_atoms", ()))
    for table, value in given.items():
        if table in OPTIONS:
            options(table, value, widths)
    name = TEXT.read(given["name"], "name") if "name" in given else path.stem
    chosen = {table: value for table, value in given.items() if table in OPTIONS}
    return {**grid, "name": name, "sources": sources, "options": chosen, "beside": path.parent}


def _arrays_apart(
    data: Any, sources: Mapping[str, Any], arrays: dict[str, Activations]
) -> tuple[Any, dict[str, Any], dict[str, Activations]]:
    """Names, sources ready for JSON, and the arrays in memory among them by fingerprint."""

    def kept(array: Any, name: str) -> str:
        rows = array if isinstance(array, Activations) else Activations(array, name=f"data {name!r}")
        digest = fingerprint(rows)
        arrays[digest] = rows
        return f"{ARRAY}{digest}"

    if _is_array(data):
        data = {"X": data}
    if isinstance(data, Mapping):
        if not isinstance(sources, Mapping) or set(data) & set(sources):
            raise InputError("data and sources both describe one data set; name each in one of them.")
        data, sources = list(data), {**sources, **data}
    plain: dict[str, Any] = {}
    for name, given in table_of_tables("data", sources):
        if _is_array(given):
            given = {"source": given}
        for key in ("source", HELD_OUT):
            if isinstance(given, Mapping) and _is_array(given.get(key)):
                given = {**given, key: kept(given[key], name)}
        for key in (GROUPS, HELD_OUT_GROUPS):
            if isinstance(given, Mapping) and given.get(key, "") is None:  # rows are independent
                given = {one: value for one, value in given.items() if one != key}
            if isinstance(given, Mapping) and not isinstance(given.get(key, ""), str):
                given = {**given, key: kept(labels_column(given[key], f"[data.{name}] {key}"), name)}
        plain[name] = given
    return data, plain, arrays


def _is_array(value: Any) -> bool:
    return isinstance(value, Activations | np.ndarray | torch.Tensor)


def _sources(names: Sequence[str], tables: Mapping[str, Any], beside: Path) -> dict[str, Source]:
    """Every data set of the grid, as a table; a bare name is a source without keys."""
    given = {name: data_source(name, table, beside) for name, table in tables.items()}
    bare = (*EMBEDDED_NAMES, *GENERATORS)
    for name in names:
        if name in bare and name not in given:
            given[name] = data_source(name, {}, beside)
        elif name not in given:
            if not is_data(name, beside):
                refuse("[grid] data", name, f"{DATA_NAMES.allowed}{nearest(name, [*given, *bare])}")
            given[name] = data_source(name, {"source": data_files(name, beside, "[grid] data", bare)}, beside)
    return {name: given[name] for name in names}
