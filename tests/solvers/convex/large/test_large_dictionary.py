"""The factorized solver: an upper bound at every step, a valid lower bound, agreement where the relaxation is tight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary, InputError, LargeDictionary
from cvxsae.parallel.threads import threads_for
from cvxsae.solvers.convex.large.factorized import Factorized, FactorState, _value_and_gradient
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3


def test_gradient_is_the_derivative(rng):
    X, B = torch.from_numpy(problems.gaussian(rng, 8, 3)), torch.from_numpy(rng.random((8, 4)))
    for bias in (None, np.ones(3), "free"):
        problem = LargeDictionary(X, LAM, 2.0, bias=bias)
        value, gradient = _value_and_gradient(problem, B, X)
        b = problem.from_factor(B.numpy()).bias
        assert value / 8 == pytest.approx(problems.relaxed(X.numpy(), b, (B @ B.T).numpy(), LAM, 2.0), rel=1e-11)
        step = torch.from_numpy(rng.normal(size=(8, 4)))
        ahead, behind = (_value_and_gradient(problem, B + s * 1e-6 * step, X)[0] for s in (1, -1))
        assert (ahead - behind) / 2e-6 == pytest.approx(float((gradient * step).sum()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_value_is_attained_and_bound_is_valid(bias, tau, rng):
    X = problems.clustered(rng, 25, 3)
    problem = LargeDictionary(X, LAM, tau, bias=0.1 * np.ones(3) if bias == "fixed" else bias)
    solution = solve(problem, tol=2e-2)
    attained = problems.primal(X, solution.bias, solution.dictionary, solution.codes, LAM, tau)
    assert solution.value == pytest.approx(attained, rel=1e-12)
    assert certify(problem, solution).is_certified
    assert len(solution.dictionary) == solution.codes.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_no_candidates_beat_it(tau, rng):
    """(L) restricted to any given atoms is worth at least the lower bound, and its own atoms recover its value."""
    X = problems.clustered(rng, 20, 3)
    solution = solve(LargeDictionary(X, LAM, tau, bias=None), tol=2e-2)
    for atoms in (rng.normal(size=(20, 3)), X):
        assert solve(CandidateDictionary(X, atoms, LAM, tau, bias=None), tol=1e-3).value >= solution.lower_bound
    own = CandidateDictionary(X, solution.dictionary, LAM, tau, bias=None)
    assert own.primal_value(own.candidate(solution.codes, solution.bias)) == pytest.approx(solution.value, rel=1e-12)
    assert solve(own, tol=1e-3).lower_bound <= solution.value


@pytest.mark.slow
def test_clusters_share_atoms(rng):
    X = problems.clustered(rng, 24, 5, clusters=2)
    width = [
        solve(LargeDictionary(X, LAM, tau, bias=None), tol=5e-2).arrays()["dictionary"].shape[0] for tau in (0.0, 20.0)
    ]
    assert width[1] < width[0]


@pytest.mark.slow
def test_more_datapoints_than_starting_atoms(rng, monkeypatch):
    monkeypatch.setattr("cvxsae.solvers.convex.large.factorized._ALL_DATAPOINTS", 5)
    X = problems.clustered(rng, 20, 3)
    few = solve(LargeDictionary(X, LAM, 2.0, bias=None), tol=2e-2)
    assert few.is_certified


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("bias", [None, "free"])
def test_units_do_not_matter(scale, bias, rng):
    X = problems.clustered(rng, 15, 3)
    one, other = (solve(LargeDictionary(s * X, s * LAM, 2.0, bias=bias), tol=1e-4) for s in (1, scale))
    assert other.value / scale**2 == pytest.approx(one.value, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize("tau", [1e-30, 1e-12, 1e6, 1e12])
def test_extreme_surcharges(tau, bias, rng):
    X = problems.gaussian(rng, 12, 3)
    solution = solve(LargeDictionary(X, LAM, tau, bias=bias), tol=1e-2)
    if tau > 1:
        assert not solution.codes.any()
    else:
        assert solution.value == pytest.approx(solve(LargeDictionary(X, LAM, 0.0, bias=bias)).value, rel=1e-3)


def test_starting_from_nothing(rng):
    problem = LargeDictionary(problems.clustered(rng, 12, 3), LAM, 2.0, bias=None)
    algorithm, data = Factorized(), problem.X.to_tensor()
    state = FactorState(torch.zeros((12, 0), dtype=torch.float64), data)
    with threads_for(problem):
        worth = [algorithm.bounds(problem, state)[0]]
        for _ in range(4):
            state = algorithm.step(problem, state)
            worth.append(algorithm.bounds(problem, state)[0])
    assert (np.diff(worth) <= 1e-9).all()
    assert worth[-1] < 0.9 * worth[0]


def test_equal_points_whose_own_atoms_are_too_dear(rng):
    """No single datapoint is worth an atom (r < λ√(1+τ)), all together are: the start is the zero dictionary."""
    problem = LargeDictionary(np.tile([[1.0, 2.0]], (10, 1)), 1.0, 5.0, bias=None)
    solution = solve(problem, tol=1e-6)
    assert len(solution.dictionary) == 1
    r, n, tau = 5**0.5, 10, 5.0
    expected = (r * (n * (n + tau)) ** 0.5 - (n + tau) / 2) / n
    assert solution.value == pytest.approx(expected, rel=1e-6)


def test_without_surcharge_a_very_large_set_is_sent_to_the_wide_limit(rng, monkeypatch):
    monkeypatch.setattr("cvxsae.relaxations.convex.wide_limit.RECOVERY_BYTES", 100)
    with pytest.raises(InputError, match=r"solve WideLimit\(X, lam\) instead"):
        solve(LargeDictionary(rng.normal(size=(50, 4)), LAM, 0.0, bias=None))


@pytest.mark.parametrize("bias", [0.2, -5.0])
def test_zero_data_with_a_fixed_bias(bias):
    """Equal offsets, all of them the bias: C7, from the zero dictionary."""
    problem = LargeDictionary(np.zeros((5, 4)), LAM, 1.0, bias=np.full(4, bias))
    r, n, tau = 2 * abs(bias), 5, 1.0
    expected = (LAM * r * (n * (n + tau)) ** 0.5 - LAM**2 * (n + tau) / 2) / n
    assert solve(problem, tol=1e-6).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bias", [None, "free"])
def test_a_penalty_that_float64_cannot_see_is_refused(bias, rng):
    X = rng.normal(size=(10, 5))
    with pytest.raises(InputError, match=r"lam is 1e-30 and the longest datapoint .* pass at least"):
        solve(LargeDictionary(X, 1e-30, 1.0, bias=bias))
    assert solve(LargeDictionary(X, 1e-9, 1.0, bias=bias), tol=1e-2).is_certified
    assert solve(LargeDictionary(X, 1e-30, 0.0, bias=bias), tol=1e-2).is_certified  # the wide limit does not mind
