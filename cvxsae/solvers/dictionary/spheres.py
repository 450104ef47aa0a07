"""Rows of norm 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64


def random_directions(count: int, dim: int, rng: np.random.Generator) -> Float64[np.ndarray, "K d"]:
    """Uniform on the sphere."""
    return unit(rng.standard_normal((count, dim)))


def unit(rows: Float[np.ndarray, "K d"]) -> Float64[np.ndarray, "K d"]:
    """Rows scaled to norm 1, in float64."""
    rows = rows.astype(np.float64, copy=False)
    scaled: Float64[np.ndarray, "K d"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
