"""An SAE's forward pass in plain numpy, written from the papers and libraries' formulas, independent of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

D, K, N = 6, 11, 40
"""Sizes of every SAE and of the data here."""

SCALE = 2.3
"""What data are multiplied by, where an SAE says that they are."""

Arrays = dict[str, np.ndarray]


def weights(dtype: torch.dtype = torch.float64) -> Arrays:
    """Arrays of an SAE of any architecture, float64, each a number that the dtype holds exactly."""
    rng = np.random.default_rng(1)
    made = {
        "W_enc": rng.normal(size=(D, K)),
        "b_enc": rng.normal(size=K) / 2,
        "W_dec": rng.normal(size=(K, D)) * rng.uniform(0.4, 2.5, (K, 1)),
        "b_dec": rng.normal(size=D) / 2,
        "threshold": rng.uniform(0.1, 1.5, K),
        "topk_threshold": np.array(0.8),
        "b_gate": rng.normal(size=K),
        "r_mag": rng.normal(size=K) / 3,
        "b_mag": rng.normal(size=K) / 2,
        "scaling_factor": rng.uniform(0.5, 2, K),
    }
    rounded = {name: torch.tensor(array).to(dtype).to(torch.float64).numpy() for name, array in made.items()}
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    sizes = rng.uniform(0.5, 2, D)
    return {**rounded, "mean": rng.normal(size=D), "matrix": basis / sizes, "inverse_matrix": sizes[:, None] * basis.T}


def data() -> np.ndarray:
    """Datapoints (N, D)."""
    return np.random.default_rng(2).normal(size=(N, D)) * 1.5 + 0.3


@dataclass(frozen=True)
class Spec:
    """What an SAE does, in words of its libraries."""

    kind: str
    subtract: bool = True
    normalize: str = "none"
    k: int = 3
    by_norm: bool = False
    factor: bool = False
    tied: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def _norm(a: Arrays, how: str, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    if how == "layer_norm":
        mean = x.mean(axis=1, keepdims=True)
        std = np.sqrt(((x - mean) ** 2).sum(axis=1, keepdims=True) / (x.shape[1] - 1))
        return (x - mean) / (std + 1e-5), lambda y: y * std + mean
    if how == "constant_norm_rescale":
        factor = np.sqrt(x.shape[1]) / np.sqrt((x**2).sum(axis=1, keepdims=True))
        return x * factor, lambda y: y / factor
    if how == "expected_average_only_in":
        return x * SCALE, lambda y: y / SCALE
    if how == "covariance_whitening":
        return (x - a["mean"]) @ a["matrix"], lambda y: y @ a["inverse_matrix"] + a["mean"]
    return x, lambda y: y


def _top(values: np.ndarray, k: int) -> np.ndarray:
    return values >= np.sort(values, axis=1)[:, [-k]]


def forward(a: Arrays, spec: Spec, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes for the decoder as stored, (n, K), and reconstructions, (n, D)."""
    x, undo = _norm(a, spec.normalize, x)
    encoder = a["W_dec"].T if spec.tied else a["W_enc"]
    linear = (x - a["b_dec"] if spec.subtract else x) @ encoder
    pre = linear + a["b_enc"]
    norms = np.sqrt((a["W_dec"] ** 2).sum(axis=1)) if spec.by_norm else np.ones(K)
    codes = np.maximum(pre, 0)
    if spec.kind == "tanh-relu":
        codes = np.tanh(codes)
    if spec.kind == "topk":
        codes = codes * _top(pre * norms, spec.k)
    if spec.kind == "jumprelu":
        codes = codes * (pre > a["threshold"])
    if spec.kind == "batchtopk":
        codes = codes * (pre * norms > a["topk_threshold"])
    if spec.kind == "gated":
        codes = (linear + a["b_gate"] > 0) * np.maximum(np.exp(a["r_mag"]) * linear + a["b_mag"], 0)
    return codes, undo((codes * a["scaling_factor"] if spec.factor else codes) @ a["W_dec"] + a["b_dec"])
