"""Exact codes with a free bias: a quasi-Newton method in the bias, with the codes of every bias by working sets.

``g(b) = min_{Z ≥ 0} F(D, b, Z)`` is convex, and ``∇g(b) = −mean_n r_n`` with r_n the residual of the exact codes, which
is unique (T1). That residual is the projection of ``x_n − b`` on a convex set, so ∇g is 1-Lipschitz and the step
``b ← b + mean_n r_n`` lowers g by at least half the square of its length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.deadline import OutOfTime
from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import SMALLEST_TOL, encode_rows
from cvxsae.solvers.convex.working_set import engine_for

WORTH_CODING = 2e7
"""Multiplications in a pass from which working sets for every bias pay against steps in all codes at once."""


@dataclass(frozen=True)
class BiasState:
    """A bias (d,) with its codes, their residuals (N, d) and value; and what the steps before have taught.

    ``tol`` is the relative gap that the codes were computed to; ``moves`` and ``changes`` are the last steps of the
    bias and of the gradient.
    """

    bias: torch.Tensor
    codes: sp.csr_array
    residual: torch.Tensor
    value: float
    tol: float
    moves: tuple[torch.Tensor, ...] = ()
    changes: tuple[torch.Tensor, ...] = ()
    encodes: int = 1

    @property
    def gradient(self) -> torch.Tensor:
        """``−mean_n r_n``."""
        return -self.residual.mean(dim=0)


@dataclass(frozen=True)
class BiasDescent:
    """Limited-memory BFGS on g, from the inverse Hessian 1 that the step ``b + mean_n r_n`` has.

    A step that does not lower the value is replaced by that one, which does. Certified by the residuals less their
    mean, each scaled into ``{y : D y ≤ λ}`` as one (T1): their sum must be zero.

    Attributes
    ----------
    tol
        The relative gap asked for: codes are computed to a quarter of it in the end.
    run
        Limits and device of the codes.
    memory
        Steps that are remembered.
    first_tol
        Relative gap of the first codes; later ones follow the gap of the whole.
    """

    tol: float
    run: Run
    memory: int = 10
    first_tol: float = 1e-3

    name = "bias-descent"
    default_iterations = 500
    first_check = 1
    patience = 40
    bound_stands: Literal[True] = True

    def init(self, problem: SparseCodes, device: torch.device) -> BiasState:
        """The codes at the mean, or at what the problem starts with."""
        del device
        return self._at(problem, problem.starting_bias(), self.first_tol, None)

    def step(self, problem: SparseCodes, state: BiasState) -> BiasState:
        """One step of the bias and the codes there, more exact the smaller the gradient is."""
        gradient = state.gradient
        length = float(torch.linalg.vector_norm(gradient))
        wanted = min(state.tol, 0.1 * length**2 / (2 * state.value)) if state.value > 0 else state.tol
        tol = min(max(wanted, self.tol / 4, SMALLEST_TOL), 1.0)
        for direction in (-_inverse_hessian(state, gradient), -gradient):
            found = self._at(problem, state.bias + direction, tol, state)
            if found.value <= state.value:
                break
        moves = (*state.moves, found.bias - state.bias)[-self.memory :]
        changes = (*state.changes, found.gradient - gradient)[-self.memory :]
        return replace(found, moves=moves, changes=changes)

    def bounds(self, problem: SparseCodes, state: BiasState) -> tuple[float, float]:
        """Value of codes and bias, and what the centered residuals prove."""
        return state.value, problem.dual_value(problem.feasible_dual(state.residual))

    def finish(self, problem: SparseCodes, state: BiasState) -> Candidate:
        """Codes, bias and the dual point."""
        dual = problem.feasible_dual(state.residual).numpy()
        return problem.candidate(state.codes, state.bias.numpy(), dual)

    def info(self, state: BiasState) -> dict[str, Any]:
        """How often the data were coded."""
        return {"encodes": state.encodes}

    def _at(self, problem: SparseCodes, bias: torch.Tensor, tol: float, before: BiasState | None) -> BiasState:
        """The codes of a bias."""
        fixed = SparseCodes.of_unit_rows(problem.X, problem.atoms, problem.lam, bias, problem)
        warm = None if before is None else before.codes
        codes = encode_rows(fixed, self.run, tol=tol, warm=warm, engine=engine_for(problem))
        if codes.status is Status.TIME_LIMIT:
            raise OutOfTime
        residual = fixed.residual(fixed.candidate(codes.codes, bias.numpy()))
        encodes = 1 if before is None else before.encodes + 1
        return BiasState(bias, codes.codes, residual, codes.value, tol, encodes=encodes)


def _inverse_hessian(state: BiasState, gradient: torch.Tensor) -> torch.Tensor:
    """The BFGS estimate of the inverse Hessian times the gradient (two loops), from the identity."""
    pairs = [
        (move, change, float(move @ change))
        for move, change in zip(state.moves, state.changes, strict=True)
        if float(move @ change) > np.finfo(float).eps * float(change @ change)
    ]
    direction, weights = gradient.clone(), []
    for move, change, curvature in reversed(pairs):
        weight = float(move @ direction) / curvature
        weights.append(weight)
        direction = direction - weight * change
    if pairs:
        move, change, curvature = pairs[-1]
        direction = direction * (curvature / float(change @ change))
    for (move, change, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + move * (weight - float(change @ direction) / curvature)
    return direction
