"""The conic reference: size guards that say what would happen, failures, and its agreement with the written problem."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxsae import CandidateDictionary, InputError, LargeDictionary, SparseCodes, Status, WideLimit
from cvxsae.solvers.convex.reference import size_objection
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3


@pytest.mark.parametrize("bias", [None, "fixed", "free"])
def test_conic_forms_are_the_problems(bias, rng):
    """The conic optimum, scaled back, is the value attained by the arrays read from it."""
    X, atoms = problems.gaussian(rng, 10, 3), rng.normal(size=(5, 3))
    b = np.ones(3) if bias == "fixed" else bias
    for problem in (
        WideLimit(X, LAM, bias=b),
        SparseCodes(X, atoms, LAM, bias=b),
        CandidateDictionary(X, atoms, LAM, 2.0, bias=b),
    ):
        solution = solve(problem, solver="reference", tol=1e-5)
        assert solution.info["conic_value"] == pytest.approx(solution.value, rel=1e-7)
        assert solution.solver == "clarabel"
        assert certify(problem, solution).is_certified


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_do_not_matter(scale, rng):
    X, atoms = problems.gaussian(rng, 8, 3), rng.normal(size=(5, 3))
    for make in (
        lambda s: WideLimit(s * X, s * LAM),
        lambda s: SparseCodes(s * X, atoms, s * LAM, bias="free"),
        lambda s: CandidateDictionary(s * X, atoms, s * LAM, 1.0, bias=None),
        lambda s: LargeDictionary(s * X, s * LAM, 1.0, bias="free"),
    ):
        one, other = (solve(make(s), solver="reference", tol=3e-2) for s in (1, scale))
        assert other.value / scale**2 == pytest.approx(one.value, rel=1e-5)


@pytest.mark.parametrize("d", [2, 6])
def test_the_doubly_nonnegative_relaxation_is_exact_for_four_points(d, rng):
    problem = LargeDictionary(problems.gaussian(rng, 4, d), LAM, 1.0, bias=None)
    solution = solve(problem, solver="reference", tol=1e-3)
    assert solution.relaxed_value == pytest.approx(solution.value, rel=1e-4)
    assert problem.relaxed_value(solution.similarity, solution.bias) == pytest.approx(solution.relaxed_value, rel=1e-6)


@pytest.mark.slow
def test_the_relaxed_value_is_below_what_any_dictionary_attains(rng):
    X = problems.gaussian(rng, 10, 4)
    reference = solve(LargeDictionary(X, LAM, 4.0, bias="free"), solver="reference", raise_on_failure=False)
    torch = solve(LargeDictionary(X, LAM, 4.0, bias="free"), raise_on_failure=False)
    relaxed = reference.relaxed_value
    assert reference.lower_bound <= relaxed * (1 + 1e-7) <= min(reference.value, torch.value) * (1 + 2e-7)
    assert torch.lower_bound <= relaxed * (1 + 1e-7)


def test_zero_codes_are_answered_exactly(rng):
    X, atoms = problems.gaussian(rng, 8, 3), rng.normal(size=(5, 3))
    for problem in (
        WideLimit(X, 1e3),
        SparseCodes(X, atoms, 1e3, bias="free"),
        CandidateDictionary(X, atoms, 1e3, 1.0, bias=None),
        LargeDictionary(X, 1e3, 1.0, bias=None),
        SparseCodes(0 * X, atoms, LAM),
    ):
        solution = solve(problem, solver="reference", tol=1e-9)
        assert solution.codes.sum() == 0


# ---------------------------------------------------------------- guards and failures


def test_guards_say_what_would_happen(rng):
    wide = WideLimit(rng.normal(size=(20_000, 50)), LAM)
    with pytest.raises(InputError, match=r"20000 second-order cones.*unknowns.*GB.*what fits here: 'newton'"):
        solve(wide, solver="reference")
    codes = SparseCodes(rng.normal(size=(500, 50)), rng.normal(size=(400, 50)), LAM)
    with pytest.raises(InputError, match="500 x 400 codes"):
        solve(codes, solver="reference")
    large = LargeDictionary(rng.normal(size=(101, 4)), LAM, 1.0, bias=None)
    with pytest.raises(
        InputError, match=r"semidefinite block of order 105 .*minutes.*what fits here: 'splitting', 'factorized'"
    ):
        solve(large, solver="reference")
    assert size_objection(LargeDictionary(rng.normal(size=(100, 4)), LAM, 1.0, bias=None)) is None
    assert size_objection(SparseCodes(rng.normal(size=(50, 50)), rng.normal(size=(40, 50)), LAM)) is None


@pytest.mark.parametrize("kind", ["wide", "codes", "large"])
def test_a_conic_solver_that_fails_is_not_certified(kind, rng, monkeypatch):
    X = problems.gaussian(rng, 6, 3)
    problem = {
        "wide": WideLimit(X, LAM),
        "codes": SparseCodes(X, X, LAM),
        "large": LargeDictionary(X, LAM, 1.0, bias=None),
    }[kind]

    def fail(self, **options):
        raise cp.error.SolverError("no")

    monkeypatch.setattr(cp.Problem, "solve", fail)
    solution = solve(problem, solver="reference", raise_on_failure=False)
    assert solution.status is Status.REFERENCE_FAILED
    assert solution.gap > 1e-6
    assert not solution.is_certified
    assert not certify(problem, solution).is_certified


def test_time_limit_of_the_reference(rng):
    problem = LargeDictionary(problems.gaussian(rng, 30, 5), LAM, 1.0, bias=None)
    solution = solve(problem, solver="reference", max_seconds=0.01, raise_on_failure=False)
    assert solution.status is Status.TIME_LIMIT
    assert solution.lower_bound <= solution.value


def test_progress_of_the_reference(rng, capsys):
    solve(WideLimit(rng.normal(size=(5, 2)), LAM), solver="reference", progress=True)
    assert "wide (clarabel)" in capsys.readouterr().err


@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize("kind", ["gaussian", "clustered"])
def test_without_a_surcharge_the_similarity_problem_is_the_wide_limit(kind, bias, rng):
    """(7) at τ = 0 equals N times (5), and Q is diagonal: the atom-per-datapoint theorem in matrix form (T9)."""
    X = getattr(problems, kind)(rng, 14, 4)
    reference = solve(LargeDictionary(X, LAM, 0.0, bias=bias), solver="reference", raise_on_failure=False)
    wide = solve(WideLimit(X, LAM, bias=bias), tol=1e-9)
    assert reference.relaxed_value == pytest.approx(wide.value, rel=1e-6)
    assert np.abs(reference.similarity - np.diag(np.diag(reference.similarity))).max() < 1e-5
    offsets = np.linalg.norm(X - wide.bias, axis=1)
    np.testing.assert_allclose(np.diag(reference.similarity), np.clip(offsets - LAM, 0, None), atol=1e-4)
