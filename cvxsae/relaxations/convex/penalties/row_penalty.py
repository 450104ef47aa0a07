"""The interface of a convex penalty Ω of the codes of one datapoint, as :class:`PenalizedCodes` uses it.

Codes are rows here, where an :class:`~cvxsae.relaxations.AtomPenalty` is about the columns. Ω is convex on ``z ≥ 0``
and ``Ω(0) = 0`` unless zero is not allowed. The dual of ``min_{z ≥ 0} ½‖x − zD‖² + λΩ(z)`` is

    max_y  y·x − ½‖y‖² − λ Ω*(D y/λ),        Ω*(v) = max_{z ≥ 0} v·z − Ω(z).

Where Ω is a gauge (``Ω(tz) = tΩ(z)``), Ω* is the constraint ``Ω°(D y) ≤ λ`` with the polar
``Ω°(v) = max_{z ≥ 0} v·z / Ω(z)``, and any y is scaled into it. Otherwise Ω* is finite and comes off the dual value.
Both grow with every entry of v, so that what rounding can hide is added to v first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from cvxsae.data import tensors
from cvxsae.data.arithmetic import computes
from cvxsae.errors import InputError


class RowPenalty(ABC):
    """A convex penalty Ω of nonnegative codes, row by row; λ is that of the problem."""

    name: ClassVar[str]
    formula: ClassVar[str]
    atom_cost: ClassVar[float] = 0.0
    """The surcharge τ of an :class:`~cvxsae.relaxations.AtomPenalty`: none."""
    degree: ClassVar[int | None] = 0
    """Ω* at ``s v`` is ``s`` to this power times Ω* at v, for ``s ≥ 0``; 0 for a gauge, which has a polar instead, and
    None where it is no power."""

    def __init_subclass__(cls) -> None:
        computes(cls)

    @property
    def is_gauge(self) -> bool:
        """Whether the dual has the constraint ``Ω°(D y) ≤ λ``, and no charge."""
        return self.degree == 0

    def require_atoms(self, n_atoms: int) -> None:
        """Refuse a number of atoms that the parameters are not for."""
        del n_atoms

    @abstractmethod
    def value(self, Z: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """Ω of every row of codes."""

    @abstractmethod
    def prox(self, V: Float[torch.Tensor, "n K"], step: float) -> Float[torch.Tensor, "n K"]:
        """``argmin_{z ≥ 0} ½‖z − v‖² + step · Ω(z)`` of every row."""

    @abstractmethod
    def polar(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """The smallest t at which zero is ``prox(v, t)``; of a gauge its polar, ``max_{z ≥ 0} v·z / Ω(z)``."""

    def conjugate(self, V: Float[torch.Tensor, "n K"]) -> Float[torch.Tensor, " n"]:
        """``max_{z ≥ 0} v·z − Ω(z)`` of every row: of a gauge 0 where its polar is at most 1 and infinite elsewhere."""
        return torch.where(self.polar(V) <= 1, 0.0, torch.inf)

    # ------------------------------------------------------------------ for every dictionary (T16)

    @property
    @abstractmethod
    def mass_objection(self) -> str | None:
        """Why there is no g with ``Ω(z) ≥ g(Σz)`` and equality for a single active atom; None where there is one."""

    def require_mass(self) -> None:
        """Refuse what needs g of a penalty that has none.

        Raises
        ------
        InputError
            With the reason.
        """
        require_mass(self)

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """The g of T16.

        Raises
        ------
        InputError
            If there is none.
        """
        self.require_mass()
        raise NotImplementedError

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``min over t of ½(r − t)² + λg(t)`` at lengths r: no dictionary does better (T16).

        Raises
        ------
        InputError
            If there is no g.
        """
        del r, lam
        self.require_mass()
        raise NotImplementedError


def require_mass(penalty: Any) -> None:
    """Refuse what needs the g of T16 of a penalty that has none, with its reason."""
    if penalty.mass_objection is not None:
        raise InputError(
            f"penalty {penalty.name!r} has no bound by the sum of the codes (T16): {penalty.mass_objection}; "
            "pass another."
        )


def labels_of(groups: Any) -> tuple[int, ...]:
    """Check the group of every atom, numbered from zero.

    Raises
    ------
    InputError
        For labels that are not whole numbers from zero, or groups without atoms.
    """
    labels = tensors.vector(groups, "groups")
    if bool(((labels != labels.round()) | (labels < 0)).any()):
        atom = int(((labels != labels.round()) | (labels < 0)).nonzero()[0])
        raise InputError(f"groups holds {float(labels[atom]):g} at atom {atom}; number the groups 0, 1, 2 and so on.")
    if float(labels.max()) >= len(labels):
        raise InputError(
            f"groups holds {float(labels.max()):g} for {len(labels)} atoms; number the groups 0, 1 and so on."
        )
    present = torch.bincount(labels.long())
    if not bool((present > 0).all()):
        empty = int((present == 0).nonzero()[0])
        raise InputError(f"groups has no atom in group {empty}; number the groups without leaving one out.")
    return tuple(int(label) for label in labels)


def weights_of(weights: Any, n_groups: int) -> tuple[float, ...]:
    """Check one positive weight for every group; None for ones."""
    if weights is None:
        return (1.0,) * n_groups
    vector = tensors.vector(weights, "weights")
    if len(vector) != n_groups:
        raise InputError(f"weights has shape {tuple(vector.shape)}; there are {n_groups} groups, pass one number each.")
    if not bool((vector > 0).all()):
        group = int((vector <= 0).nonzero()[0])
        raise InputError(f"weights holds {float(vector[group]):g} for group {group}; it must be above zero.")
    return tuple(float(weight) for weight in vector)


def require_length(found: int, n_atoms: int, what: str) -> None:
    """Refuse a parameter for another number of atoms."""
    if found != n_atoms:
        raise InputError(f"penalty has {what} for {found} atoms and the dictionary has {n_atoms}; pass one each.")


def group_sums(V: Float[torch.Tensor, "n K"], labels: Int64[torch.Tensor, " K"], n: int) -> Float[torch.Tensor, "n G"]:
    """Sums over the ``n`` groups, row by row."""
    return V.new_zeros((len(V), n)).index_add_(1, labels.to(V.device), V)


def group_largest(
    V: Float[torch.Tensor, "n K"], labels: Int64[torch.Tensor, " K"], n: int
) -> Float[torch.Tensor, "n G"]:
    """Largest entry of every group, and 0 where none is positive."""
    index = labels.to(V.device).expand(len(V), -1)
    return V.new_zeros((len(V), n)).scatter_reduce_(1, index, V, "amax")


def linear_radial(r: Float64[np.ndarray, "*n"], slope: float) -> Float64[np.ndarray, "*n"]:
    """``min over t ≥ 0 of ½(r − t)² + slope·t``: the Huber function of T9."""
    return np.where(r > slope, slope * r - slope**2 / 2, r**2 / 2)
