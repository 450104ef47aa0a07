"""Problems whose datapoints are shared out over processes: the same numbers, of all rows, in every process.

A shared problem holds this process's rows: ``X``, ``n_points``, codes, atoms per datapoint and duals are of those. What
is said of the whole (values, bounds, violations, λ_max) is summed over the processes: such methods are collective, and
with them :func:`cvxsae.certify` is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.wide_limit import RECOVERY_BYTES, HuberPass, HuberSums, WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.problem import EPS, Problem

if TYPE_CHECKING:
    from jaxtyping import Float

P = TypeVar("P", bound=Problem)


@dataclass(frozen=True, init=False, eq=False)
class Shared(Problem):
    """What is the same for all of them: the polar of a dual point is the longest of its rows (T9).

    Attributes
    ----------
    group
        The processes.
    total_points
        Datapoints of all of them.
    largest_penalty, centre
        λ_max of the whole, and the bias it is measured from: no process has to ask the others for them again.
    """

    group: ProcessGroup = ALONE
    total_points: int = 0
    largest_penalty: float = 0.0
    centre: torch.Tensor | None = None

    def starting_bias(self) -> Float[torch.Tensor, " d"]:
        """The optimal bias when all codes are zero: the fixed one, or the mean of all data; one pass, once."""
        if self.centre is not None:
            return self.centre.clone()
        if not self.bias_is_free:
            return self.fixed_bias()
        origin = self.group.same(self.X.tensor[0].to(device="cpu", dtype=torch.float64))
        total = torch.zeros(self.dim, dtype=torch.float64)
        for batch in self.X.batches():
            total += (batch.cpu() - origin).sum(dim=0)
        return origin + self.group.sum(total)[0] / self.total_points

    def _mean(self, mean_here: float) -> float:
        """The mean over all datapoints of what has this mean over those here."""
        return self.group.total(mean_here * self.n_points) / self.total_points

    def primal_value(self, candidate: Candidate) -> float:
        """The objective (primal), mean over all datapoints."""
        return self._mean(super().primal_value(candidate))

    def dual_value(self, Y: Float[torch.Tensor, "N d"]) -> float:
        """The dual objective, mean over all datapoints."""
        return self._mean(super().dual_value(Y))

    def _drift(self, Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, " d"]:
        return self.group.sum(Y.sum(dim=0))[0] / self.total_points

    def _largest(self, number: float) -> float:
        return max(self.group.gather(number))

    def feasible_dual(
        self, Y: Float[torch.Tensor, "N d"], multipliers: np.ndarray | None = None
    ) -> Float[torch.Tensor, "N d"]:
        """As for one process; re-centred by the mean of all rows, and shrunk by the longest of all."""
        if not self.bias_is_free:
            return super().feasible_dual(Y, multipliers)
        Y = Y.to(torch.float64) - self._drift(Y.to(torch.float64))
        longest = self._largest(float(torch.linalg.vector_norm(Y, dim=1).max())) * (1 + 2 * self.dim * EPS)
        return Y * min(1.0, self.lam * (1 - 4 * self.dim * EPS) / longest) if longest > 0 else Y

    def dual_violations(
        self, Y: Float[torch.Tensor, "N d"], multipliers: np.ndarray | None = None
    ) -> tuple[float, float]:
        """As for one process, over all rows."""
        Y = Y.to(torch.float64)
        excess = self._largest(max(0.0, self.polar(Y, multipliers) / self.lam - 1))
        return excess, float(torch.linalg.vector_norm(self._drift(Y))) / self.lam if self.bias_is_free else 0.0

    def bias_residual(self, candidate: Candidate) -> float:
        """``‖mean_n r_n‖ / λ`` over all datapoints."""
        total = torch.zeros(self.dim, dtype=torch.float64)
        for _, residual in self.residual_batches(candidate):
            total += residual.sum(dim=0)
        return float(torch.linalg.vector_norm(self.group.sum(total)[0])) / (self.total_points * self.lam)

    def lambda_max(self) -> float:
        """The largest distance of a datapoint from the bias of zero codes; known since the problem was made."""
        return self.largest_penalty


@dataclass(frozen=True, init=False, eq=False)
class SharedWideLimit(Shared, WideLimit):
    """The wide limit of all processes' rows; one atom for each row here."""

    def bounds(self, candidate: Candidate) -> tuple[float, float]:
        """Value and lower bound, over all datapoints."""
        if candidate.codes is None and candidate.dual is None:
            return WideLimit.bounds(self, candidate)
        return Problem.bounds(self, candidate)

    def bias_residual(self, candidate: Candidate) -> float:
        """``‖mean_n r_n‖ / λ`` over all datapoints."""
        of_class = WideLimit if candidate.codes is None else Shared
        return of_class.bias_residual(self, candidate)

    def scan(
        self, bias: Float[torch.Tensor, " d"], *, hessian: bool = False, device: torch.device | None = None
    ) -> HuberPass:
        """As for one process; the bound went through a product of vectors, and ends the solve in all or in none."""
        found = super().scan(bias, hessian=hessian, device=device)
        return replace(found, lower_bound=self.group.same_number(found.lower_bound))

    def sums(
        self, bias: Float[torch.Tensor, " d"], *, hessian: bool = False, device: torch.device | None = None
    ) -> HuberSums:
        """The sums over all datapoints."""
        here = super().sums(bias, hessian=hessian, device=device)
        nearest = min(self.group.gather(here.closest), key=lambda found: float(found[0]))
        parts = [here.scalars, here.vectors] + ([] if here.hessian is None else [here.hessian])
        scalars, vectors, *curvature = self.group.sum(*parts)
        return HuberSums(scalars, vectors, curvature[0] if curvature else None, nearest)

    def sample(self, count: int) -> WideLimit | None:
        """The same problem on ``count`` datapoints, as many from each process."""
        if self.total_points <= 2 * count:
            return None
        few = WideLimit(self.X.spread(-(-count // self.group.size)), self.lam, self.bias)
        return share_wide_limit(few, self.group)

    def complete(self, bias: np.ndarray) -> Candidate:
        """Atoms, codes and dual of the rows here; only the bias where some process could not hold them."""
        if self.group.any(self.n_points * self.dim * 8 > RECOVERY_BYTES):
            return Candidate(bias=bias)
        return super().complete(bias)


@dataclass(frozen=True, init=False, eq=False)
class SharedJointProblem(Shared, JointProblem):
    """The joint problem of all processes' rows."""


def share_wide_limit(problem: WideLimit, group: ProcessGroup) -> WideLimit:
    """The wide limit of which this process has the given rows; the problem itself if it is alone."""
    return problem if group.is_alone else _share(problem, SharedWideLimit, group)


def share_joint_problem(problem: JointProblem, group: ProcessGroup) -> JointProblem:
    """The joint problem of which this process has the given rows; the problem itself if it is alone."""
    return problem if group.is_alone else _share(problem, SharedJointProblem, group)


def _share(problem: Problem, kind: type[P], group: ProcessGroup) -> P:
    """The same problem as another class, with what it knows of the whole."""
    shared = object.__new__(kind)
    total = int(group.total(problem.n_points))
    for field, value in {**problem.__dict__, "group": group, "total_points": total}.items():
        object.__setattr__(shared, field, value)
    object.__setattr__(shared, "centre", centre := shared.starting_bias())
    longest = max(float(torch.linalg.vector_norm(rows.cpu() - centre, dim=1).max()) for rows in shared.X.batches())
    object.__setattr__(shared, "largest_penalty", max(group.gather(longest)))
    return shared
