"""The reference: every problem as a cone program in cvxpy, solved by the interior-point solver Clarabel."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import SHORTEST
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Solution, Status, judge

if TYPE_CHECKING:
    from cvxsae.parallel.context import Run

NAME = "clarabel"
LARGEST_SIZE = 200_000
LARGEST_SEMIDEFINITE = 100


def size_objection(problem: Problem) -> str | None:
    """Why the reference would not finish on this problem, or None if it would.

    Clarabel's interior-point steps factorise a matrix as large as the number of unknowns; the semidefinite block of
    :class:`LargeDictionary` makes that dense, and time grows about as the fifth power of N (12 s at 60, 57 s at 80).
    """
    from cvxsae.relaxations.convex.conic import conic_size

    size, what = conic_size(problem)
    if isinstance(problem, LargeDictionary):
        if problem.n_points > LARGEST_SEMIDEFINITE:
            minutes = 12 / 60 * (problem.n_points / 60) ** 5.4
            return (
                f"solver='reference' would need {what} for {problem.n_points} rows (about {minutes:,.0f} minutes); "
                f"pass at most {LARGEST_SEMIDEFINITE} rows or use solver='factorised'."
            )
        return None
    if size > LARGEST_SIZE:
        gigabytes = size * 100 * 8 / 2**30
        return (
            f"solver='reference' would need {what}, {size:,} unknowns (limit {LARGEST_SIZE:,}; several minutes and "
            f"upwards of {gigabytes:.1f} GB); pass fewer rows or use the torch solver."
        )
    return None


def solve_reference(problem: Problem, tol: float, run: Run) -> Solution:
    """Solve the conic form with Clarabel to its full accuracy and evaluate the answer as every other.

    For :class:`LargeDictionary` it solves the doubly nonnegative relaxation: its optimal value is in
    ``info["relaxed_value"]``, its Q in ``similarity``; ``value`` is that of the dictionary and codes factorised from Q.

    Raises
    ------
    InputError
        If the problem is too large; the message says what would happen.
    """
    import cvxpy as cp

    from cvxsae.relaxations.convex.conic import conic_form

    objection = size_objection(problem)
    if objection is not None:
        raise InputError(objection)
    start = time.perf_counter()
    form = conic_form(problem)
    options: dict[str, float] = {"tol_gap_rel": 1e-11, "tol_gap_abs": 1e-11, "tol_feas": 1e-10}
    if math.isfinite(run.deadline):
        options["time_limit"] = max(run.left, SHORTEST)
    bar = tqdm(total=None, disable=not run.progress, desc=f"{problem.name} ({NAME})")
    with warnings.catch_warnings():
        # An inaccurate answer is judged by its certificate, like any other.
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        with contextlib.suppress(cp.error.SolverError):  # the status says so, and is reported
            form.problem.solve(solver=cp.CLARABEL, **options)
    bar.close()
    seconds = time.perf_counter() - start
    if form.problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        timed_out = run.is_late
        return judge(
            problem,
            problem.zero_candidate(),
            Status.TIME_LIMIT if timed_out else Status.REFERENCE_FAILED,
            tol=tol,
            seconds=seconds,
            solver=NAME,
            info={"conic_status": str(form.problem.status)},
        )
    candidate, nothing = form.read(), problem.zero_candidate()
    if problem.primal_value(nothing) <= problem.primal_value(candidate):
        # An interior point is never exactly zero, and no codes at all can be the answer.
        candidate = replace(candidate, bias=nothing.bias, dictionary=nothing.dictionary, codes=nothing.codes)
    info = {"conic_status": form.problem.status, "conic_value": float(form.problem.value) * form.value_scale}
    if isinstance(problem, LargeDictionary) and candidate.similarity is not None:
        # Zero and what is attained bound the relaxation's optimum too, and exactly where it is zero.
        info["relaxed_value"] = min(max(info["conic_value"], 0.0), problem.primal_value(candidate))
    return judge(
        problem,
        candidate,
        Status.STALLED,
        tol=tol,
        seconds=time.perf_counter() - start,
        solver=NAME,
        info=info,
    )
