"""Architectures and normalizations as data, against plain numpy."""

from typing import Any

import numpy as np
import pytest

from cvxsae import SparseAutoencoder
from cvxsae.sae import Gated, JumpReLU, LayerNorm, ReLU, TanhReLU, TokenNorm, TopK, Whitening

RNG = np.random.default_rng(0)
N, D, K = 30, 5, 9
X = RNG.normal(size=(N, D))
ARRAYS: dict[str, Any] = {
    "W_enc": RNG.normal(size=(D, K)),
    "b_enc": RNG.normal(size=K) / 4,
    "W_dec": RNG.normal(size=(K, D)) * RNG.uniform(0.5, 2, (K, 1)),
    "b_dec": RNG.normal(size=D) / 4,
}
PRE = (X - ARRAYS["b_dec"]) @ ARRAYS["W_enc"] + ARRAYS["b_enc"]
NORMS = np.linalg.norm(ARRAYS["W_dec"], axis=1)
THRESHOLD = RNG.uniform(0, 1.5, K)
GATES: dict[str, Any] = {"b_gate": RNG.normal(size=K), "r_mag": RNG.normal(size=K) / 3, "b_mag": RNG.normal(size=K)}


def topk(pre: np.ndarray, k: int, ranked: np.ndarray) -> np.ndarray:
    kept = np.zeros_like(pre, dtype=bool)
    np.put_along_axis(kept, np.argsort(-ranked, axis=1)[:, :k], True, axis=1)
    return np.where(kept, np.maximum(pre, 0), 0)


CASES: dict[str, tuple[Any, np.ndarray]] = {
    "relu": (ReLU(), np.maximum(PRE, 0)),
    "tanh-relu": (TanhReLU(), np.tanh(np.maximum(PRE, 0))),
    "topk": (TopK(3), topk(PRE, 3, PRE)),
    "topk-by-norm": (TopK(3, by_norm=True), topk(PRE, 3, PRE * NORMS)),
    "topk-all": (TopK(50), np.maximum(PRE, 0)),
    "jumprelu": (JumpReLU(THRESHOLD), np.where(PRE > THRESHOLD, PRE, 0)),
    "gated": (
        Gated(**GATES),
        np.where(PRE + GATES["b_gate"] > 0, np.maximum(np.exp(GATES["r_mag"]) * PRE + GATES["b_mag"], 0), 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstructions_are_those_of_the_formula(name: str):
    activation, expected = CASES[name]
    sae = SparseAutoencoder(**ARRAYS, activation=activation)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), expected, atol=1e-12)
    np.testing.assert_allclose(sae.encode(X).toarray(), expected * NORMS, atol=1e-12)
    np.testing.assert_allclose(sae.reconstruct(X), expected @ ARRAYS["W_dec"] + ARRAYS["b_dec"], atol=1e-12)


MEAN, MATRIX = RNG.normal(size=D), RNG.normal(size=(D, D))
STD = X.std(axis=1, ddof=1, keepdims=True)
LENGTH = np.linalg.norm(X, axis=1, keepdims=True)
NORMALIZED: dict[str, tuple[Any, np.ndarray]] = {
    "layer_norm": (LayerNorm(), (X - X.mean(axis=1, keepdims=True)) / (STD + 1e-5)),
    "constant_norm_rescale": (TokenNorm(), X * np.sqrt(D) / LENGTH),
    "covariance_whitening": (Whitening(MEAN, MATRIX, np.linalg.inv(MATRIX)), (X - MEAN) @ MATRIX),
}


@pytest.mark.parametrize("name", NORMALIZED)
def test_a_normalization_is_applied_first_and_undone_last(name: str):
    normalization, expected = NORMALIZED[name]
    sae = SparseAutoencoder(**ARRAYS, normalization=normalization)
    plain = SparseAutoencoder(**ARRAYS)
    np.testing.assert_allclose(sae.normalized(X).to_numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(sae.encode(X).toarray(), plain.encode(expected).toarray(), atol=1e-12)
    undo = {
        "layer_norm": lambda Y: Y * STD + X.mean(axis=1, keepdims=True),
        "constant_norm_rescale": lambda Y: Y * LENGTH / np.sqrt(D),
        "covariance_whitening": lambda Y: Y @ np.linalg.inv(MATRIX) + MEAN,
    }[name]
    np.testing.assert_allclose(sae.reconstruct(X), undo(plain.reconstruct(expected)), atol=1e-10)


def test_a_layer_norm_without_eps_leaves_a_constant_datapoint_at_zero():
    sae = SparseAutoencoder(**ARRAYS, normalization=LayerNorm(eps=0.0))
    np.testing.assert_array_equal(sae.normalized(np.ones((2, D))).to_numpy(), 0)
    np.testing.assert_array_equal(sae.reconstruct(np.ones((2, D))), 1)
