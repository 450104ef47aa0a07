"""The studies in ``examples/studies`` are what their page says: read, planned, and one cell of each kind run small."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cvxsae import ScaleStudy
from cvxsae.study.figures import figures
from tests.helpers.figures import faults

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


@pytest.mark.slow
def test_what_the_page_quotes_is_what_the_tables_say(monkeypatch):
    """``examples/results/NAME.json``, which the page is compared with, is made from ``examples/studies/NAME.csv``."""
    examples = STUDIES[0].parents[1]
    monkeypatch.syspath_prepend(str(examples / "studies"))
    told = importlib.import_module("results")
    assert set(told.FOUND) == {file.stem for file in STUDIES}
    for name in told.FOUND:
        kept = json.loads((examples / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert {**told.results(name), "machine": kept["machine"]} == kept, (
            f"run examples/studies/results.py: {name}.json is not made from {name}.csv"
        )
        table = pd.read_csv(examples / "studies" / f"{name}.csv")
        spec = ScaleStudy.from_toml(examples / "studies" / f"{name}.toml", folder="unused")
        assert set(table["method"]) == set(spec.methods) and table["violation"].isna().all()
        for kind, figure in figures(table.convert_dtypes(), name).items():
            assert not faults(figure), kind
