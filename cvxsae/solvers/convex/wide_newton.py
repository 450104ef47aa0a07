"""Damped Newton for the wide limit's bias: a few passes over the data, whatever N (T9, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cvxsae.data.deadline import is_over, whatever_the_time
from cvxsae.relaxations import linalg
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.wide_limit import HuberPass, WideLimit
from cvxsae.relaxations.solution import Evaluated, as_numpy

_SAMPLE_POINTS = 4096
"""Rows of the sample from which the bias is started: enough for two digits of it."""

_SAMPLE_STEPS = 30
"""Most steps on the sample; it takes about eight."""

_LARGEST_HESSIAN = 4096
"""Dimension up to which a Hessian is formed: 128 MB, and a second to solve."""

_SAMPLE_GRADIENT = 1e-6
"""Gradient, in units of λ, at which the sample is solved: far below what its draw leaves open."""

_LEAST_DAMPING = 1e-12
"""Damping that is always there, in units of the mean weight, so that a Hessian of rank below d can be solved."""

_QUICK_ENTRIES = 2**19
"""Entries of data for which dictionary, codes and dual point are written out in a tenth of a second."""

_FLAT = 1e-14
"""Relative change of the value that is rounding: then the gradient decides."""

_DAMPING = 16.0
"""Factor by which the damping grows after a step that failed and shrinks after one that did not."""


@dataclass(frozen=True)
class NewtonState:
    """The best bias so far with what its pass found, and what to try next."""

    bias: torch.Tensor
    scan: HuberPass
    damping: float
    snapped: bool
    passes: int
    device: torch.device


@dataclass(frozen=True)
class WideLimitNewton:
    """Newton with Levenberg damping on ``(1/N) Σ h_λ(‖x_n − b‖)``; one step is one pass over the data.

    The objective is convex and once differentiable, its Hessian jumps where a datapoint crosses distance λ. A step
    solves ``(H + μI)δ = mean ψ``. If it does not lower the value, the datapoint nearest to b is tried once (the
    Vardi–Zhang care: for small λ the minimizer may lie within λ of a datapoint, behind a kink Newton cannot see),
    then the damping grows; at ``μI + H ⪰ mean weight · I`` the step is the one of iteratively reweighted least squares,
    which always lowers the value. Starts from the solution for a sample of the rows. For d above 4096 no Hessian is
    formed and every step is reweighted least squares.

    Processes that share the datapoints take every step together.

    Parameters
    ----------
    is_whole
        Whether dictionary, codes and dual point are wanted where time ran out too, not the bias alone.
    is_bare
        Whether of large data the bias alone is wanted.
    """

    is_whole: bool = False
    is_bare: bool = False

    name = "newton"
    default_iterations = 200
    first_check = 1
    patience = 60

    def init(self, problem: WideLimit, device: torch.device) -> NewtonState:
        """Solve for a sample of at most 4096 rows, then one pass over all: that is made whatever the time.

        Nothing that is true of all rows costs less.
        """
        sample = problem.sample(_SAMPLE_POINTS) if problem.bias_is_free else None
        if sample is None:
            start, passes = problem.starting_bias(), int(problem.bias_is_free)
        else:
            start, passes = self._of_sample(sample, device), 0
        hessian = not is_over()
        with whatever_the_time():
            return self._at(problem, start, device, passes=passes, hessian=hessian)

    def _of_sample(self, sample: WideLimit, device: torch.device) -> torch.Tensor:
        """The best bias for a sample, as far as there is time."""
        state = self.init(sample, device)
        for _ in range(_SAMPLE_STEPS):
            if is_over() or torch.linalg.vector_norm(state.scan.mean_psi) <= _SAMPLE_GRADIENT * sample.lam:
                break
            with whatever_the_time():
                state = self.step(sample, state)
        return state.bias

    def step(self, problem: WideLimit, state: NewtonState) -> NewtonState:
        """Try one bias; keep it if the value or, to rounding, the gradient goes down."""
        scan, identity = state.scan, torch.eye(problem.dim, dtype=torch.float64)
        if state.snapped:
            target = scan.nearest
        elif scan.hessian is None:
            target = state.bias + scan.mean_psi / scan.mean_weight
        else:
            floor = _LEAST_DAMPING * scan.mean_weight
            system = scan.hessian + (state.damping + floor) * identity
            newton = linalg.solve_or_none(system, scan.mean_psi)
            target = state.bias + (scan.mean_psi / scan.mean_weight if newton is None else newton)
        trial = self._at(problem, target, state.device, passes=state.passes)
        lower = trial.scan.value < scan.value
        # Near the optimum the value is flat to rounding and the gradient decides.
        flat = trial.scan.value <= scan.value * (1 + _FLAT)
        shorter = torch.linalg.vector_norm(trial.scan.mean_psi) < torch.linalg.vector_norm(scan.mean_psi)
        if lower or (flat and shorter):
            return replace(trial, damping=0.0 if state.snapped else state.damping / _DAMPING)
        if not state.snapped and state.damping == 0:
            return replace(state, snapped=True, damping=scan.mean_weight / _DAMPING**2, passes=trial.passes)
        damping = state.damping if state.snapped else min(_DAMPING * state.damping, scan.mean_weight)
        return replace(state, snapped=False, damping=damping, passes=trial.passes)

    def bounds(self, problem: WideLimit, state: NewtonState) -> tuple[float, float]:
        """Value and lower bound, both from the pass already made."""
        return state.scan.value, state.scan.lower_bound

    def finish(self, problem: WideLimit, state: NewtonState) -> Candidate:
        """The bias, with the atom-per-datapoint dictionary, codes and dual point unless they are too large to hold."""
        bias = np.ascontiguousarray(as_numpy(state.bias))
        return Candidate(bias=bias) if self.is_bare and not self._is_quick(problem) else problem.complete(bias)

    def cut_short(self, problem: WideLimit, state: NewtonState) -> Evaluated | None:
        """Of large data the bias alone, which determines the rest, with what its pass found."""
        if self.is_whole or self._is_quick(problem):
            return None
        bias = np.ascontiguousarray(as_numpy(state.bias))
        return Evaluated(Candidate(bias=bias), state.scan.value, state.scan.lower_bound)

    def _is_quick(self, problem: WideLimit) -> bool:
        """Whether all arrays are written out in no time; the same in all processes."""
        return problem.total_points * problem.dim <= _QUICK_ENTRIES

    def info(self, state: NewtonState) -> dict[str, Any]:
        """Passes over the data made by the algorithm."""
        return {"passes": state.passes}

    def _at(
        self, problem: WideLimit, bias: torch.Tensor, device: torch.device, *, passes: int, hessian: bool = True
    ) -> NewtonState:
        bias = problem.group.same(bias.cpu())
        wants_hessian = hessian and problem.bias_is_free and problem.dim <= _LARGEST_HESSIAN
        scan = problem.scan(bias, hessian=wants_hessian, device=device)
        return NewtonState(bias, scan, 0.0, False, passes + 1, device)
