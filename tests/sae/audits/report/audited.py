"""An audited SAE whose file says what it should not be able to say."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from cvxsae import SparseAutoencoder, audit
from cvxsae.data.synthetic import sparse_features
from cvxsae.sae import Audit

LAM = 0.2
HOSTILE = {
    "model_name": "</script><script>document.title = 'hacked'</script>",
    "hook": "<img src=x onerror=\"document.title='hacked'\">",
    "<b>key</b>": ["{{ 7 * 7 }}", "'\"><script>document.title='hacked'</script>"],
}


def data(n=60, d=4):
    return sparse_features(n, d, 5, seed=5, probability=0.3, bias_norm=0.5, noise=0.02).X


def autoencoder(K=5, d=4) -> SparseAutoencoder:
    """An untrained one, with an atom of norm zero."""
    rng = np.random.default_rng(0)
    D = rng.normal(size=(K, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    D[1] = 0
    W = {"W_enc": D.T + 0.1 * rng.normal(size=(d, K)), "b_enc": np.full(K, -LAM), "W_dec": D, "b_dec": np.full(d, 0.1)}
    return replace(SparseAutoencoder.from_arrays(W, lam=LAM), metadata=HOSTILE)


@functools.lru_cache(maxsize=1)
def audited() -> Audit:
    """With every part; computed once a process."""
    return audit(data(), autoencoder(), stationarity=1e-2, metrics=True, frontier=True, diagnostics=True)
