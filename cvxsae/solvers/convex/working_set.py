"""The working sets of :func:`~cvxsae.encode` as the solver of :class:`SparseCodes` at a fixed bias.

And of the penalties of :class:`PenalizedCodes` that are a lasso: L1, elastic net and signed L1 as they are, and the
exclusive norm on more rows. With ``½λ Σ_g (Σ_{k∈g} z_k)²`` as squares of further coordinates, one per group, in which
atom k has ``√λ`` at its group, and ``κ/√λ`` in every such coordinate of the datapoint,

    ½‖x − zD‖² + ½ Σ_g (κ/√λ − √λ S_g)² + κ Σ_k z_k = ½‖x − zD‖² + ½λ Σ_g S_g² + G κ²/(2λ),

for any κ > 0: the L1 norm cancels, and what is left is nonnegative least squares.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import scipy.sparse
import torch

from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.convex.penalties.sums import Exclusive
from cvxsae.relaxations.convex.wide_limit import RECOVERY_BYTES
from cvxsae.relaxations.solution import Evaluated, Record, Solution, Status, judge
from cvxsae.solvers.codes.encode import SMALLEST_TOL, encode_rows
from cvxsae.solvers.convex.driver import announce

NAME = "working-set"
"""What ``solver`` calls it."""

_WORTH_COMPILING = 1e8
"""Multiplications in a pass from which the compiled engine pays for the seconds its first call may compile."""


STACKED_PENALTY = 0.1
"""κ of the stacked exclusive norm over λ, for datapoints of length 1: its constant stays below the value."""

STACKED_SHARE = 0.1
"""Share of the gap asked for that the stacked problem is solved to: its value is larger by the constant."""


def fits(problem: PenalizedCodes) -> bool:
    """Whether its penalty is a lasso, and its datapoints are not coupled."""
    return not problem.bias_is_free and (problem.lasso is not None or isinstance(problem.penalty, Exclusive))


def solve_penalized(problem: PenalizedCodes, asked: float, run: Run) -> Solution:
    """Solve :class:`PenalizedCodes` that are a lasso; value, bound and gap are those of its own formula."""
    if problem.lasso is not None:
        found = solve_working_set(problem.lasso, asked, run)
        known = Evaluated(Candidate(**{f.name: getattr(found, f.name) for f in fields(Candidate)}), found.value)
        return judge(
            problem,
            known if found.status in (Status.TIME_LIMIT, Status.INTERRUPTED) else known.candidate,
            found.status,
            tol=asked,
            history=found.history,
            seconds=found.seconds,
            solver=NAME,
            info=found.info,
        )
    stacked, lengths, atom_norm = _stacked(problem)
    tol = min(max(STACKED_SHARE * asked, SMALLEST_TOL), 1.0)
    codes = encode_rows(stacked, replace(run, folder=None), tol=tol, engine=engine_for(stacked))
    Z = scipy.sparse.csr_array(scipy.sparse.diags_array(lengths / atom_norm) @ codes.codes)
    candidate = problem.candidate(Z, problem.fixed_bias().numpy())
    if codes.status not in (Status.TIME_LIMIT, Status.INTERRUPTED):
        dual = problem.feasible_dual(problem.residual(candidate)).numpy()
        candidate = problem.candidate(Z, problem.fixed_bias().numpy(), dual)
    solution = judge(
        problem,
        candidate,
        codes.status,
        tol=asked,
        seconds=codes.seconds,
        solver=NAME,
        info={"rounds": codes.rounds, "l0": codes.l0, "engine": codes.engine, "device": str(run.device)},
    )
    record = Record(codes.rounds, codes.seconds, solution.value, solution.lower_bound)
    return announce(replace(solution, history=(record,)), run)


def _stacked(problem: PenalizedCodes) -> tuple[SparseCodes, np.ndarray, float]:
    """The lasso of the exclusive norm for datapoints of length 1, their lengths, and the norm of its atoms."""
    assert isinstance(problem.penalty, Exclusive)
    offsets = problem.X.to_numpy().astype(np.float64) - problem.fixed_bias().numpy()
    lengths = np.linalg.norm(offsets, axis=1)
    unit = offsets / np.where(lengths > 0, lengths, 1.0)[:, None]
    groups, root = problem.penalty.n_groups, np.sqrt(problem.lam)
    kappa = STACKED_PENALTY * problem.lam
    more = np.full((len(unit), groups), kappa / root)
    members = np.zeros((problem.n_atoms, groups))
    members[np.arange(problem.n_atoms), list(problem.penalty.groups)] = root
    norm = float(np.sqrt(1 + problem.lam))
    weights = np.full(problem.n_atoms, 1 / norm)
    rows = torch.from_numpy(np.hstack([problem.atoms.numpy(), members]))
    return SparseCodes(np.hstack([unit, more]), rows, kappa, weights=weights), lengths, norm


def engine_for(problem: SparseCodes) -> str:
    """The engine of the codes: compiled where that pays."""
    return "torch" if problem.evaluation_cost < _WORTH_COMPILING else "auto"


def solve_working_set(problem: SparseCodes, asked: float, run: Run) -> Solution:
    """Solve every datapoint to a relative gap of ``tol`` by working sets; the solution's codes are sparse.

    The gap of the whole is then at most that of its worst datapoint. The dual point is the residual, each row shrunk
    into ``{y : D y ≤ λ}`` (T1); it is written out unless it would be larger than half a gigabyte or time is over: then
    value and bound are those that came with the codes. The bias must not be free.
    """
    tol = min(max(asked, SMALLEST_TOL), 1.0)
    bias = problem.fixed_bias()
    codes = encode_rows(problem, replace(run, folder=None), tol=tol, engine=engine_for(problem))
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
