"""The cross-check: the conic reference and torch solve the same problem, and the referee checks both answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from cvxsae.data import arguments
from cvxsae.parallel.context import Compute, Run, keywords
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.problem import Problem
from cvxsae.relaxations.solution import GAP_SLACK, Solution, Status
from cvxsae.solvers.convex.solve import WANTED, solved
from cvxsae.validation.certificate import Certificate
from cvxsae.validation.certify import certify

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_ACCURACY = 1e-6
"""Relative accuracy of Clarabel's answers; a bound may exceed a value by no more."""

ANY_GAP = 1.0
"""Relative gap that the referee lets pass: here gaps are told apart from disagreement."""

REFERENCE_SHARE = 0.5
"""Part of the time that the reference may take."""

TORCH_TOL = 1e-4
"""Relative gap asked of torch where the reference is a relaxation, which leaves a percent open anyway."""


@dataclass(frozen=True)
class CrossCheck:
    """A comparison of the reference solver with torch.

    Attributes
    ----------
    problem
        The problem solved twice.
    reference, torch
        The two solutions.
    certificates
        The referee's findings about each, by the same names.
    difference
        ``(torch value − reference value)/reference value``; for a large dictionary with τ > 0 the reference value is
        that of the doubly nonnegative relaxation, which no dictionary can go below.
    tol
        Largest relative difference allowed.
    objections
        One sentence for each disagreement; empty if there is none.
    notes
        One sentence for every bound that leaves more than ``tol`` below what its solver attains: it says less than was
        hoped for, and contradicts nothing.
    """

    problem: Problem
    reference: Solution
    torch: Solution
    certificates: dict[str, Certificate]
    difference: float
    tol: float
    objections: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[float, float]:
        """The range that ``difference`` has to be in; below a relaxation by no more than its solver's accuracy."""
        return -self.tol if self.reference.relaxed_value is None else -REFERENCE_ACCURACY, self.tol

    @property
    def agrees(self) -> bool:
        """The verdict."""
        return not self.objections

    def table(self) -> pd.DataFrame:
        """One row per solver: value, lower bound, gap, seconds, the referee's verdict."""
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
        """Return a dictionary for JSON."""
        return {
            "problem": self.problem.name,
            "agrees": self.agrees,
            "difference": self.difference,
            "tol": self.tol,
            "objections": list(self.objections),
            "notes": list(self.notes),
            "certificates": {name: c.to_dict() for name, c in self.certificates.items()},
            "seconds": {"reference": self.reference.seconds, "torch": self.torch.seconds},
        }

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DISAGREE"
        least, most = self.limits
        apart = f"difference {self.difference:+.1e}, allowed {least:+.0e} to {most:+.0e}"
        head = f"{self.problem.name}: reference and torch {verdict} ({apart})"
        return "\n".join(
            [head, self.table().to_string(), *(f"  {sentence}" for sentence in self.objections + self.notes)]
        )


AGREEMENT, CONE_AGREEMENT, RELAXED_AGREEMENT = 1e-6, 1e-5, 2e-2
"""Relative agreement asked for: of quadratic programs, where cones or Q are in play, and of a loose relaxation."""


def default_tolerance(problem: Problem) -> float:
    """Agreement to ask for: 1e-6; 1e-5 with a surcharge or Q in play; 2e-2 where the reference is a relaxation."""
    if isinstance(problem, LargeDictionary) and problem.atom_cost > 0:
        return RELAXED_AGREEMENT
    return CONE_AGREEMENT if isinstance(problem, CandidateDictionary | LargeDictionary) else AGREEMENT


@keywords(Compute)
def crosscheck(problem: Problem, *, tol: float | None = None, **options: Unpack[Compute]) -> CrossCheck:
    """Solve with cvxpy and Clarabel and with torch, have the referee check both answers, and compare them.

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
        ``agrees`` is True when what the two attain agrees to ``tol``, no lower bound exceeds what either attains, and
        the referee has no objection beyond an open gap, which ``notes`` tell. A torch solution that closed its own gap
        to ``tol`` needs no relaxation to agree with it: then that is what is loose.

    Raises
    ------
    InputError
        If the problem is too large for the reference.
    KeyboardInterrupt
        On Ctrl-C: one solution is no comparison.
    """
    arguments.instance(problem, "problem", Problem, WANTED)
    run = Run.start(options, Compute)
    tol = default_tolerance(problem) if tol is None else arguments.positive(tol, "tol")
    relaxation = isinstance(problem, LargeDictionary) and problem.atom_cost > 0
    inner = replace(run.inner(), progress=run.progress)
    reference = solved(
        problem, replace(inner, deadline=run.inner(share=REFERENCE_SHARE).deadline), solver="reference", tol=tol
    )
    solution = solved(problem, inner, solver="torch", tol=TORCH_TOL if relaxation else tol / 10)
    solutions = {"reference": reference, "torch": solution}
    certificates = {name: certify(problem, found, tol=ANY_GAP) for name, found in solutions.items()}
    relaxed = float("nan") if reference.relaxed_value is None else reference.relaxed_value
    anchor = relaxed if relaxation else certificates["reference"].value
    value = certificates["torch"].value
    difference = (value - anchor) / anchor if anchor > 0 else value - anchor
    result = CrossCheck(problem, reference, solution, certificates, difference, tol)
    return replace(result, objections=_objections(result, anchor), notes=_notes(result))


def _objections(found: CrossCheck, anchor: float) -> tuple[str, ...]:
    """What does not agree; a gap that is open is no disagreement."""
    objections = []
    for name, solution in (("reference", found.reference), ("torch", found.torch)):
        if solution.status in (Status.TIME_LIMIT, Status.REFERENCE_FAILED):
            objections.append(f"The solve of {name} did not end: {solution.message}.")
    values = {name: certificate.value for name, certificate in found.certificates.items()}
    least, most = found.limits
    proved = found.reference.relaxed_value is not None and found.certificates["torch"].gap <= found.tol
    if not least <= found.difference <= (math.inf if proved else most):
        objections.append(
            f"Torch attains {values['torch']:.9g}, the reference {anchor:.9g}: {found.difference:+.2e} apart, allowed "
            f"{least:+.0e} to {most:+.0e}."
        )
    ceiling = min(values.values()) * (1 + GAP_SLACK)  # nothing proved exceeds what is attained
    if found.reference.relaxed_value is not None and not found.problem.polar_is_exact:
        ceiling = min(ceiling, anchor * (1 + REFERENCE_ACCURACY))  # nor, here, the optimum of the relaxation
    for name, certificate in found.certificates.items():
        if certificate.lower_bound > ceiling:
            objections.append(f"The lower bound of {name}, {certificate.lower_bound:.9g}, exceeds {ceiling:.9g}.")
        objections.extend(f"The referee objects to {name}: {sentence}" for sentence in certificate.objections)
    return tuple(objections)


def _notes(found: CrossCheck) -> tuple[str, ...]:
    """Whose bounds are loose."""
    return tuple(
        f"The bound of {name} ({solution.solver}) is loose: {gap:.2e} below what is attained, tol {found.tol:.0e}."
        for name, solution in (("reference", found.reference), ("torch", found.torch))
        if not (gap := found.certificates[name].gap) <= found.tol
    )
