"""The result of a solve: the candidate, the two numbers that enclose the optimum, and the status."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.errors import CertificateError, InputError
from cvxsae.relaxations.candidate import Candidate, candidate_from, shape_objections
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.tidy import live_atoms
from cvxsae.relaxations.problem import Problem


class Status(Enum):
    """How a solve ended. Each member has a message and a remedy."""

    CERTIFIED = ("the relative gap is within tol", "")
    STATIONARY = (
        "every stationarity residual is within tol: a first-order point, below which descent cannot go",
        "compare with the floor, try other seeds, or ask for the curvature (second_order=True)",
    )
    EARLY_STOPPED = (
        "the value on the rows set aside stopped falling: the dictionary with the lowest one is returned, and nothing "
        "is claimed of the optimum",
        "for an unbiased number evaluate it on rows that have neither taught nor chosen it "
        "(cvxsae.population.evaluate); more rows, fewer atoms or a larger λ let it fall further",
    )
    RELAXED = (
        "the solver's gap closed to tol: value and bound enclose what the relaxation leaves open",
        "accept it (the solution says how much of the gap is the solver's and how much the relaxation's)",
    )
    BOUNDED = (
        "the problem is not convex: the value is that of a local search, the lower bound holds, and they differ",
        "accept it (both hold); fewer atoms or active atoms, or a less coherent dictionary, have better bounds",
    )
    STALLED = (
        "the gap stopped shrinking before it reached tol",
        "accept the gap reached (raise_on_failure=False, or a larger tol); in the large-dictionary problem the "
        "relaxation itself can be loose by a percent",
    )
    MAX_ITER = ("the iteration limit was reached before tol", "raise max_steps or tol")
    TIME_LIMIT = ("max_seconds was reached before tol", "raise max_seconds or tol")
    INTERRUPTED = ("the solve was interrupted before tol", "run it again; the point reached is in the solution")
    NONFINITE = (
        "the iterates stopped being finite",
        "rescale the data (unit mean-square norm) and check λ against lambda_max",
    )
    BREAKDOWN = (
        "a matrix could not be factorized, so the steps ended; value and bound hold for the point reached",
        "rescale the data (unit mean-square norm) and check λ against lambda_max",
    )
    REFERENCE_FAILED = (
        "the conic solver did not report an optimum",
        "rescale the data or use the torch solver",
    )

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy

    @property
    def is_success(self) -> bool:
        """Whether the solve reached the best possible end for its problem, so that nothing is raised."""
        return self in (Status.CERTIFIED, Status.STATIONARY, Status.RELAXED, Status.BOUNDED)


@dataclass(frozen=True)
class Record:
    """One line of a solve's history; values per datapoint.

    ``held_out`` is the value on rows set aside, where it was evaluated at this very point, and ``relaxed_value`` the
    lowest so far that a doubly nonnegative Q attains, of a large dictionary; None elsewhere.
    """

    iteration: int
    seconds: float
    value: float
    lower_bound: float
    held_out: float | None = None
    relaxed_value: float | None = None

    @property
    def gap(self) -> float:
        """Relative gap at this moment."""
        return relative_gap(self.value, self.lower_bound)

    @property
    def solver_gap(self) -> float | None:
        """The solver's part of it, up to ``relaxed_value``; None where there is no relaxation."""
        return None if self.relaxed_value is None else relative_gap(self.relaxed_value, self.lower_bound)


def relative_gap(value: float, lower_bound: float) -> float:
    """``(value − lower_bound)/value``; the difference itself where the value is zero."""
    return (value - lower_bound) / value if value > 0 else value - lower_bound


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution(Candidate):
    """A candidate with its value, lower bound and status. All values are in units of (P): mean per datapoint.

    Attributes
    ----------
    problem
        The problem it answers.
    value
        Objective attained by ``dictionary``, ``codes`` and ``bias``, evaluated in float64 at exactly these arrays.
    lower_bound
        A number no feasible point can go below, proved by ``dual`` (and ``proof``).
    status
        How the solve ended; ``status.message`` and ``status.remedy`` are sentences.
    tol
        The target for the relative gap.
    history
        Value and lower bound over time.
    seconds
        Wall-clock time.
    solver
        The algorithm's name.
    relaxed_value
        Of a large dictionary at τ > 0: what a doubly nonnegative Q attains, which is above the relaxation's optimum.
        ``value`` is that of the dictionary and codes read off it, ``lower_bound`` holds for both. None elsewhere.
    solver_gap, relaxation_gap
        Relative distance from ``lower_bound`` up to ``relaxed_value``, which is the solver's to close, and from there
        up to ``value``. None where there is no relaxation, and where the bound is above it (copositive proofs).
    info
        What else the algorithm reports: iterations, passes over the data, atoms, device.
    """

    problem: Problem
    value: float
    lower_bound: float
    status: Status
    tol: float
    history: tuple[Record, ...] = ()
    seconds: float = 0.0
    solver: str = ""
    relaxed_value: float | None = None
    solver_gap: float | None = None
    relaxation_gap: float | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """Relative gap, (value − lower_bound)/value."""
        return relative_gap(self.value, self.lower_bound)

    @property
    def is_certified(self) -> bool:
        """Whether the gap is within ``tol``."""
        return self.status is Status.CERTIFIED

    @property
    def objections(self) -> tuple[str, ...]:
        """One sentence for each contradiction of a proven inequality; empty unless something is wrong."""
        if self.gap < -GAP_SLACK:
            return (f"The lower bound {self.lower_bound!r} lies above the value {self.value!r}.",)
        return ()

    @property
    def message(self) -> str:
        """How the solve ended, in words."""
        return self.status.message

    @property
    def remedy(self) -> str:
        """What to do next, in words; empty if there is nothing to do."""
        return self.status.remedy

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        lambda_max = self.problem.lambda_max()
        return {
            "problem": self.problem.name,
            "solver": self.solver,
            "n_points": self.problem.n_points,
            "dim": self.problem.dim,
            "lam": self.problem.lam,
            "lam_over_lambda_max": self.problem.lam / lambda_max if lambda_max > 0 else None,
            "value": self.value,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "tol": self.tol,
            "status": self.status.name,
            "certified": self.is_certified,
            "message": self.message,
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in GAP_PARTS if getattr(self, name) is not None},
            **self.info,
        }

    def save(self, path: str | Path) -> Path:
        """Write the arrays, with λ, value and lower bound beside them, to a ``.npz`` or ``.safetensors`` file.

        The numbers are what was claimed when the file was written: :meth:`load` and ``cvxsae certify`` compute them
        again from the arrays.
        """
        claims = {"lam": self.problem.lam, "value": self.value, "lower_bound": self.lower_bound, "tol": self.tol}
        return write_arrays(path, {**self.arrays(), **claims})

    @classmethod
    def load(cls, path: str | Path, problem: Problem) -> Solution:
        """Read what :meth:`save` wrote and check it again against the problem; no number in the file is trusted.

        Raises
        ------
        InputError
            For a file that cannot be read, or arrays that do not fit the problem.
        """
        arguments.instance(problem, "problem", Problem, "the problem that the solution answers")
        held: dict[str, Any] = dict(read_arrays(path))
        candidate = candidate_from(held, f"path {str(path)!r}")
        objections = shape_objections(candidate, problem.n_points, problem.dim) or problem.objections(candidate)
        if objections:
            raise InputError(f"path {str(path)!r} does not fit the problem: {objections[0]}")
        return judge(problem, candidate, Status.STALLED, tol=float(held.get("tol", 0.0)), solver="file")

    def _line(self) -> str:
        """What the one-line representation says between its brackets."""
        return (
            f"{self.problem.name}, value={self.value:.9g}, lower_bound={self.lower_bound:.9g}, gap={self.gap:.2e}, "
            f"status={self.status.name}, solver={self.solver!r}, seconds={self.seconds:.2f}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line()})"

    def __str__(self) -> str:
        verdict = f"{self.status.name.lower()}: {self.message}"
        lines = [
            f"{self.problem.name}: {verdict}",
            f"  value        {self.value:.12g}   (mean per datapoint)",
            f"  lower bound  {self.lower_bound:.12g}   (of the optimum)",
            f"  gap          {self.gap:.3g}   (tol {self.tol:g})",
            f"  solver       {self.solver or 'none'}, {self.seconds:.2f} s",
        ]
        if not self.is_certified and self.remedy:
            lines.append(f"  remedy       {self.remedy}")
        return "\n".join([*lines, *(f"  objection    {sentence}" for sentence in self.objections)])


GAP_PARTS = ("relaxed_value", "solver_gap", "relaxation_gap")
"""What a solution says of the relaxation that was solved on the way to it."""

GAP_SLACK = 1e-12
"""A relative gap below minus this is an error; above it, it is rounding of two float64 sums."""


_QUICK_POINTS = 500
"""Datapoints whose similarity matrix is factorized in a tenth of a second."""


@dataclass(frozen=True)
class Evaluated:
    """A candidate where time is over: what is known of exactly it is not computed again.

    Attributes
    ----------
    candidate
        The arrays.
    value, bound
        Its value and lower bound; None where they are not known.
    relaxed
        What its Q attains, or another doubly nonnegative one; None where that is not known.
    """

    candidate: Candidate
    value: float | None = None
    bound: float | None = None
    relaxed: float | None = None


def judge(
    problem: Problem,
    found: Candidate | Evaluated,
    status: Status,
    *,
    tol: float,
    history: tuple[Record, ...] = (),
    seconds: float = 0.0,
    solver: str = "",
    info: dict[str, Any] | None = None,
) -> Solution:
    """Turn a candidate into a solution: evaluate it in float64 and let the gap decide between certified and not.

    Of what was ``Evaluated`` before, the two parts of a gap are taken from what is known where they would take long.

    Raises
    ------
    CertificateError
        If the lower bound is above the value by more than rounding.
    """
    known = found if isinstance(found, Evaluated) else Evaluated(found)
    candidate, value, bound = known.candidate, known.value, known.bound
    finite = all(np.isfinite(a).all() for a in (candidate.bias, candidate.dual) if a is not None)
    if not finite:
        value = bound = float("nan")
    elif value is None and bound is None:
        value, bound = problem.bounds(candidate)
    value = problem.primal_value(candidate) if value is None else value
    bound = problem.lower_bound(candidate) if bound is None else bound
    gap = relative_gap(value, bound)
    if gap < -GAP_SLACK:
        raise CertificateError(
            f"the lower bound {bound!r} of {problem.name} lies above its value {value!r}; please report this."
        )
    if gap <= tol:
        status = Status.CERTIFIED
    elif status is Status.CERTIFIED:
        status = Status.STALLED
    if not np.isfinite(gap):
        status = Status.NONFINITE
    is_over = known is found and problem.n_points > _QUICK_POINTS
    relaxed = (value if known.relaxed is None else known.relaxed) if is_over else None
    gaps = gap_parts(problem, candidate, value, bound, relaxed) if finite else {}
    parts = {name: gaps.pop(name, None) for name in GAP_PARTS}
    return Solution(
        **{f.name: getattr(candidate, f.name) for f in fields(Candidate)},
        problem=problem,
        value=value,
        lower_bound=bound,
        status=status,
        tol=tol,
        history=history,
        seconds=seconds,
        solver=solver,
        info={**(info or {}), **gaps},
        **parts,
    )


def gap_parts(
    problem: Problem, candidate: Candidate, value: float, lower_bound: float, relaxed: float | None = None
) -> dict[str, Any]:
    """The two gaps of a large dictionary, kept apart; nothing for the other problems.

    ``relaxed_value`` is attained by a doubly nonnegative Q, made feasible exactly; ``solver_gap`` is between it and the
    lower bound, ours to close; ``relaxation_gap`` is what is left up to the value of dictionary and codes. A bound
    proved by slices can lie above that value: then ``closed_by_copositive`` says which share of the relaxation's
    gap it closes, and there is no ``solver_gap``. It is evaluated unless the value of some such Q is given; that of
    dictionary and codes is one, of their own Q.
    """
    if not isinstance(problem, LargeDictionary):
        return {}
    parts: dict[str, Any] = {"live_atoms": live_atoms(candidate)}
    if relaxed is None or problem.atom_cost == 0:
        relaxed = problem.relaxed_bound(candidate)
    if relaxed is not None:
        relaxed = min(relaxed, value)
        parts["relaxed_value"] = relaxed
        if lower_bound > relaxed and candidate.proof is not None and candidate.proof.beats_relaxation:
            parts["closed_by_copositive"] = (lower_bound - relaxed) / (value - relaxed) if value > relaxed else 1.0
        else:
            parts["solver_gap"] = relative_gap(relaxed, lower_bound)
        parts["relaxation_gap"] = (value - relaxed) / value if value > 0 else value - relaxed
    return parts


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A float64 numpy copy on the CPU."""
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
