"""No factorization stops a solve: where they fail, or λ is tiny, the answer is true or one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from cvxsae import CandidateDictionary, InputError, LargeDictionary, SparseCodes, Status, WideLimit
from tests.helpers import factorizations, problems
from tests.helpers.problems import certify, solve

LAM = 0.3


def build(name, rng, lam=LAM, bias="free", n=9, d=4):
    X, atoms = problems.gaussian(rng, n, d), rng.normal(size=(6, d))
    if name == "newton":
        return WideLimit(X, lam, bias=bias)
    if name == "working-set":
        return SparseCodes(X, atoms, lam, bias=None)
    if name == "proximal-gradient":
        return SparseCodes(X, atoms, lam, bias=bias)
    if name == "block-descent":
        return CandidateDictionary(X, atoms, lam, 1.0, bias=bias)
    if name == "directions":
        return LargeDictionary(X[:, :2], lam, 1.0, bias=bias)
    return LargeDictionary(X, lam, 1.0, bias=bias)


ALGORITHMS = ["newton", "proximal-gradient", "block-descent", "directions", "splitting", "factorized", "copositive"]


def assert_true(problem, solution):
    """Value and bound enclose the optimum, and the referee agrees; zero codes are never better than the answer."""
    assert np.isfinite(solution.value)
    assert solution.lower_bound <= solution.value * (1 + 1e-12)
    zero = problem.primal_value(problem.zero_candidate())
    assert solution.value <= zero * (1 + 1e-12)
    certificate = certify(problem, solution)
    assert certificate.value == pytest.approx(solution.value, rel=1e-9)
    assert certificate.lower_bound <= solution.value * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ALGORITHMS)
def test_second_choices_reach_the_same_answer(solver, rng, monkeypatch):
    problem = build(solver, rng)
    before = solve(problem, solver=solver, tol=1e-3, max_steps=12, raise_on_failure=False)
    with monkeypatch.context() as patch:
        factorizations.fail(patch)
        solution = solve(problem, solver=solver, tol=1e-3, max_steps=12, raise_on_failure=False)
    assert_true(problem, solution)
    assert solution.value == pytest.approx(before.value, rel=2e-3)
    assert solution.lower_bound <= before.value * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 25])
@pytest.mark.parametrize("solver", ALGORITHMS)
def test_when_everything_fails_the_answer_is_still_true(solver, after, rng, monkeypatch):
    problem = build(solver, rng)
    with monkeypatch.context() as patch:
        factorizations.fail(patch, second=True, after=after)
        try:
            solution = solve(problem, solver=solver, tol=1e-9, max_steps=8, raise_on_failure=False)
        except InputError as error:
            assert str(error).endswith(".")
            return
    assert_true(problem, solution)
    assert solution.status in (Status.BREAKDOWN, Status.STALLED, Status.MAX_ITER, Status.CERTIFIED, Status.RELAXED)


@pytest.mark.slow
@pytest.mark.parametrize("share", [2e-13, 1e-12])
@pytest.mark.parametrize("solver", ALGORITHMS)
def test_penalties_at_the_end_of_float64(solver, share, rng):
    scale = float(np.linalg.norm(build(solver, rng).X.to_numpy(), axis=1).max())
    problem = build(solver, rng, lam=share * scale * 1.5)
    assert_true(problem, solve(problem, solver=solver, tol=1e-4, max_steps=2, raise_on_failure=False))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ALGORITHMS)
def test_data_of_a_rank_below_the_number_of_atoms(solver, rng):
    problem = build(solver, rng, n=10, d=4)
    X = np.outer(rng.normal(size=10), rng.normal(size=problem.dim))
    changed = {
        "newton": lambda: WideLimit(X, 1e-9),
        "proximal-gradient": lambda: SparseCodes(X, rng.normal(size=(6, 4)), 1e-9, bias="free"),
        "block-descent": lambda: CandidateDictionary(X, rng.normal(size=(6, 4)), 1e-9, 1.0, bias="free"),
    }
    problem = changed.get(solver, lambda: LargeDictionary(X, 1e-9, 1.0, bias="free"))()
    assert_true(problem, solve(problem, solver=solver, tol=1e-4, max_steps=4, raise_on_failure=False))
