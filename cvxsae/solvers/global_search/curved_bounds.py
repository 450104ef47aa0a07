"""What is known of the cost of two atoms over a box of angles, under a penalty that is not quadratic (theory.md T18).

*First order, always.* Let θ₀ be the center, z the best codes at some θ in the box and s their sum. If ``φ(θ) < φ(θ₀)``
the residual at θ is shorter than ``R = √(2φ(θ₀))``, and ``g(s) ≤ φ(θ₀)`` (T16) limits s, as does
``‖x − b‖ ≥ ‖zD‖ ≥ s √((1 + c)/2)``. Turning the atoms by at most h moves the reconstruction by at most s h. So
``φ(θ₀) ≤ φ(θ) + R s h + ½ s² h²``. And φ(θ) is at least the radial bound of T16.

*Second order, where the codes are strongly convex.* If Ω bends downwards by at most a, the cost is convex in the codes
with a modulus ``μ = 1 − |c| − a``. Where that is positive the best codes are unique, and they lie within
``‖∂(cost)(z₀)‖/μ`` of those at the center, z₀, with the derivatives at θ. In that enclosure of the codes the gradient
of φ is that of the cost at fixed codes (which bounds φ by the mean value theorem), and on a support the Hessian is
``f_θθ − f_θz f_zz⁻¹ f_zθ``, all in interval arithmetic; φ has a Lipschitz gradient, with Hessians of the supports that
are possible.

*Support by support.* See :func:`_by_pieces`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.curved import Codes, CurvedCost, LogCost, TreeCost
from cvxsae.solvers.global_search.intervals import Interval, cosine, root, sine
from cvxsae.solvers.global_search.model import Hull
from cvxsae.solvers.global_search.supports import SOLVING

_ROUNDING = 1e-13
"""Relative rounding of the cost and of its derivatives at given codes: some hundred operations."""


@dataclass
class Known:
    """Of every box (rows) and datapoint.

    Attributes
    ----------
    alone
        A lower bound of φ over the box, first order, (B, N).
    start
        A lower bound of φ at the center, (B, N).
    gradient, hessian
        Hulls of the gradient at the center and of the Hessians over the box, by parameter.
    is_smooth
        Where gradient and Hessian are what they are called, (B, N).
    steep
        About the largest slopes, by parameter, (2, B, N).
    """

    alone: np.ndarray
    start: np.ndarray
    gradient: Hull
    hessian: Hull
    is_smooth: np.ndarray
    steep: np.ndarray


class _Geometry:
    """Correlations ``q_k = r cos(α_k − ψ)`` and ``c = cos(α_1 − α_2)`` over boxes, with their derivatives."""

    def __init__(self, on: Landscape, lo: np.ndarray, hi: np.ndarray) -> None:
        assert on.bias is not None
        offsets = on.X - on.bias
        length, angle = np.hypot(*offsets.T)[None], np.arctan2(offsets[:, 1], offsets[:, 0])[None]
        self.length = Interval.rounded(length, length)
        angles = Interval.rounded(angle, angle)
        first, second = (Interval(lo[:, k, None], hi[:, k, None]) for k in (0, 1))
        apart = first - second
        self.c, self.s = cosine(apart), sine(apart)
        self.q = [cosine(one - angles) * self.length for one in (first, second)]
        self.dq = [-(sine(one - angles) * self.length) for one in (first, second)]


def known_over(on: Landscape, boxes: Boxes, half: np.ndarray) -> Known:
    """Compute it."""
    cost = on.cost
    assert isinstance(cost, CurvedCost)
    center = boxes.center
    at, over = _Geometry(on, center, center), _Geometry(on, boxes.lo, boxes.hi)
    shape = at.q[0].lo.shape
    q, c = Codes(*(_middle(one) for one in at.q)), _middle(at.c)
    z = cost.codes(q, c)
    power = 0.5 * at.length.lo**2
    value = power + cost.cost(z, q, c)
    size = power + z.first**2 + z.second**2
    modulus = 1 - np.maximum(np.abs(over.c.lo), np.abs(over.c.hi)) - cost.most_concave
    is_convex = np.broadcast_to(modulus > SOLVING, shape)
    safe = np.where(is_convex, modulus, 1.0)
    residue = _residue(cost, z, q, c) + _ROUNDING * np.sqrt(size)
    # of convex codes the error of their computation is bounded by their own residue
    start = value - np.where(is_convex, residue**2 / (2 * safe), SOLVING * power) - _ROUNDING * size
    start = np.maximum(start, 0.0)
    most = _most_mass(on, cost, value, over)
    reach = most * half.max(axis=1)[:, None]
    shorter = np.sqrt(2 * np.maximum(value, 0.0))
    alone = start - (shorter + 0.5 * reach) * reach * (1 + SOLVING)
    alone = np.maximum(alone, cost.radial(at.length.lo) - SOLVING * 1e-3 * power)
    alone = np.fmax(alone, power + _by_pieces(on, cost, over, center, half) - SOLVING * 1e-3 * size)
    alone = np.where(np.isnan(alone), 0.0, np.maximum(alone, 0.0))

    radius = (residue + _moved(z, q, c, over)) / safe
    Z = [Interval(np.maximum(one - radius, 0.0), one + radius) for one in z]
    gradient, hessian = Hull((2, *shape)), Hull((2, 2, *shape))
    everywhere = np.ones(shape, dtype=bool)
    near = [Interval(np.maximum(one - residue / safe, 0.0), one + residue / safe) for one in z]
    for k, one in enumerate(_slopes(near, at)):
        gradient.add(k, one, everywhere)
    change = sum(one.magnitude * half[:, k, None] for k, one in enumerate(_slopes(Z, over)))
    alone = np.where(is_convex, np.fmax(alone, start - change * (1 + SOLVING)), alone)
    _add_hessians(cost, Z, over, hessian)
    finite = np.isfinite(hessian.lo[[0, 0, 1], [0, 1, 1]]) & np.isfinite(hessian.hi[[0, 0, 1], [0, 1, 1]])
    is_smooth = is_convex & finite.all(axis=0)
    steep = np.stack([np.minimum(Z[k].hi, most) * shorter for k in (0, 1)])
    steep = np.where(is_convex, steep, most * shorter)
    return Known(alone, start, gradient, hessian, is_smooth, np.where(np.isnan(steep), np.inf, steep))


def _by_pieces(on: Landscape, cost: CurvedCost, over: _Geometry, center: np.ndarray, half: np.ndarray) -> np.ndarray:
    """A lower bound of the cost, less ``½‖x − b‖²``, support by support.

    That of one atom decreases with its correlation. That of a pair, of sum s, is at least ``½ s² (1 + c)/2 − s max q +
    g(s)``, since ``‖zD‖² ≥ s² (1 + c)/2``: close where atoms are nearly parallel. Where they are nearly opposite
    :func:`_of_strip` is.
    """
    found = np.zeros_like(over.q[0].lo)
    for k in (0, 1):
        q = over.q[k].hi
        z = cost.alone(q, k)
        pair = Codes(z, 0 * z) if k == 0 else Codes(0 * z, z)
        found = np.minimum(found, (0.5 * z - q) * z + cost.penalty(pair))
    room = np.broadcast_to((1 + over.c.lo) / 2, found.shape)
    both = cost.of_sum(np.maximum(over.q[0].hi, over.q[1].hi), np.where(room > SOLVING, room, 1.0))
    both = np.where(room > SOLVING, both, -np.inf)
    return np.minimum(found, np.maximum(both, _of_strip(on, cost, center, half) - 0.5 * over.length.hi**2))


_SUMS = np.concatenate([[0.0], np.geomspace(0.05, 1e4, 48)])
"""Sums of codes, in lengths of the datapoint, between which the cost of a pair is bounded."""


def _of_strip(on: Landscape, cost: CurvedCost, center: np.ndarray, half: np.ndarray) -> np.ndarray:
    """A lower bound of the cost of a pair that is within an angle η of a line: its sum s reaches ``s sin η`` across it.

    For s in [S, S′] the cost is at least ``½(|x_across| − S′ sin η)_+² + ½(|x_along| − S′)_+² + g(S)``.
    """
    assert on.bias is not None
    offsets = on.X - on.bias
    turned = center[:, 1] - np.pi * np.round((center[:, 1] - center[:, 0]) / np.pi)
    line = (center[:, 0] + turned) / 2
    reach = np.abs(center[:, 0] - turned) / 2 + half.max(axis=1)
    sine_ = np.where(reach < np.pi / 2, np.sin(np.minimum(reach, np.pi / 2)), 1.0)[:, None] * (1 + SOLVING)
    along = np.abs(np.cos(line)[:, None] * offsets[:, 0] + np.sin(line)[:, None] * offsets[:, 1])
    across = np.abs(np.cos(line)[:, None] * offsets[:, 1] - np.sin(line)[:, None] * offsets[:, 0])
    length = np.hypot(*offsets.T)
    least = cost.of_mass(np.broadcast_to(_SUMS[-1] * length, along.shape))  # sums beyond the last
    for low, high in itertools.pairwise(_SUMS):
        far = np.maximum(across - high * length * sine_, 0.0), np.maximum(along - high * length, 0.0)
        least = np.minimum(least, 0.5 * far[0] ** 2 + 0.5 * far[1] ** 2 + cost.of_mass(low * length))
    return least * (1 - SOLVING)


def _slopes(Z: list[Interval], over: _Geometry) -> list[Interval]:
    """The derivatives of the cost by the angles, at fixed codes: of φ, where the codes are the best."""
    cross = Z[0] * Z[1] * over.s
    return [-cross - over.dq[0] * Z[0], cross - over.dq[1] * Z[1]]


def _middle(one: Interval) -> np.ndarray:
    return (one.lo + one.hi) / 2


def _residue(cost: CurvedCost, z: Codes, q: Codes, c: np.ndarray) -> np.ndarray:
    """The length of the shortest subgradient of the cost over nonnegative codes: zero at the best."""
    slope = cost.gradient(z, q, c)
    parts = [np.where(one > 0, np.abs(g), np.maximum(-g, 0.0)) for one, g in zip(z, slope, strict=True)]
    found = np.hypot(*parts)
    if isinstance(cost, TreeCost):  # at zero the norm has a ball of subgradients
        left = np.hypot(np.maximum(q.first, 0.0), np.maximum(q.second - cost.child, 0.0)) - cost.both
        found = np.where((z.first == 0) & (z.second == 0), np.maximum(left, 0.0), found)
    return found


def _moved(z: Codes, q: Codes, c: np.ndarray, over: _Geometry) -> np.ndarray:
    """How far the derivatives by the codes, at those of the center, can move within the box."""
    turn = over.c - c
    first = turn * z.second - (over.q[0] - q.first)
    second = turn * z.first - (over.q[1] - q.second)
    return np.hypot(first.magnitude, second.magnitude) * (1 + SOLVING)


def _most_mass(on: Landscape, cost: CurvedCost, value: np.ndarray, over: _Geometry) -> np.ndarray:
    """The largest sum of codes that can be optimal where φ is at most ``value``."""
    with np.errstate(divide="ignore"):
        thin = over.length.hi * np.sqrt(2 / np.maximum(1 + over.c.lo, 0.0))
    return np.minimum(thin, cost.mass_of(np.maximum(value, 0.0))) * (1 + SOLVING)


def _add_hessians(cost: CurvedCost, Z: list[Interval], over: _Geometry, hessian: Hull) -> None:
    """Those of every support that can be optimal somewhere in the box."""
    shape = Z[0].lo.shape
    usable = [(Z[k].hi > 0) & ~(_slope_at_zero(cost, Z, over, k) > 0) for k in (0, 1)]
    needed = [Z[k].lo > 0 for k in (0, 1)]
    zero = Interval(np.zeros(shape), np.zeros(shape))
    none = ~needed[0] & ~needed[1]
    for pair in ((0, 0), (0, 1), (1, 1)):
        hessian.add(pair, zero, none)
    for k in (0, 1):
        where = usable[k] & ~needed[1 - k]
        own = over.q[k] * Z[k] - over.dq[k].square() * (_curvature(cost, Z[k]) + 1.0).reciprocal()
        hessian.add((k, k), own, where)
        hessian.add((0, 1), zero, where)
        hessian.add((1 - k, 1 - k), zero, where)
    both = usable[0] & usable[1]
    h11, h12, h22 = _curvatures(cost, Z)
    a, b, m = h11 + 1.0, h22 + 1.0, h12 + over.c
    determinant = a * b - m.square()
    inverse = determinant.reciprocal()
    product = Z[0] * Z[1]
    bend = over.c * product
    # derivatives by codes and angles: f_{z_i θ_j}
    f = [
        [-(over.s * Z[1]) - over.dq[0], over.s * Z[1]],
        [-(over.s * Z[0]), over.s * Z[0] - over.dq[1]],
    ]
    known = determinant.lo > 0
    for i, j in ((0, 0), (0, 1), (1, 1)):
        u, v = (f[0][i], f[1][i]), (f[0][j], f[1][j])
        if i == j:
            form = u[0].square() * b + u[1].square() * a - u[0] * u[1] * m * 2.0
            direct = over.q[i] * Z[i] - bend
        else:
            form = u[0] * v[0] * b + u[1] * v[1] * a - (u[0] * v[1] + u[1] * v[0]) * m
            direct = bend
        entry = direct - form * inverse
        lo, hi = np.where(known, entry.lo, -np.inf), np.where(known, entry.hi, np.inf)
        hessian.add((i, j), Interval(lo, hi), both)


def _slope_at_zero(cost: CurvedCost, Z: list[Interval], over: _Geometry, k: int) -> np.ndarray:
    """A lower bound of the derivative by the code of atom k where that is zero: its code is zero if it is positive."""
    other = Z[1 - k]
    least = (over.c * other - over.q[k]).lo
    if isinstance(cost, LogCost):
        return least + cost.lam * (1 - SOLVING)
    assert isinstance(cost, TreeCost)
    own = np.where(other.hi > 0, 0.0, cost.both)  # the norm is flat across one code where the other is positive
    return least + (own + (cost.child if k else 0.0)) * (1 - SOLVING)


def _curvature(cost: CurvedCost, z: Interval) -> Interval:
    """Ω″ of one code alone."""
    if isinstance(cost, LogCost):
        return (z + cost.epsilon).square().reciprocal() * (-cost.lam * cost.epsilon)
    return Interval(np.zeros_like(z.lo), np.zeros_like(z.hi))


def _curvatures(cost: CurvedCost, Z: list[Interval]) -> tuple[Interval, Interval, Interval]:
    """The second derivatives of Ω by both codes."""
    if isinstance(cost, LogCost):
        zero = Interval(np.zeros_like(Z[0].lo), np.zeros_like(Z[0].lo))
        return _curvature(cost, Z[0]), zero, _curvature(cost, Z[1])
    assert isinstance(cost, TreeCost)
    norm = root(Z[0].square() + Z[1].square())
    inverse = norm.reciprocal()
    cube = inverse.square() * inverse * cost.both
    return Z[1].square() * cube, -(Z[0] * Z[1] * cube), Z[0].square() * cube
