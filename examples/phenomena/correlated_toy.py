"""Five orthogonal features, one of which correlates with the others: the small toy of "Sparse but Wrong"."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

FEATURES = 5
DIM = 20
DENSITY = 0.4
SPREAD = 0.15

Array = np.ndarray


class Toy(NamedTuple):
    """Datapoints and what they are made of."""

    points: Array
    features: Array
    strengths: Array

    @property
    def l0(self) -> float:
        """Truly active features of a datapoint, mean."""
        return float((self.strengths > 0).sum(axis=1).mean())


def draw(correlation: float, seed: int, count: int) -> Toy:
    """The toy of the paper's appendix, drawn once."""
    rng = np.random.default_rng(seed)
    features = np.linalg.qr(rng.standard_normal((DIM, FEATURES)))[0].T
    normals = rng.standard_normal((count, FEATURES))
    own = np.sqrt(max(0.0, 1 - (FEATURES - 1) * correlation**2))
    normals[:, 0] = correlation * normals[:, 1:].sum(axis=1) + own * normals[:, 0]
    fires = normals > norm.ppf(1 - DENSITY)
    strengths = fires * np.maximum(rng.normal(1, SPREAD, (count, FEATURES)), 0)
    return Toy(strengths @ features, features, strengths)
