"""Weights and ridge as the engines see them: a plain problem in more dimensions, with a penalty per atom.

In units of λ, with μ = λρ, ``½‖x − zD‖² + Σ w_k z_k + ½ Σ μ_k z_k²`` is the lasso of the datapoint (x, 0) and the atoms
``(d_k, √μ_k e_k)``, each with a dimension of its own. They have the norms √(1 + μ_k); of norm 1 they are

    (ν_k d_k, √σ_k e_k),   ν = 1/√(1 + μ),   σ = μ/(1 + μ),   codes a_k = z_k/ν_k,   weights ω_k = ν_k w_k.

So with the rows ν_k d_k and r = x − Σ a_k ν_k d_k the correlations are ``c_k = ν_k d_k·r − σ_k a_k``, the squared
residual is ``‖r‖² + Σ σ_k a_k²``, inner products are those of the rows with 1 on the diagonal, and T1 holds as it
stands, with ω_k instead of 1: the dual point s·(r, −√σ a) is feasible where ``s c_k ≤ ω_k``. Outside a working
set that is ``s d_k·r ≤ w_k``, so that one product with the atoms d_k/w_k, whatever the ridge, screens against 1.

The engines hold codes a. What comes in and goes out, codes z for atoms of norm 1, is converted at their doors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes

PRICE_ROUNDINGS = 8
"""Roundings of ν, σ and ω, and of the products they enter, beyond those of the plain problem."""

PRICE_ROUNDING = 1e-15
"""Their relative size: 8 units of roundoff of float64."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Weights and ridge of all atoms, (K,) each, float64 on the engine's device.

    Attributes
    ----------
    lengths
        ν.
    shares
        σ.
    weights
        ω = ν w.
    reach
        1/w: by this the error of a product grows when its atom is divided by its weight.
    """

    lengths: Float[torch.Tensor, " K"]
    shares: Float[torch.Tensor, " K"]
    weights: Float[torch.Tensor, " K"]
    reach: Float[torch.Tensor, " K"]

    @classmethod
    def of(cls, problem: SparseCodes, device: torch.device) -> Prices | None:
        """Of a problem; None for the plain penalty."""
        if not problem.has_prices:
            return None
        weights, ridge = (part.to(device) for part in (problem.prices.weights, problem.prices.ridge))
        mu = problem.lam * ridge
        lengths = 1 / torch.sqrt(1 + mu)
        return cls(lengths, torch.where(mu > 1, 1 / (1 + 1 / mu), mu / (1 + mu)), lengths * weights, 1 / weights)

    def certain(
        self, computed: Float[torch.Tensor, "b K"], margin: Float[torch.Tensor, " b"], least_share: float
    ) -> Float[torch.Tensor, " b"]:
        """What the largest ratio of a correlation to its weight is at least, by computed ratios and their margin."""
        top, atom = computed.max(dim=1)
        return top.to(torch.float64) * least_share - margin * self.reach[atom]

    def possible(
        self,
        pairs: tuple[Int[torch.Tensor, " p"], ...],
        values: Float[torch.Tensor, " p"],
        margin: Float[torch.Tensor, " b"],
        least_share: float,
    ) -> tuple[Int[torch.Tensor, " q"], ...]:
        """Of rows and atoms above the threshold of all atoms, those above the atom's own."""
        row, atom = pairs
        own = (1 - margin[row] * self.reach[atom]) * least_share
        keep = ~(values.to(torch.float64) <= own)  # NaN stays
        return row[keep], atom[keep]

    def inside(self, codes: Float64[np.ndarray, ...], atoms: np.ndarray) -> Float64[np.ndarray, ...]:
        """Codes a of codes z."""
        return codes / self.lengths.cpu().numpy()[atoms]

    def outside(self, codes: Float64[np.ndarray, ...], atoms: np.ndarray) -> Float64[np.ndarray, ...]:
        """Codes z of codes a."""
        return codes * self.lengths.cpu().numpy()[atoms]
