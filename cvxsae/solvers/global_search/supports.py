"""The cost of every support over boxes of dictionaries, and where it may be optimal (theory.md T18)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64

from cvxsae.solvers.global_search.boxes import FACES, PLANE, Boxes, Landscape
from cvxsae.solvers.global_search.intervals import Interval, Jet
from cvxsae.solvers.global_search.objective import MOST_ACTIVE

SOLVING = 1e-9
"""Relative slack for the rounding of a few operations that are not interval arithmetic."""


@dataclass
class Piece:
    """The cost of one support over boxes, as if its codes were optimal."""

    cost: Jet
    lower: np.ndarray
    upper: np.ndarray
    possible: np.ndarray
    """Whether it may be optimal, for (box, datapoint)."""
    surely_usable: np.ndarray
    """Whether its codes are nonnegative on the whole box."""


@dataclass
class Enclosure:
    """Everything over some boxes: correlations, inner products, and the cost of every support."""

    on: Landscape
    correlations: list[Jet]
    cosines: dict[tuple[int, int], Jet]
    power: Jet
    pieces: list[Piece]
    is_unique: np.ndarray
    """Whether codes are unique on the whole box, for (box, datapoint)."""

    @classmethod
    def of(
        cls, on: Landscape, boxes: Boxes, around: tuple[Enclosure, Float64[np.ndarray, "B P"]] | None = None
    ) -> Enclosure:
        """Compute it; ``around`` are the boxes' centers and half widths, which tighten what is known of values."""
        atoms, correlations, power = _geometry(on, boxes)
        K = on.n_atoms
        cosines = {(k, j): _cosine(on, boxes, atoms, k, j) for k, j in combinations(range(K), 2)}
        center, half = (None, []) if around is None else (around[0], [side[:, None] for side in around[1].T])
        if center is not None:
            correlations = [one.over(half, center.correlations[k]) for k, one in enumerate(correlations)]
            cosines = {pair: one.over(half, center.cosines[pair]) for pair, one in cosines.items()}
        if on.cost.signed:
            correlations += [-one for one in correlations]
            signed = combinations(range(2 * K), 2)
            cosines = {
                (k, j): cosines[min(k % K, j % K), max(k % K, j % K)].scaled(1.0 if (k < K) == (j < K) else -1.0)
                for k, j in signed
                if k % K != j % K
            }
        shape = (len(boxes), len(on.X))
        found = cls(on, correlations, cosines, power, [], np.ones(shape, dtype=bool))
        found._add_pieces(shape, half, center)
        return found

    def _add_pieces(self, shape: tuple[int, int], half: list[np.ndarray], center: Enclosure | None) -> None:
        on, full = self.on, self.on.quadratic.both_signs()
        numbers = zip(self.correlations, full.correlation_scale, full.linear, strict=True)
        p = [one * float(scale) - float(lam) for one, scale, lam in numbers]
        A = {pair: one * float(full.gram_scale[pair]) + float(full.ridge[pair]) for pair, one in self.cosines.items()}
        small = _Small(p, A, full.diagonal, shape)
        for place, support in enumerate(full.supports(on.n_atoms)):
            cost, codes = small.cost(support)
            cost = cost + self.power + full.per_atom * len(support)
            if center is not None:
                cost = cost.over(half, center.pieces[place].cost)
            value = wide(cost.value, shape)
            lower = np.where(np.isnan(value.lo), -np.inf, value.lo)
            if len(support) == MOST_ACTIVE:
                lower = np.maximum(lower, self._of_mass(support, small) + full.per_atom * len(support))
            lower = np.maximum(lower, full.per_atom * len(support))  # nothing else of the cost is negative
            possible, usable = np.ones(shape, dtype=bool), np.ones(shape, dtype=bool)
            for one in codes:
                possible &= ~(one.hi < 0)
                usable &= one.lo >= 0
            if full.is_convex:
                self._exclude(support, small, possible)
            upper = np.where(np.isnan(value.hi), np.inf, value.hi)
            self.pieces.append(Piece(cost, lower, upper, possible, usable))
        if not full.is_convex:
            self._drop_dominated(shape)

    def _exclude(self, support: tuple[int, ...], small: _Small, possible: np.ndarray) -> None:
        """Of convex codes: a support is not optimal where another atom surely lowers the cost."""
        on = self.on
        tied = np.zeros(small.shape, dtype=bool)
        for other in range(len(small.p)):
            if other in support or (on.cost.signed and any(abs(other - k) == on.n_atoms for k in support)):
                continue
            rest = small.rest(other, support)
            possible &= ~(rest.lo > 0)
            tied |= ~(rest.hi < 0)
        if len(support) == MOST_ACTIVE:
            self.is_unique &= ~possible | ((small.determinant(support).lo > 0) & ~tied)

    def _drop_dominated(self, shape: tuple[int, int]) -> None:
        """Of nonconvex codes: a support is not optimal where another is surely usable and cheaper."""
        ceiling = np.full(shape, np.inf)
        for piece in self.pieces:
            ceiling = np.where(piece.surely_usable, np.minimum(ceiling, piece.upper), ceiling)
        for piece in self.pieces:
            piece.possible &= ~(piece.lower > ceiling)

    def _of_mass(self, support: tuple[int, ...], small: _Small) -> np.ndarray:
        """A lower bound of a pair's cost that needs no inverse, from its mass ``s = z_k + z_j`` alone.

        ``‖z_k d_k + z_j d_j‖² ≥ s² (1 + g)/2`` and ``zᵀMz ≥ m s²``, so the cost is at least ``½‖x‖² − s max(p) + ½ s²
        ((1 + g)/2 + m)``; and since that norm is at most s, it is at least ``½ (‖x‖ − s)² + λs + ½ m s²`` (T16).
        """
        (k, j), full, shape = support, self.on.quadratic.both_signs(), small.shape
        m = _least_on_simplex(full.ridge[np.ix_(support, support)])
        top = np.maximum(np.maximum(small.p_value(k).hi, small.p_value(j).hi), 0.0)
        room = np.maximum((1 + wide(self.cosines[k, j].value, shape).lo) / 2 + m, 0.0)
        power = wide(self.power.value, shape).lo
        flat = power - np.where(top > 0, top**2 / (2 * room), 0.0) * (1 + SOLVING)
        squares = np.maximum(power, 0.0) / full.power_scale
        beyond = np.maximum(np.sqrt(2 * squares) - min(full.linear[k], full.linear[j]), 0.0)
        return np.maximum(flat, squares - beyond**2 / (2 * (1 + m)) - SOLVING * squares)


class _Small:
    """Quadratic problems of at most two atoms: ``min −z·p + ½ zᵀ A z``."""

    def __init__(
        self, p: list[Jet], A: dict[tuple[int, int], Jet], diagonal: np.ndarray, shape: tuple[int, int]
    ) -> None:
        self.p, self.A, self.diagonal, self.shape = p, A, [float(one) for one in diagonal], shape

    def p_value(self, k: int) -> Interval:
        """p_k over every box, for every datapoint."""
        return wide(self.p[k].value, self.shape)

    def coupling(self, k: int, j: int) -> Jet:
        """A_kj."""
        return self.A[min(k, j), max(k, j)]

    def cost(self, support: tuple[int, ...]) -> tuple[Jet, list[Interval]]:
        """The least value without regard to signs, and intervals that have the signs of the codes."""
        if not support:
            return Jet(0.0), []
        k, own = support[0], 1 / self.diagonal[support[0]]
        first = self.p[k].square() * (-0.5 * own)
        if len(support) == 1:
            return first, [self.p_value(k)]
        j = support[1]
        across = self.coupling(k, j)
        left = across.square() * -own + self.diagonal[j]
        second = self.p[j] - across * self.p[k] * own
        other = self.p[k] - across * self.p[j] * (1 / self.diagonal[j])
        cost = first + second.square() * left.inverse() * -0.5
        return cost, [wide(other.value, self.shape), wide(second.value, self.shape)]

    def determinant(self, support: tuple[int, ...]) -> Interval:
        """Positive where the two atoms are not parallel, or a ridge keeps them apart."""
        k, j = support
        return wide((self.coupling(k, j).square() * (-1 / self.diagonal[k]) + self.diagonal[j]).value, self.shape)

    def rest(self, other: int, support: tuple[int, ...]) -> Interval:
        """What is left for another atom, ``p − A_{other, S} z_S``: not positive at optimal codes."""
        if not support:
            return self.p_value(other)
        k, own = support[0], 1 / self.diagonal[support[0]]
        if len(support) == 1:
            return wide((self.p[other] - self.coupling(other, k) * self.p[k] * own).value, self.shape)
        j = support[1]
        top = wide((self.p[j] - self.coupling(k, j) * self.p[k] * own).value, self.shape)
        z_j = _nonnegative(top * self.determinant(support).reciprocal())
        z_k = _nonnegative((self.p_value(k) - wide(self.coupling(k, j).value, self.shape) * z_j) * own)
        across = [wide(self.coupling(other, one).value, self.shape) for one in support]
        return _known(self.p_value(other) - across[0] * z_k - across[1] * z_j)


def _geometry(on: Landscape, boxes: Boxes) -> tuple[list[list[Jet]], list[Jet], Jet]:
    """Atoms by component (none in the plane with a fixed bias), correlations with them, and ½‖x − b‖² s."""
    scale = 0.5 * on.cost.power_scale
    ends = [Interval(boxes.lo[:, i, None], boxes.hi[:, i, None]) for i in range(on.n_parameters)]
    parameters = [Jet.parameter(i, end) for i, end in enumerate(ends)]
    if on.bias is not None:
        offsets = on.X - on.bias
        power = Jet(Interval.rounded(*2 * [(offsets**2).sum(axis=1)[None] * scale]))
        if on.dim == PLANE:
            length, angle = np.hypot(*offsets.T)[None], np.arctan2(offsets[:, 1], offsets[:, 0])[None]
            lengths, angles = Interval.rounded(length, length), Interval.rounded(angle, angle)
            return [], [(one - angles).cosine() * lengths for one in parameters], power
        sides: list[Any] = [offsets[:, i][None] for i in range(on.dim)]
    else:
        sides = [on.X[:, i][None] - one for i, one in enumerate(parameters[on.n_angles :])]
        power = sum((one.square() for one in sides[1:]), sides[0].square()) * scale
    atoms = [_atom(on, boxes, parameters, k) for k in range(on.n_atoms)]
    products = [[side * component for side, component in zip(sides, atom, strict=True)] for atom in atoms]
    return atoms, [sum(parts[1:], parts[0]) for parts in products], power


def _atom(on: Landscape, boxes: Boxes, parameters: list[Jet], k: int) -> list[Jet]:
    """The components of an atom."""
    if on.dim == PLANE:
        return [parameters[k].cosine(), parameters[k].sine()]
    u, w = parameters[2 * k : 2 * k + 2]
    length = (u.square() + w.square() + 1.0).inverse_root()
    face = FACES[boxes.faces[:, k]]  # (B, 3, 3)
    return [(u * face[:, 1, i, None] + w * face[:, 2, i, None] + face[:, 0, i, None]) * length for i in range(on.dim)]


def _cosine(on: Landscape, boxes: Boxes, atoms: list[list[Jet]], k: int, j: int) -> Jet:
    """d_k·d_j."""
    if on.dim == PLANE:
        first, second = (Jet.parameter(i, Interval(boxes.lo[:, i, None], boxes.hi[:, i, None])) for i in (k, j))
        return (first - second).cosine()
    products = [a * b for a, b in zip(atoms[k], atoms[j], strict=True)]
    return sum(products[1:], products[0])


# ------------------------------------------------------------------------------------------ helpers


def wide(value: Any, shape: tuple[int, int]) -> Interval:
    """An interval for every box and datapoint."""
    if not isinstance(value, Interval):
        value = Interval(np.asarray(value, dtype=np.float64), np.asarray(value, dtype=np.float64))
    return Interval(np.broadcast_to(value.lo, shape), np.broadcast_to(value.hi, shape))


def _least_on_simplex(matrix: np.ndarray) -> float:
    """``min zᵀMz over z ≥ 0, z_1 + z_2 = 1`` of a positive semidefinite matrix."""
    (a, b), (_, c) = matrix
    bend = a - 2 * b + c
    t = 0.0 if bend <= 0 else min(max((c - b) / bend, 0.0), 1.0)
    return float(min(a, c, t * t * a + 2 * t * (1 - t) * b + (1 - t) ** 2 * c))


def _nonnegative(value: Interval) -> Interval:
    """The part of it that is not negative; everything where nothing is known."""
    unknown = np.isnan(value.lo) | np.isnan(value.hi)
    return Interval(
        np.where(unknown, 0.0, np.maximum(value.lo, 0.0)), np.where(unknown, np.inf, np.maximum(value.hi, 0.0))
    )


def _known(value: Interval) -> Interval:
    """The same, with everything where nothing is known."""
    return Interval(np.where(np.isnan(value.lo), -np.inf, value.lo), np.where(np.isnan(value.hi), np.inf, value.hi))
