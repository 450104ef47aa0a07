"""Branch and bound: boxes of dictionaries are halved until none can hold a better one than the best found (T18)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from cvxsae.relaxations.solution import Record, Status, relative_gap
from cvxsae.solvers.global_search.bounding import bounds_over
from cvxsae.solvers.global_search.boxes import Boxes, Landscape
from cvxsae.solvers.global_search.result import Minimizer

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.parallel.context import Run


GRADIENT_TOL = 1e-9
"""Slope at which a local search ends: minimizers are then known to about its square root over the curvature."""


@dataclass(frozen=True)
class BranchAndBound:
    """How boxes are searched.

    Attributes
    ----------
    at_once
        Boxes halved in a step: as many as fill vectors, and few enough that a better point found is soon used.
    polished
        Centers of the most promising boxes that local search starts from, in a step that is to polish.
    polish_every
        Steps between.
    most_regions
        Regions that minimizers are looked for in; where more are left, minimizers form a continuum or ``tol`` is large.
    same
        Distance of two dictionaries below which they are one.
    resolution
        Width to which boxes that may hold a minimizer are halved once the gap is closed, to tell minimizers apart.
    most_refined
        Boxes looked at for that; where it is not enough, it is not known whether there are other minimizers.
    """

    at_once: int = 1024
    polished: int = 3
    polish_every: int = 5
    most_regions: int = 50
    same: float = 1e-3
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
                        bar.set_postfix_str(f"gap {relative_gap(state.value, state.lower_bound):.1e}")
                        step += 1
                        if run.callback is not None:
                            run.callback(state.record(step))
            except KeyboardInterrupt:
                if not run.is_outermost:
                    raise
                status = Status.INTERRUPTED
        state.status = status
        if status is Status.CERTIFIED:
            state.refine(run)
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
    def lower_bound(self) -> float:
        """Of every dictionary."""
        return min(self.least_closed, float(self.lows.min(initial=np.inf)), self.value)

    def end(self, run: Run, step: int) -> Status | None:
        """Why to end now, if so."""
        if not len(self.open) or relative_gap(self.value, self.lower_bound) <= self.tol:
            return Status.CERTIFIED
        if run.max_steps is not None and step >= run.max_steps:
            return Status.MAX_ITER
        return Status.TIME_LIMIT if run.is_late else None

    def step(self, count: int) -> int:
        """Halve the boxes with the lowest bounds; return how many there are now."""
        most = min(self.how.at_once, len(self.open))
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
        """Halve the boxes that may hold a minimizer until they are small; an interrupt passes through."""
        boxes, lows = self.leaves()
        count = 0
        while count < self.how.most_refined and not run.is_late:
            widths = boxes.hi - boxes.lo
            coarse = (lows <= self.value) & (widths.max(axis=1) > self.how.resolution)
            if not coarse.any():
                break
            rows = np.flatnonzero(coarse)[: self.how.at_once]
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
        done = self.lows >= self.value - self.tol * abs(self.value)
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
        from scipy.optimize import minimize

        def value(at: Any) -> float:
            return self.on.value(*self.on.atoms_and_bias(at, faces))

        start = np.asarray(parameters, dtype=np.float64).ravel()
        found: Any = minimize(value, start, method="BFGS", jac="3-point", options={"gtol": GRADIENT_TOL})
        return found.x if np.isfinite(found.fun) else parameters

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
        point = state.polished(hull.center[0], hull.faces[0])
        atoms, bias = state.on.atoms_and_bias(point, hull.faces[0])
        value = state.on.value(atoms, bias)
        if value < state.value:
            state.value, state.best = value, (atoms, bias)
        are_all &= isolated
        if value > state.value + state.slack:
            continue  # F is larger in the whole region, but not provably
        one = Minimizer(_canonical(atoms, state.on), bias, value, isolated)
        distances = [
            np.abs(one.dictionary - other.dictionary).max() + np.abs(bias - other.bias).max() for other in found
        ]
        if min(distances, default=np.inf) > state.how.same:
            found.append(one)
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
