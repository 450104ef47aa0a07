"""The large dictionary: equation (7), C6, C7, T11, T12, and the maps between similarity, dictionary and codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from cvxsae import InputError, LargeDictionary, WideLimit
from cvxsae.relaxations.convex.large_dictionary import nonnegative_factor
from cvxsae.results import Candidate
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3
BOTH = ("reference", "torch")


def answer(problem, solver, tol=1e-6):
    return solve(problem, solver=solver, tol=tol, raise_on_failure=False)


def value_of(solution):
    """The relaxation's own value for the reference; what dictionary and codes attain for torch."""
    return solution.value if solution.relaxed_value is None else solution.relaxed_value


# ---------------------------------------------------------------- formulas and maps


@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
def test_relaxed_value_is_equation_seven(tau, rng):
    X, b = problems.gaussian(rng, 8, 3), rng.normal(size=3)
    B = rng.random((8, 4))
    problem = LargeDictionary(X, LAM, tau, bias=b)
    assert problem.relaxed_value(B @ B.T, b) == pytest.approx(problems.relaxed(X, b, B @ B.T, LAM, tau), rel=1e-12)
    zero = problem.relaxed_value(np.zeros((8, 8)), b)
    assert zero == pytest.approx(0.5 * np.sum((X - b) ** 2) / 8, rel=1e-13)


@pytest.mark.parametrize("bias", [None, "given", "free"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
def test_a_factor_and_its_dictionary_are_worth_the_same(bias, tau, rng):
    """(L) at the dictionary and codes of B is at most (7) at Q = BBᵀ, with equality once the columns are balanced."""
    X = problems.gaussian(rng, 10, 3)
    problem = LargeDictionary(X, LAM, tau, bias=rng.normal(size=3) if bias == "given" else bias)
    B = rng.random((10, 4)) * (rng.random((10, 4)) < 0.6)
    point: Any = problem.from_factor(B)
    assert np.linalg.norm(point.dictionary, axis=1) == pytest.approx(1)
    value = problem.primal_value(point)
    assert value == pytest.approx(problems.primal(X, point.bias, point.dictionary, point.codes, LAM, tau), rel=1e-12)
    assert value <= problems.relaxed(X, point.bias, B @ B.T, LAM, tau) * (1 + 1e-12)
    Q = problem.similarity(point)
    assert np.linalg.eigvalsh(Q)[0] >= -1e-12
    assert (Q >= 0).all()
    # Balancing minimizes ½(‖d‖² + θ²) at fixed reconstruction: the similarity is worth no more than the candidate.
    assert problem.relaxed_value(Q, point.bias) <= value * (1 + 1e-12)
    sparse = Candidate(bias=point.bias, dictionary=point.dictionary, codes=scipy.sparse.csr_array(point.codes))
    np.testing.assert_allclose(problem.similarity(sparse), Q)


@pytest.mark.slow
def test_at_an_optimum_the_two_forms_agree(rng):
    X = problems.clustered(rng, 12, 3)
    problem = LargeDictionary(X, LAM, 2.0, bias=None)
    solution = answer(problem, "torch", 1e-4)
    assert problem.relaxed_value(solution.similarity, solution.bias) == pytest.approx(solution.value, rel=1e-6)
    fitted = solution.bias + solution.codes @ solution.dictionary
    np.testing.assert_allclose(problem.reconstruction(solution.similarity, solution.bias), fitted, atol=1e-3)


def test_factor_without_use_is_dropped(rng):
    X = problems.gaussian(rng, 6, 3)
    problem = LargeDictionary(X, LAM, 1.0, bias=None)
    B = np.zeros((6, 3))
    B[0, 1] = 1
    used: Any = problem.from_factor(B)
    assert used.codes.shape == (6, 1)
    for empty in (np.zeros((6, 3)), np.zeros((6, 0))):
        point: Any = problem.from_factor(empty)
        assert point.codes.shape == (6, 0)
        assert problem.primal_value(point) == pytest.approx(0.5 * np.sum(X**2) / 6)
    with pytest.raises(InputError, match="no codes"):
        problem.similarity(Candidate(bias=np.zeros(3)))


def test_nonnegative_factor(rng):
    B = rng.random((8, 3))
    for Q in (B @ B.T, np.diag(rng.random(8)), np.zeros((8, 8)), 1e-9 * B @ B.T):
        factor = nonnegative_factor(Q)
        assert (factor >= 0).all()
        np.testing.assert_allclose(factor @ factor.T, Q, atol=1e-4 * np.abs(Q).max())


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0, 40.0])
def test_c6_orthogonal_data(solver, tau):
    norms = np.array([0.2, 0.8, 1.5, 3.0])
    X = np.diag(norms) @ np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0][:4]
    Q = np.diag(np.clip(norms / np.sqrt(1 + tau) - LAM, 0, None))
    expected = problems.relaxed(X, np.zeros(5), Q, LAM, tau)
    problem = LargeDictionary(X, LAM, tau, bias=None)
    solution = answer(problem, solver)
    assert value_of(solution) == pytest.approx(expected, rel=1e-6)
    assert solution.value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(solution.similarity, Q, atol=1e-4)
    closed: Any = problem.atom_per_datapoint()
    np.testing.assert_allclose(closed.similarity, Q, atol=1e-15)
    assert problem.primal_value(closed) == pytest.approx(expected, rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize(("n", "tau"), [(1, 2.0), (3, 0.5), (6, 2.0), (6, 30.0), (4, 1e6)])
def test_c7_identical_points(solver, n, tau):
    r = 2.0
    X = np.tile(r * np.array([[0.6, 0.0, 0.8]]), (n, 1))
    t = r * np.sqrt(n / (n + tau)) - LAM
    problem = LargeDictionary(X, LAM, tau, bias=None)
    solution = answer(problem, solver)
    if t > 0:
        expected = (LAM * r * np.sqrt(n * (n + tau)) - LAM**2 * (n + tau) / 2) / n
        np.testing.assert_allclose(solution.similarity, t / n, atol=2e-3 if solver == "torch" else 1e-4)
        assert problem.relaxed_value(np.full((n, n), t / n), np.zeros(3)) == pytest.approx(expected, rel=1e-12)
    else:
        expected = r**2 / 2
        assert not solution.codes.any()
    assert value_of(solution) == pytest.approx(expected, rel=1e-6)
    assert solution.value == pytest.approx(expected, rel=1e-6)
    assert solution.lower_bound <= expected * (1 + 1e-12)


def pair_of(cosine, norm=2.0):
    """Two datapoints at a given cosine and two more at a right angle to everything."""
    X = norm * np.eye(4)
    X[1, :2] = norm * np.array([cosine, np.sqrt(1 - cosine**2)])
    return X


@pytest.mark.parametrize("solver", BOTH)
def test_t12_sharing_begins_at_the_threshold(solver):
    X = pair_of(0.6)
    threshold = LargeDictionary(X, LAM, 0.0, bias=None).sharing_threshold()
    assert threshold == pytest.approx(1 / 0.6 - 1, rel=1e-14)
    below = LargeDictionary(X, LAM, 0.97 * threshold, bias=None)
    solution = answer(below, solver)
    apart = below.primal_value(below.atom_per_datapoint())
    assert value_of(solution) == pytest.approx(apart, rel=1e-6)
    assert solution.value == pytest.approx(apart, rel=1e-6)
    off_diagonal = solution.similarity - np.diag(np.diag(solution.similarity))
    assert np.abs(off_diagonal).max() < 1e-3
    above = LargeDictionary(X, LAM, 1.5 * threshold, bias=None)
    solution = answer(above, solver)
    assert value_of(solution) < above.primal_value(above.atom_per_datapoint()) * (1 - 1e-4)
    assert solution.similarity[0, 1] > 1e-2  # the closest pair shares, and nothing else does
    solution.similarity[0, 1] = solution.similarity[1, 0] = 0
    assert np.abs(solution.similarity - np.diag(np.diag(solution.similarity))).max() < 1e-3


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.66])
def test_t12_below_the_threshold_the_closed_form_is_certified(tau):
    problem = LargeDictionary(pair_of(0.6), LAM, tau, bias=None)
    point = problem.atom_per_datapoint()
    dual, proof = problem.dual_candidate(problem.residual(point))
    certificate = certify(problem, Candidate(**{**vars(point), "dual": dual, "proof": proof}), tol=1e-9)
    assert certificate.is_certified, str(certificate)


def test_t12_above_the_threshold_the_closed_form_is_not_certified():
    problem = LargeDictionary(pair_of(0.6), LAM, 0.8, bias=None)
    point = problem.atom_per_datapoint()
    dual, proof = problem.dual_candidate(problem.residual(point))
    certificate = certify(problem, Candidate(**{**vars(point), "dual": dual, "proof": proof}), tol=1e-4)
    assert not certificate.is_certified


def test_sharing_threshold_of_awkward_data(rng):
    assert LargeDictionary(np.eye(3), LAM, 1.0, bias=None).sharing_threshold() == np.inf
    assert LargeDictionary(rng.normal(size=(1, 3)), LAM, 1.0, bias=None).sharing_threshold() == np.inf
    assert LargeDictionary(np.ones((3, 2)), LAM, 1.0, bias=None).sharing_threshold() == pytest.approx(0, abs=1e-12)
    assert LargeDictionary(np.array([[1.0, 0.0], [0.0, 0.0]]), LAM, 1.0, bias=None).sharing_threshold() == np.inf
    with pytest.raises(ValueError, match="bias is free"):
        LargeDictionary(np.eye(3), LAM, 1.0, bias="free").sharing_threshold()


@pytest.mark.parametrize("solver", BOTH)
@pytest.mark.parametrize("bias", [None, "free"])
def test_without_surcharge_it_is_the_wide_limit_with_a_diagonal_similarity(solver, bias, rng):
    X = problems.gaussian(rng, 10, 3)
    wide = solve(WideLimit(X, LAM, bias=bias), tol=1e-9)
    solution = answer(LargeDictionary(X, LAM, 0.0, bias=bias), solver, 1e-5)
    assert solution.is_certified
    assert 10 * value_of(solution) == pytest.approx(10 * wide.value, rel=1e-6)
    assert solution.value == pytest.approx(wide.value, rel=1e-5)
    assert np.abs(solution.similarity - np.diag(np.diag(solution.similarity))).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_t11_weak_duality_over_dictionaries(tau, rng):
    """The certified bound holds for every dictionary, codes and bias that can be thought of."""
    X = problems.clustered(rng, 12, 3)
    for bias in (None, "free"):
        problem = LargeDictionary(X, LAM, tau, bias=bias)
        solution = answer(problem, "torch", 1e-4)
        for _ in range(30):
            k = rng.integers(1, 15)
            point = Candidate(
                bias=rng.normal(size=3) if bias == "free" else np.zeros(3),
                dictionary=problems.unit(rng.normal(size=(k, 3))),
                codes=rng.random((12, k)) * (rng.random((12, k)) < 0.3),
            )
            assert problem.primal_value(point) >= solution.lower_bound
        assert max(problem.dual_violations(torch.from_numpy(solution.dual), solution.proof)) <= 1e-9


def test_the_proof_proves_the_bound_in_plain_numpy(rng):
    X, tau = problems.clustered(rng, 14, 4), 3.0
    for solver in BOTH:
        solution = answer(LargeDictionary(X, LAM, tau, bias="free"), solver, 1e-3)
        Y, P = solution.dual, solution.proof.P
        assert (P >= 0).all()
        M = LAM**2 * (1 + tau * np.eye(14)) - Y @ Y.T - P
        assert np.linalg.eigvalsh(M)[0] >= -1e-10
        np.testing.assert_allclose(Y.sum(axis=0), 0, atol=1e-12)
        assert solution.lower_bound == pytest.approx(problems.dual(X, np.zeros(4), Y), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one row", "one dimension", "zero rows", "all zero", "equal rows", "duplicates"])
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
@pytest.mark.parametrize("solver", BOTH)
def test_degenerate_data(case, bias, solver, rng):
    X = problems.gaussian(rng, 6, 3)
    X = {
        "one row": X[:1],
        "one dimension": X[:, :1],
        "zero rows": X * (np.arange(6) % 2)[:, None],
        "all zero": 0 * X,
        "equal rows": X[[0] * 6],
        "duplicates": X[[0, 0, 1, 1, 2, 2]],
    }[case]
    b = 0.5 * np.ones(X.shape[1]) if bias == "fixed" else bias
    solution = solve(LargeDictionary(X, LAM, 1.5, bias=b), solver=solver, tol=2e-2)
    if bias == "free" and case in ("one row", "all zero", "equal rows"):
        assert solution.value == pytest.approx(0, abs=1e-25)
