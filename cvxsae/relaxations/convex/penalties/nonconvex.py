"""Penalties of codes that are not convex: a price for every active atom, a limit of their number, a log.

Codes under these are searched for and bounded from below, both row by row; the bounds are in
``cvxsae/relaxations/convex/support_bounds.py``. All of them obey T16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments
from cvxsae.data.arithmetic import computes


class NonconvexPenalty(ABC):
    """A penalty Ω of nonnegative codes, row by row, with a lower bound for every dictionary (T16); λ multiplies it."""

    name: ClassVar[str]
    formula: ClassVar[str]
    atom_cost: ClassVar[float] = 0.0
    """The surcharge τ of an :class:`~cvxsae.relaxations.AtomPenalty`: none."""
    has_price: ClassVar[bool] = True
    """Whether λ multiplies something."""
    mass_objection: ClassVar[str | None] = None
    """Why T16 does not hold: it does, for all of these."""

    def __init_subclass__(cls) -> None:
        computes(cls)

    def require_atoms(self, n_atoms: int) -> None:
        """Any number of atoms will do."""
        del n_atoms

    @abstractmethod
    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """Ω of every row of codes."""

    @abstractmethod
    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """The g of T16: ``Ω(z) ≥ g(Σz)``, with equality where one code is active."""

    @abstractmethod
    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``min over t of ½(r − t)² + λg(t)`` at lengths r: no dictionary does better (T16)."""


@dataclass(frozen=True)
class L0(NonconvexPenalty):
    """``Ω(z) = ‖z‖₀``: λ for every active atom, which is what a JumpReLU SAE is trained for.

    Subadditive, and 1 for a single atom: T16 with ``g(t) = 1`` above zero.
    """

    name: ClassVar[str] = "L0"
    formula: ClassVar[str] = "‖z‖₀"

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """The number of active atoms of every row."""
        return (Z > 0).sum(dim=1).to(Z)

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """1 above zero."""
        return (s > 0).astype(np.float64)

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``min(r²/2, λ)``."""
        return np.minimum(r**2 / 2, lam)


@dataclass(frozen=True)
class TopK(NonconvexPenalty):
    """``Ω(z) = 0`` for at most k active atoms, and infinite beyond: a limit without a price, so λ is not used.

    T16 with ``g = 0``: one active atom is always allowed.

    Parameters
    ----------
    k
        Most active atoms, at least 1.

    Raises
    ------
    InputError
        For a k that is no count.
    """

    k: int

    name: ClassVar[str] = "TopK"
    formula: ClassVar[str] = "0 where ‖z‖₀ ≤ k, infinite elsewhere"
    has_price: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", arguments.count(self.k, "k"))

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """0 where few enough atoms are active; infinite elsewhere."""
        return torch.where((Z > 0).sum(dim=1) <= self.k, 0.0, torch.inf).to(Z)

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """Zero."""
        return np.zeros_like(s)

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """Zero: every point may have an atom of its own."""
        del lam
        return np.zeros_like(r)


@dataclass(frozen=True)
class TopOne(TopK):
    """At most one active atom, and no other cost."""

    k: int = 1

    name: ClassVar[str] = "Top-1"


@dataclass(frozen=True)
class Log(NonconvexPenalty):
    """``Ω(z) = Σ_k ε log(1 + z_k/ε)``: what reweighted L1 minimizes (Candès et al. 2008).

    Slope 1 at zero, as L1 has, and less beyond. Each term is concave from zero, so their sum is subadditive and T16
    holds with ``g(t) = ε log(1 + t/ε)``: the penalty absorbs as L1 does.

    Parameters
    ----------
    epsilon
        ε > 0, a length: codes much above it pay about the same.

    Raises
    ------
    InputError
        For an ε that is not above zero.
    """

    epsilon: float

    name: ClassVar[str] = "log"
    formula: ClassVar[str] = "Σ_k ε log(1 + z_k/ε)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", arguments.positive(self.epsilon, "epsilon"))

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``Σ_k ε log(1 + z_k/ε)`` of every row."""
        return self.epsilon * torch.log1p(Z / self.epsilon).sum(dim=1)

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``ε log(1 + t/ε)``."""
        return self.epsilon * np.log1p(s / self.epsilon)

    def best_single(self, q: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """The code of one atom of correlation q that costs least: a root of ``(z − q)(z + ε) + λε``, or zero."""
        z = larger_root(q - self.epsilon, self.epsilon * (q - lam))
        return np.where((0.5 * z - q) * z + lam * self.of_mass(z) < 0, z, 0.0)

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """The cost of a single code with the correlation r."""
        t = self.best_single(r, lam)
        return np.minimum(0.5 * r**2, 0.5 * (r - t) ** 2 + lam * self.of_mass(t))


def larger_root(b: Float64[np.ndarray, "*n"], c: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """The larger root of ``z² − bz − c`` where that is real and above zero, else zero: nothing cancels or overflows."""
    size = np.maximum(np.maximum(np.abs(b), np.sqrt(np.abs(c))), np.finfo(float).tiny)
    inside = (b / size) ** 2 + 4 * (c / size / size)
    root = size * np.sqrt(np.maximum(inside, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(b > 0, (b + root) / 2, 2 * c / (root - b))
    return np.where((inside >= 0) & (z > 0), z, 0.0)
