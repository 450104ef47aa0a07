"""Tables and numbers on pages are those of the files of results that scripts wrote."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tables() -> ModuleType:
    found = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_pages_show_the_results(tables):
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"run python docs/tables.py: {page.name} differs from its results"
        assert not re.search(r"^<!-- (value|range)", text, re.MULTILINE), (
            f"{page.name}: a line that starts with a comment ends the paragraph"
        )


def test_a_table_is_filled_and_a_changed_number_is_noticed(tables, tmp_path, monkeypatch):
    made = {
        "command": "python made.py",
        "date": "2026-01-31",
        "machine": {"processor": "a processor", "threads": 2},
        "tables": {"values": {"columns": ["K", "F"], "rows": [["2", "0.5"], ["4", "|x|"]]}},
        "values": {"share": "92%"},
        "runs": [{"gap": 1e-3, "part": -0.25}],
    }
    (tmp_path / "made.json").write_text(json.dumps(made))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tables.filled("Before.\n<!-- table made.json#values -->\n<!-- end -->\nAfter.\n")
    assert "| K | F |\n| --- | --- |\n| 2 | 0.5 |\n| 4 | \\|x\\| |\n" in page
    assert "Made by `python made.py` on 2026-01-31 (a processor, 2 threads)." in page
    assert tables.filled(page) == page
    assert tables.filled(page.replace("0.5", "0.4")) == page
    said = tables.filled("About <!-- value made.json#share -->91 %<!-- end -->, and so on.\n")
    assert said == "About <!-- value made.json#share -->92 %<!-- end -->, and so on.\n"
    assert "-->−25 %<" in tables.filled("A <!-- value made.json#runs/0/part:.0% --><!-- end -->.\n")
    assert "-->1e-3<" in tables.filled("A <!-- value made.json#runs/0/gap:.0e --><!-- end -->.\n")
    (tmp_path / "made.md").write_text("| a |\n")
    assert "| a |" in tables.filled("<!-- include made.md -->\n| b |\n<!-- end -->\n")
    origin = tables.filled("<!-- made made.json -->\n<!-- end -->\n")
    assert "Made by `python made.py` on 2026-01-31" in origin
    assert tables.filled(origin) == origin
    with pytest.raises(KeyError, match="absent"):
        tables.filled("<!-- value made.json#absent --><!-- end -->")


def entry(processor: str, rows: list[list[str]]) -> dict[str, Any]:
    made = {"command": "python -m made", "date": "2026-01-31", "commit": "abc1234", "torch": "2.13.0"}
    machine = {"processor": processor, "instruction_sets": ["avx2"], "threads": 2, "kind": "no bf16 products"}
    return {
        "machine": machine,
        "cells": {"one": {"made": made, "result": 1}},
        "tables": {"values": {"columns": ["K", "passes"], "rows": rows}},
    }


def test_machines_stand_side_by_side_and_a_range_is_over_all(tables, tmp_path, monkeypatch):
    slow, fast = entry("slow", [["2", "5.0"], ["4", "10.5"], ["8", ""]]), entry("fast", [["2", "3.25"], ["4", "9"]])
    (tmp_path / "made.json").write_text(json.dumps({"machines": {"slow, 2 threads": slow, "fast, 2 threads": fast}}))
    (tmp_path / "none.json").write_text(json.dumps({"machines": {}}))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tables.filled(
        "<!-- table made.json#values -->\n<!-- end -->\n<!-- table none.json#values -->\n<!-- end -->\n"
    )
    rows = "| 2 | slow, 2 threads | 5.0 |\n| 2 | fast, 2 threads | 3.25 |\n| 4 | slow, 2 threads | 10.5 |\n"
    assert f"| K | machine | passes |\n| --- | --- | --- |\n{rows}" in page
    assert "Made by `python -m made` on 2026-01-31 on fast, 2 threads (avx2; torch 2.13.0; commit abc1234)." in page
    assert "Not measured on any machine yet.\n<!-- end -->" in page
    text = "<!-- range made.json#values[{}] -->x<!-- end -->"
    ranged = tables.filled(f"takes {text.format('passes')} and {text.format('passes|2')}")
    assert "[passes] -->3.25 to 10.5<!-- end -->" in ranged
    assert "[passes|2] -->3.25 to 5.0<!-- end -->" in ranged
    assert tables.filled(ranged) == ranged
    assert tables.filled("<!-- made made.json -->\n<!-- end -->\n").count("Made by `python -m made`") == 2
    assert tables.filled(page) == page


def test_a_note_says_which_machines_it_is_about(tables, tmp_path, monkeypatch):
    made = {name: entry(name, [["2", "5.0"]]) for name in ("slow", "fast", "small")}
    monkeypatch.setattr(tables, "ROOT", tmp_path)

    def shown(**notes):
        for name, note in notes.items():
            made[name]["tables"]["values"]["note"] = note
        (tmp_path / "made.json").write_text(json.dumps({"machines": made}))
        return tables.table("made.json", "values").partition("\n\n")[2]

    assert shown().startswith("Made by")
    assert shown(small="Not all of it.").startswith("On small: Not all of it.\nMade by")
    found = shown(slow="Half of it.", fast="Not all of it.")
    assert found.startswith("On slow: Half of it.\nOn fast and small: Not all of it.\nMade by")
    assert shown(slow="Not all of it.").startswith("Not all of it.\nMade by")
    del made["slow"], made["fast"]
    assert shown().startswith("Not all of it.\nMade by")
