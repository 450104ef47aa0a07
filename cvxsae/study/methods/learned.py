"""A learned dictionary, grown along the widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from cvxsae.data.activations import Activations
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.solvers.dictionary.held_out import HeldOut, set_aside
from cvxsae.solvers.dictionary.learn import Settings
from cvxsae.solvers.dictionary.learn import learn as search
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.dictionary.start import Given
from cvxsae.solvers.floors.search import WIDE_TOL, solved_wide_limit
from cvxsae.study.held_out import added, evaluated
from cvxsae.study.keys import COUNT, POSITIVE, SHARE, YES_OR_NO, one_of
from cvxsae.study.method import CODES_TOL, CellInput, Method, Outcome, fvu, l0
from cvxsae.validation.certify import certify
from cvxsae.validation.claims import stationarity as residuals_of


def learned(
    cell: CellInput,
    *,
    stationarity: Annotated[float, POSITIVE] = 1e-4,
    max_seconds: Annotated[float | None, POSITIVE] = None,
    max_steps: Annotated[int | None, COUNT] = None,
    second_order: Annotated[bool, YES_OR_NO] = False,
    validation: Annotated[float | None, SHARE] = None,
    patience: Annotated[int | None, COUNT] = None,
) -> Outcome:
    """Learn a dictionary; the referee says what it attains, from data and arrays alone.

    With ``validation`` a share of the rows learned from watches the search (:mod:`cvxsae.solvers.dictionary.watching`);
    what the row of the table says is of all of them, and of none of the held-out rows.
    """
    watched: dict[str, Any] = {"validation": validation, "patience": patience, "seed": cell.run.seed}
    seen, watch = set_aside(cell.X, {**watched, "validation_groups": None if validation is None else cell.groups})
    fit = learn(
        cell,
        cell.lam,
        cell.start,
        stationarity=stationarity,
        max_seconds=max_seconds,
        max_steps=max_steps,
        second_order=second_order,
        apart=None if watch is None else (seen, watch),
    )
    if watch is not None:
        return _of_all_rows(cell, fit)
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
    return added(cell, outcome, evaluated(cell, fit.dictionary, fit.bias), found.value)


def _of_all_rows(cell: CellInput, fit: DictionaryFit) -> Outcome:
    """A dictionary that some rows watched, on these and on those that it was learned on."""
    run, problem = cell.run.inner(), SparseCodes(cell.X, fit.dictionary, cell.lam, bias=fit.bias)
    codes = encode_rows(problem, run, tol=CODES_TOL)
    found = certify(codes, tol=CODES_TOL)
    own = SparseCodes(fit.problem.X, fit.dictionary, cell.lam, bias=fit.bias)
    residuals, drift = residuals_of(own, fit.candidate())
    wide = solved_wide_limit(WideLimit(cell.X, cell.lam, bias=cell.bias_value), WIDE_TOL, run)
    watched = fit.validation
    numbers = {
        "value": found.value,
        "lower_bound": certify(wide.problem, wide).lower_bound,
        "codes_gap": found.gap,
        "stationarity": float(np.nanmax(residuals, initial=0)),
        "bias_residual": drift if cell.bias == "free" else None,
        "least_curvature": fit.least_curvature,
        "l0": l0(codes),
        "live_atoms": int((np.asarray(codes.codes.sum(axis=0)).ravel() > 0).sum()),
        "outcome": fit.status.name,
        "fvu": fvu(problem, codes, cell.X),
        "validation": None if watched is None else watched.value,
        "n_validation": len(cell.X) - len(fit.problem.X),
    }
    outcome = Outcome(numbers, found.objections, {"dictionary": fit.dictionary, "bias": fit.bias})
    return added(cell, outcome, evaluated(cell, fit.dictionary, fit.bias), found.value)


def learn(
    cell: CellInput,
    lam: float,
    start: Any,
    *,
    stationarity: float,
    second_order: bool = False,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    apart: tuple[Activations, HeldOut] | None = None,
) -> DictionaryFit:
    """Learn at this λ from this start, on some of the rows where others watch. An interrupt passes through."""
    rows, watch = (cell.X, None) if apart is None else apart
    problem = JointProblem(rows, cell.width, lam, bias=cell.bias_value)
    settings = Settings(stationarity, Given.of(start, problem), second_order, held_out=watch)
    return search(problem, settings, replace(cell.within(max_seconds).inner(), max_steps=max_steps))


METHOD = Method(
    "learned",
    learned,
    axes=("n_atoms", "seed"),
    attains=("value",),
    evaluates=True,
    attained="value",
    columns={
        "validation": (
            "Float64",
            "learned: F on the validation rows at the end; these rows chose the dictionary and flatter it",
        ),
        "n_validation": ("Int64", "learned: number of validation rows; value includes them"),
    },
    planned={"warm": (one_of(("n_atoms", "lam", "none"), many=True), ("n_atoms", "lam"))},
)
