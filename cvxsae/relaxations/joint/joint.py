"""The joint problem that a sparse autoencoder approximates: dictionary, codes and bias together (P)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.problem import Problem, made_together


@dataclass(frozen=True, init=False, eq=False)
class JointProblem(Problem):
    """``F*_K = min over D (K unit-norm atoms), Z ≥ 0 and b of (1/N) Σ_n [ ½‖x_n − b − z_n D‖² + λ Σ_k z_nk ]``   (P).

    This is the only problem here that is not convex. Its lower bound holds for every width at once: ``‖y_n‖ ≤ λ``
    makes Y feasible for the dual of *any* dictionary (T9), so the bound reaches the wide limit (5). The gap may be due
    to a better dictionary of this width, to a wider one, or to nothing that can be attained.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    n_atoms
        Width K.
    lam
        Penalty λ > 0.
    bias
        ``"free"`` (optimized, the default), None (zero) or an array (d,) (fixed).

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """

    n_atoms: int

    name: ClassVar[str] = "joint"

    @made_together
    def __init__(self, X: ActivationsLike, n_atoms: int, lam: float, *, bias: BiasLike = "free") -> None:
        super().__init__(X, lam, bias)
        self._set(n_atoms=arguments.count(n_atoms, "n_atoms"))

    @property
    def evaluation_cost(self) -> float:
        """Two products with a dictionary."""
        return 2.0 * self.n_points * self.n_atoms * self.dim

    @property
    def polar_is_exact(self) -> bool:
        """False: the lower bound is the wide limit's, below the optimum of a width K < N."""
        return False

    def objections(self, candidate: Candidate) -> list[str]:
        """Exactly K atoms of norm 1."""
        if candidate.dictionary is None:
            return ["The candidate has no dictionary; the joint problem asks for one."]
        found = candidate.dictionary.shape[0]
        return (
            []
            if found == self.n_atoms
            else [f"The dictionary has {found} atoms; the problem's width is {self.n_atoms}."]
        )

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"]:
        """``‖y_n‖``: the polar over dictionaries of every width (T9)."""
        return torch.linalg.vector_norm(Y, dim=1)

    def zero_candidate(self) -> Candidate:
        """All codes zero, and the bias that is best for them: optimal iff ``λ ≥ lambda_max``."""
        return Candidate(
            bias=self.starting_bias().numpy(),
            dictionary=np.eye(self.dim)[np.arange(self.n_atoms) % self.dim],
            codes=np.zeros((self.n_points, self.n_atoms)),
        )
