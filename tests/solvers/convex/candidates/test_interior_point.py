"""Small penalties: chosen by the table, certified whatever the conditioning, and polished by an exact Newton step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary, SparseCodes, Status
from cvxsae.parallel.context import Run
from cvxsae.solvers.convex.candidates.interior_point import DualNewton, _dual_objective, _newton_direction
from cvxsae.solvers.convex.driver import iterate
from tests.helpers import problems
from tests.helpers.problems import certify, solve

CPU = torch.device("cpu")


def build(rng, ratio, tau=2.0, bias="free", n=8, d=4, k=6):
    problem = CandidateDictionary(rng.normal(size=(n, d)), rng.normal(size=(k, d)), 1.0, tau, bias=bias)
    return replace(problem, lam=ratio * problem.lambda_max())


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_penalties_far_below_the_largest(ratio, tau, rng):
    for bias in (None, rng.normal(size=4), "free"):
        problem = build(rng, ratio, tau, bias)
        solution = solve(problem, tol=1e-6)
        assert solution.solver == "interior-point"
        assert certify(problem, solution).is_certified


@pytest.mark.slow
def test_one_row_far_longer_than_the_others(rng):
    X = rng.normal(size=(27, 10))
    X[3] *= 1e5
    problem = CandidateDictionary(X, rng.normal(size=(31, 10)), 0.05, 10.0, bias="free")
    assert certify(problem, solve(problem, tol=1e-6)).is_certified


@pytest.mark.slow
def test_newton_improves_what_an_interior_point_leaves(rng):
    """The answer of a loose solve, made worse by hand, comes back to far more digits than it had."""
    for tau in (0.0, 2.0):
        problem = build(rng, 1e-3, tau)
        start = solve(problem, solver="reference", tol=1e-6)
        worse = replace(start, codes=np.asarray(start.codes) * 1.001, dual=None)
        before = problem.bounds(worse)
        polished = iterate(DualNewton(worse), problem, 1e-9, Run())
        assert polished.gap < 1e-3 * (before[0] - before[1]) / before[0]


@pytest.mark.parametrize("tau", [0.0, 1e-6, 2.0])
@pytest.mark.parametrize("bias", [None, "free"])
def test_the_newton_direction_solves_the_linearized_equations(tau, bias, rng):
    problem = build(rng, 0.3, tau, bias)
    codes = rng.random((8, 6)) * (rng.random((8, 6)) < 0.5)
    state = replace(DualNewton(problem.candidate(codes, np.zeros(4))).init(problem, CPU), sigma=3.0)
    Y = torch.from_numpy(0.1 * rng.normal(size=(8, 4)))
    Y = Y - Y.mean(dim=0) if bias == "free" else Y
    _, at, gradient = _dual_objective(problem, state, Y)
    direction = _newton_direction(problem, state, at, gradient)
    step = 1e-6
    ahead, behind = (_dual_objective(problem, state, Y + sign * step * direction)[2] for sign in (1, -1))
    change = (ahead - behind) / (2 * step)
    torch.testing.assert_close(change, -gradient, rtol=1e-5, atol=1e-7)


def test_the_table_takes_it_only_where_it_pays(rng):
    assert solve(build(rng, 0.5)).solver == "proximal-gradient"
    small = build(rng, 1e-4)
    assert solve(small, solver="torch", max_steps=2, raise_on_failure=False).solver == "proximal-gradient"
    assert solve(small, max_steps=2, raise_on_failure=False).solver == "proximal-gradient"
    coupled = SparseCodes(problems.gaussian(rng, 9, 4), rng.normal(size=(6, 4)), 1e-4, bias="free")
    assert solve(coupled).solver == "interior-point"


def test_a_conic_solver_that_fails_is_no_end(rng, monkeypatch):
    failed = solve(build(rng, 0.5))
    monkeypatch.setattr(
        "cvxsae.solvers.convex.candidates.interior_point.solve_reference",
        lambda *_: replace(failed, status=Status.REFERENCE_FAILED),
    )
    assert solve(build(rng, 0.02), solver="interior-point", tol=1e-4).solver == "proximal-gradient"
