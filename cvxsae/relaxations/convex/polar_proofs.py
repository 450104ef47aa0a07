"""Proofs of copositivity one step beyond ``S + P``: a semidefinite slice for every datapoint (T11, first order).

A matrix M is copositive if ``(Σ_i z_i) zᵀMz ≥ 0`` for every ``z ≥ 0``, and that cubic form is nonnegative if it equals
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

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.relaxations.linalg import extreme_eigenvalues

EPS = float(np.finfo(np.float64).eps)
"""Spacing of float64 at 1, the unit of every rounding slack."""

LARGEST_TRIPLES = 100
"""Datapoints for which tensors of N³ entries, and N eigendecompositions of order N, are still cheap."""


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
    inequality of the tensors holds, with slack for rounding.

    Parameters
    ----------
    gram
        YYᵀ in float64, for Y with ``dim`` columns.
    slices
        ``S_i``, one symmetric matrix a datapoint (only symmetric parts are used).
    tau
        The surcharge τ > 0.
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
