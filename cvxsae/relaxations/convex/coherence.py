"""How far from orthogonal a few atoms of a dictionary can be, and the error bounds that follow for few active atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from cvxsae.relaxations.convex.code_penalty import product_rounding

BOUND_ROUNDING = 1e-11
"""Rounding of a lower bound, relative to ½‖x − b‖²: thousands of machine epsilons, more than its sums can lose."""

COHERENCE_ENTRIES = 2**24
"""Entries of the Gram matrix that is looked at at a time for the lower bound: 128 MB in float64."""


@dataclass(frozen=True, eq=False)
class Coherence:
    """How far from orthogonal any few atoms can be, in the way that matters for nonnegative codes.

    For z ≥ 0 on at most k atoms, ``‖zD‖² ≥ ‖z‖² − Σ_{i≠j} z_i z_j (−d_i·d_j)_+ ≥ λ_k ‖z‖²`` with
    ``λ_k = 1 − max_i Σ of the k − 1 largest (−d_i·d_j)_+``, by Perron and Frobenius. Where λ_k > 0, for every such z,

        ½‖x − zD‖² ≥ ½‖x‖² − Σ_k z_k (d_k·x)_+ + ½ λ_k ‖z‖² ≥ ½‖x‖² − (sum of the k largest (d_j·x)_+²)/(2 λ_k).

    Attributes
    ----------
    least
        λ_k for k = 0, 1, 2, … (1 for the first two).
    """

    least: Float64[np.ndarray, " k"]

    @classmethod
    def of(cls, atoms: Float64[torch.Tensor, "K d"], k: int) -> Coherence:
        """For up to k atoms; one product of the dictionary with itself, in blocks."""
        K = len(atoms)
        count, step = min(k, K) - 1, max(1, COHERENCE_ENTRIES // K)
        if count < 1:
            return cls(np.ones(2))
        worst = torch.zeros(count, dtype=torch.float64)
        for start in range(0, K, step):
            negative = (-(atoms[start : start + step] @ atoms.T)).clamp_(min=0)
            worst = torch.maximum(worst, negative.topk(count, dim=1).values.cumsum(dim=1).amax(dim=0))
        rounding = product_rounding(atoms.shape[1]) * np.arange(1, count + 1)
        return cls(np.concatenate([[1.0, 1.0], 1 - worst.numpy() - rounding]))

    def bounds(
        self, x: Float64[torch.Tensor, "n d"], atoms: Float64[torch.Tensor, "K d"], k: Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """Lower bounds of ``½‖x − zD‖²`` over z ≥ 0 with at most k atoms, zero where there is none."""
        k = np.minimum(k, len(self.least) - 1)
        least, scale = self.least[k], x.square().sum(dim=1).numpy() / 2
        count = max(1, int(k.max()))
        largest = (x @ atoms.T).clamp_(min=0).topk(count, dim=1).values.square().cumsum(dim=1).numpy()
        gained = np.where(k > 0, np.take_along_axis(largest, np.maximum(k - 1, 0)[:, None], 1)[:, 0], 0.0)
        with np.errstate(divide="ignore"):
            found = np.where(least > 0, scale - gained / (2 * np.where(least > 0, least, 1.0)), 0.0)
        return np.maximum(found - BOUND_ROUNDING * scale, 0.0)
