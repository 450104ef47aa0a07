"""The data sets of a study: what may be said about each, and its datapoints, made wherever a cell runs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.data.embedded import EMBEDDED_NAMES, embedded
from cvxsae.data.hierarchies import hierarchy
from cvxsae.data.overlap import require_apart
from cvxsae.data.splits import split_rows
from cvxsae.data.storage import fingerprint
from cvxsae.data.synthetic import circle_feature, clustered, dense_signed_feature, sparse_features
from cvxsae.errors import InputError
from cvxsae.study.keys import COUNT, SEED, TEXT, YES_OR_NO, Key, is_nonnegative, known, nearest, one_of, refuse

GENERATORS: dict[str, Callable[..., Any]] = {
    "sparse_features": sparse_features,
    "hierarchy": hierarchy,
    "dense_signed_feature": dense_signed_feature,
    "circle_feature": circle_feature,
    "clustered": clustered,
}
"""The synthetic data sets, by name; their numbers are keys of ``[data.NAME]``."""

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
"""Types of data files."""

SCALES = ("none", "mean_norm", "mean_square")
"""How data can be scaled: not at all, or to a mean norm, or mean squared norm, of 1."""

ARRAY = "array "
"""How the source of an array in memory begins; its fingerprint follows."""

HELD_OUT = "held_out"
"""The key of rows that nothing is learned from: a share of all data sets in ``[grid]``, rows of one data set's own."""

DATA: dict[str, Key] = {
    "source": TEXT,
    HELD_OUT: TEXT,
    "center": YES_OR_NO,
    "scale": one_of(SCALES),
    "seed": SEED,
}
"""What may be said about every data set."""

DATA_NAMES = Key(
    lambda value: isinstance(value, str) and bool(value),
    f"names: {', '.join((*EMBEDDED_NAMES, *GENERATORS))}, a file ({', '.join(SUFFIXES)}) or a [data.NAME] of yours",
    many=True,
)
"""The axis of data sets."""

_NOT_KEYS = ("n_points", "seed", "features", "levels")

Source = dict[str, Any]
"""One data set, ready for JSON: its source, what is done to it, and the numbers of a generator."""


def data_source(name: str, given: Any, folder: Path) -> Source:
    """Check one data set; a file is looked for in ``folder``."""
    table = f"data.{name}"
    if not isinstance(given, Mapping):
        refuse(f"[{table}]", given, f"a table of {', '.join(DATA)}")
    source = TEXT.read(given.get("source", name), f"[{table}] source")
    if source not in GENERATORS and source not in EMBEDDED_NAMES and not source.startswith(ARRAY):
        source = data_file(source, folder, f"[{table}] source")
    numbers = generator_numbers(source) if source in GENERATORS else {}
    known(table, given, [*DATA, *numbers])
    read = {key: DATA[key].read(given[key], f"[{table}] {key}") for key in DATA if key in given}
    for key, default in numbers.items():
        if key in given:
            read[key] = _like(default, given[key], f"[{table}] {key}")
        elif default is inspect.Parameter.empty:
            raise InputError(f"[{table}] lacks the key {key!r}, which the generator {source} needs.")
    aside = read.get(HELD_OUT)
    if aside is not None and not aside.startswith(ARRAY):
        read[HELD_OUT] = data_file(aside, folder, f"[{table}] {HELD_OUT}")
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


@dataclass(frozen=True, eq=False)
class Rows:
    """The datapoints of a data set.

    Attributes
    ----------
    X
        Those that are learned from, (n, d).
    held_out
        Those that nothing is learned from, (m, d), if there are any.
    digest
        SHA-256 of the rows given, before they are centered and scaled, with what is done to them.
    set_aside
        What identifies the rows held out: the share and the seed of their choice, or the SHA-256 of rows of their own.
    """

    X: Activations
    held_out: Activations | None
    digest: str
    set_aside: Mapping[str, Any] | None = None


def datapoints(source: Source, n_points: int | None, array: Activations | None = None) -> tuple[Activations, str]:
    """:func:`rows_of` where nothing is held out: rows and digest."""
    rows = rows_of(source, n_points, None, {} if array is None else {source["source"].removeprefix(ARRAY): array})
    return rows.X, rows.digest


def rows_of(
    source: Source, n_points: int | None, share: float | None = None, arrays: Mapping[str, Activations] | None = None
) -> Rows:
    """The first N rows of one random order, centered and scaled as asked, the hash of rows and recipe, some held out.

    These are ``X[numpy.random.default_rng(seed).permutation(len(X))[:N]]``, or all rows in their own order (N None or
    all); the SHA-256 is of them before they are centered and scaled, with what is done to them. ``share`` of them is
    held out, chosen by ``seed``, or the rows that the source names are. Mean and scale are those of the rows learned
    from. ``arrays`` has the rows of sources that are in memory.

    Raises
    ------
    InputError
        If there are fewer rows, or the source cannot be read or made.
    """
    names = (source["source"], source.get(HELD_OUT, ""))
    if any(name.startswith(ARRAY) for name in names):
        return _rows(source, n_points, share, arrays or {})
    return _made(json.dumps(source, sort_keys=True), n_points, share, tuple(_state(name) for name in names))


def _state(source: str) -> tuple[int, ...]:
    """What changes when a file is written again: what was read of it before is then not its content."""
    file = Path(source.partition("::")[0])
    if source in GENERATORS or source in EMBEDDED_NAMES or not file.is_file():
        return ()
    known_state = file.stat()
    return known_state.st_mtime_ns, known_state.st_size, known_state.st_ino


@lru_cache(maxsize=2)
def _made(recipe: str, n_points: int | None, share: float | None, _: tuple[tuple[int, ...], ...]) -> Rows:
    return _rows(json.loads(recipe), n_points, share, {})


def _rows(source: Source, n_points: int | None, share: float | None, arrays: Mapping[str, Activations]) -> Rows:
    name, seed = source["source"], source["seed"]
    if name in GENERATORS:
        assert n_points is not None
        numbers = {key: tuple(v) if isinstance(v, list) else v for key, v in source.items() if key not in DATA}
        given = Activations(np.asarray(GENERATORS[name](n_points, seed=seed, **numbers).X))
    else:
        given = _chosen(_opened(name, arrays), source, n_points)
    # Of the rows as they were, not of what arithmetic makes of them, which can differ between machines.
    known_as = [fingerprint(given), source["center"], source["scale"]]
    digest = hashlib.sha256(json.dumps(known_as).encode()).hexdigest()
    if HELD_OUT in source:
        aside = _opened(source[HELD_OUT], arrays)
        if aside.shape[1] != given.shape[1]:
            raise InputError(
                f"[data] held_out of {name!r} has {aside.shape[1]} columns and its rows have {given.shape[1]}; pass "
                "rows of the same width."
            )
        require_apart(given, aside, "held_out" if name.startswith(ARRAY) else f"[data] held_out of {name!r}")
        return Rows(*_prepared(source, given, aside), digest, {"rows": fingerprint(aside)})
    if share is None:
        return Rows(*_prepared(source, given, None), digest)
    split = split_rows(len(given), seed, share=share)
    parts = given[split.train], given[split.held_out]
    return Rows(*_prepared(source, *parts), digest, {"share": share, "seed": seed})


def _opened(name: str, arrays: Mapping[str, Activations]) -> Activations:
    if name.startswith(ARRAY):
        if name.removeprefix(ARRAY) not in arrays:
            raise InputError(f"data {name!r} are not at hand; pass the array again.")
        return arrays[name.removeprefix(ARRAY)]
    return Activations(embedded(name) if name in EMBEDDED_NAMES else name, name=f"data {name!r}")


def _chosen(data: Activations, source: Source, n_points: int | None) -> Activations:
    if n_points is None or n_points == len(data):
        return data
    if n_points > len(data):
        raise InputError(
            f"[grid] n_points has {n_points} but the data {source['source']!r} have {len(data)} rows; pass fewer."
        )
    return data[np.random.default_rng(source["seed"]).permutation(len(data))[:n_points]]


def _prepared(source: Source, rows: Activations, aside: Activations | None) -> tuple[Activations, Activations | None]:
    """Rows centered and scaled as asked, and others treated likewise."""
    if not source["center"] and source["scale"] == "none":
        return rows, aside
    X = rows.to_numpy()
    shift = X.mean(axis=0) if source["center"] else np.zeros(X.shape[1])
    X = X - shift if source["center"] else X
    lengths = np.linalg.norm(X, axis=1)
    scales = {"none": 1.0, "mean_norm": lengths.mean(), "mean_square": np.sqrt(np.square(lengths).mean())}
    scale = scales[source["scale"]]
    if not scale > 0:
        raise InputError(
            f"data {source['source']!r} are all the same row, so no scale makes their norm 1; pass scale = 'none'."
        )
    return Activations(X / scale), None if aside is None else Activations((aside.to_numpy() - shift) / scale)
