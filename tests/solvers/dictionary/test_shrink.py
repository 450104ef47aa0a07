"""Removing atoms at the price that other codes answer with, and the path to small penalties made of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cvxsae import dictionary_path, encode, learn_dictionary, shrink
from cvxsae.errors import InputError
from cvxsae.relaxations.solution import Status
from cvxsae.results import DictionaryFit, Record
from cvxsae.solvers.dictionary.removal import cheapest_apart, removal_prices


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def planted(n_points: int = 400, n_atoms: int = 16, dim: int = 10, active: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    atoms = unit(rng.standard_normal((n_atoms, dim)))
    codes = np.zeros((n_points, n_atoms))
    for row in codes:
        row[rng.choice(n_atoms, active, replace=False)] = rng.uniform(size=active)
    return codes @ atoms, atoms


def match(found: np.ndarray, atoms: np.ndarray) -> float:
    cosines = np.abs(found @ atoms.T)
    return float(cosines[linear_sum_assignment(-cosines)].mean())


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_prices_bound_what_removal_costs(seed: int, lam: float) -> None:
    rng = np.random.default_rng(seed)
    D, X = unit(rng.standard_normal((9, 4))), rng.standard_normal((30, 4))
    codes = encode(X, D, lam, tol=1e-12)
    prices = removal_prices(X, D, codes.codes, lam)
    for k in range(len(D)):
        cost = encode(X, np.delete(D, k, axis=0), lam, tol=1e-12).value - codes.value
        assert prices[k] >= cost - 1e-10


def test_prices_are_below_what_removal_costs_with_other_codes_held() -> None:
    X, atoms = planted()
    codes = encode(X, atoms, 0.1, tol=1e-12).codes
    prices = removal_prices(X, atoms, codes, 0.1)
    held = np.asarray((codes**2).sum(axis=0)).ravel() / (2 * len(X))
    assert (prices <= held + 1e-12).all()
    assert prices.sum() < 0.9 * held.sum()
    exact = [encode(X, np.delete(atoms, k, axis=0), 0.1, tol=1e-9).value for k in range(len(atoms))]
    np.testing.assert_allclose(prices, np.array(exact) - encode(X, atoms, 0.1, tol=1e-12).value, rtol=0.05)


def test_one_of_two_duplicates_is_free_and_the_two_do_not_go_together() -> None:
    X, atoms = planted()
    D = np.concatenate([atoms, atoms[:1]])
    codes = encode(X, atoms, 0.1, tol=1e-12).codes
    half = sp.csr_array(sp.hstack([codes, codes[:, [0]] * 0.5], format="csr"))
    half = sp.csr_array(half @ sp.diags_array(np.r_[0.5, np.ones(len(atoms))]))
    prices = removal_prices(X, D, half, 0.1)
    assert abs(prices[[0, -1]]).max() < 1e-6 < prices[1:-1].min()
    assert len({0, len(atoms)} & set(cheapest_apart(prices, D, 5))) == 1


@pytest.mark.slow
def test_shrinking_takes_away_what_was_added() -> None:
    X, atoms = planted()
    rng = np.random.default_rng(1)
    mixtures = unit(atoms[:6] + atoms[6:12])
    wide = learn_dictionary(
        X,
        28,
        0.05,
        bias=None,
        init=np.concatenate([mixtures, atoms, unit(rng.standard_normal((6, 10)))]),
        max_seconds=0.001,
        moves=False,
    )
    fit = shrink(wide, 16, stationarity=1e-3)
    assert fit.n_atoms == 16
    assert fit.status is Status.STATIONARY
    assert match(fit.dictionary, atoms) > 0.96
    assert fit.value < encode(X, atoms, 0.05, tol=1e-9).value
    assert match(wide.dictionary[:16], atoms) < 0.9  # without a choice they would not be found


@pytest.mark.slow
def test_a_path_finds_the_planted_atoms() -> None:
    X, atoms = planted()
    fits = dictionary_path(X, 16, (0.2, 0.05, 0.02), bias=None, stationarity=1e-3)
    assert [(fit.lam, fit.n_atoms) for fit in fits] == [(0.2, 20), (0.05, 20), (0.05, 16), (0.02, 16)]
    assert fits[-1].status is Status.STATIONARY
    assert match(fits[-1].dictionary, atoms) > 0.98
    assert fits[-1].value <= encode(X, atoms, 0.02, tol=1e-9).value


@pytest.mark.slow
def test_one_penalty_or_no_surplus_is_plain_learning() -> None:
    X, _ = planted(100)
    (fit,) = dictionary_path(X, 8, (0.2,), bias=None, stationarity=1e-3, seed=3)
    assert fit.value == pytest.approx(learn_dictionary(X, 8, 0.2, bias=None, stationarity=1e-3, seed=3).value, rel=1e-9)
    assert [fit.n_atoms for fit in dictionary_path(X, 8, (0.3, 0.2), surplus=1.0)] == [8, 8]


@pytest.mark.parametrize(("reseeds", "stage"), [(2, 0), (0, 0), (0, 1)])
def test_an_interrupted_path_goes_no_further(monkeypatch: pytest.MonkeyPatch, reseeds: int, stage: int) -> None:
    """It went on to the next penalty, as if the Ctrl-C had been for one fit alone."""
    calls: list[int] = []
    module = sys.modules[dictionary_path.__module__]
    learn = module.learn

    def interrupt(_: Record) -> None:
        if len(calls) == stage + 1:
            raise KeyboardInterrupt

    def counted(problem: Any, settings: Any, run: Any) -> DictionaryFit:
        calls.append(1)
        fit: DictionaryFit = learn(problem, settings, replace(run, callback=interrupt))
        return fit

    monkeypatch.setattr(module, "learn", counted)
    with pytest.raises(KeyboardInterrupt):
        dictionary_path(planted(60)[0], 4, (0.3, 0.2), reseeds=reseeds)
    assert len(calls) == stage + 1


def test_refuses() -> None:
    X, _ = planted(60)
    fit = learn_dictionary(X, 4, 0.3, stationarity=1e-2)
    with pytest.raises(InputError, match="smaller width"):
        shrink(fit, 4)
    for lams in ([0.1, 0.2], [0.1, 0.1], []):
        with pytest.raises(InputError, match="lams"):
            dictionary_path(X, 4, lams)
    for surplus in (0.9, float("nan"), float("inf")):
        with pytest.raises(InputError, match="surplus"):
            dictionary_path(X, 4, [0.2, 0.1], surplus=surplus)
