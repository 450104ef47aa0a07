"""The best weights of one part of the datapoints: Frank-Wolfe on the dual of the kernels' bound (T14, T15)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.floor import FloorPart
from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.linalg import EPS
from cvxsae.solvers.floors.shares import top_shares

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


def _say_nothing(words: str) -> None:
    """Where no one listens."""


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
    most_features
        Up to so many features, d(d + 1)/2, their moment is used for t² where there are more datapoints than features.
    matrix
        Up to so many datapoints their kernel matrix is kept, in float32; beyond, for t², it is made in blocks.
    degree
        Of the Chebyshev filter of a subspace iteration by blocks.
    last_degree, sweeps, last_tol
        Before the bound of the sum of eigenvalues the basis is filtered with this degree, so often at most, until the
        bound is within a relative ``last_tol`` of what the basis had caught, or is lowered by no more than that.
    inner_steps
        Steps of exponentiated gradient over the mixtures of the shares seen, in every round.
    newest
        The weight that the newest shares start with in the mixture.
    first_multiples, last_multiples
        Powers of two by which the first weights and the final ones are multiplied, and how many in between.
    final_multiples
        Factors of the best of these that are tried once more, where costs are bounded finely.
    least_weight
        Weights are at least this fraction of the shortest squared length, so that shares can be divided by them.
    first_powers, powers
        Powers in a subspace iteration from a random start, and from the basis of the last round.
    spare, spare_share
        Columns of a subspace iteration beyond K: a number, and a fraction of K.
    tell
        Called with a few words on how far the search is.
    """

    tol: float
    deadline: float
    seed: int
    rounds: int = 25
    dense: int = 1200
    most_features: int = 6000
    matrix: int = 8000
    degree: int = 3
    last_degree: int = 6
    last_tol: float = 1e-2
    sweeps: int = 3
    inner_steps: int = 60
    newest: float = 0.2
    first_multiples: tuple[int, int, int] = (-12, 4, 65)
    last_multiples: tuple[int, int, int] = (-2, 2, 41)
    final_multiples: tuple[float, ...] = (0.95, 1.0, 1.05)
    least_weight: float = 1e-6
    first_powers: int = 5
    powers: int = 2
    spare: int = 8
    spare_share: float = 0.1
    tell: Callable[[str], None] = _say_nothing


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
        if len(self.lengths) > search.matrix and any(kernel.is_square for kernel in kernels):
            kernels = tuple(kernel for kernel in kernels if kernel.is_square)
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
        limit = ascent.oracle.limit(weights)
        trials = [*torch.logspace(*ascent.search.last_multiples, base=2.0).tolist(), 1.0]
        _, near = _best_multiple(ascent.costs, weights, limit, trials)
        costs = bound.DatapointCosts(self.lengths, self.lam, kernel, bound.FINAL)
        best, factor = _best_multiple(costs, weights, limit, [near * step for step in ascent.search.final_multiples])
        slack = 8 * (self.total + self.directions.shape[1] + 8) * EPS * (best + 2 * factor * limit + self.short_costs)
        value = (best + self.short_costs - slack) / self.total * self.scale**2
        full = np.zeros(self.total)
        full[self.live.numpy()] = (factor * weights * self.scale**2).cpu().numpy()
        empty = np.zeros(0, dtype=int)
        return FloorPart(
            empty,
            None,
            value,
            kernel.theorem,
            kernel,
            full,
            factor * limit * self.scale**2 * (1 + 4 * EPS),
            ascent.oracle.failure,
        )


def _best_multiple(
    costs: bound.DatapointCosts, weights: torch.Tensor, limit: float, multiples: Sequence[float]
) -> tuple[float, float]:
    """The largest value of (6c), times N, at a multiple of the weights, and that multiple."""
    sums = costs.sums(weights, multiples)
    return max((inner - multiple * limit, multiple) for multiple, inner in zip(multiples, sums, strict=True))


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
        self.costs = bound.DatapointCosts(points.lengths, points.lam, kernel)
        self.replies = _Replies(points, kernel)
        self.oracle = top_shares(points.directions, kernel, width, search)
        self.value, self.dual = -math.inf, math.inf
        self.seen = points.lengths.new_empty((0, len(points.lengths)))
        self.mixture = points.lengths.new_empty(0)
        first = torch.logspace(*search.first_multiples, base=2.0).tolist()
        self._ask(points.lengths if start is None else start, first if start is None else [1.0])

    def _ask(self, weights: torch.Tensor, multiples: Sequence[float] = (1.0,)) -> None:
        """See what the top eigenvectors at these weights share, and what bound the weights give."""
        limit, share = self.oracle(weights)
        if self.value > self.dual:  # no value is: the sum of eigenvalues that gave it was too low
            self.value = -math.inf
        self._offer(weights, limit, multiples)
        newest = self.search.newest if len(self.seen) else 1.0
        self.seen = torch.cat([self.seen, share[None]])
        self.mixture = torch.cat([(1 - newest) * self.mixture, self.mixture.new_tensor([newest])])

    def _offer(self, weights: torch.Tensor, limit: float, multiples: Sequence[float] = (1.0,)) -> None:
        for multiple, inner in zip(multiples, self.costs.sums(weights, multiples), strict=True):
            if inner - multiple * limit > self.value:
                self.value, self.best = inner - multiple * limit, multiple * weights

    def run(self, target: float) -> None:
        """Improve the weights until the dual is within ``tol`` of the bound, or below ``target``, or time is up."""
        for turn in range(self.search.rounds):
            self._tell(turn)
            if time.perf_counter() > self.search.deadline:
                break
            weights = self._mix()
            self.dual = min(self.dual, self._dual(weights))
            if self.dual <= max(target, self.value + self.search.tol * abs(self.dual)):
                break
            self._ask(weights)

    def _tell(self, turn: int) -> None:
        value, dual = (
            (sum_ + self.points.short_costs) / self.points.total * self.points.scale**2
            for sum_ in (self.value, self.dual)
        )
        self.search.tell(f"K {self.width}, round {turn}, {value:.6g} of at most {dual:.6g}")

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
        return float((self.costs.minima(weights) - weights * (self.mixture @ self.seen)).sum())


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
        self.row, self.shares = row, shares
        # Rising in the weight, and from row to row: one sorted array, in which every datapoint looks into its own row.
        self.rising = (2 * torch.arange(len(grid), device=device)[:, None] - shares).flatten()

    def __call__(self, share: torch.Tensor) -> torch.Tensor:
        count = len(self.weights)
        above = (torch.searchsorted(self.rising, 2 * self.row - share) - count * self.row).clamp(0, count)
        right, left = above.clamp(max=count - 1), (above - 1).clamp(min=0)
        high, low = self.shares[self.row, left], self.shares[self.row, right]
        part = torch.where(high > low, (high - share) / (high - low).clamp(min=_LEAST_STEP), 0).clamp(0, 1)
        weights = self.weights[left] + part * (self.weights[right] - self.weights[left])
        return torch.where(above == 0, 0.0, weights) * self.square
