"""Column generation over few directions: total gaps that close, against the relaxation and the plain descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae import LargeDictionary
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.tidy import factor_of
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.column_generation import Directions, _with_new, even_directions
from cvxsae.solvers.convex.large.factorized import Factorized
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3
CPU = torch.device("cpu")


@pytest.mark.parametrize(("d", "count"), [(1, 2), (2, 24), (3, 100)])
def test_even_directions_leave_no_direction_far_away(d, count, rng):
    directions = even_directions(d, count)
    assert directions.shape == (count, d)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    anywhere = problems.unit(rng.normal(size=(500, d)))
    assert (directions @ anywhere.T).max(axis=0).min() > np.cos(0.3)


def test_parallel_directions_are_not_added_twice():
    atoms = np.eye(3)[:2]
    assert len(_with_new(atoms, np.array([[1.0, 1e-9, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))) == 3
    assert len(_with_new(atoms[:0], atoms)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize(("d", "tau"), [(1, 2.0), (2, 0.1), (2, 10.0), (3, 2.0)])
def test_the_total_gap_closes(d, tau, bias, rng):
    problem = LargeDictionary(problems.gaussian(rng, 30, d), LAM, tau, bias=bias)
    solution = solve(problem, tol=1e-4)
    certificate = certify(problem, solution)
    assert certificate.is_certified
    assert certificate.bound == "optimum"
    assert solution.proof is None


@pytest.mark.slow
def test_it_is_no_worse_than_descent_from_many_atoms(rng):
    problem = LargeDictionary(problems.gaussian(rng, 16, 2), LAM, 5.0, bias=None)
    solution = solve(problem, tol=1e-5)
    descended = iterate(Factorized(), problem, 1e-5, Run(max_steps=3))
    assert solution.value <= descended.value * (1 + 1e-5)
    assert solution.lower_bound <= descended.value


@pytest.mark.slow
def test_more_points_than_starting_directions(rng):
    problem = LargeDictionary(problems.gaussian(rng, 320, 2), LAM, 10.0, bias=None)
    assert certify(problem, solve(problem, tol=1e-3)).is_certified


@pytest.mark.slow
def test_a_warm_start_from_the_answer_is_no_worse(rng):
    problem = LargeDictionary(problems.gaussian(rng, 30, 2), LAM, 5.0, bias=None)
    cold = solve(problem, tol=1e-4)
    warm = torch.from_numpy(factor_of(problem, cold))
    again = iterate(Directions(1e-4, warm), problem, 1e-4, Run())
    assert again.is_certified
    assert again.value <= cold.value * (1 + 1e-4)
    assert again.info["iterations"] <= cold.info["iterations"] + 1
