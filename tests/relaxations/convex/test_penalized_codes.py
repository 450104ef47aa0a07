"""Exact codes under every convex penalty: certified, equal to the conic solver's, and to closed forms."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from cvxsae import PenalizedCodes, SparseCodes, encode
from cvxsae.penalties import ElasticNet, Exclusive, Group, Orthogonality, Signed, Simplex, Slope, Tree
from cvxsae.results import Candidate
from tests.helpers.problems import certify, solve, unit
from tests.helpers.sentences import rejects
from tests.relaxations.convex.penalties.test_penalties import GAUGES, PENALTIES, K, written

PRICES = {
    "L1": 0.3,
    "signed L1": 0.3,
    "elastic net": 0.3,
    "group": 0.4,
    "tree": 0.2,
    "SLOPE": 0.2,
    "exclusive": 0.4,
    "simplex": 1.0,
    "simplex, exactly": 1.0,
}
LASSO = ("L1", "signed L1", "elastic net")


def hard(rng, n=6, d=5):
    """Data with a zero row, a repeated one and a tiny one; atoms with a duplicate and one close to another."""
    X, D = rng.normal(size=(n, d)), rng.normal(size=(K, d)) * rng.uniform(0.5, 2, (K, 1))
    X[0], X[2], X[3] = 0, X[1], X[3] * 1e-4
    D[2], D[5] = D[1], D[4] + 0.1 * D[5]
    return X, D


def objective(name, X, D, lam, bias, Z):
    """As the docstring writes it."""
    Z = scipy.sparse.csr_array(Z).toarray()
    atoms = np.vstack([unit(D), -unit(D)]) if name == "signed L1" else unit(D)
    fits = np.sum((X - bias - Z @ atoms) ** 2, axis=1) / 2
    return np.mean(fits + [lam * written(name, z) for z in Z])


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["zero", "fixed", "free"])
@pytest.mark.parametrize("name", PENALTIES)
def test_codes_are_certified_and_agree_with_the_conic_solver(name, bias, rng):
    X, D = hard(rng)
    given = {"zero": None, "fixed": rng.normal(size=5), "free": "free"}[bias]
    problem = PenalizedCodes(X, D, PRICES[name], PENALTIES[name], bias=given)
    solution = solve(problem, tol=1e-8)
    by_engine = bias != "free" and name in (*LASSO, "exclusive")
    assert solution.solver == ("working-set" if by_engine else "proximal-gradient")
    assert certify(solution).is_certified
    assert certify(problem, solution, tol=1e-6).is_certified
    written_out = objective(name, X, D, problem.lam, solution.bias, solution.codes)
    assert solution.value == pytest.approx(written_out, rel=1e-12)
    reference = solve(problem, solver="reference")
    assert certify(reference).is_certified
    assert solution.value == pytest.approx(reference.value, rel=1e-6)
    assert reference.info["conic_value"] == pytest.approx(solution.value, rel=1e-6)
    sparse = replace(solution, codes=scipy.sparse.csr_array(solution.codes))
    assert problem.primal_value(sparse) == pytest.approx(solution.value, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.999, 0.02])
@pytest.mark.parametrize("name", GAUGES)
def test_lambda_max_is_where_codes_vanish(name, share, rng):
    X, D = hard(rng)
    problem = PenalizedCodes(X, D, 1.0, PENALTIES[name])
    top = problem.lambda_max()
    polars = [float(problem.row_polars(torch.from_numpy(x[None]))[0]) for x in X]
    assert top == pytest.approx(max(polars), rel=1e-12)
    at = replace(problem, lam=top * share)
    solution = solve(at, tol=1e-9 if share < 1 else 1e-14)
    assert certify(solution).is_certified
    assert bool((solution.codes > 0).sum() > 0) == (share < 1)
    zero_gap = 1 - at.lower_bound(at.zero_candidate()) / at.primal_value(at.zero_candidate())
    assert (zero_gap < 1e-13) == (share == 1)


def test_no_lambda_makes_these_codes_zero(rng):
    X, D = hard(rng)
    for penalty in (Exclusive([0] * K), Simplex(), Simplex(exactly=True)):
        assert PenalizedCodes(X, D, 1.0, penalty).lambda_max() == math.inf
    away = PenalizedCodes(-np.ones((2, 3)), np.eye(3), 1.0, Simplex())
    assert away.lambda_max() == 0
    assert not solve(away).codes.any()


@pytest.mark.slow
def test_penalties_that_are_l1_give_its_codes(rng):
    X, D = hard(rng)
    known = encode(X, D, 0.3, tol=1e-10, engine="torch").value
    for penalty in (Group(range(K)), Tree([[k] for k in range(K)]), Slope([1.0] * K)):
        assert solve(PenalizedCodes(X, D, 0.3, penalty), tol=1e-9).value == pytest.approx(known, rel=1e-8)
    weights = rng.uniform(0.5, 2, K)
    known = solve(SparseCodes(X, D, 0.3, weights=weights), tol=1e-9, solver="proximal-gradient").value
    at = PenalizedCodes(X, D, 0.3, Group(range(K), weights))
    assert solve(at, tol=1e-9).value == pytest.approx(known, rel=1e-8)


def test_groups_of_orthogonal_atoms_in_closed_form(rng):
    D, X = np.linalg.qr(rng.normal(size=(4, 4)))[0], rng.normal(size=(5, 4))
    solution = solve(PenalizedCodes(X, D, 0.5, Group([0, 0, 1, 1])), tol=1e-12)
    products = np.maximum(X @ D.T, 0).reshape(5, 2, 2)
    norms = np.linalg.norm(products, axis=2, keepdims=True).clip(1e-300)
    np.testing.assert_allclose(solution.codes, (products * np.maximum(1 - 0.5 / norms, 0)).reshape(5, 4), atol=1e-7)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("bias", [None, "free"])
def test_no_dual_point_bounds_above_the_value(name, bias, rng):
    X, D = hard(rng)
    problem = PenalizedCodes(X, D, PRICES[name], PENALTIES[name], bias=bias)
    best = solve(problem, tol=1e-4).value
    for scale in (1e-3, 0.1, 1.0, 10.0):
        for Y in (scale * X, scale * rng.normal(size=X.shape)):
            dual = problem.feasible_dual(torch.from_numpy(Y))
            assert problem.dual_value(dual) <= best * (1 + 1e-12)
            excess, drift = problem.dual_violations(dual)
            assert excess == 0
            assert drift < 1e-15


def test_what_is_refused_and_what_the_referee_says(rng):
    X, D = hard(rng)
    unchecked: Any = inspect.unwrap(PenalizedCodes.__init__)
    made = PenalizedCodes(X, D, 0.3, Group(range(K)))
    with rejects("penalty is a Orthogonality; pass L1, Signed, ElasticNet, Group, .* of cvxsae.penalties"):
        unchecked(made, made.X, D, 0.3, Orthogonality(0.1))
    with rejects("penalty has groups for 2 atoms and the dictionary has 7; "):
        PenalizedCodes(X, D, 0.3, Group([0, 1]))
    with rejects("penalty has weights for 1 atoms and the dictionary has 7; "):
        PenalizedCodes(X, D, 0.3, Slope([1.0]))
    with rejects("lam is 0.3 but the penalty 'simplex' is a limit without price; pass 1"):
        PenalizedCodes(X, D, 0.3, Simplex())
    with rejects("solver is 'interior-point', which has no steps for the penalty 'group'; "):
        solve(made, solver="interior-point")
    limited = PenalizedCodes(X, D, 1.0, Simplex(0.5))
    beyond = Candidate(bias=np.zeros(5), dictionary=limited.atoms.numpy(), codes=np.ones((len(X), K)))
    certificate = certify(limited, beyond)
    assert any("not allowed (simplex), first 0" in sentence for sentence in certificate.objections)
    wrong = Candidate(bias=np.zeros(5), dictionary=made.atoms.numpy(), codes=np.zeros((len(X), K)))
    certificate = certify(made, wrong)
    assert certificate.violation.condition == "Ω°(D r_n) ≤ λ"
    assert certificate.violation.excess == pytest.approx(made.lambda_max() / 0.3 - 1)
    solution = solve(made)
    other = PenalizedCodes(X, D, 0.3, Group(range(K), [1.001] * K))
    assert "The solution's problem has another penalty than the problem." in certify(other, solution).objections


def test_these_are_the_lasso_of_encode(rng):
    X, D = hard(rng)
    weights, problem = rng.uniform(0.5, 2, K), PenalizedCodes
    known = encode(X, D, 0.3, weights=weights, ridge=np.full(K, 0.7), tol=1e-10, engine="torch")
    for solver in ("working-set", "proximal-gradient"):
        mine = solve(problem(X, D, 0.3, ElasticNet(0.7, weights)), tol=1e-9, solver=solver)
        assert mine.value == pytest.approx(known.value, rel=1e-8)
    signed = problem(X, D, 0.3, Signed(weights))
    both = scipy.sparse.csr_array(signed.signed(scipy.sparse.csr_array(solve(signed, tol=1e-9).codes))).toarray()
    assert both.shape == (len(X), K) and (both < 0).any()
    value = np.mean(np.sum((X - both @ unit(D)) ** 2, axis=1) / 2 + 0.3 * np.abs(both) @ weights)
    assert value == pytest.approx(encode(X, np.vstack([D, -D]), 0.3, weights=np.tile(weights, 2), tol=1e-10).value)


@pytest.mark.parametrize("lam", [1.0, 1e-4, 1e-7])
def test_exclusive_codes_are_nonnegative_least_squares(lam, rng):
    """On stacked rows, at penalties where gradient steps take tens of thousands."""
    from scipy.optimize import nnls

    X, D = hard(rng)
    labels = np.arange(K) % 3
    solution = solve(PenalizedCodes(X, D, lam, Exclusive(labels)), tol=1e-9)
    assert solution.solver == "working-set" and certify(solution).is_certified
    rows = np.hstack([unit(D), np.sqrt(lam) * np.eye(3)[labels]])
    best = np.mean([nnls(rows.T, np.concatenate([x, np.zeros(3)]))[1] ** 2 / 2 for x in X])
    assert solution.value == pytest.approx(best, rel=1e-8)


@pytest.mark.slow
def test_a_sample_of_the_random_and_adversarial_problems():
    from benchmarks.convex_penalties import KINDS, TOL, outcomes

    found = list(outcomes(1, 3 * len(KINDS), conic=False))
    assert {one.kind for one in found} == set(KINDS)
    for one in found:
        assert one.is_closed and not one.objections, one
    assert sum(one.gap <= TOL for one in found) >= len(found) - 3


def test_where_the_optimum_is_zero_the_search_ends():
    """No relative gap closes there; the value goes down to rounding."""
    solution = solve(PenalizedCodes([[1.0, 2.0]], np.eye(2), 1.0, Simplex(10.0)), raise_on_failure=False)
    assert solution.value < 1e-18 and solution.info["iterations"] < 10_000
