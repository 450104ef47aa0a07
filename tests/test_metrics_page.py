"""The formulas of docs/metrics.md, evaluated as they stand there, against what the package computes."""

from __future__ import annotations

import re
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cvxsae import SparseAutoencoder
from cvxsae.sae import TopK, metrics
from cvxsae.sae.measures.result import MEANINGS

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
RNG = np.random.default_rng(0)
N, D, K, LAM = 50, 4, 7, 0.3
X = RNG.normal(size=(N, D)) + 0.5
SAE = SparseAutoencoder(
    W_enc=RNG.normal(size=(D, K)) / 2,
    b_enc=RNG.normal(size=K) / 4,
    W_dec=RNG.normal(size=(K, D)) / 2,
    b_dec=X.mean(axis=0),
    lam=LAM,
)


def rows(heading: str) -> list[list[str]]:
    """Rows of the tables under a heading of the page, without what comes before the line of dashes."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row, after in zip(cells, [*cells[1:], []], strict=True) if not re.match("^-+$", (*after, "")[0])]


def value(formula: str, **names: Any) -> float:
    """What a formula in backticks says."""
    known = {"norm": np.linalg.norm, "mean": np.mean, "var": np.var, "sqrt": sqrt, "X": X, "xbar": X.mean(axis=0)}
    return float(eval(formula.strip("`"), {**known, "lam": LAM, **names}))


FORMULAS = [row for row in rows("Formulas") if len(row) == 2 and not row[0].startswith("-")]


def test_every_metric_has_a_formula():
    assert {name.strip("`") for name, _ in FORMULAS} == set(MEANINGS) - {"loss", "loss_recovered"}


@pytest.mark.parametrize("name, formula", FORMULAS, ids=lambda text: text[:30])
def test_formulas_are_what_is_computed(name: str, formula: str):
    found = metrics(X, SAE)
    Z, R = SAE.encode(X).toarray(), SAE.reconstruct(X)
    np.testing.assert_allclose(found["encoder"][name.strip("`")], value(formula, Z=Z, R=R))


def test_intervals_are_what_is_computed():
    found = metrics(X, SAE, confidence=0.9)["encoder"].numbers
    R = SAE.reconstruct(X)
    mean, ratio = (row[1] for row in rows("What the numbers hold for") if row[1].startswith("`"))
    q, e = stats.t.ppf(0.95, N - 1), ((X - R) ** 2).sum(axis=1)
    b = ((X - X.mean(axis=0)) ** 2).sum(axis=1)
    np.testing.assert_allclose(found["mse"].high - found["mse"].value, value(mean, q=q, e=e, N=N))
    np.testing.assert_allclose(found["fvu"].high - found["fvu"].value, value(ratio, q=q, a=e, b=b, N=N))


ELSEWHERE = [row for row in rows("Explained variance, elsewhere") if row[0].startswith("`")]


@pytest.mark.parametrize("library, name, formula", [row[:3] for row in ELSEWHERE], ids=lambda text: text[:30])
def test_formulas_of_other_libraries_are_what_is_computed(library: str, name: str, formula: str):
    sae = replace(SAE, activation=TopK(2))
    found = metrics(X, sae, compat=library.strip("`"))["encoder"].compat
    np.testing.assert_allclose(found[name.strip("`")], value(formula, E=X - sae.reconstruct(X)), rtol=1e-9)
