"""F_wide, the floor of every width (T9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch

from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.solvers.floors.search import solved_wide_limit
from cvxsae.study.keys import POSITIVE
from cvxsae.study.method import Bound, CellInput, Method, Outcome, unexplained
from cvxsae.validation.certify import certify


def wide_limit(cell: CellInput, *, tol: Annotated[float, POSITIVE] = 1e-9) -> Outcome:
    """Solve the wide limit; datapoints longer than λ have an atom of their own."""
    problem = WideLimit(cell.X, cell.lam, bias=cell.bias_value)
    solution = solved_wide_limit(problem, tol, cell.run)
    found = certify(problem, solution)
    bias = torch.from_numpy(np.array(solution.bias))
    norms = np.concatenate([torch.linalg.vector_norm(batch - bias, dim=1).numpy() for batch in cell.X.batches()])
    coded = int((norms > cell.lam).sum())
    numbers: dict[str, Any] = {
        "value": found.value,
        "lower_bound": found.lower_bound,
        "l0": coded / len(norms),
        "live_atoms": coded,
        "fvu": unexplained(float(np.square(np.minimum(norms, cell.lam)).sum()), cell.X),
        "outcome": solution.status.name,
        "bias_residual": found.bias_residual,
        "lambda_max": found.lambda_max,
    }
    if cell.held_out is not None:
        aside = WideLimit(cell.held_out, cell.lam, bias=cell.bias_value)
        there = certify(aside, solved_wide_limit(aside, tol, cell.run))
        numbers |= {"n_held_out": len(cell.held_out), "held_out_wide": there.lower_bound}
    return Outcome(numbers, found.objections)


def floor_for(numbers: Mapping[str, Any], n_atoms: int | None) -> Bound | None:
    """Of every width."""
    return Bound(numbers["lower_bound"], "T9", None)


METHOD = Method("wide_limit", wide_limit, floor_for=floor_for)
