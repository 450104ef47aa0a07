"""The demo tells the truth: every number certified, files written, the predictions of the theory met."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cvxsae import InputError, compare
from cvxsae.cli import demo
from cvxsae.cli.demo import run_demo
from cvxsae.data.embedded import wordllama, wordllama_tokens

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]


SMALL = {
    "RATIOS": (0.3, 0.03),
    "SAMPLE": 12,
    "CODING_ATOMS": 512,
    "CODING_TOKENS": 500,
    "LEDGER_WIDTHS": (4, 8),
    "LEDGER_TOKENS": 300,
    "LEDGER_STEPS": 50,
    "LEDGER_STATIONARITY": 1e-3,
    "LEDGER_SECONDS": 3600.0,
}
"""Sizes at which everything is there and nothing takes long; and time enough for a machine that is busy."""


@pytest.fixture(autouse=True)
def fewer_tokens(monkeypatch):
    """A quarter of the tokens, with the words that the demo speaks of."""
    tokens = wordllama_tokens()
    rows = [row for row, token in enumerate(tokens) if row % 4 == 0 or token.strip("▁") in demo.WORDS]
    monkeypatch.setattr(demo, "wordllama", lambda: wordllama()[rows])
    monkeypatch.setattr(demo, "wordllama_tokens", lambda: tuple(tokens[row] for row in rows))


def test_demo_certifies_everything_it_prints(tmp_path, monkeypatch):
    for name, size in SMALL.items():
        monkeypatch.setattr(demo, name, size)
    lines: list[str] = []
    report = run_demo(tmp_path / "demo", say=lines.append)
    assert report["ledger"]["certified"]
    assert all(row["agrees"] for row in report["crosscheck"])
    assert report["certified"]
    assert "no objections" in "\n".join(lines)
    assert all(row["gap"] <= 1e-9 and row["passes"] <= 15 for row in report["wide"])
    values = [row["value"] for row in report["wide"]]
    assert values == sorted(values, reverse=True), "the floor falls with λ"
    sharing = report["sharing"]["rows"]
    assert sharing[0]["largest_off_diagonal"] < 1e-5
    assert sharing[1]["largest_off_diagonal"] < 1e-5 < 1e-3 < sharing[2]["largest_off_diagonal"]
    for result in report["ledger"]["results"]:
        ledger = result["ledger"]
        levels = [ledger[name] for name in ("loss", "exact", "local", "floor", "wide")]
        assert levels == sorted(levels, reverse=True)
        assert ledger["floor"] <= result["best"] <= ledger["local"]
        assert any(f"{result['best']:.6f}" in line for line in lines)
    written = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert written["certified"]
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_a_folder_it_cannot_make(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be made, as .* is a file; pass a folder"):
        run_demo(tmp_path / "file" / "demo", say=None)


def test_gaps_that_are_too_thin_to_see_are_named():
    assert demo._thin(0.5, {"amortization gap": 0.1, "dictionary gap": 0.00051}) == (
        "too thin to see:\ndictionary gap 0.00051"
    )
    assert demo._thin(0.5, {"amortization gap": 0.1, "dictionary gap": 0.006}) == ""


def test_a_ledger_that_time_ends_says_so(tmp_path, monkeypatch):
    """A clock decides nothing silently: the search says what ended it, and codes that are not exact are not hidden."""
    for name, size in {**SMALL, "LEDGER_WIDTHS": (4,)}.items():
        monkeypatch.setattr(demo, name, size)
    for part, numbers in {
        "_wide_limit": [{"certified": True}],
        "_dictionary": {"certified": True},
        "_cross_checks": [{"agrees": True}],
        "_sharing": ({"holds": True}, {}),
    }.items():
        monkeypatch.setattr(demo, part, lambda _, numbers=numbers: numbers)
    monkeypatch.setattr(demo, "_figure", lambda *_: None)
    changed: dict[str, Any] = {}

    def slow(*args, **options):
        found = compare(*args, **options)
        return dataclasses.replace(found, results=tuple(dataclasses.replace(one, **changed) for one in found.results))

    monkeypatch.setattr(demo, "compare", slow)

    def told():
        lines: list[str] = []
        return run_demo(tmp_path / "demo", say=lines.append)["certified"], "\n".join(lines)

    is_certified, text = told()
    assert is_certified and "stationary to 0.001" in text and "NOT" not in text
    assert "arrays alone: no objections.\n" in text
    changed["best_stationarity"] = 0.1
    is_certified, text = told()
    assert is_certified and "the limit of 3600 s for both widths ended the search" in text
    changed["best_codes_gap"] = 0.1
    is_certified, text = told()
    assert not is_certified and "NOT finished: 3600 s were too few" in text
    assert "no objections, and part 5 was NOT finished in time.\n" in text
