"""The studies in ``examples/studies`` are what their page says: read, planned, and one cell of each kind run small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cvxsae import ScaleStudy

STUDIES = sorted((Path(__file__).parents[1] / "examples" / "studies").glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_an_example_is_a_study_and_runs_small(tmp_path, file):
    study = ScaleStudy.from_toml(file, folder=tmp_path / "out")
    methods = {cell.method for cell in study.plan()}
    assert methods == set(study.methods)
    widths = tuple(study.n_atoms[:1])
    options = {method: {k: v for k, v in table.items() if k != "n_atoms"} for method, table in study.options.items()}
    options["learned"] |= {"max_steps": 5}
    options["trained_sae"] |= {"steps": 5, "search_seconds": 0.2}
    options["check"] |= {"new_atoms": 1}
    small = replace(
        study, n_points=(60,), n_atoms=widths, lam=study.lam[:1], atom_cost=study.atom_cost[:1], options=options
    )
    table = small.run()
    assert set(table["method"]) == methods
    assert (table["status"] == "done").all() and table["violation"].isna().all()


def test_the_page_says_what_the_width_study_gave():
    """Every row of the page's table, from the table that the study wrote (``examples/studies/width.csv``)."""
    root = Path(__file__).parents[1]
    page, given = (
        (root / "docs" / "studies.md").read_text(encoding="utf-8"),
        root / "examples" / "studies" / "width.csv",
    )
    rows = pd.read_csv(given).query("method == 'learned'").sort_values("n_atoms")
    spec = ScaleStudy.from_toml(root / "examples" / "studies" / "width.toml", folder="unused")
    assert list(rows["n_atoms"]) == list(spec.n_atoms)
    assert set(rows["n_points"]) == set(spec.n_points) and set(rows["n_held_out"]) == {spec.n_points[0] * spec.held_out}
    for _, row in rows.iterrows():
        assert page_row(row) in page
    told = page.split("## What the width study found")[1].split("## λ × τ")[0]
    assert told.count("\n| ") == len(rows) + 1


def page_row(row: Any) -> str:
    """One line of the page's table."""
    mean = f"{row['held_out']:.4f} [{row['held_out_low']:.4f}, {row['held_out_high']:.4f}]"
    fall = ""
    if row["held_out_fall"] == row["held_out_fall"]:
        fall = f"{row['held_out_fall']:.4f} [{row['held_out_fall_low']:.4f}, {row['held_out_fall_high']:.4f}]"
    own = f"{row['value']:.4f} | {row['memorization']:.4f} | {row['floor']:.4f} | {row['l0']:.1f} | {row['fvu']:.2f}"
    return f"| {row['n_atoms']:.0f} | {mean} | {fall} | {own} |"
