"""Certified lower bounds that hold for every dictionary of a given width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.relaxations import linalg
from cvxsae.relaxations.problem import EPS

if TYPE_CHECKING:
    from cvxsae.data.arguments import BiasLike
    from cvxsae.relaxations.floors.kernels import ZonalKernel


@dataclass(frozen=True, eq=False)
class FloorPart:
    """The bound for one part of the datapoints, and all that is needed to compute it again.

    Its points are ``u = x_n − b`` for the rows n; with a free bias ``u = (x_n − x_m)/2`` for rows n and partners m.

    Attributes
    ----------
    rows
        Indices of the datapoints of this part, (n,).
    partners
        With a free bias, the datapoint each of ``rows`` is paired with, (n,); else None.
    value
        The bound, mean per point of the part.
    theorem
        T9, T10, T14 or T15.
    kernel
        For T14 and T15: k.
    weights
        For T14 and T15: w_n ≥ 0, (n,), with the multiplier μ of (6c) in them. The directions are ``v = u/‖u‖``.
    share_limit
        For T14 and T15: the upper bound Λ_K of ``Σ_n w_n q_n`` that was used.
    """

    rows: np.ndarray = field(repr=False)
    partners: np.ndarray | None = field(repr=False)
    value: float
    theorem: str
    kernel: ZonalKernel | None = None
    weights: np.ndarray | None = field(default=None, repr=False)
    share_limit: float | None = None


@dataclass(frozen=True, eq=False)
class Floor:
    """A number that F(D, b) cannot go below, whatever the dictionary D of ``n_atoms`` unit-norm atoms.

    Attributes
    ----------
    value
        The bound, mean per datapoint as in (P).
    n_atoms
        The width K it holds for (and for every smaller one).
    lam
        Penalty λ.
    theorem
        Where it comes from; of several parts, that of the first.
    bias
        The bias it holds for: None (zero), an array (d,), or ``"free"`` (every bias).
    parts
        How it was found, part by part; empty for :func:`spectral_floor` and where the wide limit is the best.
    """

    value: float
    n_atoms: int
    lam: float
    theorem: str
    bias: np.ndarray | Literal["free"] | None = field(default=None, repr=False)
    parts: tuple[FloorPart, ...] = field(default=(), repr=False)


def spectral_floor(X: ActivationsLike, lam: float, n_atoms: int, *, bias: BiasLike = None) -> Floor:
    """Lower bound of F(D, b) for every dictionary of K atoms, at a fixed bias (T10, equation 6).

    ``(1/N) [ ½ Σ_n ‖x_n − b‖² − ½ Σ_{i≤K} eig_i( Σ_n w_n (x_n − b)(x_n − b)ᵀ ) ]``,
    ``w_n = (1 − λ/‖x_n − b‖)_+²``. Informative for K < d; equal to the wide limit at b for K ≥ d. One pass over the
    data in float64; rounding slack is subtracted, so the bound holds as printed.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    lam
        Penalty λ > 0.
    n_atoms
        Width K.
    bias
        None (zero) or an array (d,); the bound is for this bias only.

    Raises
    ------
    InputError
        For arguments that cannot be used, a free bias among them.
    """
    activations = Activations(X)
    lam, width = arguments.penalty(lam, "lam"), arguments.count(n_atoms, "n_atoms")
    shift = arguments.bias_vector(bias, activations.shape[1])
    if isinstance(shift, str):
        raise arguments.InputError("bias is 'free' but the spectral floor holds at one bias; pass None or an array.")
    value = spectral_values(activations, lam, (width,), shift)[0]
    return Floor(value, width, lam, "T10", None if shift is None else shift.numpy())


def spectral_values(
    activations: Activations, lam: float, widths: tuple[int, ...], shift: torch.Tensor | None
) -> tuple[float, ...]:
    """Equation (6) for several widths at once, from one pass over the data and one eigenvalue problem."""
    dim = activations.shape[1]
    moment = torch.zeros((dim, dim), dtype=torch.float64)
    energy = 0.0
    for batch in activations.batches():
        offsets = batch.cpu() if shift is None else batch.cpu() - shift
        norms = torch.linalg.vector_norm(offsets, dim=1)
        weighted = offsets * (1 - lam / norms.clamp(min=lam))[:, None]
        moment += weighted.T @ weighted
        energy += float(norms.square().sum())
    eigenvalues = linalg.eigvalsh(moment).flip(0).clamp(min=0)
    slack = 8 * (dim + len(activations)) * EPS * energy
    each = 8 * dim * EPS * float(eigenvalues[0])  # what LAPACK can do to one eigenvalue
    return tuple(
        max((energy - float(eigenvalues[:width].sum()) - slack - min(width, dim) * each) / (2 * len(activations)), 0.0)
        for width in widths
    )
