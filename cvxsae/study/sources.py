"""The data sets of a study, and the options of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cvxsae.data.embedded import EMBEDDED_NAMES
from cvxsae.data.hierarchies import hierarchy
from cvxsae.data.synthetic import circle_feature, clustered, dense_signed_feature, sparse_features
from cvxsae.errors import InputError
from cvxsae.study.files import ARRAY, SUFFIXES, data_files, label_file
from cvxsae.study.keys import COUNT, LEVEL, SEED, TEXT, YES_OR_NO, Key, is_nonnegative, known, one_of, refuse

GENERATORS: dict[str, Callable[..., Any]] = {
    "sparse_features": sparse_features,
    "hierarchy": hierarchy,
    "dense_signed_feature": dense_signed_feature,
    "circle_feature": circle_feature,
    "clustered": clustered,
}
"""The synthetic data sets, by name; their numbers are keys of ``[data.NAME]``."""

SCALES = ("none", "mean_norm", "mean_square")
"""How data can be scaled: not at all, or to a mean norm, or mean squared norm, of 1."""

HELD_OUT = "held_out"
"""The key of rows that nothing is learned from: a share of all data sets in ``[grid]``, rows of one data set's own."""

GROUPS, HELD_OUT_GROUPS, CONFIDENCE = "groups", "held_out_groups", "confidence"
"""Keys of which document each row is of, of the given rows and of held-out rows of their own, and of how sure intervals
for the distribution are."""

TEXTS = Key(lambda value: isinstance(value, str | list | tuple) and bool(value), "a text in quotes, or a list of paths")
"""Data in files: one path, or several."""

DATA: dict[str, Key] = {
    "source": TEXTS,
    HELD_OUT: TEXTS,
    GROUPS: TEXT,
    HELD_OUT_GROUPS: TEXT,
    CONFIDENCE: LEVEL,
    "center": YES_OR_NO,
    "scale": one_of(SCALES),
    "seed": SEED,
}
"""What may be said about every data set."""

DATA_NAMES = Key(
    lambda value: isinstance(value, str) and bool(value),
    f"names: {', '.join((*EMBEDDED_NAMES, *GENERATORS))}, a file ({', '.join(SUFFIXES)}), a folder of such files or a "
    "[data.NAME] of yours",
    many=True,
)
"""The axis of data sets."""

NAMED = (*EMBEDDED_NAMES, *GENERATORS)
"""Data sets that are no files."""

_NOT_KEYS = ("n_points", "seed", "features", "levels")

Source = dict[str, Any]
"""One data set, ready for JSON: its source, what is done to it, and the numbers of a generator."""


def data_source(name: str, given: Any, folder: Path) -> Source:
    """Check one data set; a file is looked for in ``folder``."""
    table = f"data.{name}"
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"a table of {', '.join(DATA)}")
    source = TEXTS.read(given.get("source", name), f"[{table}] source")
    if not (isinstance(source, str) and (source in NAMED or source.startswith(ARRAY))):
        source = data_files(source, folder, f"[{table}] source", NAMED)
    is_generated = isinstance(source, str) and source in GENERATORS
    numbers = generator_numbers(source) if is_generated else {}
    known(table, given, [*DATA, *numbers])
    read = {key: DATA[key].read(given[key], f"[{table}] {key}") for key in DATA if key in given}
    for key, default in numbers.items():
        if key in given:
            read[key] = _like(default, given[key], f"[{table}] {key}")
        elif default is inspect.Parameter.empty:
            raise InputError(f"[{table}] lacks the key {key!r}, which the generator {source} needs.")
    aside = read.get(HELD_OUT)
    if aside is not None and not (isinstance(aside, str) and aside.startswith(ARRAY)):
        read[HELD_OUT] = data_files(aside, folder, f"[{table}] {HELD_OUT}")
    for key in (GROUPS, HELD_OUT_GROUPS):
        if key in read and is_generated:
            raise InputError(f"[{table}] has {key}, but rows of the generator {source} are independent; leave it out.")
        if key in read and not read[key].startswith(ARRAY):
            read[key] = label_file(read[key], folder, f"[{table}] {key}")
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
        if not (isinstance(value, list | tuple) and len(value) == 2 and all(is_nonnegative(end) for end in value)):
            refuse(name, value, "two numbers of zero or more, in brackets")
        return tuple(float(end) for end in value)
    return Key(is_nonnegative, "a number of zero or more", kind=float).read(value, name)
