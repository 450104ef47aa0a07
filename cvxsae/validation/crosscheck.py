"""Two roads to one number: the conic reference and torch on the same problem, both through the referee."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from cvxsae.data import arguments
from cvxsae.parallel.context import SHORTEST, Compute, Run, keywords
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import Solution, Status
from cvxsae.solvers.convex.solve import solve
from cvxsae.validation.certificate import Certificate
from cvxsae.validation.certify import certify

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_ACCURACY = 1e-6
"""Relative accuracy of Clarabel's answers; a bound may exceed a value by no more."""

TORCH_TOL = 1e-4
"""Relative gap asked of torch where the reference is a relaxation, which leaves a percent open anyway."""


@dataclass(frozen=True)
class CrossCheck:
    """Reference and torch side by side.

    Attributes
    ----------
    problem
        The problem solved twice.
    reference, torch
        The two solutions.
    certificates
        What the referee says of each, by the same names.
    difference
        ``(torch value − reference value)/reference value``; for a large dictionary with τ > 0 the reference value is
        that of the doubly nonnegative relaxation, which no dictionary can go below.
    tol
        The agreement asked for.
    objections
        One sentence for everything that does not agree; empty when all does.
    """

    problem: Problem
    reference: Solution
    torch: Solution
    certificates: dict[str, Certificate]
    difference: float
    tol: float
    objections: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """The verdict."""
        return not self.objections

    def table(self) -> pd.DataFrame:
        """One row a solver: value, lower bound, gap, seconds, the referee's verdict."""
        import pandas as pd

        rows = {}
        for name, solution in (("reference", self.reference), ("torch", self.torch)):
            certificate = self.certificates[name]
            rows[name] = {
                "solver": solution.solver,
                "value": certificate.value,
                "lower_bound": certificate.lower_bound,
                "gap": certificate.gap,
                "relaxed_value": float("nan") if solution.relaxed_value is None else solution.relaxed_value,
                "seconds": solution.seconds,
                "objections": len(certificate.objections),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "problem": self.problem.name,
            "agrees": self.agrees,
            "difference": self.difference,
            "tol": self.tol,
            "objections": list(self.objections),
            "certificates": {name: c.to_dict() for name, c in self.certificates.items()},
            "seconds": {"reference": self.reference.seconds, "torch": self.torch.seconds},
        }

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DISAGREE"
        apart = f"difference {self.difference:+.1e}, tol {self.tol:.0e}"
        head = f"{self.problem.name}: reference and torch {verdict} ({apart})"
        return "\n".join([head, self.table().to_string(), *(f"  {sentence}" for sentence in self.objections)])


AGREEMENT, CONE_AGREEMENT, RELAXED_AGREEMENT = 1e-6, 1e-5, 2e-2
"""Relative agreement asked for: of quadratic programs, where cones or Q are in play, and of a loose relaxation."""


def default_tolerance(problem: Problem) -> float:
    """Agreement to ask for: 1e-6; 1e-5 with a surcharge or Q in play; 2e-2 where the reference is a relaxation."""
    if isinstance(problem, LargeDictionary) and problem.atom_cost > 0:
        return RELAXED_AGREEMENT
    return CONE_AGREEMENT if isinstance(problem, CandidateDictionary | LargeDictionary) else AGREEMENT


@keywords(Compute)
def crosscheck(problem: Problem, *, tol: float | None = None, **options: Unpack[Compute]) -> CrossCheck:
    """Solve with cvxpy + Clarabel and with torch, send both through the referee, and compare.

    Parameters
    ----------
    problem
        Small enough for the reference.
    tol
        Relative agreement of the two values; default by problem (:func:`default_tolerance`).
    options
        ``device`` (of torch), ``max_seconds`` (of the whole call) and ``progress``.

    Returns
    -------
    CrossCheck
        ``agrees`` is True when the values agree to ``tol``, neither lower bound exceeds the other's value, and the
        referee has no objection beyond a gap that a relaxation cannot close.

    Raises
    ------
    InputError
        If the problem is too large for the reference.
    KeyboardInterrupt
        On Ctrl-C: one solution is no comparison.
    """
    run = Run.start(options, Compute)
    tol = default_tolerance(problem) if tol is None else arguments.positive(tol, "tol")
    relaxation = isinstance(problem, LargeDictionary) and problem.atom_cost > 0
    reference = _solved(problem, "reference", tol, run)
    solution = _solved(problem, "torch", TORCH_TOL if relaxation else tol / 10, run)
    certificates = {
        "reference": certify(problem, reference, tol=tol),
        "torch": certify(problem, solution, tol=2 * tol if relaxation else tol),
    }
    relaxed = float("nan") if reference.relaxed_value is None else reference.relaxed_value
    anchor = relaxed if relaxation else certificates["reference"].value
    value = certificates["torch"].value
    difference = (value - anchor) / anchor if anchor > 0 else value - anchor
    objections = []
    least = -REFERENCE_ACCURACY if relaxation else -tol
    if not least <= difference <= tol:
        objections.append(
            f"Torch attains {value:.9g}, the reference {anchor:.9g}: {difference:+.2e} apart, tol {tol:.0e}."
        )
    for name, certificate in certificates.items():
        # A bound proved by an exact polar may exceed the relaxation's optimum, but nothing exceeds what is attained.
        ceiling = value if relaxation and problem.polar_is_exact else min(anchor, value)
        if certificate.lower_bound > ceiling + REFERENCE_ACCURACY * abs(ceiling):
            objections.append(f"The lower bound of {name}, {certificate.lower_bound:.9g}, exceeds {ceiling:.9g}.")
        objections.extend(f"The referee objects to {name}: {sentence}" for sentence in certificate.objections)
    return CrossCheck(problem, reference, solution, certificates, difference, tol, tuple(objections))


def _solved(problem: Problem, solver: str, tol: float, run: Run) -> Solution:
    """One of the two. An interrupt passes through."""
    solution = solve(
        problem,
        solver=solver,
        tol=tol,
        raise_on_failure=False,
        device=run.device,
        max_seconds=max(run.left, SHORTEST) if math.isfinite(run.deadline) else None,
        progress=run.progress,
    )
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return solution
