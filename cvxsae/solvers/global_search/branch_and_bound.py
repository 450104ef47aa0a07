"""Branch and bound: boxes of dictionaries are halved until none can hold a better one than the best found (T18)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from cvxsae.relaxations.solution import Record, Status
from cvxsae.solvers.global_search.bounding import bounds_over
from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.result import Minimizer

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.parallel.context import Run


@dataclass(frozen=True)
class BranchAndBound:
    """How boxes are searched.

    Attributes
    ----------
    at_once
        Boxes halved in a step: as many as fill vectors, and few enough that a better point found is soon used.
    entries
        Pairs of a box and a datapoint in a step, so that a step of many datapoints is short and fits into memory.
    polished
        Centers of the most promising boxes that local search starts from, in a step that is to polish.
    polish_every
        Steps between.
    most_regions
        Regions that minimizers are looked for in; where more are left, minimizers form a continuum or ``tol`` is large.
    same
        Distance of two dictionaries below which they are one; of two biases in units of the data.
    slope
        Relative slope of F at which a local search ends: minimizers are then known to it over the curvature.
    polishing
        Relative error of F that a local search may leave.
    resolution
        Width to which boxes that may hold a minimizer are halved once the gap is closed, to tell minimizers apart.
    most_refined
        Boxes looked at for that; where it is not enough, it is not known whether there are other minimizers.
    """

    at_once: int = 1024
    entries: int = 2**14
    polished: int = 3
    polish_every: int = 5
    most_regions: int = 50
    same: float = 1e-3
    slope: float = 1e-9
    polishing: float = 1e-9
    resolution: float = 2e-3
    most_refined: int = 10_000

    def search(self, on: Landscape, tol: float, run: Run, reach: float) -> Search:
        """Search until the gap is within ``tol`` or the run ends."""
        state = Search(on, self, tol, on.everything(reach))
        status, step = None, 0
        with tqdm(disable=not run.progress, desc="branch and bound", unit="box") as bar:
            try:
                while status is None:
                    status = state.end(run, step)
                    if status is None:
                        bar.update(state.step(step))
                        bar.set_postfix_str(f"gap {on.gap(state.value, state.lower_bound):.1e}")
                        step += 1
                        if run.callback is not None:
                            run.callback(state.record(step))
            except KeyboardInterrupt:
                if not run.is_outermost:
                    raise
                status = Status.INTERRUPTED
        state.status = status
        if status is Status.CERTIFIED:
            try:
                state.refine(run)
            except KeyboardInterrupt:
                if not run.is_outermost:
                    raise
        return state


@dataclass
class Search:
    """What is known so far."""

    on: Landscape
    how: BranchAndBound
    tol: float
    open: Boxes
    status: Status | None = None
    value: float = np.inf
    best: Any = None
    history: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        found = bounds_over(self.on, self.open)
        self.lows, self.slopes = found.lower, found.slopes
        self.closed: list[tuple[Boxes, np.ndarray]] = []
        self.least_closed = np.inf
        self._look(self.open, self.lows, polish=True)

    @property
    def at_once(self) -> int:
        """Boxes halved in a step."""
        return max(1, min(self.how.at_once, self.how.entries // (2 * len(self.on.X))))

    @property
    def lower_bound(self) -> float:
        """Of every dictionary."""
        return min(self.least_closed, float(self.lows.min(initial=np.inf)), self.value)

    def end(self, run: Run, step: int) -> Status | None:
        """Why to end now, if so."""
        if not len(self.open) or self.on.gap(self.value, self.lower_bound) <= self.tol:
            return Status.CERTIFIED
        if run.max_steps is not None and step >= run.max_steps:
            return Status.MAX_ITER
        return Status.TIME_LIMIT if run.is_late else None

    def step(self, count: int) -> int:
        """Halve the boxes with the lowest bounds; return how many there are now."""
        most = min(self.at_once, len(self.open))
        first = np.argpartition(self.lows, most - 1)[:most]
        rest = np.ones(len(self.open), dtype=bool)
        rest[first] = False
        parents = self.open[first]
        children = parents.halved(self.slopes[first].argmax(axis=1))
        inherited = np.concatenate([self.lows[first]] * 2)
        wanted = self.on.is_ordered(children)
        children, inherited = children[wanted], inherited[wanted]
        found = bounds_over(self.on, children)
        lows = np.maximum(found.lower, inherited)
        self._look(children, lows, polish=count % self.how.polish_every == 0)
        self.open = self.open[rest].joined(children)
        self.lows = np.concatenate([self.lows[rest], lows])
        self.slopes = np.concatenate([self.slopes[rest], found.slopes])
        self._close()
        self.history.append(self.record(count + 1))
        return len(children)

    def refine(self, run: Run) -> None:
        """Halve the boxes that may hold a minimizer until they are small; what is known stays true at every step."""
        boxes, lows = self.leaves()
        count = 0
        while count < self.how.most_refined and not run.is_late:
            widths = boxes.hi - boxes.lo
            coarse = (lows <= self.value) & (widths.max(axis=1) > self.how.resolution)
            if not coarse.any():
                break
            rows = np.flatnonzero(coarse)[: self.at_once]
            rest = np.ones(len(boxes), dtype=bool)
            rest[rows] = False
            children = boxes[rows].halved(widths[rows].argmax(axis=1))
            inherited = np.concatenate([lows[rows]] * 2)
            wanted = self.on.is_ordered(children)
            children, inherited = children[wanted], inherited[wanted]
            boxes = boxes[rest].joined(children)
            lows = np.concatenate([lows[rest], np.maximum(bounds_over(self.on, children).lower, inherited)])
            count += len(rows)
            self.open, self.lows, self.closed = boxes[:0], lows[:0], [(boxes, lows)]
            self.least_closed = float(lows.min())

    @property
    def slack(self) -> float:
        """By how much F may be above the best value and count as the same."""
        return self.tol * max(abs(self.value), float(self.on.weights @ (self.on.X**2).sum(axis=1)) * self.tol)

    def _close(self) -> None:
        """Set boxes aside that need no more halving."""
        done = self.lows >= self.value - max(self.tol * abs(self.value), self.on.rounding)
        if done.any():
            self.closed.append((self.open[done], self.lows[done]))
            self.least_closed = min(self.least_closed, float(self.lows[done].min()))
            self.open, self.lows, self.slopes = self.open[~done], self.lows[~done], self.slopes[~done]

    def _look(self, boxes: Boxes, lows: np.ndarray, *, polish: bool) -> None:
        """Try the centers of the most promising boxes, and search from them where asked to."""
        if not len(boxes):
            return
        order = np.argsort(lows)[: 8 * self.how.polished]
        values = []
        for row in order:
            values.append(self._try(boxes.center[row], boxes.faces[row]))
        if polish:
            for place in np.argsort(values)[: self.how.polished]:
                row = order[place]
                self._try(self.polished(boxes.center[row], boxes.faces[row]), boxes.faces[row])

    def _try(self, parameters: np.ndarray, faces: np.ndarray) -> float:
        atoms, bias = self.on.atoms_and_bias(parameters, faces)
        value = self.on.value(atoms, bias)
        if value < self.value:
            self.value, self.best = value, (atoms, bias)
        return value

    def polished(self, parameters: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """A local minimum near a point."""
        return self._descended(parameters, faces, None)

    def polished_inside(self, hull: Boxes) -> np.ndarray:
        """A local minimum near the center of a box, and in it up to ``same``."""
        found = self.polished(hull.center[0], hull.faces[0])
        scales = self._scales()
        lo, hi = hull.lo[0] - self.how.same * scales, hull.hi[0] + self.how.same * scales
        if ((lo <= found) & (found <= hi)).all():
            return found
        return self._descended(hull.center[0], hull.faces[0], (hull.lo[0], hull.hi[0]))

    def _scales(self) -> np.ndarray:
        """What one is for each parameter: a radian, or the length of the data for the bias."""
        scales = np.ones(self.on.n_parameters)
        scales[self.on.n_angles :] = self.on.length
        return scales

    def _descended(
        self, parameters: np.ndarray, faces: np.ndarray, within: tuple[np.ndarray, np.ndarray] | None
    ) -> np.ndarray:
        """A local search from a point, in units of the data: the optimizer's own tolerances are absolute."""
        from scipy.optimize import minimize

        scales, start = self._scales(), np.asarray(parameters, dtype=np.float64).ravel()
        first = self.on.value(*self.on.atoms_and_bias(start, faces))
        if not self.on.rounding < first < np.inf:
            return start

        def value(at: Any) -> float:
            return self.on.value(*self.on.atoms_and_bias(at * scales, faces)) / first

        if within is None:
            found: Any = minimize(value, start / scales, method="BFGS", jac="3-point", options={"gtol": self.how.slope})
        else:
            ends = np.stack(within, axis=1) / scales[:, None]
            precise: Any = {"gtol": self.how.slope, "ftol": np.finfo(np.float64).eps}
            found = minimize(value, start / scales, method="L-BFGS-B", jac="3-point", bounds=ends, options=precise)
        return found.x * scales if found.fun <= 1 else start

    def record(self, step: int) -> Record:
        """A line of the history."""
        return Record(step, time.perf_counter() - self.started, self.value, self.lower_bound)

    def leaves(self) -> tuple[Boxes, Float64[np.ndarray, " B"]]:
        """Boxes that cover all dictionaries, with their bounds."""
        boxes, lows = self.open, self.lows
        parts = [*self.closed, (boxes, lows)]
        lo, hi, faces = (np.concatenate([getattr(part[0], name) for part in parts]) for name in ("lo", "hi", "faces"))
        return Boxes(lo, hi, faces), np.concatenate([part[1] for part in parts])


# --------------------------------------------------------------------------------------- minimizers


def minimizers_of(state: Search) -> tuple[tuple[Minimizer, ...], bool]:
    """Where F may be as small as the best value: one local search in each region, and whether each is convex."""
    boxes, bounds = state.leaves()
    left = boxes[bounds <= state.value]
    if state.status is not Status.CERTIFIED or len(left) > state.how.most_refined:
        left = left[:0]
    regions = _regions(left)
    found: list[Minimizer] = []
    are_all = 0 < len(regions) <= state.how.most_regions
    for rows in regions[: state.how.most_regions]:
        hull = Boxes(left.lo[rows].min(axis=0)[None], left.hi[rows].max(axis=0)[None], left.faces[rows[:1]])
        isolated = _is_convex(state.on, hull)
        point = state.polished_inside(hull)
        atoms, bias = state.on.atoms_and_bias(point, hull.faces[0])
        value = state.on.value(atoms, bias)
        if value < state.value:
            state.value, state.best = value, (atoms, bias)
        are_all &= isolated
        if value > state.value + max(state.slack, state.how.polishing * state.value):
            continue  # F is larger in the whole region, but not provably
        are_all &= value <= state.value + state.slack  # else nobody knows whether it is one
        one = Minimizer(_canonical(atoms, state.on), bias, value, isolated)
        if value <= state.value + state.slack and not any(_are_same(one, other, state) for other in found):
            found.append(one)
    if not found and state.status is Status.CERTIFIED:
        atoms, bias = state.best
        found = [Minimizer(_canonical(atoms, state.on), bias, state.value, False)]
    return tuple(sorted(found, key=lambda one: tuple(one.dictionary.ravel().round(6)))), are_all


def _is_convex(on: Landscape, hull: Boxes) -> bool:
    """Whether F is strictly convex on a box: on the box at once, or on every part of it.

    F is differentiable on each part, faces included, so its slope along any line rises across them too.
    """
    for count in PARTS:
        parts = hull
        if count ** hull.lo.shape[1] > MOST_PARTS:
            break
        for side in range(hull.lo.shape[1]):
            for _ in range(int(np.log2(count))):
                parts = parts.halved(np.full(len(parts), side))
        if bool(bounds_over(on, parts).is_convex.all()):
            return True
    return False


PARTS = (1, 2, 4, 8, 16)
"""Parts along each side that a region is cut into to prove that F is convex on it."""

MOST_PARTS = 4096
"""Parts in all."""


def _are_same(one: Minimizer, other: Minimizer, state: Search) -> bool:
    """Whether two minimizers differ by less than what a local search leaves, in some order and with some signs."""
    on = state.on
    apart = np.abs(one.dictionary[:, None] - other.dictionary[None]).max(axis=2)
    if on.cost.signed:
        apart = np.minimum(apart, np.abs(one.dictionary[:, None] + other.dictionary[None]).max(axis=2))
    K = len(apart)
    orders = permutations(range(K)) if on.cost.is_symmetric else [tuple(range(K))]
    atoms = min(max(apart[k, j] for k, j in enumerate(order)) for order in orders)
    return bool(max(atoms, np.abs(one.bias - other.bias).max() / on.length) <= state.how.same)


def _regions(boxes: Boxes) -> list[np.ndarray]:
    """Boxes that touch, on the same faces, belong together."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not len(boxes):
        return []
    pairs = []
    for row in range(len(boxes)):
        touch = (boxes.lo <= boxes.hi[row]).all(axis=1) & (boxes.hi >= boxes.lo[row]).all(axis=1)
        touch &= (boxes.faces == boxes.faces[row]).all(axis=1)
        pairs.append(np.stack([np.full(touch.sum(), row), np.flatnonzero(touch)]))
    i, j = np.concatenate(pairs, axis=1)
    graph = csr_array((np.ones(len(i)), (i, j)), shape=(len(boxes), len(boxes)))
    count, labels = connected_components(graph, directed=False)
    return [np.flatnonzero(labels == one) for one in range(count)]


def _canonical(atoms: np.ndarray, on: Landscape) -> np.ndarray:
    """One of the dictionaries that differ by the order of atoms, or by signs where codes have both."""
    rows = atoms.copy()
    if on.cost.signed:
        first = np.array([row[np.flatnonzero(np.abs(row) > 1e-9)[0]] for row in rows])
        rows *= np.sign(first)[:, None]
    if on.cost.is_symmetric:
        rows = rows[np.lexsort(rows.round(9).T[::-1])]
    return rows
