"""A certified lower bound of F over every box of dictionaries (theory.md T18).

Two bounds, of which the better counts:

*Of each datapoint by itself.* φ is the cost of one of the supports that are optimal somewhere in the box; each has an
enclosure from interval arithmetic, and a pair of nearly parallel atoms has one that does not divide by what they differ
in: with ``s = z_k + z_j``, ``‖z_k d_k + z_j d_j‖² ≥ s² (1 + g)/2``.

*Of all together.* Where φ is differentiable on the whole box (codes are unique, or the support does not change), F is
at least its quadratic model at the center with the least Hessian that any support has anywhere in the box. Near a
minimizer whose Hessian is positive definite (T5) this is what ends the search.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.intervals import Interval, Jet
from cvxsae.solvers.global_search.supports import SOLVING, Enclosure, wide

_STEEPEST = 1e6
"""Slopes are cut at this when a side is chosen to be halved."""

_SOLVE = 1e-14
"""Relative error of a solved system of a few equations, times its condition number."""


class Bounds(NamedTuple):
    """What is known of each box.

    Attributes
    ----------
    lower
        No dictionary in the box has a smaller F, (B,).
    slopes
        How much F may change along each parameter, (B, P): the steepest side is halved next.
    is_convex
        Whether F is proved to be strictly convex on the box, (B,), so that at most one local minimum is inside.
    """

    lower: Float64[np.ndarray, " B"]
    slopes: Float64[np.ndarray, "B P"]
    is_convex: np.ndarray


def bounds_over(landscape: Landscape, boxes: Boxes) -> Bounds:
    """Bound F over every box from below."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        center = boxes.center
        half = np.nextafter(np.maximum(boxes.hi - center, center - boxes.lo), np.inf)
        at_center = Enclosure.of(landscape, Boxes(center, center, boxes.faces))
        inside = Enclosure.of(landscape, boxes, (at_center, half))
        return _bounds(landscape, at_center, inside, half)


# -------------------------------------------------------------------------------------- both bounds


def _bounds(on: Landscape, center: Enclosure, inside: Enclosure, half: np.ndarray) -> Bounds:
    P, shape = on.n_parameters, inside.is_unique.shape
    alone, start = np.full(shape, np.inf), np.full(shape, np.inf)
    count = np.zeros(shape, dtype=np.int64)
    steep = np.zeros((P, *shape))
    gradient, hessian = _Hull((P, *shape)), _Hull((P, P, *shape))
    for there, here in zip(inside.pieces, center.pieces, strict=True):
        alone = np.where(there.possible, np.minimum(alone, there.lower), alone)
        start = np.where(here.possible, np.minimum(start, wide(here.cost.value, shape).lo), start)
        count += there.possible
        for i in range(P):
            slope = wide(there.cost.gradient.get(i, 0.0), shape)
            steep[i] = np.where(there.possible, np.fmax(steep[i], _magnitude(slope)), steep[i])
            gradient.add(i, wide(here.cost.gradient.get(i, 0.0), shape), here.possible)
            for j in range(i, P):
                hessian.add((i, j), wide(there.cost.hessian.get((i, j), 0.0), shape), there.possible)
    alone = np.where(np.isfinite(alone), alone, -np.inf)
    known = np.isfinite(start) & np.isfinite(gradient.lo).all(axis=0) & np.isfinite(gradient.hi).all(axis=0)
    is_smooth = ((count == 1) | (inside.is_unique if on.cost.is_convex else False)) & known
    model = _Model(on, np.where(is_smooth, start, alone), gradient, hessian, is_smooth)
    separate, sides = _below(alone @ on.weights), np.einsum("pbn,n->bp", np.minimum(steep, _STEEPEST), on.weights)
    if on.cost.coherence and on.n_atoms > 1:
        term = _coherence(inside)
        model.add(_coherence(center), term)
        separate = separate + term.value.lo[:, 0]
        steeper = [_magnitude(wide(term.gradient.get(i, 0.0), (shape[0], 1)))[:, 0] for i in range(P)]
        sides = sides + np.stack(steeper, axis=1)
    together, is_convex = model.least(half)
    return Bounds(np.maximum(separate, together), sides * half, is_convex)


class _Hull:
    """The hull of intervals, entry by entry."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.lo, self.hi = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, at: Any, one: Interval, where: np.ndarray) -> None:
        """Let it contain an interval, where that counts; what is not known contains everything."""
        lo, hi = np.where(np.isnan(one.lo), -np.inf, one.lo), np.where(np.isnan(one.hi), np.inf, one.hi)
        self.lo[at] = np.where(where, np.minimum(self.lo[at], lo), self.lo[at])
        self.hi[at] = np.where(where, np.maximum(self.hi[at], hi), self.hi[at])


class _Model:
    """The quadratic model of all smooth datapoints together, with the others' own bounds."""

    def __init__(
        self, on: Landscape, values: np.ndarray, gradient: _Hull, hessian: _Hull, is_smooth: np.ndarray
    ) -> None:
        w = np.where(is_smooth, on.weights, 0.0)
        self.start = _below(values @ on.weights)
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
        drop = _least_quadratic(_magnitude(self.slope) * half * (1 + SOLVING), bends).sum(axis=1)
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
        found = _below(self.start + drop)
        return np.where(known & ~np.isnan(found), found, -np.inf), bends_up & self.is_whole


def _coherence(of: Enclosure) -> Jet:
    """γ Σ_{k<l} cos²(d_k, d_j)."""
    K = of.on.n_atoms
    terms = [of.cosines[pair].square() for pair in combinations(range(K), 2)]
    total: Jet = sum(terms[1:], terms[0]) * of.on.cost.coherence
    shape = (of.is_unique.shape[0], 1)
    return Jet(wide(total.value, shape), total.gradient, total.hessian)


# ------------------------------------------------------------------------------------------ helpers


def _least_quadratic(slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """``min over |t| ≤ 1 of slope·t + ½ bend·t²`` for slope ≥ 0."""
    ends = -slope + 0.5 * bend
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = -0.5 * slope**2 / bend
    return np.where((bend > 0) & (slope < bend), inner, ends)


def _magnitude(value: Interval) -> np.ndarray:
    return np.where(np.isnan(value.lo) | np.isnan(value.hi), np.inf, value.magnitude)


def _below(value: np.ndarray) -> np.ndarray:
    """A sum of few terms, less more than its rounding."""
    return value - np.abs(value) * 1e-14


def _total(how: str, end: np.ndarray, weights: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A weighted sum over the datapoints that count."""
    return np.einsum(how, np.where(where, end, 0.0), weights)
