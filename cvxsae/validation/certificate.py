"""The referee's result: the numbers it recomputed, its objections, and the worst violation of a constraint."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, eq=False)
class Violation:
    """The optimality condition that a candidate violates most, with the direction that improves the candidate.

    Attributes
    ----------
    condition
        The condition, as a formula.
    excess
        By how much it fails, in units of λ.
    datapoint, atom
        Indices of the datapoint and of the atom concerned; None where it is about all of them.
    direction
        Unit vector, (d,): the atom that would lower the value (a new one, or the given one whose code is wrong), or the
        way to move the bias.
    """

    condition: str
    excess: float
    datapoint: int | None
    atom: int | None
    direction: Float64[np.ndarray, " d"]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {**vars(self), "direction": self.direction.tolist()}

    def __str__(self) -> str:
        places = [f"{name} {index}" for name in ("datapoint", "atom") if (index := getattr(self, name)) is not None]
        return f"{self.condition} fails by {self.excess:.2e} λ" + (f" at {', '.join(places)}" if places else "")


@dataclass(frozen=True)
class Certificate:
    """What the referee found. Values are per datapoint, as in (P).

    ``certificate.is_certified`` is the verdict, and ``print(certificate)`` says why.

    Attributes
    ----------
    problem
        Name of the problem.
    value
        Objective recomputed at the candidate; NaN for a floor, which attains nothing.
    lower_bound
        Recomputed from the candidate's dual point, recentered and shrunk into the feasible set if it was outside. Of a
        floor: the most that its weights can prove, by the referee's own count.
    gap
        ``(value − lower_bound)/value``; NaN for a floor.
    tol
        The gap that was asked for.
    bound
        ``"optimum"`` where the lower bound can reach the optimum, ``"relaxation"`` where it may stay below it however
        well the solver works (the large dictionary at τ > 0 in more than three dimensions, the joint problem, floors).
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
    codes_gap
        Of a learned dictionary: relative gap of its codes, recomputed (T1). None for the others.
    stationarity
        Of a learned dictionary: largest ``‖E_k[r]/λ − d_k‖`` over live atoms, recomputed (T3). None for the others.
    violation
        Where there is an objection: the constraint that is violated most, and the datapoint, atom and direction that
        do it; None if nothing is violated. ``violation.direction`` is where to go next: a new atom for
        :func:`~cvxsae.grow`, or the way to move the bias.
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
    codes_gap: float | None = None
    stationarity: float | None = None
    violation: Violation | None = None

    @property
    def is_certified(self) -> bool:
        """Whether the referee has no objection."""
        return not self.objections

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        held = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "violation"}
        violation = None if self.violation is None else self.violation.to_dict()
        return {**held, "violation": violation, "objections": list(self.objections), "certified": self.is_certified}

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
        said = [f"  objection: {sentence}" for sentence in self.objections]
        return "\n".join(lines + said + ([] if self.violation is None else [f"  violated:  {self.violation}"]))
