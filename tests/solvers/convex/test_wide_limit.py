"""Newton on the wide limit: 1e-9 in a few passes, hard biases, honest counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae import Activations, WideLimit
from cvxsae.relaxations.convex import wide_limit
from tests.helpers import problems
from tests.helpers.problems import certify, minimize, solve


def mean_huber(b, X, lam):
    return problems.huber(np.linalg.norm(X - b, axis=1), lam).mean()


def peer(X, lam):
    """Nelder-Mead or BFGS of scipy on the same objective, from several starts."""

    def value_and_gradient(b):
        offsets = X - b
        norms = np.linalg.norm(offsets, axis=1)
        weights = np.minimum(1, lam / np.maximum(norms, 1e-300))
        return problems.huber(norms, lam).mean(), -(weights[:, None] * offsets).mean(axis=0)

    runs = [
        minimize(value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-12}).fun
        for start in (X.mean(axis=0), np.median(X, axis=0), X[0])
    ]
    return min(runs)


# ---------------------------------------------------------------- accuracy and passes


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(20_000, 64)) * np.linspace(0.1, 1, 64) + rng.standard_t(3, size=(20_000, 1))
    return X


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fraction", [1e-3, 0.05, 0.5])
def test_a_large_random_set_in_fifteen_passes(dtype, fraction, large, device):
    X = large.astype(dtype)
    problem = WideLimit(X, fraction * WideLimit(X, 1.0).lambda_max())
    solution = solve(problem, tol=1e-9, device=device)
    assert solution.gap <= 1e-9
    assert solution.info["passes"] <= 15
    assert certify(problem, solution).is_certified


def test_float32_storage_is_solved_in_float64(large):
    X = large[:2000].astype(np.float32)
    single, double = (solve(WideLimit(data, 0.5), tol=1e-12) for data in (X, X.astype(np.float64)))
    assert single.value == double.value
    np.testing.assert_array_equal(single.bias, double.bias)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(large):
    problem = WideLimit(large, 0.5)
    cpu, cuda = solve(problem, tol=1e-9), solve(problem, tol=1e-9, device="cuda")
    assert cuda.value == pytest.approx(cpu.value, rel=2e-9)
    assert cuda.info["device"] == "cuda"


@pytest.mark.parametrize("bias", [None, "given", "free"])
@pytest.mark.parametrize("n", [50, 9000])
def test_passes_are_counted_truthfully(bias, n, rng, monkeypatch):
    """Every iteration over the problem's own data between the call and the last evaluation is one pass."""
    X = Activations(rng.normal(size=(n, 3)))
    problem = WideLimit(X, 0.3, bias=np.ones(3) if bias == "given" else bias)
    begun = []
    batches = Activations.batches

    def counting(self, **keywords):
        if self is problem.X:
            begun.append(1)
        return batches(self, **keywords)

    monkeypatch.setattr(Activations, "batches", counting)
    seen = []
    solution = solve(problem, tol=1e-10, callback=lambda _: seen.append(len(begun)))
    assert solution.info["passes"] == seen[-1]
    assert seen[-1] == 1 if problem.bias is not None and bias != "free" else seen[-1] >= 1
    assert len(begun) > seen[-1]  # the evaluation of the answer is on top, and not the algorithm's


def test_data_in_batches_gives_the_same_answer(rng, monkeypatch):
    X = rng.normal(size=(500, 8))
    whole = solve(WideLimit(X, 0.3), tol=1e-12)
    monkeypatch.setattr("cvxsae.data.activations.BATCH_BYTES", 37 * 8 * 8)
    batched = solve(WideLimit(X, 0.3), tol=1e-12)
    assert batched.value == pytest.approx(whole.value, rel=1e-13)
    np.testing.assert_allclose(batched.bias, whole.bias, atol=1e-10)


def test_beyond_memory_only_the_bias_is_returned(rng, monkeypatch):
    X = rng.normal(size=(300, 4))
    full = solve(WideLimit(X, 0.3), tol=1e-9)
    monkeypatch.setattr(wide_limit, "RECOVERY_BYTES", 100)
    problem = WideLimit(X, 0.3)
    bare = solve(problem, tol=1e-9)
    assert bare.dictionary is None
    assert bare.codes is None
    assert bare.value == pytest.approx(full.value, rel=1e-12)
    assert certify(problem, bare).is_certified


def test_without_a_hessian_it_is_reweighted_least_squares(rng, monkeypatch):
    X = rng.normal(size=(200, 5))
    expected = solve(WideLimit(X, 0.5), tol=1e-9)
    monkeypatch.setattr("cvxsae.solvers.convex.wide_newton._LARGEST_HESSIAN", 4)
    plain = solve(WideLimit(X, 0.5), tol=1e-9)
    assert plain.value == pytest.approx(expected.value, rel=1e-9)
    assert plain.info["passes"] > expected.info["passes"]


# ---------------------------------------------------------------- hard biases


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("lam", [1e-3, 0.1, 1.0, 5.0])
def test_scipy_does_not_find_anything_better(d, lam, rng):
    X = problems.gaussian(rng, 31, d)
    solution = solve(WideLimit(X, lam), tol=1e-9)
    best = peer(X, lam)
    assert solution.value <= best * (1 + 1e-9)
    assert best <= solution.value * (1 + 1e-4)  # the peer is honest


HARD = {
    "odd line": [[-3.0], [-1.0], [0.2], [1.0], [5.0]],
    "even line": [[-3.0], [-1.0], [1.0], [5.0]],
    "duplicates on a line": [[0.0], [0.0], [0.0], [1.0], [2.0]],
    "tied duplicates": [[0.0], [0.0], [1.0], [1.0]],
    "collinear": [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [10.0, 20.0]],
    "collinear, even": [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [10.0, 20.0]],
    "heavy point": [[0.0, 0.0]] * 6 + [[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]],
    "triangle with an obtuse vertex": [[0.0, 0.0], [1.0, 0.1], [-1.0, 0.1]],
    "square": [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    "two points": [[0.0, 0.0], [3.0, 4.0]],
    "one point": [[2.0, 3.0]],
    "outlier": [[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [1e6, 1e6]],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(
    ("lam", "offset"),
    # A bias at 100 is known to 1e-14, so a gap of 1e-8 needs λ well above 1e-6.
    [(1e-9, 0.0), (1e-4, 0.0), (0.1, 0.0), (3.0, 0.0), (1e9, 0.0), (1e-4, 100.0), (0.1, 100.0)],
)
def test_a_bias_that_sits_on_a_datapoint(name, lam, offset):
    """The Vardi–Zhang cases: for small λ the minimizer is within λ of a datapoint, behind a kink."""
    X = np.array(HARD[name]) + offset
    problem = WideLimit(X, lam)
    solution = solve(problem, tol=1e-8)
    assert solution.value == pytest.approx(mean_huber(solution.bias, X, lam), rel=1e-11)
    assert solution.value <= min(mean_huber(b, X, lam) for b in (*X, X.mean(axis=0))) * (1 + 1e-8)
    assert certify(problem, solution).is_certified


@pytest.mark.parametrize("lam", [1e-4, 1e-6])
def test_a_datapoint_that_carries_the_bias_is_found_in_a_few_passes(lam):
    """Vardi–Zhang: Newton alone creeps up on the kink at a repeated row and needs 40 to 80 passes here."""
    X = np.random.default_rng(0).normal(size=(34, 3))
    X = np.vstack([X, np.repeat(X[:1], 10, axis=0)])
    solution = solve(WideLimit(X, lam), tol=1e-9)
    assert solution.info["passes"] <= 10
    np.testing.assert_allclose(solution.bias, X[0], atol=lam)


@pytest.mark.parametrize("seed", range(12))
def test_random_lines_and_lattices(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 4))
    X = rng.integers(-3, 4, size=(rng.integers(2, 30), d)).astype(float)  # ties, duplicates, collinear rows
    for lam in (1e-6, 0.01, 0.5, 2.0):
        solution = solve(WideLimit(X, lam), tol=1e-8)
        assert solution.value <= min(mean_huber(b, X, lam) for b in X) * (1 + 1e-8)


def test_a_vanishing_penalty_gives_the_geometric_median(rng):
    X = rng.normal(size=(21, 2))
    lam = 1e-7
    options = {"xatol": 1e-10, "fatol": 1e-14}

    def distance(b):
        return float(np.linalg.norm(X - b, axis=1).mean())

    median = minimize(distance, X.mean(axis=0), method="Nelder-Mead", options=options)
    solution = solve(WideLimit(X, lam), tol=1e-8)
    assert solution.value / lam == pytest.approx(median.fun, rel=1e-6)
    np.testing.assert_allclose(solution.bias, median.x, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("bias", [None, "free"])
def test_units_do_not_matter(scale, bias, rng):
    X = problems.gaussian(rng, 40, 3)
    one, other = (
        solve(WideLimit(X, 0.4, bias=bias), tol=1e-9),
        solve(WideLimit(scale * X, 0.4 * scale, bias=bias), tol=1e-9),
    )
    assert other.value / scale**2 == pytest.approx(one.value, rel=2e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.float32])
def test_other_dtypes(dtype, rng):
    X = (10 * rng.normal(size=(25, 3))).astype(dtype)
    solution = solve(WideLimit(X, 2.0), tol=1e-9)
    assert solution.value == pytest.approx(solve(WideLimit(X.astype(np.float64), 2.0), tol=1e-9).value, rel=1e-14)


def test_a_fixed_bias_needs_one_pass(rng):
    X, b = rng.normal(size=(100, 3)), rng.normal(size=3)
    solution = solve(WideLimit(X, 0.3, bias=b), tol=1e-12)
    assert solution.info["passes"] == 1
    assert solution.value == pytest.approx(mean_huber(b, X, 0.3), rel=1e-13)
    np.testing.assert_array_equal(solution.bias, b)
