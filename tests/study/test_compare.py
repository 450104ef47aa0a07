"""SAEs, dictionaries and floors by width: ordered as they must be, written as they come, resumed where they were."""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
from typing import Any

import numpy as np
import pytest

from cvxsae import InputError, compare, encode
from cvxsae.data.synthetic import sparse_features
from cvxsae.errors import CertificateError
from cvxsae.sae.audits.ledger import GAPS
from cvxsae.study.compare import WidthResult, _settings_of_floors  # type: ignore[attr-defined]
from tests.helpers.figures import faults
from tests.helpers.sentences import rejects

LAM = 0.2
OPTIONS: dict[str, Any] = {"training": {"steps": 60, "batch_size": 32}, "stationarity": 1e-3, "held_out": None}
WIDTHS = (2, 4, 7)


@pytest.fixture(scope="module", name="X")
def datapoints():
    return sparse_features(90, 5, 6, seed=5, probability=0.3, bias_norm=0.5, noise=0.02).X


@pytest.fixture(scope="module")
def comparison(X):
    return compare(X, (7, 2, 4), LAM, **OPTIONS)


@pytest.mark.slow
def test_what_is_attained_is_above_the_floors_and_wider_is_better(X, comparison):
    table = comparison.table()
    assert list(table["n_atoms"]) == sorted(WIDTHS)
    assert (table["wide"] <= table["floor"] + 1e-12).all()
    assert (table["floor"] <= table["best"]).all()
    assert (table["best"] <= table[["local", "grown"]].min(axis=1)).all()
    assert (table["local"] <= table["exact"]).all()
    assert (table["exact"] <= table["loss"]).all()
    assert (np.diff(table["best"]) <= 0).all()
    np.testing.assert_allclose(table[list(GAPS)].sum(axis=1) + table["wide"], table["loss"], rtol=1e-12)
    assert table["best"].iloc[-1] < 0.8 * table["best"].iloc[0]
    for result, (D, b) in zip(comparison.results, comparison.dictionaries, strict=True):
        assert D.shape == (result.ledger.n_atoms, 5)
        assert encode(X, D, LAM, bias=b, tol=1e-9).value == pytest.approx(result.grown, rel=1e-6)


@pytest.mark.slow
def test_a_figure_and_strict_json(comparison, tmp_path):
    report = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert [entry["ledger"]["n_atoms"] for entry in report["results"]] == sorted(WIDTHS)
    figure = comparison.figure()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not faults(figure)
    stacked = figure.axes[0].patches
    assert sum(patch.get_height() for patch in stacked) == pytest.approx(comparison.table()["loss"].sum())


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_where_it_was(X, comparison, tmp_path, monkeypatch):
    def interrupt(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(X, WIDTHS, LAM, folder=tmp_path / "out", callback=interrupt, **OPTIONS)
    assert {"compare.json", "dictionary_2.npz"} < {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / "dictionary_4.npz").exists()
    seen: list[WidthResult] = []
    resumed = compare(X, WIDTHS, LAM, folder=tmp_path / "out", callback=seen.append, **OPTIONS)
    assert [result.ledger.n_atoms for result in seen] == [4, 7]
    np.testing.assert_allclose(resumed.table()["best"], comparison.table()["best"], rtol=1e-2)
    np.testing.assert_allclose(resumed.table()["loss"], comparison.table()["loss"], rtol=1e-6)
    monkeypatch.setattr("cvxsae.study.run.compute", None)  # a finished one computes nothing
    again = compare(X, WIDTHS, LAM, folder=tmp_path / "out", **OPTIONS)
    assert again.to_dict() == resumed.to_dict()


def test_a_folder_from_before_an_option_was_there_is_that_of_the_same_call():
    assert _settings_of_floors({"tol": 0.1}) == {"kernels": None, "max_points": None, "tol": 0.1}
    assert _settings_of_floors({"max_dim": 8})["max_dim"] == 8


@pytest.mark.slow
def test_a_folder_with_something_else_in_it_is_refused(X, tmp_path):
    compare(X[:30], (2,), LAM, folder=tmp_path / "out", **OPTIONS)
    before = (tmp_path / "out" / "compare.json").read_bytes()
    for data, lam, said in ((X[:29], LAM, r"data, n_points \(30 there, 29 here\)"), (X[:30], 0.3, r"lam \(0.2 there")):
        with rejects(f"folder '.*out' holds a comparison of another call, which differs in {said}"):
            compare(data, (2,), lam, folder=tmp_path / "out", **OPTIONS)
    assert (tmp_path / "out" / "compare.json").read_bytes() == before
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with rejects("folder .* is a file"):
            compare(X[:30], (2,), LAM, folder=out, **OPTIONS)


@pytest.mark.slow
def test_damaged_cells_are_computed_again(X, tmp_path):
    """What a comparison returns is never read from the files it writes for people."""
    first = compare(X[:30], (2, 3), LAM, folder=tmp_path / "out", **OPTIONS)
    (tmp_path / "out" / "compare.json").write_text("{}")
    (tmp_path / "out" / "dictionary_2.npz").write_bytes(b"half of it")
    cells = sorted((tmp_path / "out" / "study" / "cells").glob("*.npz"))
    assert len(cells) == 1 + 2 * 3
    for cell in cells[::2]:
        cell.write_bytes(cell.read_bytes()[:100])
    again = compare(X[:30], (2, 3), LAM, folder=tmp_path / "out", **OPTIONS)
    levels = ["loss", "exact", "local", "best", "floor", "wide"]
    np.testing.assert_allclose(again.table()[levels], first.table()[levels], rtol=1e-4)
    with np.load(tmp_path / "out" / "dictionary_2.npz") as kept:
        np.testing.assert_array_equal(kept["dictionary"], again.dictionaries[0][0])


@pytest.mark.slow
def test_a_limit_is_one_for_the_whole_call(X):
    """Floors, searches and training share it; what is returned is certified all the same."""
    started = time.perf_counter()
    limited = compare(X, WIDTHS, LAM, stationarity=1e-9, training={"steps": 100_000}, max_seconds=4)
    assert time.perf_counter() - started < 60
    table = limited.table()
    assert (table["floor"] <= table["best"]).all() and (table["local"] <= table["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, np.full(5, 0.1)])
def test_a_fixed_bias_is_the_bias_of_everything(X, bias):
    comparison = compare(X[:40], (3,), LAM, bias=bias, **OPTIONS)
    assert comparison.results[0].ledger.bias == "fixed"
    np.testing.assert_array_equal(comparison.dictionaries[0][1], 0 if bias is None else bias)


@pytest.mark.slow
def test_a_dictionary_below_the_floor_is_an_error(comparison):
    result = comparison.results[0]
    with pytest.raises(CertificateError, match="below the floor"):
        dataclasses.replace(result, best=result.ledger.floor * 0.999)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widths": ()}, "widths is empty"),
        ({"widths": (0,)}, "widths is 0"),
        ({"widths": 3}, "widths is 3; pass a list"),
        ({"widths": "12"}, "widths is '12'; pass a list"),
        ({"training": {"stpes": 3}}, "training has 'stpes', .* takes steps, batch_size"),
        ({"floors": {"lam": 3}}, "floors has 'lam'"),
        ({"lam": 0.0}, "lam is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"training": {"steps": 0}}, "steps is 0"),
    ],
)
def test_bad_input_is_one_sentence(X, change, sentence):
    with pytest.raises(InputError, match=sentence):
        inspect.unwrap(compare)(**{"X": X[:20], "lam": LAM, "widths": (2,), **change})  # without run-time types
