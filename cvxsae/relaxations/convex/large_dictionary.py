"""The convex large-dictionary problem: free atoms with a price, so that the width is an outcome (theory.md §5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.errors import InputError
from cvxsae.relaxations import linalg
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.relaxations.problem import Problem, made_together
from cvxsae.relaxations.proofs import CopositivityProof

POLAR_ITERATIONS = 300
"""Rounds of improvement of the copositivity proof, for up to :data:`POLAR_POINTS` datapoints."""

POLAR_POINTS = 300
"""Datapoints up to which an eigendecomposition of order N for each round takes milliseconds."""


SMALLEST_LAM = 1e-13
"""Least λ, in lengths of the longest datapoint, at which float64 can tell Q + λI from Q."""


@dataclass(frozen=True, init=False, eq=False)
class LargeDictionary(Problem):
    """The large dictionary: any number of atoms, each with a surcharge τ; convex in the similarity matrix Q.

    ``min (1/N) [ ½‖X − 1bᵀ − Z D‖² + λ Σ_k ‖d_k‖ θ_τ(z_k) ]`` over any number of atoms, ``Z ≥ 0``           (L)
    ``θ_τ(z)² = (Σ_n z_n)² + τ Σ_n z_n²``; equivalently, over completely positive Q = Z Zᵀ and b,
    ``min (λ/2N) [ tr (X−1bᵀ)ᵀ(Q + λI)⁻¹(X−1bᵀ) + 1ᵀQ1 + τ tr Q ]``                                          (7)

    Dual (T11): ``(1/N) [⟨X − 1bᵀ, Y⟩ − ½‖Y‖²]`` whenever ``θ°_τ(Y) ≤ λ`` (and ``Σ_n y_n = 0``, b free). The polar is
    exact at τ = 0; otherwise it is bounded from above by a copositivity proof ``λ²(11ᵀ + τI) − YYᵀ − P ⪰ 0, P ≥ 0``,
    so the lower bound is valid but may stay up to a percent below the optimum: that of the doubly nonnegative
    relaxation, at best.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    lam
        Penalty λ > 0.
    atom_cost
        Surcharge τ ≥ 0, in datapoints: the support below which an atom is not worth having.
    bias
        ``"free"`` (optimized, the default), None (zero) or an array (d,) (fixed).

    Raises
    ------
    InputError
        For data, λ, τ or bias that cannot be used, and for datapoints shared by several processes.
    """

    name: ClassVar[str] = "large"
    can_be_shared: ClassVar[bool] = False
    atom_cost: float

    @made_together
    def __init__(self, X: ActivationsLike, lam: float, atom_cost: float, *, bias: BiasLike = "free") -> None:
        super().__init__(X, lam, bias)
        self._set(atom_cost=arguments.nonnegative(atom_cost, "atom_cost"))

    @property
    def penalty(self) -> AtomPenalty:
        """θ_τ."""
        return AtomPenalty(self.atom_cost)

    @property
    def evaluation_cost(self) -> float:
        """Linear algebra of order N."""
        return float(self.n_points) ** 2 * (self.n_points + self.dim)

    @property
    def polar_is_exact(self) -> bool:
        """Whether the polar has a formula (τ = 0) or is searched exhaustively (d ≤ 3), so that the bound can close."""
        return self.atom_cost == 0 or self.dim <= LARGEST_DIM

    def objections(self, candidate: Candidate) -> list[str]:
        """Any unit-norm dictionary of any width will do, but there must be one."""
        return [] if candidate.dictionary is not None else ["The candidate has no dictionary."]

    # ------------------------------------------------------------------ dual

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"] | None:
        """``‖y_n‖`` at τ = 0; None otherwise."""
        return torch.linalg.vector_norm(Y, dim=1) if self.atom_cost == 0 else None

    def polar(self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None) -> float:
        """Upper end of ``θ°_τ(Y)``, proved by ``proof`` or by the one-shot choice (T11)."""
        if self.atom_cost == 0:
            return super().polar(Y)
        target = self.lam if proof is not None else None
        return self.penalty.matrix_polar(Y, proof=proof, target=target, starts=2).upper

    def dual_candidate(
        self, residual: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None
    ) -> tuple[np.ndarray, CopositivityProof | None]:
        """The feasible dual point that a residual gives, with its proof.

        Re-centered if the bias is free; for up to ``POLAR_POINTS`` datapoints P is improved by an accelerated
        projection, beyond that it is the one-shot choice.
        """
        Y = self.centered(residual)
        rounds = POLAR_ITERATIONS if len(Y) <= POLAR_POINTS else 0
        bounds = self.penalty.matrix_polar(Y, proof=proof, iterations=rounds, target=self.lam)
        upper = bounds.upper + (sum_slack(Y) if self.bias_is_free else 0.0)
        shrink = min(1.0, self.lam / upper) if upper > 0 else 1.0
        point = without_sum(shrink * Y) if self.bias_is_free else shrink * Y
        return point.numpy(), None if bounds.proof is None else bounds.proof.scaled(shrink)

    # ------------------------------------------------------------------ similarity

    def relaxed_value(self, similarity: Float[np.ndarray, "N N"], bias: Float[np.ndarray, " d"] | None = None) -> float:
        """Objective (7) at Q and b, mean per datapoint: ``(λ/2N) [tr Xᵀ(Q + λI)⁻¹X + 1ᵀQ1 + τ tr Q]``, X less b.

        It bounds the value of (L) from below when Q is optimal for a relaxation of the completely positive cone,
        and from above when Q is completely positive. ``bias`` None is the best one for Q (the fixed one, or
        ``b = Xᵀw/1ᵀw`` with ``w = (Q + λI)⁻¹1``).
        """
        Q, X = torch.from_numpy(similarity), self.X.to_tensor(device=torch.device("cpu"))
        if bias is not None:
            return similarity_value(self, Q, X - torch.from_numpy(bias))
        return similarity_value(self, Q, X - self.starting_bias(), best_bias=self.bias_is_free)

    def relaxed_bound(self, candidate: Candidate) -> float | None:
        """What a doubly nonnegative Q attains in (7), mean per datapoint: the relaxation's optimum is at most that.

        Q is the candidate's similarity, made feasible exactly (negative entries dropped, then its least eigenvalue
        added to the diagonal if that is negative), or that of its dictionary and codes where this is lower. None at
        τ = 0, where nothing is relaxed, for a candidate without a similarity, and where Q + λI cannot be factorized.
        """
        if candidate.similarity is None or self.atom_cost == 0:
            return None
        attained = self.primal_value(candidate)
        given = np.asarray(candidate.similarity, dtype=np.float64)
        Q = np.clip((given + given.T) / 2, 0, None)
        Q.flat[:: len(Q) + 1] -= min(linalg.least_eigenvalue(torch.from_numpy(Q)), 0.0)
        try:
            return min(attained, self.relaxed_value(Q))
        except linalg.FactorizationError:
            return None

    def similarity(self, candidate: Candidate) -> Float[np.ndarray, "N N"]:
        """``Q = Σ_k ‖d_k‖ z_k z_kᵀ / θ_τ(z_k)``: the similarity matrix of a dictionary and its codes."""
        if candidate.codes is None or candidate.dictionary is None:
            raise InputError("the candidate has no codes; similarity needs a dictionary and codes.")
        codes = candidate.codes if isinstance(candidate.codes, np.ndarray) else candidate.codes.toarray()
        prices = self._code_penalties(codes)
        weights = np.divide(
            np.linalg.norm(candidate.dictionary, axis=1), prices, where=prices > 0, out=np.zeros_like(prices)
        )
        return (codes * weights) @ codes.T

    def reconstruction(
        self, similarity: Float[np.ndarray, "N N"], bias: Float[np.ndarray, " d"]
    ) -> Float[np.ndarray, "N d"]:
        """The reconstruction that a similarity matrix stands for, ``1bᵀ + Q(Q + λI)⁻¹(X − 1bᵀ)``."""
        X = self.X.to_numpy() - bias
        return bias + similarity @ linalg.solve(similarity + self.lam * np.eye(len(X)), X)

    def from_factor(self, factor: Float[np.ndarray, "N K"]) -> Candidate:
        """The best bias and dictionary for ``Q = B Bᵀ``, rescaled to unit-norm atoms; atoms not in use are dropped."""
        fit = fit_factor(self, torch.from_numpy(factor), self.X.to_tensor(device=torch.device("cpu")))
        norms = torch.linalg.vector_norm(fit.atoms, dim=1)
        largest = float(norms.max()) if len(norms) else 0.0
        live = (norms > 1e-12 * largest) & (torch.from_numpy(factor).sum(dim=0) > 0)
        codes = (torch.from_numpy(factor) * norms)[:, live]
        return Candidate(
            bias=fit.bias.numpy(), dictionary=(fit.atoms[live] / norms[live, None]).numpy(), codes=codes.numpy()
        )

    # ------------------------------------------------------------------ closed forms

    def require_resolvable(self) -> None:
        """Refuse a λ so small beside the data that rounding would decide the dictionary (τ > 0).

        Raises
        ------
        InputError
            Saying which λ float64 can still work with.
        """
        longest = WideLimit(self.X, self.lam, bias=self.bias).lambda_max()
        if self.atom_cost > 0 and self.lam < SMALLEST_LAM * longest:
            raise InputError(
                f"lam is {self.lam:g} and the longest datapoint {longest:g} from the bias: float64 cannot tell such "
                f"a λ from zero; pass at least {SMALLEST_LAM * longest:.0e}."
            )

    def sharing_threshold(self) -> float:
        """``τ* = 1/max_{i≠j} cos(x_i − b, x_j − b) − 1``: beyond it some pair shares an atom (T12; fixed bias).

        Infinite when no two datapoints are at an acute angle. It is the threshold of the whole problem when every
        ``‖x_n − b‖ > λ√(1 + τ*)``.
        """
        X = self.X.to_tensor(device=torch.device("cpu")) - self.fixed_bias()
        unit = X / torch.linalg.vector_norm(X, dim=1, keepdim=True).clamp(min=torch.finfo(X.dtype).tiny)
        cosines = unit @ unit.T
        cosines.fill_diagonal_(-1)
        largest = float(cosines.max())
        return max(0.0, 1 / largest - 1) if largest > 0 else float("inf")

    def atom_per_datapoint(self, bias: np.ndarray | None = None) -> Candidate:
        """One atom per datapoint, ``Q = diag((‖x_n − b‖/√(1+τ) − λ)_+)``: optimal for τ ≤ τ* and for orthogonal data.

        See T12 and C6; ``bias`` defaults to the fixed one.
        """
        shift = self.fixed_bias().numpy() if bias is None else bias
        offsets = self.X.to_numpy() - shift
        norms = np.linalg.norm(offsets, axis=1)
        root = float(np.sqrt(1 + self.atom_cost))
        live = norms > self.lam * root
        codes = np.diag(np.where(live, norms - self.lam * root, 0.0))[:, live]
        return Candidate(
            bias=shift,
            dictionary=offsets[live] / norms[live, None],
            codes=codes,
            similarity=np.diag(np.clip(norms / root - self.lam, 0, None)),
        )

    def zero_candidate(self) -> Candidate:
        """No atoms, the bias that is best for them: optimal iff ``θ°(X − 1bᵀ) ≤ λ``."""
        return Candidate(
            bias=self.starting_bias().numpy(),
            dictionary=np.zeros((0, self.dim)),
            codes=np.zeros((self.n_points, 0)),
            similarity=np.zeros((self.n_points, self.n_points)),
        )


def similarity_value(
    problem: LargeDictionary,
    similarity: Float[torch.Tensor, "N N"],
    offsets: Float[torch.Tensor, "N d"],
    *,
    best_bias: bool = False,
) -> float:
    """Objective (7), mean per datapoint, at Q and ``X − 1bᵀ``; ``best_bias`` moves b to where it is best for this Q."""
    shifted = similarity.clone()
    shifted.diagonal().add_(problem.lam)
    root = linalg.positive_factor(shifted, problem.lam)
    if best_bias:
        w = root.solve(torch.ones_like(offsets[:, :1]))
        offsets = offsets - (offsets.T @ w).ravel() / w.sum()
    fit = float((offsets * root.solve(offsets)).sum())
    total = fit + float(similarity.sum()) + problem.atom_cost * float(similarity.trace())
    return problem.lam / 2 * total / len(offsets)


class FactorFit:
    """Best bias, dictionary and residual for a factor B of ``Q = B Bᵀ`` (rows of B are datapoints)."""

    def __init__(self, atoms: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> None:
        self.atoms, self.bias, self.residual = atoms, bias, residual


def fit_factor(problem: LargeDictionary, B: torch.Tensor, X: torch.Tensor) -> FactorFit:
    """Minimize ``½‖X − 1bᵀ − B D‖² + (λ/2)‖D‖²`` over D (K, d) and, if it is free, b: ridge regression, O(NK(K + d)).

    The free bias makes the residuals sum to zero: ``b = Xᵀw/1ᵀw`` with ``w = (BBᵀ + λI)⁻¹1``.
    """
    gram = B.T @ B
    gram.diagonal().add_(problem.lam)
    factor = linalg.positive_factor(gram, problem.lam)
    if problem.bias_is_free:
        ones = torch.ones((len(X), 1), dtype=X.dtype, device=X.device)
        w = ones - B @ factor.solve(B.T @ ones)
        bias = X[0] + ((X - X[0]).T @ w).ravel() / w.sum()
    else:
        bias = problem.fixed_bias().to(X)
    centered = X - bias
    atoms = factor.solve(B.T @ centered)
    return FactorFit(atoms, bias, centered - B @ atoms)


def nonnegative_factor(similarity: Float[np.ndarray, "N N"], *, max_iterations: int = 500) -> Float[np.ndarray, "N N"]:
    """``B ≥ 0`` with ``B Bᵀ`` close to Q, (N, N): projected quasi-Newton from the nonnegative part of the square root.

    Exact for diagonal Q. A doubly nonnegative Q need not have an exact factor: the value attained by
    :meth:`LargeDictionary.from_factor` says what the one found is worth.
    """
    import scipy.optimize

    values, vectors = linalg.eigh(similarity)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    size = float(np.abs(similarity).max()) or 1.0
    target, start = similarity / size, np.clip(root, 0, None) / np.sqrt(size)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        B = flat.reshape(target.shape)
        error = B @ B.T - target
        return float(np.sum(error**2)) / 4, (error @ B).ravel()

    result = scipy.optimize.minimize(
        loss,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(0, np.inf),
        options={"maxiter": max_iterations, "ftol": 1e-15, "gtol": 1e-10},
    )
    return np.sqrt(size) * result.x.reshape(target.shape)
