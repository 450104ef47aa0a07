"""The reference: every problem as a cone program in cvxpy, solved by the interior-point solver Clarabel."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from dataclasses import replace
from functools import partial

from tqdm.auto import tqdm

from cvxsae.parallel.context import SHORTEST, Run
from cvxsae.parallel.threads import interruptible
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Record, Solution, Status, judge
from cvxsae.solvers.convex.driver import announce

NAME = "clarabel"
"""What a solution calls this solver."""


LARGEST_SIZE = 200_000
"""Scalar unknowns of the largest conic form worth starting: minutes and a few gigabytes."""

LARGEST_SEMIDEFINITE = 100
"""Rows of the largest doubly nonnegative relaxation worth starting: a few minutes."""

ACCURACY = {"tol_gap_rel": 1e-11, "tol_gap_abs": 1e-11, "tol_feas": 1e-10}
"""What Clarabel is asked for: as much as float64 allows on data scaled to norm 1, so that it can be a reference."""

MINUTES_AT_60 = 12 / 60
GROWTH = 5.4
"""Time of the doubly nonnegative relaxation: minutes at 60 rows, and the power of N by which they grow (measured)."""

BYTES_PER_UNKNOWN = 800
"""Memory of an interior-point solve (measured, to the order of magnitude)."""


def size_objection(problem: Problem) -> str | None:
    """Why the reference would not finish on this problem, as the end of a sentence; None if it would.

    Clarabel's interior-point steps factorize a matrix as large as the number of unknowns; the semidefinite block of
    :class:`LargeDictionary` makes that dense, and time grows about as the fifth power of N (12 s at 60, 57 s at 80).
    """
    from cvxsae.relaxations.convex.conic import conic_size

    size, what = conic_size(problem)
    if isinstance(problem, LargeDictionary):
        if problem.n_points > LARGEST_SEMIDEFINITE:
            minutes = MINUTES_AT_60 * (problem.n_points / 60) ** GROWTH
            return (
                f"would need {what} for {problem.n_points} rows (about {minutes:,.0f} minutes; it takes at most "
                f"{LARGEST_SEMIDEFINITE} rows)"
            )
        return None
    if size > LARGEST_SIZE:
        gigabytes = size * BYTES_PER_UNKNOWN / 2**30
        return (
            f"would need {what}, {size:,} unknowns (limit {LARGEST_SIZE:,}; several minutes and upwards of "
            f"{gigabytes:.1f} GB)"
        )
    return None


def _ended(conic_status: str, run: Run) -> Status:
    """Why Clarabel reports no optimum."""
    if run.is_late:
        return Status.TIME_LIMIT
    return Status.MAX_ITER if "limit" in conic_status and run.max_steps is not None else Status.REFERENCE_FAILED


def solve_reference(problem: Problem, tol: float, run: Run) -> Solution:
    """Solve the conic form with Clarabel to its full accuracy and evaluate the answer as every other.

    For :class:`LargeDictionary` it solves the doubly nonnegative relaxation: its optimal value is in
    ``relaxed_value``, its Q in ``similarity``; ``value`` is that of the dictionary and codes factorized from Q.

    The callback hears of the answer once, at the end; ``max_steps`` limits Clarabel's iterations.
    """
    import cvxpy as cp

    from cvxsae.relaxations.convex.conic import conic_form

    start = time.perf_counter()
    form = conic_form(problem)
    options: dict[str, float] = dict(ACCURACY)
    if math.isfinite(run.deadline):
        options["time_limit"] = max(run.left, SHORTEST)
    if run.max_steps is not None:
        options["max_iter"] = run.max_steps
    interrupted = False
    with (
        tqdm(total=None, disable=not run.progress, desc=f"{problem.name} ({NAME})"),
        warnings.catch_warnings(),
        contextlib.suppress(cp.error.SolverError),  # the status says so, and is reported
    ):
        # An inaccurate answer is judged by its certificate, like any other.
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        try:
            interruptible(partial(form.problem.solve, solver=cp.CLARABEL, **options))
        except KeyboardInterrupt:
            if not run.is_outermost:
                raise
            interrupted = True
    if interrupted or form.problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        nothing, seconds = problem.zero_candidate(), time.perf_counter() - start
        if isinstance(problem, LargeDictionary):  # its referee believes a proof, and makes only a simple one itself
            dual, proof = problem.dual_candidate(problem.X.to_tensor() - problem.starting_bias())
            nothing = replace(nothing, dual=dual, proof=proof)
        value, bound = problem.bounds(nothing)
        solution = judge(
            problem,
            nothing,
            Status.INTERRUPTED if interrupted else _ended(str(form.problem.status), run),
            tol=tol,
            history=(Record(0, seconds, value, bound),),
            seconds=seconds,
            solver=NAME,
            info={"conic_status": str(form.problem.status)},
        )
        return announce(solution, run)
    candidate, nothing = form.read(), problem.zero_candidate()
    if problem.primal_value(nothing) <= problem.primal_value(candidate):
        # An interior point is never exactly zero, and no codes at all can be the answer.
        candidate = replace(candidate, bias=nothing.bias, dictionary=nothing.dictionary, codes=nothing.codes)
    info = {"conic_status": form.problem.status, "conic_value": float(form.problem.value) * form.value_scale}
    solution = judge(
        problem,
        candidate,
        Status.TIME_LIMIT if run.is_late else Status.STALLED,
        tol=tol,
        seconds=time.perf_counter() - start,
        solver=NAME,
        info=info,
    )
    if isinstance(problem, LargeDictionary) and solution.relaxed_value is None and candidate.similarity is not None:
        # Zero and what is attained bound the relaxation's optimum too, and exactly where it is zero.
        solution = replace(solution, relaxed_value=min(max(info["conic_value"], 0.0), problem.primal_value(candidate)))
    if solution.status is Status.STALLED and solution.solver_gap is not None and solution.solver_gap <= tol:
        solution = replace(solution, status=Status.RELAXED)
    last = Record(int(form.problem.solver_stats.num_iters or 0), solution.seconds, solution.value, solution.lower_bound)
    return announce(replace(solution, history=(last,)), run)
