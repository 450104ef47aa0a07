"""The table: floors joined where they hold, and theory's objections to rows that were spoiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cvxsae import ScaleStudy
from cvxsae.errors import InputError
from cvxsae.sae.audits.ledger import GAPS
from cvxsae.study import registry, sources, spec
from cvxsae.study.methods import check
from cvxsae.study.store import Store
from cvxsae.study.summary import MOST_LINES
from cvxsae.study.table import COLUMNS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    study = ScaleStudy(
        folder=tmp_path_factory.mktemp("study"), data=["toy"], n_points=[80], n_atoms=[2, 4, 8], lam=[0.2],
        atom_cost=[0.0, 1.0], bias=["none"], name="toy study",
        methods=["wide_limit", "spectral_floor", "width_floor", "large_dictionary", "learned", "trained_sae", "check"],
        sources={"toy": {"source": "sparse_features", "dim": 6, "n_features": 8}},
        options={
            "learned": {"max_steps": 60}, "trained_sae": {"steps": 60, "n_atoms": [4]},
            "width_floor": {"n_atoms": [4]}, "check": {"n_atoms": [4], "new_atoms": 2, "tol": 1e-3},
        },
    )  # fmt: skip
    return study, study.run()


def rows(table, method):
    return table[table["method"] == method]


@pytest.mark.slow
def test_every_row_is_certified_and_lies_above_the_floors_that_hold_for_it(finished):
    study, table = finished
    assert list(table.columns) == list(COLUMNS)
    assert [str(dtype) for dtype in table.dtypes] == [
        {"string": "string"}.get(kind, kind) for kind, _ in COLUMNS.values()
    ]
    assert len(table) == len(study.plan()) == 1 + 3 + 1 + 2 + 3 + 1 + 1
    assert (table["status"] == "done").all() and table["violation"].isna().all() and table["certified"].all()
    assert ((table["value"] >= table["floor"] * (1 - 1e-9)) | table["value"].isna()).all()
    wide = rows(table, "wide_limit")["lower_bound"].iloc[0]
    assert (table["wide"] == wide).all()
    learned = rows(table, "learned").set_index("n_atoms")
    floors = {
        **dict(zip(rows(table, "spectral_floor")["n_atoms"], rows(table, "spectral_floor")["lower_bound"], strict=True))
    }
    # A floor for four atoms holds for two, not for eight.
    four = max(floors[4], rows(table, "width_floor")["lower_bound"].iloc[0])
    assert learned.loc[4, "floor"] == four
    assert learned.loc[2, "floor"] == max(four, floors[2])
    assert learned.loc[8, "floor"] == max(wide, floors[8])
    assert (rows(table, "large_dictionary")["floor"] == wide).all()
    assert learned["best"].is_monotonic_decreasing
    sae = rows(table, "trained_sae").iloc[0]
    lines = tuple(GAPS)
    assert sae["value"] == pytest.approx(sum(sae[line] for line in lines) + sae["wide"], rel=1e-12)
    assert rows(table, "check")["value"].iloc[0] == pytest.approx(learned.loc[4, "value"], rel=1e-5)
    for column in ("seconds", "cvxsae", "torch", "numpy", "python", "platform", "data_hash"):
        assert table[column].notna().all()


def test_the_page_explains_every_column_key_and_method():
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    for name, (_, meaning) in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in page
    for table, known in {"grid": spec.GRID, **registry.OPTIONS}.items():
        assert f"`[{table}]`" in page or not set(known) - {"n_atoms"}
        assert all(f"`{key}`" in page for key in known)
    assert all(f"`{name}`" in page for name in (*registry.METHODS, *sources.GENERATORS, *sources.DATA))


@pytest.mark.slow
def test_the_table_is_read_back_from_parquet_and_csv(finished):
    import pandas as pd

    study, table = finished
    pd.testing.assert_frame_equal(pd.read_parquet(study.folder / "table.parquet"), table)
    assert len(pd.read_csv(study.folder / "table.csv")) == len(table)
    pd.testing.assert_frame_equal(study.table(), table)


SPOILED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a value under every floor": ("learned", {"value": 1e-3}, "is below"),
    "a floor above what is attained": ("spectral_floor", {"lower_bound": 9.0}, "is below the floor"),
    "a wide limit above what is attained": (
        "wide_limit",
        {"lower_bound": 9.0, "value": 9.0},
        "is below the floor (T9)",
    ),
    "no value": ("learned", {"value": None}, "no finite value"),
    "exact codes above the encoder's": ("trained_sae", {"exact": 9.0}, "above"),
    "a negative gap of codes": ("learned", {"codes_gap": -1e-3}, "negative"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_row_is_objected_to_in_table_and_summary(finished, kind):
    study, table = finished
    method, change, said = SPOILED[kind]
    store, cell = Store(study.folder), rows(table, method)["cell"].iloc[-1]
    kept = store.cells.read(cell)
    assert kept is not None
    try:
        numbers = {**kept.record["numbers"], **change}
        store.cells.write(cell, {**kept.record, "numbers": numbers}, kept.arrays)
        spoiled = study.table()
        objections = spoiled["violation"].dropna()
        assert objections.str.contains(said, regex=False).any(), list(objections)
        assert not spoiled.loc[spoiled["violation"].notna(), "certified"].any()
        assert "VIOLATION" in study.summary()
    finally:
        store.cells.write(cell, *kept)
    assert study.table()["violation"].isna().all()
    assert "VIOLATION" not in study.summary()


@pytest.mark.slow
def test_the_summary_is_short_and_says_what_is_only_a_bound(finished):
    study, table = finished
    said = study.summary()
    assert len(said.splitlines()) <= MOST_LINES
    assert "11 cells done" in said.replace(str(len(table)), "11")
    assert "an upper bound of F*_K (nonconvex)" in said
    assert "F_wide" in said and "Doubling K closes" in said and "In every row that is done floor ≤ value" in said


EDGES: dict[str, tuple[dict[str, Any], str]] = {
    "λ above λ_max": ({"lam": [1e4]}, "The best found, an upper bound of F*_K (nonconvex), goes from"),
    "one datapoint, centered": ({"n_points": [1]}, "F_wide = 0 is certified (λ = 0.2)."),
    "more atoms than datapoints": ({"n_points": [3], "n_atoms": [4, 16]}, "the best found is F_wide to within 1e-04"),
    "one width": ({"n_atoms": [3]}, "(nonconvex), is"),
    "no method with widths": ({"n_atoms": [], "methods": ["wide_limit"]}, "F_wide = 0.0"),
    "stopped by their steps": (
        {"lam": [0.02], "options": {"learned": {"max_steps": 1}}, "methods": ["wide_limit", "learned"]},
        "; 0 of 3 reached",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EDGES)
def test_a_study_at_the_edge_ends_with_figures_and_a_summary_that_is_true(tmp_path, kind):
    """Warnings are errors here: nothing is divided by zero, and no logarithm taken of it."""
    change, expected = EDGES[kind]
    axes: dict[str, Any] = {
        "data": ["toy"], "bias": ["none"], "n_points": [30], "n_atoms": [2, 4, 8], "lam": [0.2],
        "methods": ["wide_limit", "learned", "trained_sae"],
        "sources": {"toy": {"source": "sparse_features", "dim": 4, "n_features": 6, "center": "centered" in kind}},
        "options": {"learned": {"max_steps": 40}, "trained_sae": {"steps": 5, "search_seconds": 0.5}},
    }  # fmt: skip
    study = ScaleStudy(folder=tmp_path / "out", **{**axes, **change})
    table = study.run()
    assert (table["status"] == "done").all() and table["violation"].isna().all()
    said = study.summary()
    assert expected in said and "nan" not in said and "<NA>" not in said
    learned = rows(table, "learned")
    if kind in ("λ above λ_max", "one datapoint, centered"):
        assert (learned["live_atoms"] == 0).all() and learned["value"].tolist() == pytest.approx(learned["wide"])
    ended = int(learned["outcome"].isin(["STATIONARY", "CERTIFIED"]).sum())
    assert f"{ended} of {len(learned)} reached stationarity or their lower bound" in said or learned.empty
    if len(learned) > ended:
        assert "; 0 of 3 reached" in said and "that did not meet their limit" not in said
    if (learned["excess"] < 1e-6).all():
        assert "Doubling" not in said and "Fit" not in said and "approach" not in study.figures()
    for figure in study.figures().values():
        figure.canvas.draw()


@pytest.mark.slow
def test_figures_are_drawn_where_their_data_exist(finished):
    study, _ = finished
    drawn = study.figures()
    assert set(drawn) == {"objective", "approach", "ledger", "sparsity", "live_atoms", "time"}
    labels = {line.get_label() for line in drawn["objective"].axes[0].get_lines()}
    assert {
        "wide limit (T9)",
        "spectral floor (T10)",
        "width floor",
        "learned dictionary, grown",
        "trained SAE",
    } <= labels
    heights = [sum(patch.get_height() for patch in drawn["ledger"].axes[0].patches)]
    assert heights[0] == pytest.approx(float(rows(study.table(), "trained_sae")["value"].iloc[0]))


@pytest.mark.slow
def test_figures_without_data_are_left_out(tmp_path):
    study = ScaleStudy(
        folder=tmp_path / "out", data=["toy"], n_points=[30], lam=[0.2, 0.4], atom_cost=[0.5, 2.0], bias=["none"],
        methods=["large_dictionary"], sources={"toy": {"source": "clustered", "dim": 4, "n_clusters": 3}},
    )  # fmt: skip
    study.run()
    assert set(study.figures()) == {"live_atoms"}
    gone = replace(study, folder=tmp_path / "gone", lam=(1e4,))  # no atom is worth its price
    assert (gone.run()["live_atoms"] == 0).all()
    gone.figures()["live_atoms"].canvas.draw()
    assert len(study.figures()["live_atoms"].axes[0].get_lines()) == 2  # one for each λ
    assert "large dictionary" in study.summary()


def test_a_study_projects_before_a_floor_if_asked(tmp_path):
    values = {}
    for max_dim in (None, 2):
        study = ScaleStudy(
            folder=tmp_path / f"out {max_dim}", data=["toy"], n_points=[40], n_atoms=[3], lam=[0.1], bias=["none"],
            methods=["width_floor"], sources={"toy": {"source": "sparse_features", "dim": 4, "n_features": 6}},
            options={"width_floor": {"max_dim": max_dim} if max_dim else {}},
        )  # fmt: skip
        values[max_dim] = rows(study.run(), "width_floor")["lower_bound"].item()
    assert values[2] < values[None] * 0.99


def test_a_floor_in_no_directions_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"max_dim is 0"):
        ScaleStudy(
            folder=tmp_path / "out", data=["toy"], n_atoms=[3], lam=[0.1], methods=["width_floor"],
            sources={"toy": {"source": "sparse_features"}}, options={"width_floor": {"max_dim": 0}},
        )  # fmt: skip


@pytest.mark.slow
def test_codes_that_are_not_exact_and_a_time_limit_are_told(tmp_path, monkeypatch):
    study = ScaleStudy(
        folder=tmp_path / "out", data=["toy"], n_points=[40], n_atoms=[3], lam=[0.1], bias=["none"],
        methods=["learned", "check", "width_floor"],
        sources={"toy": {"source": "sparse_features", "dim": 4, "n_features": 6}},
        options={"learned": {"max_steps": 20}, "check": {"new_atoms": 1}, "width_floor": {"max_seconds": 1e-9}},
    )  # fmt: skip
    table = study.run()
    assert rows(table, "width_floor")["outcome"].tolist() == ["TIME_LIMIT"]
    assert rows(table, "check")["certified"].tolist() == [True]
    (Path(study.folder) / "cells" / f"{rows(table, 'check')['cell'].item()}.npz").unlink()
    monkeypatch.setattr(check, "CODES_TOL", -1.0)  # which no gap is within
    spoiled = rows(study.run(), "check")
    assert spoiled["certified"].tolist() == [False] and "The codes are exact to" in spoiled["violation"].item()
