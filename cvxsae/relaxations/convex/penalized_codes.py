"""Codes of a fixed dictionary under a penalty: convex ones with a dual, others with bounds row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Float64

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.deadline import go_on, whatever_the_time
from cvxsae.errors import InputError
from cvxsae.relaxations.candidate import Candidate, Codes
from cvxsae.relaxations.convex import code_penalty
from cvxsae.relaxations.convex.code_penalty import ROUNDINGS, product_rounding
from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.penalties.nonconvex import NonconvexPenalty
from cvxsae.relaxations.convex.penalties.row_penalty import RowPenalty
from cvxsae.relaxations.convex.penalties.separable import L1, ElasticNet, Signed
from cvxsae.relaxations.convex.support_bounds import RowBounds, row_bounds
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.problem import float64_tensor, made_together
from cvxsae.relaxations.proofs import CopositivityProof

WANTED = "L1, Signed, ElasticNet, Group, Tree, Exclusive, Slope, Simplex, L0, TopK or Log of cvxsae.penalties"
"""What ``penalty`` may be."""

BLOCK_ENTRIES = 2**20
"""Most entries of a block of products with the atoms, of which a penalty makes several copies: 8 MB each."""


@dataclass(frozen=True, init=False, eq=False)
class PenalizedCodes(FixedAtoms):
    """Codes for a fixed dictionary under a convex penalty Ω of the codes of a datapoint.

    ``min_{Z ≥ 0} (1/N) Σ_n [ ½‖x_n − b − z_n D‖² + λ Ω(z_n) ]``

    Dual: ``max (1/N) Σ_n [ y_n·(x_n − b) − ½‖y_n‖² − λ Ω*(D y_n/λ) ]``, and ``Σ_n y_n = 0`` when b is free, where Ω* is
    the constraint ``Ω°(D y_n) ≤ λ`` for group, tree and SLOPE. A residual, scaled, is the dual point of any codes, and
    the duality gap certifies the answer.

    Under ``L0``, ``TopK`` and ``Log`` the value is attained by a local search and the bound is that of relaxations and,
    of few atoms, of branch and bound, row by row (:meth:`row_values`, :meth:`row_bounds`): ``BOUNDED`` where they
    differ.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    dictionary
        Atoms as rows, (K, d). Rows of any norm but zero: they are scaled to norm 1 and the codes refer to these
        (``problem.atoms``), and ``z_k / problem.row_norms[k]`` to the given rows.
    lam
        Penalty λ > 0; 1 for :class:`cvxsae.penalties.Simplex`, which is a limit and has no price.
    penalty
        Ω: :class:`cvxsae.penalties.L1`, ``ElasticNet``, ``Signed``, ``Group``, ``Tree``, ``Exclusive``, ``Slope`` or
        ``Simplex``; or ``L0``, with a ridge or without, ``TopK`` or ``Log``, which are not convex. Of ``Signed`` the
        atoms are ``[D; −D]``, twice as many, and :meth:`signed` puts their codes together.
    bias
        None (zero), an array (d,) (fixed) or ``"free"`` (optimized with the codes).

    Raises
    ------
    InputError
        For data, dictionary, λ, penalty or bias that cannot be used.

    Examples
    --------
    >>> from cvxsae import PenalizedCodes, solve
    >>> from cvxsae.penalties import Group
    >>> problem = PenalizedCodes([[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], 1.0, Group([0, 0]))
    >>> solution = solve(problem, tol=1e-9)
    >>> solution.codes.round(6), round(solution.value, 6), solution.is_certified
    (array([[2.4, 3.2]]), 4.5, True)
    """

    name: ClassVar[str] = "penalized codes"
    polar_is_cheap: ClassVar[bool] = False

    atoms: torch.Tensor = field(init=False, repr=False)
    dictionary: torch.Tensor = field(repr=False)
    row_norms: torch.Tensor = field(init=False, repr=False)
    penalty: Any = field(repr=False, default=None)
    lasso: SparseCodes | None = field(init=False, repr=False, default=None)
    """The same problem as a lasso with weights and a ridge, where it is one: L1, elastic net and signed L1."""

    @made_together
    def __init__(
        self,
        X: ActivationsLike,
        dictionary: object,
        lam: float,
        penalty: RowPenalty | NonconvexPenalty,
        *,
        bias: BiasLike = None,
    ) -> None:
        super().__init__(X, lam, bias)
        rows, norms = tensors.unit_rows(dictionary, "dictionary", self.dim)
        given = tensors.matrix(dictionary, "dictionary", rows="atom").clone()
        arguments.instance(penalty, "penalty", (RowPenalty, NonconvexPenalty), WANTED)
        penalty.require_atoms(len(rows))
        if isinstance(penalty, NonconvexPenalty) and self.bias_is_free:
            raise InputError(
                f"bias is 'free' with the penalty {penalty.name!r}, which is not convex; pass None or an array."
            )
        limits = penalty.degree == 1 if isinstance(penalty, RowPenalty) else not penalty.has_price
        if limits and self.lam != 1:
            raise InputError(f"lam is {self.lam:g} but the penalty {penalty.name!r} is a limit without price; pass 1.")
        rows, norms = rows.cpu(), norms.cpu()
        weights = ridge = None
        if isinstance(penalty, L1 | ElasticNet):
            weights, ridge = code_penalty.prices(*penalty.prices(len(rows)), len(rows) * (1 + _is_signed(penalty)))
        if _is_signed(penalty):
            rows, norms = torch.cat([rows, -rows]), norms.repeat(2)
        self._set(dictionary=given, atoms=rows, row_norms=norms, penalty=penalty, lasso=None)
        if isinstance(penalty, L1 | ElasticNet):
            lasso = SparseCodes.of_unit_rows(self.X, rows, self.lam)
            lasso._set(bias=self.bias, weights=weights, ridge=ridge)
            self._set(lasso=lasso)

    @property
    def is_convex(self) -> bool:
        """Whether Ω is convex; otherwise values are those of a local search, and bounds those of relaxations."""
        return isinstance(self.penalty, RowPenalty)

    @property
    def polar_is_exact(self) -> bool:
        """Whether the bound can reach the optimum."""
        return self.is_convex

    def _meet(self) -> None:
        raise InputError(
            f"X is shared by {self.group.size} processes and {self.name!r} is solved by one; pass all rows to each."
        )

    def _blocks(self, rows: int) -> Iterator[slice]:
        step = max(1, BLOCK_ENTRIES // self.n_atoms)
        for first in range(0, rows, step):
            go_on()
            yield slice(first, first + step)

    def _correlations(self, Y: Float[torch.Tensor, "n d"], moved: float = 0.0) -> Float[torch.Tensor, "n K"]:
        """``d_k·y_n``, rounded up, of points that may move by so much yet."""
        blur = product_rounding(self.dim) * torch.linalg.vector_norm(Y, dim=1) + moved
        return Y @ self.atoms.to(Y).T + blur[:, None]

    @property
    def _slack(self) -> float:
        """What rounding can take from a polar or a conjugate, a sum over atoms, relative to it."""
        return (2 * self.n_atoms + ROUNDINGS) * EPS

    # ------------------------------------------------------------------ primal

    def objections(self, candidate: Candidate) -> list[str]:
        """The dictionary must be the given one, and sums of codes those that are allowed."""
        said = super().objections(candidate)
        if not said and candidate.codes is not None:
            off = np.flatnonzero(~np.isfinite(self.row_penalties(candidate.codes)))
            if len(off):
                said.append(
                    f"The codes of {len(off)} datapoints are not allowed ({self.penalty.name}), first {off[0]}."
                )
        return said

    def signed(self, codes: Codes) -> Codes:
        """Codes of both signs for the given dictionary, (n, K), of those for ``[D; −D]``; other codes as they are."""
        half = len(self.dictionary)
        return codes[:, :half] - codes[:, half:] if _is_signed(self.penalty) else codes

    def row_penalties(self, codes: Codes) -> Float64[np.ndarray, " n"]:
        """Ω of every row of codes (n, K)."""
        found = []
        for rows in self._blocks(codes.shape[0]):
            part = codes[rows]
            dense = part.toarray() if scipy.sparse.issparse(part) else np.asarray(part)
            found.append(self.penalty.value(float64_tensor(dense)))
        return torch.cat(found).numpy()

    def _penalty_value(self, candidate: Candidate) -> float:
        return 0.0 if candidate.codes is None else float(self.row_penalties(candidate.codes).sum())

    def zero_candidate(self) -> Candidate:
        """The allowed codes nearest to zero, and the bias of zero codes."""
        zeros = torch.zeros((self.n_points, self.n_atoms), dtype=torch.float64)
        if not self.is_convex:
            return self.candidate(zeros.numpy(), self.starting_bias().numpy())
        return self.candidate(self.penalty.prox(zeros, 0.0).numpy(), self.starting_bias().numpy())

    # ------------------------------------------------------------------ penalties that are not convex

    def row_values(self, candidate: Candidate) -> Float64[np.ndarray, " N"]:
        """``½‖x_n − b − z_n D‖² + λ Ω(z_n)`` of every datapoint."""
        squares = [residual.square().sum(dim=1) / 2 for _, residual in self.residual_batches(candidate)]
        if candidate.codes is None:
            return torch.cat(squares).numpy()
        return torch.cat(squares).numpy() + self.lam * self.row_penalties(candidate.codes)

    def row_bounds(self, candidate: Candidate) -> RowBounds:
        """Lower bounds of every datapoint under a penalty that is not convex (``support_bounds``), row by row.

        They are computed from the data and the dictionary; the codes of the candidate say what is attained, and its
        dual, where it has one, where the bound by big M is looked at.

        Raises
        ------
        InputError
            For a convex penalty: its bound is that of the dual.
        """
        if self.is_convex:
            raise InputError(
                f"penalty {self.penalty.name!r} is convex; the lower bound of its codes is that of the dual."
            )
        with whatever_the_time():  # the bounds are of these codes, however few nodes there is time for
            offsets = self.X.to_numpy().astype(np.float64) - self.fixed_bias().numpy()
            values = self.row_values(candidate)
        return row_bounds(offsets, self.atoms.numpy(), self.lam, self.penalty, values, candidate.dual)

    def lower_bound(self, candidate: Candidate) -> float:
        """Of the dual point, or where Ω is not convex the mean of :meth:`row_bounds`."""
        if self.is_convex:
            return super().lower_bound(candidate)
        return float(self.row_bounds(candidate).bounds.mean())

    # ------------------------------------------------------------------ dual

    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"]:
        """``Ω°(D y_n)`` for every n; zeros where Ω is no gauge and charges the dual value instead."""
        if self.lasso is not None:
            return cast("torch.Tensor", self.lasso.row_polars(Y))
        if not self.is_convex or not self.penalty.is_gauge:
            return torch.zeros(len(Y)).to(Y)
        return torch.cat([self.penalty.polar(Y[rows] @ self.atoms.to(Y).T) for rows in self._blocks(len(Y))])

    def feasible_dual(
        self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None
    ) -> Float[torch.Tensor, "N d"]:
        """Scaled into ``Ω°(D y_n) ≤ λ``, rounding included; where Ω is no gauge, to where the dual value is largest.

        Rows scale one by one at a fixed bias, and all alike, with their sum taken off, at a free one.
        """
        if self.lasso is not None:
            return self.lasso.feasible_dual(Y, proof)
        Y = self.centered(Y.to(torch.float64))
        scales = self._hard_scales(Y) if self.penalty.is_gauge else self._best_scales(Y)
        return without_sum(Y * scales.min()) if self.bias_is_free else Y * scales[:, None]

    def _hard_scales(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, " N"]:
        moved = sum_slack(Y) if self.bias_is_free else 0.0
        limit = self.lam * (1 - self._slack)
        polars = [self.penalty.polar(self._correlations(Y[rows], moved)) for rows in self._blocks(len(Y))]
        return torch.clamp(limit / torch.cat(polars).clamp(min=limit), max=1)

    def _best_scales(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, " scales"]:
        """Of ``s y·x − ½s²‖y‖² − s^p c``, with c the charge at s = 1, p = 1 or 2; one of all rows for a free bias."""
        offsets = self.X.to_tensor(device=Y.device) - self.starting_bias().to(Y)
        gain, square, charge = (Y * offsets).sum(dim=1), Y.square().sum(dim=1), self.conjugates(Y)
        if self.bias_is_free:
            gain, square, charge = (part.sum().reshape(1) for part in (gain, square, charge))
        if self.penalty.degree == 2:
            square = square + 2 * charge
        else:
            gain = gain - charge
        return torch.where(square > 0, gain / square.clamp(min=torch.finfo(Y.dtype).tiny), 0).clamp_(min=0)

    def conjugates(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"]:
        """``λ Ω*(D y_n/λ)``, rounded up: what comes off the dual value of each row; zeros of a gauge."""
        if self.lasso is not None:
            return self.lasso.conjugates(Y)
        if self.penalty.is_gauge:
            return torch.zeros(len(Y)).to(Y)
        found = [self.penalty.conjugate(self._correlations(Y[rows]) / self.lam) for rows in self._blocks(len(Y))]
        charges = self.lam * torch.cat(found)
        return charges + self._slack * charges.abs()

    def dual_charge(self, Y: Float[torch.Tensor, "N d"]) -> float:
        """The sum of :meth:`conjugates` over the rows."""
        return 0.0 if self.penalty.is_gauge else float(self.conjugates(Y).sum())

    def _lambda_max_here(self, bias: Float[torch.Tensor, " d"]) -> float:
        """``max_n Ω°(D(x_n − b))``; infinite where no λ makes all codes zero (exclusive, simplex), or it is unknown."""
        if not self.is_convex:
            return float("inf")
        largest = 0.0
        for batch in self.X.batches():
            offsets = batch.cpu() - bias
            for rows in self._blocks(len(offsets)):
                largest = max(largest, float(self.penalty.polar(offsets[rows] @ self.atoms.T).max()))
        return largest


def _is_signed(penalty: RowPenalty | NonconvexPenalty) -> bool:
    """Whether atoms come with their negatives."""
    return isinstance(penalty, Signed)
