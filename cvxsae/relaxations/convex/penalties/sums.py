"""Penalties of sums of codes: their squares group by group, and a limit (the simplex)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments
from cvxsae.relaxations.convex.penalties.row_penalty import (
    RowPenalty,
    group_largest,
    group_sums,
    labels_of,
    require_length,
)

SUM_TOLERANCE = 1e-12
"""By how much of itself a limited sum may be exceeded: rounding of a sum of codes. The bound allows for as much."""


@dataclass(frozen=True)
class Exclusive(RowPenalty):
    """``Ω(z) = ½ Σ_g (Σ_{k∈g} z_k)²`` over disjoint groups, ``z ≥ 0``: atoms of a group exclude each other.

    Its conjugate is ``½ Σ_g (max_{k∈g} v_k)_+²``. No λ makes all codes zero: Ω has slope 0 there.
    With a single group it is ``g(Σz)`` for ``g(t) = ½t²``, and T16 holds; a sum that G groups share costs ``½s²/G``.

    Parameters
    ----------
    groups
        The group of every atom, (K,): whole numbers from zero.

    Raises
    ------
    InputError
        For groups that are not numbered without a gap.
    """

    groups: Any

    name: ClassVar[str] = "exclusive"
    formula: ClassVar[str] = "½ Σ_g (Σ_{k∈g} z_k)²"
    degree: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", labels_of(self.groups))

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return 1 + max(self.groups)

    @cached_property
    def _labels(self) -> torch.Tensor:
        return torch.tensor(self.groups)

    def require_atoms(self, n_atoms: int) -> None:
        """One group per atom."""
        require_length(len(self.groups), n_atoms, "groups")

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``½ Σ_g (Σ_{k∈g} z_k)²`` of every row."""
        return group_sums(Z, self._labels, self.n_groups).square().sum(dim=1) / 2

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """``(v_k − a_g)_+`` with a_g the root of ``a = step·Σ_{k∈g} (v_k − a)_+``.

        Newton's method from zero: a grows, atoms leave one after the other, and it ends where none does.
        """
        step, labels = arguments.nonnegative(step, "step"), self._labels.to(V.device)
        thresholds = V.new_zeros((len(V), self.n_groups))
        active = V > 0
        for _ in range(V.shape[1] + 1):
            counts = group_sums(active.to(V), labels, self.n_groups)
            thresholds = step * group_sums(torch.where(active, V, 0), labels, self.n_groups) / (1 + step * counts)
            left = active & (thresholds[:, labels] < V)
            if bool((left == active).all()):
                break
            active = left
        return torch.where(active, V - thresholds[:, labels], 0).clamp_(min=0)

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """Infinite where an entry is positive, and 0 elsewhere: Ω has no slope at zero."""
        return torch.where(V.amax(dim=1) > 0, torch.inf, 0.0)

    def conjugate(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``½ Σ_g (max_{k∈g} v_k)_+²`` of every row."""
        return group_largest(V, self._labels, self.n_groups).square().sum(dim=1) / 2

    @property
    def mass_objection(self) -> str | None:
        """T16 needs a single group."""
        return "a sum that groups share costs less than in one group" if self.n_groups > 1 else None

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``½t²`` of a single group."""
        self.require_mass()
        return s**2 / 2

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``½ λ r²/(1 + λ)``."""
        self.require_mass()
        return lam / (1 + lam) * r**2 / 2


@dataclass(frozen=True)
class Simplex(RowPenalty):
    """``Ω(z) = 0`` if ``Σ_k z_k ≤ s`` (or ``= s``) and infinite otherwise, ``z ≥ 0``: a limit instead of a price.

    λ has nothing to multiply: pass 1. The conjugate is ``s max_k (v_k)_+``, and ``s max_k v_k`` of ``= s``.
    T16 holds of ``≤ s`` with ``g(t) = 0`` up to s and infinite beyond. Of ``= s`` it does not: zero codes are not
    allowed, so g would have to fall from infinity to zero.

    Parameters
    ----------
    total
        s > 0.
    exactly
        Whether the codes must sum to s; otherwise to at most s.

    Raises
    ------
    InputError
        For a total that is not above zero.
    """

    total: float = 1.0
    exactly: bool = False

    name: ClassVar[str] = "simplex"
    formula: ClassVar[str] = "0 where Σ_k z_k ≤ s (or = s), infinite elsewhere"
    degree: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", arguments.positive(self.total, "total"))
        object.__setattr__(self, "exactly", arguments.flag(self.exactly, "exactly"))

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """0 where the sum is allowed, up to rounding; infinite elsewhere."""
        excess = Z.sum(dim=1) / self.total - 1
        off = excess.abs() if self.exactly else excess
        return torch.where(off <= SUM_TOLERANCE, 0.0, torch.inf).to(Z)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """The nearest allowed point, whatever the step: ``(v − a)_+`` with the a for which it sums to s."""
        arguments.nonnegative(step, "step")
        below = V - V.amax(dim=1, keepdim=True)  # the same point, and what is large beside the total leaves digits
        descending = below.sort(dim=1, descending=True).values
        counts = torch.arange(1, V.shape[1] + 1, device=V.device).to(V)
        levels = (descending.cumsum(dim=1) - self.total) / counts
        inside = (below - levels.amax(dim=1, keepdim=True)).clamp_(min=0)
        inside *= self.total / inside.sum(dim=1, keepdim=True)  # up to rounding it was s
        if self.exactly:
            return inside
        positive = V.clamp(min=0)
        return torch.where(positive.sum(dim=1, keepdim=True) <= self.total, positive, inside)

    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """0 where zero codes are the best there are at every λ, and infinite elsewhere."""
        never = torch.full_like(V[:, 0], torch.inf)
        return never if self.exactly else torch.where(V.amax(dim=1) > 0, never, 0.0)

    def conjugate(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``s max_k (v_k)_+`` (``s max_k v_k`` of ``= s``) of every row, at the largest sum that counts as s."""
        most = V.amax(dim=1) if self.exactly else V.amax(dim=1).clamp(min=0)
        return self.total * (most + SUM_TOLERANCE * most.abs())

    @property
    def mass_objection(self) -> str | None:
        """T16 needs codes that may be zero."""
        return "codes must not be zero" if self.exactly else None

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """0 up to the total, infinite beyond."""
        self.require_mass()
        return np.where(s / self.total - 1 <= SUM_TOLERANCE, 0.0, np.inf)

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``½ (r − s)_+²``, at the largest sum that counts as s."""
        del lam
        self.require_mass()
        return np.maximum(r - self.total * (1 + SUM_TOLERANCE), 0.0) ** 2 / 2
