"""Refit, the λ of a wanted L0, interruption and deadlines."""

import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import nnls

from cvxsae.data.activations import Activations
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes import plan, refit
from cvxsae.solvers.codes.encode import encode, encode_rows
from cvxsae.solvers.codes.engines import make_engine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import InterruptedBlockError, Tuning
from cvxsae.solvers.codes.paths import lambda_for_l0, lambda_max
from cvxsae.solvers.codes.refit import nonnegative_least_squares
from cvxsae.solvers.codes.rounds import solve_block
from cvxsae.validation.certify import certify
from tests.solvers.codes.test_encode import check, unit


def interrupt_after(monkeypatch, blocks):
    """Ctrl-C, as if pressed while that block is solved."""
    solved = []
    lock = threading.Lock()

    def interrupting(*args, **kwargs):
        with lock:
            solved.append(1)
            if len(solved) == blocks:
                raise KeyboardInterrupt
        return solve_block(*args, **kwargs)

    monkeypatch.setattr(plan, "solve_block", interrupting)


def problem(seed=0, n=60, d=16, K=60):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), unit(rng, K, d)


def test_refit_is_nonnegative_least_squares_on_the_support():
    X, D = problem()
    codes = encode(X, D, 0.5, tol=1e-8)
    fitted = codes.refit()
    for row, x in enumerate(X):
        support = codes.codes.indices[codes.codes.indptr[row] : codes.codes.indptr[row + 1]]
        if len(support):
            _, expected = nnls(D[support].T, x)
            reached = np.linalg.norm(x - fitted.codes[[row]].toarray()[0] @ D)
            assert reached == pytest.approx(expected, rel=1e-10)
    assert fitted.stationarity.max() < 1e-10
    assert fitted.fvu_after < fitted.fvu_before
    assert fitted.shrinkage_before < 1
    assert fitted.shrinkage_after == pytest.approx(1, abs=1e-10)
    residual = X - codes.codes.toarray() @ D
    assert fitted.fvu_before == pytest.approx((residual**2).sum() / ((X - X.mean(0)) ** 2).sum(), rel=1e-12)


FAST = ("_solve_compiled", "_solve_in_groups")


def degenerate():
    """Duplicated and nearly equal atoms, and supports of more atoms than there are dimensions."""
    X, D = problem(4, n=80, d=8, K=24)
    D = np.vstack([D, D[:6], unit(np.random.default_rng(0), 6, 8) * 1e-8 + D[6:12]])
    return X, D / np.linalg.norm(D, axis=1, keepdims=True)


def with_only(fast, monkeypatch):
    """Refit by that way, and by the active set what it leaves; None: all by the active set."""
    for other in set(FAST) - {fast}:
        monkeypatch.setattr(refit, other, lambda *args: None)


@pytest.mark.parametrize("fast", FAST)
def test_supports_refitted_together_are_as_good_as_alone(fast, monkeypatch):
    """What the kernel, or pivoting in a batch, does not solve exactly, the active set does."""
    X, D = degenerate()
    codes = encode(X, D, 0.05, tol=1e-10)
    with_only(fast, monkeypatch)
    together = codes.refit()
    with_only(None, monkeypatch)
    alone = codes.refit()
    assert max(together.stationarity.max(), alone.stationarity.max()) < 1e-9
    assert together.fvu_after == pytest.approx(alone.fvu_after, rel=1e-9)
    assert together.fvu_before == pytest.approx(alone.fvu_before, rel=1e-12)


@pytest.mark.parametrize("fast", FAST)
def test_supports_from_anywhere_are_refitted_as_nnls_does(fast, monkeypatch):
    """Supports that no code was optimal on: most least squares solutions have negative entries, many are singular."""
    X, D = degenerate()
    rng = np.random.default_rng(1)
    chosen = [np.sort(rng.choice(len(D), size, replace=False)) for size in rng.integers(0, 20, len(X))]
    indptr = np.concatenate([[0], np.cumsum([len(c) for c in chosen])])
    start = rng.exponential(size=indptr[-1]) * (rng.random(indptr[-1]) < 0.7)
    rows = refit._Rows(indptr, np.concatenate(chosen), start)
    with_only(fast, monkeypatch)
    z = refit._solve_rows(D, X, rows)
    np.testing.assert_array_equal(rows.codes, start)
    assert (z >= 0).all()
    stopped = 0
    for x, own, support in zip(X, np.split(z, indptr[1:-1]), chosen, strict=True):
        expected = nnls(D[support].T, x)[1] if len(support) else np.linalg.norm(x)
        assert np.linalg.norm(x - own @ D[support]) == pytest.approx(expected, rel=1e-9)
        stopped += (own == 0).sum()
    assert stopped > 100
    stationarity, _ = refit._judge_rows(D, X, refit._Rows(indptr, rows.indices, z))
    assert stationarity.max() < 1e-9


def test_the_kernel_solves_what_is_regular_and_says_so():
    """Rows it gives up cost a hundred times as much: none of a usual problem, and not all of a degenerate one."""

    def share_solved(X, D, rows):
        solved = np.zeros(len(X), dtype=bool)
        refit._solve_compiled(D, X, rows, rows.codes.copy(), solved)
        return solved[np.diff(rows.indptr) > 0].mean()

    X, D = problem()
    assert share_solved(X, D, refit._Rows.of(encode(X, D, 0.5).codes)) == 1
    X, D = degenerate()
    rows = refit._Rows.of(encode(X, D, 0.05, tol=1e-10).codes)
    assert share_solved(X, D, rows) > 0.5
    assert share_solved(np.full_like(X, 1e200), D, rows) == 0


def test_refit_on_threads_gives_the_same_bits_as_on_one():
    X, D = problem(5, n=600)
    codes = encode(X, D, 0.5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = codes.refit()
        torch.set_num_threads(1)
        one = codes.refit()
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(several.codes.toarray(), one.codes.toarray())
    assert several.fvu_after == one.fvu_after


def test_an_interrupt_of_a_refit_passes_through(monkeypatch):
    X, D = problem(5, n=600)
    codes = encode(X, D, 0.5)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(refit, "_refit_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        codes.refit()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("refit")]


@pytest.mark.parametrize("judge", [refit._judge_rows, refit._judge_compiled])
def test_refit_notices_codes_that_are_wrong(judge):
    """Negative control: the check is made from the codes alone, whatever made them."""
    X, D = problem(1)
    fitted = refit._Rows.of(encode(X, D, 0.5).refit().codes)
    lengths = np.diff(fitted.indptr)
    stationarity, sums = judge(D, X, fitted)
    assert stationarity.max() < 1e-14
    residual = X - sp.csr_array((fitted.codes, fitted.indices, fitted.indptr), shape=(len(X), len(D))) @ D
    expected = [(residual**2).sum(1), ((X - residual) ** 2).sum(1), ((X - residual) * X).sum(1)]
    np.testing.assert_allclose(sums, np.stack(expected, axis=1), rtol=1e-12, atol=1e-12)
    for wrong in (1.01, -1.0):
        worse = refit._Rows(fitted.indptr, fitted.indices, fitted.codes * wrong)
        assert (judge(D, X, worse)[0][lengths > 0] > 1e-3).all()
    fitted.codes[fitted.indptr[:-1][lengths > 0]] = 0.0
    assert judge(D, X, fitted)[0].max() > 1e-3


def test_a_refit_says_of_each_datapoint_how_far_its_codes_are_from_right(monkeypatch):
    """Wrong codes of a few datapoints, in the first piece and in later ones, and in the place of each."""
    X, D = problem(n=600, d=12, K=20)
    codes = encode(X, D, 0.5)
    wrong = np.flatnonzero(np.diff(codes.codes.indptr) > 0)[[3, 300, 500]]
    solve_rows = refit._solve_rows

    def spoiled(atoms, x, rows):
        z = solve_rows(atoms, x, rows)
        for row in np.flatnonzero((x[:, None] == X[wrong]).all(axis=2).any(axis=1)):
            z[rows.indptr[row] : rows.indptr[row + 1]] *= 1.1
        return z

    monkeypatch.setattr(refit, "_solve_rows", spoiled)
    found = codes.refit()
    pulls, z, support = (X - found.codes @ D) @ D.T, found.codes.toarray(), codes.codes.toarray() > 0
    violations = np.where(z > 0, abs(pulls), np.maximum(pulls, 0.0)) * support
    expected = violations.max(axis=1)[wrong] / np.linalg.norm(X[wrong], axis=1)
    np.testing.assert_allclose(found.stationarity[wrong], expected, rtol=1e-9)
    assert min(expected) > 1e-3
    assert np.delete(found.stationarity, wrong).max() < 1e-10


def test_refit_with_a_bias_and_dependent_atoms():
    rng = np.random.default_rng(2)
    z = nonnegative_least_squares(np.eye(3)[[0, 0, 1]], np.array([2.0, -1.0, 0.0]), np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose([z[0] + z[1], z[2]], [2.0, 0.0], atol=1e-12)
    X, D = problem(3)
    b = rng.standard_normal(16)
    assert encode(X, D, 0.5, bias=b, tol=1e-6).refit().stationarity.max() < 1e-10


def test_refit_of_nothing():
    X, D = problem(4)
    fitted = encode(X, D, 100.0).refit()
    assert fitted.codes.nnz == 0
    assert fitted.stationarity.max() == 0


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_lambda_max_is_the_largest_correlation(scale):
    X, D = problem(5)
    b = np.ones(16) * 0.1
    assert lambda_max(X * scale, D, bias=b * scale) == pytest.approx(((X - b) @ D.T).max() * scale, rel=1e-13)
    assert lambda_max(-np.abs(X), np.eye(16)) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("target", [1.0, 3.0, 6.0])
def test_lambda_for_l0_hits_its_target(target):
    X, D = problem(7, n=200)
    lam = lambda_for_l0(X, D, target)
    assert encode(X, D, lam, tol=1e-6).l0 == pytest.approx(target, rel=0.03)


@pytest.mark.slow
def test_lambda_for_l0_says_when_it_cannot():
    X, D = problem(8)
    with pytest.raises(InputError, match="lower l0"):
        lambda_for_l0(X, D, 40.0)
    with pytest.raises(InputError, match="positive correlation"):
        lambda_for_l0(-np.ones((2, 3)), np.eye(3), 1.0)


def test_an_interrupt_keeps_what_is_finished(monkeypatch):
    X, D = problem(10, n=400)
    interrupt_after(monkeypatch, 3)
    part = encode(X, D, 0.4, tol=1e-8, memory_limit=2**20)
    assert part.status is Status.INTERRUPTED
    assert 0 < part.done.sum() < 400
    assert (part.gaps[~part.done] == 1).all()
    np.testing.assert_allclose(part.values[~part.done], 0.5 * (X[~part.done] ** 2).sum(1))
    monkeypatch.undo()
    full = encode(X, D, 0.4, tol=1e-8)
    assert part.lower_bound <= full.value
    np.testing.assert_allclose(part.values[part.done], full.values[part.done], rtol=1e-7)


def test_an_interrupt_passes_through_an_inner_call(monkeypatch):
    X, D = problem(10, n=400)
    interrupt_after(monkeypatch, 2)
    question = SparseCodes(X, D, 0.4)
    with pytest.raises(KeyboardInterrupt):
        encode_rows(question, Run(is_outermost=False), memory_limit=2**20)


def test_past_the_deadline_what_is_finished_is_returned():
    X, D = problem(10, n=100)
    late = encode(X, D, 0.4, max_seconds=1e-9)
    assert late.status is Status.TIME_LIMIT
    assert (late.gaps == 1).all()
    assert not late.done.any()
    assert late.value == pytest.approx(0.5 * (X**2).sum(1).mean())


def test_entry_without_validation():
    X, D = problem(11)
    bias = torch.full((16,), 0.1, dtype=torch.float64)
    question = SparseCodes.of_unit_rows(Activations(X), torch.from_numpy(D), 0.4, bias)
    codes = encode_rows(question, Run(is_outermost=False), tol=1e-8)
    check(X, D, 0.4, codes, 1e-8, np.full(16, 0.1))
    assert isinstance(codes.codes, sp.csr_array)
    np.testing.assert_array_equal(codes.dictionary, D)  # bit for bit


@pytest.mark.slow
def test_memory_stays_within_the_limit():
    tracemalloc = pytest.importorskip("tracemalloc")
    rng = np.random.default_rng(12)
    X, D = rng.standard_normal((4000, 16)), unit(rng, 4000, 16)
    encode(X[:64], D, 0.5)
    tracemalloc.start()
    encode(X, D, 0.5, memory_limit=8 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < 24 * 2**20
    )  # an N × K matrix of bytes alone would be 16 MB; codes and results come on top of the limit


@pytest.mark.parametrize("name", ["fused", "torch"])
def test_a_round_is_given_up_within(name):
    """A round of a thousand hard datapoints takes many seconds: it is asked between its pieces whether to go on."""
    X, D = problem(10, n=300)
    prepared = PreparedDictionary(torch.from_numpy(D))
    engine = make_engine(name, prepared, Tuning(1e-8, rows=64))
    rounds, asked = [], []
    advance = engine.advance

    def counted(*arguments, **options):
        rounds.append(1)
        return advance(*arguments, **options)

    engine.advance = counted  # type: ignore[method-assign]

    def stop():
        asked.append(1)
        return len(asked) == 5

    with pytest.raises(InterruptedBlockError):
        solve_block(engine, torch.from_numpy(X / 0.1), stop=stop)
    assert len(rounds) == 1


def test_an_interrupt_before_the_first_block_leaves_zero_codes(monkeypatch):
    X, D = problem(10, n=50)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["cvxsae.solvers.codes.encode"], "PreparedDictionary", interrupt)
    none = encode(X, D, 0.4)
    assert none.status is Status.INTERRUPTED
    assert none.codes.nnz == 0
    assert certify(none, tol=1.0).is_certified
