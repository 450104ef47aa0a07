"""The reference SAE: it trains, keeps its constraints, repeats itself, and touches nothing it was given."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import InputError, WideLimit, solve
from cvxsae.data.synthetic import sparse_features
from cvxsae.sae import train_sae
from tests.helpers.interrupts import interrupt_newton
from tests.helpers.problems import primal, unit

LAM = 0.2
QUICK: dict[str, Any] = {"steps": 300, "batch_size": 64}


def data(n=400, d=10, k=12, bias=0.5):
    return sparse_features(n, d, k, seed=3, probability=0.15, bias_norm=bias).X


def loss(sae, X):
    """The training objective in plain numpy, by the forward pass as it is written."""
    Z = np.maximum((X - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)
    return primal(X, sae.b_dec.astype(float), sae.W_dec.astype(float), Z, LAM)


@pytest.mark.slow
def test_training_lowers_the_objective_and_its_history_is_in_units_of_the_problem():
    X = data()
    begun, sae = train_sae(X, 16, LAM, steps=1), train_sae(X, 16, LAM, **QUICK)
    assert loss(sae, X) < 0.6 * loss(begun, X)
    assert sae.history[-1].loss == pytest.approx(loss(sae, X), rel=0.1)
    assert sae.history[-1].step == QUICK["steps"]
    assert [record.step for record in sae.history] == sorted({record.step for record in sae.history})
    np.testing.assert_allclose(sae.atom_norms, 1, atol=1e-6)
    assert sae.lam == pytest.approx(LAM)


@pytest.mark.slow
def test_the_codes_it_gives_are_those_of_its_forward_pass():
    X = data()
    sae = train_sae(X, 16, LAM, **QUICK)
    expected = np.maximum((X - sae.b_dec) @ sae.W_enc.astype(float) + sae.b_enc, 0)
    np.testing.assert_allclose(sae.encode(X).toarray(), expected * sae.atom_norms, atol=1e-5)


@pytest.mark.slow
def test_scaling_data_and_penalty_alike_gives_the_same_sae():
    X, s = data(), 64.0  # a power of two, so that rounding is the same
    one, other = train_sae(X, 8, LAM, **QUICK), train_sae(s * X, 8, s * LAM, **QUICK)
    np.testing.assert_allclose(other.W_dec, one.W_dec, atol=2e-3)
    np.testing.assert_allclose(other.b_dec, s * one.b_dec, atol=s * 2e-3)


@pytest.mark.slow
def test_it_repeats_itself_and_changes_nothing_it_was_given():
    X, D = data(), unit(np.random.default_rng(1).normal(size=(8, 10)))
    X_before, D_before, state = X.copy(), D.copy(), torch.get_rng_state()
    with torch.no_grad():
        one = train_sae(X, 8, LAM, init=D, **QUICK)
        two = train_sae(X, 8, LAM, init=D, **QUICK)
        assert not torch.is_grad_enabled()
    other = train_sae(X, 8, LAM, init=D, seed=1, **QUICK)
    np.testing.assert_array_equal(one.W_dec, two.W_dec)
    assert not np.array_equal(one.W_dec, other.W_dec)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(D, D_before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, np.full(10, 0.3)])
def test_a_fixed_bias_stays_where_it_is(bias):
    sae = train_sae(data(), 8, LAM, bias=bias, **QUICK)
    np.testing.assert_allclose(sae.b_dec, 0 if bias is None else bias, atol=1e-6)


@pytest.mark.slow
def test_a_free_bias_starts_at_the_geometric_median_and_moves():
    X = data(bias=4.0)
    start, end = train_sae(X, 8, LAM, steps=1, lr=1e-9), train_sae(X, 8, LAM, **QUICK)
    median = solve(WideLimit(X, 1e-5)).bias
    assert np.linalg.norm(start.b_dec - median) < 1e-2 * np.linalg.norm(median)
    assert np.linalg.norm(end.b_dec - start.b_dec) > 1e-3


@pytest.mark.slow
def test_dead_features_are_started_again():
    X = data()
    away = np.tile(-unit(X.mean(0, keepdims=True)), (8, 1))
    away[:2] = unit(X[:2])
    alive = {
        resample: (train_sae(X, 8, LAM, init=away, bias=None, resample=resample, **QUICK).encode(X).sum(0) > 0).sum()
        for resample in (False, True)
    }
    assert alive[False] < alive[True] == 8


@pytest.mark.slow
def test_it_trains_on_each_device(device):
    sae = train_sae(data(), 8, LAM, device=device, **QUICK)
    assert loss(sae, data()) == pytest.approx(loss(train_sae(data(), 8, LAM, **QUICK), data()), rel=0.05)


@pytest.mark.slow
def test_data_of_any_kind_will_do(tmp_path):
    X = data()
    np.save(tmp_path / "X.npy", X)
    reference = train_sae(X, 8, LAM, **QUICK)
    for same in (torch.from_numpy(X), [X[:100], X[100:]], X.astype(np.float32), tmp_path / "X.npy"):
        np.testing.assert_allclose(train_sae(same, 8, LAM, **QUICK).W_dec, reference.W_dec, atol=1e-3)
    few = train_sae(X[:3], 8, LAM, **QUICK)  # fewer than a batch
    assert np.isfinite(few.W_enc).all()
    nothing = train_sae(np.zeros((5, 4)), 3, LAM, steps=20)
    assert np.isfinite(nothing.W_dec).all()
    assert nothing.encode(np.zeros((5, 4))).nnz == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": np.full((4, 10), np.nan)}, "NaN"),
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"lam": -1.0}, "lam is -1"),
        ({"bias": np.zeros(3)}, "bias has shape"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": 0.0}, "lr is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"init": np.eye(10)}, "init has 10 atoms"),
        ({"trainer": "magic"}, "trainer is 'magic'"),
        ({"device": "abacus"}, "device"),
        ({"lr": 1e15, "steps": 30}, "diverged"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"folder": "x"}, "'folder' is not an option"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence):
        train_sae(**{"X": data(50), "n_atoms": 8, "lam": LAM, **change})


def test_an_interrupted_start_is_not_trained_from(monkeypatch):
    """The geometric median is a solve of its own: Ctrl-C in it must not become a bias to start from."""
    interrupt_newton(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_sae(data(), 8, LAM, **QUICK)


@pytest.mark.slow
def test_time_is_kept_to_and_said():
    X = data()
    sae = train_sae(X, 8, LAM, steps=10**6, batch_size=64, max_seconds=0.5)
    assert sae.metadata["stopped_at_step"] == sae.history[-1].step < 10**6
    assert np.isfinite(sae.W_dec).all()
    assert train_sae(X, 8, LAM, steps=3).metadata == {}


@pytest.mark.skipif(importlib.util.find_spec("sae_lens") is not None, reason="sae-lens is installed")
def test_without_sae_lens_its_trainer_is_refused():
    with pytest.raises(InputError, match=r"pip install cvxsae\[saelens\]"):
        train_sae(data(), 8, LAM, trainer="saelens")


@pytest.mark.skipif(importlib.util.find_spec("sae_lens") is None, reason="sae-lens is not installed")
@pytest.mark.filterwarnings("ignore")
def test_sae_lens_trains_to_about_the_same_objective():
    X = data()
    ours = train_sae(X, 12, LAM, resample=False, **QUICK)
    theirs = train_sae(X, 12, LAM, trainer="saelens", **QUICK)
    np.testing.assert_allclose(theirs.atom_norms, 1, atol=1e-6)
    assert loss(theirs, X) == pytest.approx(loss(ours, X), rel=0.2)
