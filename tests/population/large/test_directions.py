"""New atoms of a population's dictionary: the polar they are found by, and what they gain together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae.data.activations import Activations
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, solve_population
from cvxsae.population.large import directions
from cvxsae.population.large.rows import Facts, PricedDictionary, pass_over
from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.convex.polar_search import sphere_polar
from cvxsae.relaxations.solution import Status
from tests.helpers.problems import primal
from tests.population.large.test_solve import PROBLEM, clusters


def exact_ratio(R, problem):
    """θ°(R)/λ from above, by branch and bound."""
    penalty = AtomPenalty(problem.atom_cost(len(R)))
    return sphere_polar(penalty.polar, torch.from_numpy(R), (0.0, torch.zeros(2)), tol=1e-4).upper / problem.lam


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("is_thorough", [False, True])
def test_the_polar_found_is_a_lower_bound_of_the_polar(seed, is_thorough):
    R = np.random.default_rng(seed).normal(size=(100, 2))
    exact = exact_ratio(R, PROBLEM)
    found = directions.new_atoms(R, PROBLEM, seed, is_thorough=is_thorough).ratio
    assert (0.999 if is_thorough else 0.95) * exact <= found <= exact * (1 + 3e-4)  # rounding of single precision


def test_on_all_rows_it_is_a_lower_bound_too():
    X, problem = clusters(n=300, d=2), PopulationDictionary(0.3, 0.05, bias=None)
    facts = Facts.of(Activations(X), problem, 50)
    nothing = PricedDictionary(np.zeros((0, 2)), np.zeros(2), np.zeros(0), np.zeros(0))
    here = pass_over(facts, nothing, problem, Run())
    found = directions.new_atoms(here.residuals, problem, 0)
    ratio = directions.ratio_on_all_rows(facts, here.priced, problem, Run(), found.directions, here.residuals)
    exact = exact_ratio(X, problem)
    assert 0.9 * exact <= ratio <= exact * (1 + 1e-9)
    assert not np.isclose(found.ratio, ratio, rtol=1e-4)  # that of 50 rows is another number


def test_atoms_found_together_gain_what_is_said():
    """Their codes as written, at the sizes that the ridges stand for, beside the value with none."""
    X = clusters()
    R = X - X.mean(axis=0)
    found = directions.new_atoms(R, PROBLEM, 0)
    U, weights = found.atoms.dictionary, found.atoms.weights
    V = torch.from_numpy(R @ U.T)
    shape = AtomPenalty(PROBLEM.atom_cost(len(X))).polar_maximizer(V).numpy()
    theta = PROBLEM.prices(shape.mean(axis=0), (shape**2).mean(axis=0))
    np.testing.assert_allclose(weights, shape.mean(axis=0) / theta, rtol=1e-3)
    Z = shape * (PROBLEM.atom_price / (theta * found.atoms.ridge))
    cost = PROBLEM.atom_cost(len(X))
    nothing = primal(X, X.mean(axis=0), U, np.zeros_like(Z), 0.3, cost)
    together = primal(X, X.mean(axis=0), U, Z, 0.3, cost)
    assert nothing - together == pytest.approx(found.gain, rel=1e-3)
    for factor in (0.9, 1.1):  # no common size is better
        assert primal(X, X.mean(axis=0), U, factor * Z, 0.3, cost) > together
    dropped = primal(X, X.mean(axis=0), U[1:], Z[:, 1:], 0.3, cost)
    assert dropped > together  # a negative control: each of them matters


@pytest.mark.slow
def test_a_polar_found_says_that_an_atom_pays():
    """Without one of its atoms a dictionary is no longer stationary, and the search sees it."""
    X = clusters()
    fit = solve_population(X, PROBLEM)
    assert fit.status is Status.STATIONARY and fit.new_atom_ratio <= 1.01
    fewer = fit.priced.only(np.arange(fit.n_atoms) != int(np.argmax(fit.mass)))
    residual = X - fewer.bias - fewer.codes(Activations(X), 0.3, Run()) @ fewer.dictionary
    found = directions.new_atoms(residual, PROBLEM, 0)
    assert found.ratio > 1.05 and found.gain > 0


def test_no_residual_and_no_direction():
    assert directions.new_atoms(np.zeros((5, 3)), PROBLEM, 0).ratio == 0.0
    assert directions.new_atoms(1e-3 * clusters(), PROBLEM, 0).atoms.n_atoms == 0


@pytest.mark.slow
def test_what_a_sample_cannot_teach_is_learned_on_all_rows():
    """60 of 300 rows, three of them a price: a dictionary of the sample alone would be one of its noise."""
    X = clusters(n=300)
    fit, whole = (solve_population(X, PROBLEM, sample_rows=rows, tol=1e-3) for rows in (60, 300))
    assert fit.status is Status.STATIONARY and fit.new_atom_ratio <= 1.01
    assert fit.value == pytest.approx(whole.value, rel=2e-3)


@pytest.mark.slow
def test_it_is_stationary_only_where_the_polar_says_so():
    X = clusters(n=60)
    asked = solve_population(X, PROBLEM, tol=1e-2, stationarity=1e-9)
    assert asked.status is Status.STALLED and asked.new_atom_ratio > 1
    cut = solve_population(X, PROBLEM, max_steps=2)
    assert cut.status is Status.MAX_ITER and cut.new_atom_ratio > 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "lam", "price"), [(1.0, 0.3, 0.1), (1e4, 0.1, 0.05)])
def test_the_polar_at_the_end_is_one_of_exact_codes(scale, lam, price):
    """Codes with the gap of a pass have a polar that is too high: at the larger scale by a share of 1e-3."""
    X = scale * np.random.default_rng(0).normal(size=(40, 2))
    problem = PopulationDictionary(lam, price)
    fit = solve_population(X, problem)
    residual = X - fit.bias - fit.priced.codes(Activations(X), lam, Run(), tol=1e-12) @ fit.dictionary
    exact = exact_ratio(residual, problem)
    assert 0.99 * exact <= fit.new_atom_ratio <= exact * (1 + 3e-4)
    if fit.status is Status.STATIONARY:
        assert exact <= 1.01 * (1 + 1e-3)
