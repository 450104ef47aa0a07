"""Codes under L0, TopK and log penalties: against enumeration of all supports, closed forms, and grids."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import nnls

from cvxsae import PenalizedCodes, Status, encode, solve_globally
from cvxsae.data.deadline import until
from cvxsae.penalties import L0, Log, TopK, TopOne, radial_bound
from cvxsae.relaxations.convex import box_bounds, support_bounds
from cvxsae.relaxations.convex.coherence import Coherence
from cvxsae.relaxations.convex.support_bounds import RowBounds
from tests.helpers.problems import certify, solve, unit
from tests.helpers.sentences import rejects


def enumerated(X, D, penalty, lam):
    """The least cost over all supports, by nonnegative least squares on every one."""
    atoms, best = unit(D), np.sum(X**2, axis=1) / 2
    if isinstance(penalty, L0):  # the ridge as written: √(λρ) z beside the residual
        atoms = np.hstack([atoms, np.sqrt(lam * penalty.ridge) * np.eye(len(D))])
        X = np.hstack([X, np.zeros((len(X), len(D)))])
    most = penalty.k if isinstance(penalty, TopK) else len(D)
    for size in range(1, most + 1):
        for support in combinations(range(len(D)), size):
            errors = [nnls(atoms[list(support)].T, x)[1] ** 2 / 2 for x in X]
            best = np.minimum(best, np.array(errors) + (lam * size if isinstance(penalty, L0) else 0.0))
    return best


def dense(solution):
    """The codes as an array."""
    return sp.csr_array(solution.codes).toarray()


def hard(rng, K, d, n=4):
    """With a zero row, a repeated, a nearly repeated and an opposite atom."""
    X, D = rng.normal(size=(n, d)), rng.normal(size=(K, d))
    X[0], D[1], D[3], D[4] = 0, D[0], D[2] + 0.01 * D[3], -D[2]
    return X, D


@pytest.mark.slow
@pytest.mark.parametrize(
    ("penalty", "lam"),
    [
        (L0(), 0.3),
        (L0(), 0.02),
        (L0(0.05), 0.3),
        (L0(2.0), 0.02),
        (L0(1e-6), 0.1),
        (TopK(1), 1.0),
        (TopK(3), 1.0),
        (TopOne(), 1.0),
    ],
    ids=str,
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


@pytest.mark.parametrize(("penalty", "lam"), [(L0(), 0.05), (L0(2.0), 0.05), (TopK(2), 1.0), (TopK(4), 1.0)], ids=str)
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
        return RowBounds(1.01 * found.bounds, found.is_exact, found.nodes, found.codes)

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


def test_jumprelu_is_optimal_for_orthonormal_atoms(rng):
    """λ = θ²/2; with a ridge, codes shrink and the threshold grows."""
    D, X, threshold = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.normal(size=(8, 6)), 0.7
    lam, q = threshold**2 / 2, X @ D.T
    solution = solve(PenalizedCodes(X, D, lam, L0()))
    np.testing.assert_allclose(dense(solution), np.where(q > threshold, q, 0), atol=1e-12)
    shrunk = 1 + 3.0 * lam
    solution = solve(PenalizedCodes(X, D, lam, L0(3.0)))
    np.testing.assert_allclose(dense(solution), np.where(q > threshold * np.sqrt(shrunk), q / shrunk, 0), atol=1e-12)
    prox = L0(3.0).prox(torch.from_numpy(q), lam).numpy()
    np.testing.assert_allclose(prox, dense(solution), atol=1e-12)


def test_the_perspective_bound_is_that_of_the_formula_and_a_doubled_threshold_is_caught(rng, monkeypatch):
    """Where codes are many and the ridge is large it says more than any other; a wrong one is too high."""
    monkeypatch.setattr(support_bounds, "MOST_BRANCHED", 0)
    X, D, lam, ridge = rng.normal(size=(12, 6)), rng.normal(size=(9, 6)), 0.05, 8.0
    D[1], D[3], D[4] = D[0], D[2] + 0.01 * D[3], -D[2]
    problem, best = PenalizedCodes(X, D, lam, L0(ridge)), enumerated(X, D, L0(ridge), lam)
    solution = solve(problem)
    Y, t = solution.dual, np.maximum(solution.dual @ unit(D).T, 0)
    written = (X * Y).sum(axis=1) - (Y**2).sum(axis=1) / 2
    written -= np.maximum(t**2 / (2 * lam * ridge) - lam, 0).sum(axis=1)
    bounds = problem.row_bounds(solution).bounds
    assert (written <= best + 1e-12).all() and (bounds >= written - 1e-9).all() and (bounds <= best + 1e-12).all()
    without = problem.row_bounds(replace(problem.candidate(solution.codes, solution.bias), dual=None)).bounds
    assert np.mean(best - bounds) < 0.5 * np.mean(best - without)
    for moved in (0.5 * Y, rng.normal(size=X.shape), 100 * Y):
        at = replace(problem.candidate(solution.codes, solution.bias), dual=moved)
        assert (problem.row_bounds(at).bounds <= best + 1e-12).all()
    known = L0.conjugate

    def doubled(self, T, lam, most):
        return np.where(2 * lam * np.sqrt(2 * self.ridge) < T, known(self, T, lam, most), 0.0)

    monkeypatch.setattr(L0, "conjugate", doubled)
    problem = PenalizedCodes(X, D, 0.5, L0(2.0))
    best, values = enumerated(X, D, L0(2.0), 0.5), np.full(12, 1e3)
    given = (X, unit(D), 0.5, L0(2.0), values, X, Coherence.of(torch.from_numpy(unit(D)), 1))
    assert (support_bounds.dual_bounds(*given) > best + 0.1).any()
    solution = solve(problem)
    monkeypatch.setattr(L0, "conjugate", known)
    assert (support_bounds.dual_bounds(*given) <= best).all()
    assert any("claims the lower bound" in said for said in certify(solution).objections)


def test_the_envelope_of_a_price_with_a_ridge_is_the_reverse_huber_function():
    penalty, lam, step = L0(0.8), 0.3, 0.7
    z, v = np.linspace(0, 20, 20001), np.linspace(-2, 4, 61)
    own = lam * ((z > 0) + 0.4 * z**2)
    hull = np.where(z <= np.sqrt(2 / 0.8), lam * np.sqrt(1.6) * z, own)
    assert (hull <= own + 1e-15).all() and (np.diff(hull, 2) >= -1e-12).all()
    far = np.full((1, 1), np.inf)
    for most in (np.inf, 1.2):
        allowed = z <= most
        expected = (v[:, None] * z - own)[:, allowed].max(axis=1)
        np.testing.assert_allclose(penalty.conjugate(v[None], lam, np.minimum(far, most))[0], expected, atol=1e-5)
    expected = z[((z - v[:, None]) ** 2 / 2 + step * hull).argmin(axis=1)]
    np.testing.assert_allclose(
        penalty.envelope_prox(torch.from_numpy(v[None]), lam, step)[0].numpy(), expected, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_twenty_four_atoms_with_a_ridge_close(ridge, rng):
    X, D = rng.normal(size=(2, 12)), rng.normal(size=(24, 12))
    D[1], D[3], D[4] = D[0], D[2] + 0.01 * D[3], -D[2]
    problem = PenalizedCodes(X, D, 0.05, L0(ridge))
    solution = solve(problem)
    assert solution.is_certified and certify(solution).is_certified and problem.row_bounds(solution).is_exact.all()


def on_a_grid(x, atoms, lam, epsilon, rounds=6):
    """The least cost under a log of one datapoint: a grid, and finer ones about its best points."""
    best, starts, width = np.inf, np.zeros((1, len(atoms))), 4.0
    axis = np.linspace(0, 1, 25)
    unit_grid = np.stack(np.meshgrid(*[axis] * len(atoms), indexing="ij"), axis=-1).reshape(-1, len(atoms))
    for _ in range(rounds):
        Z = np.maximum(starts[:, None] + width * (unit_grid[None] - (0.5 if width < 4 else 0)), 0).reshape(
            -1, len(atoms)
        )
        cost = np.sum((x - Z @ atoms) ** 2, axis=1) / 2 + lam * epsilon * np.log1p(Z / epsilon).sum(axis=1)
        order = np.argsort(cost)[:3]
        best, starts, width = min(best, cost[order[0]]), Z[order], width / 8
    return best


@pytest.mark.slow
@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize(("lam", "epsilon"), [(0.3, 0.3), (0.1, 0.02)])
def test_few_atoms_under_a_log_are_solved_exactly(K, lam, epsilon, rng):
    for kind in ("plain", "near", "opposite", "repeated"):
        X, D = rng.normal(size=(2, 3)), rng.normal(size=(K, 3))
        X[0] = 0.7 * D[0]
        if K > 1:
            D[1] = {"plain": D[1], "near": D[0] + 0.05 * D[1], "opposite": -D[0], "repeated": D[0]}[kind]
        problem = PenalizedCodes(X, D, lam, Log(epsilon))
        solution = solve(problem)
        found, values = problem.row_bounds(solution), problem.row_values(solution)
        grid = np.array([on_a_grid(x, unit(D), lam, epsilon) for x in X])
        assert (found.bounds <= grid + 1e-12).all() and (values <= grid + 1e-6).all()
        assert found.is_exact.all() and solution.is_certified and certify(solution).is_certified


def test_nodes_of_a_price_with_a_ridge_are_bounded_by_what_is_in_them(rng):
    """Some atoms in, some out; a node in which what is undecided was taken to be out is caught."""
    atoms, lam, penalty = unit(rng.normal(size=(4, 3))), 0.4, L0(1.5)
    atoms[1] = -atoms[0]
    boxes, caught = box_bounds.Priced(atoms, lam, penalty), 0
    for _ in range(40):
        x, state = 2 * rng.normal(size=(1, 3)), rng.integers(0, 3, 4)
        box = np.stack([state == 2, state > 0]).astype(float)[None]
        Z = rng.exponential(size=(400, 4)) * (rng.random((400, 4)) < 0.6) * (state > 0)
        Z[:, state == 2] = np.maximum(Z[:, state == 2], 1e-9)
        attained = boxes.values(np.repeat(x, 400, axis=0), Z).min()
        best = boxes.relaxed(x, np.zeros((1, 4)), box)
        for Y in (x - best @ atoms, rng.normal(size=(1, 3))):
            assert boxes.lows(x, Y, box)[0] <= attained
        without = np.stack([box[:, 0], box[:, 0]], axis=1)  # as if what is undecided were out
        caught += boxes.lows(x, x - boxes.relaxed(x, best, without) @ atoms, without)[0] > attained
    assert caught


def test_boxes_under_a_log_are_bounded_by_what_is_in_them(rng):
    """Whatever the box and the dual point; with the chord in the place of the least of the two ends it is caught."""
    atoms, penalty, lam = unit(rng.normal(size=(3, 4))), Log(0.2), 0.3
    boxes, caught = box_bounds.Curved(atoms, lam, penalty), 0
    for _ in range(60):
        x, low = rng.normal(size=(1, 4)), rng.exponential(size=3) * rng.integers(0, 2, 3)
        box = np.stack([low, low + rng.exponential(size=3)])[None]
        Z = box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random((400, 3)) ** 3
        attained = boxes.values(np.repeat(x, 400, axis=0), Z).min()
        best = boxes.relaxed(x, box[:, 0], box)
        for Y in (x - best @ atoms, rng.normal(size=(1, 4))):
            assert boxes.lows(x, Y, box)[0] <= attained
        tangent = lam * 0.2 / (0.2 + box[:, 0])  # of a concave function tangents lie above
        T = (x - best @ atoms) @ atoms.T
        above = lam * penalty.of_mass(box[:, 0])
        charge = np.maximum((box * T[:, None] - above[:, None] - tangent[:, None] * (box - box[:, :1])), -9e9).max(
            axis=1
        )
        Y = x - best @ atoms
        caught += (Y * x).sum() - (Y**2).sum() / 2 - charge.sum() > attained
    assert caught


def test_the_first_box_of_a_log_holds_optimal_codes(rng):
    D = rng.normal(size=(6, 3))
    D[1], D[3], D[4] = D[0], D[2] + 0.2 * D[3], -D[2]
    most = box_bounds.reaches(unit(D))
    assert most[1] == 0 and np.isfinite(most).all() and most[2] > 3
    X = rng.normal(size=(5, 3))
    codes = dense(solve(PenalizedCodes(X, D, 0.2, Log(0.3))))
    codes[:, 0] = codes[:, :2].max(axis=1)
    codes[:, 1] = 0
    assert (codes <= np.linalg.norm(X, axis=1)[:, None] * most * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [L0(0.5), Log(0.2)], ids=str)
def test_branch_and_bound_ends_where_time_does_and_interrupts_pass(penalty, rng, monkeypatch):
    X, D = rng.normal(size=(5, 6)), rng.normal(size=(10, 6))
    problem = PenalizedCodes(X, D, 0.05, penalty)
    solution = solve(problem)
    with until(0.0):
        late = problem.row_bounds(solution)
    whole = problem.row_bounds(solution)
    assert not late.nodes.any() and (late.bounds <= whole.bounds + 1e-12).all()
    monkeypatch.setattr(support_bounds, "NODES", 4)
    some = problem.row_bounds(solution)
    assert some.nodes.max() <= 4 and (some.bounds <= whole.bounds + 1e-12).all()

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(box_bounds.Boxes, "relaxed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        problem.row_bounds(solution)
    ended = solve(problem, raise_on_failure=False)
    assert ended.status is Status.INTERRUPTED and ended.lower_bound == 0


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
    with rejects("ridge is -1"):
        L0(-1.0)
    with rejects("penalty 'L0' has no bound by the sum of the codes .* superadditive"):
        radial_bound(X, 0.1, L0(1.0))
    with rejects("penalty is L0 with the ridge 1,"):
        solve_globally(X, 2, 0.1, penalty=L0(1.0))
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
    for ridge in (0.0, 0.01):
        found = support_bounds.row_bounds(X, unit(D), 0.1, L0(ridge), np.sum(X**2, axis=1) / 2)
        assert (found.bounds >= 0).all() and (ridge or not found.is_exact.any())
