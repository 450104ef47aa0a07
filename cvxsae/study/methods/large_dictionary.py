"""The large dictionary with a price on its atoms (problem (7) of the theory)."""

from __future__ import annotations

from typing import Annotated

from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.tidy import live_atoms, tidy
from cvxsae.solvers.convex.solve import solved
from cvxsae.study.keys import POSITIVE
from cvxsae.study.method import CellInput, Method, Outcome, fvu, l0
from cvxsae.validation.certify import certify

ANY_GAP = 1.0
"""Relative gap that the referee lets pass: here the gap is reported, and need not be closed."""


def large_dictionary(
    cell: CellInput,
    *,
    tol: Annotated[float, POSITIVE] = 1e-3,
    max_seconds: Annotated[float | None, POSITIVE] = None,
) -> Outcome:
    """Solve it, and count the atoms that are left once what is worth less than the tolerance is dropped."""
    cost = cell.atom_cost or 0.0
    problem = LargeDictionary(cell.X, cell.lam, cost, bias=cell.bias_value)
    solution = solved(problem, cell.within(max_seconds).inner(), tol=tol)
    found = certify(problem, solution, tol=ANY_GAP)
    candidate = tidy(problem, solution, slack=tol) if cost > 0 else solution
    numbers = {
        "value": found.value,
        "lower_bound": found.lower_bound,
        "solver_gap": found.solver_gap,
        "relaxation_gap": found.relaxation_gap,
        "live_atoms": live_atoms(candidate),
        "l0": l0(candidate),
        "fvu": fvu(problem, candidate, cell.X),
        "outcome": solution.status.name,
        "lambda_max": found.lambda_max,
    }
    return Outcome(numbers, found.objections)


METHOD = Method(
    "large_dictionary",
    large_dictionary,
    axes=("atom_cost",),
    columns={
        "solver_gap": ("Float64", "large_dictionary: part of the gap that is due to the solver"),
        "relaxation_gap": ("Float64", "large_dictionary: part of the gap that is due to the relaxation"),
    },
)
