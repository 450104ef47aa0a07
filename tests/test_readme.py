"""The README's example runs and prints what the README says it prints, and every call it shows is one."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

import cvxsae
from cvxsae.data import sparse_features

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


@pytest.mark.slow
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


SMALL = {"512": "4", "(64, 256, 1024), lam": '(2, 3), lam, training={"steps": 50}'}
"""Widths of the README, and what is learned in their place from a few datapoints."""


def calls() -> list[str]:
    """The lines of the README's Python blocks but for the example."""
    listing = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import" not in block]
    return [line.partition("#")[0].strip() for block in listing for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("call", calls())
def test_calls_of_the_readme_run(call):
    data = sparse_features(30, 3, 4, seed=1, probability=0.4)
    X, lam = data.X, 0.2
    known = {name: getattr(cvxsae, name) for name in dir(cvxsae)}
    known |= {"X": X, "lam": lam, "W_dec": X[:5], "b_dec": X.mean(axis=0)}
    known["problem"] = cvxsae.LargeDictionary(X[:6], lam, 1.0) if "path" in call else cvxsae.WideLimit(X, lam)
    known["solution"] = cvxsae.solve(cvxsae.WideLimit(X, lam))
    known["fit"] = (X[:4], X.mean(axis=0))
    known["sae"] = {"W_enc": X[:4].T, "b_enc": -np.ones(4), "W_dec": X[:4], "b_dec": X.mean(axis=0)}
    for text, small in SMALL.items():
        call = call.replace(text, small)
    assert eval(call, known) is not None
