"""The best weights of one part of the datapoints: Frank-Wolfe on the dual of the kernels' bound (T14, T15)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from cvxsae.relaxations import linalg
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.floor import FloorPart
from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.linalg import EPS

_COOLING = 20
"""Steps after which the exponentiated gradient's step is half of the first; slower cooling only oscillates."""
_TINY = 1e-300
"""Keeps divisors away from zero; far below any value whose square is representable."""
_RATIOS = 33
"""Ratios λ/‖x‖ at which replies are tabulated: a search may be coarse, its result is evaluated afresh."""
_REPLIES = (-14, 17, 311)
"""Powers of two of the tabulated weights, per squared length, and how many: ten to an octave."""
_LEAST_STEP = 1e-12
"""A smaller step between two tabulated shares counts as this one."""
_DEPENDENT = 1e-2
"""Columns whose Cholesky factor has a smaller ratio of diagonal entries are made orthonormal by QR instead."""


@dataclass(frozen=True, kw_only=True)
class FrankWolfe:
    """How the weights are searched for. None of it can make a floor wrong: weights are evaluated again at the end.

    Attributes
    ----------
    tol
        Relative distance of dual and bound at which the search stops.
    deadline
        The ``time.perf_counter`` at which it stops in any case; infinity for none.
    seed
        Of the random start of the subspace iteration.
    rounds
        Replies of the eigenvalue problem at most; the distance is below 1e-3 after about ten.
    dense
        Up to so many datapoints all eigenvectors in float64 cost less than a subspace iteration is worth.
    inner_steps
        Steps of exponentiated gradient over the mixtures of the shares seen, in every round.
    newest
        The weight that the newest shares start with in the mixture.
    first_multiples, last_multiples
        Powers of two by which the first weights and the final ones are multiplied, and how many in between.
    least_weight
        Weights are at least this fraction of the shortest squared length, so that shares can be divided by them.
    first_powers, powers
        Powers in a subspace iteration from a random start, and from the basis of the last round.
    spare, spare_share
        Columns of a subspace iteration beyond K: a number, and a fraction of K.
    """

    tol: float
    deadline: float
    seed: int
    rounds: int = 25
    dense: int = 1200
    inner_steps: int = 60
    newest: float = 0.2
    first_multiples: tuple[int, int, int] = (-12, 4, 65)
    last_multiples: tuple[int, int, int] = (-2, 2, 41)
    least_weight: float = 1e-6
    first_powers: int = 5
    powers: int = 2
    spare: int = 8
    spare_share: float = 0.1


@dataclass(frozen=True)
class LivePoints:
    """The points longer than λ, in units of a power of two near their mean length; the others cost ½‖x‖² each."""

    live: torch.Tensor
    lengths: torch.Tensor
    directions: torch.Tensor
    lam: float
    scale: float
    short_costs: float
    total: int

    @classmethod
    def of(cls, offsets: torch.Tensor, lam: float, device: torch.device) -> LivePoints | None:
        """Keep the points with ``‖x_n − b‖ > λ``; None if there are none."""
        norms = torch.linalg.vector_norm(offsets, dim=1)
        live = torch.nonzero(norms > lam)[:, 0]
        if len(live) == 0:
            return None
        scale = 2.0 ** round(math.log2(float(norms[live].mean())))
        short = torch.ones(len(norms), dtype=torch.bool)
        short[live] = False
        chosen = offsets[live].to(device) / scale
        lengths = torch.linalg.vector_norm(chosen, dim=1)
        return cls(
            live,
            lengths * (1 - (offsets.shape[1] + 8) * EPS),
            chosen / lengths[:, None],
            lam / scale,
            scale,
            float((norms[short] / scale).square().sum()) / 2,
            len(norms),
        )

    def best(
        self,
        width: int,
        kernels: tuple[ZonalKernel, ...],
        search: FrankWolfe,
        start: dict[ZonalKernel, torch.Tensor],
        known: float,
    ) -> FloorPart | None:
        """Optimize the kernel that looks best at its first weights, and evaluate it if it can beat what is known."""
        target = known / self.scale**2 * self.total - self.short_costs
        ascents = [
            _Ascent(self, kernel, width, search, start.get(kernel))
            for kernel in kernels
            if not (kernel.powers == (1,) and width >= self.directions.shape[1])
        ]
        if not ascents:
            return None
        ascent = max(ascents, key=lambda one: one.value)
        ascent.run(target)
        start[ascent.kernel] = ascent.best
        return self._evaluated(ascent) if ascent.value > target else None

    def _evaluated(self, ascent: _Ascent) -> FloorPart:
        """(6c) at the best multiple of the weights found: float64, rounding subtracted."""
        weights, kernel = ascent.best, ascent.kernel
        limit = bound.share_limit(self.directions, weights, kernel, ascent.width)
        lower_ends = bound.shares(kernel).to(weights.device)
        costs = bound.least_costs(self.lengths, self.lam, kernel)
        best, factor = -math.inf, 1.0
        for trial in (*torch.logspace(*ascent.search.last_multiples, base=2.0).tolist(), 1.0):
            value = float(bound.inner_minimum(costs, lower_ends, trial * weights).values.sum()) - trial * limit
            if value > best:
                best, factor = value, trial
        slack = 8 * (self.total + self.directions.shape[1] + 8) * EPS * (best + 2 * factor * limit + self.short_costs)
        value = (best + self.short_costs - slack) / self.total * self.scale**2
        full = np.zeros(self.total)
        full[self.live.numpy()] = (factor * weights * self.scale**2).cpu().numpy()
        empty = np.zeros(0, dtype=int)
        return FloorPart(
            empty, None, value, kernel.theorem, kernel, full, factor * limit * self.scale**2 * (1 + 4 * EPS)
        )


class _Ascent:
    """Frank-Wolfe on the dual of (6c): ``min Σ_n Ψ_n**(q_n)`` over the shares that K features can have.

    Every set of weights w gives shares of the top eigenvectors, ``q(w)``, at which ``Σ w_n q_n`` is largest. The dual
    is minimized over the convex hull of the shares seen so far (exponentiated gradient), its slopes are the next
    weights, and the distance of dual and bound says how far the bound is from the best.
    """

    def __init__(
        self, points: LivePoints, kernel: ZonalKernel, width: int, search: FrankWolfe, start: torch.Tensor | None
    ) -> None:
        self.points, self.kernel, self.width, self.search = points, kernel, width, search
        self.costs = bound.least_costs(points.lengths, points.lam, kernel)
        self.lower_ends = bound.shares(kernel).to(points.lengths.device)
        self.replies = _Replies(points, kernel)
        self.oracle = _TopShares(points.directions, kernel, width, search)
        self.value, self.dual = -math.inf, math.inf
        weights = points.lengths if start is None else start
        limit, share = self.oracle(weights)
        for factor in torch.logspace(*search.first_multiples, base=2.0).tolist() if start is None else (1.0,):
            self._offer(factor * weights, factor * limit)
        self.seen = share[None]
        self.mixture = torch.ones(1, dtype=torch.float64, device=share.device)

    def _offer(self, weights: torch.Tensor, limit: float) -> None:
        value = float(bound.inner_minimum(self.costs, self.lower_ends, weights).values.sum()) - limit
        if value > self.value:
            self.value, self.best = value, weights

    def run(self, target: float) -> None:
        """Improve the weights until the dual is within ``tol`` of the bound, or below ``target``, or time is up."""
        for _ in range(self.search.rounds):
            if time.perf_counter() > self.search.deadline:
                break
            weights = self._mix()
            self.dual = min(self.dual, self._dual(weights))
            if self.dual <= max(target, self.value + self.search.tol * abs(self.dual)):
                break
            limit, share = self.oracle(weights)
            self._offer(weights, limit)
            self.seen = torch.cat([self.seen, share[None]])
            newest = self.search.newest
            self.mixture = torch.cat([(1 - newest) * self.mixture, self.mixture.new_tensor([newest])])

    def _mix(self) -> torch.Tensor:
        """Minimize the dual over the mixtures of the shares seen; return the weights at the minimum."""
        scale = 2 * len(self.costs) / max(abs(self.value), _TINY)
        for step in range(self.search.inner_steps if len(self.seen) > 1 else 0):
            slopes = -(self.seen @ self.replies(self.mixture @ self.seen)) / len(self.costs) * scale
            self.mixture = self.mixture * torch.exp(-(slopes - slopes.min()) / (1 + step / _COOLING))
            self.mixture = self.mixture / self.mixture.sum()
        least = float(self.points.lengths.min()) ** 2 * self.search.least_weight
        return self.replies(self.mixture @ self.seen).clamp(min=least)

    def _dual(self, weights: torch.Tensor) -> float:
        inner = bound.inner_minimum(self.costs, self.lower_ends, weights).values
        return float((inner - weights * (self.mixture @ self.seen)).sum())


class _Replies:
    """Weights at which a datapoint's inner minimum is at a given share: minus the slope of Ψ**, tabulated by λ/‖x‖."""

    def __init__(self, points: LivePoints, kernel: ZonalKernel) -> None:
        device = points.lengths.device
        ratios = points.lam / points.lengths
        grid = torch.logspace(math.log2(float(ratios.min())), 0, _RATIOS, base=2.0, dtype=torch.float64, device=device)
        row = (ratios[:, None] / grid).log().abs().argmin(dim=1)
        self.square = points.lengths.square()
        self.weights = torch.logspace(*_REPLIES, base=2.0, dtype=torch.float64, device=device)
        one = torch.ones(1, dtype=torch.float64, device=device)
        costs = torch.cat([bound.least_costs(one, float(ratio), kernel) for ratio in grid])
        ends = bound.shares(kernel).to(device)
        shares = torch.stack([ends[(costs + w * ends).argmin(dim=1)] for w in self.weights], dim=1)
        self.falling = -shares[row]  # rising in the weight, as searchsorted wants it

    def __call__(self, share: torch.Tensor) -> torch.Tensor:
        above = torch.searchsorted(self.falling, -share[:, None])[:, 0]
        right, left = above.clamp(max=len(self.weights) - 1), (above - 1).clamp(min=0)
        every = torch.arange(len(share), device=share.device)
        high, low = -self.falling[every, left], -self.falling[every, right]
        part = torch.where(high > low, (high - share) / (high - low).clamp(min=_LEAST_STEP), 0).clamp(0, 1)
        weights = self.weights[left] + part * (self.weights[right] - self.weights[left])
        return torch.where(above == 0, 0.0, weights) * self.square


class _TopShares:
    """``Λ_K(w)`` and the shares of the top eigenvectors, near enough to search with.

    All eigenvectors in float64 for few points; a subspace iteration in float32 that starts where the last one ended
    for many.
    """

    def __init__(self, directions: torch.Tensor, kernel: ZonalKernel, width: int, search: FrankWolfe) -> None:
        self.width, self.kernel = width, kernel
        self.dense = len(directions) <= search.dense
        matrix = kernel(directions @ directions.T)
        self.matrix = matrix if self.dense else matrix.float()
        self.basis: torch.Tensor | None = None
        self.search = search

    def __call__(self, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        root = weights.to(self.matrix.dtype).sqrt()
        weighted = self.matrix * root[:, None] * root
        values, vectors = linalg.eigh(weighted) if self.dense else self._iterate(weighted)
        values, vectors = values.flip(0)[: self.width].clamp(min=0), vectors.flip(1)[:, : self.width]
        share = vectors.square().to(torch.float64) @ values.to(torch.float64) / weights.clamp(min=_TINY)
        return float(values.to(torch.float64).sum()), share.clamp(0, 1)

    def _iterate(self, weighted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        search, powers = self.search, self.search.powers
        if self.basis is None:
            powers = search.first_powers
            generator = torch.Generator().manual_seed(search.seed)
            columns = min(len(weighted), int((1 + search.spare_share) * self.width) + search.spare)
            self.basis = torch.randn((len(weighted), columns), generator=generator, dtype=torch.float32).to(
                weighted.device
            )
        for _ in range(powers):
            self.basis = _orthonormal(weighted @ self.basis)
        small = self.basis.T @ (weighted @ self.basis)
        values, rotation = linalg.eigh((small + small.T) / 2)
        self.basis = self.basis @ rotation
        return values, self.basis


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns: by Cholesky, which is fast, where they are far enough from dependent."""
    factor, failed = linalg.cholesky(columns.T @ columns)
    diagonal = factor.diagonal()
    if bool(failed) or float(diagonal.min()) < _DEPENDENT * float(diagonal.max()):
        return torch.linalg.qr(columns)[0]
    return torch.linalg.solve_triangular(factor.T, columns, upper=True, left=False)
