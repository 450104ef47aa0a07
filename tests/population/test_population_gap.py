"""The gap of a dictionary to the best on the distribution: both sides by definition, SAEs, rows seen, refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import t

from cvxsae import SparseAutoencoder, encode, learn_dictionary
from cvxsae.data.storage import strict_json
from cvxsae.population import evaluate, population_floor, population_gap
from cvxsae.sae.normalization import TokenNorm
from cvxsae.statistics.means import bounded_mean
from tests.helpers.sentences import rejects

LAM = 0.3


@pytest.fixture(scope="module", name="X")
def made() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.eye(4)[rng.integers(0, 4, 240)] * rng.uniform(0.5, 3, (240, 1)) + 0.05 * rng.standard_normal((240, 4))


@pytest.fixture(scope="module", name="D")
def turned() -> np.ndarray:
    return np.linalg.qr(np.eye(4) + 0.3 * np.random.default_rng(1).standard_normal((4, 4)))[0]


def test_the_two_limits_are_those_of_each_side_at_half_the_error(X, D):
    found = population_gap(X, (D, None), LAM, n_atoms=None, bias=None, batch=40, seed=2)
    floor = population_floor(X, None, LAM, bias=None, batch=40, seed=2, confidence=0.975)
    values = encode(X, D, LAM, tol=1e-10).values
    high = values.mean() + t.ppf(0.975, 239) * values.std(ddof=1) / np.sqrt(240)
    assert found.upper.high == pytest.approx(high, rel=1e-4) and found.upper.high >= high
    assert found.lower.lower_limit == floor.lower_limit
    assert found.gap == found.upper.high - floor.lower_limit
    assert found.relative == pytest.approx(found.gap / found.upper.high)
    assert (found.confidence, found.upper.confidence, found.lower.confidence) == pytest.approx((0.95, 0.975, 0.975))
    said = str(found)
    assert said.startswith("For the distribution no dictionary of any number of atoms") and "together 0.95" in said
    report = json.loads(json.dumps(strict_json(found.to_dict()), allow_nan=False))
    assert report["gap"] == found.gap and report["upper_limit"] == found.upper.high


def test_documents_and_known_norms_are_for_both_sides(X, D):
    groups = np.arange(240) // 6
    found = population_gap(X, (D, None), LAM, n_atoms=None, batch=40, groups=groups)
    assert (found.upper.unit, found.upper.n_units, found.lower.unit) == ("document", 40, "document")
    own = evaluate(X, D, LAM, groups=groups)
    assert found.upper.high == pytest.approx(own.limit("upper", 0.975).high, rel=1e-12)
    R = 6.0
    known = population_gap(X, (D, None), LAM, n_atoms=None, batch=40, largest_norm=R)
    assert known.upper.high == bounded_mean(evaluate(X, D, LAM).values, (0, R**2 / 2), 0.975, side="upper").high
    assert "Bernstein" in known.upper.method and "Bernstein" in known.lower.estimate.method


def test_a_floor_that_is_there_serves(X, D):
    floor = population_floor(X, 5, LAM, bias="free", batch=60)
    found = population_gap(X, (D, None), LAM, floor=floor)
    assert found.lower.lower_limit == floor.limit(0.975).low
    np.testing.assert_array_equal(found.lower.values, floor.values)
    wrong: dict[str, dict[str, Any]] = {
        "floor is for lam": {"lam": 0.2},
        "floor is for n_atoms 5 but here it is 7": {"n_atoms": 7},
        "batch says how a floor is computed": {"batch": 10},
        "seed says how a floor is computed": {"seed": 1},
        "max_dim says how a floor is computed": {"max_dim": 2},
    }
    for message, given in wrong.items():
        with rejects(message):
            population_gap(X, (D, None), **{"lam": LAM, "floor": floor, **given})
    fixed = population_floor(X, None, LAM, bias=np.zeros(4), batch=60)
    assert population_gap(X, (D, None), LAM, bias=None, floor=fixed).gap > 0
    with rejects("floor is for a fixed bias"):
        population_gap(X, (D, None), LAM, floor=fixed)


@pytest.mark.slow
def test_a_fit_is_not_evaluated_on_rows_it_was_learned_on(X):
    fit = learn_dictionary(X[:120], 4, LAM, max_steps=3)
    found = population_gap(X[120:], fit, n_atoms=None, batch=30)
    assert (found.lam, found.notes) == (LAM, ())
    rows = X[:120].astype(np.float32)[::-1].astype(np.float64)
    for again in (X[:120], fit.problem.X, X[60:180]):
        with rejects("X holds .* that the dictionary was learned on"):
            population_gap(again, fit, n_atoms=None, batch=30)
    few = population_gap(np.vstack([X[:6], X[120:]]), fit, n_atoms=None, batch=30)
    assert "6 of 126 rows are equal to rows that the dictionary was learned on" in few.notes[0]
    assert population_gap(rows + 1e-3, fit, n_atoms=None, batch=30).notes == ()


@pytest.mark.slow
def test_an_sae_with_exact_codes_and_with_its_own(X, D):
    arrays = {"W_enc": 0.9 * D.T, "b_enc": np.full(4, -0.1), "W_dec": 2 * D, "b_dec": np.full(4, 0.1)}
    sae = SparseAutoencoder.from_arrays(
        {name: array.astype(np.float32) for name, array in arrays.items()}, layout="rows", subtract_bias=False
    )
    exact = population_gap(X, sae, LAM, n_atoms=None, batch=60)
    pair = population_gap(X, (sae.dictionary, sae.b_dec), LAM, n_atoms=None, batch=60)
    assert exact.upper.high == pytest.approx(pair.upper.high, rel=1e-9)
    assert exact.lower.lower_limit == pair.lower.lower_limit
    own = population_gap(X, sae, LAM, n_atoms=None, batch=60, codes="encoder")
    z = np.maximum(X @ arrays["W_enc"] + arrays["b_enc"], 0) * 2  # for atoms of norm 1
    values = ((X - 0.1 - z @ D) ** 2).sum(axis=1) / 2 + LAM * z.sum(axis=1)
    assert own.upper.value == pytest.approx(values.mean(), rel=1e-5) and own.upper.value > exact.upper.value
    assert "its encoder's codes" in str(own) and own.codes == "encoder"


@dataclass(frozen=True)
class Normalizing:
    """Any object with the members of an autoencoder will do: one that scales rows to norm √d, with a dead atom."""

    dictionary: Any
    b_dec: Any
    normalization: Any = TokenNorm()  # noqa: RUF009

    def normalized(self, X):
        return self.normalization.apply(X)

    def encode(self, X):
        return sp.csr_array((len(X), len(self.dictionary)))


def test_a_normalized_sae_is_about_normalized_rows(X, D):
    sae = Normalizing(np.vstack([D, np.zeros(4)]), np.zeros(4))
    scaled = 2 * X / np.linalg.norm(X, axis=1, keepdims=True)
    found = population_gap(X, sae, LAM, n_atoms=None, bias=None, batch=60)
    behind = population_gap(scaled, (D, None), LAM, n_atoms=None, bias=None, batch=60)
    assert found.gap == pytest.approx(behind.gap, rel=1e-6)
    assert "normalized data" in str(found)
    zero = population_gap(X, sae, LAM, n_atoms=None, batch=60, codes="encoder")
    assert zero.upper.value == pytest.approx(2.0, rel=1e-9)  # ½‖x‖² of rows of norm 2


def test_without_two_batches_nothing_is_said_of_the_distribution(X, D):
    found = population_gap(X, (D, None), LAM, n_atoms=None, batch=200)
    assert np.isnan(found.gap) and "cannot be said" in str(found)
    assert strict_json(found.to_dict())["gap"] is None


def test_bad_arguments(X, D):
    other = np.ones(4)
    cases: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "dictionary is a ndarray": ((X, D, LAM), {}),
        "dictionary has dimension 4 but X has 3": ((X[:, :3], (D, None), LAM), {}),
        "lam is None": ((X, (D, None)), {}),
        "n_atoms is 'all'": ((X, (D, None), LAM), {"n_atoms": "all"}),
        "bias is fixed but differs": ((X, (D, None), LAM), {"bias": other}),
        "bias is 'free' but here it must be fixed": ((X, (D, "free"), LAM), {}),
        "codes is 'mine'": ((X, (D, None), LAM), {"codes": "mine"}),
        "codes is 'encoder' but there is no encoder": ((X, (D, None), LAM), {"codes": "encoder"}),
        "largest_norm bounds": ((X, (D, None), LAM), {"codes": "encoder", "largest_norm": 9.0}),
        "largest_norm is 1 but X has a row": ((X, (D, None), LAM), {"largest_norm": 1.0}),
        "confidence is 1": ((X, (D, None), LAM), {"confidence": 1.0}),
        "groups has shape": ((X, (D, None), LAM), {"groups": [1]}),
        "dictionary has atoms of norm zero only": ((X, Normalizing(np.zeros((2, 4)), np.zeros(4)), LAM), {}),
    }
    for message, (given, options) in cases.items():
        with rejects(message):
            population_gap(*given, **options)
