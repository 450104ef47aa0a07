"""The check of a global optimum: its boxes must cover all dictionaries, and every bound must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.encode import encode_rows

if TYPE_CHECKING:
    from cvxsae.solvers.global_search.result import GlobalOptimum

SAMPLES = 400
"""Dictionaries drawn from everywhere, and boxes looked into."""

CODED = 10
"""Of these, dictionaries whose codes are computed again by another solver."""

_CODES_TOL = 1e-10
"""Relative gap of the codes that F is evaluated with, where they are the sparse codes of (P)."""

_ROUNDING = 1e-9
"""Relative difference of two values of F that is rounding."""


def global_objections(optimum: GlobalOptimum, *, samples: int = SAMPLES, seed: int = 0) -> tuple[str, ...]:
    """What is wrong with a global optimum, a sentence each; a spot check, since all of it would take as long again.

    Dictionaries drawn at random must lie in some box, and have an F no smaller than its bound; so must points at random
    in the boxes with the lowest bounds. F is that of closed forms, and at the arrays returned and at some of the points
    that of exact codes from another solver where the penalty is L1.
    """
    rng, boxes = np.random.default_rng(seed), optimum.boxes
    said = list(optimum.objections)
    claimed = _value(optimum, optimum.dictionary, optimum.bias)
    if abs(claimed - optimum.value) > _ROUNDING * max(1.0, abs(claimed)):
        said.append(f"The value is {claimed!r} at the arrays returned, and {optimum.value!r} is claimed.")
    outside = 0
    for count, (at, faces) in enumerate(_anywhere(optimum, rng, samples)):
        inside = ((boxes.lo <= at) & (at <= boxes.hi)).all(axis=1) & (boxes.faces == faces).all(axis=1)
        if not inside.any():
            outside += 1
            continue
        said += _too_high(optimum, (at, faces), float(optimum.bounds[inside].min()), again=count < CODED)
    if outside:
        said.append(f"Of {samples} dictionaries drawn at random {outside} lie in no box; the boxes do not cover all.")
    for row in np.argsort(optimum.bounds)[:samples]:
        at = boxes.lo[row] + rng.random(boxes.lo.shape[1]) * (boxes.hi[row] - boxes.lo[row])
        said += _too_high(optimum, (at, boxes.faces[row]), float(optimum.bounds[row]))
    if not optimum.gap <= optimum.tol:
        said.append(f"The relative gap {optimum.gap:.2e} exceeds tol {optimum.tol:.1e}.")
    return tuple(dict.fromkeys(said))


def _anywhere(optimum: GlobalOptimum, rng: np.random.Generator, samples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parameters of dictionaries anywhere, in the one order of atoms that is searched."""
    on, boxes = optimum.landscape, optimum.boxes
    lo, hi = boxes.lo.min(axis=0), boxes.hi.max(axis=0)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    choices = np.unique(boxes.faces, axis=0)
    while len(found) < samples:
        at, faces = lo + rng.random(len(lo)) * (hi - lo), choices[rng.integers(len(choices))]
        if on.cost.is_symmetric and not faces.size:
            at[: on.n_angles] = np.sort(at[: on.n_angles])
        found.append((at, faces))
    return found


def _too_high(
    optimum: GlobalOptimum, point: tuple[np.ndarray, np.ndarray], bound: float, *, again: bool = False
) -> list[str]:
    """Object if F at a point is below the bound of the box it is in; ``again``: by another solver's codes too."""
    on = optimum.landscape
    atoms, bias = on.atoms_and_bias(*point)
    values = [on.value(atoms, bias), *([_value(optimum, atoms, bias)] if again else [])]
    if min(values) >= bound - _ROUNDING * max(1.0, abs(bound)):
        return []
    return [f"F is {min(values)!r} at a dictionary in a box whose bound is {bound!r}."]


def _value(optimum: GlobalOptimum, atoms: np.ndarray, bias: np.ndarray) -> float:
    """F of a dictionary; by the codes' own solver for L1."""
    on = optimum.landscape
    if optimum.penalty != "L1":
        return on.value(atoms, bias)
    problem = SparseCodes(on.X, atoms, float(on.quadratic.linear[0]), bias=bias)
    return float(on.weights @ encode_rows(problem, Run(is_outermost=False), tol=_CODES_TOL).values)
