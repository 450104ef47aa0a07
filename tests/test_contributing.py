"""The worked examples of CONTRIBUTING.md work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cvxsae.data import files

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    title: code
    for title, section in re.findall(r"^## How to add an? ([\w ]+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
}


@pytest.mark.parametrize("title", EXAMPLES)
def test_worked_examples_work(title, monkeypatch):
    monkeypatch.setattr(files, "READERS", dict(files.READERS))
    exec(compile(EXAMPLES[title], f"CONTRIBUTING.md ({title})", "exec"), {"__name__": "contributing"})
