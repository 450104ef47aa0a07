"""The data sets of a study: what may be said about each, and its datapoints, made wherever a cell runs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.data.embedded import EMBEDDED_NAMES, embedded
from cvxsae.data.hierarchies import hierarchy
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

DATA: dict[str, Key] = {
    "source": TEXT,
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


def datapoints(source: Source, n_points: int | None, array: Activations | None = None) -> tuple[Activations, str]:
    """The first N rows of one random order, centered and scaled as asked, and the hash of rows and recipe.

    These are ``X[numpy.random.default_rng(seed).permutation(len(X))[:N]]``, whose mean and scale are their own, or all
    rows in their own order (N None or all); the SHA-256 is of them before they are centered and scaled, with what is
    done to them. ``array`` has the rows of a source that is in memory.

    Raises
    ------
    InputError
        If there are fewer rows, or the source cannot be read or made.
    """
    if array is not None:
        return _prepared(source, _chosen(array, source, n_points))
    return _made(json.dumps(source, sort_keys=True), n_points, _state(source["source"]))


def _state(source: str) -> tuple[int, ...]:
    """What changes when a file is written again: what was read of it before is then not its content."""
    file = Path(source.partition("::")[0])
    if source in GENERATORS or source in EMBEDDED_NAMES or not file.is_file():
        return ()
    known_state = file.stat()
    return known_state.st_mtime_ns, known_state.st_size, known_state.st_ino


@lru_cache(maxsize=2)
def _made(recipe: str, n_points: int | None, _: tuple[int, ...]) -> tuple[Activations, str]:
    source = json.loads(recipe)
    name, seed = source["source"], source["seed"]
    numbers = {key: tuple(v) if isinstance(v, list) else v for key, v in source.items() if key not in DATA}
    if name.startswith(ARRAY):
        raise InputError(f"data {name!r} are not at hand; pass the array again.")
    if name in GENERATORS:
        assert n_points is not None
        return _prepared(source, Activations(np.asarray(GENERATORS[name](n_points, seed=seed, **numbers).X)))
    data = Activations(embedded(name) if name in EMBEDDED_NAMES else name, name=f"data {name!r}")
    return _prepared(source, _chosen(data, source, n_points))


def _chosen(data: Activations, source: Source, n_points: int | None) -> Activations:
    if n_points is None or n_points == len(data):
        return data
    if n_points > len(data):
        raise InputError(
            f"[grid] n_points has {n_points} but the data {source['source']!r} have {len(data)} rows; pass fewer."
        )
    return data[np.random.default_rng(source["seed"]).permutation(len(data))[:n_points]]


def _prepared(source: Source, rows: Activations) -> tuple[Activations, str]:
    # Of the rows as they were, not of what arithmetic makes of them, which can differ between machines.
    digest = hashlib.sha256(json.dumps([fingerprint(rows), source["center"], source["scale"]]).encode()).hexdigest()
    if not source["center"] and source["scale"] == "none":
        return rows, digest
    X = rows.to_numpy()
    X = X - X.mean(axis=0) if source["center"] else X
    lengths = np.linalg.norm(X, axis=1)
    scale = {"none": 1.0, "mean_norm": lengths.mean(), "mean_square": np.sqrt(np.square(lengths).mean())}
    if not scale[source["scale"]] > 0:
        raise InputError(
            f"data {source['source']!r} are all the same row, so no scale makes their norm 1; pass scale = 'none'."
        )
    return Activations(X / scale[source["scale"]]), digest
