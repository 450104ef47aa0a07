"""The spectral floor: how close K atoms can be to data, by eigenvalues of weighted data (T10, equation 6)."""

from __future__ import annotations

import torch

from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.relaxations import linalg
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.linalg import EPS


@own_arithmetic()
def spectral_floor(X: ActivationsLike, n_atoms: int, lam: float, *, bias: BiasLike = None) -> Floor:
    """Lower bound of F(D, b) for every dictionary of K atoms, at a fixed bias (T10, equation 6).

    ``(1/N) [ ½ Σ_n ‖x_n − b‖² − ½ Σ_{i≤K} eig_i( Σ_n w_n (x_n − b)(x_n − b)ᵀ ) ]``,
    ``w_n = (1 − λ/‖x_n − b‖)_+²``. Informative for K < d; equal to the wide limit at b for K ≥ d. One pass over the
    data in float64; rounding slack is subtracted, so the bound holds as printed.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    n_atoms
        Width K.
    lam
        Penalty λ > 0.
    bias
        None (zero) or an array (d,); the bound is for this bias only.

    Raises
    ------
    InputError
        For arguments that cannot be used, a free bias among them.
    """
    problem = JointProblem(X, n_atoms, lam, bias=bias)
    if problem.bias_is_free:
        raise InputError("bias is 'free' but the spectral floor holds at one bias; pass None or an array.")
    shift = None if problem.bias is None else problem.fixed_bias()
    value = spectral_values(problem.X, problem.lam, (problem.n_atoms,), shift)[0]
    return Floor(problem, value, "T10", fingerprint=fingerprint(problem.X))


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
