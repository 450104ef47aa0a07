"""The penalty of codes whose atoms have prices of their own: ``Σ_k w_k z_k + ½ Σ_k ρ_k z_k²``, and its conjugate.

In units of λ. With a ridge on an atom its dual constraint ``d_k·y ≤ λ w_k`` becomes a charge on the dual value,
``(d_k·y − λ w_k)_+² / (2 λ ρ_k)`` (Fenchel): any y is feasible as far as that atom goes, and pays for what exceeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float

from cvxsae.data import tensors
from cvxsae.data.arithmetic import computes
from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.linalg import EPS

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-12, 1e12
"""Bounds of a weight: float32 holds atoms divided by it, and a bound scales by the ratio of two."""

SMALLEST_RIDGE = 1e-24
"""Of λρ, which adds to a Gram matrix of diagonal 1: below, the dual point is made feasible instead of charged.
That is a bound for every ridge, and the charge would divide the square of rounding by it."""

ROUNDINGS = 8
"""Units of rounding besides those of a sum: of a point that is scaled, its norm, and a division by a weight."""

NEWTON_STEPS = 100
"""Most steps to the best scale of a dual point: each passes a kink of a concave function, and few take ten."""

BLOCK_ENTRIES = 2**21
"""Most entries of a block of products with the atoms: 16 MB in float64."""


def prices(weights: Any, ridge: Any, n_atoms: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Check weights and a ridge for ``n_atoms`` atoms; None for what is that of the plain penalty, 1 or 0.

    Raises
    ------
    InputError
        For vectors of another length, weights that are not positive and a ridge below zero.
    """
    return (
        _checked(weights, "weights", n_atoms, _weight_objection, 1.0),
        _checked(ridge, "ridge", n_atoms, _ridge_objection, 0.0),
    )


def _checked(
    value: Any, name: str, n_atoms: int, objection: Callable[[torch.Tensor], Bool[torch.Tensor, " K"]], plain: float
) -> torch.Tensor | None:
    if value is None:
        return None
    vector = tensors.vector(value, name)
    if len(vector) != n_atoms:
        raise InputError(f"{name} has shape {tuple(vector.shape)}; there are {n_atoms} atoms, pass one number each.")
    bad = objection(vector)
    if bool(bad.any()):
        atom = int(bad.nonzero()[0])
        wanted = f"numbers from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, above zero" if plain else "zero or more"
        raise InputError(f"{name} holds {float(vector[atom]):g} at atom {atom}; pass {wanted} for every atom.")
    return None if bool((vector == plain).all()) else vector


def _weight_objection(weights: torch.Tensor) -> torch.Tensor:
    return (weights < SMALLEST_WEIGHT) | (weights > LARGEST_WEIGHT)


def _ridge_objection(ridge: torch.Tensor) -> torch.Tensor:
    return ridge < 0


def product_rounding(dim: int) -> float:
    """By how much a product of an atom of norm 1 with y, summed in any order, is off at most, for a norm of y of 1."""
    return (dim / 2 + ROUNDINGS) * EPS  # EPS is twice the unit roundoff


class Charges(NamedTuple):
    """What a dual point pays at the atoms that have a ridge, and by how much it may be scaled for the others."""

    correlations: torch.Tensor
    limits: torch.Tensor
    curvatures: torch.Tensor
    blur: torch.Tensor

    def at(self, scale: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, "n K"]:
        """How far the point, scaled, exceeds the limits, rounding included."""
        return (scale[:, None] * self.correlations + self.blur[:, None] - self.limits).clamp_(min=0)

    def value(self, scale: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
        """The charge of each row."""
        return (self.at(scale).square() / (2 * self.curvatures)).sum(dim=1)


@computes
@dataclass(frozen=True)
class CodePenalty(AtomPenalty):
    """``w_k Σ_n z_nk + ½ρ_k Σ_n z_nk²`` for the activations z of atom k (columns), in units of λ.

    Attributes
    ----------
    weights
        w > 0, (K,).
    ridge
        ρ ≥ 0, (K,).
    """

    weights: Float[torch.Tensor, " K"] = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    ridge: Float[torch.Tensor, " K"] = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def value(self, Z: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, " K"]:
        """The penalty of every column, (K,)."""
        return self.weights.to(Z) * Z.sum(dim=0) + self.ridge.to(Z) / 2 * Z.square().sum(dim=0)

    def prox(self, V: Float[torch.Tensor, "N K"], step: float) -> Float[torch.Tensor, "N K"]:
        """``argmin_{Z ≥ 0} ½‖Z − V‖² + step · Σ_k (w_k Σ_n z_nk + ½ρ_k Σ_n z_nk²)``, (N, K)."""
        return (V - step * self.weights.to(V)).clamp_(min=0).div_(1 + step * self.ridge.to(V))

    def polar(self, V: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, " K"]:
        """``max_n v_nk/w_k`` of every column without a ridge, and 0 of the others, which have no constraint, (K,)."""
        largest = V.amax(dim=0).clamp(min=0) / self.weights.to(V)
        return torch.where(self.ridge.to(V) > 0, 0.0, largest)

    def conjugate(self, V: Float[torch.Tensor, "N K"]) -> Float[torch.Tensor, " K"]:
        """``max_{z ≥ 0} v·z − penalty(z)`` of every column: ``Σ_n (v_n − w)_+²/(2ρ)``, infinite where ρ = 0 < v − w."""
        excess = (V - self.weights.to(V)).clamp_(min=0).square_().sum(dim=0)
        ridge = self.ridge.to(V)
        return torch.where(ridge > 0, excess / (2 * ridge), torch.where(excess > 0, torch.inf, 0.0))

    # ------------------------------------------------------------------ dual points, at a penalty λ

    def is_charged(self, lam: float) -> Bool[torch.Tensor, " K"]:
        """Atoms whose ridge is large enough to charge a dual point instead of constraining it."""
        return lam * self.ridge >= SMALLEST_RIDGE

    def charges(self, Y: Float[torch.Tensor, "n d"], atoms: Float[torch.Tensor, "K d"], lam: float) -> Charges:
        """Of the rows of Y, at the atoms that have a ridge."""
        mine = self.is_charged(lam)
        weights, ridge = (lam * part[mine].to(Y) for part in (self.weights, self.ridge))
        blur = product_rounding(Y.shape[1]) * torch.linalg.vector_norm(Y, dim=1)
        return Charges(Y @ atoms.to(Y)[mine.to(Y.device)].T, weights, ridge, blur)

    def conjugates(
        self, Y: Float[torch.Tensor, "n d"], atoms: Float[torch.Tensor, "K d"], lam: float
    ) -> Float[torch.Tensor, " n"]:
        """What the ridge takes off the dual value of each row, rounded up: ``Σ_k (d_k·y − λw_k)_+²/(2λρ_k)``."""
        ones = torch.ones(1).to(Y)
        return torch.cat(
            [self.charges(Y[rows], atoms, lam).value(ones.expand(len(Y[rows]))) for rows in _blocks(len(Y), len(atoms))]
        )

    def scales(
        self,
        Y: Float[torch.Tensor, "n d"],
        offsets: Float[torch.Tensor, "n d"],
        most: Float[torch.Tensor, " n"],
        atoms: Float[torch.Tensor, "K d"],
        lam: float,
    ) -> Float[torch.Tensor, " n"]:
        """The scale s in [0, ``most``] of each row y at which ``s y·x − ½s²‖y‖² − conjugate(s y)`` is largest.

        Concave, with a derivative that is concave too, so that Newton's method from above falls to its root.
        """
        parts = []
        for rows in _blocks(len(Y), len(atoms)):
            charges = self.charges(Y[rows], atoms, lam)
            parts.append(_best_scale(Y[rows], offsets[rows], most[rows], charges))
        return torch.cat(parts)

    def common_scale(
        self,
        Y: Float[torch.Tensor, "n d"],
        offsets: Float[torch.Tensor, "n d"],
        most: float,
        atoms: Float[torch.Tensor, "K d"],
        lam: float,
    ) -> float:
        """The same for one scale of all rows, which a free bias couples."""
        each = self.charges(Y, atoms, lam)
        n = len(Y)
        whole = Charges(
            each.correlations.reshape(1, -1),
            (each.limits - each.blur[:, None]).reshape(1, -1),
            each.curvatures.repeat(n),
            each.blur.new_zeros(1),
        )
        bound = torch.full((1,), most, dtype=Y.dtype, device=Y.device)
        return float(_best_scale(Y.reshape(1, -1), offsets.reshape(1, -1), bound, whole))


def _best_scale(
    Y: Float[torch.Tensor, "n d"],
    offsets: Float[torch.Tensor, "n d"],
    most: Float[torch.Tensor, " n"],
    charges: Charges,
) -> Float[torch.Tensor, " n"]:
    gain, square = (Y * offsets).sum(dim=1), Y.square().sum(dim=1)
    scale = most.clone()
    for _ in range(NEWTON_STEPS):
        rates = charges.correlations / charges.curvatures * (excess := charges.at(scale))
        slope = gain - scale * square - rates.sum(dim=1)
        bend = square + torch.where(excess > 0, charges.correlations.square() / charges.curvatures, 0).sum(dim=1)
        step = torch.where((slope < 0) & (bend > 0), slope / bend, 0.0)
        new = (scale + step).clamp(min=0)
        if not bool((new < scale * (1 - EPS)).any()):
            break
        scale = new
    return scale


def _blocks(n: int, n_atoms: int) -> Iterator[slice]:
    """Rows, few enough at a time for their products with all atoms."""
    step = max(1, BLOCK_ENTRIES // max(1, n_atoms))
    for first in range(0, n, step):
        go_on()
        yield slice(first, first + step)
