"""``solve``: one call for every problem."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Unpack

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.parallel.context import Run, Steps, keywords
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_proofs import LARGEST_TRIPLES
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.shared import share_wide_limit
from cvxsae.relaxations.solution import NotCertifiedError, Solution, judge
from cvxsae.solvers.convex import working_set as active_set
from cvxsae.solvers.convex.candidates.block_descent import BlockDescent
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.column_generation import Directions
from cvxsae.solvers.convex.large.copositive import CuttingPlanes
from cvxsae.solvers.convex.large.factorised import Factorised
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative
from cvxsae.solvers.convex.reference import solve_reference
from cvxsae.solvers.convex.wide_newton import WideLimitNewton

_WORTH_COMPILING = 1e6
"""Multiplications in a pass from which the compiled block descent pays for the seconds its first call may compile."""

SOLVERS = (
    "auto",
    "torch",
    "newton",
    "working-set",
    "proximal-gradient",
    "block-descent",
    "splitting",
    "directions",
    "cuts",
    "factorised",
    "reference",
)


class SolveOptions(Steps, total=False):
    """How :func:`solve` runs."""


@keywords(SolveOptions)
def solve(
    problem: Problem,
    *,
    solver: str = "auto",
    tol: float = 1e-6,
    raise_on_failure: bool = True,
    **options: Unpack[SolveOptions],
) -> Solution:
    """Solve a convex problem to a certified relative gap.

    Datapoints shared by several processes (:meth:`cvxsae.parallel.ProcessGroup.shard`) make a :class:`WideLimit` of all
    of them: value, bound and bias are those of all rows, atoms, codes and dual those of the rows here.

    Parameters
    ----------
    problem
        :class:`WideLimit`, :class:`SparseCodes`, :class:`CandidateDictionary` or :class:`LargeDictionary`.
    solver
        ``"auto"`` picks by problem, size, device and bias; ``"torch"`` is the problem's own torch solver
        (``"newton"``, ``"proximal-gradient"`` or ``"block-descent"``, ``"splitting"`` or in up to three dimensions
        ``"directions"``); ``"cuts"`` is the large dictionary with a bound above the doubly nonnegative one, for up to
        100 datapoints; ``"reference"`` is cvxpy with Clarabel.
    tol
        Relative gap ``(value − lower_bound)/value`` to reach, evaluated in float64 at the returned point.
    raise_on_failure
        Whether a solve that is not certified raises.
    max_seconds, max_steps
        Limits; None for no limit, and for the algorithm's own.
    device
        Where torch computes: ``"cpu"`` (default) or ``"cuda"``.
    progress
        Whether to show a progress bar.
    callback
        Called with a :class:`Record` at every evaluation of the gap.

    Returns
    -------
    Solution
        Value, lower bound, status and arrays; values are per datapoint, as in (P).

    Raises
    ------
    InputError
        For a solver that does not fit the problem, a reference that would not finish, or arguments that are not the
        same in all processes.
    NotCertifiedError
        If the gap was not closed to ``tol``; the exception holds the solution.
    CertificateError
        If a lower bound came out above a value.
    GroupError
        If another process failed.
    """
    if not isinstance(problem, Problem):
        raise InputError(
            f"problem is a {type(problem).__name__}; "
            "pass a WideLimit, SparseCodes, CandidateDictionary or LargeDictionary."
        )
    with problem.group.guard():
        run = Run.start(options, SolveOptions, group=problem.group)
        arguments.nonnegative(tol, "tol")
        arguments.choice(solver, "solver", SOLVERS)
        if isinstance(problem, LargeDictionary):
            problem.require_resolvable()
        with threads_for(problem):
            solution = _solve(problem, solver, tol, run)
    if raise_on_failure and not solution.is_certified:
        raise NotCertifiedError(solution)
    return solution


def _solve(problem: Problem, solver: str, tol: float, run: Run) -> Solution:
    """Solve with arguments that have been checked."""
    if not problem.group.is_alone:
        return _shared_solve(problem, solver, tol, run)
    if solver == "reference":
        return solve_reference(problem, tol, run)
    return _torch_solve(problem, solver, tol, run)


def _shared_solve(problem: Problem, solver: str, tol: float, run: Run) -> Solution:
    """Newton for the wide limit of the rows of all processes."""
    group = problem.group
    if not isinstance(problem, WideLimit) or solver not in ("auto", "torch", WideLimitNewton.name):
        raise InputError(
            f"X is shared by {group.size} processes but problem is {problem.name!r} with solver {solver!r}; several "
            "processes share WideLimit with solver='auto' (encode and learn_dictionary take shared data as well)."
        )
    group.agree(
        call="solve",
        d=problem.dim,
        dtype=problem.X.tensor.dtype,
        lam=problem.lam,
        bias=problem.bias,
        tol=tol,
        limited=math.isfinite(run.deadline),
        max_steps=run.max_steps,
    )
    shared = share_wide_limit(problem, group)
    solution = iterate(WideLimitNewton(group), shared, tol, run)
    return replace(
        solution, info={**solution.info, "n_points": int(group.total(problem.n_points)), "processes": group.size}
    )


def _torch_solve(problem: Problem, solver: str, tol: float, run: Run) -> Solution:
    """Dispatch to the algorithm that fits; the one place where problems meet algorithms."""
    expected: str
    if isinstance(problem, WideLimit):
        expected = WideLimitNewton.name
        if solver in ("auto", "torch", expected):
            return iterate(WideLimitNewton(), problem, tol, run)
    elif isinstance(problem, SparseCodes) and not problem.bias_is_free:
        expected = active_set.NAME
        if solver in ("auto", "torch", expected):
            return active_set.solve_active_set(problem, tol, run)
        if solver == ProximalGradient.name:
            return iterate(ProximalGradient(), problem, tol, run)
    elif isinstance(problem, FixedAtoms):
        blocks = isinstance(problem, CandidateDictionary) and run.device.type == "cpu"
        if blocks and problem.evaluation_cost >= _WORTH_COMPILING and solver in ("auto", "torch"):
            solver = BlockDescent.name
        if blocks and solver == BlockDescent.name:
            return iterate(BlockDescent(), problem, tol, run)
        expected = ProximalGradient.name
        if solver in ("auto", "torch", expected):
            return iterate(ProximalGradient(), problem, tol, run)
    elif isinstance(problem, LargeDictionary) and problem.atom_cost == 0:
        expected = WideLimitNewton.name
        if solver in ("auto", "torch", expected):
            return _without_surcharge(problem, tol, run)
    elif isinstance(problem, LargeDictionary):
        few = problem.dim <= LARGEST_DIM
        expected = Directions.name if few else DoublyNonnegative.name
        # In few dimensions the polar is exact: there is no relaxation, and nothing to cut.
        if few and solver in ("auto", "torch", expected, CuttingPlanes.name):
            directions = Directions(tol)
            return iterate(directions, problem, tol, run)
        if solver in ("auto", "torch", expected):
            pair = DoublyNonnegative(tol)
            return iterate(pair, problem, tol, run)
        if solver == CuttingPlanes.name:
            if problem.n_points > LARGEST_TRIPLES:
                raise InputError(
                    f"solver is 'cuts' but X has {problem.n_points:,} rows, and cuts work on tensors of N³ entries; "
                    f"pass at most {LARGEST_TRIPLES} rows or use solver='splitting'."
                )
            cuts = CuttingPlanes(tol)
            return iterate(cuts, problem, tol, run)
        if solver == Factorised.name:
            return iterate(Factorised(), problem, tol, run)
    else:
        raise InputError(f"problem is a {type(problem).__name__}, which no solver here knows.")
    raise InputError(f"solver is {solver!r} but {problem.name!r} is solved by {expected!r} (or 'reference').")


def _without_surcharge(problem: LargeDictionary, tol: float, run: Run) -> Solution:
    """At τ = 0 atoms are free and the large dictionary is the wide limit, one atom a datapoint (T9)."""
    wide = WideLimit(problem.X, problem.lam, problem.bias)
    solution = iterate(WideLimitNewton(), wide, tol, run)
    if solution.dictionary is None:
        raise InputError(
            f"atom_cost is 0 and X has {problem.n_points:,} rows, so the dictionary would be as large as the data; "
            "solve WideLimit(X, lam) instead."
        )
    atoms = problem.atom_per_datapoint(solution.bias)
    return judge(
        problem,
        replace(atoms, dual=solution.dual),
        solution.status,
        tol=tol,
        history=solution.history,
        seconds=solution.seconds,
        solver=solution.solver,
        info=solution.info,
    )
