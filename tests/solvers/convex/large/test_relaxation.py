"""The large dictionary with both gaps: against the conic reference, known answers, and proofs that must not pass."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary, InputError, LargeDictionary, Status, WideLimit, certify, solve
from cvxsae.parallel.context import Run
from cvxsae.relaxations.proofs import pencil_bound
from cvxsae.results import Record
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large import admm as splitting
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative
from cvxsae.solvers.convex.nonnegative_lbfgs import descend
from tests.helpers import problems

LAM = 0.3
CPU = torch.device("cpu")


def solved(problem, tol=1e-5, **options):
    return solve(problem, tol=tol, raise_on_failure=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("make", [problems.gaussian, problems.clustered])
def test_the_bound_meets_the_reference_and_never_passes_it(make, tau, bias, rng):
    problem = LargeDictionary(make(rng, 16, 5), LAM, tau, bias=bias)
    relaxed = solve(problem, solver="reference", raise_on_failure=False).relaxed_value
    solution = solved(problem)
    assert solution.lower_bound <= relaxed * (1 + 1e-8) <= solution.value * (1 + 2e-8)  # type: ignore[operator]
    assert solution.lower_bound >= relaxed * (1 - 1e-4)  # type: ignore[operator]
    assert solution.solver_gap <= 1e-4
    assert solution.relaxed_value >= relaxed * (1 - 1e-7)  # type: ignore[operator]


@pytest.mark.slow
def test_the_two_gaps_add_up_and_the_status_says_which_is_open(rng):
    problem = LargeDictionary(problems.gaussian(rng, 24, 8), 0.3, 10.0, bias=None)
    solution = solved(problem, tol=3e-4)
    assert solution.status is Status.RELAXED
    assert solution.solver_gap <= 3e-4 < solution.relaxation_gap
    total = (solution.value - solution.relaxed_value) + (solution.relaxed_value - solution.lower_bound)
    assert total == pytest.approx(solution.value - solution.lower_bound)
    certificate = certify(problem, solution)
    assert len(certificate.objections) == 1
    assert "relative gap" in certificate.objections[0]
    for part in ("solver_gap", "relaxation_gap"):
        assert getattr(certificate, part) == pytest.approx(getattr(solution, part), rel=1e-9)
        assert f"{getattr(solution, part):.2e}" in str(certificate)
    spoiled = dataclasses.replace(solution, similarity=2 * solution.similarity)
    assert certify(problem, spoiled).solver_gap > solution.solver_gap


@pytest.mark.slow
def test_the_value_is_no_worse_than_ten_starts_of_plain_descent(rng):
    problem = LargeDictionary(problems.clustered(rng, 12, 4), LAM, 3.0, bias=None)
    X = problem.X.to_tensor(device=CPU)

    def objective(B):
        B = B.clone().requires_grad_(True)
        gram = B @ B.T + LAM * torch.eye(len(X), dtype=B.dtype)
        fit = (X * torch.linalg.solve(gram, X)).sum()
        value = LAM / 2 * (fit + B.sum(dim=0).square().sum() + 3.0 * B.square().sum())
        value.backward()
        return float(value.detach()), B.grad

    starts = [torch.from_numpy(rng.uniform(size=(12, 12))) / 5 for _ in range(10)]
    best = min(objective(descend(objective, start, 150))[0] for start in starts) / len(X)
    assert solved(problem).value <= best * (1 + 1e-5)


def test_identical_and_orthogonal_points(rng):
    tau, r, n = 2.0, 1.7, 12
    same = LargeDictionary(np.tile(r * np.eye(4)[:1], (n, 1)), LAM, tau, bias=None)
    expected = (LAM * r * np.sqrt(n * (n + tau)) - LAM**2 * (n + tau) / 2) / n
    solution = solved(same, tol=1e-6)
    assert solution.value == pytest.approx(expected, rel=1e-6)
    assert solution.info["live_atoms"] == 1
    norms = rng.uniform(1, 2, size=6)
    orthogonal = solved(LargeDictionary(np.diag(norms), LAM, tau, bias=None), tol=1e-6)
    assert orthogonal.is_certified
    np.testing.assert_allclose(orthogonal.similarity, np.diag(norms / np.sqrt(1 + tau) - LAM), atol=1e-5)


def test_sharing_starts_at_the_threshold(rng):
    X = 3 * problems.unit(rng.normal(size=(10, 6)))
    threshold = LargeDictionary(X, LAM, 1.0, bias=None).sharing_threshold()
    below, above = (solved(LargeDictionary(X, LAM, factor * threshold, bias=None), tol=1e-7) for factor in (0.98, 1.1))
    assert below.info["live_atoms"] == 10
    assert np.abs(below.similarity - np.diag(np.diag(below.similarity))).max() < 1e-5
    assert np.abs(above.similarity - np.diag(np.diag(above.similarity))).max() > 1e-3


def test_without_surcharge_it_is_the_wide_limit(rng):
    X = problems.gaussian(rng, 30, 5)
    wide = solve(WideLimit(X, LAM, bias=None), tol=1e-9)
    assert solve(LargeDictionary(X, LAM, 0.0, bias=None), tol=1e-9).value == pytest.approx(wide.value, rel=1e-8)


@pytest.mark.slow
def test_the_candidate_problem_with_the_returned_atoms_has_the_same_value(rng):
    problem = LargeDictionary(problems.clustered(rng, 20, 5), LAM, 1.0, bias=None)
    solution = solved(problem, tol=1e-6)
    candidates = CandidateDictionary(problem.X, solution.dictionary, LAM, 1.0, bias=None)
    value = solve(candidates, tol=1e-6, max_steps=3000, raise_on_failure=False).value
    assert value == pytest.approx(solution.value, rel=1e-5)


def test_a_shrunken_proof_is_refused(rng):
    problem = LargeDictionary(problems.clustered(rng, 20, 5), LAM, 3.0, bias=None)
    solution = solved(problem)
    longer = dataclasses.replace(solution, dual=1.02 * solution.dual)
    assert any("exceeds its limit" in sentence for sentence in certify(problem, longer).objections)
    unproved = dataclasses.replace(solution, proof=None)
    assert certify(problem, unproved).lower_bound < solution.lower_bound


@pytest.mark.slow
def test_an_infeasible_similarity_cannot_lower_the_relaxed_value(rng):
    problem = LargeDictionary(problems.clustered(rng, 12, 4), LAM, 3.0, bias=None)
    solution = solved(problem)
    relaxed = solution.relaxed_value
    for spoiled in (solution.similarity - 0.05 * np.eye(12), solution.similarity - 0.05):
        candidate = dataclasses.replace(solution, similarity=spoiled)
        assert problem.relaxed_bound(candidate) >= solution.lower_bound
        assert problem.relaxed_bound(candidate) >= relaxed * (1 - 1e-4)


@pytest.mark.slow
def test_every_bound_on_the_way_is_below_the_optimum_and_gaps_only_shrink(rng):
    problem = LargeDictionary(problems.clustered(rng, 16, 5), LAM, 2.0, bias="free")
    relaxed = solve(problem, solver="reference", raise_on_failure=False).relaxed_value
    history = solved(problem).history
    assert all(record.lower_bound <= relaxed * (1 + 1e-8) for record in history)  # type: ignore[operator]
    gaps = [record.gap for record in history]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(gaps))


@pytest.mark.slow
def test_a_warm_start_from_the_answer_ends_at_once(rng):
    problem = LargeDictionary(problems.clustered(rng, 20, 5), LAM, 3.0, bias=None)
    cold = solved(problem, tol=1e-4)
    from cvxsae.relaxations.convex.tidy import factor_of

    warm = torch.from_numpy(factor_of(problem, cold))
    again = iterate(DoublyNonnegative(1e-4, warm), problem, 1e-4, Run())
    assert again.value <= cold.value * (1 + 1e-6)
    assert again.info["splitting_steps"] <= cold.info["splitting_steps"]


@pytest.mark.slow
def test_single_precision_steps_still_prove_in_double(rng):
    problem = LargeDictionary(problems.clustered(rng, 20, 5), LAM, 3.0, bias=None)
    solution = iterate(DoublyNonnegative(1e-3, single_precision_order=1), problem, 1e-3, Run())
    assert solution.solver_gap is not None
    assert solution.solver_gap <= 1e-3
    assert solution.dual is not None
    assert solution.dual.dtype == np.float64


@pytest.mark.parametrize("expected_rank", [0, 7])
def test_positive_part_is_the_projection(expected_rank, rng):
    for shift in (-3.0, 0.0, 3.0):
        A = rng.normal(size=(7, 7))
        A = torch.from_numpy(A + A.T + shift * np.eye(7))
        projected, rank = splitting.positive_part(A, expected_rank)
        values, vectors = torch.linalg.eigh(A)
        np.testing.assert_allclose(projected, (vectors * values.clamp(min=0)) @ vectors.T, atol=1e-12)
        assert rank == int((values > 0).sum())


def test_pencil_bound_is_tight_and_above(rng):
    Y, tau = rng.normal(size=(9, 3)), 0.7
    P = rng.uniform(size=(9, 9))
    P = P + P.T
    B = np.ones((9, 9)) + tau * np.eye(9)
    t = pencil_bound(torch.from_numpy(Y @ Y.T), torch.from_numpy(P), tau, 3)
    least = np.linalg.eigvalsh(t**2 * B - Y @ Y.T - P)[0]
    assert 0 <= least <= 1e-10
    assert np.linalg.eigvalsh((0.999 * t) ** 2 * B - Y @ Y.T - P)[0] < 0


def test_no_points_to_share_and_nothing_to_code():
    zeros = solved(LargeDictionary(np.zeros((5, 3)), LAM, 1.0, bias=None))
    assert zeros.value == 0
    tiny = solved(LargeDictionary(1e-3 * np.eye(5), LAM, 1.0, bias=None))
    assert tiny.is_certified
    assert tiny.info["live_atoms"] == 0
    with pytest.raises(InputError):
        LargeDictionary(np.eye(3), LAM, -1.0, bias=None)


@pytest.mark.parametrize("seen", [1, 5])
def test_an_interrupted_solve_says_whose_its_gap_is(seen, rng, monkeypatch):
    """Of many datapoints too, where nothing is computed once time is over: from what was known before."""
    monkeypatch.setattr("cvxsae.relaxations.solution._QUICK_POINTS", 0)
    problem = LargeDictionary(problems.gaussian(rng, 25, 6), LAM, 5.0, bias=None)
    records: list[Record] = []

    def interrupt(record: Record) -> None:
        records.append(record)
        if len(records) == seen:
            raise KeyboardInterrupt

    solution = solve(problem, tol=1e-6, callback=interrupt, raise_on_failure=False)
    assert solution.status is Status.INTERRUPTED
    assert solution.relaxed_value == min(records[-1].relaxed_value, solution.value)  # type: ignore[type-var]
    assert solution.lower_bound <= solution.relaxed_value <= solution.value  # type: ignore[operator]
    assert solution.solver_gap == pytest.approx(1 - solution.lower_bound / solution.relaxed_value)  # type: ignore[operator]
    rest = 1 - solution.relaxed_value / solution.value  # type: ignore[operator]
    assert solution.relaxation_gap == pytest.approx(rest, abs=1e-12)
    checked = certify(problem, solution, tol=1.0)
    assert checked.is_certified
    assert checked.solver_gap <= solution.solver_gap + 1e-9  # type: ignore[operator]
    monkeypatch.undo()
    nothing = solve(problem, max_seconds=1e-9, raise_on_failure=False)
    assert nothing.status is Status.TIME_LIMIT and nothing.solver_gap is not None


def test_records_say_when_the_solvers_gap_closed(rng):
    problem = LargeDictionary(problems.gaussian(rng, 25, 6), LAM, 5.0, bias=None)
    solution = solve(problem, tol=1e-3, raise_on_failure=False)
    gaps = [record.solver_gap for record in solution.history]
    assert all(after <= before for before, after in itertools.pairwise(gaps))  # type: ignore[operator]
    assert gaps[0] > 1e-3 >= gaps[-1]  # type: ignore[operator]
    assert [record.iteration for record in solution.history] == list(range(len(gaps)))  # each costs nothing
