"""Tables on pages are those of the files of results that scripts wrote."""

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


def test_a_table_is_filled_and_a_changed_number_is_noticed(tables, tmp_path, monkeypatch):
    made = {
        "command": "python made.py",
        "date": "2026-01-31",
        "machine": {"processor": "a processor", "threads": 2},
        "tables": {"values": {"columns": ["K", "F"], "rows": [["2", "0.5"], ["4", "|x|"]]}},
    }
    (tmp_path / "made.json").write_text(json.dumps(made))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tables.filled("Before.\n<!-- table made.json#values -->\n<!-- end -->\nAfter.\n")
    assert "| K | F |\n| --- | --- |\n| 2 | 0.5 |\n| 4 | \\|x\\| |\n" in page
    assert "Made by `python made.py` on 2026-01-31 (a processor, 2 threads)." in page
    assert tables.filled(page) == page
    assert tables.filled(page.replace("0.5", "0.4")) == page
