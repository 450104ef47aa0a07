"""The upper side of a population problem: known answers, what is evaluated, and limits."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import cvxsae
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, large_floor, solve_population
from cvxsae.population.large import directions, steps
from cvxsae.population.large import rows as rows_module
from cvxsae.population.large import solve as solve_module
from cvxsae.relaxations.solution import Status
from tests.helpers.interrupts import InterruptOnce
from tests.helpers.problems import huber, primal, unit
from tests.helpers.sentences import rejects

PROBLEM = PopulationDictionary(0.3, 0.05)


def clusters(n=80, d=6, seed=0):
    """Rows along eight directions, with a little noise."""
    rng = np.random.default_rng(seed)
    C = unit(rng.normal(size=(8, d)))
    return C[rng.integers(8, size=n)] * rng.uniform(1, 2, size=(n, 1)) + 0.1 * rng.normal(size=(n, d))


@pytest.fixture(scope="module")
def fitted():
    X = clusters()
    return X, solve_population(X, PROBLEM)


@pytest.mark.slow
def test_it_is_the_large_dictionary_of_the_rows(fitted):
    X, fit = fitted
    solution = cvxsae.solve(PROBLEM.on(X), tol=1e-3, raise_on_failure=False)
    assert solution.lower_bound <= fit.value <= solution.value * (1 + 2e-4)
    assert 8 <= fit.n_atoms <= 12 and fit.status is Status.STATIONARY


@pytest.mark.slow
def test_the_value_is_the_written_formula(fitted):
    X, fit = fitted
    Z = fit.encode(X).toarray()
    assert fit.value == pytest.approx(primal(X, fit.bias, fit.dictionary, Z, 0.3, PROBLEM.atom_cost(len(X))), rel=1e-12)
    np.testing.assert_allclose(fit.mass, Z.mean(axis=0))
    np.testing.assert_allclose(fit.shares, Z.mean(axis=0) ** 2 / (Z**2).mean(axis=0))
    assert fit.l0 == pytest.approx((Z > 0).sum(axis=1).mean())
    np.testing.assert_allclose(np.linalg.norm(fit.dictionary, axis=1), 1, rtol=1e-12)


def test_at_the_end_prices_are_those_of_the_codes(fitted):
    _, fit = fitted
    theta = PROBLEM.prices(fit.attained.mass, fit.attained.squares)
    np.testing.assert_allclose(fit.priced.weights, fit.mass / theta, rtol=0.02)
    np.testing.assert_allclose(fit.priced.ridge, PROBLEM.atom_price / theta, rtol=0.05)
    assert fit.new_atom_ratio < 1.05


@pytest.mark.slow
def test_written_twice_or_scaled_it_is_the_same_problem(fitted):
    X, fit = fitted
    twice = solve_population(np.concatenate([X, X]), PROBLEM)
    assert twice.value == pytest.approx(fit.value, rel=3e-4)
    large = solve_population(100 * X, PopulationDictionary(30.0, 0.05))
    assert large.value == pytest.approx(1e4 * fit.value, rel=3e-4)


def test_atoms_that_cost_nothing_give_the_wide_limit():
    X = clusters(n=16, d=3)
    fit = solve_population(X, PopulationDictionary(0.3, 1e-6, bias=None), tol=1e-5)
    wide = huber(np.linalg.norm(X, axis=1), 0.3).mean()
    assert wide <= fit.value <= wide * (1 + 5e-3)


def test_large_prices_leave_fewer_atoms(fitted):
    X, fit = fitted
    dear = solve_population(X, PopulationDictionary(0.3, 1.0))
    assert dear.n_atoms < fit.n_atoms and dear.value > fit.value


def test_above_lambda_max_there_are_no_atoms():
    X = clusters(n=30)
    fit = solve_population(X, PopulationDictionary(50.0, 0.05))
    assert fit.n_atoms == 0 and fit.encode(X).shape == (30, 0)
    assert fit.value == pytest.approx(((X - X.mean(axis=0)) ** 2).sum() / 60)
    np.testing.assert_allclose(fit.bias, X.mean(axis=0))


@pytest.mark.slow
def test_a_fixed_bias_stays():
    X, b = clusters(n=40), np.full(6, 0.1)
    assert np.array_equal(solve_population(X, PopulationDictionary(0.3, 0.05, bias=b), tol=1e-2).bias, b)
    assert not solve_population(X, PopulationDictionary(0.3, 0.05, bias=None), tol=1e-2).bias.any()


@pytest.mark.slow
def test_streams_samples_and_seeds():
    X = clusters(n=400)

    def batches():
        yield from np.split(X, 8)

    one, other = (solve_population(source, PROBLEM, sample_rows=150, tol=1e-3) for source in (X, batches))
    assert one.value == pytest.approx(other.value, rel=1e-9)
    np.testing.assert_allclose(one.dictionary, other.dictionary, atol=1e-9)
    assert one.value <= solve_population(X, PROBLEM, tol=1e-3).value * 1.01


@pytest.mark.slow
def test_nothing_is_held_beyond_a_block(fitted, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 500)
    _, fit = fitted
    peaks = []
    for n in (1000, 1000, 8000):  # what is compiled or imported is there after the first
        facts = rows_module.Facts.of(cvxsae.Activations(clusters(n=n)), PROBLEM, 100)
        tracemalloc.start()
        rows_module.pass_over(facts, fit.priced, PROBLEM, Run())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


def test_merging_and_removing_say_exactly_what_they_gain(fitted):
    """The step's own claim, against the value of the changed dictionary and codes as written."""
    X, fit = fitted
    d, noise = fit.dictionary, np.random.default_rng(1).normal(size=(2, 6))
    split = np.concatenate([d[1:], unit(d[:1] + 0.05 * noise)])
    priced = rows_module.PricedDictionary(
        split, fit.bias, np.append(fit.priced.weights[1:], [0.7, 0.7]), np.append(fit.priced.ridge[1:], [0.3, 0.3])
    )
    facts = rows_module.Facts.of(cvxsae.Activations(X), PROBLEM, 50)
    step = rows_module.pass_over(facts, priced, PROBLEM, Run())
    Z = priced.codes(cvxsae.Activations(X), 0.3, Run()).toarray()
    assert step.value == pytest.approx(primal(X, fit.bias, split, Z, 0.3, PROBLEM.atom_cost(len(X))))
    fewer = steps.shrunk(step, PROBLEM, facts)
    assert 8 <= fewer.n_atoms <= fit.n_atoms  # the two are one again
    kept = np.arange(fit.n_atoms - 1)
    merged = fewer.dictionary[-1]
    together = Z[:, -2] + Z[:, -1]
    sizes = np.linspace(0.5, 1.5, 201)
    values = [
        primal(
            X,
            fit.bias,
            np.vstack([split[kept], merged]),
            np.column_stack([Z[:, kept], s * together]),
            0.3,
            PROBLEM.atom_cost(len(X)),
        )
        for s in sizes
    ]
    assert min(values) < step.value


def test_sums_give_directions_that_pay():
    X = clusters()
    nothing = rows_module.PricedDictionary(np.zeros((0, 6)), X.mean(axis=0), np.zeros(0), np.zeros(0))
    search = directions.new_atoms(X - X.mean(axis=0), PROBLEM, 0)
    found = search.atoms
    assert found.n_atoms >= 2 and search.ratio > 1
    facts = rows_module.Facts.of(cvxsae.Activations(X), PROBLEM, 50)
    run = Run()
    for k in range(found.n_atoms):  # each alone, at its own prices
        alone = rows_module.pass_over(facts, nothing.with_atoms(found.only(np.array([k]))), PROBLEM, run)
        assert alone.value < rows_module.pass_over(facts, nothing, PROBLEM, run).value
    assert directions.new_atoms(1e-3 * X, PROBLEM, 0).atoms.n_atoms == 0


def test_limits_callbacks_and_interrupts(monkeypatch):
    X = clusters(n=60)
    seen: list[Any] = []
    cut = solve_population(X, PROBLEM, max_steps=3, callback=seen.append)
    assert cut.status is Status.MAX_ITER and cut.passes == len(seen) == len(cut.history) == 3
    assert cut.value == pytest.approx(min(record.value for record in seen), rel=1e-9)
    late = solve_population(X, PROBLEM, max_seconds=1e-9)
    assert late.status is Status.TIME_LIMIT and late.value > 0
    monkeypatch.setattr(solve_module, "pass_over", InterruptOnce(rows_module.pass_over, call=4))
    stopped = solve_population(X, PROBLEM)
    assert stopped.status is Status.INTERRUPTED and stopped.value <= stopped.history[0].value
    assert stopped.value == pytest.approx(min(record.value for record in stopped.history), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"confidence": 1.5}, "confidence"),
        ({"sample_rows": 0}, "sample_rows"),
        ({"tol": -1.0}, "tol"),
        ({"held_out": np.ones((4, 3))}, "held_out"),
        ({"held_out": np.ones((1, 6))}, "held_out"),
        ({"held_out": clusters(n=30)[::-1]}, "held_out .*that are learned from"),
        ({"folder": "x"}, ".folder"),
    ],
)
def test_what_cannot_be_used(change, word):
    with rejects(word):
        solve_population(clusters(n=30), PROBLEM, **{"max_steps": 1, **change})


def test_a_floor_of_something_else():
    X = clusters(n=30)
    asked: dict[str, Any] = {"batch": 5, "n_batches": 2, "tol": 0.5}
    for other, word in (
        (PopulationDictionary(0.4, 0.05), "lam"),
        (PopulationDictionary(0.3, 0.06), "atom_price"),
        (PopulationDictionary(0.3, 0.05, bias=None), "bias"),
    ):
        with rejects(f"floor.*{word}"):
            solve_population(X, PROBLEM, floor=large_floor(X, other, **asked), max_steps=1)
    with rejects("floor.*rows"):
        solve_population(X, PROBLEM, floor=large_floor(X + 1, PROBLEM, of="rows", **asked), max_steps=1)
