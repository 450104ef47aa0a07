"""Penalties of codes that are not convex: a price for every active atom, a limit of their number, a log.

Codes under these are searched for and bounded from below, both row by row; the bounds are in
``cvxsae/relaxations/convex/support_bounds.py`` and ``box_bounds.py``. All of them obey T16, except for a ridge.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments
from cvxsae.data.arithmetic import computes
from cvxsae.relaxations.convex.penalties.row_penalty import require_mass
from cvxsae.relaxations.linalg import EPS


class NonconvexPenalty(ABC):
    """A penalty Ω of nonnegative codes, row by row, with a lower bound for every dictionary (T16); λ multiplies it."""

    name: ClassVar[str]
    formula: ClassVar[str]
    atom_cost: ClassVar[float] = 0.0
    """The surcharge τ of an :class:`~cvxsae.relaxations.AtomPenalty`: none."""
    has_price: ClassVar[bool] = True
    """Whether λ multiplies something."""

    def __init_subclass__(cls) -> None:
        computes(cls)

    def require_atoms(self, n_atoms: int) -> None:
        """Any number of atoms will do."""
        del n_atoms

    @property
    def mass_objection(self) -> str | None:
        """Why T16 does not hold; None where it does."""
        return None

    def require_mass(self) -> None:
        """Refuse what needs g of a penalty that has none.

        Raises
        ------
        InputError
            With the reason.
        """
        require_mass(self)

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
    """``Ω(z) = ‖z‖₀ + ½ρ‖z‖²``: a price for every active atom, as a JumpReLU SAE is trained for, and a ridge.

    Like the ridge of :class:`~cvxsae.penalties.ElasticNet`, ρ is multiplied by λ. Without one Ω is subadditive, and 1
    for a single atom: T16 with ``g(t) = 1`` above zero. With one it is superadditive, and T16 does not hold: the same
    sum of codes costs less where a few atoms share it.

    *JumpReLU.* One atom of norm 1 with the correlation q is worth its price where ``q²/(2(1 + λρ)) > λ``, so a JumpReLU
    encoder with the transposed atoms and the threshold θ has optimal codes of an atom orthogonal to the others at
    ``λ = θ²/2``. Of a dictionary whose atoms are not orthogonal these codes are no optimum, nor in general a local one.

    *The convex envelope* of ``λ 1{z > 0} + λ½ρz²`` on z ≥ 0 is the reverse Huber function (Pilanci, Wainwright and
    El Ghaoui 2015; the perspective of Günlük and Linderoth 2010): the tangent through zero, ``λ√(2ρ) z``, up to
    ``z = √(2/ρ)``, where it touches, and the function itself beyond. :meth:`envelope_prox` and :meth:`conjugate` are
    those of the envelope, whose conjugate is that of the function.

    Parameters
    ----------
    ridge
        ρ ≥ 0.

    Raises
    ------
    InputError
        For a ridge below zero.
    """

    ridge: float = 0.0

    name: ClassVar[str] = "L0"
    formula: ClassVar[str] = "‖z‖₀ + ½ρ‖z‖²"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ridge", arguments.nonnegative(self.ridge, "ridge"))

    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """The number of active atoms of every row, and the ridge."""
        return (Z > 0).sum(dim=1).to(Z) + self.ridge / 2 * Z.square().sum(dim=1)

    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """A minimizer of ``½‖z − v‖² + step·Ω(z)`` over z ≥ 0: ``v_k/(1 + step·ρ)`` where that pays, or zero."""
        shrunk = 1 + arguments.nonnegative(step, "step") * self.ridge
        return torch.where((V > 0) & (V.square() > 2 * step * shrunk), V / shrunk, 0.0)

    def envelope_prox(self, V: Float[torch.Tensor, "n K"], lam: float, step: float) -> Float[torch.Tensor, "n K"]:
        """``argmin_{z ≥ 0} ½‖z − v‖² + step·Σ_k h(z_k)`` with the envelope h of λω, of a ridge above zero."""
        linear = V - step * lam * math.sqrt(2 * self.ridge)
        return torch.minimum(linear, V / (1 + step * lam * self.ridge)).clamp_(min=0)

    def conjugate(
        self, T: Float64[np.ndarray, "n K"], lam: float, most: Float64[np.ndarray, "n one"]
    ) -> Float64[np.ndarray, "n K"]:
        """``max over 0 ≤ z ≤ most of zt − λω(z)``, rounded up: ``(t₊²/(2λρ) − λ)₊`` where codes have no limit."""
        curvature, t = lam * self.ridge, np.maximum(T, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(t > 0, np.minimum(t / curvature, most), 0.0)
        charge = z * t - curvature / 2 * z**2 - lam
        return np.where(charge > -8 * EPS * lam, np.maximum(charge, 0.0) + 8 * EPS * (z * t + lam), 0.0)

    def without_ridge(
        self, x: Float64[np.ndarray, "n d"], atoms: Float64[np.ndarray, "K d"], lam: float
    ) -> tuple[Float64[np.ndarray, "n e"], Float64[np.ndarray, "K e"], float]:
        """The same problem without a ridge: datapoints, atoms of norm 1, and how much larger its codes are.

        ``½‖x − zD‖² + ½λρ‖z‖²`` is the squared error of ``(x, 0)`` by the atoms ``(d_k, √(λρ) e_k)``, whose norm is
        ``√(1 + λρ)``. They have d + K entries.
        """
        if not self.ridge:
            return x, atoms, 1.0
        scale = float(np.sqrt(1 + lam * self.ridge))
        longer = np.hstack([atoms, np.sqrt(lam * self.ridge) * np.eye(len(atoms))]) / scale
        return np.hstack([x, np.zeros((len(x), len(atoms)))]), longer, scale

    @property
    def mass_objection(self) -> str | None:
        """A ridge rewards spreading."""
        return (
            "a ridge is superadditive, so the same sum of codes can cost less where atoms share it"
            if self.ridge
            else None
        )

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """1 above zero."""
        self.require_mass()
        return (s > 0).astype(np.float64)

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``min(r²/2, λ)``."""
        self.require_mass()
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
