"""Data that several benchmarks share."""

from __future__ import annotations

import numpy as np

from cvxsae.data.embedded import embedded


def unit_mean_norm(X: np.ndarray) -> np.ndarray:
    """Centered and scaled to mean norm 1."""
    X = X - X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1).mean()


def unit_mean_square(X: np.ndarray) -> np.ndarray:
    """Centered and scaled to mean-square norm 1."""
    X = X - X.mean(axis=0)
    return X / np.sqrt((X**2).sum(axis=1).mean())


def tokens(n: int | None = None) -> np.ndarray:
    """A random n of wordllama's token embeddings (all of them: in their order), d = 256, of mean norm 1."""
    X = np.array(embedded("wordllama"), dtype=np.float64)
    return unit_mean_norm(X if n is None else X[np.random.default_rng(0).permutation(len(X))[:n]])


def shuffled_tokens() -> np.ndarray:
    """All token embeddings but those of zeros, of mean-square norm 1, in random order."""
    X = np.array(embedded("wordllama"), dtype=np.float64)
    X = unit_mean_square(X[np.abs(X).sum(1) > 0])
    return X[np.random.default_rng(0).permutation(len(X))]


def unit_atoms(D: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1, as float32 holds them."""
    return (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
