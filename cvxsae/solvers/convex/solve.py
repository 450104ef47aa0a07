"""``solve``: one call for every problem."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.parallel.group import ALONE, ProcessGroup, chosen_device
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_proofs import LARGEST_TRIPLES
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.shared import share_wide_limit
from cvxsae.relaxations.solution import NotCertifiedError, Record, Solution, judge
from cvxsae.solvers.convex import working_set as active_set
from cvxsae.solvers.convex.candidates.block_descent import BlockDescent
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from cvxsae.solvers.convex.driver import Limits, iterate
from cvxsae.solvers.convex.large.column_generation import Directions
from cvxsae.solvers.convex.large.copositive import CuttingPlanes
from cvxsae.solvers.convex.large.factorised import Factorised
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative
from cvxsae.solvers.convex.reference import solve_reference
from cvxsae.solvers.convex.wide_newton import WideLimitNewton

if TYPE_CHECKING:
    from collections.abc import Callable

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


def solve(
    problem: Problem,
    *,
    solver: str = "auto",
    tol: float = 1e-6,
    max_seconds: float | None = None,
    max_iterations: int | None = None,
    device: str | torch.device | None = None,
    raise_on_failure: bool = True,
    progress: bool = False,
    callback: Callable[[Record], None] | None = None,
    group: ProcessGroup | None = None,
) -> Solution:
    """Solve a convex problem to a certified relative gap.

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
    max_seconds, max_iterations
        Limits; None for no limit, and for the algorithm's own.
    device
        Where torch computes: ``"cpu"`` (default) or ``"cuda"``.
    raise_on_failure
        Whether a solve that is not certified raises.
    progress
        Whether to show a progress bar.
    callback
        Called with a :class:`Record` at every evaluation of the gap.
    group
        The processes that share a :class:`WideLimit`, from :func:`cvxsae.process_group`: each passes the problem of its
        own rows; value, bound and bias are those of all rows, atoms, codes and dual those of the rows here. (Codes
        for a dictionary: :func:`cvxsae.encode`.)

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
    group = group or ALONE
    with group.guard():
        solution = _checked_solve(
            problem, solver, Limits(tol, max_seconds, max_iterations), chosen_device(device, group), progress, callback,
            group,
        )  # fmt: skip
    if raise_on_failure and not solution.is_certified:
        raise NotCertifiedError(solution)
    return solution


def _checked_solve(
    problem: Problem, solver: str, limits: Limits, chosen: torch.device, progress: bool,
    callback: Callable[[Record], None] | None, group: ProcessGroup,
) -> Solution:  # fmt: skip
    """Check what is asked for, and solve it."""
    if not isinstance(problem, Problem):
        raise InputError(
            f"problem is a {type(problem).__name__}; "
            "pass a WideLimit, SparseCodes, CandidateDictionary or LargeDictionary."
        )
    if isinstance(problem, LargeDictionary):
        problem.require_resolvable()
    arguments.choice(solver, "solver", SOLVERS)
    with threads_for(problem):
        if not group.is_alone:
            return _shared_solve(problem, solver, limits, chosen, progress, callback, group)
        if solver == "reference":
            return solve_reference(problem, limits, progress=progress)
        return _torch_solve(problem, solver, limits, chosen, progress, callback)


def _shared_solve(
    problem: Problem, solver: str, limits: Limits, device: torch.device, progress: bool,
    callback: Callable[[Record], None] | None, group: ProcessGroup,
) -> Solution:  # fmt: skip
    """Newton for the wide limit of the rows of all processes."""
    if not isinstance(problem, WideLimit) or solver not in ("auto", "torch", WideLimitNewton.name):
        raise InputError(
            f"group has {group.size} processes but problem is {problem.name!r} with solver {solver!r}; several "
            "processes share WideLimit with solver='auto' (encode and learn_dictionary take a group as well)."
        )
    group.agree(
        call="solve", d=problem.dim, dtype=problem.X.tensor.dtype, lam=problem.lam, bias=problem.bias, tol=limits.tol,
        max_seconds=limits.max_seconds, max_iterations=limits.max_iterations,
    )  # fmt: skip
    shared = share_wide_limit(problem, group)
    solution = iterate(
        WideLimitNewton(group), shared, limits, device=device, progress=progress, callback=callback, group=group
    )
    return replace(
        solution, info={**solution.info, "n_points": int(group.total(problem.n_points)), "processes": group.size}
    )


def _torch_solve(
    problem: Problem,
    solver: str,
    limits: Limits,
    device: torch.device,
    progress: bool,
    callback: Callable[[Record], None] | None,
) -> Solution:
    """Dispatch to the algorithm that fits; the one place where problems meet algorithms."""
    expected: str
    if isinstance(problem, WideLimit):
        expected = WideLimitNewton.name
        if solver in ("auto", "torch", expected):
            return iterate(WideLimitNewton(), problem, limits, device=device, progress=progress, callback=callback)
    elif isinstance(problem, SparseCodes) and not problem.bias_is_free:
        expected = active_set.NAME
        if solver in ("auto", "torch", expected):
            return active_set.solve_active_set(problem, limits, device=device, progress=progress)
        if solver == ProximalGradient.name:
            return iterate(ProximalGradient(), problem, limits, device=device, progress=progress, callback=callback)
    elif isinstance(problem, FixedAtoms):
        blocks = isinstance(problem, CandidateDictionary) and device.type == "cpu"
        if blocks and problem.evaluation_cost >= _WORTH_COMPILING and solver in ("auto", "torch"):
            solver = BlockDescent.name
        if blocks and solver == BlockDescent.name:
            return iterate(BlockDescent(), problem, limits, device=device, progress=progress, callback=callback)
        expected = ProximalGradient.name
        if solver in ("auto", "torch", expected):
            return iterate(ProximalGradient(), problem, limits, device=device, progress=progress, callback=callback)
    elif isinstance(problem, LargeDictionary) and problem.atom_cost == 0:
        expected = WideLimitNewton.name
        if solver in ("auto", "torch", expected):
            return _without_surcharge(problem, limits, device, progress, callback)
    elif isinstance(problem, LargeDictionary):
        few = problem.dim <= LARGEST_DIM
        expected = Directions.name if few else DoublyNonnegative.name
        # In few dimensions the polar is exact: there is no relaxation, and nothing to cut.
        if few and solver in ("auto", "torch", expected, CuttingPlanes.name):
            directions = Directions(limits.tol)
            return iterate(directions, problem, limits, device=device, progress=progress, callback=callback)
        if solver in ("auto", "torch", expected):
            pair = DoublyNonnegative(limits.tol)
            return iterate(pair, problem, limits, device=device, progress=progress, callback=callback)
        if solver == CuttingPlanes.name:
            if problem.n_points > LARGEST_TRIPLES:
                raise InputError(
                    f"solver is 'cuts' but X has {problem.n_points:,} rows, and cuts work on tensors of N³ entries; "
                    f"pass at most {LARGEST_TRIPLES} rows or use solver='splitting'."
                )
            cuts = CuttingPlanes(limits.tol)
            return iterate(cuts, problem, limits, device=device, progress=progress, callback=callback)
        if solver == Factorised.name:
            return iterate(Factorised(), problem, limits, device=device, progress=progress, callback=callback)
    else:
        raise InputError(f"problem is a {type(problem).__name__}, which no solver here knows.")
    raise InputError(f"solver is {solver!r} but {problem.name!r} is solved by {expected!r} (or 'reference').")


def _without_surcharge(
    problem: LargeDictionary,
    limits: Limits,
    device: torch.device,
    progress: bool,
    callback: Callable[[Record], None] | None,
) -> Solution:
    """At τ = 0 atoms are free and the large dictionary is the wide limit, one atom a datapoint (T9)."""
    wide = WideLimit(problem.X, problem.lam, problem.bias)
    solution = iterate(WideLimitNewton(), wide, limits, device=device, progress=progress, callback=callback)
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
        tol=limits.tol,
        history=solution.history,
        seconds=solution.seconds,
        solver=solution.solver,
        info=solution.info,
    )
