"""Copositive cuts: a bound above the doubly nonnegative one, below every dictionary, that the referee checks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cvxsae import InputError, LargeDictionary
from cvxsae.parallel.context import Run
from cvxsae.results import NonnegativeProof, SliceProof
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.copositive import Copositive
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.1


def loose(rng, n=14, d=5, tau=10.0, bias=None):
    """Gaussian points at a surcharge at which the doubly nonnegative relaxation is loose."""
    X = rng.normal(size=(n, d))
    return LargeDictionary(X / np.sqrt((X**2).sum(axis=1).mean()), LAM, tau, bias=bias)


def cut(problem, tol=1e-3, **options):
    return solve(problem, solver="copositive", tol=tol, raise_on_failure=False, **options)


@pytest.fixture(scope="module")
def answered():
    """One problem with its answer, for all that is read from it."""
    problem = loose(np.random.default_rng(0))
    return problem, cut(problem)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_more_than_half_of_the_relaxation_s_gap_is_closed(bias, answered, rng):
    problem, solution = answered
    if bias == "free":
        problem = loose(rng, n=14, bias="free")
        solution = iterate(Copositive(1e-3, restarts=1), problem, 1e-3, Run())
    assert solution.relaxation_gap > 2.5e-3
    assert solution.info["closed_by_copositive"] > 0.5
    assert solution.info["relaxation_bound"] <= solution.relaxed_value < solution.lower_bound <= solution.value
    assert solution.proof.slices.shape == (14, 14, 14)
    assert certify(problem, solution, tol=1.5e-3).is_certified


@pytest.mark.slow
def test_the_proof_in_plain_numpy(answered, rng):
    problem, solution = answered
    Y, S, n, tau = solution.dual, solution.proof.slices, 14, 10.0
    assert np.linalg.eigvalsh(S).min() >= -1e-9
    M = LAM**2 * (np.ones((n, n)) + tau * np.eye(n)) - Y @ Y.T
    left = M[None] + M[:, None, :] + M[:, :, None]
    right = S + S.transpose(1, 0, 2) + S.transpose(1, 2, 0)
    assert (left - right).min() >= -1e-9
    assert solution.lower_bound == pytest.approx(problems.dual(problem.X.to_numpy(), np.zeros(5), Y), rel=1e-9)
    Z = rng.random((n, 2000)) * (rng.random((n, 2000)) < 0.3)
    assert (np.einsum("nk,nm,mk->k", Z, M, Z) >= -1e-9).all()


@pytest.mark.slow
def test_the_bound_stays_below_the_exact_optimum(rng):
    """Three dimensions in four: the polar by branch and bound knows the optimum, the cuts do not use it."""
    X = np.pad(problems.gaussian(rng, 12, 3), ((0, 0), (0, 1)))
    exact = solve(LargeDictionary(X[:, :3], 0.3, 10.0, bias=None), tol=1e-4, raise_on_failure=False)
    solution = cut(LargeDictionary(X, 0.3, 10.0, bias=None))
    assert solution.info["copositive_steps"] >= 0
    assert solution.lower_bound <= exact.value
    assert solution.value >= exact.lower_bound


@pytest.mark.slow
def test_forged_cuts_are_refused(answered):
    problem, solution = answered
    assert not any("exceeds" in sentence for sentence in certify(problem, solution).objections)
    S = solution.proof.slices
    longer = dataclasses.replace(solution, dual=1.01 * solution.dual)
    lowered = dataclasses.replace(solution, proof=SliceProof(S - 0.01 * LAM**2))
    doubled = dataclasses.replace(solution, proof=SliceProof(2 * S))
    swapped = dataclasses.replace(solution, proof=SliceProof(S[::-1].copy()))
    as_if_nonnegative = dataclasses.replace(solution, proof=NonnegativeProof(S.sum(axis=0)))
    for forged in (longer, lowered, doubled, swapped, as_if_nonnegative):
        assert any("exceeds its limit" in sentence for sentence in certify(problem, forged).objections)
    ragged = dataclasses.replace(solution, proof=SliceProof(S[:3]))
    assert "proof.slices has shape (3, 14, 14); it must be (14, 14, 14)." in certify(problem, ragged).objections


@pytest.mark.slow
def test_nothing_to_cut(rng):
    clusters = LargeDictionary(problems.clustered(rng, 8, 5), 0.3, 0.1, bias=None)
    solution = cut(clusters, tol=1e-4)
    assert solution.is_certified
    assert "closed_by_copositive" not in solution.info or solution.info["closed_by_copositive"] <= 1
    with pytest.raises(InputError, match=r"polar that is exact in up to 3 dimensions.*'directions'"):
        cut(LargeDictionary(problems.gaussian(rng, 20, 2), 0.3, 5.0, bias=None))


def test_too_many_datapoints_are_refused(rng):
    with pytest.raises(InputError, match="tensors of N³ entries, for at most 100 rows, and X has 101"):
        cut(LargeDictionary(rng.normal(size=(101, 4)), LAM, 1.0, bias=None))
    with pytest.raises(InputError, match="solver is 'copositive', which needs a positive atom_cost"):
        solve(LargeDictionary(rng.normal(size=(10, 4)), LAM, 0.0, bias=None), solver="copositive")
