"""Compiled kernels of block descent: the exact minimization of one atom's codes after another, and sparse gradients."""

# numba infers the types of kernels from their arguments; annotations would only repeat "array" and "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import math

import numpy as np

from cvxsae.solvers.codes.engines.compiled import REORDER, jit

_ROOT_ITERATIONS = 100
"""Most steps of the root search: bisection alone needs 60."""

_ROUNDING = 4 * np.finfo(np.float64).eps
"""Relative width at which a root is exact."""


@jit(fastmath=REORDER)
def _prox_threshold(values, count, lam, tau, start):
    """Root α in [0, λ] of ``α = λ p1/P`` over ``values[:count]``, and P there: safeguarded Newton (theory.md §5)."""
    low, high, norm = 0.0, lam, 0.0
    alpha = start if 0 < start < lam else lam / math.sqrt(1 + tau)
    for _ in range(_ROOT_ITERATIONS):
        p1, p2, support = 0.0, 0.0, 0.0
        for i in range(count):
            above = max(values[i] - alpha, 0.0)
            p1 += above
            p2 += above * above
            support += above > 0
        norm = math.sqrt(p1 * p1 + tau * p2)
        distance = alpha - lam * p1 / norm if norm > 0 else alpha
        if abs(distance) <= _ROUNDING * lam:
            break
        if distance <= 0:
            low = alpha
        else:
            high = alpha
        if high - low <= _ROUNDING * lam:
            break
        slope = 1.0
        if norm > 0:
            # Not by the cube of the norm, which vanishes for small data.
            slope += lam * tau / norm * (max(support * p2 - p1 * p1, 0.0) / (norm * norm))
        newton = alpha - distance / slope
        alpha = newton if low < newton < high else (low + high) / 2
    return alpha, norm


@jit(fastmath=REORDER)
def sweep(residual, atoms, codes, order, lam, tau, thresholds, mean, centered):
    """Minimize over the codes of one atom after another: ``z_k ← prox_{λθ_τ}(R a_k + z_k)``, R being kept up to date.

    ``residual (N, d)``, ``codes (K, N)``, ``thresholds (K,)`` (the roots of the last sweep) and ``mean (d,)`` (what
    centering takes from the residual, if the bias is free) are updated in place. ``‖a_k‖ = 1``, so every step is exact
    for a fixed bias; with a free one it minimizes a majorizer. Returns the squared change of the codes.
    """
    n, d = residual.shape
    wanted, positive = np.empty(n), np.empty(n)
    moved = 0.0
    for k in order:
        atom, z = atoms[k], codes[k]
        offset = 0.0
        if centered:
            for j in range(d):
                offset += mean[j] * atom[j]
        count, largest, square = 0, 0.0, 0.0
        for i in range(n):
            product = 0.0
            row = residual[i]
            for j in range(d):
                product += row[j] * atom[j]
            value = product - offset + z[i]
            wanted[i] = value
            if value > 0:
                positive[count] = value
                count += 1
                largest = max(largest, value)
                square += value * value
        alpha, scale = 0.0, 0.0
        # θ° ≤ max v and θ° ≤ ‖v₊‖/√(1+τ): where either is at most λ the codes are zero.
        if largest > lam and square > (1 + tau) * lam * lam:
            alpha, norm = _prox_threshold(positive, count, lam, tau, thresholds[k])
            thresholds[k] = alpha
            if norm > lam * tau:
                scale = 1 - lam * tau / norm
        total = 0.0
        for i in range(n):
            new = scale * max(wanted[i] - alpha, 0.0)
            change = new - z[i]
            if change != 0:
                z[i] = new
                total += change
                moved += change * change
                row = residual[i]
                for j in range(d):
                    row[j] -= change * atom[j]
        if centered:
            for j in range(d):
                mean[j] -= total / n * atom[j]
    return moved


@jit(fastmath=REORDER)
def support_gradient(x, starts, rows, atoms, data, lam, tau, centered, residual, gradient):
    """Objective, in sum units, of codes ``x`` on a support: atom k has rows ``rows[starts[k]:starts[k + 1]]``.

    Fills ``residual (N, d)`` and ``gradient`` (as ``x``).
    """
    n, d = data.shape
    residual[:] = data
    charge = 0.0
    for k in range(len(starts) - 1):
        atom = atoms[k]
        for e in range(starts[k], starts[k + 1]):
            row = residual[rows[e]]
            for j in range(d):
                row[j] -= x[e] * atom[j]
    if centered:
        mean = np.zeros(d)
        for i in range(n):
            mean += residual[i]
        mean /= n
        for i in range(n):
            residual[i] -= mean
    square = 0.0
    for i in range(n):
        for j in range(d):
            square += residual[i, j] * residual[i, j]
    for k in range(len(starts) - 1):
        atom = atoms[k]
        mass, energy = 0.0, 0.0
        for e in range(starts[k], starts[k + 1]):
            mass += x[e]
            energy += x[e] * x[e]
        norm = math.sqrt(mass * mass + tau * energy)
        charge += norm
        for e in range(starts[k], starts[k + 1]):
            row = residual[rows[e]]
            product = 0.0
            for j in range(d):
                product += row[j] * atom[j]
            gradient[e] = (lam * (mass + tau * x[e]) / norm if norm > 0 else 0.0) - product
    return square / 2 + lam * charge
