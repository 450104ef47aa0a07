"""Penalties of codes for :func:`cvxsae.solve_globally`, and the bound that no dictionary beats (theory.md T16)."""

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

__all__ = ["L0", "L1", "ElasticNet", "Matryoshka", "Orthogonality", "Signed", "SquaredSum", "TopOne", "radial_bound"]
