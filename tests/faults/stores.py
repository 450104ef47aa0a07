"""The computations that keep their work, each small, with the numbers that must be the same after any fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae import (
    LargeDictionary,
    ScaleStudy,
    Status,
    certify,
    compare,
    dictionary_path,
    encode,
    large_path,
    learn_dictionary,
)
from cvxsae.data.archive import RECORD, write_npz
from cvxsae.data.atomic import write_atomically
from cvxsae.data.synthetic import sparse_features

Numbers = dict[str, Any]

TOL = 1e-6
"""Relative gap of codes; two answers may differ by that."""


@dataclass(frozen=True)
class Kind:
    """One verb with a folder.

    Attributes
    ----------
    run
        Computes, from what the folder has, and returns the numbers of the answer.
    records
        Pattern of the files of finished work.
    rtol
        By which the numbers of two runs may differ.
    rewrites
        Whether a finished record is replaced by a later one, so that its file changes.
    trains
        Whether torch differentiates: a process that has done so cannot be forked.
    """

    name: str
    run: Callable[[Path], Numbers]
    records: str
    rtol: float
    rewrites: bool = False
    trains: bool = False


def _points(n: int, dim: int = 5) -> np.ndarray:
    return np.asarray(sparse_features(n, dim, 7, seed=3, noise=0.05).X)


def _encode(folder: Path) -> Numbers:
    X, D = _points(400), np.random.default_rng(1).normal(size=(16, 5))
    codes = encode(X, D, 0.2, tol=TOL, folder=folder, memory_limit=2**20, engine="torch")
    assert codes.status is Status.INTERRUPTED or not certify(codes).objections
    return {"ended": codes.status.name, "value": codes.value, "values": codes.values, "codes": codes.codes.toarray()}


def _learn(folder: Path) -> Numbers:
    from cvxsae.solvers.dictionary import checkpoint

    checkpoint.SECONDS = 0.0  # every step is kept
    fit = learn_dictionary(_points(120), 4, 0.1, max_steps=60, folder=folder)
    assert not certify(fit).objections
    return {"ended": fit.status.name, "value": fit.value, "dictionary": fit.dictionary, "bias": fit.bias}


def _path(folder: Path) -> Numbers:
    path = large_path(LargeDictionary(_points(9), 0.05, 1.0, bias=None), [0.5, 1.0, 2.0, 4.0], folder=folder, tol=1e-2)
    named = ("value", "lower_bound", "status", "live_atoms", "atom_cost")
    return {
        "ended": "COMPLETE" if path.status is None else path.status.name,
        **{name: [getattr(point, name) for point in path.points] for name in named},
    }


def _dictionaries(folder: Path) -> Numbers:
    from cvxsae.solvers.dictionary import checkpoint

    checkpoint.SECONDS = 0.0  # every step is kept
    fits = dictionary_path(_points(60), 3, [0.4, 0.2], stationarity=1e-2, folder=folder)
    assert not any(certify(fit).objections for fit in fits)
    return {
        "ended": fits[-1].status.name,
        "value": [fit.value for fit in fits],
        "dictionaries": [fit.dictionary for fit in fits],
    }


def _study(folder: Path) -> Numbers:
    study = ScaleStudy(
        folder=folder,
        data={"mine": _points(60)},
        n_atoms=[2, 3],
        lam=[0.2, 0.4],
        bias=["none"],
        methods=["wide_limit", "spectral_floor", "learned"],
        options={"learned": {"max_steps": 20}},
    )
    table = study.run(n_jobs=1, threads=1, retry_failed=True).sort_values("cell")
    texts = {name: table[name].tolist() for name in ("cell", "status", "method")}
    numbers = {name: table[name].to_numpy(dtype=float, na_value=np.nan) for name in ("value", "lower_bound")}
    return {**texts, **numbers}


def _compare(folder: Path) -> Numbers:
    found = compare(_points(60), (2, 3), 0.2, training={"steps": 10, "batch_size": 16}, folder=folder)
    results = [result.to_dict() for result in found.results]
    names = ("best", "grown", "best_from")
    return {name: [result[name] for result in results] for name in names} | {
        "dictionaries": [dictionary for dictionary, _ in found.dictionaries]
    }


KINDS = (
    Kind("encode", _encode, "rows-*.npz", 10 * TOL),
    Kind("large_path", _path, "point-*.npz", 2e-2),
    Kind("dictionary_path", _dictionaries, "*.npz", 1e-6),
    Kind("study", _study, "cells/*.npz", 1e-6),
    Kind("learn", _learn, "state*.npz", 1e-6, rewrites=True),
    Kind("compare", _compare, "study/cells/*.npz", 1e-6, trains=True),
)


def _gullible(folder: Path) -> Numbers:
    folder.mkdir(exist_ok=True)
    file = folder / "sum.npz"
    if not file.exists():
        head = {"format": 1, "key": "sum", "asked": "", "record": {}}
        write_atomically(folder / "manifest.json", "{}")
        write_atomically(
            file, lambda out: write_npz(out, {"value": _points(20).sum(axis=0)}, {RECORD: json.dumps(head)})
        )
    return {"value": np.load(file)["value"]}


GULLIBLE = Kind("gullible", _gullible, "*.npz", 1e-6)
"""What the others must not be: it believes what it finds, in no time."""


def differences(one: Any, other: Any, rtol: float, name: str = "") -> list[str]:
    """Where two sets of numbers differ; NaN is equal to itself."""
    if isinstance(one, dict):
        return [part for key in one for part in differences(one[key], other[key], rtol, f"{name}.{key}".strip("."))]
    if isinstance(one, list) and one and isinstance(one[0], str | list | np.ndarray):
        if len(one) != len(other):
            return [f"{name}: {len(one)} and {len(other)}"]
        return [part for pair in zip(one, other, strict=True) for part in differences(*pair, rtol, name)]
    if isinstance(one, str):
        return [] if one == other else [f"{name}: {one!r} and {other!r}"]
    a, b = (np.asarray(value, dtype=np.float64) for value in (one, other))
    scale = float(np.nan_to_num(np.abs(a)).max(initial=1e-12))
    near = rtol if a.ndim < 2 else np.sqrt(rtol)  # where values agree to rtol, codes and atoms do to its root
    if a.shape == b.shape and np.allclose(a, b, rtol=near, atol=near * scale, equal_nan=True):
        return []
    return [f"{name}: {a.tolist() if a.size < 6 else a.shape} and {b.tolist() if b.size < 6 else b.shape}"]
