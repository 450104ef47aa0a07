"""Absorption, residual structure, antipodes, duplicates, densities: on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from cvxsae import InputError
from cvxsae.data import dense_signed_feature
from cvxsae.diagnostics import feature_statistics
from cvxsae.diagnostics.phenomena import (
    absorption,
    absorption_gap,
    antipodal_gain,
    antipodal_pairs,
    duplicates,
    feature_densities,
    residual_structure,
)
from tests.helpers import problems

# ------------------------------------------------------------------------------------------ absorption


def nested_pair(p, theta, n=20):
    """C1: v1 alone with probability 1 − p, v1 + v2 with probability p."""
    v1, v2 = np.array([1.0, 0, 0]), np.array([np.cos(theta), np.sin(theta), 0])
    child = np.arange(n) < p * n
    return np.where(child[:, None], v1 + v2, v1), child, v1, v2, (v1 + v2) / np.linalg.norm(v1 + v2)


@pytest.mark.parametrize("theta", [np.pi / 2, np.pi / 3])
@pytest.mark.parametrize("p", [0.25, 0.75])
def test_c1_the_child_absorbs_the_parent(p, theta):
    """At the optimum {v1, w} the parent is silent on its child's datapoints, which hold its direction in full."""
    X, child, v1, v2, w = nested_pair(p, theta)
    found = feature_statistics(X, np.vstack([v1, w]), 0.1)
    first = absorption(found).iloc[0]
    assert (first["feature"], first["other"]) == (1, 0)
    assert first["cofiring"] == 0
    assert first["score"] == pytest.approx(1)
    assert first["carried"] == pytest.approx(v1 @ (v1 + v2))
    assert first["silent"] == pytest.approx(v1 @ w)
    assert first["deficit"] == pytest.approx(0, abs=1e-12)
    assert absorption_gap(found.codes.codes, 0, np.ones(20), child) == 1

    # Not absorbed: the true dictionary. The parent fires with its child, so nothing is listed; the gap is zero.
    truth = feature_statistics(X, np.vstack([v1, v2]), 0.1)
    table = absorption(truth)
    assert not (table["score"] > 0.5).any()
    assert absorption_gap(truth.codes.codes, 0, np.ones(20), child) == 0


def test_partial_absorption_gap():
    codes = sp.csr_array(np.array([[1.0, 0], [0, 1], [1, 1], [0, 0]]))
    parent, child = np.array([1, 1, 1, 0]), np.array([0, 1, 1, 0])
    assert absorption_gap(codes, 0, parent, child) == pytest.approx(1 - 0.5)
    with pytest.raises(InputError, match="both kinds"):
        absorption_gap(codes, 0, child, child)
    with pytest.raises(InputError, match="shapes"):
        absorption_gap(codes, 0, parent[:2], child)


# ------------------------------------------------------------------------------------------- residuals


def test_residual_structure_is_its_definition(rng):
    X, D = problems.gaussian(rng, 120, 5), problems.unit(rng.normal(size=(9, 5)))
    lam, b = 0.3, 0.1 * np.ones(5)
    found = feature_statistics(X, D, lam, bias=b)
    got = residual_structure(found)
    Z = found.codes.codes.toarray()
    R, fitted = X - b - Z @ D, Z @ D
    squares = (R**2).sum(axis=1)
    assert got.energy == pytest.approx(squares.mean())
    assert got.fraction_unexplained == pytest.approx(squares.sum() / ((X - b) ** 2).sum())
    assert got.shrinkage_ratio == pytest.approx((fitted**2).sum() / (fitted * (X - b)).sum())
    assert got.shrinkage_ratio == pytest.approx(got.shrinkage_ratio_expected, rel=1e-6)  # exact codes
    assert 0 < got.shrinkage_ratio < 1
    projected = 0.0
    for r, z in zip(R, Z, strict=True):  # T2: the shrinkage is the part of r in the span of the active atoms
        A = D[z > 0]
        projected += ((np.linalg.pinv(A) @ (A @ r)) ** 2).sum() if len(A) else 0
    assert got.shrinkage_share == pytest.approx(projected / squares.sum())
    assert got.share_above_lambda == pytest.approx((squares > lam**2).mean())
    assert got.longest_ratio == pytest.approx(np.sqrt(squares.max()) / lam)
    spectrum = np.linalg.eigvalsh(R.T @ R)[::-1]
    assert got.spectrum == pytest.approx(spectrum / spectrum.sum())
    assert got.effective_rank == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
    assert set(got.to_dict()) >= {"energy", "vector_r2", "spectrum"}


def test_linear_predictability(rng):
    """With no atom that fires r is x itself, linear; with atoms in every direction ±e_i it is a clipped x, less so."""
    X = rng.normal(size=(400, 4))
    nothing = residual_structure(feature_statistics(X, -np.ones((1, 4)), 100.0))
    assert nothing.vector_r2 == pytest.approx(1, abs=1e-6)
    assert abs(nothing.norm_r2) < 0.1  # ‖x‖ of a Gaussian is not linear in x
    assert nothing.fraction_unexplained == pytest.approx(1)
    assert nothing.shrinkage_share == 0
    clipped = residual_structure(feature_statistics(X, np.vstack([np.eye(4), -np.eye(4)]), 0.2))
    assert 0.5 < clipped.vector_r2 < 0.9  # correlation of x and clip(x, −0.2, 0.2), squared: 0.70 for a Gaussian
    half = np.clip(rng.normal(size=200_000), -0.2, 0.2)
    assert clipped.shrinkage_share == pytest.approx((half[np.abs(half) == 0.2] ** 2).sum() / (half**2).sum(), abs=0.02)
    few = residual_structure(feature_statistics(X[:9], -np.ones((1, 4)), 100.0))
    assert np.isnan(few.vector_r2)


@pytest.mark.slow
def test_predictability_is_held_out(rng):
    """Noise that has nothing to do with x is not predicted, however many dimensions there are to fit it with."""
    X = rng.normal(size=(400, 60)) / np.sqrt(60)
    found = residual_structure(feature_statistics(X, problems.unit(rng.normal(size=(200, 60))), 0.05))
    assert found.norm_r2 < 0.1
    two = np.where(np.arange(400)[:, None] % 2 == 0, 1, -1) * X  # halves that contradict each other
    assert residual_structure(feature_statistics(two, -np.ones((1, 60)), 100.0)).vector_r2 > 0.99


# --------------------------------------------------------------------------- antipodes, duplicates, density


def written_gain(g, lam):
    """Both costs of theory.md §6 as written, each minimized over c by brute force."""

    def single(c):
        u = g - c
        return np.where(u > 0, problems.huber(np.abs(u), lam), u**2 / 2).mean()

    def pair(c):
        return problems.huber(np.abs(g - c), lam).mean()

    def least(cost):
        grid = np.linspace(g.min(), g.max(), 4001)
        start = grid[np.argmin([cost(c) for c in grid])]
        width = grid[1] - grid[0] + 1e-12
        return minimize_scalar(
            cost, bounds=(start - width, start + width), method="bounded", options={"xatol": 1e-12}
        ).fun

    return least(single) - least(pair)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), lam=st.floats(0.01, 3))
def test_the_gain_is_its_definition(seed, lam):
    rng = np.random.default_rng(seed)
    g = rng.normal(size=12) * rng.choice([0.1, 1, 10]) + rng.normal()
    assert antipodal_gain(g, lam) == pytest.approx(written_gain(g, lam), abs=1e-7)


def test_c8_one_dense_signed_feature():
    """The pair costs 0.19 and the best single atom 0.27 (sums over s = −1, 0, 1 at λ = 0.1)."""
    assert antipodal_gain(np.array([-1.0, 0, 1]), 0.1) * 3 == pytest.approx(0.27 - 0.19)
    u = np.array([[0.6, 0.8]])
    X = np.array([[-1.0], [0], [1]]) @ u
    pair = feature_statistics(X, np.vstack([u, -u]), 0.1)
    assert pair.codes.value * 3 == pytest.approx(0.19)
    assert feature_statistics(X, u, 0.1, bias=-0.8 * u[0]).codes.value * 3 == pytest.approx(0.27)
    row = antipodal_pairs(pair).iloc[0]
    assert (row["feature"], row["other"]) == (0, 1)
    assert row["cosine"] == pytest.approx(-1)
    assert row["cofiring"] == 0
    assert row["gain"] * 3 == pytest.approx(0.08)
    assert (row["density"], row["other_density"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_the_pair_of_a_gaussian_costs_about_half(rng):
    g = rng.normal(size=20_000)
    gain = antipodal_gain(g, 0.1)
    pair = problems.huber(np.abs(g - g.mean()), 0.1).mean()
    assert pair / (gain + pair) == pytest.approx(0.53, abs=0.01)  # theory.md §6: the pair costs about half
    one_sided = np.where(rng.random(20_000) < 0.05, rng.uniform(1, 2, 20_000), 0)
    assert antipodal_gain(one_sided, 0.1) < 0.01 * gain


def test_antipodes_among_other_features(rng):
    synthetic = dense_signed_feature(300, 8, seed=3, n_sparse=3)
    D = np.vstack([synthetic.dictionary, synthetic.dictionary[:1] + 1e-3])
    found = feature_statistics(synthetic.X, D, 0.1)
    pairs = antipodal_pairs(found)[["feature", "other"]].to_numpy().tolist()
    assert pairs in ([[0, 1]], [[1, 5]], [[0, 1], [1, 5]], [[1, 5], [0, 1]])  # of the two duplicates one may be dead
    assert len(antipodal_pairs(found, density=0.99)) == 0
    both = feature_statistics(np.vstack([synthetic.X, synthetic.X + 0.1]), D, 0.1)
    assert duplicates(both)[["feature", "other"]].to_numpy().tolist() == [[0, 5]]
    assert len(duplicates(both, cosine=1.1)) == 0
    assert not any({0, 5} == {int(k), int(j)} for k, j in antipodal_pairs(both)[["feature", "other"]].to_numpy())


def test_densities(rng):
    X = np.vstack([np.eye(3), np.eye(3)[:1], np.zeros((6, 3))])
    table = feature_densities(feature_statistics(X, np.vstack([np.eye(3), -np.eye(3)[:1]]), 0.25), dense=0.15)
    assert table["density"].tolist() == [0.2, 0.1, 0.1, 0]
    assert table["mean_activation"].tolist() == pytest.approx([0.75, 0.75, 0.75, 0])
    assert table["mass"].tolist() == pytest.approx([0.15, 0.075, 0.075, 0])
    assert table["dead"].tolist() == [False, False, False, True]
    assert table["dense"].tolist() == [True, False, False, False]
    assert table.index.name == "feature"


def test_data_that_do_not_vary_predict_nothing_and_overflow_nothing(rng):
    """Their covariance is rounding, and regressions on it would multiply that by the largest numbers there are."""
    D = rng.normal(size=(12, 8))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    for scale in (1.0, 0.7, 1.1, 3.3, 1e-3):  # sums of equal numbers, rounded differently
        with np.errstate(all="raise", under="ignore"):
            found = residual_structure(feature_statistics(np.full((60, 8), scale), D, 0.1 * scale))
        assert np.isnan(found.vector_r2)
        assert np.isnan(found.norm_r2)
