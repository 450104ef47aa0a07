"""The sorted L1 norm (SLOPE): the largest code pays the largest weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments, tensors
from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.penalties.row_penalty import RowPenalty, linear_radial, require_length


@dataclass(frozen=True)
class Slope(RowPenalty):
    """``Ω(z) = Σ_i w_i z_(i)`` with ``z_(1) ≥ z_(2) ≥ …`` and ``w_1 ≥ w_2 ≥ … ≥ 0``: SLOPE, which ties similar atoms.

    Its polar is ``max_j Σ_{i≤j} (v_+)_(i) / Σ_{i≤j} w_i``. Equal weights are L1.
    Only then T16 holds: m equal codes that sum to s cost ``s`` times the mean of the m largest weights, and a single
    one the largest.

    Parameters
    ----------
    weights
        w, (K,), nonincreasing, the first above zero.

    Raises
    ------
    InputError
        For weights that increase or are negative, or a first weight of zero.
    """

    weights: Any

    name: ClassVar[str] = "SLOPE"
    formula: ClassVar[str] = "Σ_i w_i z_(i)"

    def __post_init__(self) -> None:
        weights = tensors.vector(self.weights, "weights")
        if bool((weights[1:] > weights[:-1]).any()):
            place = 1 + int((weights[1:] > weights[:-1]).nonzero()[0])
            raise InputError(f"weights rises at {place}, to {float(weights[place]):g}; sort them, largest first.")
        if not float(weights[0]) > 0 or float(weights[-1]) < 0:
            bad = weights[0] if not float(weights[0]) > 0 else weights[-1]
            raise InputError(f"weights holds {float(bad):g}; the first must be above zero and the others zero or more.")
        object.__setattr__(self, "weights", tuple(float(weight) for weight in weights))

    @cached_property
    def _sorted(self) -> torch.Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)

    def require_atoms(self, n_atoms: int) -> None:
        """One weight per atom."""
        require_length(len(self.weights), n_atoms, "weights")

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_i w_i z_(i)`` of every row."""
        return Z.sort(dim=1, descending=True).values @ self._sorted.to(Z)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """Sorted, less ``step·w``, the nearest nonincreasing vector, its positive part, and back in place.

        The nonincreasing fit is positive exactly up to where the sums of ``v_(i) − step·w_i`` are largest; rows that
        do not increase up to there are their own fit, and the others are fitted by pooling adjacent violators.
        """
        from scipy.optimize import isotonic_regression

        ordered, places = V.clamp(min=0).sort(dim=1, descending=True)
        lowered = ordered - arguments.nonnegative(step, "step") * self._sorted.to(V)
        sums = lowered.cumsum(dim=1)
        lengths = torch.where(sums.amax(dim=1) > 0, 1 + sums.argmax(dim=1), 0)
        ranks = torch.arange(V.shape[1], device=V.device)
        fitted = torch.where(ranks < lengths[:, None], lowered, 0)
        rises = (fitted[:, 1:] > fitted[:, :-1]).any(dim=1)
        rows: np.ndarray = fitted[rises].cpu().numpy()
        for row, length in zip(rows, lengths[rises].tolist(), strict=True):
            go_on()
            row[:length] = isotonic_regression(row[:length], increasing=False).x
        fitted[rises] = torch.from_numpy(rows).to(V)
        return torch.zeros_like(V).scatter_(1, places, fitted.clamp_(min=0))

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``max_j Σ_{i≤j} (v_+)_(i) / Σ_{i≤j} w_i`` of every row."""
        sums = V.clamp(min=0).sort(dim=1, descending=True).values.cumsum(dim=1)
        return (sums / self._sorted.to(V).cumsum(dim=0)).amax(dim=1)

    @property
    def mass_objection(self) -> str | None:
        """T16 needs equal weights."""
        return None if self.weights[0] == self.weights[-1] else "codes that share a sum cost less than a single one"

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``w t`` of equal weights."""
        self.require_mass()
        return self.weights[0] * s

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """That of L1."""
        return linear_radial(r, lam * float(self.of_mass(np.ones(1))[0]))
