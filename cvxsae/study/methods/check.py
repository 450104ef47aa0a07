"""The optimality report of a learned dictionary."""

from __future__ import annotations

from typing import Annotated

from cvxsae.diagnostics.check import Conditions
from cvxsae.diagnostics.check import check as measure
from cvxsae.diagnostics.sums import at_one_bias, never_too_late
from cvxsae.errors import InputError
from cvxsae.study.held_out import added, evaluated
from cvxsae.study.keys import POSITIVE, SEED, YES_OR_NO
from cvxsae.study.method import CODES_TOL, CellInput, Method, Outcome, inexact


def check(
    cell: CellInput,
    *,
    tol: Annotated[float, POSITIVE] = 1e-4,
    splits: Annotated[bool, YES_OR_NO] = True,
    new_atoms: Annotated[int, SEED] = 32,
    second_order: Annotated[bool, YES_OR_NO] = False,
    noiseless: Annotated[bool, YES_OR_NO] = False,
) -> Outcome:
    """Check every condition of optimality at a learned dictionary."""
    if cell.start is None:
        raise InputError("there is no dictionary to check, as the cell that learns it failed.")
    dictionary, bias = cell.start
    chosen = Conditions(splits=splits, new_atoms=new_atoms, second_order=second_order, noiseless=noiseless)
    problem = at_one_bias(cell.X, dictionary, cell.lam, bias)
    with never_too_late():
        report = measure(problem, None, chosen, tol, cell.run, bias_is_free=cell.bias == "free")
    found, second, gap = report.summary(), report.second_order, report.statistics.codes.gap
    numbers = {
        "value": report.value,
        "lower_bound": report.lower_bound,
        "l0": found["l0"],
        "live_atoms": cell.width - found["dead"],
        "codes_gap": gap,
        "stationarity": found["stationarity"],
        "bias_residual": found["bias_residual"] if cell.bias == "free" else None,
        "identity_deficit": found["identity_deficit"],
        "new_atom_gain": found["best_new_atom_gain"],
        "split_score": found["largest_split_score"],
        "dense": found["dense"],
        "least_curvature": None if second is None else second.least.eigenvalue,
        "outcome": "STATIONARY" if report.is_stationary else "NOT_STATIONARY",
    }
    aside = evaluated(cell, dictionary, bias)
    arrays = {} if aside is None else {"dictionary": dictionary, "bias": bias}
    return added(cell, Outcome(numbers, inexact(gap, CODES_TOL), arrays), aside, report.value)


METHOD = Method(
    "check",
    check,
    axes=("n_atoms", "seed"),
    columns={
        "identity_deficit": ("Float64", "check: largest deviation from the cosine–co-firing identity (T4)"),
        "new_atom_gain": ("Float64", "check: decrease of F by the best new atom found (T7)"),
        "split_score": ("Float64", "check: largest split score (T8)"),
        "dense": ("Int64", "check: number of dense features"),
    },
    needs="learned",
    evaluates=True,
)
