"""Lower bounds of a population problem from batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cvxsae
from cvxsae.population import PopulationDictionary, large_floor
from cvxsae.population.large import floor as module
from cvxsae.relaxations.solution import Status
from tests.helpers.forged import forge
from tests.helpers.interrupts import InterruptOnce
from tests.helpers.sentences import rejects

PROBLEM = PopulationDictionary(0.3, 0.2)

ROUGH = 0.1
"""A relative gap that the solver reaches at once: any bound holds."""


def theta(z, price):
    """As written, for rows that are all there are."""
    return np.sqrt(z.mean() ** 2 + price * (z**2).mean())


def batch_mean(z, price, batches):
    """``E √(s² + τ q)/n`` over batches of n rows, with the surcharge τ = n·price of a batch."""
    each = [np.sqrt(z[list(b)].sum() ** 2 + len(b) * price * (z[list(b)] ** 2).sum()) / len(b) for b in batches]
    return np.mean(each)


codes = hnp.arrays(np.float64, st.integers(1, 6), elements=st.sampled_from([0.0, 0.0, 1e-3, 0.3, 1.0, 2.0, 50.0]))


@settings(deadline=None, max_examples=150)
@given(codes, st.floats(1e-4, 1e3), st.integers(1, 4))
def test_the_theorem_by_enumeration(z, price, n):
    independent = itertools.product(range(len(z)), repeat=n)
    assert batch_mean(z, price, list(independent)) <= theta(z, price) * (1 + 1e-12)
    if n <= len(z):
        without = itertools.combinations(range(len(z)), n)
        assert batch_mean(z, price, list(without)) <= theta(z, price) * (1 + 1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_larger_surcharge_would_be_too_much(n):
    """The negative control: of equal codes any surcharge above n τ̄ exceeds the value."""
    z, price = np.ones(6), 0.2
    batches = list(itertools.combinations(range(6), n))
    assert batch_mean(z, price, batches) == pytest.approx(theta(z, price), rel=1e-12)
    assert batch_mean(z, price + 1e-3 / n, batches) > theta(z, price) * (1 + 1e-6)


def test_it_sharpens_the_surcharge_of_the_theory_page():
    """``n τ̄ − 1`` (independent) and ``(n/N) τ − 1 + (n − 1)/(N − 1)`` (without replacement) are never larger."""
    for N, n in itertools.combinations_with_replacement(range(2, 9), 2):
        n, N = min(n, N), max(n, N)
        for price in (0.3, 1.0, 4.0):
            assert PopulationDictionary(1.0, price).atom_cost(n) >= n / N * (N * price) - 1 + (n - 1) / (N - 1) - 1e-12


@pytest.mark.slow
def test_all_batches_of_a_small_population():
    rng = np.random.default_rng(3)
    X = np.abs(rng.normal(size=(4, 4))) + 0.5 * np.eye(4)

    def solved(problem, rows):
        return cvxsae.solve(problem.on(X[list(rows)]), tol=1e-3, raise_on_failure=False)

    value, means = solved(PROBLEM, range(4)).value, []
    for n in (1, 2, 3):
        means.append(np.mean([solved(PROBLEM, b).lower_bound for b in itertools.combinations(range(4), n)]))
    assert means == sorted(means) and means[-1] <= value
    too_much = PopulationDictionary(0.3, 20 * PROBLEM.atom_price)  # the negative control
    assert np.mean([solved(too_much, b).lower_bound for b in itertools.combinations(range(4), 2)]) > value


@pytest.mark.slow
def test_bounds_are_those_of_the_batches(rng):
    X = rng.normal(size=(32, 5))
    found = large_floor(X, PROBLEM, batch=8, n_batches=4, seed=5)
    order = np.random.default_rng(5).permutation(32)
    for k, bound in enumerate(found.bounds):
        rows = np.sort(order[8 * k : 8 * k + 8])
        solution = cvxsae.solve(cvxsae.LargeDictionary(X[rows], 0.3, 8 * 0.2), tol=2e-3, raise_on_failure=False)
        assert bound == pytest.approx(solution.lower_bound, rel=2e-3)
    assert found.status is Status.CERTIFIED and found.of == "distribution"
    limit = found.limit
    assert limit.value == found.value == pytest.approx(found.bounds.mean())
    assert 0 < limit.low < found.value and limit.high == np.inf and limit.n_units == 4
    assert "every dictionary on the distribution" in str(found) and "4 batches of 8" in str(found)
    assert found.to_dict()["limit"]["low"] == pytest.approx(limit.low)


@pytest.mark.slow
def test_of_rows_batches_are_independent_and_other_seeds_give_others(rng):
    X = rng.normal(size=(10, 5))
    one = large_floor(X, PROBLEM, batch=5, n_batches=3, of="rows", tol=ROUGH)
    assert len(set(one.bounds)) == 3 and "these 10 rows" in str(one)
    again, other = (large_floor(X, PROBLEM, batch=5, n_batches=3, of="rows", seed=s, tol=ROUGH) for s in (0, 1))
    np.testing.assert_array_equal(one.bounds, again.bounds)
    assert not np.isin(other.bounds, one.bounds).any()
    everything = large_floor(X, PROBLEM, batch=10, n_batches=1, of="rows")
    value = cvxsae.solve(PROBLEM.on(X), tol=1e-3, raise_on_failure=False).value
    assert one.value < everything.value <= value
    assert np.isnan(everything.limit.low) and "no limit" in str(everything)


@pytest.mark.slow
def test_a_fixed_bias_costs_more_than_a_free_one(rng):
    X = rng.normal(size=(12, 5)) + 1
    problem = PopulationDictionary(0.5, 0.1, bias=np.zeros(5))
    found = large_floor(X, problem, batch=6, n_batches=2)
    free = large_floor(X, PopulationDictionary(0.5, 0.1), batch=6, n_batches=2)
    assert (free.bounds < found.bounds).all()


def test_a_known_range(rng):
    X = rng.normal(size=(40, 4))
    found = large_floor(X, PROBLEM, batch=4, n_batches=10, tol=ROUGH)
    high = 0.5 * (np.linalg.norm(X, axis=1).max()) ** 2
    assert 0 <= found.limit_at(0.5, (0.0, high)).low < found.limit_at(0.5).low
    with rejects("within"):
        found.limit_at(0.5, (0.0, found.bounds.min()))
    with rejects("confidence"):
        found.limit_at(1.0)


@pytest.mark.slow
def test_a_folder_is_gone_on_from_and_believed_only_as_far_as_it_proves(rng, tmp_path, monkeypatch):
    X = rng.normal(size=(24, 5))
    first = large_floor(X, PROBLEM, batch=8, n_batches=2, folder=tmp_path, tol=ROUGH)
    calls = InterruptOnce(module.bounded, call=99)
    monkeypatch.setattr(module, "bounded", calls)
    more = large_floor(X, PROBLEM, batch=8, n_batches=3, folder=tmp_path, tol=ROUGH)
    assert calls.calls == 1
    np.testing.assert_allclose(more.bounds[:2], first.bounds, rtol=1e-9)
    forge(tmp_path / "batch-000000.npz", lambda record, arrays: arrays.update(dual=arrays["dual"] * 3))
    again = large_floor(X, PROBLEM, batch=8, n_batches=3, folder=tmp_path, tol=ROUGH)
    assert again.bounds[0] <= first.bounds[0] * (1 + 1e-9)
    with rejects("folder.*tol"):
        large_floor(X, PROBLEM, batch=8, n_batches=3, folder=tmp_path, tol=0.01)


def test_limits_and_interrupts(rng, monkeypatch):
    X = rng.normal(size=(30, 4))
    with rejects("max_seconds"):
        large_floor(X, PROBLEM, batch=5, n_batches=3, max_seconds=1e-9)
    monkeypatch.setattr(module, "bounded", InterruptOnce(module.bounded, call=3))
    cut = large_floor(X, PROBLEM, batch=5, n_batches=3, tol=ROUGH)
    assert cut.status is Status.INTERRUPTED and len(cut.bounds) == 2
    monkeypatch.setattr(module, "bounded", InterruptOnce(module.bounded, call=1))
    with pytest.raises(KeyboardInterrupt):
        large_floor(X, PROBLEM, batch=5, n_batches=3)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": 11}, "X has 20 rows and 2 batches of 11 rows need 22"),
        ({"batch": 6000}, "batch"),
        ({"n_batches": 0}, "n_batches"),
        ({"of": "tokens"}, "of"),
        ({"confidence": 2}, "confidence"),
        ({"tol": -1}, "tol"),
        ({"problem": PopulationDictionary(1.0, 0.1, bias=np.zeros(3))}, "bias"),
        ({"steps": 3}, ".steps"),
    ],
)
def test_what_cannot_be_used(change, word):
    asked = {"problem": PROBLEM, "batch": 10, "n_batches": 2} | change
    with rejects(word):
        large_floor(np.random.default_rng(0).normal(size=(20, 2)), asked.pop("problem"), **asked)
