"""Descent over the nonnegative orthant on any device: limited-memory BFGS on the entries not held at zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cvxsae.data.deadline import go_on
from cvxsae.parallel.threads import library_threads

MEMORY = 12
"""Pairs of steps and gradient changes kept, where they take little room."""

_SUFFICIENT = 1e-4
"""Share of the predicted decrease that a step must attain (Armijo)."""

_HALVINGS = 30
"""Shorter steps that are tried before the direction is given up."""

_SHORT = 1e-3
"""Step length below which the next try is an eighth instead of a half."""

_NO_DECREASE = 1e-15
"""Relative decrease that is rounding: the descent ends."""

_CURVED = 1e-12
"""Cosine between step and gradient change below which a pair says nothing of the curvature."""

_FIRST_STEP = 1e-12
"""Length of the first step from zero, where x gives no scale."""


def descend(
    objective: Callable[[torch.Tensor], tuple[float, torch.Tensor]],
    start: torch.Tensor,
    iterations: int,
    memory: int = MEMORY,
) -> torch.Tensor:
    """Lower a smooth function over ``x ≥ 0`` from ``start``; returns the last point, never a worse one.

    Two-metric projection (Bertsekas 1982): entries at zero whose gradient is positive are held; on the others the step
    is the BFGS one, then everything is clipped and the step halved until the decrease is sufficient. One
    evaluation (value and gradient) an iteration as a rule; it ends early when no step lowers the value any more. A
    local method: what it returns is worth what its value says.
    """
    # Many small vector operations: on a busy machine two threads take ten times as long as one.
    with library_threads(1):
        return _descend(objective, start.clamp(min=0), iterations, memory)


def _descend(
    objective: Callable[[torch.Tensor], tuple[float, torch.Tensor]], x: torch.Tensor, iterations: int, memory: int
) -> torch.Tensor:
    value, gradient = objective(x)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _ in range(iterations):
        go_on()
        free = (x > 0) | (gradient < 0)
        steepest = torch.where(free, gradient, 0)
        size = float(steepest.abs().sum())
        if size == 0:
            break
        direction = _bfgs_direction(steepest, free, pairs)
        if float((direction * steepest).sum()) >= 0:
            pairs, direction = [], -steepest
        step = 1.0 if pairs else min(1.0, float(x.abs().sum() + _FIRST_STEP) / size)
        for _ in range(_HALVINGS):
            trial = (x + step * direction).clamp_(min=0)
            move = trial - x
            slope = float((gradient * move).sum())
            trial_value, trial_gradient = objective(trial)
            if trial_value <= value + _SUFFICIENT * min(slope, 0.0):
                break
            step /= 2 if step > _SHORT else 8
        else:
            if not pairs:
                break
            pairs = []
            continue
        change = trial_gradient - gradient
        pairs = [*pairs[-memory + 1 :], (move, change)]
        improved = value - trial_value
        x, value, gradient = trial, trial_value, trial_gradient
        if improved <= _NO_DECREASE * abs(value):
            break
    return x


def _bfgs_direction(
    gradient: torch.Tensor, free: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Minus the inverse BFGS matrix of the pairs, restricted to the free entries, times the gradient (two loops).

    The loops run on the free entries alone, gathered: in a nonnegative factor they are few.
    """
    chosen = free.ravel().nonzero().ravel()
    direction = -gradient.ravel()[chosen]
    used: list[tuple[torch.Tensor, torch.Tensor, float, float]] = []
    scale = 1.0
    for move, change in reversed(pairs):
        s, y = move.ravel()[chosen], change.ravel()[chosen]
        curvature, square = float(s @ y), float(y @ y)
        if curvature <= _CURVED * (square * float(s @ s)) ** 0.5:
            continue
        if not used:
            scale = curvature / square
        weight = float(s @ direction) / curvature
        direction.sub_(y, alpha=weight)
        used.append((s, y, curvature, weight))
    direction.mul_(scale)
    for s, y, curvature, weight in reversed(used):
        direction.add_(s, alpha=weight - float(y @ direction) / curvature)
    return torch.zeros_like(gradient).ravel().index_copy_(0, chosen, direction).view_as(gradient)
