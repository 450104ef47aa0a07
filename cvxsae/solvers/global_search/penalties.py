"""Penalties of codes that small problems are solved globally for, and what T16 proves of each.

One class a penalty, with its parameters; λ is that of the problem. ``of_mass(t, λ)`` is the g of T16, the cost of codes
that sum to t, where the penalty has one: then no dictionary of any width does better than :func:`radial_bound` at a
point, absorption reaches it, and no choice of λ cures that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from jaxtyping import Float64

from cvxsae.data import arguments, tensors
from cvxsae.errors import InputError
from cvxsae.solvers.global_search.objective import CodeCost


@dataclass(frozen=True)
class L1:
    """``λ Σ_k z_k``: the sparse autoencoder's own."""

    name: ClassVar[str] = "L1"
    absorbs: ClassVar[bool] = True

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, lam)

    def radial(self, r: Float64[np.ndarray, " N"], lam: float) -> Float64[np.ndarray, " N"]:
        """h_g of T16 at lengths r: ``λr − λ²/2`` from λ on, ``r²/2`` below."""
        return np.where(r > lam, lam * r - lam**2 / 2, r**2 / 2)


@dataclass(frozen=True)
class Signed(L1):
    """``λ Σ_k |z_k|`` with codes of both signs: a dictionary and its negative."""

    name: ClassVar[str] = "signed L1"

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, lam, signed=True)


@dataclass(frozen=True)
class L0:
    """``λ`` for every active atom: what a JumpReLU SAE is trained for."""

    name: ClassVar[str] = "L0"
    absorbs: ClassVar[bool] = True

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, 0.0, per_atom=lam)

    def radial(self, r: Float64[np.ndarray, " N"], lam: float) -> Float64[np.ndarray, " N"]:
        """``min(r²/2, λ)``."""
        return np.minimum(r**2 / 2, lam)


@dataclass(frozen=True)
class TopOne:
    """At most one active atom, and no other cost; λ is not used."""

    name: ClassVar[str] = "Top-1"
    absorbs: ClassVar[bool] = True

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, 0.0, most_active=1)

    def radial(self, r: Float64[np.ndarray, " N"], lam: float) -> Float64[np.ndarray, " N"]:
        """Zero: every point may have an atom of its own."""
        return np.zeros_like(r)


@dataclass(frozen=True)
class SquaredSum:
    """``λ (Σ_k z_k)²``."""

    name: ClassVar[str] = "squared sum"
    absorbs: ClassVar[bool] = True

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, 0.0, ridge=np.full((n_atoms, n_atoms), 2 * lam))

    def radial(self, r: Float64[np.ndarray, " N"], lam: float) -> Float64[np.ndarray, " N"]:
        """``λ r²/(1 + 2λ)``."""
        return lam * r**2 / (1 + 2 * lam)


@dataclass(frozen=True)
class ElasticNet:
    """``λ Σ_k z_k + (ridge/2) Σ_k z_k²``. Superadditive, so T16 does not hold; neutral where atoms are orthogonal."""

    ridge: float

    name: ClassVar[str] = "elastic net"
    absorbs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ridge", arguments.positive(self.ridge, "ridge"))

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        _require_two(self.name, n_atoms)
        return CodeCost.plain(self.name, n_atoms, lam, ridge=self.ridge)


@dataclass(frozen=True)
class Orthogonality:
    """``λ Σ_k z_k`` and ``γ Σ_{k<l} cos²(d_k, d_l)`` on the dictionary, as OrtSAE has it."""

    gamma: float

    name: ClassVar[str] = "orthogonality"
    absorbs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", arguments.positive(self.gamma, "gamma"))

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, lam, coherence=self.gamma)


@dataclass(frozen=True)
class Matryoshka:
    """``λ Σ_k z_k`` and a second loss, ``β ½‖x − b − z_1 d_1‖²``, on the first of two atoms, with shared codes."""

    beta: float

    name: ClassVar[str] = "Matryoshka"
    absorbs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", arguments.positive(self.beta, "beta"))

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        _require_two(self.name, n_atoms, least=2)
        first = 1 + self.beta
        return CodeCost(
            self.name,
            np.full(2, lam),
            np.array([first, 1.0]),
            np.array([[first, 1.0], [1.0, 1.0]]),
            np.zeros((2, 2)),
            power_scale=first,
        )


Penalty: TypeAlias = L1 | L0 | TopOne | SquaredSum | ElasticNet | Orthogonality | Matryoshka
"""What :func:`cvxsae.solve_globally` takes."""

PENALTIES = (L1, Signed, L0, TopOne, SquaredSum, ElasticNet, Orthogonality, Matryoshka)
"""All of them."""

WANTED = "L1, Signed, L0, TopOne, SquaredSum, ElasticNet, Orthogonality or Matryoshka of cvxsae.penalties"
"""What ``penalty`` may be, in words: the others there are for codes of a fixed dictionary."""

WIDE = (L1, L0, TopOne, SquaredSum)
"""Those of T16, by class (:class:`Signed` is an :class:`L1`)."""


def _require_two(name: str, n_atoms: int, *, least: int = 1) -> None:
    """Of these, three atoms may be active at a time even in the plane."""
    if not least <= n_atoms <= 2:
        raise InputError(f"n_atoms is {n_atoms}; with the penalty {name!r} pass {'2' if least == 2 else '1 or 2'}.")


def radial_bound(X: Float64[np.ndarray, "N d"], lam: float, penalty: Penalty) -> Float64[np.ndarray, " N"]:
    """Bound φ from below at every datapoint, for every dictionary of every width: h_g(‖x_n‖) of T16, without a bias.

    ``Ω(z) ≥ g(Σz)`` with equality for a single active atom, and ``‖zD‖ ≤ Σz``, give ``½‖x − zD‖² + Ω(z) ≥ h_g(‖x‖)``
    with ``h_g(r) = min over 0 ≤ t ≤ r of ½(r − t)² + g(t)``; an atom along x attains it.
    """
    wide: Any = arguments.instance(penalty, "penalty", WIDE, "L1, Signed, L0, TopOne or SquaredSum")
    rows = tensors.matrix(X, "X").double()
    tensors.require_finite(rows, "X")
    return wide.radial(np.linalg.norm(rows.numpy(), axis=1), arguments.penalty(lam, "lam"))
