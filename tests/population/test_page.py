"""The gaps that docs/population.md shows say what the page says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINES = json.loads((ROOT / "benchmarks" / "results" / "population.json").read_text(encoding="utf-8"))["machines"]
SETS = [cell["result"] for entry in MACHINES.values() for cell in entry["cells"].values()]


@pytest.mark.parametrize("found", SETS, ids=lambda found: found["set"])
def test_floors_rise_with_batches_and_stay_below_the_dictionary(found):
    assert found["wide"] < found["held_out"] < found["upper_limit"]
    most = {row["batch"]: row for row in found["rows"]}
    floors = [most[size]["mean_floor"] for size in sorted(most)]
    assert floors == sorted(floors)
    for row in found["rows"]:
        assert row["lower_limit"] < row["mean_floor"] < found["held_out"]
        assert row["gap"] == pytest.approx(found["upper_limit"] - row["lower_limit"], rel=1e-12)
