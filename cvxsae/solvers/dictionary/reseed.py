"""Replacing atoms that memorize a few datapoints by directions that the other atoms leave unexplained.

The support of atom k, ``(Σ_n z_nk)²/Σ_n z_nk²``, is the number of datapoints that share it: s if s of them use it
equally, near 1 if one of them has nearly all. It is the quantity that the cost of an atom in theory.md (L) charges
for, ``λ‖z_k‖₁ √(1 + τ/support)``: an atom whose support is below τ is not worth having there. A local optimum of (P)
with few datapoints per atom holds two kinds of atoms, shared ones and memorized ones, and descent does not turn the
second into the first: each holds on to its datapoint. Moves that must pay at once (:mod:`moves`) do not see it
either. So they are replaced without asking, by directions of data from which only the well-supported atoms are
subtracted.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float64

MOST = 0.7
"""The largest share of atoms that is ever replaced at once."""

DEAD = 1e-3
"""Support that dead atoms count as, so that it has a logarithm: well below the 1 of an atom that one datapoint uses."""


def supports(codes: sp.csr_array) -> Float64[np.ndarray, " K"]:
    """``(Σ_n z_nk)²/Σ_n z_nk²`` of every atom: how many datapoints share it; 0 for a dead one."""
    mass = np.asarray(codes.sum(axis=0)).ravel()
    squares = np.asarray((codes * codes).sum(axis=0)).ravel()
    shared: Float64[np.ndarray, " K"] = np.divide(mass**2, squares, out=np.zeros(len(mass)), where=squares > 0)
    return shared


def weakly_supported(support: Float64[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """The lower of the two classes that explain most of the variance of log(support): at most :data:`MOST` of all."""
    logs = np.log(np.maximum(support, DEAD))
    ordered = np.sort(logs)
    below = np.arange(1, len(ordered))
    if not len(below):
        return np.zeros(len(logs), dtype=bool)
    sums = np.cumsum(ordered)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    cut = ordered[int((below * (len(ordered) - below) * apart**2).argmax())]
    weak: Bool[np.ndarray, " K"] = (logs <= cut) & (logs < ordered[-1])
    if weak.mean() > MOST:
        weak = logs <= ordered[int(MOST * len(ordered)) - 1]
    return weak


def reseeded(
    points: Float64[np.ndarray, "N d"], dictionary: Float64[np.ndarray, "K d"], codes: sp.csr_array, seed: int
) -> Float64[np.ndarray, "K d"]:
    """The dictionary with its weakly supported atoms replaced by directions of what the others leave of datapoints.

    Datapoints are drawn with probability proportional to the length of ``x_n − b − Σ_{kept k} z_nk d_k``; ``points``
    are data less the bias.
    """
    weak = weakly_supported(supports(codes))
    left = points - codes[:, np.flatnonzero(~weak)] @ dictionary[~weak]
    lengths = np.linalg.norm(left, axis=1)
    count = min(int(weak.sum()), int((lengths > 0).sum()))
    drawn = np.random.default_rng(seed).choice(len(left), count, replace=False, p=lengths / lengths.sum())
    replaced = dictionary.copy()
    replaced[np.flatnonzero(weak)[:count]] = left[drawn] / lengths[drawn, None]
    return replaced
