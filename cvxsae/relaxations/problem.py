"""The common base of the convex problems: objective, dual and gauge.

Every problem minimizes, in units of (P) (mean per datapoint),

    (1/N) [ ½‖X − 1bᵀ − Z D‖² + λ Σ_k ‖d_k‖ θ_τ(z_k) ],   Z ≥ 0,                            (primal)

over some of Z, D and b, and has the dual

    (1/N) [ ⟨X − 1bᵀ, Y⟩ − ½‖Y‖² ]   with   polar(Y) ≤ λ,   and Σ_n y_n = 0 if b is free.    (dual)

They differ in which dictionaries are allowed, hence in the polar: ``max_nk d_k·y_n`` (codes),
``max_n ‖y_n‖`` (wide limit), ``max_k θ°_τ(Y a_k)`` (candidates), ``θ°_τ(Y)`` (large dictionary).
Any Y becomes feasible by re-centering and rescaling, so any candidate has a certificate.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import BiasLike
from cvxsae.data.arithmetic import computes
from cvxsae.errors import InputError
from cvxsae.parallel.group import ProcessGroup, group_of
from cvxsae.relaxations.candidate import Candidate, Codes
from cvxsae.relaxations.convex.penalty import AtomPenalty
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.relaxations.linalg import EPS
from cvxsae.relaxations.proofs import CopositivityProof

Init = TypeVar("Init", bound=Callable[..., Any])


def made_together(init: Init) -> Init:
    """Let the processes that share ``X`` make a problem together: what one refuses is refused in all."""

    @functools.wraps(init)
    def guarded(self: Problem, X: ActivationsLike, *arguments: Any, **options: Any) -> None:
        data = Activations(X)
        with group_of(data).guard():
            init(self, data, *arguments, **options)
            if not self.group.is_alone:
                self._meet()

    return cast(Init, guarded)


@dataclass(frozen=True)
class Whole:
    """What a process knows of all datapoints, of which it has some; asked for once, when the problem is made.

    Attributes
    ----------
    n_points
        Their number.
    center
        The bias of zero codes, (d,).
    lambda_max
        λ_max of the whole; None where it costs a product with a dictionary: then it is asked for when it is needed.
    """

    n_points: int
    center: torch.Tensor
    lambda_max: float | None


@computes
@dataclass(frozen=True, init=False, eq=False)
class Problem(ABC):
    """A convex problem over activations: data, penalty λ, surcharge τ (``atom_cost``) and bias.

    Attributes
    ----------
    X
        The datapoints, (N, d): all of them, or this process's share (:meth:`cvxsae.parallel.ProcessGroup.shard`).
    lam
        Penalty λ > 0, in the units of the data.
    bias
        None (zero), a float64 vector (fixed) or ``"free"`` (optimized).

    Notes
    -----
    Problems are frozen; ``dataclasses.replace(problem, lam=...)`` makes another, checked like the first.

    Of shared datapoints, ``n_points``, codes and duals are those here; values, bounds, violations and λ_max are those
    of all, summed over the processes: such methods are collective, and so is making the problem.
    """

    X: Activations
    lam: float
    bias: torch.Tensor | Literal["free"] | None
    _whole: Whole | None = field(init=False, repr=False, default=None)

    name: ClassVar[str]
    can_be_shared: ClassVar[bool] = True
    """Whether the objective is a sum over datapoints, so that several processes can share them."""
    polar_is_cheap: ClassVar[bool] = True
    """Whether λ_max costs a pass over the data and no more."""

    def __init_subclass__(cls) -> None:
        computes(cls)

    def __init__(self, X: ActivationsLike, lam: float, bias: BiasLike) -> None:
        activations = X if isinstance(X, Activations) else Activations(X)
        self._set(
            X=activations,
            lam=arguments.penalty(lam, "lam"),
            bias=arguments.bias_vector(bias, activations.shape[1]),
            _whole=None,
        )

    def _set(self, **values: Any) -> None:
        """Set fields while the problem is being made; afterwards it is frozen."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _meet(self) -> None:
        """Ask the other processes once what is known of all datapoints."""
        group = self.group
        if not self.can_be_shared:
            raise InputError(
                f"X is shared by {group.size} processes but atoms of the {self.name} problem pay for all datapoints at "
                "once; pass all rows to each process, or use WideLimit or JointProblem."
            )
        group.agree(call=type(self).__name__, d=self.dim, dtype=self.X.dtype, lam=self.lam, bias=self.bias)
        total = int(group.total(self.n_points))
        self._set(_whole=Whole(total, torch.zeros(self.dim, dtype=torch.float64), None))
        center = self._computed_bias()
        top = self._largest(self._lambda_max_here(center)) if self.polar_is_cheap else None
        self._set(_whole=Whole(total, center, top))

    # ------------------------------------------------------------------ data and bias

    @property
    def n_points(self) -> int:
        """Number of datapoints N."""
        return self.X.shape[0]

    @property
    def total_points(self) -> int:
        """Number of datapoints of all processes."""
        return self.n_points if self._whole is None else self._whole.n_points

    @property
    def group(self) -> ProcessGroup:
        """The processes that share the data."""
        return group_of(self.X)

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.X.shape[1]

    @property
    @abstractmethod
    def evaluation_cost(self) -> float:
        """Multiplications in one evaluation of the objective and its gradient, to the order of magnitude."""

    @property
    def bias_is_free(self) -> bool:
        """Whether the bias is optimized."""
        return isinstance(self.bias, str)

    @property
    def penalty(self) -> AtomPenalty:
        """The atom penalty θ_τ; the L1 norm unless the problem has a surcharge."""
        return AtomPenalty(0.0)

    def fixed_bias(self) -> Float[torch.Tensor, " d"]:
        """The fixed bias, zeros for None."""
        if isinstance(self.bias, torch.Tensor):
            return self.bias.clone()  # candidates carry it; the problem's own must not change with theirs
        if self.bias is None:
            return torch.zeros(self.dim, dtype=torch.float64)
        raise ValueError("the bias is free")

    def starting_bias(self) -> Float[torch.Tensor, " d"]:
        """The optimal bias when all codes are zero: the fixed one, or the mean of the data."""
        return self._computed_bias() if self._whole is None else self._whole.center.clone()

    def _computed_bias(self) -> Float[torch.Tensor, " d"]:
        if not self.bias_is_free:
            return self.fixed_bias()
        # Measured from the first row: equal rows have exactly that mean, and a large offset costs no digits.
        origin = self.group.same(self.X[:1].to_tensor(device=torch.device("cpu"))[0])
        there = origin.to(self.X.device)
        total = torch.zeros(self.dim, dtype=torch.float64)
        for batch in self.X.batches():
            total += (batch - there).sum(dim=0).cpu()
        return origin + self.group.sum(total)[0] / self.total_points

    def _largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        return max(self.group.gather(number))

    # ------------------------------------------------------------------ primal

    @abstractmethod
    def objections(self, candidate: Candidate) -> list[str]:
        """Say, one sentence each, how the candidate's dictionary breaks the rules of this problem."""

    def residual_batches(self, candidate: Candidate) -> Iterator[tuple[slice, Float[torch.Tensor, "n d"]]]:
        """Yield ``x_n − b − z_n D`` in float64, block of rows by block of rows."""
        bias = float64_tensor(candidate.bias)
        start = 0
        for batch in self.X.batches():
            rows = slice(start, start + len(batch))
            start = rows.stop
            yield rows, batch.cpu() - bias - _reconstruct(candidate, rows)

    def primal_value(self, candidate: Candidate) -> float:
        """The objective (primal) at the candidate, mean per datapoint, in float64, from data and candidate alone.

        ``(1/N) [ ½ Σ_n ‖x_n − b − z_n D‖² + λ Σ_k ‖d_k‖ θ_τ(z_k) ]``
        """
        squares = sum(float(residual.square().sum()) for _, residual in self.residual_batches(candidate))
        return self.group.total(squares / 2 + self.lam * self._penalty_value(candidate)) / self.total_points

    def _penalty_value(self, candidate: Candidate) -> float:
        if candidate.codes is None or candidate.dictionary is None:
            return 0.0
        norms = np.linalg.norm(np.asarray(candidate.dictionary, dtype=np.float64), axis=1)
        return float(norms @ self._code_penalties(candidate.codes))

    def _code_penalties(self, codes: Codes) -> np.ndarray:
        # scipy sums sparse entries in their own precision, whatever dtype it is given.
        entries = codes.astype(np.float64, copy=False) if scipy.sparse.issparse(codes) else codes
        mass = np.asarray(entries.sum(axis=0, dtype=np.float64)).ravel()
        if self.penalty.atom_cost == 0:
            return mass
        if scipy.sparse.issparse(codes):
            squares = np.asarray(codes.astype(np.float64).power(2).sum(axis=0)).ravel()
            return np.sqrt(mass**2 + self.penalty.atom_cost * squares)
        return self.penalty.value(float64_tensor(codes)).numpy()

    # ------------------------------------------------------------------ dual

    @abstractmethod
    def row_polars(self, Y: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, " n"] | None:
        """The polar of every row alone, when the polar of Y is their maximum; None when rows are coupled."""

    @property
    def polar_is_exact(self) -> bool:
        """Whether :meth:`polar` is the gauge itself, so that the bound can close; False if only bounded from above."""
        return True

    def polar(self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None) -> float:
        """An upper bound of the polar gauge of Y (exact except for rounding wherever the problem has a formula)."""
        rows = self.row_polars(Y)
        if rows is None:
            raise NotImplementedError
        return float(rows.max())

    def dual_value(self, Y: Float[torch.Tensor, "N d"]) -> float:
        """``(1/N) [⟨X − 1bᵀ, Y⟩ − ½‖Y‖²]``; with a free bias b drops out because Σ_n y_n = 0 (any b may be taken)."""
        reference = self.starting_bias()
        total, start = 0.0, 0
        for batch in self.X.batches():
            rows = Y[start : start + len(batch)]
            start += len(batch)
            total += float(((batch.cpu() - reference) * rows).sum() - rows.square().sum() / 2)
        return self.group.total(total - self.dual_charge(Y)) / self.total_points

    def dual_charge(self, Y: Float[torch.Tensor, "N d"]) -> float:
        """What the penalty's conjugate takes off the dual value, in sum units: nothing where the penalty is a gauge."""
        del Y
        return 0.0

    def feasible_dual(
        self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None
    ) -> Float[torch.Tensor, "N d"]:
        """Turn any Y into a feasible dual point: re-center if the bias is free, then shrink into ``polar ≤ λ``.

        Rows shrink one by one where the polar is a maximum over rows and nothing couples them (fixed bias);
        otherwise all by one factor. What rounding can hide of the polar, ``2dε‖y_n‖``, is added to it first, so the
        result is feasible in exact arithmetic: of a free bias too, whose rows sum to exactly zero (in one process).
        """
        Y = self.centered(Y.to(torch.float64))
        limit = self.lam * (1 - 4 * self.dim * EPS)
        slack = 2 * self.dim * EPS * torch.linalg.vector_norm(Y, dim=1)
        rows = None if self.bias_is_free else self.row_polars(Y)
        if rows is not None:
            return Y * torch.clamp(limit / (rows + slack).clamp(min=limit), max=1)[:, None]
        polar = self._largest(self.polar(Y, proof) + float(slack.max()))
        if not self.bias_is_free or not self.group.is_alone:
            return Y * min(1.0, limit / polar) if polar > 0 else Y
        return without_sum(Y * min(1.0, limit / (polar + sum_slack(Y)))) if polar > 0 else Y

    def dual_violations(
        self, Y: Float[torch.Tensor, "N d"], proof: CopositivityProof | None = None
    ) -> tuple[float, float]:
        """How far Y is from feasible: ``(polar(Y) − λ)_+/λ`` and, for a free bias, ``‖mean y_n‖/λ`` (else zero)."""
        Y = Y.to(torch.float64)
        excess = self._largest(max(0.0, self.polar(Y, proof) / self.lam - 1))
        drift = float(torch.linalg.vector_norm(self._mean_row(Y))) / self.lam if self.bias_is_free else 0.0
        return excess, drift

    def centered(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, "N d"]:
        """Y less the mean of its rows if the bias is free, as every dual point must be."""
        return Y - self._mean_row(Y) if self.bias_is_free else Y

    def _mean_row(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, " d"]:
        """The mean of the rows of all processes."""
        return Y.mean(dim=0) if self.group.is_alone else self.group.sum(Y.sum(dim=0))[0] / self.total_points

    def residual(self, candidate: Candidate) -> Float[torch.Tensor, "N d"]:
        """All residuals at once, (N, d) float64."""
        return torch.cat([block for _, block in self.residual_batches(candidate)])

    def lower_bound(self, candidate: Candidate) -> float:
        """A certified lower bound of the optimum, from the candidate's dual point or else its residual."""
        Y = self.residual(candidate) if candidate.dual is None else float64_tensor(candidate.dual)
        return self.dual_value(self.feasible_dual(Y, candidate.proof))

    def bounds(self, candidate: Candidate) -> tuple[float, float]:
        """Value and certified lower bound of a candidate: the two numbers every solution reports."""
        return self.primal_value(candidate), self.lower_bound(candidate)

    def bias_residual(self, candidate: Candidate) -> float:
        """``‖mean_n r_n‖ / λ``, zero at an optimal free bias (T3)."""
        total = torch.zeros(self.dim, dtype=torch.float64)
        for _, residual in self.residual_batches(candidate):
            total += residual.sum(dim=0)
        return float(torch.linalg.vector_norm(self.group.sum(total)[0])) / (self.total_points * self.lam)

    # ------------------------------------------------------------------ scale and reference

    def lambda_max(self) -> float:
        """The smallest λ known to make all codes zero: the polar of the data at the bias of zero codes."""
        if self._whole is not None and self._whole.lambda_max is not None:
            return self._whole.lambda_max
        return self._largest(self._lambda_max_here(self.starting_bias()))

    def _lambda_max_here(self, bias: Float[torch.Tensor, " d"]) -> float:
        """The polar of the datapoints here, seen from a bias."""
        largest = 0.0
        for batch in self.X.batches():
            rows = self.row_polars(batch.cpu() - bias)
            if rows is None:  # datapoints are coupled: the gauge needs them all
                return self.polar(self.X.to_tensor(device=torch.device("cpu")) - bias)
            largest = max(largest, float(rows.max()))
        return largest

    def zero_candidate(self) -> Candidate:
        """All codes zero and the bias that is best for them: optimal iff ``λ ≥ lambda_max``."""
        raise NotImplementedError


def _reconstruct(candidate: Candidate, rows: slice) -> torch.Tensor | float:
    if candidate.codes is None or candidate.dictionary is None or candidate.dictionary.shape[0] == 0:
        return 0.0
    block = candidate.codes[rows].astype(np.float64, copy=False)
    return torch.from_numpy(np.ascontiguousarray(block @ candidate.dictionary.astype(np.float64, copy=False)))


def float64_tensor(array: np.ndarray) -> torch.Tensor:
    """A float64 tensor, whatever a candidate holds: certificates are computed in no other precision."""
    return tensors.share(np.asarray(array, dtype=np.float64))
