"""Penalties of codes: those of exact codes at a fixed dictionary, and those of global optima of small problems.

:class:`Group`, :class:`Tree`, :class:`Exclusive`, :class:`Slope` and :class:`Simplex` are for
:class:`cvxsae.PenalizedCodes`, and :class:`Prefixes` writes Matryoshka losses for :func:`cvxsae.encode`, which has L1
with weights and a ridge. The others are for :func:`cvxsae.solve_globally`, with the bound that no dictionary beats
(theory.md T16).
"""

from cvxsae.relaxations.convex.penalties.groups import Group, Tree
from cvxsae.relaxations.convex.penalties.ordered import Slope
from cvxsae.relaxations.convex.penalties.prefixes import Prefixes
from cvxsae.relaxations.convex.penalties.sums import Exclusive, Simplex
from cvxsae.solvers.global_search.penalties import (
    L0,
    L1,
    ElasticNet,
    Matryoshka,
    Orthogonality,
    Signed,
    SquaredSum,
    TopOne,
    radial_bound,
)

__all__ = [
    "L0",
    "L1",
    "ElasticNet",
    "Exclusive",
    "Group",
    "Matryoshka",
    "Orthogonality",
    "Prefixes",
    "Signed",
    "Simplex",
    "Slope",
    "SquaredSum",
    "TopOne",
    "Tree",
    "radial_bound",
]
