"""Stochastic steps against torch's Adam, their gradient against finite differences of F, and the schedule."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import encode
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps, minibatch_at, residual_sums
from cvxsae.solvers.dictionary.state import Moments
from cvxsae.solvers.dictionary.sums import unit

STEPS = StochasticSteps()


def directions(seed: int, k: int = 7, d: int = 5) -> torch.Tensor:
    return unit(torch.from_numpy(np.random.default_rng(seed).standard_normal((k, d))))


@pytest.mark.slow
def test_a_step_is_adams_on_the_sphere():
    start, rng = directions(0), np.random.default_rng(1)
    parameter = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([parameter], lr=0.4 / 5**0.5, betas=(0.9, 0.99), eps=1e-150)
    found, moments = start, Moments.zero(start)
    for step in range(30):
        uphill, rate = torch.from_numpy(rng.standard_normal((7, 5))), STEPS.rate_at(step, 30)
        found, moments = STEPS.adam(found, moments, uphill, rate)
        with torch.no_grad():
            along = (parameter * uphill).sum(dim=1, keepdim=True)
            parameter.grad = uphill - along * parameter
            adam.param_groups[0]["lr"] = rate * 0.4 / 5**0.5
            adam.step()
            parameter /= torch.linalg.vector_norm(parameter, dim=1, keepdim=True)
        torch.testing.assert_close(found, parameter.detach(), rtol=0, atol=1e-12)
    assert moments.taken == 30


@pytest.mark.parametrize("power", [-400, 400])
def test_the_unit_of_the_gradient_does_not_matter_and_none_moves_nothing(power):
    start, uphill = directions(0), directions(1)
    plain, _ = STEPS.adam(start, Moments.zero(start), uphill, 1.0)
    scaled, _ = STEPS.adam(start, Moments.zero(start), uphill * 2.0**power, 1.0)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-15)
    torch.testing.assert_close(STEPS.adam(start, Moments.zero(start), 0 * uphill, 1.0)[0], start, rtol=0, atol=1e-15)


@pytest.mark.slow
def test_the_pull_of_all_datapoints_is_minus_the_gradient_of_the_objective():
    """N ∂F/∂d_k = −Σ_n z_nk r_n by the envelope theorem: along the sphere, against central differences."""
    rng, D, lam = np.random.default_rng(2), directions(3).numpy(), 0.2
    X = rng.standard_normal((40, 5))
    codes = encode(X, D, lam, tol=1e-13).codes
    found = residual_sums(codes, torch.from_numpy(X), torch.from_numpy(D)).numpy()
    np.testing.assert_allclose(found, codes.toarray().T @ (X - codes.toarray() @ D), atol=1e-12)
    for k in range(7):
        along = rng.standard_normal(5)
        along -= (along @ D[k]) * D[k]
        ends = []
        for sign in (1, -1):
            moved = D.copy()
            moved[k] += sign * 1e-5 * along
            moved[k] /= np.linalg.norm(moved[k])
            ends.append(encode(X, moved, lam, tol=1e-13).value)
        assert 40 * (ends[0] - ends[1]) / 2e-5 == pytest.approx(-found[k] @ along, rel=1e-4, abs=1e-6)


def test_no_datapoints_pull_nothing():
    nothing = residual_sums(sp.csr_array((0, 7)), torch.zeros((0, 5), dtype=torch.float64), directions(0))
    assert not nothing.any()
    assert nothing.shape == (7, 5)


@pytest.mark.parametrize("epochs", [0, 1, 4, 5, 6, 8, 18, 55])
def test_rounds_spend_the_passes_asked_for(epochs):
    rounds = STEPS.rounds_of(epochs)
    assert sum(rounds) + len(rounds) == epochs
    assert all(stochastic <= 4 * 3**number for number, stochastic in enumerate(rounds))


def test_the_rate_rises_and_falls_and_every_pass_sees_every_minibatch():
    rates = [STEPS.rate_at(step, 200) for step in range(200)]
    assert max(rates) == 1.0
    assert np.diff(rates).argmin() >= 99
    assert rates[0] < 0.2
    assert rates[-1] <= 0.01
    orders = [[minibatch_at(9 * epoch + step, 9, seed=4) for step in range(9)] for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert orders[0] != orders[1]
