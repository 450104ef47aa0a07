"""Codes with a weight and a ridge per atom: certified values, known answers, redundant encodings, forged claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cvxsae import SparseCodes, certify, code_path, encode, lambda_for_l0, lambda_max, solve
from tests.helpers.sentences import rejects

LAM = 0.3


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def objective(X: Any, dictionary: Any, lam: float, codes: Any, weights: Any, ridge: Any) -> Any:
    """The formula of the docstring, datapoint by datapoint."""
    Z: Any = codes
    if not isinstance(codes, np.ndarray):
        Z = codes.toarray()
    return 0.5 * ((X - Z @ unit(dictionary)) ** 2).sum(axis=1) + lam * (Z @ weights + Z**2 @ ridge / 2)


def problem_of(seed: int, d: int = 6, K: int = 20, N: int = 12, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    X, dictionary = 3 * rng.normal(size=(N, d)), rng.normal(size=(K, d))
    weights = np.exp(spread * rng.normal(size=K))
    ridge = np.where(rng.random(K) < 0.5, 0.0, np.exp(2 * rng.normal(size=K)))
    return X, dictionary, weights, ridge


def test_one_atom_has_a_closed_form() -> None:
    codes = encode([[3.0, 1.0]], [[2.0, 0.0]], 0.5, weights=[2.0], ridge=[3.0], tol=1e-12)
    z = (3.0 - 0.5 * 2.0) / (1 + 0.5 * 3.0)
    assert codes.codes.toarray()[0, 0] == pytest.approx(z, rel=1e-6)  # the square root of the gap
    assert codes.value == pytest.approx(0.5 * ((3 - z) ** 2 + 1) + 0.5 * (2 * z + 1.5 * z**2), rel=1e-12)


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_codes_are_certified_and_their_value_is_that_of_the_formula(engine: str) -> None:
    X, dictionary, weights, ridge = problem_of(0)
    codes = encode(X, dictionary, LAM, weights=weights, ridge=ridge, tol=1e-9, engine=engine)
    assert codes.is_certified
    assert codes.largest_gap <= 1e-9
    values = objective(X, dictionary, LAM, codes.codes, weights, ridge)
    np.testing.assert_allclose(codes.values, values, rtol=1e-12)
    certificate = certify(codes)
    assert certificate.is_certified
    assert certificate.value == pytest.approx(values.mean(), rel=1e-12)


@pytest.mark.parametrize("bias", [None, "free"])
def test_generic_solvers_agree_with_the_reference(bias: str | None) -> None:
    X, dictionary, weights, ridge = problem_of(1)
    problem = SparseCodes(X, dictionary, LAM, bias=bias, weights=weights, ridge=ridge)
    reference = solve(problem, solver="reference", tol=1e-7)
    first_order = solve(problem, solver="proximal-gradient", tol=1e-8)
    assert first_order.value == pytest.approx(reference.value, rel=1e-7)
    assert certify(first_order).is_certified
    if bias is None:
        assert solve(problem, solver="working-set", tol=1e-9).value == pytest.approx(reference.value, rel=1e-7)


def test_a_solver_and_an_engine_without_prices_refuse() -> None:
    X, dictionary, weights, ridge = problem_of(2)
    problem = SparseCodes(X, dictionary, LAM, weights=weights, ridge=ridge)
    with rejects("solver is 'interior-point', which has no steps for weights and ridge"):
        solve(problem, solver="interior-point")
    with rejects("engine is 'triton', which knows no weights"):
        encode(X, dictionary, LAM, weights=weights, engine="triton")


@pytest.mark.parametrize(
    ("prices", "sentence"),
    [
        ({"weights": [1.0, 0.0]}, "weights holds 0 at atom 1"),
        ({"weights": [1.0, -2.0]}, "weights holds -2 at atom 1"),
        ({"weights": [1.0]}, "weights has shape .*; there are 2 atoms"),
        ({"weights": [1.0, np.nan]}, "weights holds 1 NaN"),
        ({"weights": [[1.0, 2.0]]}, "weights has shape"),
        ({"ridge": [0.0, -1.0]}, "ridge holds -1 at atom 1"),
        ({"ridge": [0.0, np.inf]}, "ridge holds 1 NaN or inf"),
        ({"ridge": "much"}, "ridge is the text"),
    ],
)
def test_prices_that_cannot_be_used_are_one_sentence(prices: dict, sentence: str) -> None:
    with rejects(sentence):
        SparseCodes(np.eye(2), np.eye(2), 1.0, **prices)
    with rejects(sentence):
        encode(np.eye(2), np.eye(2), 1.0, **prices)


def test_problems_are_frozen_and_can_be_replaced() -> None:
    X, dictionary, weights, ridge = problem_of(3)
    problem = SparseCodes(X, dictionary, LAM, weights=weights, ridge=ridge)
    weights[0] = 99.0
    assert problem.weights is not None
    assert float(problem.weights[0]) != 99.0
    again = replace(problem, lam=2 * LAM)
    assert isinstance(again, SparseCodes)
    assert again.weights is not None
    assert (again.weights == problem.weights).all()
    assert replace(problem, weights=None).weights is None
    plain = SparseCodes(X, dictionary, LAM, weights=np.ones(20), ridge=np.zeros(20))
    assert not plain.has_prices


def test_lambda_max_weighs_the_atoms_and_ends_the_codes() -> None:
    X, dictionary, weights, ridge = problem_of(4)
    top = lambda_max(X, dictionary, weights=weights)
    assert top == pytest.approx((X @ unit(dictionary).T / weights).max(), rel=1e-12)
    problem = SparseCodes(X, dictionary, LAM, weights=weights, ridge=ridge)
    assert problem.lambda_max() == pytest.approx(top, rel=1e-12)
    assert encode(X, dictionary, top * (1 + 1e-9), weights=weights, ridge=ridge).l0 == 0
    assert encode(X, dictionary, top * (1 - 1e-6), weights=weights, ridge=ridge, tol=1e-13).codes.nnz >= 1


def test_another_weight_or_ridge_in_the_problem_is_objected_to() -> None:
    X, dictionary, weights, ridge = problem_of(5)
    codes = encode(X, dictionary, LAM, weights=weights, ridge=ridge, tol=1e-9)
    other = SparseCodes(X, dictionary, LAM, weights=weights, ridge=ridge * 1.5)
    objections = " ".join(certify(other, codes).objections)
    assert "other ridge" in objections
    assert "claims the value" in objections


@pytest.mark.slow
def test_paths_and_searches_take_prices() -> None:
    X, dictionary, weights, ridge = problem_of(6, N=60)
    path = code_path(X, dictionary, 4, weights=weights, ridge=ridge, tol=1e-8)
    assert [codes.is_certified for codes in path] == [True] * 4
    for codes in path:
        alone = encode(X, dictionary, codes.lam, weights=weights, ridge=ridge, tol=1e-8)
        assert codes.value == pytest.approx(alone.value, rel=3e-8)
    lam = lambda_for_l0(X, dictionary, 3.0, weights=weights, ridge=ridge, rtol=0.05)
    assert encode(X, dictionary, lam, weights=weights, ridge=ridge, tol=1e-10).activity.l0 == pytest.approx(3, rel=0.05)
