"""Ranking pairs: the tables against all K × K numbers, and the rate at which mixing lowers F."""

from __future__ import annotations

import numpy as np
import pytest

from cvxsae import encode
from cvxsae.diagnostics import feature_statistics
from cvxsae.diagnostics import pairs as pairs_module
from cvxsae.diagnostics.pairs import identity_score, scan_pairs
from tests.diagnostics.test_sums import LAM, random_problem
from tests.helpers import problems


@pytest.mark.parametrize("entries", [5 * 12, 2**23])
def test_the_first_pairs_of_all(entries, rng, monkeypatch):
    monkeypatch.setattr(pairs_module, "_PAIR_ENTRIES", entries)
    X, D, b = random_problem(rng)
    found = feature_statistics(X, D, LAM, bias=b)
    scan = scan_pairs(found, {"worst": identity_score, "close": lambda _, block: block.cosine}, 8)
    D, Z = problems.unit(D), found.codes.codes.toarray()
    R = X - b - Z @ D
    with np.errstate(invalid="ignore"):
        weights = Z / Z.sum(axis=0)
    expected, cofiring = weights.T @ (R @ D.T / LAM), weights.T @ (Z > 0)
    deficit = D @ D.T - expected
    live = np.flatnonzero(Z.any(axis=0))
    assert 4 not in live
    pairs = [(abs(deficit[k, j]), k, j) for k in live for j in live if k != j]
    worst = scan.tables["worst"]
    for row, (value, k, j) in enumerate(sorted(pairs, reverse=True)[:8]):
        line = worst.iloc[row]
        assert (line["feature"], line["other"]) == (k, j)
        assert line["score"] == pytest.approx(value)
        assert line["deficit"] == pytest.approx(deficit[k, j])
        assert line["expected"] == pytest.approx(expected[k, j])
        assert line["cofiring"] == pytest.approx(cofiring[k, j])
        assert line["reverse_cofiring"] == pytest.approx(cofiring[j, k])
        silent = weights[:, k] @ (R @ D[j] / LAM * (Z[:, j] == 0))
        assert line["silent"] == pytest.approx(silent, abs=1e-9)
    assert scan.largest_deficit == pytest.approx(np.abs(deficit[np.ix_(live, live)]).max())
    assert np.isnan(scan.deficits[4])
    assert scan.deficits[0] == pytest.approx(np.abs(deficit[0, live]).max())
    assert scan.tables["close"]["cosine"].is_monotonic_decreasing


def test_mixing_lowers_f_at_its_rate(rng):
    """The slope of F when d_k turns towards d_j, measured at exact codes, both signs."""
    X, D, b = random_problem(rng)
    D = problems.unit(D)
    found = feature_statistics(X, D, LAM, bias=b)
    table = scan_pairs(found, {"worst": identity_score}, 100).tables["worst"]
    assert (table["mixing_rate"] > 0).any()
    assert (table["mixing_rate"] < 0).any()
    for row in (0, 1, 2, 10, 30):
        k, j, rate = int(table["feature"][row]), int(table["other"][row]), table["mixing_rate"][row]
        turn = D[j] - (D[j] @ D[k]) * D[k]
        turn /= np.linalg.norm(turn)
        values = []
        for step in (1e-5, -1e-5):
            moved = D.copy()
            moved[k] = np.cos(step) * D[k] + np.sin(step) * turn
            values.append(encode(X, moved, LAM, bias=b, tol=1e-13).value)
        assert (values[1] - values[0]) / 2e-5 == pytest.approx(rate, rel=1e-4, abs=1e-8)


def test_few_or_no_pairs():
    one = feature_statistics(np.eye(3), np.eye(3)[:1], 0.1)
    scan = scan_pairs(one, {"worst": identity_score}, 5)
    assert len(scan.tables["worst"]) == 0
    assert scan.largest_deficit < 1e-12
    dead = feature_statistics(np.eye(3), -np.eye(3), 0.1)
    scan = scan_pairs(dead, {"worst": identity_score}, 5)
    assert np.isnan(scan.largest_deficit)
    two = feature_statistics(np.eye(3), np.eye(3)[:2], 0.1)
    assert len(scan_pairs(two, {"worst": identity_score}, 5).tables["worst"]) == 2
