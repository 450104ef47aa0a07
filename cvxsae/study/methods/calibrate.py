"""The λ for a target number of active atoms."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from cvxsae.errors import InputError
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.solvers.codes.paths import search_lambda
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.study.keys import COUNT, POSITIVE
from cvxsae.study.method import CellInput, Method, Outcome
from cvxsae.study.methods.learned import learn

FIRST_RATIO = 0.1
"""λ/λ_max of the first dictionary: sparse, and far from both ends."""

SEARCH_POINTS, SEARCH_RTOL = 4096, 0.02
"""Datapoints on which λ is looked for, and how close to the target: the dictionary changes after it anyway."""

FIRST_STATIONARITY, STATIONARITY = 1e-1, 1e-2
"""How well dictionaries are learned on the way: L0 settles long before the last digits of the atoms."""


def calibrate(
    cell: CellInput,
    *,
    rtol: Annotated[float, POSITIVE] = 0.05,
    rounds: Annotated[int, COUNT] = 8,
    max_seconds: Annotated[float | None, POSITIVE] = None,
    max_steps: Annotated[int | None, COUNT] = None,
) -> Outcome:
    """λ at which the learned dictionary of this width has the target L0: learn, solve for λ, learn again.

    The λ that this dictionary needs gives way to the middle (in log λ) of one known to be too small and one known to
    be too large wherever it is not between them, and in every other round.
    """
    target = cell.target_l0 or 0.0
    limits: dict[str, Any] = {"max_seconds": max_seconds, "max_steps": max_steps}
    penalty = FIRST_RATIO * WideLimit(cell.X, 1.0, bias=cell.bias_value).lambda_max()
    if not penalty > 0:
        raise InputError("every datapoint equals the bias, so no λ has any active atoms; check data and bias.")
    fit = learn(cell, penalty, None, stationarity=FIRST_STATIONARITY, **limits)
    small, large = 0.0, math.inf
    for turn in range(rounds):
        if fit.encoding.l0 > target:
            small = max(small, penalty)
        else:
            large = min(large, penalty)
        penalty = search_lambda(_sample(cell, fit), target, SEARCH_RTOL, cell.run.inner()).lam
        if 0 < small < large < math.inf and (turn % 2 or not small < penalty < large):
            penalty = math.sqrt(small * large)
        fit = learn(cell, penalty, (fit.dictionary, fit.bias), stationarity=STATIONARITY, **limits)
        if abs(fit.encoding.l0 - target) <= rtol * target:
            numbers = {
                "value": fit.value,
                "lower_bound": fit.lower_bound,
                "l0": fit.encoding.l0,
                "codes_gap": fit.encoding.gap,
                "live_atoms": fit.n_atoms - fit.dead_atoms,
                "outcome": f"CALIBRATED_IN_{turn + 1}",
                "lam": penalty,
            }
            return Outcome(numbers)
    raise InputError(
        f"[grid] target_l0 is {target:g} but after {rounds} rounds of [calibrate] the learned dictionary has "
        f"{fit.encoding.l0:.3g} active atoms at λ = {penalty:.4g}; raise [calibrate] rounds or rtol."
    )


def _sample(cell: CellInput, fit: DictionaryFit) -> SparseCodes:
    """Codes of some datapoints under a dictionary, at any λ."""
    rows = np.random.default_rng(cell.run.seed).permutation(len(cell.X))[:SEARCH_POINTS]
    return SparseCodes(cell.X[np.sort(rows)], fit.dictionary, 1.0, bias=fit.bias)


METHOD = Method("calibrate", calibrate, axes=("n_atoms", "seed"))
