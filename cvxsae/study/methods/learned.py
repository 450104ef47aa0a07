"""A learned dictionary, grown along the widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.dictionary.learn import Settings
from cvxsae.solvers.dictionary.learn import learn as search
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.start import Given
from cvxsae.study.held_out import added, evaluated
from cvxsae.study.keys import COUNT, POSITIVE, YES_OR_NO, one_of
from cvxsae.study.method import CODES_TOL, CellInput, Method, Outcome, fvu
from cvxsae.validation.certify import certify
from cvxsae.validation.claims import stationarity as residuals_of


def learned(
    cell: CellInput,
    *,
    stationarity: Annotated[float, POSITIVE] = 1e-4,
    max_seconds: Annotated[float | None, POSITIVE] = None,
    max_steps: Annotated[int | None, COUNT] = None,
    second_order: Annotated[bool, YES_OR_NO] = False,
) -> Outcome:
    """Learn a dictionary; the referee says what it attains, from data and arrays alone."""
    fit = learn(
        cell,
        cell.lam,
        cell.start,
        stationarity=stationarity,
        max_seconds=max_seconds,
        max_steps=max_steps,
        second_order=second_order,
    )
    problem = SparseCodes(cell.X, fit.dictionary, cell.lam, bias=fit.bias)
    found = certify(problem, fit.candidate(), tol=CODES_TOL)
    residuals, drift = residuals_of(problem, fit.candidate())
    numbers = {
        "value": found.value,
        "lower_bound": fit.lower_bound,
        "codes_gap": found.gap,
        "stationarity": float(np.nanmax(residuals, initial=0)),
        "bias_residual": drift if cell.bias == "free" else None,
        "least_curvature": fit.least_curvature,
        "l0": fit.encoding.l0,
        "live_atoms": fit.n_atoms - fit.dead_atoms,
        "outcome": fit.status.name,
        "fvu": fvu(problem, fit.candidate(), cell.X),
    }
    outcome = Outcome(numbers, found.objections, {"dictionary": fit.dictionary, "bias": fit.bias})
    return added(outcome, evaluated(cell, fit.dictionary, fit.bias), found.value)


def learn(
    cell: CellInput,
    lam: float,
    start: Any,
    *,
    stationarity: float,
    second_order: bool = False,
    max_seconds: float | None = None,
    max_steps: int | None = None,
) -> DictionaryFit:
    """Learn at this λ from this start. An interrupt passes through."""
    problem = JointProblem(cell.X, cell.width, lam, bias=cell.bias_value)
    settings = Settings(stationarity, Given.of(start, problem), second_order)
    return search(problem, settings, replace(cell.within(max_seconds).inner(), max_steps=max_steps))


METHOD = Method(
    "learned",
    learned,
    axes=("n_atoms", "seed"),
    attains=("value",),
    evaluates=True,
    attained="value",
    planned={"warm": (one_of(("n_atoms", "lam", "none"), many=True), ("n_atoms", "lam"))},
)
