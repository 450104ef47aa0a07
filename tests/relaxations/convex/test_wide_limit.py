"""The wide limit: Huber location, its certificate, the radial bound (T9), C5 and C9."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseCodes, WideLimit
from cvxsae.relaxations.convex import wide_limit
from tests.helpers import problems
from tests.helpers.problems import solve

LAM = 0.4


@pytest.mark.parametrize("bias", [None, "given", "free"])
def test_value_is_the_mean_huber_distance(bias, rng):
    X = problems.gaussian(rng, 12, 3)
    fixed = rng.normal(size=3)
    problem = WideLimit(X, LAM, bias=fixed if bias == "given" else bias)
    b = rng.normal(size=3) if bias == "free" else problem.fixed_bias().numpy()
    expected = problems.huber(np.linalg.norm(X - b, axis=1), LAM).mean()
    point: Any = problem.complete(b)
    assert problem.scan(torch.from_numpy(b)).value == pytest.approx(expected, rel=1e-14)
    assert problem.primal_value(point) == pytest.approx(expected, rel=1e-13)
    assert problems.primal(X, b, point.dictionary, point.codes.toarray(), LAM) == pytest.approx(expected, rel=1e-13)
    assert np.linalg.norm(point.dictionary, axis=1) == pytest.approx(1)


def test_huber_at_its_seam():
    norms = torch.tensor([0.0, 0.2, LAM, 0.5, 1e8], dtype=torch.float64)
    np.testing.assert_allclose(wide_limit.huber(norms, LAM), problems.huber(norms.numpy(), LAM), rtol=1e-15)


@pytest.mark.parametrize("lam", [1e-6, 0.4, 2.0, 50.0])
def test_scan_agrees_with_plain_numpy(lam, rng):
    X, b = problems.gaussian(rng, 15, 3), 0.3 * rng.normal(size=3)
    problem = WideLimit(X, lam)
    scan: Any = problem.scan(torch.from_numpy(b), hessian=True)
    offsets = X - b
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    psi = offsets * np.minimum(1, lam / norms)
    np.testing.assert_allclose(scan.mean_psi, psi.mean(axis=0), atol=1e-14)
    assert scan.mean_weight == pytest.approx(np.minimum(1, lam / norms).mean(), rel=1e-14)
    np.testing.assert_allclose(scan.nearest, X[norms.argmin()])
    hessian: Any = sum(
        np.eye(3) if r <= lam else lam / r * (np.eye(3) - np.outer(u, u) / r**2)
        for u, r in zip(offsets, norms.ravel(), strict=True)
    )
    np.testing.assert_allclose(scan.hessian, hessian / 15, atol=1e-7)  # kept in single precision
    # The bound is that of the written dual point: re-centered, shrunk, feasible.
    shrink = lam / (lam + np.linalg.norm(psi.mean(axis=0)))
    Y = shrink * (psi - psi.mean(axis=0))
    assert np.linalg.norm(Y, axis=1).max() <= lam * (1 + 1e-14)
    assert scan.lower_bound == pytest.approx(problems.dual(X, X.mean(axis=0), Y), rel=1e-9, abs=1e-13 * scan.value)


def test_a_fixed_bias_has_no_gap(rng):
    X, b = problems.gaussian(rng, 30, 4), rng.normal(size=4)
    scan = WideLimit(X, LAM, bias=b).scan(torch.from_numpy(b))
    assert scan.value == scan.lower_bound
    value, bound = WideLimit(X, LAM, bias=b).bounds(WideLimit(X, LAM, bias=b).complete(b))
    assert value == pytest.approx(bound, rel=1e-13)
    assert bound <= value


@pytest.mark.parametrize("bias", [None, "free"])
def test_a_candidate_that_is_only_a_bias_is_worth_its_completion(bias, rng, monkeypatch):
    X = problems.gaussian(rng, 30, 4)
    problem = WideLimit(X, LAM, bias=bias)
    b = problem.starting_bias().numpy()
    full = problem.complete(b)
    monkeypatch.setattr(wide_limit, "RECOVERY_BYTES", 10)
    bare = problem.complete(b)
    assert bare.codes is None
    assert bare.dictionary is None
    # The two bounds shrink differently; both are valid.
    assert problem.bounds(bare)[0] == pytest.approx(problem.bounds(full)[0], rel=1e-13)
    assert problem.bounds(bare)[1] == pytest.approx(problem.bounds(full)[1], rel=5e-2)
    assert problem.bias_residual(bare) == pytest.approx(problem.bias_residual(full), rel=1e-9, abs=1e-14)


# ---------------------------------------------------------------- known answers


def test_c5_on_a_line():
    X = np.array([[-3.0], [-1.0], [0.2], [1.0], [5.0]])
    solution = solve(WideLimit(X, 0.1), tol=1e-9)
    assert solution.bias == pytest.approx([0.2], abs=1e-6)
    assert 5 * solution.value == pytest.approx(0.98, abs=1e-9)


def test_c5_quadrilateral():
    X = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    solution = solve(WideLimit(X, 0.1), tol=1e-12)
    assert solution.bias == pytest.approx([1.5, 0.75], abs=1e-6)
    assert 4 * solution.value == pytest.approx(0.564162, abs=1e-6)


def test_c5_a_large_penalty_gives_the_mean_and_c9_no_codes(rng):
    X = problems.gaussian(rng, 20, 3)
    lam = np.linalg.norm(X - X.mean(axis=0), axis=1).max()
    for factor in (1, 1.5, 1e6):
        solution = solve(WideLimit(X, factor * lam), tol=1e-12)
        np.testing.assert_allclose(solution.bias, X.mean(axis=0), atol=1e-12)
        assert solution.codes.nnz == 0
        assert solution.value == pytest.approx(X.var(axis=0).sum() / 2, rel=1e-12)
    assert WideLimit(X, 1.0).lambda_max() == pytest.approx(lam, rel=1e-14)
    assert solve(WideLimit(X, 0.99 * lam)).codes.nnz > 0


def test_c9_without_a_bias(rng):
    X = problems.gaussian(rng, 20, 3)
    lam = np.linalg.norm(X, axis=1).max()
    assert solve(WideLimit(X, lam, bias=None)).codes.nnz == 0
    assert solve(WideLimit(X, lam * (1 - 1e-9), bias=None)).codes.nnz == 1


def test_c8_a_signed_feature_attains_the_wide_limit_with_a_pair(rng):
    u = problems.unit(rng.normal(size=(1, 4)))
    X = np.array([[-1.0], [0.0], [1.0]]) * u
    wide = solve(WideLimit(X, 0.1), tol=1e-12)
    pair = solve(SparseCodes(X, np.vstack([u, -u]), 0.1), tol=1e-12)
    free = solve(SparseCodes(X, np.vstack([u, -u]), 0.1, bias="free"), tol=1e-9)
    single = solve(SparseCodes(X, u, 0.1, bias="free"), tol=1e-12)
    for solution in (wide, pair, free):
        assert 3 * solution.value == pytest.approx(0.19, abs=1e-8)
    assert 3 * single.value == pytest.approx(0.27, abs=1e-9)
    assert single.bias == pytest.approx((-1 + 0.2) * u[0], abs=1e-6)


# ---------------------------------------------------------------- T9


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4, 30])
@pytest.mark.parametrize("lam", [0.05, 0.5, 2.0])
def test_t9_no_dictionary_goes_below(width, lam, rng):
    X = problems.gaussian(rng, 25, 4)
    b = rng.normal(size=4)
    atoms = rng.normal(size=(width, 4))
    fixed, free = solve(WideLimit(X, lam, bias=b)), solve(WideLimit(X, lam), tol=1e-9)
    codes = solve(SparseCodes(X, atoms, lam, bias=b))
    assert free.value <= fixed.value * (1 + 1e-9)
    assert fixed.value <= codes.value * (1 + 1e-12)
    # Datapoint by datapoint: φ(x) ≥ h_λ(‖x − b‖).
    residual = X - b - codes.codes @ codes.dictionary
    each = 0.5 * (residual**2).sum(axis=1) + lam * codes.codes.sum(axis=1)
    assert (each >= problems.huber(np.linalg.norm(X - b, axis=1), lam) - 1e-12).all()


def test_t9_one_atom_per_datapoint_attains_it(rng):
    X = problems.gaussian(rng, 12, 3)
    wide = solve(WideLimit(X, LAM), tol=1e-12)
    codes = solve(SparseCodes(X, wide.dictionary, LAM, bias=wide.bias), tol=1e-9)
    free = solve(SparseCodes(X, wide.dictionary, LAM, bias="free"), tol=1e-9)
    assert codes.value == pytest.approx(wide.value, rel=1e-8)
    assert free.value == pytest.approx(wide.value, rel=1e-8)
    # Leaving out the atoms of the points beyond λ costs: the control.
    far = np.linalg.norm(X - wide.bias, axis=1) > 2 * LAM
    missing = solve(SparseCodes(X, wide.dictionary[~far], LAM, bias=wide.bias)) if (~far).any() else None
    single = solve(SparseCodes(X, wide.dictionary[:1], LAM, bias=wide.bias))
    for worse in filter(None, (missing, single)):
        assert worse.value > wide.value * 1.01


def test_problem_built_backwards(rng):
    known = problems.known_wide(rng, lam=LAM)
    for bias in ("free", known.bias):
        solution = solve(WideLimit(known.X, LAM, bias=bias), tol=1e-10)
        assert solution.value == pytest.approx(known.value, rel=1e-10)
        np.testing.assert_allclose(solution.bias, known.bias, atol=1e-6)
    assert WideLimit(known.X, LAM).dual_value(torch.from_numpy(known.dual)) == pytest.approx(known.value, rel=1e-13)
