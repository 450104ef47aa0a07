"""The large dictionary in up to three dimensions: candidate directions, and a certificate without a relaxation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_search import sphere_polar
from cvxsae.relaxations.convex.tidy import factor_of, tidy
from cvxsae.relaxations.solution import Status, relative_gap
from cvxsae.solvers.convex.candidates.block_descent import BlockDescent
from cvxsae.solvers.convex.large.dual import DualPoint, best_multiple
from cvxsae.solvers.convex.large.factorized import Factorized, FactorState
from cvxsae.solvers.convex.large.relaxation import Patience

_COARSE = {1: 2, 2: 24, 3: 100}
"""Directions to begin with, by dimension: 15° apart on the circle, 20° on the sphere."""

_FINE = {1: 2, 2: 360, 3: 1500}
"""Directions of the grid on which peaks are looked for: 1° apart on the circle, 5° on the sphere."""

_NEIGHBORS = {1: 0, 2: 2, 3: 6}
"""Grid neighbors that a peak must not be below."""

_ALL_DATAPOINTS = 300
"""Datapoints up to which their own directions are candidates too."""

_BLOCK_STEPS = 15
"""Most steps of block descent a round; the directions change before more would pay."""

_ASCENTS = 20
"""Steps of the monotone iteration of T13 from a peak of the grid."""

_DESCENT = 150
"""Quasi-Newton iterations with the atoms free to move, a round."""

_MOST_WORK = 2e9
"""N K² up to which the atoms are moved: beyond, the first round would take minutes."""

_PARALLEL = 1 - 1e-7
"""Cosine from which two directions are one."""

_PATIENCE = 5
"""Rounds in a row without progress after which it ends."""

_PROGRESS = 0.9
"""A gap above this share of the last has not moved."""

_EXCESS = 0.01
"""Share of ``tol`` by which a peak must exceed λ to be a new direction: a smaller excess cannot close the gap."""

_WITHIN_REACH = 0.5
"""Share of the gap that a round must be able to close before the polar is computed by branch and bound."""

_INNER_TOL = 0.1
"""Share of ``tol`` to which the problem over the directions at hand is solved."""

_POLAR_WIDTH = 0.02
"""Share of ``tol`` that the interval of the polar may be wide: the bound loses twice that."""

_POLAR_WIDTHS = (1e-6, 1e-3)
"""Least and largest such width: below, the cells are millions; above, the bound says nothing."""


@dataclass(frozen=True)
class DirectionsState:
    """Where the next round begins, and the best so far.

    Attributes
    ----------
    atoms, codes
        Directions (K, d) and codes (K, N) to begin with; new directions have zero codes.
    best
        The best dictionary and codes so far, with their value per datapoint.
    dual
        The best dual point so far, by its exact polar.
    patience
        With the gap, in rounds.
    cells
        Cells of the sphere examined by the last branch and bound.
    """

    atoms: np.ndarray
    codes: np.ndarray
    best: tuple[float, Candidate]
    dual: DualPoint
    patience: Patience = field(default_factory=Patience)
    cells: int = 0

    @property
    def gap(self) -> float:
        """From the best value down to the best bound."""
        return relative_gap(self.best[0], self.dual.bound)


@dataclass(frozen=True)
class Directions:
    """Column generation over the circle or the sphere; in d ≤ 3 both halves of the problem are within reach.

    A round: (1) the problem over the directions at hand, which is convex (:class:`BlockDescent`); (2) descent from
    its answer with the atoms free to move, parallel ones merged; (3) new directions, the local maxima of ``θ°(Ru)``
    on a grid of the sphere, each improved by the monotone iteration of T13; (4) once these say that the gap is
    within reach, the polar itself by branch and bound (:func:`sphere_polar`), hence a bound of the completely
    positive problem (8). Begins with an even spread of directions (and those of the datapoints, if they are few).

    Ends CERTIFIED at a total gap of ``tol``, else STALLED. On the CPU; memory N × K, with K the atoms in use.

    Parameters
    ----------
    tol
        Relative gap at which it ends.
    warm
        A factor B (N, K) to begin at the atoms of.
    """

    tol: float = 1e-6
    warm: torch.Tensor | None = None

    name = "directions"
    default_iterations = 40
    first_check = 1
    patience = 10**9

    def init(self, problem: LargeDictionary, device: torch.device) -> DirectionsState:
        """Directions without codes."""
        atoms = even_directions(problem.dim, _COARSE[problem.dim])
        offsets = _data(problem) - problem.starting_bias()
        if self.warm is not None:
            point = problem.from_factor(self.warm.numpy())
            assert point.dictionary is not None
            atoms = _with_new(np.asarray(point.dictionary), atoms)
        if problem.n_points <= _ALL_DATAPOINTS:
            norms = torch.linalg.vector_norm(offsets, dim=1)
            atoms = _with_new(atoms, (offsets / norms[:, None])[norms > 0].numpy())
        nothing = problem.zero_candidate()
        start = problem.primal_value(nothing), nothing
        dual = DualPoint(torch.zeros_like(offsets), None, 0.0)
        state = DirectionsState(atoms, np.zeros((len(atoms), problem.n_points)), start, dual)
        return _proved(problem, state, offsets, self.tol)

    def step(self, problem: LargeDictionary, state: DirectionsState) -> DirectionsState:
        """One round."""
        fixed, residual = self._fixed(problem, state)
        moved = self._moved(problem, fixed)
        best = min(
            state.best, *((problem.primal_value(point), point) for point in (fixed, moved)), key=lambda pair: pair[0]
        )
        state = replace(state, best=best)
        atoms = np.asarray(moved.dictionary)
        codes = np.asarray(moved.codes).T
        for Y in (problem.centered(problem.residual(moved)), residual):
            polar, new = _peaks(problem, Y, 1 + _EXCESS * self.tol)
            within_reach = relative_gap(best[0], best_multiple(problem, _data(problem), Y, None, polar).bound)
            if within_reach <= max(self.tol, _WITHIN_REACH * state.gap):
                state = _proved(problem, state, Y, self.tol)
            atoms = _with_new(atoms, new)
        codes = np.concatenate([codes, np.zeros((len(atoms) - len(codes), problem.n_points))])
        return replace(state, atoms=atoms, codes=codes, patience=state.patience.after(state.gap, _PROGRESS))

    def _fixed(self, problem: LargeDictionary, state: DirectionsState) -> tuple[Candidate, torch.Tensor]:
        """The answer over the directions at hand, without those it does not use, and its residual."""
        bias: Any = problem.bias
        given = CandidateDictionary(problem.X, state.atoms, problem.lam, problem.atom_cost, bias=bias)
        descent = BlockDescent()
        block = descent.begin(given, state.codes)
        for _ in range(_BLOCK_STEPS):
            block = descent.step(given, block)
            if relative_gap(block.value, block.bound) <= _INNER_TOL * self.tol:
                break
        point = descent.finish(given, block)
        live = block.codes.any(axis=1)
        codes = np.ascontiguousarray(block.codes[live].T)
        found = Candidate(bias=point.bias, dictionary=given.atoms.numpy()[live], codes=codes)
        return found, torch.from_numpy(block.residual)

    def _moved(self, problem: LargeDictionary, point: Candidate) -> Candidate:
        """With the atoms free to move, and tidied; as it was if there are too many of them for that."""
        atoms = np.asarray(point.dictionary)
        if not len(atoms) or problem.n_points * len(atoms) ** 2 > _MOST_WORK:
            return point
        start = FactorState(torch.from_numpy(factor_of(problem, point)), _data(problem))
        factor = Factorized(_DESCENT).descended(problem, start).factor
        return tidy(problem, problem.from_factor(factor.numpy()))

    def bounds(self, problem: LargeDictionary, state: DirectionsState) -> tuple[float, float]:
        """The best value and the best bound so far."""
        return state.best[0], state.dual.bound

    def verdict(self, problem: LargeDictionary, state: DirectionsState) -> Status | None:
        """STALLED after five rounds without progress."""
        return Status.STALLED if state.patience.idle >= _PATIENCE else None

    def finish(self, problem: LargeDictionary, state: DirectionsState) -> Candidate:
        """The best dictionary and codes with the best dual point; the similarity of the former."""
        point = tidy(problem, state.best[1])
        dual = problem.feasible_dual(state.dual.Y)  # as the referee measures the polar, to its own accuracy
        return replace(point, dual=dual.numpy(), similarity=problem.similarity(point))

    def info(self, state: DirectionsState) -> dict[str, Any]:
        """Directions at hand, and cells of the last branch and bound."""
        return {"directions": len(state.atoms), "cells": state.cells}


def even_directions(d: int, count: int) -> Float[np.ndarray, "K d"]:
    """Unit vectors (K, d) spread evenly: both signs, a regular polygon, or a spiral on the sphere."""
    if d == 1:
        return np.array([[1.0], [-1.0]])
    steps = np.arange(count) + 0.5
    if d == 2:
        angle = 2 * np.pi * steps / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polar, turn = np.arccos(1 - 2 * steps / count), np.pi * (1 + math.sqrt(5)) * steps
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)


def _peaks(problem: LargeDictionary, Y: torch.Tensor, excess: float) -> tuple[float, np.ndarray]:
    """The highest ``θ°(Yu)`` found, and the directions (K, d) of the local maxima that exceed ``excess · λ``."""
    grid = torch.from_numpy(even_directions(problem.dim, _FINE[problem.dim]))
    values = problem.penalty.polar(Y @ grid.T)
    near = (grid @ grid.T).fill_diagonal_(-2).topk(_NEIGHBORS[problem.dim], dim=1).indices
    U = grid[(values[:, None] >= values[near]).all(dim=1)].T
    for _ in range(_ASCENTS):
        step = Y.T @ problem.penalty.polar_maximizer(Y @ U)
        length = torch.linalg.vector_norm(step, dim=0)
        U = torch.where(length > 0, step / length.clamp(min=torch.finfo(Y.dtype).tiny), U)
    values = problem.penalty.polar(Y @ U)
    return float(values.max()), U[:, values > excess * problem.lam].T.numpy()


def _with_new(atoms: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Atoms with those new directions appended that are parallel to none of them."""
    for direction in new:
        if not len(atoms) or float((atoms @ direction).max()) < _PARALLEL:
            atoms = np.concatenate([atoms, direction[None]])
    return atoms


def _proved(problem: LargeDictionary, state: DirectionsState, Y: torch.Tensor, tol: float) -> DirectionsState:
    """With the better of the dual point so far and Y, by branch and bound."""
    width = min(max(_POLAR_WIDTH * tol, _POLAR_WIDTHS[0]), _POLAR_WIDTHS[1])
    nothing = torch.zeros(problem.dim, dtype=torch.float64)
    exact = sphere_polar(problem.penalty.polar, Y, (0.0, nothing), tol=width)
    polar = min(exact.upper, float(torch.linalg.vector_norm(Y, dim=1).max()))
    dual = best_multiple(problem, _data(problem), Y, None, polar)
    return replace(state, dual=state.dual.or_better(dual), cells=exact.cells)


def _data(problem: LargeDictionary) -> torch.Tensor:
    return problem.X.to_tensor(device=torch.device("cpu"))
