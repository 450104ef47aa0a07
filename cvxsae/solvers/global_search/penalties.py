"""The penalties for which small problems are solved globally, and the bound of T16.

Those that other problems have too are in ``cvxsae/relaxations/convex/penalties``; here are the others, and what codes
of few atoms cost under each. Where a penalty has the g of T16 no dictionary of any width does better than
:func:`radial_bound` at a point, absorption reaches it, and no choice of λ cures that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from jaxtyping import Float64

from cvxsae.data import arguments, tensors
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.penalties.groups import Tree
from cvxsae.relaxations.convex.penalties.nonconvex import L0, Log, NonconvexPenalty, TopOne
from cvxsae.relaxations.convex.penalties.row_penalty import RowPenalty
from cvxsae.relaxations.convex.penalties.separable import L1, ElasticNet, Signed
from cvxsae.solvers.global_search.curved import CurvedCost, LogCost, TreeCost
from cvxsae.solvers.global_search.objective import CodeCost


@dataclass(frozen=True)
class SquaredSum:
    """``λ (Σ_k z_k)²``: T16 with ``g(t) = t²``. Twice :class:`cvxsae.penalties.Exclusive` with one group."""

    name: ClassVar[str] = "squared sum"
    mass_objection: ClassVar[str | None] = None

    def cost(self, n_atoms: int, lam: float) -> CodeCost:
        """Numbers a support."""
        return CodeCost.plain(self.name, n_atoms, 0.0, ridge=np.full((n_atoms, n_atoms), 2 * lam))

    def of_mass(self, s: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """``t²``."""
        return s**2

    def radial(self, r: Float64[np.ndarray, "*n"], lam: float) -> Float64[np.ndarray, "*n"]:
        """``λ r²/(1 + 2λ)``."""
        return lam * r**2 / (1 + 2 * lam)


@dataclass(frozen=True)
class Orthogonality:
    """``λ Σ_k z_k`` and ``γ Σ_{k<l} cos²(d_k, d_l)`` on the dictionary, as OrtSAE has it."""

    gamma: float

    name: ClassVar[str] = "orthogonality"

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


Penalty: TypeAlias = L1 | ElasticNet | Tree | L0 | TopOne | Log | SquaredSum | Orthogonality | Matryoshka
"""What :func:`cvxsae.solve_globally` takes."""

PENALTIES = (L1, Signed, L0, TopOne, Log, SquaredSum, ElasticNet, Tree, Orthogonality, Matryoshka)
"""All of them."""

WANTED = "L1, Signed, L0, TopOne, Log, SquaredSum, ElasticNet, Tree, Orthogonality or Matryoshka of cvxsae.penalties"
"""What ``penalty`` may be, in words: the others there are for codes of a fixed dictionary."""

BOUNDED = (RowPenalty, NonconvexPenalty, SquaredSum)
"""Those that know whether T16 holds."""


def cost_of(penalty: Penalty, n_atoms: int, lam: float) -> CodeCost | CurvedCost:
    """What codes of few atoms cost under a penalty, in the form that bounds over boxes are made of.

    Raises
    ------
    InputError
        For a number of atoms that the penalty cannot be searched with, or is not for.
    """
    name = penalty.name
    if isinstance(penalty, SquaredSum | Orthogonality | Matryoshka):
        return penalty.cost(n_atoms, lam)
    if isinstance(penalty, L1 | ElasticNet):
        penalty.require_atoms(n_atoms)
        weights = np.ones(n_atoms) if penalty.weights is None else np.array(penalty.weights)
        if isinstance(penalty, L1):
            return replace(CodeCost.plain(name, n_atoms, lam, signed=penalty.signed), linear=lam * weights)
        _require_two(name, n_atoms)
        return replace(CodeCost.plain(name, n_atoms, lam, ridge=lam * penalty.ridge), linear=lam * weights)
    if isinstance(penalty, L0):
        if penalty.ridge:
            raise InputError(
                f"penalty is L0 with the ridge {penalty.ridge:g}, which is for codes of a fixed dictionary; "
                "pass L0() or ElasticNet(ridge)."
            )
        return CodeCost.plain(name, n_atoms, 0.0, per_atom=lam)
    if isinstance(penalty, TopOne):
        return CodeCost.plain(name, n_atoms, 0.0, most_active=1)
    _require_two(name, n_atoms, least=2)
    if isinstance(penalty, Log):
        return LogCost(name, lam, penalty)
    if penalty.groups != ((0, 1), (1,)):
        raise InputError(
            "penalty is a tree of other groups than [[0, 1], [1]], a parent and its child; "
            "pass Tree.of_parents([-1, 0])."
        )
    both, child = penalty.weights
    return TreeCost(name, lam * both, lam * child)


def _require_two(name: str, n_atoms: int, *, least: int = 1) -> None:
    """Of these, three atoms may be active at a time even in the plane."""
    if not least <= n_atoms <= 2:
        raise InputError(f"n_atoms is {n_atoms}; with the penalty {name!r} pass {'2' if least == 2 else '1 or 2'}.")


def radial_bound(
    X: Float64[np.ndarray, "N d"], lam: float, penalty: RowPenalty | NonconvexPenalty | SquaredSum
) -> Float64[np.ndarray, " N"]:
    """Bound φ from below at every datapoint, for every dictionary of every width: h_g(‖x_n‖) of T16, without a bias.

    ``Ω(z) ≥ g(Σz)`` with equality for a single active atom, and ``‖zD‖ ≤ Σz``, give ``½‖x − zD‖² + λΩ(z) ≥ h(‖x‖)``
    with ``h(r) = min over 0 ≤ t ≤ r of ½(r − t)² + λg(t)``; an atom along x attains it.

    Parameters
    ----------
    X
        Datapoints, (N, d).
    lam
        λ > 0; limits without a price do not use it.
    penalty
        Any of :mod:`cvxsae.penalties` that has a g.

    Raises
    ------
    InputError
        For a penalty that T16 does not hold of, with the reason.
    """
    wide: Any = arguments.instance(penalty, "penalty", BOUNDED, "a penalty of codes of cvxsae.penalties that has a g")
    rows = tensors.matrix(X, "X").double()
    tensors.require_finite(rows, "X")
    if wide.mass_objection is not None:
        wide.require_mass()
    return wide.radial(np.linalg.norm(rows.numpy(), axis=1), arguments.penalty(lam, "lam"))
