"""Studies and comparisons that hold rows out: what is said of rows not seen is what plain arithmetic says of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from typer.testing import CliRunner

from cvxsae import ScaleStudy, compare, encode
from cvxsae.cli.main import app
from cvxsae.data.splits import split_rows
from cvxsae.population import Evaluation, evaluate
from cvxsae.solvers.dictionary.spheres import unit
from cvxsae.study import HeldOutWidth, WidthResult
from cvxsae.study.plan import Cell
from cvxsae.study.rows import rows_of
from cvxsae.study.store import Store
from cvxsae.study.summary import _falls, summary
from tests.helpers.forged import forge
from tests.helpers.sentences import rejects

LAM = 0.1
WIDTHS = (2, 4, 8)


def planted(seed: int, n: int) -> np.ndarray:
    """Rows of one distribution: six features in five dimensions."""
    truth = unit(np.random.default_rng(0).standard_normal((6, 5)))
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 1.5, (n, 6)) * (rng.random((n, 6)) < 0.3)) @ truth + 0.05 * rng.standard_normal((n, 5))


def study(folder: Path, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "data": {"x": {"source": planted(1, 120), "center": True, "scale": "mean_norm"}},
        "n_atoms": WIDTHS,
        "lam": [LAM],
        "bias": ["none"],
        "held_out": 0.25,
        "methods": ["wide_limit", "learned", "trained_sae", "check"],
        "options": {
            "learned": {"max_steps": 15},
            "trained_sae": {"steps": 20, "batch_size": 16, "n_atoms": [2, 4]},
            "check": {"n_atoms": [4], "new_atoms": 1},
        },
    }
    return ScaleStudy(folder=folder, **{**asked, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = study(tmp_path_factory.mktemp("held"))
    return made, made.run(n_jobs=1, threads=1)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Student's interval as it is in every textbook."""
    error = values.std(ddof=1) / np.sqrt(len(values)) * scipy.stats.t.ppf(0.975, len(values) - 1)
    return values.mean(), values.mean() - error, values.mean() + error


def plain(rows: np.ndarray, dictionary: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """φ of every row by the formula, with codes that are exact to 1e-9."""
    codes = encode(rows, dictionary, LAM, bias=bias, tol=1e-9).codes
    residual = rows - bias - codes @ dictionary
    return 0.5 * (residual**2).sum(axis=1) + LAM * np.asarray(codes.sum(axis=1)).ravel()


def sets(made: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows learned from and held-out rows, by the recipe that the page gives."""
    X = planted(1, 120)
    split = split_rows(120, 0, share=0.25)
    train, aside = X[split.train], X[split.held_out]
    shift = train.mean(axis=0)
    scale = np.linalg.norm(train - shift, axis=1).mean()
    return (train - shift) / scale, (aside - shift) / scale


@pytest.mark.slow
def test_every_column_is_what_plain_arithmetic_says(finished):
    made, table = finished
    train, aside = sets(made)
    store = Store(made.folder)
    assert (table["status"] == "done").all() and table["violation"].isna().all()
    assert (table["n_points"] == 120).all()
    seen: dict[tuple[str, int], np.ndarray] = {}
    for _, row in table[table["method"].isin(("learned", "trained_sae", "check"))].iterrows():
        kept = store.cells.read(row["cell"])
        assert kept is not None
        own = ("sae_dictionary", "sae_bias") if row["method"] == "trained_sae" else ("dictionary", "bias")
        values = plain(aside, *(np.asarray(kept.arrays[name]) for name in own))
        seen[row["method"], row["n_atoms"]] = values
        assert row["n_held_out"] == len(aside) == 30
        found = [row["held_out"], row["held_out_low"], row["held_out_high"]]
        np.testing.assert_allclose(found, interval(values), rtol=1e-5)
        sample = plain(train, *(np.asarray(kept.arrays[name]) for name in own)).mean()
        assert row["memorization"] == pytest.approx(values.mean() - sample, abs=1e-5)
        if row["method"] == "trained_sae":
            gap = values - plain(aside, np.asarray(kept.arrays["dictionary"]), np.asarray(kept.arrays["bias"]))
            found = [row["held_out_gap"], row["held_out_gap_low"], row["held_out_gap_high"]]
            np.testing.assert_allclose(found, interval(gap), atol=1e-5)
            assert row["held_out"] - row["held_out_local"] == pytest.approx(row["held_out_gap"])
            assert row["held_out_loss"] >= row["held_out"] * (1 - 1e-6)
    for _, row in table[table["held_out_fall"].notna()].iterrows():
        narrow, wide = (seen[row["method"], width] for width in (row["n_atoms"] // 2, row["n_atoms"]))
        found = [row["held_out_fall"], row["held_out_fall_low"], row["held_out_fall_high"]]
        np.testing.assert_allclose(found, interval(narrow - wide), atol=1e-5)
    assert table["held_out_fall"].notna().sum() == 3  # two steps of learned, one of trained_sae
    # Huber of the held-out rows: the wide limit at zero bias.
    norms = np.linalg.norm(aside, axis=1)
    wide = np.where(norms <= LAM, norms**2 / 2, LAM * norms - LAM**2 / 2).mean()
    np.testing.assert_allclose(table["held_out_wide"].to_numpy(float), np.full(len(table), wide), rtol=1e-7)
    assert (table["held_out"].dropna() > wide).all()
    said = made.summary()
    assert "On 30 held-out rows learned dictionaries cost" in said and "on rows not seen (paired" in said
    assert "intervals: 95 %, t interval of a mean of rows, 30 rows." in said
    assert "On the rows learned from: the best found" in said
    assert {line.get_label() for line in made.figures()["objective"].axes[0].lines} >= {"learned, held-out rows"}


@pytest.mark.slow
def test_in_sample_columns_are_those_of_a_study_of_the_training_rows(finished, tmp_path):
    made, table = finished
    train, _ = sets(made)
    alone = study(tmp_path, data={"x": train}, held_out=None, methods=["wide_limit", "learned"], options={
        "learned": {"max_steps": 15}}).run(n_jobs=1, threads=1)  # fmt: skip
    for method in ("wide_limit", "learned"):
        pair = [one[one["method"] == method]["value"].to_numpy(float) for one in (table, alone)]
        np.testing.assert_allclose(pair[0], pair[1], rtol=1e-7)  # the data agree but for rounding
    assert alone[[name for name in alone if name.startswith("held_out")]].isna().all(axis=None)


FORGED: dict[str, Any] = {
    "a lower mean": lambda record, arrays: record["numbers"].update(held_out=0.9 * record["numbers"]["held_out"]),
    "less memorization": lambda record, arrays: record["numbers"].update(memorization=0.0),
    "lower rows": lambda record, arrays: arrays["held_out_values"].__imul__(0.9),
    "higher rows": lambda record, arrays: arrays["held_out_values"].__imul__(1.1),
    "a higher bound": lambda record, arrays: arrays["held_out_lower"].__imul__(1.1),
    "fewer rows": lambda record, arrays: arrays.update(
        held_out_values=arrays["held_out_values"][1:], held_out_lower=arrays["held_out_lower"][1:]
    ),
    "no rows": lambda record, arrays: arrays.pop("held_out_values"),
}


@pytest.mark.slow
def test_what_is_forged_of_rows_held_out_is_computed_again(tmp_path):
    made = study(
        tmp_path, n_atoms=[2], methods=["learned", "trained_sae", "check"],
        options={"learned": {"max_steps": 2}, "trained_sae": {"steps": 2, "batch_size": 8, "search_seconds": 0.1},
                 "check": {"new_atoms": 1, "splits": False}},
    )  # fmt: skip
    table = made.run(n_jobs=1, threads=1)
    files = {method: tmp_path / "cells" / f"{cell}.npz" for cell, method in zip(table.cell, table.method, strict=True)}

    def again() -> set[str]:
        before = {method: file.stat().st_mtime_ns for method, file in files.items()}
        made.run(n_jobs=1, threads=1)
        return {method for method, file in files.items() if file.stat().st_mtime_ns != before[method]}

    assert again() == set()  # the negative control: what is whole is taken up
    for name, change in FORGED.items():
        forge(files["learned"], change)
        assert again() == {"learned"}, name
    forge(files["trained_sae"], lambda record, arrays: arrays["held_out_local_values"].__imul__(0.9))
    assert again() == {"trained_sae"}
    forge(files["check"], FORGED["lower rows"])
    assert again() == {"check"}


def test_cells_of_studies_that_hold_nothing_out_have_the_names_they_had(tmp_path):
    toy = {"toy": {"source": "sparse_features", "dim": 4, "n_features": 6}}
    made = ScaleStudy(
        folder=tmp_path, data=["toy"], sources=toy, n_points=[20], n_atoms=[2, 4], lam=[0.2, 0.4], bias=["none"],
        methods=["wide_limit", "width_floor", "learned", "trained_sae", "check"], name="unused",
    )  # fmt: skip
    names = "".join(sorted(cell.id for cell in made.plan()))
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "5a21c21da599223b"
    told = json.dumps(made.to_dict(), sort_keys=True)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "5a93168d1145a543"
    held = replace(made, held_out=0.25).plan()
    assert not {cell.id for cell in made.plan()} & {cell.id for cell in held}
    assert not {cell.id for cell in replace(made, held_out=0.5).plan()} & {cell.id for cell in held}
    again = [Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) for cell in held]
    assert [cell.id for cell in again] == [cell.id for cell in held]
    before = {name: value for name, value in made.plan()[0].to_dict().items() if name != "held_out"}
    assert Cell.from_dict(before).id == made.plan()[0].id  # a plan written before


def test_rows_of_their_own_are_those_of_a_share_and_are_treated_likewise(tmp_path):
    X = planted(1, 120)
    split = split_rows(120, 0, share=0.25)
    np.save(tmp_path / "aside.npy", X[split.held_out])
    recipe = {"source": "array a", "center": True, "scale": "mean_norm", "seed": 0}
    given = {**recipe, "held_out": str(tmp_path / "aside.npy")}
    from cvxsae.data.activations import Activations

    share = rows_of(recipe, None, 0.25, {"a": Activations(X)})
    own = rows_of(given, None, None, {"a": Activations(X[split.train])})
    assert share.held_out is not None and own.held_out is not None
    np.testing.assert_array_equal(share.X.to_numpy(), own.X.to_numpy())
    np.testing.assert_array_equal(share.held_out.to_numpy(), own.held_out.to_numpy())
    assert np.abs(share.X.to_numpy().mean(axis=0)).max() < 1e-12 < np.abs(share.held_out.to_numpy().mean(axis=0)).max()
    planned = study(tmp_path / "study", held_out=None, data={"x": {"source": X, "held_out": planted(2, 7)}}).plan()
    assert {cell.n_points for cell in planned} == {120} and all(cell.share is None for cell in planned)


def test_what_cannot_be_held_out_is_refused(tmp_path):
    X = planted(1, 40)
    for share in (0, 1, 1.5, True, "some"):
        with rejects(r"\[grid\] held_out is .*; it must be a share of the rows, between 0 and 1"):
            study(tmp_path, held_out=share)
    with rejects(r"\[grid\] held_out is a share and \[data.x\] held_out has rows"):
        study(tmp_path, data={"x": {"source": X, "held_out": X[:5]}})
    with rejects("held_out has 4 columns and its rows have 5"):
        study(tmp_path, held_out=None, data={"x": {"source": X, "held_out": X[:5, :4]}}).plan()
    with rejects("held_out holds 5 rows of 5 that are learned from"):
        study(tmp_path, held_out=None, data={"x": {"source": X, "held_out": X[:5]}}).plan()
    with rejects(r"\[data.x\] held_out is the file .*, which does not exist"):
        study(tmp_path, held_out=None, data=["x"], sources={"x": {"source": X, "held_out": "gone.npy"}})


@pytest.mark.slow
def test_the_command_takes_a_share_and_a_toml_file_names_one(tmp_path):
    np.save(tmp_path / "X.npy", planted(1, 60))
    text = '[grid]\ndata = ["X.npy"]\nn_atoms = [2]\nlam = [0.1]\nmethods = ["learned"]\n[learned]\nmax_steps = 3\n'
    (tmp_path / "study.toml").write_text(text)
    (tmp_path / "other.toml").write_text(text.replace("[learned]", "held_out = 0.2\n[learned]"))
    call = ["study", "run", str(tmp_path / "study.toml"), "--folder", str(tmp_path / "out"), "--held-out"]
    runner = CliRunner()
    assert "On 12 held-out rows" in runner.invoke(app, [*call, "0.2"]).stdout
    assert ScaleStudy.from_toml(tmp_path / "other.toml", folder=tmp_path / "out").table()["n_held_out"].iloc[0] == 12
    refused = runner.invoke(app, [*call, "2"])
    assert refused.exit_code == 2 and "--held-out is 2" in refused.stderr


def seen(**columns: Any) -> pd.DataFrame:
    how = {"held_out_confidence": 0.95, "held_out_method": "t", "held_out_unit": "row", "n_held_out_units": 30}
    return pd.DataFrame({"n_atoms": [2, 4, 8, 16], **how, **{f"held_out_fall{end}": c for end, c in columns.items()}})


def test_the_summary_says_pays_only_where_the_interval_says_so():
    nan, how = np.nan, "on rows not seen (paired intervals: 95 %, t, 30 rows)"
    (said,) = _falls(seen(**{"": [nan, 2, 1, 1], "_low": [nan, 1, 0.5, 0.1], "_high": [nan, 3, 2, 2]}))
    assert (
        said == "Each wider dictionary, on rows not seen (paired intervals: 95 %, t, 30 rows), pays from K = 2 to 16."
    )
    (said,) = _falls(seen(**{"": [nan, 2, 1, -1], "_low": [nan, 1, -0.5, -2], "_high": [nan, 3, 2, -0.5]}))
    assert said == (
        f"Going wider, {how}, pays from K = 2 to 4; none shown from 4 to 8 (1 [-0.5, 2]); "
        "costs more from 8 to 16 (1 [0.5, 2])."
    )
    assert _falls(seen(**{"": [nan] * 4, "_low": [nan] * 4, "_high": [nan] * 4})) == []


@pytest.mark.slow
def test_where_there_is_nothing_to_learn_the_sample_falls_and_rows_not_seen_show_it(tmp_path):
    """The negative control: three directions and noise in which only a row's own atom reaches λ. The sample pays."""
    rng = np.random.default_rng(0)
    noise = 2 * np.eye(100)[rng.integers(3, size=80)] + 0.06 * rng.standard_normal((80, 100))
    made = study(
        tmp_path, data={"x": noise}, n_atoms=(3, 20), lam=[0.35], held_out=0.5, methods=["learned"],
        options={"learned": {"max_steps": 20}},
    )  # fmt: skip
    table = made.run(n_jobs=1, threads=1)
    values = table["value"].to_numpy(float)
    assert values[1] < 0.95 * values[0]
    assert table["held_out_fall_high"].iloc[1] < 0 < table["memorization"].iloc[1]
    said = summary("noise", table)
    assert "costs more from 3 to 20" in said and "pays" not in said


def test_paired_intervals_hold_as_often_as_they_say():
    """300 draws of 60 rows out of a population of 5,000; intervals of the two alone are twice as wide."""
    population = planted(5, 5000)
    truth = unit(np.random.default_rng(0).standard_normal((6, 5)))
    nudged = unit(truth + 0.2 * np.random.default_rng(1).standard_normal((6, 5)))
    pair = [evaluate(population, dictionary, LAM) for dictionary in (nudged, truth)]
    true = pair[0].value - pair[1].value
    rng, held, widths = np.random.default_rng(2), 0, []
    for _ in range(300):
        rows = rng.choice(5000, size=60, replace=False)
        drawn = [part(one, rows) for one in pair]
        fall = drawn[0].minus(drawn[1])
        held += fall.low <= true <= fall.high
        widths.append((fall.high - fall.low) / (drawn[0].mean.high - drawn[0].mean.low))
    assert held >= 0.93 * 300
    assert np.median(widths) < 0.6


def part(whole: Evaluation, rows: np.ndarray) -> Evaluation:
    return replace(whole, values=whole.values[rows], lower=whole.lower[rows], active=whole.active[rows])


@pytest.mark.slow
def test_a_comparison_puts_rows_not_seen_first(tmp_path):
    X, offset = planted(1, 120), np.full(5, 0.1)
    options: dict[str, Any] = {
        "training": {"steps": 5, "batch_size": 16}, "floors": {"kernels": (1,)}, "stationarity": 0.3, "bias": offset,
    }  # fmt: skip
    found = compare(X, (2, 4), LAM, held_out=0.25, folder=tmp_path / "out", **options)
    split = split_rows(120, 0, share=0.25)
    aside = X[split.held_out]
    values = [plain(aside, D, b) for D, b in found.dictionaries]
    for result, grown in zip(found.results, values, strict=True):
        held = result.held_out
        assert held is not None and held.grown.n_units == 30
        np.testing.assert_allclose([held.grown.value, held.grown.low, held.grown.high], interval(grown), rtol=1e-5)
        assert held.wide <= min(held.grown.value, held.exact.value) <= held.exact.value <= held.loss
        assert held.sae_gap.value == pytest.approx(held.exact.value - held.grown.value)
        assert (result.ledger.rows, result.ledger.n_points, result.sample.n_points) == ("held out", 30, 90)
        assert result.ledger.exact == held.exact.value and result.ledger.loss == held.loss
    second = found.results[1].held_out
    assert second is not None and second.fall is not None and found.results[0].held_out is not None
    assert found.results[0].held_out.fall is None
    expected = interval(values[0] - values[1])
    np.testing.assert_allclose([second.fall.value, second.fall.low, second.fall.high], expected, atol=1e-5)
    assert list(found.table())[1] == "held_out_loss" and found.settings["n_held_out"] == 30
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = WidthResult.from_dict(report["results"][1])
    assert isinstance(again.held_out, HeldOutWidth)
    for field in fields(HeldOutWidth):
        assert str(getattr(again.held_out, field.name)) == str(getattr(second, field.name))
    assert len(found.figure().axes[1].lines) == 7
    rows = compare(X[split.train], (2,), LAM, held_out=aside, **options)
    np.testing.assert_allclose(rows.table()["held_out_grown"], found.table()["held_out_grown"][:1], rtol=1e-6)
    with rejects("folder .* holds a comparison of another call"):
        compare(X, (2, 4), LAM, held_out=0.5, folder=tmp_path / "out", **options)
    with rejects("held_out is 1.5"):
        compare(X, (2,), LAM, held_out=1.5)
    with rejects("held_out has 4 columns and X has 5"):
        compare(X, (2,), LAM, held_out=aside[:, :4])


@pytest.mark.slow
def test_the_command_compares_on_rows_held_out(tmp_path):
    np.save(tmp_path / "X.npy", planted(1, 60))
    call = ["compare", str(tmp_path / "X.npy"), "--lam", "0.1", "--widths", "2", "--folder", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*call, "--steps", "5", "--stationarity", "0.1", "--held-out", "0.25"])
    assert done.exit_code == 0, done.output
    assert "held_out_exact" in done.stdout and "15 of 60 rows are held out, by row with seed 0" in done.stdout
