"""The noiseless cone condition (T6) against brute force, known answers, and measured descent."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from cvxsae import InputError
from cvxsae.relaxations.joint.cone import cone_condition, mix
from tests.helpers import problems


def small(seed):
    """Random independent atoms and codes, some features nested in others so that both verdicts occur."""
    rng = np.random.default_rng(seed)
    K = int(rng.integers(2, 6))
    d, n = K + int(rng.integers(0, 3)), int(rng.integers(4, 25))
    D = problems.unit(rng.normal(size=(K, d)) + 0.3 * rng.normal())
    Z = rng.uniform(0.2, 2, (n, K)) * (rng.random((n, K)) < rng.uniform(0.2, 0.7))
    if seed % 3 == 0:
        Z[:, 0] = np.where(Z[:, 0] + Z[:, 1] > 0, np.maximum(Z[:, 0], 0.3), 0)  # 1 fires only with 0
    return D, Z


def brute_force(D, Z, j):
    """Largest descent rate over mixing directions in a box, as a linear program."""
    t = Z.sum(axis=0) * (1 - D @ D[j])
    keep = [k for k in range(len(D)) if k != j]
    silent = Z[Z[:, j] == 0][:, keep]
    silent = silent if len(silent) else np.zeros((1, len(keep)))
    answer = linprog(-t[keep], A_ub=silent, b_ub=np.zeros(len(silent)), bounds=[(-1, 1)] * len(keep))
    return -float(answer.fun or 0) / np.linalg.norm(t) if np.linalg.norm(t) > 0 else 0.0


def noiseless_cost(X, D):
    """(1/N) Σ z at exact codes, which are unique for independent atoms."""
    Z = X @ np.linalg.pinv(D)
    assert np.abs(Z @ D - X).max() < 1e-10
    return Z.sum() / len(X), Z


@pytest.mark.slow
def test_the_verdict_agrees_with_brute_force_on_200_problems():
    verdicts = []
    for seed in range(200):
        D, Z = small(seed)
        found = cone_condition(Z, D)
        for j in range(len(D)):
            gain = brute_force(D, Z, j)
            assert found.holds[j] == (gain < 1e-7), (seed, j, gain, found.distance[j])
        verdicts += found.holds.tolist()
    assert 0.1 < np.mean(verdicts) < 0.9  # both verdicts were tested


@pytest.mark.slow
def test_the_predicted_descent_is_measured():
    rates = 0
    for seed in range(200):
        D, Z = small(seed)
        X = Z @ D
        found = cone_condition(Z, D)
        before = noiseless_cost(X, D)[0]
        for j in np.flatnonzero(~found.holds):
            step = 1e-5 * min(1.0, Z[Z > 0].min())
            after, codes = noiseless_cost(X, mix(D, int(j), found.mixing[[j]].toarray()[0], step))
            assert codes.min() > -1e-11  # still feasible
            if found.rate[j] > 1e-4:
                assert (before - after) / step == pytest.approx(found.rate[j], rel=1e-3)
                rates += 1
            # Codes of j stay nonnegative where it is silent: the direction is in the polar cone.
            g = found.mixing[[j]].toarray()[0]
            assert (Z[Z[:, j] == 0] @ g).max(initial=0) < 1e-9
    assert rates > 100


def test_certificates():
    for seed in range(40):
        D, Z = small(seed)
        found = cone_condition(Z, D)
        for j in range(len(D)):
            w, t = found.weights[[j]].toarray()[0], Z.sum(axis=0) * (1 - D @ D[j])
            assert (w >= 0).all()
            assert not w[Z[:, j] > 0].any()
            reached = w @ Z
            reached[j] = t[j] = 0
            assert np.linalg.norm(reached - t) / np.linalg.norm(t) == pytest.approx(found.distance[j], abs=1e-10)
            g = found.mixing[[j]].toarray()[0]
            assert np.linalg.norm(g) == pytest.approx(0 if found.holds[j] else 1)
            assert found.rate[j] * len(Z) == pytest.approx(g @ t, abs=1e-9)


@pytest.mark.parametrize("theta", [30, 60, 90, 120])
def test_features_that_fire_alone_are_optimal_at_any_angle(theta):
    """C2: v1, v2 and v1 + v2."""
    D = np.array([[1, 0], [np.cos(np.radians(theta)), np.sin(np.radians(theta))]])
    assert cone_condition(np.array([[1.0, 0], [0, 1], [1, 1], [1, 1]]), D).all_hold


@pytest.mark.parametrize("theta", [30, 60, 90])
def test_a_parent_and_its_child_are_not(theta):
    """C1 as λ → 0: with the child never alone, the child's atom turns towards the parent."""
    cos = np.cos(np.radians(theta))
    D = np.array([[1, 0], [cos, np.sin(np.radians(theta))]])
    found = cone_condition(np.array([[1.0, 0], [1, 1]]), D)
    assert found.holds.tolist() == [False, True]
    assert found.mixing[[0]].toarray()[0].tolist() == [0, 1]  # mix the parent into the child
    assert found.rate[0] == pytest.approx((1 - cos) / 2)
    w = (D[0] + D[1]) / np.linalg.norm(D[0] + D[1])
    absorbed = np.array([[1.0, 0], [0, 2 * np.cos(np.radians(theta) / 2)]])
    assert cone_condition(absorbed, np.vstack([D[0], w])).all_hold


def test_c4_absorption_lowers_the_cost_all_the_way():
    """C4: slope in δ of p10 + p11[(1 − δ) + √(1 + δ²)], from the true dictionary almost to full absorption."""
    p11, p10, n = 0.4, 0.6, 10
    codes, previous = np.zeros((n, 2)), np.inf
    for delta in (0.0, 0.3, 0.6, 0.9):
        D = np.array([[1.0, 0], [delta, 1]])
        root = np.sqrt(1 + delta**2)
        codes[:4], codes[4:] = (1 - delta, root), (1, 0)
        found = cone_condition(codes, D)
        cost = codes.sum() / n
        assert cost == pytest.approx(p10 + p11 * ((1 - delta) + root))
        assert cost < previous
        previous = cost
        # dδ per unit mixing ε is √(1+δ²): (δ, 1)/√ + ε(1, 0) ∝ (δ + ε√, 1).
        assert found.rate[0] == pytest.approx(-p11 * (delta / root - 1) * root)
        assert not found.holds[0]


def test_a_dense_problem_needs_more_datapoints_than_one_round(rng):
    D = problems.unit(np.eye(40) + 0.1 * rng.normal(size=(40, 40)))
    Z = rng.uniform(0.2, 1, (600, 40)) * (rng.random((600, 40)) < 0.2)
    sparse = cone_condition(sp.csr_array(Z), D, features=np.array([3, 11]))
    for row, j in enumerate((3, 11)):
        gain = brute_force(D, Z, j)
        assert sparse.holds[row] == (gain < 1e-7)


def test_what_it_refuses():
    with pytest.raises(InputError, match="dependent atoms"):
        cone_condition(np.ones((3, 3)), np.array([[1.0, 0], [0, 1], [1, 1]]))
    with pytest.raises(InputError, match="dependent atoms"):
        cone_condition(np.ones((3, 2)), np.array([[1.0, 0], [2, 0]]))
    with pytest.raises(InputError, match="negative"):
        cone_condition(-np.ones((3, 2)), np.eye(2))
    with pytest.raises(InputError, match="second axis"):
        cone_condition(np.ones((3, 3)), np.eye(2))
    with pytest.raises(InputError, match="features is 2 and there are 2"):
        cone_condition(np.ones((3, 2)), np.eye(2), features=np.array([2]))
