"""From the splitting's iterate to points that are feasible, with less lost on the way than by scaling.

The splitting's objective is accurate long before its iterates are feasible, so the gap is mostly the cost of making
them so. A dual point of T11 is Y (N, d) and P ≥ 0 (N, N) with ``λ²(11ᵀ + τI) − P − YYᵀ ⪰ 0``, worth
``⟨X − 1bᵀ, Y⟩ − ½‖Y‖²``. P can make up for a part of a violation, more so at a slightly shorter Y, and then Y need not
shrink in directions where nothing is violated. A primal point is Q ⪰ 0, Q ≥ 0. Nothing is proved here: values and
the polars from which bounds follow are evaluated elsewhere, from Q, Y and P alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.proofs import CopositivityProof
from cvxsae.solvers.convex.large.admm import ConeData, ConeState, lifted, positive_part

_OVER = 1.8
"""Steps on P are this times as long as the projection (1 to 2 converges); 1.8 gained more than 1 in 1 to 3 steps."""

_SHORTER = 0.5
"""Of what scaling would take off the square of Y, the share that is taken off before P is improved."""

_INSIDE = 0.3
"""Entries of Q are lifted to this share of the mean negative one, so that the projection leaves fewer below zero."""

_ROOM = 1e-6
"""By what share P is shrunk more than a proved bound asks for, so that rounding leaves the slack positive definite."""

_STEPS = 40
"""Most steps on Y; each takes two products of N²d."""

_SMALL_GAIN = 0.02
"""A step that gains less than this share of all the gain so far ends them."""


@dataclass(frozen=True)
class DualPoint:
    """A feasible dual point Y (N, d), the proof that it is feasible, and its bound, per datapoint."""

    Y: torch.Tensor
    proof: CopositivityProof | None
    bound: float

    def or_better(self, other: DualPoint) -> DualPoint:
        """The one with the higher bound."""
        return max(self, other, key=lambda point: point.bound)


def best_multiple(
    problem: LargeDictionary, data: torch.Tensor, Y: torch.Tensor, proof: CopositivityProof | None, polar: float
) -> DualPoint:
    """The multiple of Y with the highest bound among those that ``polar ≥ θ°(Y)``, which is proved, allows."""
    offsets = data - problem.starting_bias().to(data)
    along, square = float((offsets * Y).sum()), float(Y.square().sum())
    if square == 0 or not 0 < polar < math.inf:  # NaN proves nothing
        return DualPoint(torch.zeros_like(Y), None, 0.0)
    polar += sum_slack(Y) if problem.bias_is_free else 0.0
    limit = problem.lam * (1 - 4 * problem.dim * EPS) / polar
    scale = min(max(along / square, 0.0), limit)
    bound = (scale * along - scale**2 * square / 2) / problem.n_points
    point = without_sum(scale * Y) if problem.bias_is_free else scale * Y
    return DualPoint(point, None if proof is None else proof.scaled(scale), bound)


def improved_multiplier(
    Y: Float[torch.Tensor, "N d"],
    P: Float[torch.Tensor, "N N"],
    lam: float,
    tau: float,
    rank: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """P (N, N) after a projected gradient step on ``½‖(M − P)₋‖²`` at this Y, ``M = λ²(11ᵀ + τI) − YYᵀ``.

    One eigendecomposition, in the precision given; worth several steps of the splitting to the bound. M − P, the dual
    slack, is complementary to Q, whose rank is given.
    """
    rows, before = (Y / lam).to(dtype), (P / lam**2).to(dtype)
    slack = (rows @ rows.T).neg_().add_(1)
    slack.diagonal().add_(tau)
    slack.sub_(before)
    after = before.add_(slack.sub_(positive_part(slack, len(slack) - rank)[0]), alpha=_OVER).clamp_(min=0)
    after = after.add_(after.T.clone()).to(torch.float64)
    return after.mul_(lam**2 / 2)


def shorter(Y: Float[torch.Tensor, "N d"], lam: float, polar: float) -> Float[torch.Tensor, "N d"]:
    """Y at which P is better improved, where ``polar`` says how far Y is from feasible."""
    excess = 1 - (lam / max(polar, lam)) ** 2
    return math.sqrt(1 - _SHORTER * excess) * Y


def best_residual(
    offsets: Float[torch.Tensor, "N d"],
    Y: Float[torch.Tensor, "N d"],
    P: Float[torch.Tensor, "N N"],
    lam: float,
    tau: float,
    polar: float,
    dtype: torch.dtype,
    *,
    centered: bool,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Y and P (float64) where P is shrunk as ``polar`` asks and Y is the best at that P; None where S has no factor.

    ``polar`` is a t with ``t²(11ᵀ + τI) − P − YYᵀ ⪰ 0``. So with ``s = λ/t``, ``S = λ²(11ᵀ + τI) − s²P = LLᵀ`` is
    positive semidefinite, and ``Y = LW`` is feasible just when no singular value of W exceeds 1. On those W the bound
    ``⟨X, LW⟩ − ½‖LW‖²`` is concave, and clipping singular values is the projection on them (with ``1ᵀLW = 0`` as well
    where the bias is free, ``centered``): accelerated projected gradient steps, N²d each in the precision given,
    beginning at sY.
    """
    square = (lam / max(polar, lam) / (1 + _ROOM)) ** 2
    slack = P * -square
    slack.add_(lam**2).diagonal().add_(lam**2 * tau)
    factor, failed = linalg.cholesky(slack)
    slack = slack.to(dtype)
    size = linalg.largest_eigenvalue(slack.mv, slack[0])
    del slack
    if bool(failed) or size <= 0:
        return None
    start = torch.linalg.solve_triangular(factor, math.sqrt(square) * Y, upper=False)
    L, offsets = factor.to(dtype), offsets.to(dtype)
    ones = L.sum(dim=0)

    def projected(W: torch.Tensor) -> torch.Tensor:
        if centered:
            W = W - torch.outer(ones, ones @ W) / ones.square().sum()
        is_wide = len(W) < W.shape[1]
        values, vectors = linalg.eigh(W @ W.T if is_wide else W.T @ W)
        shrink = (vectors * values.clamp(min=1).rsqrt()) @ vectors.T
        return shrink @ W if is_wide else W @ shrink

    def worth(Y: torch.Tensor) -> float:
        return float((offsets * Y).sum() - Y.square().sum() / 2)

    W = projected(start.to(dtype))
    point = L @ W
    first = value = worth(point)
    ahead, at, momentum = W, point, 1.0
    for _ in range(_STEPS):
        new = projected(ahead + (L.T @ (offsets - at)) / size)
        image = L @ new
        reached = worth(image)
        if reached <= value:
            if momentum == 1.0:
                break
            ahead, at, momentum = W, point, 1.0
            continue
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        forward = (momentum - 1) / following
        ahead, at = new + forward * (new - W), image + forward * (image - point)
        gain, W, point, value, momentum = reached - value, new, image, reached, following
        if gain <= _SMALL_GAIN * (value - first):
            break
    return factor @ W.to(factor), P * square


def projected_similarity(data: ConeData, state: ConeState) -> Float[torch.Tensor, "N N"]:
    """A doubly nonnegative Q in float64, unscaled: the cone's own after one projection back and forth.

    Its entries are lifted to a little above zero, the result is projected on the semidefinite cone, and what is still
    negative is lifted as in :func:`~cvxsae.solvers.convex.large.admm.lifted`. One eigendecomposition.
    """
    n = len(data.data)
    Q = state.cone[:n, :n]
    negative = Q.clamp(max=0)
    inside = -_INSIDE * float(negative.sum()) / max(1, int(torch.count_nonzero(negative)))
    return lifted(positive_part(Q.clamp(min=inside), state.rank)[0], data.unit)
