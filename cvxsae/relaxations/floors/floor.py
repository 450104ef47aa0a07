"""A certified lower bound that holds for every dictionary of a given width, and what proves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
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
