"""The engines: one answer from all, and bounds on low-precision products that are bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import batched, engine_name, make_engine
from cvxsae.solvers.codes.engines.calibration import Rung
from cvxsae.solvers.codes.engines.screening import Precision, PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm
from cvxsae.solvers.codes.rounds import solve_block
from tests.helpers.precisions import INT8, NEEDS_INT8
from tests.solvers.codes.test_encode import check, referee, unit

ENGINES = ["fused", "torch"]


def problem(seed=0, n=60, d=16, K=120, noise=1.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * noise, unit(rng, K, d)


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-11])
def test_engines_agree(tol):
    X, D = problem()
    answers = [encode(X, D, 0.4, tol=tol, engine=name) for name in ENGINES]
    for answer in answers:
        check(X, D, 0.4, answer, tol)
    np.testing.assert_allclose(answers[0].values, answers[1].values, rtol=2 * tol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", INT8])
def test_low_precision_products_give_the_same_certificates(name, precision):
    X, D = problem(1)
    tuning = Tuning(1e-9, precision=precision, widest_margin=np.inf)
    engine = make_engine(name, PreparedDictionary(torch.from_numpy(D)), tuning)
    block = solve_block(engine, torch.from_numpy(X / 0.4))
    assert block.done.all()
    assert (block.gaps <= 1e-9).all()
    exact = encode(X, D, 0.4, tol=1e-9)
    np.testing.assert_allclose(block.values * 0.16, exact.values, rtol=1e-8)


def emulate(engine, generator):
    """Products in emulated bfloat16 whose every rounding goes the worst way that the format allows, at random."""

    def product(short, scale, precision):
        exact = short.to(torch.float64) @ engine.dictionary.half.to(torch.float64).T
        sign = torch.randint(0, 2, exact.shape, generator=generator) * 2.0 - 1.0
        size = torch.linalg.vector_norm(short.to(torch.float64), dim=1, keepdim=True)
        accumulated = exact + sign * (engine.dictionary.dim + 8) * 2.0**-23 * size
        return (accumulated * (1 + sign * 2.0**-8 * 0.99)).to(torch.float32)

    return product


@pytest.mark.slow
def test_worst_case_rounding_is_within_the_bound(monkeypatch):
    X, D = problem(2)
    engine = batched.BatchedEngine(
        PreparedDictionary(torch.from_numpy(D)), Tuning(1e-9, precision="bfloat16", widest_margin=np.inf)
    )
    monkeypatch.setattr(engine, "product", emulate(engine, torch.Generator().manual_seed(0)))
    x = torch.from_numpy(X / 0.4)
    computed, margin, threshold, share = engine.correlate(x)
    exact = x @ torch.from_numpy(D).T
    assert (exact[computed <= threshold[:, None]] <= 1).all()
    assert (exact >= share * computed.to(torch.float64).clamp(min=0) - margin[:, None])[computed > 0].all()
    block = solve_block(engine, x)
    assert block.done.all()
    np.testing.assert_allclose(block.values * 0.16, encode(X, D, 0.4, tol=1e-10).values, rtol=2e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("precision", "proved"), [("bfloat16", "half_precision"), pytest.param("int8", "whole_precision", marks=NEEDS_INT8)]
)
def test_a_wrong_error_bound_is_caught(name, precision, proved, monkeypatch):
    """The negative control: with a bound far too small the engine certifies falsely, and the referee sees it."""
    X, D = problem(3, n=150, K=500)
    tuning = Tuning(1e-9, precision=precision, widest_margin=np.inf)
    dictionary = PreparedDictionary(torch.from_numpy(D))
    dictionary.__dict__[proved] = Precision(0.0, 0.0, 0.0)
    monkeypatch.setattr(Precision, "margins", lambda *norms: (0 * norms[1], torch.full_like(norms[1], 1.02)))
    wrong = solve_block(make_engine(name, dictionary, tuning), torch.from_numpy(X / 0.4))
    monkeypatch.undo()
    _, bound = referee(X, D, 0.4, _codes(wrong, 0.4, D))
    claimed = wrong.values * 0.16 * (1 - wrong.gaps)
    assert (claimed > bound * (1 + 1e-9)).any()
    right = solve_block(make_engine(name, PreparedDictionary(torch.from_numpy(D)), tuning), torch.from_numpy(X / 0.4))
    _, bound = referee(X, D, 0.4, _codes(right, 0.4, D))
    assert (right.values * 0.16 * (1 - right.gaps) <= bound * (1 + 1e-12)).all()


def _codes(block, lam, D):
    import scipy.sparse as sp

    return sp.csr_array((block.codes * lam, block.indices, block.indptr), shape=(len(block.values), len(D)))


@pytest.mark.parametrize("name", ENGINES)
def test_padding_never_enters_a_working_set(name):
    """Atom 0 is where a padding index would land: make it the best atom of every datapoint."""
    rng = np.random.default_rng(4)
    D = unit(rng, 40, 12)
    X = 3 * D[0] + 0.3 * rng.standard_normal((50, 12))
    block = solve_block(
        make_engine(name, PreparedDictionary(torch.from_numpy(D)), Tuning(1e-8)), torch.from_numpy(X / 0.2)
    )
    for row in range(50):
        indices = block.indices[block.indptr[row] : block.indptr[row + 1]]
        assert len(np.unique(indices)) == len(indices)
    value, bound = referee(X, D, 0.2, _codes(block, 0.2, D))
    assert (value - bound <= 1.1e-8 * value).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_hard_dictionaries(name):
    rng = np.random.default_rng(5)
    base = unit(rng, 40, 10)
    near = base + 1e-7 * rng.standard_normal(base.shape)
    D = np.vstack([base, base, near / np.linalg.norm(near, axis=1, keepdims=True), -base])
    X = rng.standard_normal((40, 10))
    for lam in (0.5, 0.02):
        check(X, D, lam, encode(X, D, lam, tol=1e-6, engine=name), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_warm_start_may_be_anything(name):
    X, D = problem(6, n=30)
    engine = make_engine(name, PreparedDictionary(torch.from_numpy(D)), Tuning(1e-8))
    cold = solve_block(engine, torch.from_numpy(X / 0.4))
    again = solve_block(engine, torch.from_numpy(X / 0.4), Warm(cold.indptr, cold.indices, cold.codes))
    assert again.passes.max() == 1
    every = np.tile(np.arange(120), 30)
    wild = Warm(np.arange(31) * 120, every, np.random.default_rng(0).uniform(-1, 2, len(every)))
    np.testing.assert_allclose(solve_block(engine, torch.from_numpy(X / 0.4), wild).values, cold.values, rtol=1e-8)


def test_float32_products_that_torch_may_shorten_are_bounded(monkeypatch):
    D = torch.from_numpy(problem()[1])
    strict = PreparedDictionary(D).single_precision
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    loose = PreparedDictionary(D).single_precision
    assert loose.accumulation >= strict.accumulation + 2 * 2.0**-8


def test_engine_names():
    assert engine_name("auto", "cpu") == "fused"
    assert engine_name("torch", "cpu") == "torch"


def test_tuning_changes_time_not_the_answer():
    X, D = problem(7)
    dictionary, x = PreparedDictionary(torch.from_numpy(D)), torch.from_numpy(X / 0.4)
    base = Tuning(1e-9, ladder=(Rung("float32"),))
    expected = solve_block(make_engine("fused", dictionary, base), x).values
    frugal = replace(base, ladder=(Rung("float32", price=0.0),), frugal_steps=(1, 1))
    for other in (replace(base, first=1, later=1), replace(base, first=256, later=256), replace(base, rows=16), frugal):
        np.testing.assert_allclose(solve_block(make_engine("fused", dictionary, other), x).values, expected, rtol=1e-8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    X, D = problem(8, n=500, d=64, K=2000)
    answer = encode(X, D, 0.5, tol=1e-6, device="cuda")
    check(X, D, 0.5, answer, 1e-6)
