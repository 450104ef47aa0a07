"""The working sets of :func:`~cvxsae.encode` as the solver of :class:`SparseCodes` at a fixed bias."""

from __future__ import annotations

from dataclasses import replace

from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import RECOVERY_BYTES
from cvxsae.relaxations.solution import Evaluated, Record, Solution, Status, judge
from cvxsae.solvers.codes.encode import SMALLEST_TOL, encode_rows
from cvxsae.solvers.convex.driver import announce

NAME = "working-set"
"""What ``solver`` calls it."""

_WORTH_COMPILING = 1e8
"""Multiplications in a pass from which the compiled engine pays for the seconds its first call may compile."""


def solve_working_set(problem: SparseCodes, asked: float, run: Run) -> Solution:
    """Solve every datapoint to a relative gap of ``tol`` by working sets; the solution's codes are sparse.

    The gap of the whole is then at most that of its worst datapoint. The dual point is the residual, each row shrunk
    into ``{y : D y ≤ λ}`` (T1); it is written out unless it would be larger than half a gigabyte or time is over: then
    value and bound are those that came with the codes. The bias must not be free.
    """
    tol = min(max(asked, SMALLEST_TOL), 1.0)
    bias = problem.fixed_bias()
    engine = "torch" if problem.evaluation_cost < _WORTH_COMPILING else "auto"
    codes = encode_rows(problem, replace(run, folder=None), tol=tol, engine=engine)
    candidate = problem.candidate(codes.codes, bias.numpy())
    is_cut = codes.status in (Status.TIME_LIMIT, Status.INTERRUPTED)
    if not is_cut and problem.n_points * problem.dim * 8 <= RECOVERY_BYTES:
        dual = problem.feasible_dual(problem.residual(candidate)).numpy()
        candidate = problem.candidate(codes.codes, bias.numpy(), dual)
    solution = judge(
        problem,
        Evaluated(candidate, codes.value, codes.lower_bound) if is_cut else candidate,
        codes.status,
        tol=asked,
        history=(Record(codes.rounds, codes.seconds, codes.value, codes.lower_bound),),
        seconds=codes.seconds,
        solver=NAME,
        info={
            "rounds": codes.rounds,
            "correlation_passes": codes.passes_mean,
            "l0": codes.l0,
            "engine": codes.engine,
            "largest_datapoint_gap": float(codes.gaps.max()),
            "device": str(run.device),
        },
    )
    return announce(solution, run)
