"""The kernel t² on many datapoints: the shares that K atoms can have, without the N × N matrix.

``k(u·v) = (u·v)² = ⟨uuᵀ, vvᵀ⟩``, so ``[√w_n k(v_n·v_m) √w_m]`` has the nonzero eigenvalues of
``Σ_n w_n v_nv_nᵀ ⊗ v_nv_nᵀ``, an operator on symmetric matrices of d(d + 1)/2 dimensions. In few dimensions that
operator is a matrix of its own, and N may be what it likes. In many, products with the N × N matrix are made of blocks
of it, and the sum of its K largest eigenvalues is bounded from above by what follows (``docs/floors_proofs.md``,
Lemma 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data.deadline import go_on
from cvxsae.relaxations import linalg
from cvxsae.relaxations.linalg import EPS

BLOCK_ENTRIES = 2**24
"""Entries of a block of the kernel matrix or of features: 128 MB in float64."""

LANCZOS_STEPS = 200
"""Steps to the bound of the largest eigenvalue that a basis leaves: it is then at most 0.8 % too high."""

FAILURE = 1e-12
"""Probability, over the random start, that the bound of a largest eigenvalue is too low."""

STARTS = 3
"""Independent starts of Lanczos' method that must end early before it is trusted that nothing is left."""

_STREAM = 1992
"""What sets the numbers of its starts apart from all others of the same seed."""

EXCESSES = (-12, 0, 37)
"""Powers of two of ``t/s − 1`` at which the upper bound of a sum of eigenvalues is evaluated, and how many.

It is evaluated at the K-th Ritz value too, which is the best t where the basis is good.
"""


def n_features(dim: int) -> int:
    """The dimension of the symmetric matrices of ``dim`` rows."""
    return dim * (dim + 1) // 2


@dataclass(frozen=True, eq=False)
class SquareFeatures:
    """Unit directions v_n (n, d), and what the kernel t² makes of them."""

    directions: Float[torch.Tensor, "n d"]

    def features(self) -> Iterator[tuple[slice, Float[torch.Tensor, "block features"]]]:
        """Blocks of ``v_nv_nᵀ`` as vectors: the upper triangle, entries off the diagonal times √2."""
        n, d = self.directions.shape
        rows, columns = torch.triu_indices(d, d, device=self.directions.device)
        twice = torch.where(rows == columns, 1, 2).to(self.directions.dtype).sqrt()
        for part in _blocks(n, len(rows)):
            block = self.directions[part]
            yield part, block[:, rows] * block[:, columns] * twice

    def moment(self, weights: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, "features features"]:
        """``Σ_n w_n ψ_nψ_nᵀ`` with ψ_n the features of datapoint n."""
        total: torch.Tensor | float = 0.0
        for part, block in self.features():
            scaled = block * weights[part, None].to(block.dtype).sqrt()
            total = total + scaled.T @ scaled
        assert isinstance(total, torch.Tensor)
        return total

    def shares(self, basis: Float[torch.Tensor, "features k"]) -> Float[torch.Tensor, " n"]:
        """``‖Uᵀψ_n‖²`` for an orthonormal basis U: the share of each datapoint in its span."""
        return torch.cat([(block @ basis).square().sum(dim=1) for _, block in self.features()])

    def product(
        self,
        weights: Float[torch.Tensor, " n"],
        columns: Float[torch.Tensor, "n k"],
        precision: torch.dtype | None = None,
    ) -> Float[torch.Tensor, "n k"]:
        """``[√w_n (v_n·v_m)² √w_m]`` times columns, by blocks of rows.

        Factors are rounded to ``precision``, which is that of the columns unless it is said.
        """
        precision = precision or columns.dtype
        directions, root = self.directions.to(precision), weights.to(columns.dtype).sqrt()[:, None]
        right = (root * columns).to(precision)
        result = torch.empty_like(columns)
        for part in _blocks(len(directions), len(directions)):
            result[part] = (directions[part] @ directions.T).square_() @ right
        return result.mul_(root)

    def vector_product(self, weights: Float64[torch.Tensor, " n"], vector: Float64[torch.Tensor, " n"]) -> torch.Tensor:
        """The same for one vector z, in O(n d²): entries ``√w_n v_nᵀSv_n`` with ``S = Σ_m √w_m z_m v_mv_mᵀ``."""
        root = weights.sqrt()
        S = self.directions.T @ (self.directions * (root * vector)[:, None])
        return root * ((self.directions @ S) * self.directions).sum(dim=1)


def feature_share_limit(features: SquareFeatures, weights: Float[torch.Tensor, " n"], n_atoms: int) -> float:
    """``Λ_K`` from the eigenvalues of the moment of the features: an upper bound, in float64 with rounding slack.

    For few dimensions. Added are √K times the Frobenius norm of what rounding can do to the moment, and K times
    LAPACK's backward error, taken as ``8 D ε`` times the spectral norm, D the number of features.
    """
    n, d = features.directions.shape
    mass = float(weights.sum())
    eigenvalues = linalg.eigvalsh(features.moment(weights)).flip(0)
    top = eigenvalues[:n_atoms].clamp(min=0)
    slack = math.sqrt(n_atoms) * EPS * (n + 4 * d + 40) * mass + n_atoms * 8 * len(eigenvalues) * EPS * float(top[0])
    return min(float(top.sum()) * (1 + len(eigenvalues) * EPS) + slack, mass * (1 + 4 * n * EPS))


def operator_share_limit(
    features: SquareFeatures,
    weights: Float64[torch.Tensor, " n"],
    n_atoms: int,
    basis: Float[torch.Tensor, "n k"],
    seed: int,
) -> float:
    """``Λ_K`` from a basis that need only be near the top eigenvectors: an upper bound, however near it is.

    Let A be the N × N matrix, Q the orthonormal basis (k ≥ K columns), ``A₁ = QᵀAQ`` and ``R = AQ − QA₁``. If s is at
    least the largest eigenvalue of ``(I − QQᵀ)A(I − QQᵀ)``, then for every t > s

        ``Λ_K ≤ K t + Σ_i ( eig_i(A₁ + RᵀR/(t − s)) − t )_+``.

    s is the largest Ritz value of Lanczos' method from a random start, raised by what it misses with a probability
    below ``FAILURE`` (Kuczyński and Woźniakowski 1992, theorem 4.2), so this bound is wrong with at most that
    probability over the seed, and never because of the data.

    Where ``‖QᵀQ − I‖ ≤ δ`` instead, the orthonormal basis nearest to Q has the same span and is δ away. With it ``A₁``
    and the deflated matrix change by at most 3δ‖A‖ and R by 6δ‖A‖, which is charged together with rounding.
    """
    n, d = features.directions.shape
    mass = float(weights.sum())
    Q = torch.linalg.qr(basis.to(torch.float64))[0]
    AQ = features.product(weights, Q)
    inner = Q.T @ AQ
    inner = (inner + inner.T) / 2
    rest = AQ - Q @ inner
    squares = rest.T @ rest

    def deflated(vector: torch.Tensor) -> torch.Tensor:
        there = vector.to(Q)  # the steps of Lanczos' method are on the CPU
        moved = features.vector_product(weights, there - Q @ (Q.T @ there))
        return (moved - Q @ (Q.T @ moved)).to(vector)

    values = linalg.eigvalsh(inner).flip(0)
    top = float(values[0])
    found = largest_eigenvalue_limit(deflated, n, seed)
    left = float(torch.linalg.matrix_norm(rest))
    size = min(max(top, found) + left, mass)  # at least the norm of A
    rounding = (EPS * (2 * n + 8 * d + 64) + 6 * _apart(Q)) * size  # of A, of the products and of the basis
    blurred = (2 * left + rounding) * rounding  # of the squares of R
    s = found + rounding
    best = mass * (1 + 4 * n * EPS)
    if s == 0 or n_atoms > len(values):
        return best
    levels = [s * (1 + excess) for excess in torch.logspace(*EXCESSES, base=2.0, dtype=torch.float64).tolist()]
    for t in (*levels, max(float(values[n_atoms - 1]), levels[0])):
        raised = linalg.eigvalsh(inner + squares / (t - s))
        raised = raised + blurred / (t - s)
        best = min(best, n_atoms * t + float((raised - t).clamp(min=0).sum()))
    return best * (1 + 4 * n * EPS) + 2 * n_atoms * rounding


def _apart(basis: Float64[torch.Tensor, "n k"]) -> float:
    """``‖QᵀQ − I‖`` at most, with what rounding can hide of it."""
    n, k = basis.shape
    excess = basis.T @ basis
    excess.diagonal().sub_(1)
    return float(torch.linalg.matrix_norm(excess)) + n * k * EPS


def largest_eigenvalue_limit(
    product: Callable[[Float64[torch.Tensor, " n"]], Float64[torch.Tensor, " n"]],
    n: int,
    seed: int,
    steps: int = LANCZOS_STEPS,
) -> float:
    """An upper bound of the largest eigenvalue of a positive semidefinite operator, from its products with vectors.

    After k steps from a start uniform on the sphere the largest Ritz value ξ is below (1 − ε) times the largest
    eigenvalue with a probability of at most ``1.648 √n exp(−√ε (2k − 1))``; ε is chosen to make that small. Where a
    residual of norm δ ends the steps early, an eigenvector with an eigenvalue above ξ + g has a part of at most δ/g of
    the start, which has a probability below ``√n δ/g``: too much for one start, not for ``STARTS`` independent ones.
    In all a probability of ``FAILURE`` is shared by the starts and that end.
    """
    # a stream of its own: the operator is made with other numbers of the same seed
    generator = np.random.default_rng([seed, _STREAM])
    allowed = FAILURE / (STARTS + 1)
    found = rest = 0.0
    for _ in range(STARTS):
        end = _lanczos(product, torch.from_numpy(generator.standard_normal(n)), steps)
        found, rest = max(found, end.ritz), max(rest, end.rest)
        if end.steps == n:
            return found * (1 + 8 * n * EPS) + rest  # the space is exhausted
        if not end.is_early:
            missed = (math.log(1.648 * math.sqrt(n) / allowed) / (2 * end.steps - 1)) ** 2
            return math.inf if missed >= 1 else found / (1 - missed) * (1 + n * EPS)
    return found * (1 + 8 * n * EPS) + math.sqrt(n) * rest * allowed ** (-1 / STARTS)


class LanczosEnd(NamedTuple):
    """The largest Ritz value, the norm of the residual that is left, the steps done, whether it ended them early."""

    ritz: float
    rest: float
    steps: int
    is_early: bool


def _lanczos(
    product: Callable[[Float64[torch.Tensor, " n"]], Float64[torch.Tensor, " n"]],
    start: Float64[torch.Tensor, " n"],
    steps: int,
) -> LanczosEnd:
    """Lanczos' method; vectors are kept orthogonal to all earlier ones."""
    n = len(start)
    kept = torch.zeros((min(steps, n), n), dtype=torch.float64)
    diagonal: list[float] = []
    off: list[float] = []
    vector, least, is_early = start / start.norm(), 0.0, False
    for step in range(len(kept)):
        go_on()
        kept[step] = vector
        moved = product(vector)
        diagonal.append(float(moved @ vector))
        for _ in range(2):
            moved = moved - kept[: step + 1].T @ (kept[: step + 1] @ moved)
        off.append(float(moved.norm()))
        least = n * EPS * max(map(abs, diagonal))  # what rounding leaves of a residual
        is_early = off[-1] <= least
        if is_early:
            break
        vector = moved / off[-1]
    between = torch.tensor(off[:-1], dtype=torch.float64)
    ritz = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(between, 1) + torch.diag(between, -1)
    largest = max(float(linalg.eigvalsh(ritz)[-1]), 0.0)
    return LanczosEnd(largest, max(off[-1], least), len(diagonal), is_early)


def _blocks(n: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK_ENTRIES // max(1, width))
    for start in range(0, n, size):
        go_on()
        yield slice(start, min(n, start + size))
