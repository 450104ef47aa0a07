"""Proofs of copositivity (T11): ``S + P``, and one step beyond, a semidefinite slice for every datapoint.

A matrix M is copositive if ``M = S + P`` with ``S ⪰ 0`` and ``P ≥ 0``. It is also copositive if
``(Σ_i z_i) zᵀMz ≥ 0`` for every ``z ≥ 0``, and that cubic form is nonnegative if it equals
``Σ_i z_i zᵀS_i z`` with ``S_i ⪰ 0`` plus a form whose coefficients are nonnegative. Written with symmetric tensors,

    (1 ⊗ M)_ijk ≥ (S)_ijk   for all i, j, k,        (1 ⊗ M)_ijk = (M_jk + M_ik + M_ij)/3,   (S)_ijk likewise,

with ``S_i ⪰ 0``: checked by N eigenvalue computations of order N and one comparison of N³ numbers. Every
``M = S + P`` of T11 is of this form (``S_i = S``), and so is the Horn matrix (Parrilo 2000, de Klerk & Pasechnik 2002).
The matrices it adds are the inequalities that the doubly nonnegative cone lacks; their dual is the moment tensor
``T = Σ_k b_k ⊗ b_k ⊗ b_k / 1ᵀb_k`` of ``Q = Σ_k b_k b_kᵀ``: symmetric, nonnegative, with semidefinite slices whose
sum is Q.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.relaxations.linalg import (
    EPS,
    FACTORIZED_ORDER,
    FactorizationError,
    eigh,
    extreme_eigenvalues,
    largest_eigenvalue,
    semidefinite_shift,
)

LARGEST_TRIPLES = 100
"""Datapoints for which tensors of N³ entries, and N eigendecompositions of order N, are still cheap."""


_MARGINS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""By what share the square of t exceeds its estimate, until a factorization proves it."""

_ROOM = 4
"""Of the rounding of a proof, what is left for another proof of the same."""


class CopositivityProof(ABC):
    """Arrays that prove ``t²(11ᵀ + τI) − YYᵀ`` copositive for some t, hence ``θ°_τ(Y) ≤ t`` (T11, τ > 0).

    Any arrays prove some t: what they lack of being a proof is charged to it.
    """

    beats_relaxation: ClassVar[bool]
    """Whether the lower bound it proves can lie above the optimum of the doubly nonnegative relaxation."""
    axes: ClassVar[int]
    """Of its arrays, each as long as there are datapoints."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @abstractmethod
    def polar_bound(
        self, gram: Float64[torch.Tensor, "N N"], tau: float, dim: int, target: float | None = None
    ) -> float:
        """The t that it proves for Y with ``dim`` columns and ``gram = YYᵀ``, in exact arithmetic.

        With a ``target``, any t at most that will do.
        """

    def scaled(self, scale: float) -> CopositivityProof:
        """The proof for ``scale · Y``."""
        arrays = {name: scale**2 * array for name, array in self.arrays().items()}
        return replace(self, **arrays)  # type: ignore[type-var]

    def improved(
        self, gram: Float64[np.ndarray, "N N"], tau: float, target: float, iterations: int
    ) -> CopositivityProof:
        """A proof at the level ``target`` that is nearer to one, where this kind has a way to it."""
        return self


@dataclass(frozen=True, eq=False)
class NonnegativeProof(CopositivityProof):
    """``t²(11ᵀ + τI) − YYᵀ − P ⪰ 0`` with P ≥ 0: the dual of the doubly nonnegative cone.

    Attributes
    ----------
    P
        Symmetric and nonnegative, (N, N); only the symmetric part of it is used, and negative entries are dropped.
    """

    P: np.ndarray

    beats_relaxation: ClassVar[bool] = False
    axes: ClassVar[int] = 2

    @classmethod
    def one_shot(cls, gram: Float64[np.ndarray, "N N"], target: float) -> NonnegativeProof:
        """``P_ij = (t² − (YYᵀ)_ij)_+`` off the diagonal, at the level t = ``target``."""
        P = np.clip(target**2 - gram, 0, None)
        np.fill_diagonal(P, 0)
        return cls(P)

    def polar_bound(
        self, gram: Float64[torch.Tensor, "N N"], tau: float, dim: int, target: float | None = None
    ) -> float:
        """By :func:`pencil_bound`."""
        return pencil_bound(gram, torch.from_numpy(self._usable()), tau, dim, target)

    def improved(
        self, gram: Float64[np.ndarray, "N N"], tau: float, target: float, iterations: int
    ) -> NonnegativeProof:
        """Minimize ``½‖(M − P)_−‖²`` over P ≥ 0, ``M = t²(11ᵀ + τI) − YYᵀ``: accelerated projected gradient, step 1."""
        size = max(target**2, float(gram.max(initial=0.0))) or 1.0  # squares of what is a square must not overflow
        M = target**2 / size * (1 + tau * np.eye(len(gram))) - gram / size
        P = self._usable() / size
        extrapolated, momentum = P, 1.0
        for _ in range(iterations):
            try:
                values, vectors = eigh(M - extrapolated)
            except FactorizationError:
                break  # any P ≥ 0 will do
            negative = np.minimum(values, 0)
            if negative[0] >= -1e-14 * abs(values[-1]):
                return NonnegativeProof(size * extrapolated)
            updated = np.clip(extrapolated + (vectors * negative) @ vectors.T, 0, None)
            if np.sum((extrapolated - updated) * (updated - P)) > 0:
                momentum = 1.0
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            extrapolated = np.clip(updated + (momentum - 1) / following * (updated - P), 0, None)
            P, momentum = updated, following
        return NonnegativeProof(size * P)

    def _usable(self) -> Float64[np.ndarray, "N N"]:
        P = np.asarray(self.P, dtype=np.float64)
        return np.clip((P + P.T) / 2, 0, None)


@dataclass(frozen=True, eq=False)
class SliceProof(CopositivityProof):
    """One semidefinite matrix per datapoint, as above.

    Attributes
    ----------
    slices
        ``S_i``, (N, N, N).
    """

    slices: np.ndarray

    beats_relaxation: ClassVar[bool] = True
    axes: ClassVar[int] = 3

    def polar_bound(
        self, gram: Float64[torch.Tensor, "N N"], tau: float, dim: int, target: float | None = None
    ) -> float:
        """By :func:`triple_bound`."""
        return triple_bound(gram, torch.tensor(self.slices, dtype=torch.float64), tau, dim)


PROOFS: tuple[type[CopositivityProof], ...] = (NonnegativeProof, SliceProof)
"""The kinds of proof; the referee accepts no others."""


def proof_of(arrays: Mapping[str, Any]) -> CopositivityProof | None:
    """The proof whose arrays these are, by their names; None if there are none. Raises ValueError for other names."""
    for kind in PROOFS:
        if arrays and set(arrays) == {field.name for field in fields(kind)}:  # type: ignore[arg-type]
            return kind(**arrays)
    if arrays:
        raise ValueError(f"no proof is made of {' and '.join(sorted(arrays))}")
    return None


def pencil_bound(
    gram: Float[torch.Tensor, "N N"],
    P: Float[torch.Tensor, "N N"] | None,
    tau: float,
    dim: int,
    target: float | None = None,
) -> float:
    """``sqrt λ_max(B^{-1/2}(YYᵀ + P)B^{-1/2})``, ``B = 11ᵀ + τI``: a t with ``t²B − YYᵀ − P ⪰ 0`` (T11, τ > 0).

    ``gram`` is YYᵀ in float64, for Y with ``dim`` columns; slack for rounding is included, so the inequality holds
    in exact arithmetic. One eigenvalue computation of order N, on the tensors' device. For more than
    ``FACTORIZED_ORDER`` datapoints t is estimated and proved by a Cholesky factorization, a little above the
    eigenvalue; with a ``target``, that is tried first, and a t at most that will do.
    """
    n = len(gram)
    matrix = gram if P is None else gram + P
    norm = float(torch.linalg.matrix_norm(matrix))
    # B^{-1/2} = (I − c 11ᵀ/n)/√τ, where c = 1 − √(τ/(τ + n)).
    c = 1 - math.sqrt(tau / (tau + n))
    # The error of the entries, which is relative to them before the mean is taken out of them (it can leave far
    # smaller ones, and τ divides what is left).
    rounding = (32 + dim) * EPS * (float(gram.trace()) + norm)
    if n > FACTORIZED_ORDER and 0 < norm < math.inf:
        proved = _factorized_bound(matrix, tau, c, rounding, target)
        if proved is not None:
            return proved
    rows = matrix - (c / n) * matrix.sum(dim=0, keepdim=True)
    scaled = (rows - (c / n) * rows.sum(dim=1, keepdim=True)) / tau
    scaled = (scaled + scaled.T) / 2
    largest = float(extreme_eigenvalues(scaled)[1])
    slack = 4 * n * EPS * float(torch.linalg.matrix_norm(scaled)) + rounding / tau  # the eigensolver's, the entries'
    return math.sqrt(max(largest, 0.0) + slack)


def _factorized_bound(
    matrix: Float[torch.Tensor, "N N"], tau: float, c: float, rounding: float, target: float | None
) -> float | None:
    """A t with ``t²B − matrix ⪰ 0``, proved by a Cholesky factorization; None where none was found.

    A t that was found with a margin for rounding is proved again at that t as a target, whatever rounding does then.
    """
    n = len(matrix)

    def excess(square: float) -> float:
        """By how much ``t²`` must exceed this square to be proved."""
        left = -matrix
        left.add_(square).diagonal().add_(square * tau)
        own = semidefinite_shift(left)
        return (own + rounding + 4 * EPS * square * n * (1 + tau)) / tau

    if target is not None:
        allowed = ((n + 12) * EPS * n * target**2 * (1 + tau) + rounding) / tau
        square = target**2 - allowed
        if square > 0 and square + excess(square) <= target**2:
            return target

    def whitened(vector: torch.Tensor) -> torch.Tensor:
        image = matrix @ (vector - c * vector.mean())
        return (image - c * image.mean()) / tau

    estimate = largest_eigenvalue(whitened, matrix[0])
    for margin in _MARGINS if estimate > 0 else ():
        square = estimate * (1 + margin)
        more = excess(square)
        if math.isfinite(more):
            return math.sqrt(square + _ROOM * more)
    return None


def symmetrized(slices: Float[torch.Tensor, "N N N"]) -> Float[torch.Tensor, "N N N"]:
    """The symmetric tensor nearest to one whose slices ``slices[i]`` are symmetric matrices."""
    return (slices + slices.permute(1, 0, 2) + slices.permute(1, 2, 0)) / 3


def spread(matrix: Float[torch.Tensor, "N N"]) -> Float[torch.Tensor, "N N N"]:
    """``(1 ⊗ M)_ijk = (M_jk + M_ik + M_ij)/3``, the coefficients of ``(Σ_i z_i) zᵀMz``; adjoint of ``Σ_i T_i``."""
    return (matrix[None] + matrix[:, None, :] + matrix[:, :, None]) / 3


def unspread(right: Float[torch.Tensor, "N N"], ridge: float = 0.0) -> Float[torch.Tensor, "N N"]:
    """The symmetric U with ``Σ_i (1 ⊗ U)_i + ridge · U = right``: in closed form, O(N²)."""
    n = len(right)
    rows = right.sum(dim=1)
    total = float(rows.sum()) / (ridge + n)
    u = (rows - total / 3) / (ridge + 2 * n / 3)
    return (right - (u[None] + u[:, None]) / 3) / (ridge + n / 3)


def triple_bound(gram: Float[torch.Tensor, "N N"], slices: Float[torch.Tensor, "N N N"], tau: float, dim: int) -> float:
    """A t with ``t²(11ᵀ + τI) − YYᵀ`` copositive, proved by ``slices``; any slices give a valid one.

    What a slice lacks of being semidefinite is added to its diagonal; t is then the smallest for which the
    inequality of the tensors holds, with slack for rounding. ``gram`` is YYᵀ in float64, for Y with ``dim``
    columns; only the symmetric parts of the slices are used; τ > 0.
    """
    n = len(gram)
    S = (slices + slices.transpose(1, 2)) / 2
    size = torch.linalg.matrix_norm(S)
    lift = (-extreme_eigenvalues(S)[0]).clamp(min=0) + 4 * n * EPS * size
    S.diagonal(dim1=1, dim2=2).add_(lift[:, None])
    price = torch.ones_like(gram)
    price.diagonal().add_(tau)
    squared = float(((symmetrized(S) + spread(gram)) / spread(price)).max())
    rounding = (32 + dim) * EPS * (float(gram.trace()) + float(size.max()))
    return math.sqrt(max(squared, 0.0) + rounding)
