"""The splitting of :mod:`~cvxsae.solvers.convex.large.admm` over a tighter cone: Q is the marginal of a tensor.

    Q = Σ_i T_i,   T symmetric and T ≥ 0 entry by entry,   every slice T_i ⪰ 0,

holds for ``T = Σ_k b_k ⊗ b_k ⊗ b_k / 1ᵀb_k`` whenever ``Q = Σ_k b_k b_kᵀ`` with ``b_k ≥ 0``, so the optimum over such Q
lies between that of the doubly nonnegative relaxation and that of (7). The dual is T11 with the proofs of
:mod:`cvxsae.relaxations.proofs`. One half of a step is a linear subspace (T symmetric, Q its marginal;
solved in closed form), the other a product of cones: the one of Q, V and DᵀD, a semidefinite cone a slice, an orthant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from cvxsae.relaxations import linalg
from cvxsae.relaxations.proofs import pencil_bound, spread, symmetrized, unspread
from cvxsae.solvers.convex.large.admm import (
    ConeData,
    ConeState,
    balance,
    blocks,
    centered,
    fit_and_corner,
    positive_part,
)

_RELAXATION = 1.6
"""Over-relaxation, as in the splitting without slices."""

_COPY_WEIGHT = 0.3
"""Weight γ of the copies of the tensor beside the matrix Q: they are N times as many numbers."""

_BALANCE_EVERY = 10
"""Steps between two adaptations of the step size σ."""

_BALANCE_UNTIL = 100
"""Step after which σ stays; it starts near its best, where the first splitting ended."""


@dataclass(frozen=True)
class TripleState:
    """An iterate.

    Attributes
    ----------
    cone, slices, orthant
        The copies in the cones: ``[[Q, βV], [βVᵀ, β²T]]`` of order N + r, slices and nonnegative tensor (N, N, N).
    cone_multiplier, slice_multiplier, orthant_multiplier
        Their scaled multipliers: minus the dual slacks over σ.
    rigidity, weight
        The step σ, and β.
    tensor, fit
        The separable half's T, symmetric, and V, (N, r).
    iteration
        Steps done.
    """

    cone: torch.Tensor
    slices: torch.Tensor
    orthant: torch.Tensor
    cone_multiplier: torch.Tensor
    slice_multiplier: torch.Tensor
    orthant_multiplier: torch.Tensor
    rigidity: float
    weight: float
    tensor: torch.Tensor
    fit: torch.Tensor
    iteration: int


def start(data: ConeData, state: ConeState, factor: Float[torch.Tensor, "N K"]) -> TripleState:
    """Begin where the doubly nonnegative relaxation ended, at the tensor of the best factor B known."""
    B = factor / math.sqrt(data.unit)
    B = B[:, B.sum(dim=0) > 0]
    tensor = torch.einsum("ik,jk,lk->ijl", B / B.sum(dim=0), B, B)
    nothing = torch.zeros_like(tensor)
    return TripleState(
        cone=state.cone.to(tensor),
        slices=tensor,
        orthant=tensor,
        cone_multiplier=state.multiplier.to(tensor),
        slice_multiplier=nothing,
        orthant_multiplier=nothing,
        rigidity=state.rigidity,
        weight=state.weight,
        tensor=tensor,
        fit=state.fit.to(tensor),
        iteration=0,
    )


def advance(data: ConeData, state: TripleState) -> TripleState:
    """One step: the subspace, over-relaxation, the cones, the multipliers; now and then the step size."""
    n, weight, rigidity = len(data.data), state.weight, state.rigidity
    point = state.cone - state.cone_multiplier
    shift = data.lam / (2 * rigidity)
    wanted_marginal = (point[:n, :n] + point[:n, :n].T) / 2 - shift
    wanted_marginal.diagonal().sub_(shift * data.tau)
    # argmin over symmetric T of ½‖Σ_i T_i − W‖² + ½γ‖T − G‖² + ½γ‖T − O‖², by the Woodbury identity.
    copies = state.slices - state.slice_multiplier + state.orthant - state.orthant_multiplier
    mean = symmetrized(copies) / 2
    tensor = mean + spread(unspread(wanted_marginal - mean.sum(dim=0), 2 * _COPY_WEIGHT))
    fit, inner = fit_and_corner(data, point, weight, rigidity)
    halves = (blocks(tensor.sum(dim=0), fit, inner), tensor, tensor)
    before = (state.cone, state.slices, state.orthant)
    totals = [
        torch.add(multiplier, half, alpha=_RELAXATION).add_(copy, alpha=1 - _RELAXATION)
        for multiplier, half, copy in zip(_multipliers(state), halves, before, strict=True)
    ]
    after = (positive_part(totals[0], n)[0], _positive_slices(totals[1]), totals[2].clamp(min=0))
    multipliers = [total.sub_(copy) for total, copy in zip(totals, after, strict=True)]
    iteration = state.iteration + 1
    if iteration % _BALANCE_EVERY == 0 and iteration <= _BALANCE_UNTIL:
        primal = _size([half - copy for half, copy in zip(halves, after, strict=True)]) / _size(after)
        dual = _size([new - old for new, old in zip(after, before, strict=True)]) / _size(multipliers)
        factor = balance(primal, dual)
        multipliers, rigidity = [multiplier / factor for multiplier in multipliers], rigidity * factor
    return TripleState(
        cone=after[0],
        slices=after[1],
        orthant=after[2],
        cone_multiplier=multipliers[0],
        slice_multiplier=multipliers[1],
        orthant_multiplier=multipliers[2],
        rigidity=rigidity,
        weight=weight,
        tensor=tensor,
        fit=fit / weight,
        iteration=iteration,
    )


def dual_point(
    data: ConeData, state: TripleState, tau: float
) -> tuple[Float[torch.Tensor, "N d"], Float[torch.Tensor, "N N N"]]:
    """``Y (N, d)`` and slices that prove a limit of its polar, unscaled.

    The multipliers of slices and orthant are the form of a copositive E up to the splitting's error: E is fitted by
    least squares, a multiple of the price makes its proof hold, and the rest of ``t²(11ᵀ + τI) − YYᵀ − E`` is
    semidefinite for t of :func:`~cvxsae.relaxations.proofs.pencil_bound`, hence one slice for all.
    """
    residual = centered(data, data.data - state.fit)
    Y = data.unit * residual @ data.rotation
    scale = -2 * data.lam * data.unit**2 * state.rigidity * _COPY_WEIGHT
    slices = scale * state.slice_multiplier
    form = symmetrized(slices)
    cut = unspread((form + scale * state.orthant_multiplier).sum(dim=0))
    price = torch.ones_like(cut)
    price.diagonal().add_(tau)
    lack = float(((form - spread(cut)) / spread(price)).max())
    cut.add_(price, alpha=max(lack, 0.0))
    gram = Y @ Y.T
    level = pencil_bound(gram, cut, tau, Y.shape[1])
    return Y, slices + (level**2 * price - gram - cut)


def _positive_slices(slices: torch.Tensor) -> torch.Tensor:
    values, vectors = linalg.eigh((slices + slices.transpose(1, 2)) / 2)
    return (vectors * values.clamp(min=0)[:, None, :]) @ vectors.transpose(1, 2)


def _multipliers(state: TripleState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return state.cone_multiplier, state.slice_multiplier, state.orthant_multiplier


def _size(parts: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> float:
    """Norm of a point of the product of cones, in which the copies weigh γ."""
    cone, slices, orthant = (float(part.square().sum()) for part in parts)
    return math.sqrt(cone + _COPY_WEIGHT * (slices + orthant)) or 1.0
