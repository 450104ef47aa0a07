"""A certified lower bound for every dictionary of a given width, and its proof."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.joint.joint import JointProblem


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
    failure_probability
        The probability, over a random start that does not depend on the data, that this bound is too low: zero unless
        it is made of products with the kernel matrix alone, in parts that are too large for all its eigenvalues.
    projection
        Orthonormal columns (d, r) that the points are projected on first (``docs/floors_proofs.md``, Lemma 5); None
        for none.
    """

    rows: np.ndarray = field(repr=False)
    partners: np.ndarray | None = field(repr=False)
    value: float
    theorem: str
    kernel: ZonalKernel | None = None
    weights: np.ndarray | None = field(default=None, repr=False)
    share_limit: float | None = None
    failure_probability: float = 0.0
    projection: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Floor:
    """A number that F(D, b) cannot go below, whatever the dictionary D of ``n_atoms`` unit-norm atoms.

    Attributes
    ----------
    problem
        The joint problem it bounds from below: data, width K, λ and bias (for ``"free"`` it holds for every bias). It
        holds for every smaller width too.
    value
        The bound, mean per datapoint as in (P).
    theorem
        Where it comes from; of several parts, that of the first.
    parts
        How it was found, part by part; empty for :func:`cvxsae.floors.spectral_floor` and where the wide limit is the
        best.
    fingerprint
        Of the data it was computed for (:func:`cvxsae.data.storage.fingerprint`): data that change later are noticed.
    """

    problem: JointProblem = field(repr=False)
    value: float
    theorem: str
    parts: tuple[FloorPart, ...] = field(default=(), repr=False)
    fingerprint: str = field(default="", repr=False)

    @property
    def n_atoms(self) -> int:
        """The width K."""
        return self.problem.n_atoms

    @property
    def failure_probability(self) -> float:
        """The probability, over the seed, that the floor is wrong; zero unless a part was too large to be exact."""
        return min(1.0, math.fsum(part.failure_probability for part in self.parts))

    @property
    def lam(self) -> float:
        """Penalty λ."""
        return self.problem.lam

    @property
    def bias(self) -> Float64[np.ndarray, " d"] | Literal["free"] | None:
        """The bias it holds for: None (zero), an array (d,), or ``"free"`` (every bias)."""
        bias = self.problem.bias
        return bias.numpy().copy() if isinstance(bias, torch.Tensor) else bias

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: the number and what it is about, without the parts that prove it."""
        return {
            "value": self.value,
            "theorem": self.theorem,
            "kernel": str(self.parts[0].kernel) if self.parts and self.parts[0].kernel is not None else None,
            "n_parts": len(self.parts),
            "failure_probability": self.failure_probability,
            "n_points": self.problem.n_points,
            "dim": self.problem.dim,
            "n_atoms": self.n_atoms,
            "lam": self.lam,
            "bias": "free" if self.problem.bias_is_free else "fixed",
        }

    def __repr__(self) -> str:
        bias = "every bias" if self.problem.bias_is_free else "this bias"
        doubt = f", wrong with probability {self.failure_probability:.1g}" if self.failure_probability else ""
        return f"Floor({self.value:.9g} for {self.n_atoms} atoms and {bias}, λ {self.lam:.4g}, {self.theorem}{doubt})"
