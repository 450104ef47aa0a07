"""Codes with a free bias by descent in the bias: the answers of other roads, and a gradient that is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae import InputError, SparseCodes, certify, encode, solve
from cvxsae.parallel.context import Run
from cvxsae.solvers.convex.bias_descent import BiasDescent, _inverse_hessian
from tests.helpers import problems
from tests.helpers.problems import unit


def planted(rng, n=60, d=8, K=12):
    """Few active atoms, and a bias that the mean does not give."""
    D = unit(rng.normal(size=(K, d)))
    Z = rng.uniform(1, 3, (n, K)) * (rng.random((n, K)) < 0.25)
    return Z @ D + 3 * rng.normal(size=d) + 0.05 * rng.normal(size=(n, d)), D


@pytest.mark.slow
@pytest.mark.parametrize("prices", [{}, {"weights": 0.5, "ridge": 0.3}])
@pytest.mark.parametrize("lam", [0.1, 0.3, 3.0])
def test_the_value_is_that_of_proximal_gradient(lam, prices, rng):
    X, D = planted(rng)
    priced = {name: size * (1 + rng.random(len(D))) for name, size in prices.items()}
    problem = SparseCodes(X, D, lam, bias="free", **priced)
    found = solve(problem, solver="bias-descent", tol=1e-8)
    other = solve(problem, solver="proximal-gradient", tol=1e-8)
    assert found.value == pytest.approx(other.value, rel=2e-8)
    assert certify(found).objections == ()
    assert problem.bias_residual(found) <= 1e-3
    again = encode(X, D, lam, bias=found.bias, tol=1e-9, **priced)
    assert again.value == pytest.approx(found.value, rel=1e-7)


@pytest.mark.slow
def test_hard_cases_end_certified(rng):
    X, D = planted(rng)
    cases = {
        "all codes zero": (X, D, 1e3),
        "one datapoint": (X[:1], D, 0.1),
        "equal datapoints": (np.repeat(X[:1], 5, axis=0), D, 0.1),
        "equal atoms": (X, np.repeat(D[:4], 3, axis=0), 0.1),
        "opposite atoms": (X, np.vstack([D[:4], -D[:4]]), 0.1),
        "zeros": (np.zeros((4, 8)), D, 0.1),
        "gaussian": (problems.gaussian(rng, 40, 8), D, 0.1),
        "large": (1e8 * X, D, 1e7),
        "small": (1e-8 * X, D, 1e-9),
    }
    for name, (data, atoms, lam) in cases.items():
        found = solve(SparseCodes(data, atoms, lam, bias="free"), solver="bias-descent", raise_on_failure=False)
        other = solve(SparseCodes(data, atoms, lam, bias="free"), solver="proximal-gradient", raise_on_failure=False)
        assert found.value <= other.value * (1 + 1e-6) + 1e-12, name
        assert found.is_certified or found.value <= 1e-20, name


def test_steps_follow_the_gradient(rng):
    """Second differences of the value; the gradient of a wrong sign would lead uphill."""
    X, D = planted(rng)
    problem = SparseCodes(X, D, 0.2, bias="free")
    descent = BiasDescent(1e-10, Run().inner(), first_tol=1e-10)
    state = descent.init(problem, torch.device("cpu"))
    direction = torch.from_numpy(rng.normal(size=8))
    step = 1e-4

    def value(t: float) -> float:
        return encode(X, D, 0.2, bias=state.bias + t * direction, tol=1e-12).value

    slope = (value(step) - value(-step)) / (2 * step)
    assert slope == pytest.approx(float(state.gradient @ direction), rel=1e-5, abs=1e-8)
    assert descent.step(problem, state).value < state.value


def test_pairs_of_steps_make_secants(rng):
    """The estimate of the inverse Hessian takes the last change of the gradient to the last step."""
    X, D = planted(rng)
    problem = SparseCodes(X, D, 0.2, bias="free")
    descent = BiasDescent(1e-10, Run().inner())
    state = descent.init(problem, torch.device("cpu"))
    for _ in range(3):
        state = descent.step(problem, state)
    torch.testing.assert_close(_inverse_hessian(state, state.changes[-1]), state.moves[-1], rtol=1e-8, atol=1e-12)


def test_it_is_chosen_for_a_free_bias_alone(rng):
    X, D = planted(rng)
    with pytest.raises(InputError, match="descends in a free bias"):
        solve(SparseCodes(X, D, 0.2), solver="bias-descent")
    big = rng.normal(size=(400, 40))
    atoms = unit(rng.normal(size=(900, 40)))
    assert solve(SparseCodes(big, atoms, 1.0, bias="free")).solver == "bias-descent"
    assert solve(SparseCodes(X, D, 0.2, bias="free")).solver != "bias-descent"
