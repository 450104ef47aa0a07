"""Given atoms with prices: exact steps in one atom's codes at a time, then quasi-Newton steps on nonzero codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cvxsae.relaxations.convex.fixed_atoms import FixedAtoms
from cvxsae.solvers.convex.nonnegative_lbfgs import descend

if TYPE_CHECKING:
    from cvxsae.relaxations.candidate import Candidate

_FIRST_SWEEPS = 5
"""Sweeps of the first step, in which most atoms leave."""

_SWEEPS = 3
"""Sweeps of every later step: one over all candidates, two over those in use."""

_DESCENT = 60
"""Quasi-Newton iterations on the support after the sweeps of a step."""

_SMALLEST_ATOM = 1e-12
"""Largest code of an atom, relative to the largest of all, below which it is rounding."""

_SCREENING_SLACK = 1e-9
"""By how much the screening bound must miss λ: far above the rounding of a polar, far below what screening loses."""


@dataclass(frozen=True)
class BlockState:
    """Codes, residual and the dual point it gives.

    Attributes
    ----------
    codes
        (K, N): one row per atom.
    residual
        ``X − 1bᵀ − Z A`` (N, d), centered if the bias is free.
    thresholds
        Roots of the last prox of every atom, (K,).
    alive
        Atoms not proved to be unused at the optimum, (K,).
    value, bound
        In sum units, at the codes and at the residual scaled into the dual's feasible set.
    dual
        That dual point, (N, d).
    sweeps, active
        Sweeps done; atoms in use.
    """

    codes: np.ndarray
    residual: np.ndarray
    thresholds: np.ndarray
    alive: np.ndarray
    value: float
    bound: float
    dual: torch.Tensor
    sweeps: int
    active: int


class BlockDescent:
    """Cyclic block descent with quasi-Newton on the support, a working set and dual screening.

    The codes of one atom have a closed form given all others (unit norm: ``z_k ← prox_{λθ_τ}(R a_k + z_k)``), and a
    sweep over the atoms finds which atoms and which entries are in use long before it finds their values. Those are
    then found by :func:`~cvxsae.solvers.convex.nonnegative_lbfgs.descend` on the nonzero entries alone, where θ_τ is
    smooth.
    A step is one sweep over all candidates, two over those in use, and sixty steps of such a descent.

    Screening (gap safe): the dual objective is 1-strongly concave and ``θ°_τ(v) ≤ ‖v‖/√(1+τ)``, so at a feasible Y
    with gap G (sum units) an atom with ``θ°_τ(Y a_k) + √(2G/(1+τ)) < λ`` is unused at every optimum and is not looked
    at again.

    On the CPU, in float64, compiled; the codes are held dense, (K, N). Certified by the residual, re-centered and
    rescaled into the dual's feasible set (T11, T13); a failure looks like MAX_ITER with the gap reached.
    """

    name = "block-descent"
    default_iterations = 500
    first_check = 1
    patience = 20
    bound_stands: Literal[True] = True

    def init(self, problem: FixedAtoms, device: torch.device) -> BlockState:
        """Zero codes."""
        del device
        return self.begin(problem, np.zeros((problem.n_atoms, problem.n_points)))

    def begin(self, problem: FixedAtoms, codes: np.ndarray) -> BlockState:
        """Given codes, (K, N)."""
        offsets = problem.X.to_tensor(device=torch.device("cpu")) - problem.starting_bias()
        residual = offsets.numpy() - codes.T @ problem.atoms.numpy()
        residual = residual - residual.mean(axis=0) if problem.bias_is_free else residual
        alive, active = np.ones(problem.n_atoms, dtype=bool), int(codes.any(axis=1).sum())
        state = BlockState(codes, residual, np.zeros(problem.n_atoms), alive, 0.0, 0.0, offsets, 0, active)
        return _evaluated(problem, state, offsets)

    def step(self, problem: FixedAtoms, state: BlockState) -> BlockState:
        """Sweeps, descent on the support, dual point, screening."""
        from cvxsae.solvers.convex.candidates.kernels import sweep  # brings numba

        offsets = problem.X.to_tensor(device=torch.device("cpu")) - problem.starting_bias()
        atoms, centered = problem.atoms.numpy(), problem.bias_is_free
        codes, residual, thresholds = state.codes.copy(), state.residual.copy(), state.thresholds.copy()
        order, mean = np.flatnonzero(state.alive), np.zeros(problem.dim)
        sweeps = _SWEEPS if state.sweeps else _FIRST_SWEEPS
        for number in range(sweeps):
            within = order if number == 0 else np.flatnonzero(codes.any(axis=1))
            sweep(residual, atoms, codes, within, problem.lam, problem.penalty.atom_cost, thresholds, mean, centered)
        active = np.flatnonzero(codes.any(axis=1))
        codes[active] = _descended(problem, codes[active], atoms[active], offsets.numpy())
        active = np.flatnonzero(codes.max(axis=1) > _SMALLEST_ATOM * codes.max())
        residual = offsets.numpy() - codes[active].T @ atoms[active]
        state = replace(
            state,
            codes=codes,
            residual=residual - residual.mean(axis=0) if centered else residual,
            thresholds=thresholds,
            sweeps=state.sweeps + sweeps,
            active=len(active),
        )
        return _evaluated(problem, state, offsets)

    def bounds(self, problem: FixedAtoms, state: BlockState) -> tuple[float, float]:
        """At the codes."""
        return state.value / problem.n_points, state.bound / problem.n_points

    def finish(self, problem: FixedAtoms, state: BlockState) -> Candidate:
        """Codes, the bias that is best for them, and the dual point their residual gives."""
        bias = problem.starting_bias()
        if problem.bias_is_free:
            offsets = problem.X.to_tensor(device=torch.device("cpu")) - bias
            bias = bias + (offsets - torch.from_numpy(state.codes.T @ problem.atoms.numpy())).mean(dim=0)
        return problem.candidate(np.ascontiguousarray(state.codes.T), bias.numpy(), state.dual.numpy())

    def info(self, state: BlockState) -> dict[str, Any]:
        """Sweeps, atoms in use and atoms proved unused."""
        screened = len(state.alive) - int(state.alive.sum())
        return {"sweeps": state.sweeps, "active_atoms": state.active, "screened_atoms": screened}


def _descended(problem: FixedAtoms, codes: np.ndarray, atoms: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Codes (K, N) of the atoms in use after descent on their nonzero entries."""
    from cvxsae.solvers.convex.candidates.kernels import support_gradient  # brings numba

    owners, rows = codes.nonzero()
    if len(rows) == 0:
        return codes
    starts = np.searchsorted(owners, np.arange(len(atoms) + 1))
    residual, tau = np.empty_like(offsets), problem.penalty.atom_cost

    def objective(x: torch.Tensor) -> tuple[float, torch.Tensor]:
        gradient = np.empty(len(rows))
        value = support_gradient(
            x.numpy(), starts, rows, atoms, offsets, problem.lam, tau, problem.bias_is_free, residual, gradient
        )
        return value, torch.from_numpy(gradient)

    after = np.zeros_like(codes)
    after[owners, rows] = descend(objective, torch.from_numpy(codes[owners, rows]), _DESCENT).numpy()
    return after


def _evaluated(problem: FixedAtoms, state: BlockState, offsets: torch.Tensor) -> BlockState:
    """With value, dual point and bound, and the atoms that they rule out."""
    residual = torch.from_numpy(state.residual)
    charge = float(problem.penalty.value(torch.from_numpy(state.codes).T).sum())
    value = float(residual.square().sum()) / 2 + problem.lam * charge
    dual = problem.feasible_dual(residual)
    bound = float((offsets * dual).sum() - dual.square().sum() / 2)
    radius = math.sqrt(2 * max(value - bound, 0.0) / (1 + problem.penalty.atom_cost))
    used = problem.atom_polars(dual).numpy() + radius >= problem.lam * (1 - _SCREENING_SLACK)
    alive = state.alive & (used | state.codes.any(axis=1))
    return replace(state, alive=alive, value=value, bound=bound, dual=dual)
