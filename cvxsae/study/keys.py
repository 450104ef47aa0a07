"""The keys of a study and what each may hold: the one place where they are checked.

A key is named with its table, as in the TOML file: ``[grid] n_atoms``.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cvxsae.data import (
    EMBEDDED_NAMES,
    circle_feature,
    clustered,
    dense_signed_feature,
    hierarchy,
    sparse_features,
)
from cvxsae.data.arguments import InputError
from cvxsae.data.tensors import LARGEST

GENERATORS: dict[str, Callable[..., Any]] = {
    "sparse_features": sparse_features,
    "hierarchy": hierarchy,
    "dense_signed_feature": dense_signed_feature,
    "circle_feature": circle_feature,
    "clustered": clustered,
}
"""The synthetic data sets, by name; their numbers are keys of ``[data.NAME]``."""

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
METHODS = (
    "wide_limit",
    "spectral_floor",
    "width_floor",
    "large_dictionary",
    "learned",
    "trained_sae",
    "check",
)
WITH_WIDTH = ("spectral_floor", "width_floor", "learned", "trained_sae", "check")
"""Methods that depend on the width K."""

WITH_SEED = ("learned", "trained_sae", "check")
"""Methods that depend on a seed."""

BIASES = ("none", "free", "mean")
SCALES = ("none", "mean_norm", "mean_square")
_MOST = 2**63 - 1  # of a column of whole numbers
_NOT_KEYS = ("n_points", "seed", "features", "levels")


@dataclass(frozen=True)
class Key:
    """What one value of a key may be, in code and in words, whether the key holds several, and the type they become.

    One type for each key: ``1`` and ``1.0``, or a numpy number, must not make two cells of one.
    """

    fits: Callable[[Any], bool]
    allowed: str
    many: bool = False
    names: tuple[str, ...] = ()
    kind: Callable[[Any], Any] = lambda value: value

    def read(self, value: Any, name: str) -> Any:
        """The value, or the tuple of values without repeats; a single value may stand for a list of one."""
        if not self.many:
            if not self.fits(value):
                refuse(name, value, self.allowed + nearest(value, self.names))
            return self.kind(value)
        values = list(value) if isinstance(value, list | tuple | range) else [value]
        if not values:
            refuse(name, value, f"a list with at least one entry: {self.allowed}")
        for one in values:
            if not self.fits(one):
                refuse(name, one, self.allowed + nearest(one, self.names))
        return tuple(dict.fromkeys(self.kind(one) for one in values))


def refuse(name: str, value: Any, allowed: str) -> NoReturn:
    """Say what was found at a key and what it must be."""
    found = f"{value!r}"
    raise InputError(f"{name} is {found if len(found) <= 80 else found[:77] + '...'}; it must be {allowed}.")


def nearest(word: Any, words: Collection[str]) -> str:
    """`` (did you mean ...?)``, or nothing if no word is close."""
    close = difflib.get_close_matches(str(word), words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _count(least: int) -> Callable[[Any], bool]:
    return lambda v: _is_number(v) and least <= v <= _MOST and int(v) == v


def _positive(value: Any) -> bool:
    return _is_number(value) and 1 / LARGEST <= _float(value) <= LARGEST


def _nonnegative(value: Any) -> bool:
    return _is_number(value) and 0 <= _float(value) <= LARGEST


def _float(value: Any) -> float:
    """As a float, infinite where a whole number is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def one_of(names: Sequence[str], *, many: bool = False) -> Key:
    """A key that holds names out of a list."""
    return Key(
        lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}", many, tuple(names)
    )


COUNT = Key(_count(1), "a whole number of at least 1", kind=int)
SEED = Key(_count(0), "a whole number of at least 0", kind=int)
POSITIVE = Key(_positive, "a number above zero", kind=float)
YES_OR_NO = Key(lambda value: isinstance(value, bool), "true or false")
TEXT = Key(lambda value: isinstance(value, str) and bool(value), "a text in quotes")
COUNTS = Key(_count(1), "whole numbers of at least 1", many=True, kind=int)
SEEDS = Key(_count(0), "whole numbers of at least 0", many=True, kind=int)
POSITIVES = Key(_positive, "numbers above zero", many=True, kind=float)
NONNEGATIVES = Key(_nonnegative, "numbers of zero or more", many=True, kind=float)
TEXTS = Key(
    lambda value: isinstance(value, str) and bool(value),
    f"names: {', '.join((*EMBEDDED_NAMES, *GENERATORS))}, a file ({', '.join(SUFFIXES)}) or a [data.NAME] of yours",
    many=True,
)

GRID: dict[str, Key] = {
    "data": TEXTS,
    "n_points": COUNTS,
    "n_atoms": COUNTS,
    "lam": POSITIVES,
    "target_l0": POSITIVES,
    "atom_cost": NONNEGATIVES,
    "bias": one_of(BIASES, many=True),
    "seeds": SEEDS,
    "methods": one_of(METHODS, many=True),
}
"""The axes of the grid."""

OPTIONS: dict[str, dict[str, Key]] = {
    "wide_limit": {"tol": POSITIVE},
    "spectral_floor": {"n_atoms": COUNTS},
    "width_floor": {
        "n_atoms": COUNTS, "kernels": COUNTS, "max_points": COUNT, "tol": POSITIVE, "max_seconds": POSITIVE,
    },
    "large_dictionary": {"tol": POSITIVE, "max_seconds": POSITIVE},
    "learned": {
        "n_atoms": COUNTS, "tol": POSITIVE, "max_seconds": POSITIVE, "max_steps": COUNT, "second_order": YES_OR_NO,
        "warm": one_of(("n_atoms", "lam", "none"), many=True),
    },
    "trained_sae": {
        "n_atoms": COUNTS, "steps": COUNT, "batch_size": COUNT, "lr": POSITIVE, "resample": YES_OR_NO,
        "trainer": one_of(("adam", "saelens")), "tol": POSITIVE, "search_seconds": POSITIVE,
    },
    "check": {
        "n_atoms": COUNTS, "tol": POSITIVE, "splits": YES_OR_NO, "new_atoms": SEED, "second_order": YES_OR_NO,
        "noiseless": YES_OR_NO,
    },
    "calibrate": {"n_atoms": COUNT, "rtol": POSITIVE, "rounds": COUNT, "max_seconds": POSITIVE, "max_steps": COUNT},
}  # fmt: skip
"""What may be said about each method, besides the grid. ``n_atoms``: only these widths of the grid."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "wide_limit": {"tol": 1e-9},
    "spectral_floor": {},
    "width_floor": {"kernels": (1, 2, 3), "tol": 1e-3},
    "large_dictionary": {"tol": 1e-3},
    "learned": {"tol": 1e-4, "second_order": False, "warm": ("n_atoms", "lam")},
    "trained_sae": {
        "steps": 5000, "batch_size": 1024, "lr": 5e-3, "resample": True, "trainer": "adam", "tol": 1e-4,
        "search_seconds": 60.0,
    },
    "check": {"tol": 1e-4, "splits": True, "new_atoms": 32, "second_order": False, "noiseless": False},
    "calibrate": {"rtol": 0.05, "rounds": 8},
}  # fmt: skip

DATA: dict[str, Key] = {
    "source": TEXT,
    "center": YES_OR_NO,
    "scale": one_of(SCALES),
    "seed": SEED,
}
"""What may be said about every data set."""


def known(table: str, given: Any, keys: Collection[str]) -> Mapping[str, Any]:
    """The table, if it is one and every key in it is known."""
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"a table of {', '.join(sorted(keys))}")
    for key in given:
        if key not in keys:
            close = nearest(key, keys)
            raise InputError(f"[{table}] has the unknown key {key!r}{close}; its keys are {', '.join(sorted(keys))}.")
    return given


def options(method: str, given: Any, widths: tuple[int, ...]) -> dict[str, Any]:
    """The options of one method, defaults filled in."""
    table = known(method, given, OPTIONS[method])
    if table.get("warm") == ():  # as read before, in a study made from another
        table = {**table, "warm": ("none",)}
    read = {key: OPTIONS[method][key].read(value, f"[{method}] {key}") for key, value in table.items()}
    if method != "calibrate" and "n_atoms" in read:
        stray = [width for width in read["n_atoms"] if width not in widths]
        if stray:
            refuse(f"[{method}] n_atoms", stray[0], f"among [grid] n_atoms, {', '.join(map(str, widths)) or 'none'}")
        read["n_atoms"] = tuple(sorted(read["n_atoms"]))
    if "warm" in read and "none" in read["warm"]:
        if len(read["warm"]) > 1:
            refuse(f"[{method}] warm", list(read["warm"]), "'none' alone, or some of n_atoms and lam")
        read["warm"] = ()
    return {**DEFAULTS[method], **read}


def data_source(name: str, given: Any, folder: Path) -> dict[str, Any]:
    """One data set: its source, what is done to it, and the numbers of a generator."""
    table = f"data.{name}"
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"a table of {', '.join(DATA)}")
    source = TEXT.read(given.get("source", name), f"[{table}] source")
    if source not in GENERATORS and source not in EMBEDDED_NAMES:
        source = data_file(source, folder, f"[{table}] source")
    numbers = generator_numbers(source) if source in GENERATORS else {}
    known(table, given, [*DATA, *numbers])
    read = {key: DATA[key].read(given[key], f"[{table}] {key}") for key in DATA if key in given}
    for key, default in numbers.items():
        if key in given:
            read[key] = _like(default, given[key], f"[{table}] {key}")
        elif default is inspect.Parameter.empty:
            raise InputError(f"[{table}] lacks the key {key!r}, which the generator {source} needs.")
    return {"center": False, "scale": "none", "seed": 0, **read, "source": source}


def table_of_tables(table: str, given: Any) -> Iterable[tuple[str, Any]]:
    """The tables in a table."""
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"tables [{table}.NAME], one for each data set")
    return given.items()


def generator_numbers(source: str) -> dict[str, Any]:
    """The keys of a generator and their defaults (``Parameter.empty`` where one is needed)."""
    parameters = inspect.signature(GENERATORS[source]).parameters
    return {name: one.default for name, one in parameters.items() if name not in _NOT_KEYS}


def _like(default: Any, value: Any, name: str) -> Any:
    """A generator's number, of the type its default has."""
    if default is inspect.Parameter.empty or (isinstance(default, int) and not isinstance(default, bool)):
        return (SEED if default == 0 else COUNT).read(value, name)
    if isinstance(default, bool):
        return YES_OR_NO.read(value, name)
    if isinstance(default, tuple):
        if not (isinstance(value, list | tuple) and len(value) == 2 and all(_nonnegative(end) for end in value)):
            refuse(name, value, "two numbers of zero or more, in brackets")
        return tuple(float(end) for end in value)
    return Key(_nonnegative, "a number of zero or more", kind=float).read(value, name)


def data_file(source: str, folder: Path, name: str) -> str:
    """The path of a data file, relative paths from where the study is."""
    plain, _, key = source.partition("::")
    path = Path(plain) if Path(plain).is_absolute() else folder / plain
    known_names = (*EMBEDDED_NAMES, *GENERATORS)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{name} is {source!r}{nearest(source, known_names)}; it must be one of {', '.join(known_names)}, "
            f"a file ({', '.join(SUFFIXES)}) or a [data.NAME] of yours."
        )
    try:
        found = path.is_file()
    except OSError as error:  # too long, or not ours to look into
        raise InputError(f"{name} is the file {str(path)!r}, which cannot be read ({error.strerror}).") from None
    if not found:
        raise InputError(f"{name} is the file {str(path)!r}, which does not exist; pass the path of a file.")
    return f"{path.absolute()}::{key}" if key else str(path.absolute())
