"""``solve``: dispatch, arguments, and what it must not do to what it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch

from cvxsae import (
    CandidateDictionary,
    InputError,
    JointProblem,
    LargeDictionary,
    NotCertifiedError,
    SparseCodes,
    Status,
    WideLimit,
)
from cvxsae.parallel.context import Run
from cvxsae.results import Record
from cvxsae.solvers.convex.solve import choose
from tests.helpers import problems
from tests.helpers.problems import certify, solve

LAM = 0.3
NAMES = ("wide", "codes", "candidates", "large", "large without surcharge")


def build(name, rng, bias=None):
    X, atoms = problems.gaussian(rng, 12, 3), rng.normal(size=(5, 3))
    return {
        "wide": lambda: WideLimit(X, LAM, bias=bias),
        "codes": lambda: SparseCodes(X, atoms, LAM, bias=bias),
        "candidates": lambda: CandidateDictionary(X, atoms, LAM, 2.0, bias=bias),
        "large": lambda: LargeDictionary(X, LAM, 2.0, bias=bias),
        "large without surcharge": lambda: LargeDictionary(X, LAM, 0.0, bias=bias),
    }[name]()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "fixed", "free"])
@pytest.mark.parametrize("solver", ["auto", "torch", "reference"])
def test_every_problem_with_every_bias(name, solver, bias, rng):
    problem = build(name, rng, np.ones(3) if bias == "fixed" else bias)
    tol = 3e-2 if name == "large" else 1e-5
    solution = solve(problem, solver=solver, tol=tol)
    assert solution.status is Status.CERTIFIED
    assert solution.problem is problem
    assert solution.tol == tol
    assert solution.seconds > 0
    assert certify(problem, solution).is_certified
    assert isinstance(solution.codes, np.ndarray | scipy.sparse.csr_array)
    assert solution.dictionary.shape == (solution.codes.shape[1], 3)
    assert solution.to_dict()["problem"] == problem.name
    own = solve(problem, solver=solution.solver, tol=tol) if solver == "auto" else solution
    assert own.value == solution.value


@pytest.mark.parametrize("solver", ["newton", "proximal-gradient", "factorized"])
def test_a_solver_that_does_not_fit_is_refused(name, solver, rng):
    problem = build(name, rng)
    fits = {"newton": ("wide", "large without"), "proximal-gradient": ("codes", "cand"), "factorized": ("large",)}[
        solver
    ]
    if name == solver or (name.startswith(fits) and not (name.startswith("large without") and solver == "factorized")):
        assert solve(problem, solver=solver, tol=3e-2).is_certified
    else:
        with pytest.raises(InputError, match=rf"solver is '{solver}', which .*; what fits here: '.*'reference'"):
            solve(problem, solver=solver)


def test_bad_arguments_are_named(rng):
    problem = build("wide", rng)
    for keywords, message in (
        ({"solver": "magic"}, "solver is 'magic'; choose one of auto"),
        ({"tol": -1.0}, "tol is -1"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"max_steps": -3}, "max_steps is -3"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ):
        with pytest.raises(InputError, match=message):
            solve(problem, **keywords)


def test_uncertified_raises_with_the_solution_unless_told_not_to(rng):
    problem = build("candidates", rng)
    with pytest.raises(NotCertifiedError, match="the iteration limit was reached") as caught:
        solve(problem, tol=1e-12, max_steps=2)
    solution = caught.value.solution
    assert solution.status is Status.MAX_ITER
    assert not certify(problem, solution).is_certified
    quiet = solve(problem, tol=1e-12, max_steps=2, raise_on_failure=False)
    assert quiet.value == solution.value


def test_interruption_returns_the_point_reached(name, rng):
    def stop(record):
        raise KeyboardInterrupt

    problem = build(name, rng, "free")
    solution = solve(problem, tol=0.0, callback=stop, raise_on_failure=False)
    assert solution.status in (Status.INTERRUPTED, Status.CERTIFIED)
    assert solution.lower_bound <= solution.value * (1 + 1e-12)
    assert len(solution.history) == 1


@pytest.mark.slow
def test_nothing_passed_is_modified(name, rng):
    X, atoms, bias = problems.gaussian(rng, 12, 3), 3 * rng.normal(size=(5, 3)), rng.normal(size=3)
    originals = X.copy(), atoms.copy(), bias.copy()
    for b in (bias, "free"):
        problem = {
            "wide": WideLimit(X, LAM, bias=b),
            "codes": SparseCodes(X, atoms, LAM, bias=b),
            "candidates": CandidateDictionary(X, atoms, LAM, 2.0, bias=b),
            "large": LargeDictionary(X, LAM, 2.0, bias=b),
            "large without surcharge": LargeDictionary(X, LAM, 0.0, bias=b),
        }[name]
        for solver in ("torch", "reference"):
            solution = solve(problem, solver=solver, tol=3e-2)
            certify(problem, solution)
            solution.bias[:] = 7  # the answer's memory is its own
            for now, then in zip((X, atoms, bias), originals, strict=True):
                np.testing.assert_array_equal(now, then)
    bias[:] = 9  # and the problem has its own copy of the bias
    if not problem.bias_is_free:
        np.testing.assert_array_equal(problem.fixed_bias(), originals[2])


@pytest.mark.slow
def test_solves_are_reproducible(name, rng):
    problem = build(name, rng, "free")
    one, two = (solve(problem, tol=3e-2) for _ in range(2))
    assert (one.value, one.lower_bound) == (two.value, two.lower_bound)
    np.testing.assert_array_equal(one.bias, two.bias)


@pytest.mark.slow
def test_torch_threads_are_given_back(name, rng):
    before = torch.get_num_threads()
    solve(build(name, rng), tol=3e-2)
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.parametrize("lam", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("bias", [None, "free"])
def test_extreme_penalties_end_with_valid_bounds(name, lam, bias, rng):
    problem = replace(build(name, rng, bias), lam=lam)
    solution = solve(problem, tol=1e-4, max_steps=20, raise_on_failure=False)
    reference = 0.5 * np.mean(np.sum((problem.X.to_numpy() - solution.bias) ** 2, axis=1))
    assert 0 <= solution.value <= reference * (1 + 1e-12)
    assert solution.lower_bound <= solution.value * (1 + 1e-12)
    if lam > 1:
        assert solution.is_certified
        assert solution.codes.sum() == 0


def test_codes_at_a_fixed_bias_come_from_working_sets_and_are_sparse(rng):
    problem = SparseCodes(rng.normal(size=(50, 6)), rng.normal(size=(20, 6)), 0.5, bias=rng.normal(size=6))
    fast, slow = solve(problem, tol=1e-9), solve(problem, tol=1e-9, solver="proximal-gradient")
    assert fast.solver == "working-set"
    assert scipy.sparse.issparse(fast.codes)
    assert fast.value == pytest.approx(slow.value, rel=1e-8)
    assert certify(problem, fast).is_certified
    assert fast.info["largest_datapoint_gap"] <= 1e-9


def test_working_sets_keep_to_a_time_limit(rng):
    problem = SparseCodes(rng.normal(size=(50, 6)), rng.normal(size=(20, 6)), 0.5)
    solution = solve(problem, max_seconds=1e-9, raise_on_failure=False)
    assert solution.status is Status.TIME_LIMIT
    assert solution.lower_bound <= solve(problem).value <= solution.value


def test_solvers_without_steps_refuse_to_count_them(rng):
    """An option is honored or refused, never ignored: auto takes a solver that has steps."""
    problem = build("codes", rng, rng.normal(size=3))
    assert solve(problem, tol=1e-4).solver == "working-set"
    counted = solve(problem, tol=0.0, max_steps=3, raise_on_failure=False)
    assert (counted.solver, counted.info["iterations"]) == ("proximal-gradient", 3)
    with pytest.raises(InputError, match=r"max_steps is 3 but 'working-set' has no steps.*'proximal-gradient'"):
        solve(problem, solver="working-set", max_steps=3)
    with pytest.raises(InputError, match="computes on the CPU"):
        choose(problem, "reference", Run(device=torch.device("cuda")))


@pytest.mark.parametrize("solver", ["working-set", "reference"])
def test_solvers_without_a_loop_tell_the_callback_where_they_ended(solver, rng):
    problem = build("codes", rng, rng.normal(size=3))
    seen: list[Record] = []
    solution = solve(problem, solver=solver, callback=seen.append)
    assert seen == list(solution.history)
    assert seen[-1].value == pytest.approx(solution.value)

    def stop(record):
        raise KeyboardInterrupt

    stopped = solve(problem, solver=solver, tol=0.0, callback=stop, raise_on_failure=False)
    assert stopped.status is Status.INTERRUPTED
    assert stopped.value == pytest.approx(solution.value)


def test_the_steps_of_the_reference_are_limited():
    problem = LargeDictionary(problems.gaussian(np.random.default_rng(0), 12, 5), LAM, 1.0, bias=None)
    solution = solve(problem, solver="reference", max_steps=2, raise_on_failure=False)
    assert solution.status is Status.MAX_ITER
    assert solution.lower_bound <= solution.value


@pytest.mark.slow
def test_a_relaxation_solved_as_far_as_it_goes_has_not_failed():
    """d > 3, τ > 0: the solver's gap closes, what is left is the relaxation's; that is no failure."""
    problem = LargeDictionary(problems.gaussian(np.random.default_rng(0), 20, 6), LAM, 5.0, bias=None)
    solution = solve(problem, tol=1e-4)
    assert solution.status in (Status.RELAXED, Status.CERTIFIED)
    assert solution.gap > 1e-4 or solution.is_certified
    with pytest.raises(NotCertifiedError):
        solve(problem, tol=1e-4, max_steps=1)


def test_the_joint_problem_is_not_for_solve(rng):
    with pytest.raises(InputError, match="not convex; use learn_dictionary"):
        solve(JointProblem(rng.normal(size=(5, 3)), 2, LAM))


def test_matrices_that_do_not_fit_in_memory_are_refused_before_they_are_made(rng, monkeypatch):
    X = rng.normal(size=(40_000, 5))
    with pytest.raises(
        InputError, match=r"40,000 rows.* 167 GiB, and this machine has 2\d*; pass fewer rows, or solver='factorized'"
    ):
        monkeypatch.setattr("cvxsae.solvers.convex.large.rounding.memory_gib", lambda: 24.0)
        solve(LargeDictionary(X, 0.1, 10.0), max_seconds=1e-3)
    monkeypatch.setattr("cvxsae.solvers.convex.large.rounding.memory_gib", lambda: None)  # not known: not refused
    assert solve(LargeDictionary(X[:20], 0.1, 10.0), max_seconds=1e-3, raise_on_failure=False).value > 0
