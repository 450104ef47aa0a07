"""Problems with given atoms, which are convex in the codes alone.

:class:`SparseCodes` is the inner problem of a sparse autoencoder (equation 1, T1);
:class:`CandidateDictionary` is the large-dictionary problem restricted to given candidates, each
paying the surcharge τ for existing (theory.md §5). At τ = 0 they are the same problem.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import ArrayLike

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError
from cvxsae.relaxations.candidate import Candidate, Codes
from cvxsae.relaxations.convex import code_penalty
from cvxsae.relaxations.convex.code_penalty import CodePenalty
from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.problem import Problem, made_together
from cvxsae.relaxations.proofs import CopositivityProof

_BLOCK_ENTRIES = 2**21
"""Most entries of a block of products with the atoms: 16 MB in float64, which are sorted in a fifth of a second."""

_DICTIONARY_TOLERANCE = 1e-15
"""How far a candidate's dictionary may be from the problem's atoms, entry by entry: rounding of unit rows."""


@dataclass(frozen=True, init=False, eq=False)
class FixedAtoms(Problem):
    """``min_{Z ≥ 0, b} (1/N) [ ½‖X − 1bᵀ − Z A‖² + λ Σ_k θ_τ(z_k) ]`` for given unit-norm atoms A (K, d).

    Attributes
    ----------
    atoms
        Unit-norm atoms as rows, (K, d) float64.
    """

    atoms: torch.Tensor = field(repr=False)

    @property
    def n_atoms(self) -> int:
        """Number of atoms K."""
        return self.atoms.shape[0]

    @property
    def evaluation_cost(self) -> float:
        """Two products with the dictionary."""
        return 2.0 * self.n_points * self.n_atoms * self.dim

    def objections(self, candidate: Candidate) -> list[str]:
        """The dictionary must be the given one, row by row."""
        if candidate.dictionary is None:
            return ["The candidate has no dictionary; this problem's atoms are given."]
        if candidate.dictionary.shape != tuple(self.atoms.shape):
            return [f"The dictionary has shape {candidate.dictionary.shape}, the problem's {tuple(self.atoms.shape)}."]
        off = float(np.abs(candidate.dictionary - self.atoms.numpy()).max())
        if off > _DICTIONARY_TOLERANCE:
            return [f"The dictionary differs from the problem's atoms by up to {off:.1e}."]
        return []

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"] | None:
        """``max_k (d_k·y_n)_+`` for every n at τ = 0; None otherwise: θ_τ couples the datapoints of an atom."""
        if self.penalty.atom_cost > 0:
            return None
        step = max(1, _BLOCK_ENTRIES // self.n_atoms)
        blocks = []
        for first in range(0, len(Y), step):
            go_on()
            blocks.append((Y[first : first + step] @ self.atoms.to(Y).T).amax(dim=1))
        return torch.cat(blocks).clamp(min=0)

    def polar(self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None) -> float:
        """``max_k θ°_τ(Y a_k)``, exact (T13): the gauge that a dual point must keep below λ."""
        if self.penalty.atom_cost == 0:
            return super().polar(Y, proof)
        return float(self.atom_polars(Y).max())

    def atom_polars(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, " K"]:
        """``θ°_τ(Y a_k)`` for every atom, exact (T13): an atom is worth its price where this exceeds λ."""
        step = max(1, _BLOCK_ENTRIES // len(Y))
        atoms, blocks = self.atoms.to(Y), []
        for first in range(0, self.n_atoms, step):
            go_on()
            blocks.append(self.penalty.polar(Y @ atoms[first : first + step].T))
        return torch.cat(blocks)

    def candidate(self, codes: Codes, bias: np.ndarray, dual: np.ndarray | None = None) -> Candidate:
        """Bundle codes (N, K) and a bias with this problem's dictionary."""
        dictionary = self.atoms.numpy()
        dictionary.flags.writeable = False  # shared with the problem, which must not change under its referee
        return Candidate(bias=bias, dictionary=dictionary, codes=codes, dual=dual)

    def zero_candidate(self) -> Candidate:
        """All codes zero, the bias that is best for them: optimal iff ``λ ≥ lambda_max``."""
        return self.candidate(np.zeros((self.n_points, self.n_atoms)), self.starting_bias().numpy())


@dataclass(frozen=True, init=False, eq=False)
class SparseCodes(FixedAtoms):
    """Codes for a fixed dictionary: the nonnegative lasso, one datapoint at a time unless the bias is free.

    ``F(D, b) = min_{Z ≥ 0} (1/N) Σ_n [ ½‖x_n − b − z_n D‖² + λ Σ_k z_k ]``          (P), (1), T1

    Dual: ``max (1/N) Σ_n [ y_n·(x_n − b) − ½‖y_n‖² ]`` with ``D y_n ≤ λ`` for every n, and ``Σ_n y_n = 0`` when b
    is free. A duality gap certifies the answer; the optimal residual is unique, the codes need not be.

    With weights w and a ridge ρ the penalty of a datapoint is ``λ Σ_k (w_k z_k + ½ρ_k z_k²)``. In the dual an atom
    without ridge has ``d_k·y_n ≤ λ w_k``, and one with a ridge takes ``(d_k·y_n − λ w_k)_+²/(2λρ_k)`` off the value.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    dictionary
        Atoms as rows, (K, d), as in an SAE's ``W_dec``. Rows of any norm but zero: they are scaled to norm 1 and
        the codes refer to these (``problem.atoms``), and ``z_k / problem.row_norms[k]`` to the given rows.
    lam
        Penalty λ > 0.
    bias
        None (zero), an array (d,) (fixed, an SAE's ``b_dec``) or ``"free"`` (optimized with the codes).
    weights
        What each atom's code costs, (K,), from 1e-12 to 1e12; None for 1. A weight of 0 is refused: no multiple of a
        residual then has to be feasible, so codes of a free atom could not be certified.
    ridge
        Ridge of each atom's code, (K,), zero or more; None for 0. Like the weights it is for atoms of norm 1, and it is
        multiplied by λ.

    Raises
    ------
    InputError
        For data, dictionary, λ, bias, weights or ridge that cannot be used.
    """

    name: ClassVar[str] = "codes"
    polar_is_cheap: ClassVar[bool] = False

    atoms: torch.Tensor = field(init=False, repr=False)
    dictionary: torch.Tensor = field(repr=False)
    row_norms: torch.Tensor = field(init=False, repr=False)
    weights: torch.Tensor | None = field(repr=False)
    ridge: torch.Tensor | None = field(repr=False)

    @made_together
    def __init__(
        self,
        X: ActivationsLike,
        dictionary: object,
        lam: float,
        *,
        bias: BiasLike = None,
        weights: ArrayLike | torch.Tensor | None = None,
        ridge: ArrayLike | torch.Tensor | None = None,
    ) -> None:
        super().__init__(X, lam, bias)
        rows, norms = tensors.unit_rows(dictionary, "dictionary", self.dim)
        given = tensors.matrix(dictionary, "dictionary", rows="atom").clone()
        price, curvature = code_penalty.prices(weights, ridge, len(rows))
        self._set(dictionary=given, atoms=rows.cpu(), row_norms=norms.cpu(), weights=price, ridge=curvature)

    @classmethod
    def of_unit_rows(
        cls,
        X: Activations,
        rows: Float[torch.Tensor, "K d"],
        lam: float,
        bias: torch.Tensor | None = None,
        like: SparseCodes | None = None,
    ) -> SparseCodes:
        """The problem of float64 rows that have norm 1 already: they are taken as they are, bit for bit.

        Weights and ridge are those of ``like``.
        """
        problem = object.__new__(cls)
        ones = torch.ones(len(rows), dtype=torch.float64)
        weights, ridge = (None, None) if like is None else (like.weights, like.ridge)
        problem._set(X=X, lam=lam, bias=bias, dictionary=rows, atoms=rows.cpu(), row_norms=ones, _whole=None)
        problem._set(weights=weights, ridge=ridge)
        return problem

    def _meet(self) -> None:
        super()._meet()
        self.group.agree(call=type(self).__name__, weights=self.weights, ridge=self.ridge)
        if self.ridge is not None and self.bias_is_free:
            raise InputError(
                f"X is shared by {self.group.size} processes but bias is 'free' and there is a ridge, which no solver "
                "here takes; pass all rows to each process, or a fixed bias."
            )

    # ------------------------------------------------------------------ weights and ridge

    @property
    def has_prices(self) -> bool:
        """Whether there are weights or a ridge."""
        return self.weights is not None or self.ridge is not None

    @property
    def prices(self) -> CodePenalty:
        """Weights and ridge of every atom, ones and zeros where none were given."""
        weights = torch.ones(self.n_atoms, dtype=torch.float64) if self.weights is None else self.weights
        ridge = torch.zeros(self.n_atoms, dtype=torch.float64) if self.ridge is None else self.ridge
        return CodePenalty(weights=weights, ridge=ridge)

    @property
    def penalty(self) -> AtomPenalty:
        """The L1 norm, or with weights and ridge ``w_k Σ_n z_nk + ½ρ_k Σ_n z_nk²``."""
        return self.prices if self.has_prices else super().penalty

    def _code_penalties(self, codes: Codes) -> np.ndarray:
        if not self.has_prices:
            return super()._code_penalties(codes)
        entries: Any = codes.astype(np.float64)
        squares = entries.power(2) if scipy.sparse.issparse(codes) else np.square(entries)
        mass, energy = (np.asarray(part.sum(axis=0)).ravel() for part in (entries, squares))
        return self.prices.weights.numpy() * mass + self.prices.ridge.numpy() / 2 * energy

    def row_penalties(self, codes: Codes) -> Float64[np.ndarray, " n"]:
        """``Σ_k z_k``, or with weights and ridge ``Σ_k (w_k z_k + ½ρ_k z_k²)``, of every row of codes (n, K)."""
        if not self.has_prices:
            return np.asarray(codes.sum(axis=1)).ravel()
        entries: Any = codes.astype(np.float64)
        squares = entries.power(2) if scipy.sparse.issparse(codes) else np.square(entries)
        return np.asarray(entries @ self.prices.weights.numpy() + squares @ (self.prices.ridge.numpy() / 2))

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"] | None:
        """``max_k (d_k·y_n/w_k)_+`` over the atoms without ridge: those with one charge, they do not constrain."""
        if not self.has_prices:
            return super().row_polars(Y)
        return self._ratios(Y, ~self.prices.is_charged(self.lam))

    def _ratios(
        self, Y: Float[torch.Tensor, "n d"], some: Bool[torch.Tensor, " K"], blur: float = 0.0
    ) -> Float[torch.Tensor, " n"]:
        """``max_k (d_k·y_n + blur ‖y_n‖)_+/w_k`` over some atoms, for every n."""
        weights = self.prices.weights[some].to(Y)
        atoms = self.atoms[some].to(Y)
        most = torch.zeros(len(Y)).to(Y)
        step = max(1, _BLOCK_ENTRIES // self.n_atoms)
        for first in range(0, len(Y) if len(atoms) else 0, step):
            go_on()
            rows = Y[first : first + step]
            reach = blur * torch.linalg.vector_norm(rows, dim=1)
            most[first : first + step] = ((rows @ atoms.T + reach[:, None]) / weights).amax(dim=1)
        return most.clamp_(min=0)

    def feasible_dual(
        self,
        Y: Float[torch.Tensor, "N d"],
        proof: CopositivityProof | None = None,
        *,
        offsets: Float[torch.Tensor, "N d"] | None = None,
    ) -> Float[torch.Tensor, "N d"]:
        """As for every problem; with a ridge scaled to where the dual value is largest, rounding included.

        ``offsets`` are ``x_n − b`` of the rows of Y; None where Y has all rows.
        """
        if not self.has_prices:
            return super().feasible_dual(Y, proof)
        Y = self.centered(Y.to(torch.float64))
        limit, blur = self.lam * (1 - code_penalty.ROUNDINGS * EPS), code_penalty.product_rounding(self.dim)
        moved = sum_slack(Y) if self.bias_is_free else 0.0
        hard = ~self.prices.is_charged(self.lam)
        weights = self.prices.weights
        polars = self._ratios(Y, hard, blur) + moved / float(weights[hard].min() if bool(hard.any()) else 1.0)
        most = torch.clamp(limit / polars.clamp(min=limit), max=1)
        if self.bias_is_free:
            scale = self._largest_scale(Y, float(most.min()), offsets)
            return without_sum(Y * scale)
        if not bool(hard.all()):
            most = self.prices.scales(Y, self._offsets(Y, offsets), most, self.atoms, self.lam)
        return Y * most[:, None]

    def _largest_scale(self, Y: torch.Tensor, most: float, offsets: torch.Tensor | None) -> float:
        """One scale for all rows of all processes."""
        most = -self._largest(-most)
        if not bool(self.prices.is_charged(self.lam).any()):
            return most
        return self.prices.common_scale(Y, self._offsets(Y, offsets), most, self.atoms, self.lam)

    def _offsets(self, Y: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
        if offsets is not None:
            return offsets.to(Y)
        return self.X.to_tensor(device=Y.device) - self.starting_bias().to(Y)

    def conjugates(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"]:
        """What the ridge takes off the dual value of each row, rounding included; zeros without one."""
        if self.ridge is None:
            return torch.zeros(len(Y)).to(Y)
        return self.prices.conjugates(Y, self.atoms, self.lam)

    def dual_charge(self, Y: Float[torch.Tensor, "N d"]) -> float:
        """The sum of :meth:`conjugates` over the rows."""
        return 0.0 if self.ridge is None else float(self.conjugates(Y).sum())

    def _lambda_max_here(self, bias: Float[torch.Tensor, " d"]) -> float:
        """``max_nk d_k·(x_n − b)/w_k`` over all atoms: a ridge is nothing to a code of zero."""
        if not self.has_prices:
            return super()._lambda_max_here(bias)
        everyone = torch.ones(self.n_atoms, dtype=torch.bool)
        return max((float(self._ratios(batch.cpu() - bias, everyone).max()) for batch in self.X.batches()), default=0.0)


@dataclass(frozen=True, init=False, eq=False)
class CandidateDictionary(FixedAtoms):
    """The large-dictionary problem over given candidate atoms, which finds those that are worth their surcharge.

    ``min_{Z ≥ 0, b} (1/N) [ ½‖X − 1bᵀ − Z A‖² + λ Σ_k θ_τ(z_k) ]``,
    ``θ_τ(z)² = (Σ_n z_n)² + τ Σ_n z_n²``                                     (theory.md §5, fixed candidates)

    Dual: ``max (1/N) [ ⟨X − 1bᵀ, Y⟩ − ½‖Y‖² ]`` with ``θ°_τ(Y a_k) ≤ λ`` for every k (exact polar, equation 9),
    and ``Σ_n y_n = 0`` when b is free. With the normalized datapoints as candidates and τ = 0 the value is the
    wide limit (5).

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    atoms
        Candidates as rows, (M, d), any norm but zero; see :func:`datapoint_atoms`.
    lam
        Penalty λ > 0.
    atom_cost
        Surcharge τ ≥ 0, in datapoints: the support below which an atom is not worth having.
    bias
        ``"free"`` (optimized, the default), None (zero) or an array (d,) (fixed).

    Raises
    ------
    InputError
        For data, atoms, λ, τ or bias that cannot be used, and for datapoints shared by several processes.
    """

    name: ClassVar[str] = "candidates"
    can_be_shared: ClassVar[bool] = False
    atom_cost: float

    @made_together
    def __init__(
        self, X: ActivationsLike, atoms: object, lam: float, atom_cost: float = 0.0, *, bias: BiasLike = "free"
    ) -> None:
        super().__init__(X, lam, bias)
        rows, norms = tensors.unit_rows(atoms, "atoms", self.dim)
        if isinstance(atoms, torch.Tensor) and atoms.dtype == rows.dtype and bool(((norms - 1).abs() <= 4 * EPS).all()):
            rows = atoms.detach().clone()  # of norm 1 already, as in dataclasses.replace: bit for bit the same
        self._set(atoms=rows.cpu(), atom_cost=arguments.nonnegative(atom_cost, "atom_cost"))

    @property
    def penalty(self) -> AtomPenalty:
        """θ_τ."""
        return AtomPenalty(self.atom_cost)


@own_arithmetic()
def datapoint_atoms(X: ActivationsLike, bias: BiasLike = None) -> Float[torch.Tensor, "M d"]:
    """Unit vectors from the bias to every datapoint that is not on it, (M, d): the wide limit's dictionary."""
    activations = Activations(X)
    shift = arguments.bias_vector(bias, activations.shape[1])
    if isinstance(shift, str):
        raise InputError("bias is 'free' but atoms need a point to start from; pass None or an array.")
    rows = activations.to_tensor(device=torch.device("cpu"))
    rows = rows if shift is None else rows - shift
    norms = torch.linalg.vector_norm(rows, dim=1)
    if not bool((norms > 0).any()):
        raise InputError("X has only rows equal to the bias; they give no directions.")
    return rows[norms > 0] / norms[norms > 0, None]
