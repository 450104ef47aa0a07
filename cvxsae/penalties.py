"""Penalties of codes: one set of objects for exact codes at a fixed dictionary and for global optima of small problems.

:class:`L1`, :class:`Signed`, :class:`ElasticNet`, :class:`Group`, :class:`Tree`, :class:`Exclusive`, :class:`Slope` and
:class:`Simplex` are convex, with value, prox, polar and conjugate. :class:`L0`, :class:`TopK` and :class:`Log` are not.
:class:`Prefixes` writes Matryoshka losses for :func:`cvxsae.encode`. :func:`cvxsae.solve_globally` takes L1, Signed,
ElasticNet, Tree, L0, :class:`TopOne`, Log, :class:`SquaredSum`, :class:`Orthogonality` and :class:`Matryoshka`. Where a
penalty has the g of theory.md T16 (``penalty.mass_objection`` is None) no dictionary beats :func:`radial_bound`.
"""

from cvxsae.relaxations.convex.penalties.groups import Group, Tree
from cvxsae.relaxations.convex.penalties.nonconvex import L0, Log, TopK, TopOne
from cvxsae.relaxations.convex.penalties.ordered import Slope
from cvxsae.relaxations.convex.penalties.prefixes import Prefixes
from cvxsae.relaxations.convex.penalties.separable import L1, ElasticNet, Signed
from cvxsae.relaxations.convex.penalties.sums import Exclusive, Simplex
from cvxsae.solvers.global_search.penalties import Matryoshka, Orthogonality, SquaredSum, radial_bound

__all__ = [
    "L0",
    "L1",
    "ElasticNet",
    "Exclusive",
    "Group",
    "Log",
    "Matryoshka",
    "Orthogonality",
    "Prefixes",
    "Signed",
    "Simplex",
    "Slope",
    "SquaredSum",
    "TopK",
    "TopOne",
    "Tree",
    "radial_bound",
]
