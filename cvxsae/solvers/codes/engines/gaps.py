"""What the codes of a batch are worth: duality gaps and the rounding in them, for the torch engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int

from cvxsae.solvers.codes.engines.prices import PRICE_ROUNDING, PRICE_ROUNDINGS
from cvxsae.solvers.codes.engines.screening import (
    SPARE_ROUNDINGS,
    SUM_ROUNDING,
    UNIT_ROUNDOFF,
    PreparedDictionary,
)

PerRow: TypeAlias = Float[torch.Tensor, " b"]
"""One number per datapoint."""

NONE = -1
"""Marks an unused place in a working set."""


@dataclass(frozen=True)
class MemberPrices:
    """ω and σ of the members of working sets, (b, m); 1 and 0 at unused places."""

    weights: Float[torch.Tensor, "b m"]
    shares: Float[torch.Tensor, "b m"]

    @classmethod
    def of(cls, dictionary: PreparedDictionary, members: Int[torch.Tensor, "b m"]) -> MemberPrices | None:
        """Of members, ``NONE`` where there is none; None for the plain penalty."""
        prices, held, at = dictionary.prices, members != NONE, members.clamp(min=0)
        if prices is None:
            return None
        return cls(torch.where(held, prices.weights[at], 1.0), torch.where(held, prices.shares[at], 0.0))

    def energy(self, codes: Float[torch.Tensor, "b m"]) -> PerRow:
        """Σ σ a²: what the ridge adds to the squared residual."""
        return (self.shares * codes.square()).sum(dim=1)

    def mass(self, codes: Float[torch.Tensor, "b m"]) -> PerRow:
        """Σ ω a."""
        return (self.weights * codes).sum(dim=1)

    def largest(
        self,
        codes: Float[torch.Tensor, "b m"],
        correlations: Float[torch.Tensor, "b m"],
        blur: Float[torch.Tensor, " b"],
    ) -> PerRow:
        """The largest ratio of a correlation to its weight on the support, rounding included; at least 1."""
        reach = correlations + (blur[:, None] + PRICE_ROUNDING * (blur[:, None] + self.shares * codes))
        return torch.where(codes > 0, reach / self.weights, 0.0).amax(dim=1).clamp(min=1.0)

    def rounding(self, square: PerRow, codes: Float[torch.Tensor, "b m"], scale: PerRow, dot_error: float) -> PerRow:
        """As :func:`rounding`, with what ν, σ and ω add."""
        count = (codes > 0).sum(dim=1)
        norm, length = square.sqrt(), codes.sum(dim=1)
        drift = (count + SPARE_ROUNDINGS + PRICE_ROUNDINGS) * UNIT_ROUNDOFF * (norm + 2 * length)
        terms = self.mass(codes) + self.energy(codes) + square
        products = length * (dot_error + PRICE_ROUNDING) * norm
        return (1 + scale) * norm * drift + 0.5 * drift**2 + products + terms * (SUM_ROUNDING + PRICE_ROUNDING)


def best_gaps(
    square: Float[torch.Tensor, " b"], codes: Float[torch.Tensor, "b m"], correlations: Float[torch.Tensor, "b m"],
    largest: Float[torch.Tensor, " b"], prices: MemberPrices | None = None,
) -> tuple[PerRow, PerRow, PerRow, PerRow]:  # fmt: skip
    """Primal value, smallest gap over feasible scales, Σz and the scale; derived in ``cpu_certificate.best_gap``."""
    mass = codes.sum(dim=1) if prices is None else prices.mass(codes)
    limit = 1 if prices is None else prices.weights
    wanted = torch.where(square > 0, 1 + (codes * correlations).sum(dim=1) / square, torch.inf)
    scale = torch.minimum(1 / largest, wanted).clamp(min=0)
    gap = 0.5 * (1 - scale) ** 2 * square + (codes * (limit - scale[:, None] * correlations).clamp(min=0)).sum(dim=1)
    return 0.5 * square + mass, gap, mass, scale


def rounding(
    square: Float[torch.Tensor, " b"], mass: Float[torch.Tensor, " b"], count: Int[torch.Tensor, " b"],
    scale: Float[torch.Tensor, " b"], dot_error: float,
) -> Float[torch.Tensor, " b"]:  # fmt: skip
    """What rounding in float64 can add to the gap, as in ``cpu_certificate.rounding``."""
    norm = square.sqrt()
    drift = (count + SPARE_ROUNDINGS) * UNIT_ROUNDOFF * (norm + 2 * mass)
    return (1 + scale) * norm * drift + 0.5 * drift**2 + mass * (dot_error * norm + SUM_ROUNDING)
