"""The datapoints of a cell, made from their recipe wherever the cell runs, and the hash that says they are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.data.embedded import EMBEDDED_NAMES, embedded
from cvxsae.study.keys import DATA, GENERATORS

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike


def datapoints(source: Mapping[str, Any], n_points: int | None) -> tuple[Float64[np.ndarray, "N d"], str]:
    """The first N rows of one random order, centred and scaled as asked, and the hash of rows and recipe.

    The rows are those of ``X[numpy.random.default_rng(seed).permutation(len(X))[:N]]``; mean and scale are theirs.

    Raises
    ------
    InputError
        If there are fewer rows, or the source cannot be read or made.
    """
    return _made(json.dumps(source, sort_keys=True), n_points, _state(source["source"]))


def _state(source: str) -> tuple[int, ...]:
    """What changes when a file is written again: what was read of it before is then not its content."""
    file = Path(source.partition("::")[0])
    if source in GENERATORS or source in EMBEDDED_NAMES or not file.is_file():
        return ()
    known = file.stat()
    return known.st_mtime_ns, known.st_size, known.st_ino


@lru_cache(maxsize=2)
def _made(recipe: str, n_points: int | None, _: tuple[int, ...]) -> tuple[np.ndarray, str]:
    source = json.loads(recipe)
    name, seed = source["source"], source["seed"]
    numbers = {key: tuple(v) if isinstance(v, list) else v for key, v in source.items() if key not in DATA}
    if name in GENERATORS:
        assert n_points is not None
        rows = np.asarray(GENERATORS[name](n_points, seed=seed, **numbers).X)
    else:
        given: ActivationsLike = embedded(name) if name in EMBEDDED_NAMES else name
        data = Activations(given, name=f"data {name!r}")
        if n_points is not None and n_points > len(data):
            raise InputError(f"[grid] n_points has {n_points} but the data {name!r} have {len(data)} rows; pass fewer.")
        order = np.random.default_rng(seed).permutation(len(data))[:n_points]
        rows = data[order].tensor.cpu().to(_exact(data)).numpy()
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    # Of the rows as they were, not of what arithmetic makes of them, which can differ between machines.
    digest = hashlib.sha256(rows.tobytes())
    digest.update(json.dumps([rows.shape, source["center"], source["scale"]]).encode())
    X = rows - rows.mean(axis=0) if source["center"] else rows
    lengths = np.linalg.norm(X, axis=1)
    scale = {"none": 1.0, "mean_norm": lengths.mean(), "mean_square": np.sqrt(np.square(lengths).mean())}
    if not scale[source["scale"]] > 0:
        raise InputError(f"data {name!r} are all the same row, so no scale makes their norm 1; pass scale = 'none'.")
    X = X / scale[source["scale"]]
    X.flags.writeable = False
    return X, digest.hexdigest()


def _exact(data: Activations) -> Any:
    import torch

    return torch.promote_types(data.tensor.dtype, torch.float32)  # numpy has no bfloat16
