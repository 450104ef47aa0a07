"""Rough codes against exact ones and against sums in float64; where they cannot be had, the engine's."""

from types import ModuleType

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import encode, learn_dictionary
from cvxsae.solvers.dictionary import rough
from cvxsae.solvers.dictionary.rough import LARGEST, RoughCodes, can_be_rough
from cvxsae.solvers.dictionary.stages import stochastic
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps, residual_sums
from cvxsae.solvers.dictionary.state import Moments
from tests.helpers.problems import unit


def instance(n: int, d: int, K: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    codes = rng.random((n, K)) * (rng.random((n, K)) < 4 / K)
    D = unit(rng.standard_normal((K, d)))
    X = codes @ D + 0.02 * rng.standard_normal((n, d))
    X[::7] = 0
    return torch.from_numpy(X), torch.from_numpy(D)


def objective(codes: sp.csr_array, X: torch.Tensor, D: torch.Tensor, lam: float) -> float:
    residuals = X.numpy() - codes @ D.numpy()
    return float(0.5 * (residuals**2).sum() + lam * codes.sum()) / len(X)


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def products(request, monkeypatch) -> ModuleType:
    monkeypatch.setattr(rough, "half_is_faster", lambda *shape: request.param)
    return rough


@pytest.mark.parametrize(("n", "d", "K"), [(300, 5, 3), (130, 16, 40), (513, 20, 100), (1, 33, 300)])
@pytest.mark.parametrize("lam", [0.03, 30.0])
@pytest.mark.usefixtures("products")
def test_rounds_come_near_the_exact_codes_and_pull_as_they_say(n, d, K, lam):
    X, D = instance(n, d, K)
    X = X * (lam / 0.03)
    exact = encode(X, D, lam, tol=1e-9).value
    codes = sp.csr_array((n, K))
    values = [objective(codes, X, D, lam)]
    for turn in range(4):
        codes, pull = RoughCodes().minibatch(X, D, lam, codes if turn else None)
        assert (codes.data > 0).all()
        values.append(objective(codes, X, D, lam))
        expected = residual_sums(codes, X, D)
        torch.testing.assert_close(pull, expected, rtol=1e-4, atol=1e-5 * n * lam**2)
    assert (np.diff(values) <= 1e-6 * values[0]).all()
    assert exact <= values[-1] * (1 + 1e-9) <= 1.02 * exact + 1e-9
    for _ in range(4):  # the floor, and the rounds that were not made, are what keeps them from being exact
        codes, _ = RoughCodes(floor=1e-3).minibatch(X, D, lam, codes)
    assert objective(codes, X, D, lam) <= (1 + 2e-4) * exact + 1e-9


def test_a_floor_above_every_gradient_leaves_zero_codes():
    X, D = instance(200, 12, 30)
    codes, pull = RoughCodes(floor=1e6).minibatch(X, D, 0.03, None)
    assert codes.nnz == 0
    assert not pull.any()


@pytest.mark.usefixtures("products")
def test_threads_do_not_change_a_bit():
    X, D = instance(700, 24, 60)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(RoughCodes().minibatch(X, D, 0.03, None))
    finally:
        torch.set_num_threads(before)
    for codes, pull in found[1:]:
        np.testing.assert_array_equal(codes.toarray(), found[0][0].toarray())
        assert torch.equal(pull, found[0][1])


def test_codes_of_more_atoms_than_a_first_round_takes_are_gone_on_from():
    """Forty atoms in use, and a start from eighty."""
    rng = np.random.default_rng(0)
    D = torch.from_numpy(unit(rng.standard_normal((120, 64))))
    X = torch.from_numpy(rng.random((50, 120))) @ D
    warm = sp.csr_array(rng.random((50, 120)) * (rng.random((50, 120)) < 0.7))
    assert np.diff(warm.indptr).max() > 64
    for _ in range(3):
        warm, _ = RoughCodes().minibatch(X, D, 0.05, warm)
    assert objective(warm, X, D, 0.05) <= 1.02 * encode(X, D, 0.05, tol=1e-6).value


def test_what_float32_cannot_hold_and_other_devices_are_left_to_the_engine(monkeypatch):
    assert can_be_rough(torch.device("cpu"), 1e3)
    assert not can_be_rough(torch.device("cpu"), LARGEST)
    assert not can_be_rough(torch.device("cuda"), 1e3)
    asked = []
    monkeypatch.setattr(RoughCodes, "minibatch", lambda *given: asked.append(given))
    X = instance(1100, 10, 12)[0].numpy()
    learn_dictionary(X, 6, 1e-17, bias=None, epochs=2, max_steps=2)
    assert not asked
    with pytest.raises(TypeError):  # the control: here they are asked for
        learn_dictionary(X, 6, 0.1, bias=None, epochs=2, max_steps=2)
    assert asked


def test_the_compiled_step_of_adam_is_that_in_torch(monkeypatch):
    """On more numbers than one thread takes; given arrays stay as they were."""
    rng, steps = np.random.default_rng(0), StochasticSteps()
    start = torch.from_numpy(unit(rng.standard_normal((40, 9))))
    monkeypatch.setattr(rough, "ADAM_ENTRIES", 100)
    found = []
    for reason in (None, "asked"):
        monkeypatch.setattr(stochastic, "why_not_compiled", lambda reason=reason: reason)
        rng, atoms, moments = np.random.default_rng(1), start, Moments.zero(start)
        for rate in (0.3, 1.0, 0.7):
            gradient = torch.from_numpy(rng.standard_normal((40, 9)))
            gradient[3] = 0
            kept = atoms.clone(), gradient.clone(), moments.first.clone()
            after = steps.adam(atoms, moments, gradient, rate)
            assert all(torch.equal(*pair) for pair in zip(kept, (atoms, gradient, moments.first), strict=True))
            atoms, moments = after
        found.append((atoms, moments.first, moments.second))
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-13)
    assert not torch.equal(found[0][0], start)
