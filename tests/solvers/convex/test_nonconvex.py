"""Codes under L0, TopK and log penalties: against enumeration of all supports, closed forms, and grids."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import nnls

from cvxsae import PenalizedCodes, Status, encode
from cvxsae.data.deadline import until
from cvxsae.penalties import L0, Log, TopK, TopOne
from cvxsae.relaxations.convex import support_bounds
from cvxsae.relaxations.convex.support_bounds import RowBounds
from tests.helpers.problems import certify, solve, unit
from tests.helpers.sentences import rejects


def enumerated(X, D, penalty, lam):
    """The least cost over all supports, by nonnegative least squares on every one."""
    atoms, best = unit(D), np.sum(X**2, axis=1) / 2
    most = penalty.k if isinstance(penalty, TopK) else len(D)
    for size in range(1, most + 1):
        for support in combinations(range(len(D)), size):
            errors = [nnls(atoms[list(support)].T, x)[1] ** 2 / 2 for x in X]
            best = np.minimum(best, np.array(errors) + (lam * size if isinstance(penalty, L0) else 0.0))
    return best


def hard(rng, K, d, n=4):
    """With a zero row, a repeated, a nearly repeated and an opposite atom."""
    X, D = rng.normal(size=(n, d)), rng.normal(size=(K, d))
    X[0], D[1], D[3], D[4] = 0, D[0], D[2] + 0.01 * D[3], -D[2]
    return X, D


@pytest.mark.parametrize(
    ("penalty", "lam"), [(L0(), 0.3), (L0(), 0.02), (TopK(1), 1.0), (TopK(3), 1.0), (TopOne(), 1.0)], ids=str
)
def test_few_atoms_are_solved_exactly(penalty, lam, rng):
    for K, d in ((6, 3), (9, 5)):
        X, D = hard(rng, K, d)
        problem = PenalizedCodes(X, D, lam, penalty)
        solution = solve(problem)
        best = enumerated(X, D, penalty, lam)
        if best.max() > 1e-12:  # at a value of zero no relative gap closes
            assert solution.status is Status.CERTIFIED and certify(solution).is_certified
        np.testing.assert_allclose(problem.row_values(solution), best, rtol=1e-9, atol=1e-12)
        found = problem.row_bounds(solution)
        assert found.is_exact.all() and (found.bounds <= best + 1e-12).all()
        assert solution.value == pytest.approx(problem.row_values(solution).mean(), rel=1e-13)


@pytest.mark.parametrize(("penalty", "lam"), [(L0(), 0.05), (TopK(2), 1.0), (TopK(4), 1.0)], ids=str)
def test_bounds_that_do_not_branch_are_bounds(penalty, lam, rng, monkeypatch):
    """By size and by big M alone; where atoms are few and far apart those by big M are not trivial."""
    monkeypatch.setattr(support_bounds, "MOST_BRANCHED", 0)
    for scale in (0.0, 0.1, 1.0):
        D = np.vstack([np.eye(6)[:5], scale * rng.normal(size=(3, 6)) + np.ones(6)])
        X = rng.normal(size=(6, 6)) + 0.5
        problem = PenalizedCodes(X, D, lam, penalty)
        solution = solve(problem, solver="local-search")
        best = enumerated(X, D, penalty, lam)
        assert (problem.row_bounds(solution).bounds <= best + 1e-12).all()
        assert (problem.row_values(solution) >= best - 1e-12).all()
        for Y in (0.3 * X, rng.normal(size=X.shape)):
            moved = replace(problem.candidate(solution.codes, solution.bias), dual=Y)
            assert (problem.row_bounds(moved).bounds <= best + 1e-12).all()


@pytest.mark.parametrize(("penalty", "lam"), [(L0(), 0.2), (TopK(3), 1.0)], ids=str)
def test_orthonormal_atoms_are_hard_thresholding(penalty, lam, rng):
    """K = 30, above what is branched on: the bound by big M closes it by itself where TopK does."""
    D, X = np.linalg.qr(rng.normal(size=(30, 30)))[0], rng.normal(size=(5, 30))
    solution = solve(PenalizedCodes(X, D, lam, penalty))
    gains = np.maximum(X @ D.T, 0) ** 2 / 2
    if isinstance(penalty, L0):
        expected = np.sum(X**2, axis=1) / 2 - np.maximum(gains - lam, 0).sum(axis=1)
    else:
        expected = np.sum(X**2, axis=1) / 2 - np.sort(gains, axis=1)[:, -3:].sum(axis=1)
    assert solution.value == pytest.approx(expected.mean(), rel=1e-12)
    assert solution.lower_bound <= expected.mean() * (1 + 1e-12)
    if isinstance(penalty, TopK):
        assert solution.is_certified


def test_one_active_atom_is_a_closed_form_at_any_width(rng):
    X, D = rng.normal(size=(20, 8)), rng.normal(size=(60, 8))
    solution = solve(PenalizedCodes(X, D, 1.0, TopK(1)))
    best = np.sum(X**2, axis=1) / 2 - np.maximum(X @ unit(D).T, 0).max(axis=1) ** 2 / 2
    assert solution.is_certified and solution.value == pytest.approx(best.mean(), rel=1e-12)
    two = PenalizedCodes(X, D, 1.0, TopK(2))
    bounds = two.row_bounds(solve(two)).bounds  # by all pairs
    best = enumerated(X[:2], D, TopK(2), 1.0)
    np.testing.assert_allclose(bounds[:2], best, rtol=0.05)
    assert (bounds[:2] <= best + 1e-12).all()


def test_log_codes_are_attained_below_those_of_l1_and_bounded(rng):
    X, D, lam = rng.normal(size=(6, 3)), rng.normal(size=(2, 3)), 0.3
    penalty = Log(0.5)
    problem = PenalizedCodes(X, D, lam, penalty, bias=0.1 * np.ones(3))
    solution = solve(problem)
    axis = np.linspace(0, 5, 251)
    Z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    charge = lam * 0.5 * np.log1p(Z / 0.5).sum(axis=1)
    grid = np.array([np.min(np.sum((x - 0.1 - Z @ unit(D)) ** 2, axis=1) / 2 + charge) for x in X])
    values, found = problem.row_values(solution), problem.row_bounds(solution)
    assert (values <= grid + 1e-6).all() and (found.bounds <= grid + 1e-12).all()
    assert (grid <= values + 1e-3).all()
    l1 = encode(X, D, lam, bias=0.1 * np.ones(3), tol=1e-10, engine="torch").codes
    assert solution.value <= problem.primal_value(problem.candidate(l1, problem.fixed_bias().numpy()))
    assert solution.status in (Status.BOUNDED, Status.CERTIFIED)


def test_an_inflated_bound_is_caught(rng, monkeypatch):
    """The negative control: 1 % more lies above what enumeration finds, and the referee sees the claim differ."""
    X, D = hard(rng, 7, 4)
    problem = PenalizedCodes(X, D, 0.1, L0())
    solution, best = solve(problem), enumerated(X, D, L0(), 0.1)
    assert (1.01 * problem.row_bounds(solution).bounds > best + 1e-12).any()
    high = replace(solution, lower_bound=1.01 * solution.lower_bound)
    assert certify(high).objections
    short = solve(replace(problem, penalty=TopK(2), lam=1.0))
    known = support_bounds.row_bounds

    def wrong(*given):
        found = known(*given)
        return RowBounds(1.01 * found.bounds, found.is_exact, found.nodes, found.supports)

    monkeypatch.setattr("cvxsae.relaxations.convex.penalized_codes.row_bounds", wrong)
    assert (short.problem.row_bounds(short).bounds > enumerated(X, D, TopK(2), 1.0) + 1e-12).any()


def test_few_nodes_leave_a_true_gap(rng, monkeypatch):
    monkeypatch.setattr(support_bounds, "NODES", 3)
    X, D = rng.normal(size=(4, 6)), rng.normal(size=(12, 6))
    problem = PenalizedCodes(X, D, 0.02, L0())
    solution = solve(problem)
    found = problem.row_bounds(solution)
    assert solution.status is Status.BOUNDED and not found.is_exact.all() and found.nodes.max() == 3
    assert (found.bounds <= enumerated(X, D, L0(), 0.02) + 1e-12).all()
    assert any("exceeds tol" in said for said in certify(solution).objections)


def test_what_is_refused():
    X, D = np.eye(3), np.eye(3)
    with rejects("bias is 'free' with the penalty 'L0'"):
        PenalizedCodes(X, D, 0.1, L0(), bias="free")
    with rejects("lam is 0.1 but the penalty 'TopK' is a limit"):
        PenalizedCodes(X, D, 0.1, TopK(2))
    with rejects("solver is 'proximal-gradient', which needs a convex penalty"):
        solve(PenalizedCodes(X, D, 0.1, L0()), solver="proximal-gradient")
    with rejects("solver is 'local-search', which is for penalties that are not convex"):
        from cvxsae.penalties import L1

        solve(PenalizedCodes(X, D, 0.1, L1()), solver="local-search")
    with rejects("k is 0"):
        TopK(0)
    beyond = PenalizedCodes(X, D, 1.0, TopK(1))
    codes = np.ones((3, 3))
    assert any("not allowed (TopK)" in one for one in certify(beyond, beyond.candidate(codes, np.zeros(3))).objections)


def test_bounds_hold_where_atoms_are_nearly_parallel_or_opposite(rng):
    """Rounding grows as one over the angle: what is attained by codes that were made first is never below a bound."""
    for angle in (1e-2, 1e-4, 1e-5, 1e-7, 1e-9):
        u, v = np.linalg.qr(rng.normal(size=(4, 2)))[0].T
        for side in (1, -1):
            D = np.stack([np.cos(angle) * u + np.sin(angle) * v, side * np.cos(angle) * u + np.sin(angle) * v])
            Z = np.array([[1.0, 2.0], [3.0, 0.5]]) / (angle if side < 0 else 1.0)
            X = Z @ unit(D) + 1e-3 * rng.normal(size=(2, 4))
            for penalty, lam in ((TopK(2), 1.0), (L0(), 1e-6)):
                problem = PenalizedCodes(X, D, lam, penalty)
                attained = problem.row_values(problem.candidate(Z, np.zeros(4)))
                loose = problem.row_bounds(problem.zero_candidate()).bounds
                assert (loose <= attained + 1e-15 * np.sum(X**2, axis=1)).all()


def test_codes_far_below_the_scale_of_a_log(rng):
    """With ε far above the codes a log is L1: no digits are lost on the way to the best single code."""
    for epsilon in (1e8, 1e12, 1e16, 1e20, 1e200):
        np.testing.assert_allclose(Log(epsilon).radial(np.array([3.0]), 1.0), 2.5, rtol=1e-7)
        solution = solve(PenalizedCodes([[3.0, 0.0]], [[1.0, 0.0]], 1.0, Log(epsilon)))
        assert solution.is_certified and solution.value == pytest.approx(2.5, rel=1e-7)


@pytest.mark.parametrize(("penalty", "lam"), [(L0(), 0.02), (TopK(4), 1.0), (Log(0.3), 0.1)], ids=str)
def test_limits_are_honored(penalty, lam, rng, monkeypatch):
    """No time: codes and a bound that hold, and the status says so; likewise after an interrupt in the search."""
    monkeypatch.setattr(support_bounds, "NODES", 20)
    X, D = rng.normal(size=(10, 8)), rng.normal(size=(20, 8))
    problem = PenalizedCodes(X, D, lam, penalty)
    solution = solve(problem, max_seconds=1e-6, raise_on_failure=False)
    assert solution.status is Status.TIME_LIMIT and 0 <= solution.lower_bound <= solution.value
    assert not [said for said in certify(solution).objections if "exceeds tol" not in said]

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvxsae.solvers.convex.nonconvex._dual", interrupted)
    solution = solve(problem, raise_on_failure=False)
    assert solution.status in (Status.INTERRUPTED, Status.CERTIFIED) and solution.lower_bound <= solution.value


def test_branch_and_bound_ends_with_the_time(rng):
    X, D = rng.normal(size=(3, 6)), rng.normal(size=(12, 6))
    problem = PenalizedCodes(X, D, 0.02, L0())
    with until(0.0):
        found = support_bounds._branched(X[0], problem.atoms.numpy(), 0.02, L0(), 1.0)
    assert found.looked == 0 and found.low == 0 and not found.is_exact


def test_too_many_exchanges_leave_a_bound(rng, monkeypatch):
    def fails(*given):
        raise RuntimeError("too many")

    monkeypatch.setattr("scipy.optimize.nnls", fails)
    X, D = rng.normal(size=(1, 3)), rng.normal(size=(4, 3))
    found = support_bounds.row_bounds(X, unit(D), 0.1, L0(), np.sum(X**2, axis=1) / 2)
    assert not found.is_exact.any() and (found.bounds >= 0).all()
