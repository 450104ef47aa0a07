"""``solve``: one function for every problem, and the table of solvers for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch

from cvxsae.data import arguments
from cvxsae.errors import InputError, NotCertifiedError
from cvxsae.parallel.context import Run, Steps, keywords
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, FixedAtoms, SparseCodes
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.proofs import LARGEST_TRIPLES
from cvxsae.relaxations.solution import Solution, judge
from cvxsae.solvers.convex import nonconvex, working_set
from cvxsae.solvers.convex.bias_descent import WORTH_CODING, BiasDescent
from cvxsae.solvers.convex.candidates import interior_point
from cvxsae.solvers.convex.candidates.block_descent import BlockDescent
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.column_generation import Directions
from cvxsae.solvers.convex.large.copositive import Copositive
from cvxsae.solvers.convex.large.factorized import Factorized
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative
from cvxsae.solvers.convex.large.rounding import require_memory
from cvxsae.solvers.convex.reference import size_objection, solve_reference
from cvxsae.solvers.convex.wide_newton import WideLimitNewton

WANTED = "a WideLimit, SparseCodes, PenalizedCodes, CandidateDictionary or LargeDictionary"
"""What ``problem`` may be."""

REFERENCE = "reference"
"""What ``solver`` calls the conic solver."""


@dataclass(frozen=True)
class Method:
    """One row of the table: a way to solve the problems of one type.

    Attributes
    ----------
    name
        What ``solver`` calls it.
    problem
        The type of problem it is for.
    run
        Solves such a problem to a relative gap, within the limits of a :class:`~cvxsae.parallel.context.Run`.
    why_not
        Why it cannot solve this problem on this device, as the end of a sentence; None if it can.
    is_worthwhile
        Whether ``"auto"`` should take it for this problem, if it can solve it.
    has_steps
        Whether it has a loop that ``max_steps`` can end.
    """

    name: str
    problem: type[Any]
    run: Callable[[Any, float, Run], Solution]
    why_not: Callable[[Any, torch.device], str | None] = lambda problem, device: None
    is_worthwhile: Callable[[Any], bool] = lambda problem: True
    has_steps: bool = True


def _wide(problem: WideLimit, tol: float, run: Run) -> Solution:
    return iterate(WideLimitNewton(), problem, tol, run)


def _shared_wide(problem: WideLimit, tol: float, run: Run) -> Solution:
    """Newton for the wide limit of the rows of all processes."""
    group = problem.group
    group.agree(
        call="solve",
        d=problem.dim,
        dtype=problem.X.dtype,
        lam=problem.lam,
        bias=problem.bias,
        tol=tol,
        limited=math.isfinite(run.deadline),
        max_steps=run.max_steps,
    )
    solution = _wide(problem, tol, run)
    n_points = int(group.total(problem.n_points))
    return replace(solution, info={**solution.info, "n_points": n_points, "processes": group.size})


def _free_atoms(problem: LargeDictionary, tol: float, run: Run) -> Solution:
    """At τ = 0 atoms are free and the large dictionary is the wide limit, one atom per datapoint (T9)."""
    wide = WideLimit(problem.X, problem.lam, bias=problem.bias)
    solution = iterate(WideLimitNewton(is_whole=True), wide, tol, run)
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


def _loop(make: Callable[[float], Any]) -> Callable[[Any, float, Run], Solution]:
    """An algorithm in the common loop; it is told the tolerance."""
    return lambda problem, tol, run: iterate(make(tol), problem, tol, run)


def _bias_is_free(problem: FixedAtoms, device: torch.device) -> str | None:
    return "works datapoint by datapoint, and a free bias couples them" if problem.bias_is_free else None


def _descend_bias(problem: SparseCodes, tol: float, run: Run) -> Solution:
    return iterate(BiasDescent(tol, run.inner()), problem, tol, run)


def _bias_is_fixed(problem: SparseCodes, device: torch.device) -> str | None:
    return None if problem.bias_is_free else "descends in a free bias, and this one is fixed"


def _not_a_lasso(problem: PenalizedCodes, device: torch.device) -> str | None:
    if working_set.fits(problem):
        return None
    return _bias_is_free(problem, device) or f"solves a lasso, and the penalty is {problem.penalty.name!r}"


def _not_convex(problem: FixedAtoms, device: torch.device) -> str | None:
    if isinstance(problem, PenalizedCodes) and not problem.is_convex:
        return f"needs a convex penalty, and {problem.penalty.name!r} is not"
    return None


def _convex(problem: PenalizedCodes, device: torch.device) -> str | None:
    return "is for penalties that are not convex" if problem.is_convex else None


def _not_on_cpu(problem: CandidateDictionary, device: torch.device) -> str | None:
    return None if device.type == "cpu" else f"is compiled for CPUs, and device is {str(device)!r}"


def _atoms_cost(problem: LargeDictionary, device: torch.device) -> str | None:
    return f"solves atom_cost 0, and atom_cost is {problem.atom_cost:g}" if problem.atom_cost else None


def _atoms_are_free(problem: LargeDictionary, device: torch.device) -> str | None:
    return None if problem.atom_cost else "needs a positive atom_cost, and at 0 the problem is the wide limit"


def _too_many_dimensions(problem: LargeDictionary, device: torch.device) -> str | None:
    few = f"searches the sphere in up to {LARGEST_DIM} dimensions, and X has {problem.dim}"
    return _atoms_are_free(problem, device) or (few if problem.dim > LARGEST_DIM else None)


def _too_few_dimensions(problem: LargeDictionary, device: torch.device) -> str | None:
    exact = f"relaxes a polar that is exact in up to {LARGEST_DIM} dimensions, and X has {problem.dim}"
    return _atoms_are_free(problem, device) or (exact if problem.dim <= LARGEST_DIM else None)


def _too_many_points(problem: LargeDictionary, device: torch.device) -> str | None:
    many = f"works on tensors of N³ entries, for at most {LARGEST_TRIPLES} rows, and X has {problem.n_points:,}"
    return _too_few_dimensions(problem, device) or (many if problem.n_points > LARGEST_TRIPLES else None)


def _no_interior_point(problem: FixedAtoms, device: torch.device) -> str | None:
    if isinstance(problem, PenalizedCodes):
        return f"has no steps for the penalty {problem.penalty.name!r}"
    priced = isinstance(problem, SparseCodes) and problem.has_prices
    return "has no steps for weights and ridge" if priced else _no_reference(problem, device)


def _no_reference(problem: Problem, device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"computes on the CPU, and device is {str(device)!r}"
    return (_not_convex(problem, device) if isinstance(problem, PenalizedCodes) else None) or size_objection(problem)


METHODS: tuple[Method, ...] = (
    Method(WideLimitNewton.name, WideLimit, _wide),
    Method(working_set.NAME, SparseCodes, working_set.solve_working_set, _bias_is_free, has_steps=False),
    Method(
        BiasDescent.name,
        SparseCodes,
        _descend_bias,
        _bias_is_fixed,
        is_worthwhile=lambda problem: problem.evaluation_cost >= WORTH_CODING,
    ),
    Method(working_set.NAME, PenalizedCodes, working_set.solve_penalized, _not_a_lasso, has_steps=False),
    Method(
        interior_point.NAME,
        FixedAtoms,
        interior_point.solve_interior_point,
        _no_interior_point,
        is_worthwhile=interior_point.is_worthwhile,
        has_steps=False,
    ),
    Method(
        BlockDescent.name,
        CandidateDictionary,
        _loop(lambda _: BlockDescent()),
        _not_on_cpu,
        is_worthwhile=lambda problem: problem.evaluation_cost >= interior_point.WORTH_COMPILING,
    ),
    Method(ProximalGradient.name, FixedAtoms, _loop(lambda _: ProximalGradient()), _not_convex),
    Method(nonconvex.NAME, PenalizedCodes, nonconvex.solve_nonconvex, _convex, has_steps=False),
    Method(WideLimitNewton.name, LargeDictionary, _free_atoms, _atoms_cost),
    Method(Directions.name, LargeDictionary, _loop(Directions), _too_many_dimensions),
    Method(DoublyNonnegative.name, LargeDictionary, _loop(DoublyNonnegative), _too_few_dimensions),
    Method(Copositive.name, LargeDictionary, _loop(Copositive), _too_many_points),
    Method(Factorized.name, LargeDictionary, _loop(lambda _: Factorized()), _atoms_are_free),
    Method(REFERENCE, Problem, solve_reference, _no_reference),
)
"""Everything that solves something. For ``"auto"`` the first row is taken that fits, is worthwhile, and has steps if
they are limited."""

SOLVERS = ("auto", "torch", *dict.fromkeys(method.name for method in METHODS))
"""What ``solver`` may be."""


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
    """Solve a convex problem to a certified relative gap, or bound codes under a penalty that is not convex.

    Datapoints shared by several processes (:meth:`cvxsae.parallel.ProcessGroup.shard`) make a :class:`WideLimit` of all
    of them: value, bound and bias are those of all rows, atoms, codes and dual those of the rows here.

    Parameters
    ----------
    problem
        :class:`WideLimit`, :class:`SparseCodes`, :class:`PenalizedCodes`, :class:`CandidateDictionary` or
        :class:`LargeDictionary`.
    solver
        ``"auto"`` picks by problem, size, λ, device and bias. ``"torch"`` is the same without the conic solver:
        ``"newton"``, ``"working-set"`` or with a free bias ``"bias-descent"``, ``"proximal-gradient"`` or
        ``"block-descent"``, ``"splitting"`` or in up to three dimensions ``"directions"``; where λ is far below λ_max,
        ``"auto"`` takes ``"interior-point"`` for given atoms. ``"copositive"`` is the large dictionary with a bound
        above the doubly nonnegative one, for up to 100 datapoints; ``"reference"`` is cvxpy with Clarabel.
    tol
        Relative gap ``(value − lower_bound)/value`` to reach, evaluated in float64 at the returned point.
    raise_on_failure
        Whether a solve that failed raises. A relaxation that was solved as far as it goes (``RELAXED``)
        has not failed, nor has a search that is not convex (``BOUNDED``).
    max_seconds, max_steps
        Limits; None for no limit, and for the algorithm's own.
    device
        Where torch computes: ``"cpu"`` (default) or ``"cuda"``.
    progress
        Whether to show a progress bar.
    callback
        Called with a :class:`cvxsae.results.Record` at every evaluation of the gap.

    Returns
    -------
    Solution
        Value, lower bound, status and arrays; values are per datapoint, as in (P).

    Raises
    ------
    InputError
        For a solver that does not fit the problem, a reference that would not finish, matrices that would not fit in
        memory, or arguments that are not the same in all processes.
    NotCertifiedError
        If the gap was not closed to ``tol``; the exception holds the solution.
    CertificateError
        If a lower bound came out above a value.
    GroupError
        If another process failed.

    Examples
    --------
    >>> from cvxsae import WideLimit, solve
    >>> solution = solve(WideLimit([[3.0, 4.0], [-3.0, -4.0]], lam=1.0), tol=1e-9)
    >>> round(solution.value, 6), solution.is_certified
    (4.5, True)
    """
    arguments.instance(problem, "problem", Problem, WANTED)
    with problem.group.guard():
        run = Run.start(options, SolveOptions, group=problem.group)
        tol = arguments.nonnegative(tol, "tol")
        arguments.choice(solver, "solver", SOLVERS)
        solution = solved(problem, run, solver=solver, tol=tol)
    if raise_on_failure and not solution.status.is_success:
        raise NotCertifiedError(solution)
    return solution


def solved(problem: Problem, run: Run, *, solver: str = "auto", tol: float) -> Solution:
    """:func:`solve` for checked arguments, whatever gap is reached; an interrupt passes through an inner run."""
    if isinstance(problem, LargeDictionary):
        problem.require_resolvable()
    method = choose(problem, solver, run)
    if isinstance(problem, LargeDictionary) and method.name == DoublyNonnegative.name:
        require_memory(problem, run.device)
    with threads_for(problem):
        return method.run(problem, tol, run)


def choose(problem: Problem, solver: str, run: Run) -> Method:
    """The row of the table that solves this problem as asked.

    Raises
    ------
    InputError
        If the solver asked for does not fit; the sentence says why, and which ones do.
    """
    if not problem.group.is_alone:
        return _choose_shared(problem, solver)
    if isinstance(problem, JointProblem):
        raise InputError("problem is the joint problem, which is not convex; use learn_dictionary for it.")
    rows = [method for method in METHODS if isinstance(problem, method.problem)]
    if solver in ("auto", "torch"):
        conic = (REFERENCE,) if solver == "auto" else (REFERENCE, interior_point.NAME)
        rows = [method for method in rows if method.name not in conic]
    fitting = [method for method in rows if method.why_not(problem, run.device) is None]
    if solver in ("auto", "torch"):
        counting = [method for method in fitting if run.max_steps is None or method.has_steps]
        chosen = next((method for method in counting if method.is_worthwhile(problem)), None)
    else:
        chosen = next((method for method in fitting if method.name == solver), None)
    others = ", ".join(repr(name) for name in dict.fromkeys(method.name for method in fitting)) or "none"
    if chosen is None:
        reasons = [method.why_not(problem, run.device) for method in rows if method.name == solver]
        why = next((reason for reason in reasons if reason), f"is not for {problem.name!r}")
        raise InputError(f"solver is {solver!r}, which {why}; what fits here: {others}.")
    if run.max_steps is not None and not chosen.has_steps:
        stepping = ", ".join(repr(method.name) for method in fitting if method.has_steps) or "none"
        raise InputError(
            f"max_steps is {run.max_steps} but {chosen.name!r} has no steps to count; leave it out, limit it by "
            f"max_seconds, or use a solver that has steps ({stepping})."
        )
    return chosen


def _choose_shared(problem: Problem, solver: str) -> Method:
    """Processes share the wide limit, by Newton."""
    if not isinstance(problem, WideLimit) or solver not in ("auto", "torch", WideLimitNewton.name):
        raise InputError(
            f"X is shared by {problem.group.size} processes but problem is {problem.name!r} with solver {solver!r}; "
            "several processes share WideLimit with solver='auto' (encode and learn_dictionary take shared data as "
            "well)."
        )
    return Method(WideLimitNewton.name, WideLimit, _shared_wide)
