"""Accelerated proximal gradient with restart, for problems whose atoms are given (FISTA; Beck & Teboulle 2009)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from cvxsae.relaxations import linalg
from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms
from cvxsae.relaxations.solution import as_numpy

if TYPE_CHECKING:
    from cvxsae.relaxations.candidate import Candidate


_LIPSCHITZ_SLACK = 1e-12
"""What rounding can take from a largest eigenvalue; the step must not exceed its inverse."""


@dataclass(frozen=True)
class ProximalState:
    """Codes (N, K), the extrapolated point, the momentum, and what does not change."""

    codes: torch.Tensor
    extrapolated: torch.Tensor
    momentum: float
    data: torch.Tensor
    atoms: torch.Tensor
    step: float


class ProximalGradient:
    """FISTA on ``½‖C(X − Z A)‖² + λ Σ_k θ_τ(z_k)``, step ``1/‖A‖²``, with gradient restart (O'Donoghue & Candès 2015).

    A free bias is eliminated exactly: C subtracts the mean residual. Assumes that an N × K matrix fits in memory.
    Certified by the residual, re-centered and rescaled into the dual's feasible set (T1, T11); a failure looks like
    MAX_ITER with the gap reached.
    """

    name = "proximal-gradient"
    default_iterations = 200_000
    first_check = 10
    patience = 12
    bound_stands: Literal[True] = True

    def init(self, problem: FixedAtoms, device: torch.device) -> ProximalState:
        """Zero codes, or the allowed ones nearest to them."""
        data = problem.X.to_tensor(device=device) - problem.starting_bias().to(device)
        atoms = problem.atoms.to(device)
        gram = atoms.T @ atoms if problem.dim <= problem.n_atoms else atoms @ atoms.T
        lipschitz = float(linalg.extreme_eigenvalues(gram)[1]) * (1 + _LIPSCHITZ_SLACK)
        zeros = torch.zeros((problem.n_points, problem.n_atoms), dtype=torch.float64, device=device)
        codes = problem.penalty.prox(zeros, 0.0)
        return ProximalState(codes, codes, 1.0, data, atoms, 1 / lipschitz)

    def step(self, problem: FixedAtoms, state: ProximalState) -> ProximalState:
        """One gradient and one prox, at the extrapolated point."""
        residual = _residual(problem, state.data, state.extrapolated, state.atoms)
        forward = torch.addmm(state.extrapolated, residual, state.atoms.T, alpha=state.step)
        codes = problem.penalty.prox(forward, problem.lam * state.step)
        move = codes - state.codes
        momentum = state.momentum
        if float(torch.sum((state.extrapolated - codes) * move)) > 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        extrapolated = codes + (momentum - 1) / following * move
        return replace(state, codes=codes, extrapolated=extrapolated, momentum=following)

    def bounds(self, problem: FixedAtoms, state: ProximalState) -> tuple[float, float]:
        """At the codes, not at the extrapolated point."""
        residual = _residual(problem, state.data, state.codes, state.atoms)
        value = float(residual.square().sum()) / 2 + problem.lam * float(problem.penalty.value(state.codes).sum())
        dual = problem.feasible_dual(residual)
        bound = float((state.data * dual).sum() - dual.square().sum() / 2) - problem.dual_charge(dual)
        return value / problem.n_points, bound / problem.n_points

    def finish(self, problem: FixedAtoms, state: ProximalState) -> Candidate:
        """Codes, the bias that is best for them, and the dual point their residual gives."""
        residual = _residual(problem, state.data, state.codes, state.atoms)
        bias = problem.starting_bias()
        if problem.bias_is_free:
            bias = bias + (state.data - state.codes @ state.atoms).mean(dim=0).cpu()
        dual = problem.feasible_dual(residual)
        return problem.candidate(as_numpy(state.codes), as_numpy(bias), as_numpy(dual))

    def info(self, state: ProximalState) -> dict[str, Any]:
        """Nothing beyond the driver's."""
        del state
        return {}


def _residual(problem: FixedAtoms, data: torch.Tensor, codes: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    residual = torch.addmm(data, codes, atoms, alpha=-1)
    return residual - residual.mean(dim=0) if problem.bias_is_free else residual
