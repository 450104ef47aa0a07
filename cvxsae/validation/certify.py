"""The referee: it checks answers in float64, from data and candidate alone, and trusts nothing the solver said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from cvxsae.data import arguments
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.errors import CertificateError, InputError
from cvxsae.parallel.group import ProcessGroup
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.candidate import Candidate, shape_objections
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.problem import Problem, float64_tensor
from cvxsae.relaxations.solution import GAP_SLACK, Solution, gap_parts, relative_gap
from cvxsae.solvers.global_search.result import GlobalOptimum
from cvxsae.validation.certificate import Certificate
from cvxsae.validation.claims import claims_of
from cvxsae.validation.copositive import DualCheck, own_check
from cvxsae.validation.floors import floor_objections
from cvxsae.validation.global_bounds import global_objections
from cvxsae.validation.violation import worst_violation

DEFAULT_TOL = 1e-6
"""Relative gap to insist on where the candidate does not say what was asked for."""

UNIT_NORM_TOLERANCE = 1e-9
"""How far an atom's norm may be from 1."""

FEASIBILITY_TOLERANCE = 1e-9
"""Relative violation of the dual constraints that is not objected to; the bound is that of the repaired point."""


@own_arithmetic()
def certify(
    answer: Problem | Solution | Floor | GlobalOptimum,
    candidate: Candidate | Floor | None = None,
    *,
    tol: float | None = None,
) -> Certificate:
    """Check an answer from scratch: a solution, codes, a learned dictionary or a floor.

    Recomputes the objective and the lower bound from the data, the candidate's arrays and nothing else, checks
    every constraint (codes ≥ 0, unit-norm atoms, the problem's own dictionary and bias, dual feasibility including
    ``Σ_n y_n = 0`` for a free bias) and compares the claims of an answer with what it found. Of codes, those of every
    datapoint are compared; of a learned dictionary stationarity and the gap of its codes too. Of a floor, every number
    is computed again in numpy by code that the search does not share. Of a global optimum a sample of its boxes is
    checked, and that they cover dictionaries drawn at random.

    Parameters
    ----------
    answer
        A :class:`~cvxsae.Solution` (also :class:`~cvxsae.results.Codes` and :class:`~cvxsae.results.DictionaryFit`) or
        a :class:`~cvxsae.results.Floor`, checked against the problem it holds; what :func:`cvxsae.solve_globally`
        returned; or the problem as you know it.
    candidate
        With a problem: a solution, a floor, or a bare :class:`~cvxsae.results.Candidate` (arrays without claims).
    tol
        Relative gap to insist on; default: the answer's own, or 1e-6. A learned dictionary that does not claim to be a
        global optimum is held to the gap of its codes unless ``tol`` is given; a floor has no gap.

    Returns
    -------
    Certificate
        With ``objections`` empty exactly when the answer is certified, and otherwise ``violation`` saying what violates
        a condition most: a datapoint, an atom, a direction.

    Raises
    ------
    InputError
        For a ``tol`` below zero, or arguments that are no problem and no candidate at all.
    CertificateError
        If the lower bound is above the value by more than rounding: the mathematics or the code is wrong.

    Examples
    --------
    >>> from cvxsae import WideLimit, certify, solve
    >>> solution = solve(WideLimit([[3.0, 4.0], [-3.0, -4.0]], lam=1.0))
    >>> certificate = certify(solution)
    >>> certificate.is_certified, certificate.objections
    (True, ())
    """
    problem: Any
    found: Any
    if candidate is None and isinstance(answer, GlobalOptimum):
        return _certified_optimum(answer if tol is None else replace(answer, tol=arguments.nonnegative(tol, "tol")))
    if candidate is None:
        if not isinstance(answer, Solution | Floor):
            remedy = "pass the candidate too" if isinstance(answer, Problem) else "pass a Solution or a Floor"
            raise InputError(f"answer is a {type(answer).__name__}; {remedy}.")
        problem, found = answer.problem, answer
    else:
        problem = arguments.instance(answer, "answer", Problem, "the Problem that the candidate answers")
        found = arguments.instance(candidate, "candidate", (Candidate, Floor), "a Candidate or a Floor")
    asked = None if tol is None else arguments.nonnegative(tol, "tol")
    if isinstance(found, Floor):
        return _certified_floor(problem, found)
    group = problem.group
    with group.guard(), threads_for(problem):
        return _certified(problem, found, asked, group)


def _certified_floor(problem: Problem, floor: Floor) -> Certificate:
    """A floor holds if its weights prove it; they are evaluated again, in another way."""
    if not isinstance(problem, JointProblem):
        raise InputError(f"answer is the problem {problem.name!r}; a floor is about a JointProblem.")
    proved, objections = floor_objections(problem, floor)
    return Certificate(
        problem=f"floor of {problem.n_atoms} atoms",
        value=np.nan,
        lower_bound=proved,
        gap=np.nan,
        tol=np.nan,
        bound="relaxation",
        smallest_code=None,
        atom_norm_error=None,
        dual_violation=None,
        bias_residual=None,
        lam=problem.lam,
        lambda_max=problem.lambda_max(),
        objections=objections,
    )


def _certified_optimum(optimum: GlobalOptimum) -> Certificate:
    """A global optimum holds if its boxes cover all dictionaries and their bounds are bounds."""
    return Certificate(
        problem=f"global optimum of {len(optimum.dictionary)} atoms, {optimum.penalty}",
        value=optimum.value,
        lower_bound=optimum.lower_bound,
        gap=optimum.gap,
        tol=optimum.tol,
        bound="optimum",
        smallest_code=None,
        atom_norm_error=float(np.abs(np.linalg.norm(optimum.dictionary, axis=1) - 1).max()),
        dual_violation=None,
        bias_residual=None,
        lam=optimum.lam,
        lambda_max=float(np.linalg.norm(optimum.landscape.X, axis=1).max()),
        objections=global_objections(optimum),
    )


def _certified(problem: Problem, solution: Candidate, asked: float | None, group: ProcessGroup) -> Certificate:
    claims = claims_of(solution)
    tol = asked if asked is not None else solution.tol if isinstance(solution, Solution) else DEFAULT_TOL
    unusable = _of_all(shape_objections(solution, problem.n_points, problem.dim), group)
    unusable = unusable or _differences(problem, solution, group)
    lambda_max = problem.lambda_max()
    bound = "optimum" if problem.polar_is_exact else "relaxation"
    if unusable:
        nothing = dict.fromkeys(("smallest_code", "atom_norm_error", "dual_violation", "bias_residual"))
        return Certificate(
            problem=problem.name,
            value=np.nan,
            lower_bound=np.nan,
            gap=np.nan,
            tol=tol,
            bound=bound,
            **nothing,
            lam=problem.lam,
            lambda_max=lambda_max,
            objections=tuple(unusable),
        )
    objections = problem.objections(solution)
    smallest, norm_error = _primal_facts(solution)
    if smallest is not None and smallest < 0:
        objections.append(f"A code is negative ({smallest:.2e}); codes must be zero or more.")
    if norm_error is not None and norm_error > UNIT_NORM_TOLERANCE:
        objections.append(f"An atom's norm is off 1 by {norm_error:.2e}; atoms must have unit norm.")
    if not problem.bias_is_free:
        # Exactly: relative to its own size a bias may be off by more than the data is long.
        off = float(np.abs(solution.bias - problem.fixed_bias().numpy()).max())
        if off > 0:
            objections.append(f"The bias differs from the problem's fixed bias by {off:.2e}.")

    given = claims.with_dual(problem)
    check = own_check(problem, given)
    value, lower_bound = problem.bounds(given) if check is None else (problem.primal_value(given), check.lower_bound)
    gap = relative_gap(value, lower_bound)
    parts = gap_parts(problem, solution, value, lower_bound)
    violation = _dual_objections(problem, solution, check, objections)
    must_close = claims.must_close or asked is not None
    bias_residual = _bias_objections(problem, solution, value, tol if must_close else None, objections)
    objections += claims.objections(problem, value, lower_bound)
    facts = claims.facts(problem)
    objections = _of_all(objections, group)
    if gap < -GAP_SLACK and not objections:
        raise CertificateError(
            f"the lower bound {lower_bound!r} of {problem.name} lies above its value {value!r}; please report this."
        )
    if must_close and not gap <= tol:
        objections.append(f"The relative gap {gap:.2e} exceeds tol {tol:.1e}.")
    return Certificate(
        problem=problem.name,
        value=value,
        lower_bound=lower_bound,
        gap=gap,
        tol=tol,
        bound=bound,
        smallest_code=smallest,
        atom_norm_error=norm_error,
        dual_violation=violation,
        bias_residual=bias_residual,
        lam=problem.lam,
        lambda_max=lambda_max,
        objections=tuple(objections),
        **{name: parts[name] for name in ("solver_gap", "relaxation_gap") if name in parts},
        **facts,
        violation=worst_violation(problem, solution) if objections and group.is_alone else None,
    )


def _of_all(objections: list[str], group: ProcessGroup) -> list[str]:
    """What any process objects to, each sentence once: what is summed over processes must be there in all."""
    return list(dict.fromkeys(sentence for part in group.gather(objections) for sentence in part))


def _differences(problem: Problem, candidate: Candidate, group: ProcessGroup) -> list[str]:
    """Object to processes that hold different candidates: only atoms of the wide limit belong to datapoints."""
    shared: dict[str, Any] = {"bias": candidate.bias}
    if not isinstance(problem, WideLimit):
        shared["dictionary"] = candidate.dictionary
    arrays = [name for name in ("dictionary", "codes", "dual") if getattr(candidate, name) is not None]
    claims = isinstance(candidate, Solution)
    try:
        group.agree(**{"the set of arrays": arrays, "whether there are claims": claims}, **shared)
    except InputError as error:
        return [str(error)]
    return []


def _primal_facts(candidate: Candidate) -> tuple[float | None, float | None]:
    if candidate.codes is None or candidate.dictionary is None or candidate.dictionary.shape[0] == 0:
        return None, None
    entries = candidate.codes.data if scipy.sparse.issparse(candidate.codes) else np.asarray(candidate.codes)
    smallest = float(entries.min()) if entries.size else 0.0
    return smallest, float(np.abs(np.linalg.norm(np.asarray(candidate.dictionary, np.float64), axis=1) - 1).max())


def _dual_objections(
    problem: Problem, candidate: Candidate, check: DualCheck | None, objections: list[str]
) -> float | None:
    """Object to a dual point that is outside its feasible set; the bound printed is that of the repaired point."""
    if candidate.dual is None:
        return None
    if check is None:
        excess, drift = problem.dual_violations(float64_tensor(candidate.dual), candidate.proof)
    else:
        excess, drift = check.excess, check.drift
    if excess > FEASIBILITY_TOLERANCE:
        objections.append(f"The dual point exceeds its limit (polar(Y) ≤ λ) by a relative {excess:.2e}.")
    if drift > FEASIBILITY_TOLERANCE:
        objections.append(
            f"The dual point ignores the bias constraint: ‖mean y_n‖/λ is {drift:.2e}, and it must be zero."
        )
    return max(excess, drift)


def _bias_objections(
    problem: Problem, candidate: Candidate, value: float, tol: float | None, objections: list[str]
) -> float | None:
    """Moving the bias alone to its optimum would lower the value by exactly ½‖mean_n r_n‖²."""
    if not problem.bias_is_free:
        return None
    residual = problem.bias_residual(candidate)
    saving = (residual * problem.lam) ** 2 / 2
    if tol is not None and saving > tol * value:
        objections.append(f"The bias is off its optimum: moving it alone would lower the value by {saving:.2e}.")
    return residual
