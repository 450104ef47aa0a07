"""The README's example runs, and prints what the README says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def test_example_prints_what_the_readme_shows():
    example = re.search(r"<!-- example -->\n```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert example is not None
    code, shown = example.groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    forget = re.compile(r"seconds=[\d.]+|[\d.]+ s\b|gap\s*=?\s*[-\d.e]+")
    got, expected = (forget.sub("", text).strip() for text in (printed.getvalue(), shown))
    assert NUMBER.sub("#", got) == NUMBER.sub("#", expected)
    for one, other in zip(NUMBER.findall(got), NUMBER.findall(expected), strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-6)
