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
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.curved import CurvedCost
from cvxsae.solvers.global_search.curved_bounds import Known, known_over
from cvxsae.solvers.global_search.intervals import Jet
from cvxsae.solvers.global_search.model import Hull, Model, below, magnitude
from cvxsae.solvers.global_search.supports import Enclosure, wide

_STEEPEST = 1e6
"""Slopes are cut at this when a side is chosen to be halved."""


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
        if isinstance(landscape.cost, CurvedCost):
            return _curved(landscape, known_over(landscape, boxes, half), half)
        at_center = Enclosure.of(landscape, Boxes(center, center, boxes.faces))
        inside = Enclosure.of(landscape, boxes, (at_center, half))
        return _bounds(landscape, at_center, inside, half)


# -------------------------------------------------------------------------------------- both bounds


def _bounds(on: Landscape, center: Enclosure, inside: Enclosure, half: np.ndarray) -> Bounds:
    P, shape = on.n_parameters, inside.is_unique.shape
    alone, start = np.full(shape, np.inf), np.full(shape, np.inf)
    count = np.zeros(shape, dtype=np.int64)
    steep = np.zeros((P, *shape))
    gradient, hessian = Hull((P, *shape)), Hull((P, P, *shape))
    for there, here in zip(inside.pieces, center.pieces, strict=True):
        alone = np.where(there.possible, np.minimum(alone, there.lower), alone)
        start = np.where(here.possible, np.minimum(start, wide(here.cost.value, shape).lo), start)
        count += there.possible
        for i in range(P):
            slope = wide(there.cost.gradient.get(i, 0.0), shape)
            steep[i] = np.where(there.possible, np.fmax(steep[i], magnitude(slope)), steep[i])
            gradient.add(i, wide(here.cost.gradient.get(i, 0.0), shape), here.possible)
            for j in range(i, P):
                hessian.add((i, j), wide(there.cost.hessian.get((i, j), 0.0), shape), there.possible)
    alone = np.where(np.isfinite(alone), alone, -np.inf)
    known = np.isfinite(start) & np.isfinite(gradient.lo).all(axis=0) & np.isfinite(gradient.hi).all(axis=0)
    is_smooth = ((count == 1) | (inside.is_unique if on.quadratic.is_convex else False)) & known
    model = Model(on, np.where(is_smooth, start, alone), gradient, hessian, is_smooth)
    separate, sides = below(alone @ on.weights), np.einsum("pbn,n->bp", np.minimum(steep, _STEEPEST), on.weights)
    if on.cost.coherence and on.n_atoms > 1:
        term = _coherence(inside)
        model.add(_coherence(center), term)
        separate = separate + term.value.lo[:, 0]
        steeper = [magnitude(wide(term.gradient.get(i, 0.0), (shape[0], 1)))[:, 0] for i in range(P)]
        sides = sides + np.stack(steeper, axis=1)
    together, is_convex = model.least(half)
    return Bounds(np.maximum(separate, together), sides * half, is_convex)


def _curved(on: Landscape, known: Known, half: np.ndarray) -> Bounds:
    """The same two bounds of a penalty that is not quadratic."""
    values = np.where(known.is_smooth, known.start, known.alone)
    together, is_convex = Model(on, values, known.gradient, known.hessian, known.is_smooth).least(half)
    sides = np.einsum("pbn,n->bp", np.minimum(known.steep, _STEEPEST), on.weights)
    return Bounds(np.maximum(below(known.alone @ on.weights), together), sides * half, is_convex)


def _coherence(of: Enclosure) -> Jet:
    """γ Σ_{k<l} cos²(d_k, d_j)."""
    K = of.on.n_atoms
    terms = [of.cosines[pair].square() for pair in combinations(range(K), 2)]
    total: Jet = sum(terms[1:], terms[0]) * of.on.cost.coherence
    shape = (of.is_unique.shape[0], 1)
    return Jet(wide(total.value, shape), total.gradient, total.hessian)
