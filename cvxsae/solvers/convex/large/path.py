"""Paths of the large dictionary: how width, sparsity and fit depend on the price of an atom, or on λ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import scipy.sparse
import torch

from cvxsae.data import arguments
from cvxsae.data.storage import Folder, fingerprint
from cvxsae.data.storage import Kept as KeptRecord
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Kept, Run, keywords
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.candidate import Candidate, candidate_from, shape_objections
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.tidy import factor_of, live_atoms, tidy
from cvxsae.relaxations.solution import Solution, Status, gap_parts, relative_gap
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.column_generation import Directions
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative
from cvxsae.solvers.convex.large.rounding import require_memory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DEFAULT_POINTS = 16
"""Points of a path that is not given: about five for each tenfold change of τ."""

LEAST_LAM, MOST_LAM = 0.02, 0.9
"""Ends of the default path along λ, in units of λ_max: nearly every datapoint on its own atom, and nearly none."""

THRESHOLD = 0.1
"""τ* where it is not known (free bias): near that of clustered data; the path starts well below it."""

LEAST_COST = 1e-2
"""Least τ of the default path: cheaper atoms are one per datapoint (T12), whatever the data."""

ARRAYS = ("bias", "dictionary", "codes")
"""What a path returns of a point's candidate."""

CLAIMS = ("value", "status", "seconds")
"""What is kept of a point's numbers: of these only the seconds are trusted."""

SAME = 1e-9
"""Relative difference of two values that are the same except for rounding."""

FEWER_ROWS = "pass fewer rows (a path has no other solver; solve one price at a time with solver='factorized')"
"""What to do about too little memory for a path."""

TIDIED = 2.0
"""How many times ``tol`` the gap of a success can be: a tidied dictionary may be worse by ``tol`` of the value."""


@dataclass(frozen=True)
class PathPoint:
    """One solve of a path. Values are per datapoint, as in (P).

    Attributes
    ----------
    atom_cost, lam
        τ and λ of this point.
    value, lower_bound, gap
        What dictionary and codes attain, what no dictionary goes below, and the relative distance.
    solver_gap, relaxation_gap
        The two parts of the gap; NaN where there is one.
    live_atoms
        Atoms in use, after merging and dropping what is worth less than ``tol`` of the value.
    l0, fvu
        Mean active atoms per datapoint, and the fraction of variance (about the mean) left unexplained.
    status, seconds
        How the solve ended, and how long it took.
    """

    atom_cost: float
    lam: float
    value: float
    lower_bound: float
    gap: float
    solver_gap: float
    relaxation_gap: float
    live_atoms: int
    l0: float
    fvu: float
    status: str
    seconds: float


@dataclass(frozen=True, eq=False)
class LargePath:
    """The solutions of a path, in order, and what they say.

    Attributes
    ----------
    points
        One record a solve.
    candidates
        Dictionary, codes and bias of each.
    along
        What varies: ``"atom_cost"`` (τ) or ``"lam"`` (λ).
    status
        Why the path ended before its last point (TIME_LIMIT, INTERRUPTED); None if it is complete.
    """

    points: tuple[PathPoint, ...]
    candidates: tuple[Candidate, ...]
    along: Literal["atom_cost", "lam"]
    status: Status | None = None

    def table(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        return pd.DataFrame([asdict(point) for point in self.points])

    def widest_plateau(self) -> int:
        """Index of a point in the middle of the longest stretch (on a log scale) with the same number of atoms.

        Stretches with one atom, with none and with one atom per datapoint do not count, as they are the ends that
        every path has: a width that the data asks for is one that survives the most change of price.
        """
        widths = np.array([point.live_atoms for point in self.points])
        position = np.log([max(getattr(point, self.along), np.finfo(np.float64).tiny) for point in self.points])
        n_points = len(np.asarray(self.candidates[0].codes)) if self.candidates[0].codes is not None else math.inf
        starts = np.flatnonzero(np.r_[True, widths[1:] != widths[:-1]])
        ends = np.r_[starts[1:], len(widths)]
        inner = [(s, e) for s, e in zip(starts, ends, strict=True) if 1 < widths[s] < n_points]
        if not inner:
            return len(widths) // 2
        start, end = max(inner, key=lambda pair: abs(position[min(pair[1], len(widths) - 1)] - position[pair[0]]))
        return int(start + end - 1) // 2

    def figure(self) -> Figure:
        """Width, L0, fraction of variance unexplained, and the value with its bound, against what varies."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        table = self.table()
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        x = table[self.along]
        for axis, column, label in (
            (axes[0, 0], "live_atoms", "live atoms"),
            (axes[0, 1], "l0", "active atoms per datapoint"),
            (axes[1, 0], "fvu", "fraction of variance unexplained"),
        ):
            axis.plot(x, table[column], marker="o")
            axis.set_ylabel(label)
        if table["live_atoms"].max() >= 10 * max(1, table["live_atoms"].min()):
            axes[0, 0].set_yscale("log")
        axes[1, 1].plot(x, table["value"], marker="o", label="attained")
        axes[1, 1].fill_between(x, table["lower_bound"], table["value"], alpha=0.3, label="down to the lower bound")
        axes[1, 1].set_ylabel("value per datapoint")
        axes[1, 1].legend()
        for axis in axes.ravel():
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        for axis in axes[1]:
            axis.set_xlabel("atom cost τ, datapoints" if self.along == "atom_cost" else "penalty λ")
        return figure


class LargePathOptions(Compute, Kept, total=False):
    """How :func:`large_path` runs."""

    callback: Any
    """Called with every :class:`PathPoint`."""


@keywords(LargePathOptions)
def large_path(
    problem: LargeDictionary,
    atom_costs: Sequence[float] | None = None,
    *,
    lams: Sequence[float] | None = None,
    tol: float = 1e-3,
    **options: Unpack[LargePathOptions],
) -> LargePath:
    """Solve the large dictionary along a path of τ (or of λ); each point starts from the previous one.

    Parameters
    ----------
    problem
        Data, bias and the other parameter; its own value of the one that varies is not used.
    atom_costs
        The path of τ, increasing (positive numbers). Default: from the end with one atom per datapoint (half of τ*,
        T12) up to N, in 16 geometric steps.
    lams
        A path of λ instead, increasing; :func:`default_values` has one.
    tol
        Relative gap for every solve, and the share of the value below which an atom does not count.
    device, progress
        As in :func:`~cvxsae.solve`.
    max_seconds
        Limit of the whole path: each solve gets an equal share of the time that is left.
    folder
        Where finished points are kept (:class:`~cvxsae.data.storage.Folder`); a path that ended early goes on where it
        was.
    callback
        Called with every :class:`PathPoint`.

    Returns
    -------
    LargePath
        Table, figure, and the dictionary and codes of every point. Ctrl-C and the time limit end it early, with the
        points so far; ``status`` says so.

    Raises
    ------
    InputError
        For a path that is not increasing and positive, matrices that would not fit in memory, or a folder that holds
        another path.
    KeyboardInterrupt
        On Ctrl-C before the first point.
    """
    arguments.instance(problem, "problem", LargeDictionary, "a LargeDictionary")
    if atom_costs is not None and lams is not None:
        raise InputError("atom_costs and lams are both given, and a path varies one of them; pass one.")
    along: Literal["atom_cost", "lam"] = "atom_cost" if lams is None else "lam"
    values, name = (atom_costs, "atom_costs") if lams is None else (lams, "lams")
    path = _checked(default_values(problem, along) if values is None else values, name)
    tol = arguments.nonnegative(tol, "tol")
    run = Run.start(options, LargePathOptions)
    changes: list[dict[str, Any]] = [{along: value} for value in path]
    return _Path([replace(problem, **change) for change in changes], along, tol).solve(run)


@dataclass(frozen=True)
class _Path:
    """A path whose arguments have been checked.

    Attributes
    ----------
    problems
        One for each point.
    along
        What varies.
    tol
        Relative gap for every solve.
    """

    problems: list[LargeDictionary]
    along: Literal["atom_cost", "lam"]
    tol: float

    def solve(self, run: Run) -> LargePath:
        """Solve point after point, from what the folder has of them."""
        kept = None if run.folder is None else self._folder(run.folder)
        points, candidates = list[PathPoint](), list[Candidate]()
        status: Status | None = None
        try:
            for number, here in enumerate(self.problems):
                found = None if kept is None else kept.read_as(_key(number), partial(self._again, here))
                if found is not None:
                    points.append(found[0])
                    candidates.append(found[1])
                    continue
                if points and run.is_late:
                    status = Status.TIME_LIMIT
                    break
                warm = _factor(here, candidates[-1]) if candidates else None
                solution = self._solved(here, warm, run.inner(share=1 / (len(self.problems) - number)))
                candidate = tidy(here, solution, slack=self.tol)
                points.append(_point(here, candidate, solution.status.name, solution.seconds))
                candidates.append(Candidate(**{name: getattr(candidate, name) for name in ARRAYS}))
                if solution.status is Status.TIME_LIMIT:
                    kept = None  # not what a call with more time would find
                if kept is not None:
                    claims = {name: getattr(points[-1], name) for name in CLAIMS}
                    kept.write(_key(number), claims, candidate.arrays())  # with what proves its bound
                if run.callback is not None:
                    run.callback(points[-1])
        except KeyboardInterrupt:
            if not (run.is_outermost and points):
                raise
            status = Status.INTERRUPTED
        return LargePath(tuple(points), tuple(candidates), self.along, status)

    def _solved(self, problem: LargeDictionary, warm: torch.Tensor | None, run: Run) -> Solution:
        if problem.dim > LARGEST_DIM:
            require_memory(problem, run.device, remedy=FEWER_ROWS)
        with threads_for(problem):
            if problem.dim <= LARGEST_DIM:
                return iterate(Directions(self.tol, warm), problem, self.tol, run)
            return iterate(DoublyNonnegative(self.tol, warm), problem, self.tol, run)

    def _folder(self, path: Path) -> Folder:
        first = self.problems[0]
        other = {"lam": first.lam} if self.along == "atom_cost" else {"atom_cost": first.atom_cost}
        return Folder(
            path,
            "a path of large dictionaries",
            {
                "data": fingerprint(first.X),
                "bias": first.fixed_bias().tolist() if not first.bias_is_free else "free",
                self.along: [getattr(problem, self.along) for problem in self.problems],
                "tol": self.tol,
                **{f"fixed {name}": value for name, value in other.items()},
            },
        )

    def _again(self, problem: LargeDictionary, kept: KeptRecord) -> tuple[PathPoint, Candidate]:
        """A point as its arrays have it: its numbers are computed again, never read."""
        candidate = candidate_from(kept.arrays, "it")
        objections = [*shape_objections(candidate, problem.n_points, problem.dim), *problem.objections(candidate)]
        if objections or candidate.codes is None or not (np.asarray(candidate.codes) >= 0).all():
            raise ValueError(objections[0] if objections else "its codes are not nonnegative")
        status = Status[kept.record["status"]]
        with threads_for(problem):
            point = _point(problem, candidate, status.name, float(kept.record["seconds"]))
        reached = min(point.gap, math.inf if math.isnan(point.solver_gap) else point.solver_gap)
        is_same = math.isclose(point.value, float(kept.record["value"]), rel_tol=SAME)
        if not is_same or (status.is_success and not reached <= TIDIED * self.tol):
            raise ValueError("its arrays do not bear out what it says")
        return point, Candidate(**{name: getattr(candidate, name) for name in ARRAYS})


def _key(number: int) -> str:
    return f"point-{number:03d}"


def default_values(problem: LargeDictionary, along: Literal["atom_cost", "lam"]) -> list[float]:
    """A path of τ or of λ that covers what the data can ask for, in geometric steps."""
    arguments.choice(along, "along", ("atom_cost", "lam"))
    if along == "lam":
        top = problem.lambda_max()
        if top <= 0:
            raise InputError("every row of X equals the bias, so there is no path along lam; check X and bias.")
        return [float(v) for v in np.geomspace(LEAST_LAM * top, MOST_LAM * top, DEFAULT_POINTS)]
    threshold = THRESHOLD if problem.bias_is_free else problem.sharing_threshold()
    low = min(max(threshold / 2, LEAST_COST), problem.n_points / 100)
    return [float(v) for v in np.geomspace(low, max(problem.n_points, 2 * low), DEFAULT_POINTS)]


def _checked(values: Sequence[float], name: str) -> tuple[float, ...]:
    path = arguments.each(values, name, arguments.positive)
    if any(after <= before for before, after in itertools.pairwise(path)):
        raise InputError(f"{name} must be increasing positive numbers, at least one.")
    return path


def _factor(problem: LargeDictionary, candidate: Candidate) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(factor_of(problem, candidate)))


def _point(problem: LargeDictionary, candidate: Candidate, status: str, seconds: float) -> PathPoint:
    codes = candidate.codes.toarray() if scipy.sparse.issparse(candidate.codes) else np.asarray(candidate.codes)
    residual = problem.residual(candidate)
    X = problem.X.to_tensor(device=torch.device("cpu"))
    spread = float((X - X.mean(dim=0)).square().sum())
    value, bound = problem.bounds(candidate)
    gaps, nan = gap_parts(problem, candidate, value, bound), float("nan")
    return PathPoint(
        atom_cost=problem.atom_cost,
        lam=problem.lam,
        value=value,
        lower_bound=bound,
        gap=relative_gap(value, bound),
        solver_gap=gaps.get("solver_gap", nan),
        relaxation_gap=gaps.get("relaxation_gap", nan),
        live_atoms=live_atoms(candidate),
        l0=float((codes > 0).sum() / len(codes)),
        fvu=float(residual.square().sum()) / spread if spread > 0 else nan,
        status=status,
        seconds=seconds,
    )
