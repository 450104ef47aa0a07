"""The datapoints of a data set, made wherever a cell runs: training rows and held-out rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.data.embedded import EMBEDDED_NAMES, embedded
from cvxsae.data.labels import labels_in
from cvxsae.data.overlap import require_apart, shared_rows
from cvxsae.data.splits import chosen_rows, document_labels, split_rows
from cvxsae.data.storage import fingerprint
from cvxsae.data.transforms import Affine, center
from cvxsae.errors import InputError
from cvxsae.solvers.codes.evaluation import CONFIDENCE as DEFAULT_CONFIDENCE
from cvxsae.study.files import ARRAY, Paths, state
from cvxsae.study.sources import CONFIDENCE, DATA, GENERATORS, GROUPS, HELD_OUT, HELD_OUT_GROUPS, Source

if TYPE_CHECKING:
    from jaxtyping import Int64


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
        SHA-256 of the given rows, before they are centered and scaled, with what is done to them.
    set_aside
        What identifies the held-out rows (the share and the seed of their choice, or the SHA-256 of rows of their own),
        their documents (the SHA-256 of labels) and the confidence, if it is not the usual one.
    groups, held_out_groups
        Which document each row of either is of, (n,) and (m,), integers from 0; None if rows are independent.
    confidence
        Of intervals for the distribution.
    n_seen
        How many held-out rows of their own are equal to rows that are learned from.
    """

    X: Activations
    held_out: Activations | None
    digest: str
    set_aside: Mapping[str, Any] | None = None
    groups: Int64[np.ndarray, " n"] | None = None
    held_out_groups: Int64[np.ndarray, " m"] | None = None
    confidence: float = DEFAULT_CONFIDENCE
    n_seen: int = 0


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
    held out, rows or whole documents, chosen by ``seed``, or the rows that the source names are. Mean and scale are
    those of the rows learned from. ``arrays`` has the rows, and as a column the labels, of sources that are in memory.
    Rows of files are read block by block where all of them are taken as they are; what is chosen, centered or scaled is
    a copy, in memory up to 1 GiB and beyond that in a temporary file (N rows of many: in memory).

    Raises
    ------
    InputError
        If there are fewer rows, labels do not fit, or the source cannot be read or made.
    """
    names = [source[key] for key in ("source", HELD_OUT, GROUPS, HELD_OUT_GROUPS) if key in source]
    if any(_is_array(name) for name in names):
        return _rows(source, n_points, share, arrays or {})
    return _made(json.dumps(source, sort_keys=True), n_points, share, tuple(state(name) for name in names))


@lru_cache(maxsize=2)
def _made(recipe: str, n_points: int | None, share: float | None, _: tuple[tuple[tuple[int, ...], ...], ...]) -> Rows:
    return _rows(json.loads(recipe), n_points, share, {})


def _rows(source: Source, n_points: int | None, share: float | None, arrays: Mapping[str, Activations]) -> Rows:
    _require_meaning(source, share)
    given, labels = _given(source, n_points, arrays)
    # Of the rows as they were, not of what arithmetic makes of them, which can differ between machines.
    known_as = [fingerprint(given), source["center"], source["scale"]]
    digest = hashlib.sha256(json.dumps(known_as).encode()).hexdigest()
    confidence = source.get(CONFIDENCE, DEFAULT_CONFIDENCE)
    sure = {} if confidence == DEFAULT_CONFIDENCE else {CONFIDENCE: confidence}
    if HELD_OUT in source:
        aside = _opened(source[HELD_OUT], arrays)
        if aside.shape[1] != given.shape[1]:
            raise InputError(
                f"{_named(source, HELD_OUT)} has {aside.shape[1]} columns and its rows have {given.shape[1]}; pass "
                "rows of the same width."
            )
        own = _labels(source, HELD_OUT_GROUPS, len(aside), arrays)
        _require_several(source, HELD_OUT_GROUPS, own)
        said = require_apart(given, aside, _named(source, HELD_OUT))
        known = {"rows": fingerprint(aside), **({} if own is None else {HELD_OUT_GROUPS: labels_digest(own)}), **sure}
        seen = 0 if said is None else shared_rows(given, aside)
        parts = _prepared(source, given, aside)
        return Rows(*parts, digest, known, None, own, confidence, seen)
    if share is None:
        return Rows(*_prepared(source, given, None), digest)
    split = split_rows(len(given), source["seed"], groups=labels, share=share)
    _require_several(source, GROUPS, split.held_out_groups)
    is_held_out = np.zeros(len(given), dtype=np.bool_)
    is_held_out[split.held_out] = True
    parts = _prepared(source, chosen_rows(given, ~is_held_out), chosen_rows(given, is_held_out))
    documents = {} if labels is None else {GROUPS: labels_digest(labels)}
    known = {"share": share, "seed": source["seed"], **documents, **sure}
    return Rows(*parts, digest, known, split.train_groups, split.held_out_groups, confidence)


def _require_meaning(source: Source, share: float | None) -> None:
    """Refuse documents and confidence that nothing is said with."""
    is_own = HELD_OUT in source
    wrong = {
        GROUPS: "its held-out rows are data of their own" if is_own else "no rows are held out",
        HELD_OUT_GROUPS: "no rows are held out" if share is None else "a share of the rows is held out",
        CONFIDENCE: "no rows are held out",
    }
    right = {GROUPS: not is_own and share is not None, HELD_OUT_GROUPS: is_own, CONFIDENCE: is_own or share is not None}
    remedy = {
        GROUPS: f"give {HELD_OUT_GROUPS}, or leave it out" if is_own else "give a share in [grid] held_out",
        HELD_OUT_GROUPS: f"give {GROUPS}, or rows of their own as held_out",
        CONFIDENCE: "give [grid] held_out, or leave it out",
    }
    for key, is_right in right.items():
        if key in source and not is_right:
            raise InputError(f"{_named(source, key)} was given, but {wrong[key]}; {remedy[key]}.")


def _given(
    source: Source, n_points: int | None, arrays: Mapping[str, Activations]
) -> tuple[Activations, Int64[np.ndarray, " N"] | None]:
    """The rows asked for and their documents, as they are."""
    name = source["source"]
    if isinstance(name, str) and name in GENERATORS:
        assert n_points is not None
        numbers = {key: tuple(v) if isinstance(v, list) else v for key, v in source.items() if key not in DATA}
        return Activations(np.asarray(GENERATORS[name](n_points, seed=source["seed"], **numbers).X)), None
    data = _opened(name, arrays)
    labels = _labels(source, GROUPS, len(data), arrays)
    if n_points is None or n_points == len(data):
        return data, labels
    if n_points > len(data):
        raise InputError(f"[grid] n_points has {n_points} but the data {name!r} have {len(data)} rows; pass fewer.")
    order = np.random.default_rng(source["seed"]).permutation(len(data))[:n_points]
    return data[order], None if labels is None else document_labels(labels[order], n_points)


def _opened(name: Paths, arrays: Mapping[str, Activations]) -> Activations:
    if isinstance(name, str) and name.startswith(ARRAY):
        if name.removeprefix(ARRAY) not in arrays:
            raise InputError(f"data {name!r} are not at hand; pass the array again.")
        return arrays[name.removeprefix(ARRAY)]
    rows = embedded(name) if isinstance(name, str) and name in EMBEDDED_NAMES else name
    return Activations(rows, name=f"data {name!r}")


def _labels(
    source: Source, key: str, n_points: int, arrays: Mapping[str, Activations]
) -> Int64[np.ndarray, " N"] | None:
    """Which document each row is of, integers from 0, if that is said."""
    if key not in source:
        return None
    name, called = source[key], _named(source, key)
    if name.startswith(ARRAY):
        return document_labels(_opened(name, arrays).to_numpy()[:, 0].astype(np.int64), n_points, called)
    return document_labels(labels_in(name, called), n_points, called)


def labels_column(labels: Any, name: str) -> Activations:
    """Labels in memory as a column of numbers, which travels as data in memory do."""
    size = len(labels) if hasattr(labels, "__len__") else 0
    known = document_labels(labels, size, name)
    assert known is not None
    if size == 0:
        raise InputError(f"{name} is empty; pass one label a row.")
    return Activations(known[:, None], name=name)


def _require_several(source: Source, key: str, labels: Int64[np.ndarray, " N"] | None) -> None:
    if labels is not None and int(labels.max()) == 0:
        raise InputError(
            f"{_named(source, key)} makes one document of all held-out rows, of which there is no interval; hold out "
            "two documents or more."
        )


def labels_digest(labels: Int64[np.ndarray, " N"]) -> str:
    """SHA-256 of labels, so that they are known again."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def _named(source: Source, key: str) -> str:
    """What messages call a key of a data set."""
    return key if _is_array(source["source"]) else f"[data] {key} of {source['source']!r}"


def _is_array(name: Paths) -> bool:
    return isinstance(name, str) and name.startswith(ARRAY)


def _prepared(source: Source, rows: Activations, aside: Activations | None) -> tuple[Activations, Activations | None]:
    """Rows centered and scaled as asked, and others treated likewise; block by block."""
    if not source["center"] and source["scale"] == "none":
        return rows, aside
    shift = center(rows).shift if source["center"] else np.zeros(rows.shape[1])
    scale = 1.0
    if source["scale"] != "none":
        lengths = [
            torch.linalg.vector_norm(batch.cpu() - torch.from_numpy(np.array(shift)), dim=1) for batch in rows.batches()
        ]
        norms = torch.cat(lengths)
        scale = float(norms.mean() if source["scale"] == "mean_norm" else norms.square().mean().sqrt())
    if not scale > 0:
        raise InputError(
            f"data {source['source']!r} are all the same row, so no scale makes their norm 1; pass scale = 'none'."
        )
    change = Affine(shift, 1 / scale)
    treated = [None if part is None else change.apply(part, dtype=torch.float64) for part in (rows, aside)]
    assert treated[0] is not None
    return treated[0], treated[1]
