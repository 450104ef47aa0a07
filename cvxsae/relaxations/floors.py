"""Certified lower bounds that hold for every dictionary of a given width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.relaxations.problem import EPS

if TYPE_CHECKING:
    from cvxsae.data.arguments import BiasLike


@dataclass(frozen=True)
class Floor:
    """A number that F(D, b) cannot go below, whatever the dictionary D of ``n_atoms`` unit-norm atoms.

    Attributes
    ----------
    value
        The bound, mean per datapoint as in (P).
    n_atoms
        The width K it holds for.
    lam
        Penalty λ.
    theorem
        Where it comes from.
    """

    value: float
    n_atoms: int
    lam: float
    theorem: str


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
    dim = activations.shape[1]
    shift = arguments.bias_vector(bias, dim)
    if isinstance(shift, str):
        raise arguments.InputError("bias is 'free' but the spectral floor holds at one bias; pass None or an array.")
    moment = torch.zeros((dim, dim), dtype=torch.float64)
    energy = 0.0
    for batch in activations.batches():
        offsets = batch.cpu() if shift is None else batch.cpu() - shift
        norms = torch.linalg.vector_norm(offsets, dim=1)
        weighted = offsets * (1 - lam / norms.clamp(min=lam))[:, None]
        moment += weighted.T @ weighted
        energy += float(norms.square().sum())
    eigenvalues = torch.linalg.eigvalsh(moment).flip(0)[:width]
    slack = 8 * (dim + len(activations)) * EPS * energy
    value = (energy - float(eigenvalues.clamp(min=0).sum()) - slack) / (2 * len(activations))
    return Floor(max(value, 0.0), width, lam, "T10")
