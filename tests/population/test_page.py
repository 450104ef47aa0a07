"""The tables of docs/population.md are those of the benchmark, and say what the page says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.population import table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "population.md").read_text(encoding="utf-8")
REPORT = json.loads((ROOT / "benchmarks" / "results" / "population.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("found", REPORT["sets"], ids=lambda found: found["set"])
def test_tables_are_those_of_the_benchmark(found):
    assert table(found) in PAGE
    assert REPORT["machine"] in PAGE
    assert found["wide"] < found["held_out"] < found["upper_limit"]
    most = {row["batch"]: row for row in found["rows"]}
    floors = [most[size]["mean_floor"] for size in sorted(most)]
    assert floors == sorted(floors)
    for row in found["rows"]:
        assert row["lower_limit"] < row["mean_floor"] < found["held_out"]
        assert row["gap"] == pytest.approx(found["upper_limit"] - row["lower_limit"], rel=1e-12)
