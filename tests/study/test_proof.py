"""A cell that was computed earlier proves what its dictionary attains before it counts as there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvxsae import ScaleStudy
from cvxsae.data.synthetic import sparse_features
from tests.helpers.forged import forge

NUMBERS = ["value", "lower_bound", "local", "exact"]


def study(folder: Path, bias: str = "none") -> Any:
    return ScaleStudy(
        folder=folder,
        data={"x": np.asarray(sparse_features(40, 4, 6, seed=3, noise=0.05).X)},
        n_atoms=[2],
        lam=[0.2],
        bias=[bias],
        methods=["wide_limit", "learned", "trained_sae"],
        options={
            "learned": {"stationarity": 1e-2},
            "trained_sae": {"steps": 5, "batch_size": 8, "search_seconds": 5.0},
        },
    )


def ran(folder: Path, **options: Any) -> Any:
    return study(folder, **options).run(n_jobs=1, threads=1).sort_values("cell").reset_index(drop=True)


def written(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "cells").glob("*.npz")}


@pytest.fixture(name="made")
def computed(tmp_path: Path) -> tuple[Path, Any, dict[str, Path]]:
    """A finished study, its table, and the file of every method's cell."""
    table = ran(tmp_path)
    files = {method: tmp_path / "cells" / f"{cell}.npz" for cell, method in zip(table.cell, table.method, strict=True)}
    return tmp_path, table, files


FORGED: dict[str, Any] = {
    "a dictionary that is no numbers": lambda record, arrays: arrays["dictionary"].__setitem__((0, 0), np.nan),
    "atoms of another norm": lambda record, arrays: arrays["dictionary"].__imul__(3),
    "another atom": lambda record, arrays: arrays["dictionary"].__setitem__(0, -arrays["dictionary"][0]),
    "another bias": lambda record, arrays: arrays["bias"].__iadd__(0.1),
    "no bias": lambda record, arrays: arrays.pop("bias"),
    "an atom less": lambda record, arrays: arrays.update(dictionary=arrays["dictionary"][1:]),
    "a lower value": lambda record, arrays: record["numbers"].update(value=0.9 * record["numbers"]["value"]),
    "a higher value": lambda record, arrays: record["numbers"].update(value=1.1 * record["numbers"]["value"]),
    "another penalty": lambda record, arrays: record["numbers"].update(lam=0.1),
}


@pytest.mark.slow
def test_what_does_not_bear_out_its_number_is_computed_again(made):
    folder, table, files = made
    for name, change in FORGED.items():
        before = written(folder)
        forge(files["learned"], partial(_altered, change))
        forged = written(folder)
        assert {file for file in before if before[file] != forged[file]} == {files["learned"].name}
        again = ran(folder)
        after = written(folder)
        assert {file for file in forged if forged[file] != after[file]} == {files["learned"].name}, name
        for column in NUMBERS:
            found, expected = (one[column].to_numpy(float, na_value=np.nan) for one in (again, table))
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def _altered(change: Any, record: Any, arrays: Any) -> None:
    change(record, arrays)


@pytest.mark.slow
def test_the_best_level_of_a_trained_sae_is_proven_too_and_what_is_whole_is_not_computed_again(made):
    folder, _, files = made
    before = written(folder)
    ran(folder)
    assert written(folder) == before
    forge(files["trained_sae"], lambda record, arrays: record["numbers"].update(local=0.9 * record["numbers"]["local"]))
    forged = written(folder)
    ran(folder)
    after = written(folder)
    assert {name for name in forged if forged[name] != after[name]} == {files["trained_sae"].name}


@pytest.mark.slow
def test_the_mean_as_bias_is_taken_up_as_it_is(tmp_path):
    ran(tmp_path, bias="mean")
    before = written(tmp_path)
    ran(tmp_path, bias="mean")
    assert written(tmp_path) == before
