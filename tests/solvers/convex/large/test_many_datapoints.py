"""What is done beyond 1,500 datapoints, forced on few: proofs by Cholesky, splitting in float32, starts that share."""

import gc
import math
import time
from dataclasses import replace
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxsae import LargeDictionary, certify, solve
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import interruptible
from cvxsae.relaxations import linalg, proofs
from cvxsae.relaxations.convex.large_dictionary import similarity_value
from cvxsae.relaxations.proofs import NonnegativeProof, pencil_bound
from cvxsae.relaxations.solution import Status, relative_gap
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large import admm, dual, factorized, relaxation, rounding
from tests.helpers import problems

TAU = 3.0


@pytest.fixture
def factorized_proofs(monkeypatch):
    """Proofs as for many datapoints, from two datapoints on."""
    for module in (linalg, proofs):
        monkeypatch.setattr(module, "FACTORIZED_ORDER", 1)


def pencil(rng, n=40, d=5):
    Y = torch.from_numpy(rng.normal(size=(n, d)))
    P = torch.from_numpy(np.abs(rng.normal(size=(n, n))))
    return Y @ Y.T, P + P.T


@pytest.mark.parametrize("with_multiplier", [False, True])
def test_the_factorized_bound_is_just_above_the_eigenvalue(with_multiplier, rng, monkeypatch):
    gram, P = pencil(rng)
    multiplier = P if with_multiplier else None
    exact = pencil_bound(gram, multiplier, TAU, 5)
    monkeypatch.setattr(proofs, "FACTORIZED_ORDER", 1)
    found = pencil_bound(gram, multiplier, TAU, 5)
    assert exact * (1 - 1e-12) <= found <= exact * (1 + 1e-4)
    price = torch.ones_like(gram) + TAU * torch.eye(len(gram))
    left = found**2 * price - gram - (P if with_multiplier else 0)
    assert float(torch.linalg.eigvalsh(left)[0]) >= -1e-12 * float(left.diagonal().sum())


def test_a_target_is_proved_or_refused(rng, factorized_proofs):
    gram, P = pencil(rng)
    found = pencil_bound(gram, P, TAU, 5)
    assert pencil_bound(gram, P, TAU, 5, target=found) == found  # again, with what rounding may take
    assert pencil_bound(0.49 * gram, 0.49 * P, TAU, 5, target=0.7 * found) <= 0.7 * found
    assert pencil_bound(gram, P, TAU, 5, target=2 * found) == 2 * found
    for share in (0.0, 0.9, 0.999):  # the control: what is not true is not proved
        assert pencil_bound(gram, P, TAU, 5, target=share * found) > share * found


def test_false_multipliers_prove_less(rng, factorized_proofs):
    gram, P = pencil(rng)
    attained = math.sqrt(float((gram / (1 + TAU * torch.eye(len(gram)))).diagonal().max()))  # of one datapoint
    for false in (-1e9 * P, 1e9 * P, torch.full_like(P, math.nan), torch.full_like(P, math.inf)):
        proved = NonnegativeProof(false.numpy()).polar_bound(gram, TAU, 5, attained / 2)
        assert not proved < attained


def test_a_shift_is_proved_only_of_what_is_semidefinite(rng):
    A = torch.from_numpy(rng.normal(size=(30, 30)))
    positive = A @ A.T + 0.1 * torch.eye(30)
    assert 0 < linalg.semidefinite_shift(positive) < 1e-10
    below = positive.clone()
    below.diagonal().sub_(torch.linalg.eigvalsh(positive)[0] + 1e-6)
    assert linalg.semidefinite_shift(below) == math.inf
    assert linalg.semidefinite_shift(torch.full((3, 3), math.nan, dtype=torch.float64)) == math.inf


def test_a_shift_counts_what_underflow_hides():
    """An indefinite matrix of subnormal numbers that a factorization runs through: its fractions are rounded off."""
    units = np.diag([3, 3, 3, 3, 5]) + 0
    units[4, :4] = units[:4, 4] = 2  # the Schur complement is 5 − 4·4/3 < 0, and each 4/3 is rounded to 1
    least = float(np.linalg.eigvalsh(units)[0])
    assert least < -1e-2
    matrix = torch.from_numpy(units * np.nextafter(0.0, 1.0))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    assert int(failed) == 0 and bool((factor.diagonal() > 0).all())  # the factorization sees nothing
    assert linalg.semidefinite_shift(matrix) >= -least * np.nextafter(0.0, 1.0)
    assert (len(units) + 8) * linalg.EPS * float(matrix.diagonal().sum()) == 0  # what relative errors would allow


def test_the_least_eigenvalue_is_bounded_from_below(rng, factorized_proofs):
    A = torch.from_numpy(rng.normal(size=(30, 30)))
    for matrix in (A + A.T, A[:, :5] @ A[:, :5].T, torch.zeros((4, 4), dtype=torch.float64)):
        exact, size = float(torch.linalg.eigvalsh(matrix)[0]), float(torch.linalg.matrix_norm(matrix))
        assert exact - 1e-4 * size <= linalg.least_eigenvalue(matrix) <= exact + 1e-12 * size


def test_lanczos_finds_the_largest_eigenvalue(rng):
    A = torch.from_numpy(rng.normal(size=(60, 60)))
    for matrix in (A + A.T, torch.eye(60, dtype=torch.float64)):
        exact = float(torch.linalg.eigvalsh(matrix)[-1])
        estimate = linalg.largest_eigenvalue(matrix.mv, matrix[0])
        assert exact * (1 - 1e-3) <= estimate <= exact * (1 + 1e-12)


@pytest.mark.slow
def test_an_improved_multiplier_proves_more(rng):
    X = problems.gaussian(rng, 40, 6)
    problem = LargeDictionary(X, 0.3, 10.0, bias=None)
    Y = torch.from_numpy(0.3 * X)
    level = float(problem.penalty.matrix_polar(Y).upper)
    P = torch.from_numpy(NonnegativeProof.one_shot((Y @ Y.T).numpy(), level).P)
    better = dual.improved_multiplier(Y, P, level, 10.0, 20, torch.float32)
    assert float(better.min()) >= 0
    assert torch.equal(better, better.T)
    assert pencil_bound(Y @ Y.T, better, 10.0, 6) < pencil_bound(Y @ Y.T, P, 10.0, 6)


def worth(X, Y):
    """What Y is worth for these rows, in sum units."""
    return float((X * Y).sum() - Y.square().sum() / 2)


@pytest.mark.parametrize("shape", [(9, 3), (5, 7)])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_best_residual_is_that_of_a_conic_solver(dtype, rounding, centered, shape, rng):
    n, d = shape
    X = torch.from_numpy(rng.normal(size=shape))
    X = X - X.mean(dim=0) if centered else X
    start = 0.2 * X
    P = torch.from_numpy(NonnegativeProof.one_shot((start @ start.T).numpy(), 0.2).P)
    polar = pencil_bound(start @ start.T, P, 4.0, d)
    lam = 0.8 * polar
    found = dual.best_residual(X, start, P, lam, 4.0, polar, dtype, centered=centered)
    assert found is not None
    Y, shrunk = found
    assert pencil_bound(Y @ Y.T, shrunk, 4.0, d) <= lam * (1 + max(1e-6, rounding))
    unknown = cp.Variable(X.shape)
    slack = lam**2 * (1 + 4.0 * np.eye(n)) - shrunk.numpy()
    constraints = [cp.bmat([[slack, unknown], [unknown.T, np.eye(d)]]) >> 0]
    constraints += [cp.sum(unknown, axis=0) == 0] if centered else []
    best = cp.Problem(cp.Maximize(cp.sum(cp.multiply(X.numpy(), unknown)) - cp.sum_squares(unknown) / 2), constraints)
    best.solve(solver=cp.CLARABEL)
    assert float(Y.sum(dim=0).abs().max()) < rounding or not centered
    shrunken = worth(X, lam / polar * start)
    assert shrunken < worth(X, Y) <= best.value * (1 + max(1e-6, rounding))
    assert worth(X, Y) - shrunken > 0.99 * (best.value - shrunken)


def test_the_best_residual_of_one_datapoint_is_as_long_as_its_polar_allows():
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    nothing = torch.zeros((1, 1), dtype=torch.float64)
    found = dual.best_residual(x, 0.1 * x, nothing, 0.7, 3.0, 0.7, torch.float64, centered=False)
    assert found is not None
    torch.testing.assert_close(found[0], x / 5 * 0.7 * 2, rtol=1e-5, atol=0)
    too_much = dual.best_residual(x, x, 1e3 + nothing, 0.7, 3.0, 0.7, torch.float64, centered=False)  # P for λ
    assert too_much is None


def test_a_polar_that_is_no_number_proves_nothing(rng):
    problem = LargeDictionary(problems.gaussian(rng, 9, 5), 0.3, 4.0, bias=None)
    X = problem.X.to_tensor()
    for polar in (math.nan, math.inf):
        assert dual.best_multiple(problem, X, X, None, polar).bound == 0
    assert dual.best_multiple(problem, X, X, None, float(torch.linalg.vector_norm(X))).bound > 0


def test_multiples_without_sum_are_feasible_in_exact_arithmetic():
    """In one dimension the polar is at most the largest entry; one unit of rounding too much is seen."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(9, 1))
        problem = LargeDictionary(X, 0.3, 4.0, bias="free")
        Y = torch.from_numpy(rng.normal(size=(9, 1)))
        Y -= Y.mean()
        Y *= 1 if float((torch.from_numpy(X) * Y).sum()) > 0 else -1
        point = dual.best_multiple(problem, problem.X.to_tensor(), Y, None, float(Y.abs().max()))
        entries = [Fraction(each) for each in point.Y.ravel().tolist()]
        assert any(entries)
        assert sum(entries) == 0
        assert max(map(abs, entries)) <= Fraction(problem.lam)


@pytest.fixture
def midway(rng):
    """A splitting after 15 steps, with its problem and its data."""
    problem = LargeDictionary(problems.gaussian(rng, 30, 5), 0.3, 10.0, bias=None)
    X = problem.X.to_tensor()
    data = admm.cone_data(X, problem.lam, problem.atom_cost, centered=False)
    state = admm.start(data, torch.eye(30, dtype=torch.float64), X / 2, X / 2)
    for _ in range(15):
        state = admm.advance(data, state, balanced=False)
    return problem, data, state


def test_another_step_size_leaves_the_points_alone(midway):
    _, data, state = midway
    other = admm.stepped(state, 3.0)
    assert other.rigidity == 3 * state.rigidity
    for point in (admm.dual_point, lambda *given: (admm.clipped_similarity(*given), admm.feasible_similarity(*given))):
        for before, after in zip(point(data, state), point(data, other), strict=True):
            torch.testing.assert_close(before, after)


def test_the_step_size_follows_the_side_that_loses_more(midway):
    problem, data, state = midway
    accurate = solve(problem, tol=1e-6, raise_on_failure=False).lower_bound
    assert admm.estimated_objective(data, state) == pytest.approx(accurate, rel=0.02)
    estimate = admm.estimated_objective(data, state)

    def sigma(above, below):
        return admm.balanced_by_losses(data, state, estimate + above, estimate - below).rigidity / state.rigidity

    assert sigma(0.1, 0.001) == 2
    assert sigma(0.001, 0.1) == 0.5
    assert sigma(0.01, 0.01) == 1
    assert sigma(-0.001, 0.01) == 0.5  # the estimate is beyond the value, and so nothing is lost there
    assert sigma(0.01, -0.001) == 2
    assert sigma(-0.01, 0.01) == 1  # nothing is left to balance
    assert sigma(math.inf, 0.01) == sigma(math.nan, 0.01) == 1
    for above, below, most in ((0.1, 0.001, 8), (0.001, 0.1, 1 / 8)):  # not without end
        other = state
        for _ in range(6):
            other = admm.balanced_by_losses(data, other, estimate + above, estimate - below)
        assert other.rigidity == pytest.approx(most * state.rigidity)


def test_a_projected_similarity_is_feasible_and_costs_less(midway):
    problem, data, state = midway
    Q = dual.projected_similarity(data, state)
    assert float(Q.min()) >= 0
    assert torch.equal(Q, Q.T)
    assert float(torch.linalg.eigvalsh(Q)[0]) > -1e-9
    X = problem.X.to_tensor()
    worse = similarity_value(problem, admm.feasible_similarity(data, state), X, best_bias=False)
    assert similarity_value(problem, Q, X, best_bias=False) < worse


def test_improvements_wait_until_they_can_be_expected_to_close_the_gap(rng, monkeypatch):
    problem = LargeDictionary(problems.gaussian(rng, 20, 4), 0.1, 10.0, bias=None)
    solver = relaxation.DoublyNonnegative(1e-9)
    state = solver.init(problem, torch.device("cpu"))
    while state.phase == "descend" or state.rounds < 1:
        state = solver.step(problem, state)
    state = relaxation._evaluate(problem, replace(state, closing=0.0), 0.0)
    state = relaxation._advanced(state, 1, balanced=False)
    made = []

    def counted(*given):
        made.append(1)
        return dual.improved_multiplier(*given)

    monkeypatch.setattr(relaxation, "improved_multiplier", counted)
    before = relaxation._evaluate(problem, replace(state, closing=math.inf), state.solver_gap / 8)
    assert not made
    began, tol = relative_gap(*before.reached), before.solver_gap / 2
    assert 0 < before.solver_gap <= began
    enough = relaxation._HOPE * tol / began
    waited = relaxation._evaluate(problem, replace(state, closing=1.01 * enough), tol)
    assert not made
    assert waited.closing == pytest.approx(1.01 * enough * relaxation._FADING)
    closed = relaxation._evaluate(problem, replace(waited, closing=0.99 * enough), tol)
    assert len(made) == relaxation._IMPROVEMENTS
    assert closed.closing == pytest.approx(relative_gap(*closed.reached) / began)
    assert 0 < closed.closing < 1
    assert closed.reached[0] < state.best[0]  # a relaxed Q costs less than dictionary and codes
    last = relaxation.Patience(0.0, relaxation._PATIENCE - 1)
    relaxation._evaluate(problem, replace(state, closing=math.inf, patience=last), tol)
    assert len(made) == 2 * relaxation._IMPROVEMENTS  # before the splitting gives up, they are made


def test_what_improvements_closed_in_single_precision_is_forgotten_in_double(rng):
    problem = LargeDictionary(problems.gaussian(rng, 20, 4), 0.1, 10.0, bias=None)
    solver = relaxation.DoublyNonnegative(1e-9, single_precision_order=0)
    state = solver.init(problem, torch.device("cpu"))
    while state.phase == "descend":
        state = solver.step(problem, state)
    assert state.cone is not None and state.cone.cone.dtype == torch.float32
    idle = relaxation.Patience(0.0, relaxation._IMPRECISE - 1)
    state = solver.step(problem, replace(state, closing=0.7, patience=idle))
    assert state.cone is not None and state.cone.cone.dtype == torch.float64
    assert state.closing == 0


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_the_way_of_many_datapoints_gives_the_same_bounds(bias, rng, factorized_proofs, monkeypatch):
    problem = LargeDictionary(problems.clustered(rng, 30, 6), 0.3, 5.0, bias=bias)
    with monkeypatch.context() as dense:
        for module in (linalg, proofs):
            dense.setattr(module, "FACTORIZED_ORDER", 10**9)
        accurate = solve(problem, tol=1e-4, raise_on_failure=False)
    monkeypatch.setattr(factorized, "_ALL_DATAPOINTS", 10)
    monkeypatch.setattr(factorized, "_SPREAD_DATAPOINTS", 20)
    monkeypatch.setattr(relaxation, "_LARGE", 10)
    found = iterate(relaxation.DoublyNonnegative(2e-3, single_precision_order=0), problem, 2e-3, Run())
    assert found.status in (Status.CERTIFIED, Status.RELAXED)
    assert found.solver_gap is not None and found.relaxed_value is not None and accurate.relaxed_value is not None
    assert found.solver_gap <= 2e-3 * (1 + 1e-6)
    assert found.lower_bound <= accurate.relaxed_value * (1 + 1e-9)
    assert found.relaxed_value >= accurate.lower_bound * (1 - 1e-9)
    certificate = certify(problem, found, tol=1.0)
    assert certificate.is_certified, certificate.objections
    assert certificate.lower_bound == pytest.approx(found.lower_bound, rel=1e-9)


@pytest.mark.slow
def test_no_more_matrices_are_held_than_memory_is_asked_for(rng, factorized_proofs, monkeypatch):
    """Counted where the most are: at every proof, which makes the sum of YYᵀ and P, a difference and its factor."""
    n, d = 40, 4
    held: list[int] = []

    def counted(gram, P, *given):
        gc.collect()
        sizes: dict[int, int] = {}
        for each in gc.get_objects():
            if type(each) is torch.Tensor and min(each.shape, default=0) >= n:
                sizes[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
            elif type(each) is NonnegativeProof:
                sizes[each.P.ctypes.data] = each.P.nbytes
        held.append(sum(sizes.values()) + 8 * n**2 * (2 if P is None else 3))
        return pencil_bound(gram, P, *given)

    monkeypatch.setattr(relaxation, "pencil_bound", counted)
    monkeypatch.setattr(factorized, "_ALL_DATAPOINTS", 10)
    monkeypatch.setattr(factorized, "_SPREAD_DATAPOINTS", 20)
    monkeypatch.setattr(relaxation, "_LARGE", 10)
    monkeypatch.setattr(rounding, "SMALL", 10)
    # A checked call holds what it was called with, here an iterate before its step size is changed.
    monkeypatch.setattr(admm, "balanced_by_losses", lambda data, state, value, bound: state)
    problem = LargeDictionary(problems.gaussian(rng, n, d), 0.1, 10.0, bias=None)
    gc.freeze()
    solver = relaxation.DoublyNonnegative(2e-3, single_precision_order=0)
    state = solver.init(problem, torch.device("cpu"))
    while state.phase in ("descend", "split"):
        state = solver.step(problem, state)
    changed = 8 * n**2  # bytes of such an iterate: a multiplier and what was clipped, in float32
    assert 10 < (max(held) + changed) / (8 * n**2) < rounding._SQUARES


def test_rounding_by_columns_is_pivoted_cholesky(rng):
    Q = torch.from_numpy(np.abs(rng.normal(size=(12, 5))))
    Q = Q @ Q.T
    rest, columns = Q.clone(), []
    for _ in range(4):
        pivot = int(rest.diagonal().argmax())
        column = rest[:, pivot].clamp(min=0) / rest[pivot, pivot].sqrt()
        rest = rest - torch.outer(column, column)
        columns.append(column)
    assert torch.allclose(rounding.cholesky_columns(Q, 4), torch.stack(columns, dim=1))


def test_the_deadline_is_heard_inside_a_native_call():
    begun = time.perf_counter()
    with pytest.raises(OutOfTime), until(begun + 0.05):
        interruptible(lambda: time.sleep(1))
    assert interruptible(lambda: 3) == 3


@pytest.mark.slow
def test_many_datapoints_get_as_many_columns_as_q_asks_for(rng, monkeypatch):
    """The start has few columns; an answer that had no more would be far above the relaxation."""
    problem = LargeDictionary(problems.gaussian(rng, 40, 12), 0.1, 2.0, bias=None)
    whole = solve(problem, tol=1e-3, raise_on_failure=False)
    monkeypatch.setattr(factorized, "_ALL_DATAPOINTS", 10)
    monkeypatch.setattr(factorized, "_SPREAD_DATAPOINTS", 8)
    many = solve(problem, tol=1e-3, raise_on_failure=False)
    assert whole.info["live_atoms"] > 16 and many.info["live_atoms"] > 16
    assert many.value <= 1.02 * whole.value
    monkeypatch.setattr(rounding, "_COLUMNS", 0)  # the control: as few as it started with
    assert solve(problem, tol=1e-3, raise_on_failure=False).value > 1.05 * whole.value


def test_coarse_descents_are_evaluated_in_double(rng):
    problem = LargeDictionary(problems.clustered(rng, 30, 6), 0.3, 5.0, bias=None)
    state = factorized.Factorized().init(problem, torch.device("cpu"))
    fine, coarse = (
        factorized.Factorized(60, precision).descended(problem, state) for precision in (torch.float64, torch.float32)
    )
    assert coarse.factor.dtype == torch.float64
    assert rounding.attained(problem, coarse) == pytest.approx(rounding.attained(problem, fine), rel=1e-4)


@pytest.mark.slow
def test_an_answer_without_atoms_ends_the_descent(monkeypatch):
    """Where the splitting gives up near Q = 0, all columns read off it can die in the descent."""
    monkeypatch.setattr(factorized, "_ALL_DATAPOINTS", 20)
    monkeypatch.setattr(factorized, "_SPREAD_DATAPOINTS", 10)
    monkeypatch.setattr(relaxation, "_PATIENCE", 3)
    for seed in (0, 2, 5):
        rng = np.random.default_rng(seed)
        problem = LargeDictionary(rng.normal(size=(26, 4)), rng.uniform(0.9, 1.5), 20.0, bias=None)
        found = iterate(relaxation.DoublyNonnegative(1e-16), problem, 1e-16, Run())
        assert found.value <= problem.primal_value(problem.zero_candidate())
        assert found.gap <= 1e-4
    assert rounding.most_rounds(problem, 0, steps=100) == 0


@pytest.mark.parametrize("size", [1e-60, 1e-18, 1e60])
def test_descents_do_not_depend_on_the_unit_of_the_data(size, rng):
    """Data too small for a step of length one to move a factor were not descended on at all."""
    X = problems.clustered(rng, 30, 6)
    values = []
    for unit in (1.0, size):
        problem = LargeDictionary(unit * X, 0.3 * unit, 5.0, bias=None)
        state = factorized.Factorized().init(problem, torch.device("cpu"))
        found = factorized.Factorized().descended(problem, state)
        values.append(rounding.attained(problem, found) / unit**2)
    assert values[1] == pytest.approx(values[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-60, 1e40, 1e100])
def test_data_that_float32_cannot_hold_are_descended_on_in_double(size, rng, monkeypatch):
    monkeypatch.setattr(rounding, "SMALL", 10)
    problem = LargeDictionary(size * problems.clustered(rng, 30, 6), 0.3 * size, 5.0, bias=None)
    state = factorized.Factorized().init(problem, torch.device("cpu"))
    for is_last in (False, True):
        found = rounding.descended(problem, state, 1e-4, is_last=is_last)
        assert rounding.attained(problem, found) < rounding.attained(problem, state)
