"""IS IT TRUE: the referee. In float64, from data and candidate alone, trusting nothing the solver said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import scipy.sparse

from cvxsae.data import InputError, arguments, tensors
from cvxsae.parallel.group import ALONE, ProcessGroup
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem, float64_tensor
from cvxsae.relaxations.shared import Shared
from cvxsae.relaxations.solution import GAP_SLACK, CertificateError, Solution, gap_parts, relative_gap

DEFAULT_TOL = 1e-6
UNIT_NORM_TOLERANCE = 1e-9
FEASIBILITY_TOLERANCE = 1e-9
CLAIM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Certificate:
    """What the referee found. Values are per datapoint, as in (P).

    Attributes
    ----------
    problem
        Name of the problem.
    value
        Objective recomputed at the candidate.
    lower_bound
        Recomputed from the candidate's dual point, re-centred and shrunk into the feasible set if it was outside.
    gap
        ``(value − lower_bound)/value``.
    tol
        The gap that was asked for.
    bound
        ``"optimum"`` where the lower bound can reach the optimum, ``"relaxation"`` where it may stay below it however
        well the solver works (the large dictionary at τ > 0 in more than three dimensions).
    smallest_code
        Least entry of the codes; negative codes are objected to.
    atom_norm_error
        ``max_k |‖d_k‖ − 1|``.
    dual_violation
        Relative violation of the dual constraints by the dual point as it was given; None if it was not given.
    bias_residual
        ``‖mean_n r_n‖/λ`` for a free bias (zero at the optimum, T3), None otherwise.
    lam, lambda_max
        The penalty and the smallest one that makes all codes zero.
    objections
        One sentence for everything that is wrong; empty for a certified answer.
    solver_gap, relaxation_gap
        The two parts of a large dictionary's gap, recomputed from the candidate's similarity (None without one, and for
        the other problems): from the lower bound up to what a doubly nonnegative Q attains, and from there up to
        the value. A bound proved by cuts can be above the former; there is only the latter then.
    """

    problem: str
    value: float
    lower_bound: float
    gap: float
    tol: float
    bound: str
    smallest_code: float | None
    atom_norm_error: float | None
    dual_violation: float | None
    bias_residual: float | None
    lam: float
    lambda_max: float
    objections: tuple[str, ...]
    solver_gap: float | None = None
    relaxation_gap: float | None = None

    @property
    def is_certified(self) -> bool:
        """Whether the referee has no objection."""
        return not self.objections

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "objections": list(self.objections), "certified": self.is_certified}

    def __str__(self) -> str:
        verdict = "certified" if self.is_certified else "NOT certified"
        lines = [
            f"{self.problem}: {verdict}",
            f"  value        {self.value:.12g}   (mean per datapoint)",
            f"  lower bound  {self.lower_bound:.12g}   (of the {self.bound})",
            f"  gap          {self.gap:.2e}   (tol {self.tol:.0e})",
            *(
                f"    {label:11}{part:.2e}   ({meaning})"
                for label, part, meaning in (
                    ("solver", self.solver_gap, "from the bound up to a doubly nonnegative Q"),
                    ("relaxation", self.relaxation_gap, "from there up to dictionary and codes"),
                )
                if part is not None
            ),
            f"  lambda       {self.lam:.6g} = {self.lam / self.lambda_max:.4g} lambda_max"
            if self.lambda_max > 0
            else f"  lambda       {self.lam:.6g}",
        ]
        return "\n".join(lines + [f"  objection: {sentence}" for sentence in self.objections])


def certify(problem: Problem, solution: Candidate, *, tol: float | None = None) -> Certificate:
    """Check a solution against its problem, from scratch.

    Recomputes the objective and the lower bound from the data, the candidate's arrays and nothing else, checks
    every constraint (codes ≥ 0, unit-norm atoms, the problem's own dictionary and bias, dual feasibility including
    ``Σ_n y_n = 0`` for a free bias) and compares the claims of a :class:`Solution` with what it found.

    Parameters
    ----------
    problem
        The problem as you know it.
    solution
        A :class:`Solution`, or a bare :class:`Candidate` (arrays without claims).
    tol
        Relative gap to insist on; default: the solution's own, or 1e-6.

    Returns
    -------
    Certificate
        With ``objections`` empty exactly when the answer is certified.

    Raises
    ------
    InputError
        For a ``tol`` below zero, or arguments that are no problem and no candidate at all.
    CertificateError
        If the lower bound is above the value by more than rounding: the mathematics or the code is wrong.
    """
    for value, name, kind in ((problem, "problem", Problem), (solution, "solution", Candidate)):
        if not isinstance(value, kind):
            raise InputError(f"{name} is a {type(value).__name__}; pass a {kind.__name__}.")
    if tol is None:
        tol = solution.tol if isinstance(solution, Solution) else DEFAULT_TOL
    tol = arguments.nonnegative(tol, "tol")
    group = problem.group if isinstance(problem, Shared) else ALONE
    with group.guard(), threads_for(problem):
        return _certify(problem, solution, tol, group)


def _certify(problem: Problem, solution: Candidate, tol: float, group: ProcessGroup) -> Certificate:
    shape_objections = _of_all(_shape_objections(problem, solution), group)
    shape_objections = shape_objections or _differences(problem, solution, group)
    lambda_max = problem.lambda_max()
    bound = "optimum" if problem.polar_is_exact else "relaxation"
    if shape_objections:
        return Certificate(
            problem.name, np.nan, np.nan, np.nan, tol, bound, None, None, None, None, problem.lam, lambda_max,
            tuple(shape_objections),
        )  # fmt: skip
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

    value, lower_bound = problem.bounds(solution)
    gap = relative_gap(value, lower_bound)
    parts = gap_parts(problem, solution, value, lower_bound)
    violation = _dual_objections(problem, solution, objections)
    bias_residual = _bias_objections(problem, solution, value, tol, objections)
    if isinstance(solution, Solution):
        _claim_objections(solution, problem, value, lower_bound, objections)
    objections = _of_all(objections, group)
    if gap < -GAP_SLACK and not objections:
        raise CertificateError(
            f"the lower bound {lower_bound!r} of {problem.name} lies above its value {value!r}; please report this."
        )
    if not gap <= tol:
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


def _shape_objections(problem: Problem, candidate: Candidate) -> list[str]:
    n, d = problem.n_points, problem.dim
    dictionary: Any = candidate.dictionary
    atoms = dictionary.shape[0] if getattr(dictionary, "ndim", 0) == 2 else None
    expected: dict[str, tuple[int | None, ...]] = {
        "bias": (d,),
        "dictionary": (atoms, d),
        "codes": (n, atoms),
        "dual": (n, d),
        "similarity": (n, n),
        "multipliers": (n,) * min(max(getattr(candidate.multipliers, "ndim", 2), 2), 3),
    }
    objections = []
    for name, shape in expected.items():
        array = getattr(candidate, name)
        if array is None:
            continue
        malformed = _malformed(array, name)
        if malformed is not None:
            objections.append(malformed)
        elif tuple(array.shape) != shape:
            objections.append(f"{name} has shape {tuple(array.shape)}; it must be {shape}.")
        elif not _moderate(array.data if isinstance(array, scipy.sparse.csr_array) else array):
            objections.append(f"{name} holds NaN or infinite values, or some beyond {tensors.LARGEST:.0e}.")
    if (candidate.codes is None) != (candidate.dictionary is None):
        objections.append("Only one of codes and dictionary is there; they come together.")
    return objections


def _moderate(entries: np.ndarray) -> bool:
    """Whether all entries are finite and their squares are too."""
    extremes = float(entries.min(initial=0)), float(entries.max(initial=0))  # NaN is passed on
    return all(abs(extreme) <= tensors.LARGEST for extreme in extremes)


def _malformed(array: Any, name: str) -> str | None:
    """Why an array cannot be computed with at all, if it cannot."""
    sparse = name == "codes" and isinstance(array, scipy.sparse.csr_array)
    if not sparse and not isinstance(array, np.ndarray):
        return f"{name} is a {type(array).__name__}; it must be a numpy array{' or a csr_array' * (name == 'codes')}."
    if array.dtype.kind not in "fiu":
        return f"{name} has dtype {array.dtype}; it must hold real numbers."
    if sparse:
        try:
            array.check_format(full_check=True)
        except ValueError as error:
            return f"{name} is a broken sparse array: {error}."
    return None


def _primal_facts(candidate: Candidate) -> tuple[float | None, float | None]:
    if candidate.codes is None or candidate.dictionary is None or candidate.dictionary.shape[0] == 0:
        return None, None
    entries = candidate.codes.data if scipy.sparse.issparse(candidate.codes) else np.asarray(candidate.codes)
    smallest = float(entries.min()) if entries.size else 0.0
    return smallest, float(np.abs(np.linalg.norm(np.asarray(candidate.dictionary, np.float64), axis=1) - 1).max())


def _dual_objections(problem: Problem, candidate: Candidate, objections: list[str]) -> float | None:
    """Object to a dual point that is outside its feasible set; the bound printed is that of the repaired point."""
    if candidate.dual is None:
        return None
    excess, drift = problem.dual_violations(float64_tensor(candidate.dual), candidate.multipliers)
    if excess > FEASIBILITY_TOLERANCE:
        objections.append(f"The dual point exceeds its limit (polar(Y) ≤ λ) by a relative {excess:.2e}.")
    if drift > FEASIBILITY_TOLERANCE:
        objections.append(
            f"The dual point ignores the bias constraint: ‖mean y_n‖/λ is {drift:.2e}, and it must be zero."
        )
    return max(excess, drift)


def _bias_objections(
    problem: Problem, candidate: Candidate, value: float, tol: float, objections: list[str]
) -> float | None:
    """Moving the bias alone to its optimum would lower the value by exactly ½‖mean_n r_n‖²."""
    if not problem.bias_is_free:
        return None
    residual = problem.bias_residual(candidate)
    saving = (residual * problem.lam) ** 2 / 2
    if saving > tol * value:
        objections.append(f"The bias is off its optimum: moving it alone would lower the value by {saving:.2e}.")
    return residual


def _claim_objections(
    solution: Solution, problem: Problem, value: float, lower_bound: float, objections: list[str]
) -> None:
    slack = CLAIM_TOLERANCE * max(abs(value), np.finfo(np.float64).tiny)
    for symbol, attribute in (("λ", "lam"), ("τ", "penalty.atom_cost")):
        theirs, ours = attrgetter(attribute)(solution.problem), attrgetter(attribute)(problem)
        if theirs != ours:
            objections.append(f"The solution is for {symbol} = {theirs:g}, the problem has {symbol} = {ours:g}.")
    if not abs(solution.value - value) <= slack:
        objections.append(f"The solution claims the value {solution.value:.12g}; its arrays attain {value:.12g}.")
    if not solution.lower_bound <= lower_bound + slack:
        objections.append(
            f"The solution claims the lower bound {solution.lower_bound:.12g}; "
            f"its dual point proves {lower_bound:.12g}."
        )
