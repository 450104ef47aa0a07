"""Branch and bound over boxes, for few atoms: codes under L0 with a ridge, and under a log.

A node of a datapoint x is a box ``[l, u]``: of codes under a log, and under L0 of what says whether an atom is active,
0 or 1, or may be either. Let ``c_k`` be what atom k costs within the box, and ``c_k*(t)`` the largest of
``zt − c_k(z)`` there. For every y, ½‖x − zD‖² ≥ y·(x − zD) − ½‖y‖², so that every code in the box costs at least

    y·x − ½‖y‖² − Σ_k c_k*(d_k·y).

Whatever y is, this is true, so no accuracy of an inner solver is trusted. The best y is the residual of the codes that
are best under the convex envelopes of c_k, which is where accelerated proximal gradients look.

*L0 with a ridge.* ``c_k`` is λ + ½λρz² for an atom that is active, nothing for one that is not, and otherwise the least
of the two, with the reverse Huber function for its envelope (:class:`~cvxsae.penalties.L0`): ``c_k*`` is
``t₊²/(2λρ) − λ``, zero, or the larger of these. The residual of the codes fitted to the atoms that look active is tried
as well: where none is undecided it proves what they cost. The atom nearest to undecided splits the node.

*Log.* The envelope of the concave λω on [l, u] is its chord, and ``c_k*(t)`` is the larger of ``lt − λω(l)`` and
``ut − λω(u)``, since ``zt − λω(z)`` is convex in z (Falk and Soland 1969). The code whose chord is farthest below λω
splits the node, where the best codes found have it, if that is inside, so that chords touch there. The first box is
proved (:func:`reaches`): atoms that are active at an optimum are linearly independent, since along ``wD = 0`` the
error stays and a strictly concave penalty falls in one of the two directions; and ``zD·(x − zD) ≥ 0``, or smaller codes
would be better, so that ``‖zD‖ ≤ ‖x‖`` and ``z_k ≤ ‖x‖ √((G_S⁻¹)_kk)`` for the Gram matrix G_S of the active ones.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, count
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data.deadline import is_over
from cvxsae.relaxations.convex.code_penalty import product_rounding
from cvxsae.relaxations.convex.penalties.nonconvex import L0, Log
from cvxsae.relaxations.linalg import EPS

STEPS = 80
"""Accelerated steps of a node, which begin at the codes of the node it comes from."""

STILL = 1e-11
"""Of the codes: a smaller step ends them."""

TOGETHER = 32
"""Nodes that are looked at at a time, of as many datapoints as there are."""

NOTHING = 1e-13
"""Of ``‖x‖²``: less is rounding."""

INSIDE = 0.05
"""Of a box: a split is no nearer to an end."""

SWEEPS = 4
"""Rounds of exact minimization, one code after the other, for codes under a log that may be better."""


SINGULAR = 1e-10
"""Of the least eigenvalue of a Gram matrix: below it atoms are not known to be independent."""

INVERTED = 1e-3
"""Rounding of the diagonal of an inverse, relative to it, generously: ``K·ε/SINGULAR`` is 3e-5."""


def reaches(atoms: Float64[np.ndarray, "K d"]) -> Float64[np.ndarray, " K"]:
    """What optimal codes under a log are at most, relative to ‖x‖, for few atoms; infinite where that is not known.

    Of atoms that are equal the first stands for all, and the others are not needed: zero.
    """
    gram, found = atoms @ atoms.T, np.zeros(len(atoms))
    alike = (atoms[:, None] == atoms[None]).all(axis=2)
    opposite = (atoms[:, None] == -atoms[None]).all(axis=2)
    first = [k for k in range(len(atoms)) if not alike[k, :k].any()]
    for size in range(1, min(len(first), atoms.shape[1]) + 1):
        if is_over():
            return np.full(len(atoms), np.inf)
        sets = np.array(list(combinations(first, size)))
        sets = sets[~opposite[sets[:, :, None], sets[:, None, :]].any(axis=(1, 2))]
        values, vectors = np.linalg.eigh(gram[sets[:, :, None], sets[:, None, :]])
        is_known = values[:, :1] > SINGULAR
        diagonal = (vectors**2 / np.where(is_known, values, 1.0)[:, None]).sum(axis=2)
        np.maximum.at(found, sets, np.where(is_known, np.sqrt(diagonal) * (1 + INVERTED), np.inf))
    return found


class Searched(NamedTuple):
    """What branch and bound says of a datapoint: bound, nodes, whether none is open, codes that beat what was known."""

    low: float
    looked: int
    is_exact: bool
    codes: Float64[np.ndarray, " K"] | None


@dataclass(frozen=True, eq=False)
class Boxes(ABC):
    """Codes of one dictionary in boxes: the problem that :func:`search` is about.

    Attributes
    ----------
    atoms
        Of norm 1, (K, d).
    lam
        λ > 0.
    """

    atoms: Float64[np.ndarray, "K d"]
    lam: float

    closed: ClassVar[float]
    """A node that may lie below the best value by that much of it is not looked at: the bound says by how much."""

    @abstractmethod
    def cost(self, Z: Float64[np.ndarray, "m K"]) -> Float64[np.ndarray, " m"]:
        """``λΩ``."""

    @abstractmethod
    def prox(self, box: Float64[np.ndarray, "m 2 K"], step: float) -> Callable[[np.ndarray], np.ndarray]:
        """Of the convex envelopes."""

    @abstractmethod
    def charges(self, T: Float64[np.ndarray, "m K"], box: Float64[np.ndarray, "m 2 K"]) -> Float64[np.ndarray, "m K"]:
        """``c_k*``, rounded up."""

    @abstractmethod
    def tried(self, x: Float64[np.ndarray, "m d"], Z: np.ndarray, box: np.ndarray) -> Float64[np.ndarray, "m K"]:
        """Codes to try where Z is best under the envelopes."""

    @abstractmethod
    def split(
        self, z: Float64[np.ndarray, " K"], box: Float64[np.ndarray, "2 K"], best: Float64[np.ndarray, " K"]
    ) -> Iterator[Float64[np.ndarray, "2 K"]]:
        """The parts of a node; none of one that cannot be split."""

    def values(self, x: Float64[np.ndarray, "m d"], Z: Float64[np.ndarray, "m K"]) -> Float64[np.ndarray, " m"]:
        """What codes cost."""
        return np.square(x - Z @ self.atoms).sum(axis=1) / 2 + self.cost(Z)

    def lows(self, x: Float64[np.ndarray, "m d"], Y: Float64[np.ndarray, "m d"], box: np.ndarray) -> np.ndarray:
        """The bound of every node at a point y."""
        blur = product_rounding(x.shape[1]) * np.linalg.norm(Y, axis=1)
        charge = self.charges(Y @ self.atoms.T + blur[:, None], box).sum(axis=1)
        return (Y * x).sum(axis=1) - (Y**2).sum(axis=1) / 2 - charge - 2 * len(self.atoms) * EPS * np.abs(charge)

    def relaxed(self, x: Float64[np.ndarray, "m d"], Z: Float64[np.ndarray, "m K"], box: np.ndarray) -> np.ndarray:
        """The best codes under the envelopes, nearly."""
        gram, q = self.atoms @ self.atoms.T, x @ self.atoms.T
        step = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1.0)
        prox = self.prox(box, step)
        Z = ahead = self.prox(box, 0.0)(Z)
        momentum = np.ones(len(x))
        for _ in range(STEPS):
            following = prox(ahead + step * (q - ahead @ gram))
            move = following - Z
            momentum[((ahead - following) * move).sum(axis=1) > 0] = 1.0
            later = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            far = np.abs(following - ahead).max(initial=0.0)
            Z, ahead = following, following + ((momentum - 1) / later)[:, None] * move
            momentum = later
            if far <= STILL * np.abs(Z).max(initial=0.0):
                break
        return Z


@dataclass(frozen=True, eq=False)
class Priced(Boxes):
    """L0 with a ridge: of an atom ``[0, 0]`` says that it is not active, ``[1, 1]`` that it is, ``[0, 1]`` neither."""

    penalty: L0

    closed: ClassVar[float] = 1e-10

    def cost(self, Z: Float64[np.ndarray, "m K"]) -> Float64[np.ndarray, " m"]:
        """``λ(‖z‖₀ + ½ρ‖z‖²)``."""
        return self.lam * ((Z > 0).sum(axis=1) + self.penalty.ridge / 2 * (Z**2).sum(axis=1))

    def prox(self, box: Float64[np.ndarray, "m 2 K"], step: float) -> Callable[[np.ndarray], np.ndarray]:
        """Of a square, of zero, and of the reverse Huber function."""
        shrunk, active, open_ = 1 + step * self.lam * self.penalty.ridge, box[:, 0] > 0, box[:, 1]

        def of(V: np.ndarray) -> np.ndarray:
            free = self.penalty.envelope_prox(torch.from_numpy(V), self.lam, step).numpy()
            return np.where(active, np.maximum(V, 0.0) / shrunk, open_ * free)

        return of

    def charges(self, T: Float64[np.ndarray, "m K"], box: Float64[np.ndarray, "m 2 K"]) -> Float64[np.ndarray, "m K"]:
        """Those of an active atom without the choice of leaving."""
        free = box[:, 1] * self.penalty.conjugate(T, self.lam, np.full((len(T), 1), np.inf))
        active = np.maximum(T, 0.0) ** 2 / (2 * self.lam * self.penalty.ridge) * (1 + 8 * EPS) - self.lam
        return np.where(box[:, 0] > 0, active + 8 * EPS * self.lam, free)

    def tried(self, x: Float64[np.ndarray, "m d"], Z: np.ndarray, box: np.ndarray) -> Float64[np.ndarray, "m K"]:
        """Nonnegative least squares, with the ridge, on the atoms that are active or at least half so."""
        from scipy.optimize import nnls

        longer, atoms, scale = self.penalty.without_ridge(x, self.atoms, self.lam)
        active, fitted = (box[:, 0] > 0) | (self._shares(Z) >= 0.5), np.zeros_like(Z)
        for row in np.flatnonzero(active.any(axis=1)):
            with suppress(RuntimeError):  # too many exchanges: nothing is tried then
                fitted[row, active[row]] = nnls(atoms[active[row]].T, longer[row])[0] / scale
        return fitted

    def split(
        self, z: Float64[np.ndarray, " K"], box: Float64[np.ndarray, "2 K"], best: Float64[np.ndarray, " K"]
    ) -> Iterator[Float64[np.ndarray, "2 K"]]:
        """With an atom, and without it."""
        free, share = box[0] < box[1], self._shares(z)
        if free.any():
            j = int(np.argmax(np.where(free, np.minimum(share, 1 - share) + 1e-9 * share, -1.0)))
            for side in (0, 1):
                part = box.copy()
                part[:, j] = side
                yield part

    def _shares(self, Z: np.ndarray) -> np.ndarray:
        """How far an atom is active in the relaxation: its code relative to where the envelope touches."""
        share: np.ndarray = np.minimum(Z * np.sqrt(self.penalty.ridge / 2), 1.0)
        return share


@dataclass(frozen=True, eq=False)
class Curved(Boxes):
    """A log: boxes of codes."""

    penalty: Log

    closed: ClassVar[float] = 1e-7

    def cost(self, Z: Float64[np.ndarray, "m K"]) -> Float64[np.ndarray, " m"]:
        """``λ Σ_k ε log(1 + z_k/ε)``."""
        return self.lam * self.penalty.of_mass(Z).sum(axis=1)

    def slopes(self, box: Float64[np.ndarray, "*m 2 K"]) -> np.ndarray:
        """Of the chords; that of the tangent where a box has no width."""
        low, high = box[..., 0, :], box[..., 1, :]
        wide = high > low
        chord = (self.penalty.of_mass(high) - self.penalty.of_mass(low)) / np.where(wide, high - low, 1.0)
        slope: np.ndarray = self.lam * np.where(wide, chord, self.penalty.epsilon / (self.penalty.epsilon + low))
        return slope

    def prox(self, box: Float64[np.ndarray, "m 2 K"], step: float) -> Callable[[np.ndarray], np.ndarray]:
        """A step down the chord, within the box."""
        down, low, high = step * self.slopes(box), box[:, 0], box[:, 1]
        return lambda V: np.clip(V - down, low, high)

    def charges(self, T: Float64[np.ndarray, "m K"], box: Float64[np.ndarray, "m 2 K"]) -> Float64[np.ndarray, "m K"]:
        """At the two ends."""
        ends = self.lam * self.penalty.of_mass(box)
        reach = box * T[:, None]
        return (reach - ends + 8 * EPS * (np.abs(reach) + ends)).max(axis=1)

    def tried(self, x: Float64[np.ndarray, "m d"], Z: np.ndarray, box: np.ndarray) -> Float64[np.ndarray, "m K"]:
        """The best of every code given the others, some rounds of them."""
        gram, q, Z = self.atoms @ self.atoms.T, x @ self.atoms.T, Z.copy()
        for _ in range(SWEEPS):
            for k in range(len(gram)):
                others = q[:, k] - Z @ gram[:, k] + Z[:, k] * gram[k, k]
                Z[:, k] = self.penalty.best_single(others, self.lam)
        return Z

    def split(
        self, z: Float64[np.ndarray, " K"], box: Float64[np.ndarray, "2 K"], best: Float64[np.ndarray, " K"]
    ) -> Iterator[Float64[np.ndarray, "2 K"]]:
        """Below a code and above it."""
        low, high = box
        gaps = self.lam * (self.penalty.of_mass(z) - self.penalty.of_mass(low)) - self.slopes(box) * (z - low)
        j = int(np.argmax(np.where(high - low > 4 * EPS * high, gaps, -np.inf)))
        if gaps[j] > 0:
            ends = low[j] + INSIDE * (high[j] - low[j]), high[j] - INSIDE * (high[j] - low[j])
            at = best[j] if ends[0] <= best[j] <= ends[1] else float(np.clip(z[j], *ends))
            for side in (0, 1):
                part = box.copy()
                part[1 - side, j] = at
                yield part


@dataclass(eq=False)
class _Open:
    """The open nodes of a datapoint, what is best so far, and the least bound of a node that was left alone."""

    best: float
    codes: np.ndarray
    heap: list[tuple[float, int, np.ndarray, np.ndarray]]
    left_alone: float = np.inf
    looked: int = 0
    is_better: bool = False

    def pop(self, slack: float) -> tuple[float, np.ndarray, np.ndarray] | None:
        """The node of the least bound; None where none is worth looking at."""
        if not self.heap or self.heap[0][0] >= self.best - slack:
            return None
        low, _, box, z = heapq.heappop(self.heap)
        self.looked += 1
        return low, box, z

    def searched(self, slack: float) -> Searched:
        low = min(self.best, self.left_alone, self.heap[0][0] if self.heap else np.inf)
        return Searched(low, self.looked, low >= self.best - slack, self.codes if self.is_better else None)


def search(
    x: Float64[np.ndarray, "n d"],
    boxes: Boxes,
    roots: Float64[np.ndarray, "n 2 K"],
    values: Float64[np.ndarray, " n"],
    nodes: int,
) -> list[Searched]:
    """Halve boxes until no code in any can cost less than the best found, or there are too many, or time is over.

    Parameters
    ----------
    x
        Datapoints, (n, d).
    boxes
        The dictionary and the penalty.
    roots
        A box of each that contains an optimum, (n, 2, K).
    values
        Attained by some codes, (n,).
    nodes
        Most of a datapoint.
    """
    K, ticket = len(boxes.atoms), count()
    rows = [
        _Open(value, np.zeros(K), [(0.0, next(ticket), root, np.zeros(K))])
        for value, root in zip(values.tolist(), roots, strict=True)
    ]
    slacks = boxes.closed * values + NOTHING * (x**2).sum(axis=1)
    going = list(range(len(rows)))
    while going and not is_over():
        batch, asked = [], set(going[:TOGETHER])
        for n in asked:
            for _ in range(max(1, TOGETHER // len(going))):
                node = rows[n].pop(slacks[n]) if rows[n].looked < nodes else None
                if node is None:
                    break
                batch.append((n, *node))
        done = asked - {one[0] for one in batch}
        going = [n for n in going if n not in done]
        if batch:
            _look(x, boxes, rows, batch, ticket, slacks)
    return [row.searched(slack) for row, slack in zip(rows, slacks.tolist(), strict=True)]


def _look(
    x: Float64[np.ndarray, "n d"],
    boxes: Boxes,
    rows: list[_Open],
    batch: list[tuple[int, float, np.ndarray, np.ndarray]],
    ticket: count[int],
    slacks: Float64[np.ndarray, " n"],
) -> None:
    """Bound some nodes, and put the parts of those that are worth it among the open ones."""
    places = np.array([one[0] for one in batch])
    box, points = np.stack([one[2] for one in batch]), x[places]
    Z = boxes.relaxed(points, np.stack([one[3] for one in batch]), box)
    tried = boxes.tried(points, Z, box)
    lows = boxes.lows(points, points - Z @ boxes.atoms, box)
    lows = np.maximum(lows, boxes.lows(points, points - tried @ boxes.atoms, box))
    lows = np.maximum(lows, [one[1] for one in batch])
    costs = boxes.values(points, tried)
    for n, z, cost in zip(places.tolist(), tried, costs.tolist(), strict=True):
        if cost < rows[n].best:
            rows[n].best, rows[n].codes, rows[n].is_better = cost, z, True
    for n, z, low, part in zip(places.tolist(), Z, lows.tolist(), box, strict=True):
        row, children = rows[n], list(boxes.split(z, part, rows[n].codes))
        if low >= row.best - slacks[n] or not children:
            row.left_alone = min(row.left_alone, low)
        for child in children if low < row.best - slacks[n] else ():
            heapq.heappush(row.heap, (low, next(ticket), child, z))
