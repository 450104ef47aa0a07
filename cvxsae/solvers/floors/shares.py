"""The shares that the top eigenvectors give each datapoint, and the upper bound of their sum.

Lemma 1 of ``docs/floors_proofs.md`` says why it is one.

A search asks for shares near enough to go on with; the bound at its end is rigorous, whatever the search did.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from cvxsae.data.deadline import OutOfTime
from cvxsae.relaxations import linalg
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.floors.square_features import (
    FAILURE,
    SquareFeatures,
    feature_share_limit,
    n_features,
    operator_share_limit,
)
from cvxsae.solvers.codes.engines.calibration import half_is_faster

if TYPE_CHECKING:
    from cvxsae.solvers.floors.ascent import FrankWolfe

_TIMED = 512
"""Dimension and rows of the product whose measurement decides in what precision a search multiplies."""
_TINY = 1e-30
"""Keeps divisors away from zero, in float32 too."""
_LEAST_CUT = 1e-3
"""A filter leaves alone what is below this fraction of the largest Ritz value, at least: powers must not overflow."""
_FAR = 4
"""Above so many times a filter's end Ritz vectors are not filtered: degree 6 would raise them more than 1e6-fold."""
_DEPENDENT = 1e-2
"""Columns whose Cholesky factor has a smaller ratio of diagonal entries are made orthonormal by QR instead."""


def top_shares(
    directions: Float[torch.Tensor, "n d"], kernel: ZonalKernel, width: int, search: FrankWolfe
) -> TopShares:
    """What suits the number of datapoints and features: all eigenvectors, or some, of one matrix or the other."""
    n, d = directions.shape
    if n <= search.dense:
        return AllEigenvectors(directions, kernel, width, search)
    if kernel.is_square and n_features(d) <= min(n, search.most_features):
        return FeatureEigenvectors(directions, kernel, width, search)
    if kernel.is_square and n > search.matrix:
        return BlockIteration(directions, kernel, width, search)
    return SubspaceIteration(directions, kernel, width, search)


class TopShares(ABC):
    """``Λ_K(w)`` and the shares of the top eigenvectors of ``[√w_n k(v_n·v_m) √w_m]``."""

    def __init__(
        self, directions: Float[torch.Tensor, "n d"], kernel: ZonalKernel, width: int, search: FrankWolfe
    ) -> None:
        self.failure = 0.0  # the probability, over the seed, that ``limit`` was too low
        self.directions, self.kernel, self.width, self.search = directions, kernel, width, search

    @abstractmethod
    def __call__(self, weights: Float[torch.Tensor, " n"]) -> tuple[float, Float[torch.Tensor, " n"]]:
        """``Λ_K(w)`` and the shares, near enough to search with."""

    def limit(self, weights: Float[torch.Tensor, " n"]) -> float:
        """An upper bound of ``Λ_K(w)``, with rounding slack."""
        return bound.share_limit(self.directions, weights, self.kernel, self.width)

    def _top(
        self, weights: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[float, Float[torch.Tensor, " n"]]:
        """From eigenvalues, rising, and eigenvectors (n, k)."""
        values, vectors = values.flip(0)[: self.width].clamp(min=0), vectors.flip(1)[:, : self.width]
        share = vectors.square().to(torch.float64) @ values.to(torch.float64) / weights.clamp(min=_TINY)
        return float(values.to(torch.float64).sum()), share.clamp(0, 1)


class AllEigenvectors(TopShares):
    """All eigenvectors in float64, for few datapoints."""

    def __call__(self, weights: Float[torch.Tensor, " n"]) -> tuple[float, Float[torch.Tensor, " n"]]:
        """``Λ_K(w)`` and the shares."""
        return self._top(weights, *linalg.eigh(bound.kernel_matrix(self.directions, weights, self.kernel)))


class FeatureEigenvectors(TopShares):
    """All eigenvectors of the moment of the features of t², for few dimensions and any number of datapoints."""

    def __init__(
        self, directions: Float[torch.Tensor, "n d"], kernel: ZonalKernel, width: int, search: FrankWolfe
    ) -> None:
        super().__init__(directions, kernel, width, search)
        self.features = SquareFeatures(directions.float())

    def __call__(self, weights: Float[torch.Tensor, " n"]) -> tuple[float, Float[torch.Tensor, " n"]]:
        """``Λ_K(w)`` and the shares; sums over datapoints in float32."""
        values, vectors = linalg.eigh(self.features.moment(weights).to(torch.float64))
        top = vectors.flip(1)[:, : self.width].float()
        shares = self.features.shares(top).to(torch.float64)
        return float(values.flip(0)[: self.width].clamp(min=0).sum()), shares.clamp(0, 1)

    def limit(self, weights: Float[torch.Tensor, " n"]) -> float:
        """An upper bound of ``Λ_K(w)`` from the moment in float64."""
        return feature_share_limit(SquareFeatures(self.directions), weights, self.width)


class SubspaceIteration(TopShares):
    """A subspace iteration in float32 that starts where the last one ended, on a matrix that is kept."""

    def __init__(
        self, directions: Float[torch.Tensor, "n d"], kernel: ZonalKernel, width: int, search: FrankWolfe
    ) -> None:
        super().__init__(directions, kernel, width, search)
        self.matrix = kernel(directions @ directions.T).float()
        self.basis = _random_basis(directions, width, search)
        self.is_first = True

    def __call__(self, weights: Float[torch.Tensor, " n"]) -> tuple[float, Float[torch.Tensor, " n"]]:
        """``Λ_K(w)`` and the shares."""
        root = weights.float().sqrt()
        weighted = self.matrix * root[:, None] * root
        for _ in range(self.search.first_powers if self.is_first else self.search.powers):
            self.basis = _orthonormal(weighted @ self.basis)
        self.is_first = False
        small = self.basis.T @ (weighted @ self.basis)
        values, rotation = linalg.eigh((small + small.T) / 2)
        self.basis = self.basis @ rotation
        return self._top(weights, values, self.basis)


class BlockIteration(TopShares):
    """The same for t² where the matrix does not fit: products by blocks of rows, and Chebyshev filters.

    A filter of degree m raises what lies above the least Ritz value of the last basis as ``exp(m acosh(…))``, where m
    powers raise it as a power: eigenvalues around the K-th crowd once the weights are good.
    """

    def __init__(
        self, directions: Float[torch.Tensor, "n d"], kernel: ZonalKernel, width: int, search: FrankWolfe
    ) -> None:
        super().__init__(directions, kernel, width, search)
        self.features = SquareFeatures(directions)
        is_faster = half_is_faster(_TIMED, _TIMED, str(directions.device), torch.get_num_threads())
        self.precision = torch.bfloat16 if is_faster else torch.float32
        self.caught = 0.0  # the sum of the K largest Ritz values before the last filter, near Λ_K and mostly below it
        self.basis = _random_basis(directions, width, search)
        self.is_first = True

    def __call__(self, weights: Float[torch.Tensor, " n"]) -> tuple[float, Float[torch.Tensor, " n"]]:
        """``Λ_K(w)`` and the shares."""
        if self.is_first:
            for _ in range(self.search.first_powers):
                self.basis = _orthonormal(self._product(weights, self.basis))
        self.basis = self._filtered(weights, self.search.degree)
        self.is_first = False
        small = self.basis.T @ self._product(weights, self.basis)
        values, rotation = linalg.eigh((small + small.T) / 2)
        self.basis = self.basis @ rotation
        return self._top(weights, values, self.basis)

    def limit(self, weights: Float[torch.Tensor, " n"]) -> float:
        """An upper bound of ``Λ_K(w)``, from a basis that is filtered as long as that pays and time allows."""
        best = math.inf
        for sweep in range(self.search.sweeps):
            try:
                self.basis = self._filtered(weights, self.search.last_degree)
                found = operator_share_limit(self.features, weights, self.width, self.basis, self.search.seed + sweep)
            except OutOfTime:
                if best == math.inf:
                    raise
                break
            self.failure += FAILURE
            before, best = best, min(best, found)
            self.search.tell(f"pass {sweep + 1}: at most {best:.6g} where {self.caught:.6g} is seen")
            if best > before * (1 - self.search.last_tol) or best <= self.caught * (1 + self.search.last_tol):
                break
        return best

    def _product(self, weights: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self.features.product(weights, columns, self.precision)

    def _filtered(self, weights: torch.Tensor, degree: int) -> torch.Tensor:
        """``T_m(2A/c − I)`` times the Ritz vectors of the basis, orthonormalized; c is the least that counts of them.

        Vectors far above c only get a power, and the others are kept orthogonal to them: a filter would raise what
        rounding leaves of them above all the rest.
        """
        moved = self._product(weights, self.basis)
        small = self.basis.T @ moved
        values, rotation = linalg.eigh((small + small.T) / 2)
        values, rotation = values.flip(0), rotation.flip(1)
        self.caught = float(values[: self.width].to(torch.float64).sum())
        last = min(len(values), _columns(self.width, self.search)) - 1
        cut = max(float(values[last]), _LEAST_CUT * float(values[0]), _TINY)
        before, moved = self.basis @ rotation, moved @ rotation
        far = int((values > _FAR * cut).sum())
        top, raised, before = before[:, :far], moved[:, :far] / values[:far], before[:, far:]
        now = moved[:, far:].mul_(2 / cut).sub_(before)
        for _ in range(degree - 1):
            now -= top @ (top.T @ now)
            step = self._product(weights, now).mul_(2 / cut).sub_(now)
            before, now = now, step.mul_(2).sub_(before)
        now -= top @ (top.T @ now)
        return _orthonormal(torch.cat([raised, now / torch.linalg.vector_norm(now, dim=0).clamp(min=_TINY)], dim=1))


def _columns(width: int, search: FrankWolfe) -> int:
    return int((1 + search.spare_share) * width) + search.spare


def _random_basis(directions: torch.Tensor, width: int, search: FrankWolfe) -> torch.Tensor:
    n = len(directions)
    columns = min(n, _columns(width, search))
    generator = torch.Generator().manual_seed(search.seed)
    return torch.randn((n, columns), generator=generator, dtype=torch.float32).to(directions.device)


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns: by Cholesky, which is fast, where they are far enough from dependent."""
    factor, failed = linalg.cholesky(columns.T @ columns)
    diagonal = factor.diagonal()
    if bool(failed) or float(diagonal.min()) < _DEPENDENT * float(diagonal.max()):
        return torch.linalg.qr(columns)[0]
    return torch.linalg.solve_triangular(factor.T, columns, upper=True, left=False)
