"""Tables and numbers on pages are those of the files of results that scripts wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

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
        assert "\n<!-- value" not in text, f"{page.name}: a line that starts with a comment ends the paragraph"


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
