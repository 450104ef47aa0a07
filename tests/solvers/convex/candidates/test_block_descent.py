"""Block descent over given atoms: exact steps, the gradient on a support, screening that is safe, certified answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import datapoint_atoms
from cvxsae.solvers.convex.candidates.block_descent import BlockDescent
from cvxsae.solvers.convex.candidates.kernels import support_gradient, sweep
from cvxsae.solvers.convex.driver import iterate
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3
CPU = torch.device("cpu")


def build(rng, tau=2.0, bias=None, n=40, d=4, k=30):
    return CandidateDictionary(problems.clustered(rng, n, d), rng.normal(size=(k, d)), LAM, tau, bias=bias)


@pytest.mark.parametrize("scale", [1e-130, 1.0, 1e100])
@pytest.mark.parametrize("tau", [0.0, 0.5, 20.0])
def test_a_sweep_over_one_atom_is_its_exact_minimum(tau, scale, rng):
    problem = build(rng, tau)
    X, A = scale * problem.X.to_numpy(), problem.atoms.numpy()
    codes = scale * rng.random((30, 40)) * (rng.random((30, 40)) < 0.2)
    residual = X - codes.T @ A
    wanted = residual @ A[7] + codes[7]
    expected = problem.penalty.prox(torch.from_numpy(wanted)[:, None], scale * LAM).numpy().ravel()
    moved = sweep(residual, A, codes, np.array([7]), scale * LAM, tau, np.zeros(30), np.zeros(4), False)
    np.testing.assert_allclose(codes[7], expected, atol=1e-12 * scale)
    np.testing.assert_allclose(residual, X - codes.T @ A, atol=1e-12 * scale)
    assert moved > 0


@pytest.mark.parametrize("bias", [None, "free"])
def test_sweeps_never_raise_the_objective(bias, rng):
    problem = build(rng, bias=bias)
    X, A = problem.X.to_numpy() - problem.starting_bias().numpy(), problem.atoms.numpy()
    residual, codes, thresholds, mean = X.copy(), np.zeros((30, 40)), np.zeros(30), np.zeros(4)
    values = []
    for _ in range(8):
        sweep(residual, A, codes, np.arange(30), LAM, 2.0, thresholds, mean, bias == "free")
        left = X - codes.T @ A
        np.testing.assert_allclose(left, residual, atol=1e-12)
        left = left - left.mean(axis=0) if bias == "free" else left
        np.testing.assert_allclose(mean, residual.mean(axis=0) if bias == "free" else 0, atol=1e-12)
        values.append(np.sum(left**2) / 2 + LAM * problems.penalties(codes.T, 2.0).sum())
    assert (np.diff(values) <= 1e-12).all()
    assert values[-1] < 0.9 * values[0] or bias is None


@pytest.mark.parametrize("centered", [False, True])
def test_the_gradient_on_a_support_is_the_derivative(centered, rng):
    X, A = rng.normal(size=(9, 3)), problems.unit(rng.normal(size=(4, 3)))
    codes = rng.random((4, 9)) * (rng.random((4, 9)) < 0.5)
    owners, rows = codes.nonzero()
    starts = np.searchsorted(owners, np.arange(5))

    def at(x):
        gradient, residual = np.empty(len(x)), np.empty_like(X)
        return support_gradient(x, starts, rows, A, X, LAM, 2.0, centered, residual, gradient), gradient

    x, step = codes[owners, rows], rng.normal(size=len(rows))
    residual = X - codes.T @ A
    residual = residual - residual.mean(axis=0) if centered else residual
    assert at(x)[0] == pytest.approx(np.sum(residual**2) / 2 + LAM * problems.penalties(codes.T, 2.0).sum())
    slope = (at(x + 1e-6 * step)[0] - at(x - 1e-6 * step)[0]) / 2e-6
    assert slope == pytest.approx(at(x)[1] @ step, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
def test_it_is_certified_and_agrees_with_proximal_gradient(tau, bias, rng):
    problem = build(rng, tau, rng.normal(size=4) if bias == "fixed" else bias)
    solution = solve(problem, solver="block-descent", tol=1e-6)
    assert certify(problem, solution).is_certified
    assert solution.value == pytest.approx(solve(problem, solver="proximal-gradient", tol=1e-6).value, rel=2e-6)


@pytest.mark.slow
def test_datapoints_as_candidates(rng):
    """Near-parallel candidates, most of which enter: what sweeps alone take hundreds of rounds for."""
    X = problems.clustered(rng, 150, 8)
    problem = CandidateDictionary(X, datapoint_atoms(X), 0.1, 10.0, bias=None)
    solution = solve(problem, solver="block-descent", tol=1e-5)
    assert certify(problem, solution).is_certified
    assert solution.info["iterations"] <= 30


@pytest.mark.slow
def test_screened_atoms_are_unused_at_the_optimum(rng):
    problem = build(rng, 5.0, n=60, k=80)
    rough = solve(problem, solver="block-descent", tol=1e-4)
    algorithm = BlockDescent()
    state = algorithm.init(problem, CPU)
    for _ in range(rough.info["iterations"]):
        state = algorithm.step(problem, state)
    assert 0 < (~state.alive).sum() < 80
    exact = solve(problem, solver="proximal-gradient", tol=1e-11)
    assert not exact.codes[:, ~state.alive].any()


def test_nothing_is_worth_its_price(rng):
    problem = build(rng, 3.0)
    dear = replace(problem, lam=1.01 * problem.lambda_max())
    solution = iterate(BlockDescent(), dear, 1e-9, Run())
    assert solution.is_certified
    assert not np.asarray(solution.codes).any()
