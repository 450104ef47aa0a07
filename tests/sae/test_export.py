"""Learned dictionaries as SAEs: encoders, what they lose, and files for other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import Activations, SparseAutoencoder, encode, learn_dictionary
from cvxsae.data import sparse_features
from cvxsae.sae import Gated, JumpReLU, LayerNorm, ReLU, TanhReLU, TopK
from cvxsae.sae.export import regress
from tests.helpers.sentences import rejects

LAM = 0.05


@pytest.fixture(scope="module")
def made():
    return sparse_features(300, 5, 8, seed=1, noise=0.02)


@pytest.fixture(scope="module")
def fit(made):
    return learn_dictionary(made.X, 8, LAM, seed=0, stationarity=1e-2)


def objective(fit, X, Z) -> float:
    """F of the fit's dictionary at some codes."""
    errors = X - fit.bias - Z @ fit.dictionary
    return 0.5 * (errors**2).sum(axis=1).mean() + LAM * Z.sum(axis=1).mean()


@pytest.mark.slow
def test_a_regressed_encoder_states_what_it_loses(made, fit):
    X = np.asarray(made.X)
    sae = SparseAutoencoder.from_fit(fit, "regressed")
    facts = sae.metadata["cvxsae_encoder"]
    own = np.maximum((X - fit.bias) @ sae.W_enc + sae.b_enc, 0)
    np.testing.assert_allclose(sae.encode(X).toarray(), own, atol=1e-12)
    assert facts["loss"] == pytest.approx(objective(fit, X, own), rel=1e-12)
    exact = encode(X, fit.dictionary, LAM, bias=fit.bias, tol=1e-10)
    assert facts["exact_lower_bound"] == pytest.approx(exact.value, rel=1e-7)
    assert facts["exact_lower_bound"] <= exact.value
    assert facts["amortization_gap"] == pytest.approx(facts["loss"] - facts["exact_lower_bound"], rel=1e-12)
    one_step = objective(fit, X, SparseAutoencoder.from_fit(fit).encode(X).toarray())
    assert facts["loss"] - exact.value < 0.2 * (one_step - exact.value)
    assert (sae.lam, facts["datapoints"]) == (LAM, 300)


def test_on_other_data_it_codes_them_first(made, fit):
    X = np.asarray(sparse_features(200, 5, 8, seed=2, noise=0.02).X)
    facts = SparseAutoencoder.from_fit(fit, "regressed", X=X).metadata["cvxsae_encoder"]
    assert facts["datapoints"] == 200
    assert facts["exact_lower_bound"] == pytest.approx(encode(X, fit.dictionary, LAM, bias=fit.bias).value, rel=1e-3)


@pytest.mark.slow
def test_the_regression_is_at_the_minimum_of_its_convex_loss(made, fit):
    """Gradients vanish, from any start; without data that show a direction nothing moves."""
    X, bias = np.asarray(made.X), np.asarray(fit.bias)
    codes = sp.csr_array(fit.codes)
    Z, ends = codes.toarray(), []
    starts = [(fit.dictionary.T, np.full(8, -LAM)), (np.zeros((5, 8)), np.ones(8))]
    for start in starts:
        W, c = regress(Activations(X), codes, bias, start)
        pre = (X - bias) @ W + c
        rest = np.maximum(pre, 0) - Z
        assert np.abs((X - bias).T @ rest).max() / len(X) < 1e-5
        assert np.abs(rest.mean(axis=0)).max() < 1e-5
        ends.append((0.5 * np.maximum(pre, 0) ** 2 - Z * pre).sum() / len(X))
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)
    pre = (X - bias) @ starts[0][0] + starts[0][1]
    assert (0.5 * np.maximum(pre, 0) ** 2 - Z * pre).sum() / len(X) > ends[0] + 1e-3  # the start is not
    W, c = regress(Activations(X[:2]), codes[:2], bias, starts[0])  # two datapoints: the rest of space is left alone
    unseen = np.linalg.svd(np.hstack([X[:2] - bias, np.ones((2, 1))]))[2][2:]
    moved = np.vstack([W - starts[0][0], c - starts[0][1]])
    assert np.isfinite(moved).all()
    assert np.abs(unseen @ moved).max() < 1e-6
    nothing = regress(Activations(X), sp.csr_array((300, 8)), bias, starts[0])
    np.testing.assert_array_equal(nothing[0], starts[0][0])


def test_arguments(made, fit):
    with rejects("encoder is 'exact'; choose one of one-step, regressed"):
        SparseAutoencoder.from_fit(fit, "exact")
    with rejects("X is given but the encoder is 'one-step'"):
        SparseAutoencoder.from_fit(fit, X=made.X)
    with rejects(r"X has shape \(3, 4\) but the fit is of dimension 5"):
        SparseAutoencoder.from_fit(fit, "regressed", X=np.ones((3, 4)))
    with rejects("format is 'onnx'; choose one of"):
        SparseAutoencoder.from_fit(fit).save("folder", "onnx")


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "topk by norm", "jumprelu", "gated"])
def test_files_of_dictionary_learning_encode_the_same(kind, subtract, rng, tmp_path):
    K, d = 7, 4
    activation = {
        "relu": ReLU(),
        "topk": TopK(3),
        "topk by norm": TopK(3, by_norm=True),
        "jumprelu": JumpReLU(rng.uniform(0, 1, K)),
        "gated": Gated(rng.normal(size=K), rng.normal(size=K) / 3, rng.normal(size=K)),
    }[kind]
    decoder = rng.normal(size=(K, d)) * rng.uniform(0.3, 3, (K, 1))
    if kind in ("relu", "topk by norm"):
        decoder[2] = 0
    sae = SparseAutoencoder(
        W_enc=rng.normal(size=(d, K)),
        b_enc=rng.normal(size=K),
        W_dec=decoder,
        b_dec=rng.normal(size=d),
        subtract_bias=subtract,
        activation=activation,
        lam=0.3,
        lam_source="a test",
        metadata={"hook_name": "blocks.3", "dictionary_learning": {"buffer": {"ctx_len": 128}, "trainer": {"lr": 0.1}}},
    )
    X = rng.normal(size=(50, d))
    folder = sae.save(tmp_path / "sae", "dictionary-learning")
    back = SparseAutoencoder.load(folder)
    np.testing.assert_allclose(back.encode(X).toarray(), sae.encode(X).toarray(), atol=1e-5)
    np.testing.assert_allclose(back.reconstruct(X), sae.reconstruct(X), atol=1e-5)
    assert (back.lam, back.lam_source, back.metadata["hook_name"]) == (0.3, "a test", "blocks.3")
    config = json.loads((folder / "config.json").read_text())
    assert config["buffer"] == {"ctx_len": 128}
    assert config["trainer"]["lr"] == 0.1
    assert all(value.dtype in (torch.float32, torch.int32) for value in torch.load(folder / "ae.pt").values())
    again = SparseAutoencoder.load(back.save(tmp_path / "again", "dictionary-learning"))
    assert again.metadata == back.metadata


def test_what_dictionary_learning_has_no_class_for_is_refused(fit, tmp_path):
    sae = SparseAutoencoder.from_fit(fit)
    parts = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    with rejects("the SAE is tanh-relu, for which dictionary_learning has no class; use format='saelens'"):
        SparseAutoencoder(**parts, activation=TanhReLU()).save(tmp_path / "sae", "dictionary-learning")
    with rejects(r"the SAE normalizes datapoints \(layer_norm\)"):
        SparseAutoencoder(**parts, normalization=LayerNorm()).save(tmp_path / "sae", "dictionary-learning")
    assert not (tmp_path / "sae").exists()


def test_a_fit_survives_both_layouts(made, fit, tmp_path):
    sae = SparseAutoencoder.from_fit(fit, "regressed")
    for layout in ("saelens", "dictionary-learning"):
        back = SparseAutoencoder.load(sae.save(tmp_path / layout, layout))
        np.testing.assert_allclose(back.encode(made.X).toarray(), sae.encode(made.X).toarray(), atol=1e-5)
        assert back.metadata["cvxsae_encoder"] == sae.metadata["cvxsae_encoder"]
        assert back.lam == LAM
