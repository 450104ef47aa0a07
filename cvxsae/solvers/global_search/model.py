"""The quadratic model that bounds F over a box from below, of all datapoints together (theory.md T18)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxsae.solvers.global_search.boxes import Landscape
from cvxsae.solvers.global_search.intervals import Interval, Jet
from cvxsae.solvers.global_search.supports import SOLVING, wide

_SOLVE = 1e-14
"""Relative error of a solved system of a few equations, times its condition number."""


class Hull:
    """The hull of intervals, entry by entry."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.lo, self.hi = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, at: Any, one: Interval, where: np.ndarray) -> None:
        """Let it contain an interval, where that counts; what is not known contains everything."""
        lo, hi = np.where(np.isnan(one.lo), -np.inf, one.lo), np.where(np.isnan(one.hi), np.inf, one.hi)
        self.lo[at] = np.where(where, np.minimum(self.lo[at], lo), self.lo[at])
        self.hi[at] = np.where(where, np.maximum(self.hi[at], hi), self.hi[at])


class Model:
    """The quadratic model of all smooth datapoints together, with the others' own bounds."""

    def __init__(self, on: Landscape, values: np.ndarray, gradient: Hull, hessian: Hull, is_smooth: np.ndarray) -> None:
        w = np.where(is_smooth, on.weights, 0.0)
        self.start = below(values @ on.weights)
        self.slope = Interval(*(_total("pbn,bn->bp", end, w, is_smooth) for end in (gradient.lo, gradient.hi)))
        self.curve = Interval(*(_total("pqbn,bn->bpq", end, w, is_smooth) for end in (hessian.lo, hessian.hi)))
        self.is_whole = is_smooth.all(axis=1)

    def add(self, center: Jet, inside: Jet) -> None:
        """Add a term on the dictionary."""
        shape = (len(self.start), 1)
        self.start = self.start + wide(center.value, shape).lo[:, 0]
        for i in range(self.slope.lo.shape[1]):
            slope = wide(center.gradient.get(i, 0.0), shape)
            self.slope.lo[:, i] += slope.lo[:, 0]
            self.slope.hi[:, i] += slope.hi[:, 0]
            for j in range(i, self.slope.lo.shape[1]):
                curve = wide(inside.hessian.get((i, j), 0.0), shape)
                self.curve.lo[:, i, j] += curve.lo[:, 0]
                self.curve.hi[:, i, j] += curve.hi[:, 0]

    def least(self, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A lower bound over every box, and where F is strictly convex on it."""
        lower, upper = self.curve.lo.copy(), self.curve.hi.copy()
        i, j = np.triu_indices(half.shape[1], 1)
        for end in (lower, upper):
            end[:, j, i] = end[:, i, j]
        known = (np.isfinite(lower) & np.isfinite(upper)).all(axis=(1, 2)) & np.isfinite(self.start)
        for end in (lower, upper):
            end[~known] = 0
        size = np.maximum(np.abs(lower), np.abs(upper))
        apart = size * (1 - np.eye(half.shape[1]))
        own = np.diagonal(lower, axis1=1, axis2=2)
        bends = own * half**2 - (apart * half[:, :, None] * half[:, None, :]).sum(axis=2)
        bends -= SOLVING * (size * half[:, :, None] * half[:, None, :]).sum(axis=2)
        drop = _least_quadratic(magnitude(self.slope) * half * (1 + SOLVING), bends).sum(axis=1)
        shift = ((upper - lower) / 2).sum(axis=2).max(axis=1) + SOLVING * size.max(axis=(1, 2))
        middle = (lower + upper) / 2
        eigenvalue = np.linalg.eigvalsh(middle)[:, 0] - shift
        bends_up = known & (eigenvalue > 0)
        if bends_up.any():
            g, off = (self.slope.lo + self.slope.hi) / 2, (self.slope.hi - self.slope.lo) / 2
            g, off = g[bends_up], np.linalg.norm(off[bends_up], axis=1)
            matrix = middle[bends_up] - shift[bends_up, None, None] * np.eye(half.shape[1])
            newton = 0.5 * (g * np.linalg.solve(matrix, g[..., None])[..., 0]).sum(axis=1)
            rest = (np.linalg.norm(g, axis=1) * off + 0.5 * off**2) / eigenvalue[bends_up]
            error = SOLVING + _SOLVE * size.max(axis=(1, 2))[bends_up] / eigenvalue[bends_up]
            drop[bends_up] = np.maximum(drop[bends_up], -(newton + rest) * (1 + error))
        found = below(self.start + drop)
        return np.where(known & ~np.isnan(found), found, -np.inf), bends_up & self.is_whole


# ------------------------------------------------------------------------------------------ helpers


def _least_quadratic(slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """``min over |t| ≤ 1 of slope·t + ½ bend·t²`` for slope ≥ 0."""
    ends = -slope + 0.5 * bend
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = -0.5 * slope**2 / bend
    return np.where((bend > 0) & (slope < bend), inner, ends)


def magnitude(value: Interval) -> np.ndarray:
    """The largest absolute value, infinite where an end is not known."""
    return np.where(np.isnan(value.lo) | np.isnan(value.hi), np.inf, value.magnitude)


def below(value: np.ndarray) -> np.ndarray:
    """A sum of few terms, less more than its rounding."""
    return value - np.abs(value) * 1e-14


def _total(how: str, end: np.ndarray, weights: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A weighted sum over the datapoints that count."""
    return np.einsum(how, np.where(where, end, 0.0), weights)
