"""Paths of the large dictionary: how width, sparsity and fit answer to the price of an atom, or to λ."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse
import torch

from cvxsae.data import arguments
from cvxsae.data.arguments import InputError
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.storage import write_atomically
from cvxsae.parallel.context import Compute, Run
from cvxsae.parallel.threads import threads_for
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.polar_search import LARGEST_DIM
from cvxsae.relaxations.convex.tidy import factor_of, live_atoms, tidy
from cvxsae.relaxations.solution import Solution, relative_gap
from cvxsae.solvers.convex.driver import iterate
from cvxsae.solvers.convex.large.column_generation import Directions
from cvxsae.solvers.convex.large.relaxation import DoublyNonnegative, WarmStart

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Along = Literal["atom_cost", "lam"]
_DEFAULT_POINTS = 16


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
        The two parts of the gap; NaN at τ = 0, where there is one.
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
class DictionaryPath:
    """The solutions of a path, in order, and what they say.

    Attributes
    ----------
    points
        One record a solve.
    candidates
        Dictionary, codes and bias of each.
    along
        What varies: ``"atom_cost"`` (τ) or ``"lam"`` (λ).
    """

    points: tuple[PathPoint, ...]
    candidates: tuple[Candidate, ...]
    along: Along

    def table(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        return pd.DataFrame([asdict(point) for point in self.points])

    def widest_plateau(self) -> int:
        """Index of a point in the middle of the longest stretch (on a log scale) with the same number of atoms.

        Stretches with one atom, with none and with one atom a datapoint do not count, as they are the ends that
        every path has: a width that the data asks for is one that survives the most change of price.
        """
        widths = np.array([point.live_atoms for point in self.points])
        position = np.log([max(getattr(point, self.along), 1e-300) for point in self.points])
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
        axes[0, 0].set_yscale("log")
        axes[1, 1].plot(x, table["value"], marker="o", label="attained")
        axes[1, 1].fill_between(x, table["lower_bound"], table["value"], alpha=0.3, label="down to the lower bound")
        axes[1, 1].set_ylabel("value per datapoint")
        axes[1, 1].legend()
        for axis in axes.ravel():
            axis.set_xscale("log")
        for axis in axes[1]:
            axis.set_xlabel("atom cost τ" if self.along == "atom_cost" else "penalty λ")
        return figure


def atom_cost_path(
    problem: LargeDictionary,
    values: Sequence[float] | None = None,
    *,
    along: Along = "atom_cost",
    tol: float = 1e-3,
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    callback: Callable[[PathPoint], None] | None = None,
) -> DictionaryPath:
    """Solve the large dictionary along a path of τ (or of λ), each point begun where the last one ended.

    Parameters
    ----------
    problem
        Data, bias and the other parameter; its own value of the one that varies is not used.
    values
        The path, increasing (positive numbers). Default for τ: from the end with one atom a datapoint (half
        of τ*, T12) up to N, in 16 geometric steps; for λ: from 0.02 to 0.9 ``lambda_max``.
    along
        ``"atom_cost"`` or ``"lam"``.
    tol
        Relative gap for every solve, and the share of the value below which an atom does not count.
    max_seconds
        Limit for each solve.
    device
        As in :func:`~cvxsae.solve`.
    folder
        Where to keep ``path.json`` and one ``point_NNN.npz`` a point. Files are written as the path is
        computed, each under another name first; a path that was interrupted goes on where it was.
    callback
        Called with every :class:`PathPoint`.

    Returns
    -------
    DictionaryPath
        Table, figure, and the dictionary and codes of every point.

    Raises
    ------
    InputError
        For a path that is not increasing and positive, or a folder that holds another path.
    """
    arguments.choice(along, "along", ("atom_cost", "lam"))
    path = _checked(default_values(problem, along) if values is None else values)
    options = {"max_seconds": max_seconds, "device": device}
    arguments.nonnegative(tol, "tol")
    store = None if folder is None else _Store(Path(folder), problem, path, along, tol)
    points, candidates = ([], []) if store is None else store.read()
    for number in range(len(points), len(path)):
        here = _at(problem, along, path[number])
        warm = _warm(here, candidates[-1]) if candidates else None
        run = Run.start(options, Compute).inner()
        with threads_for(here):
            if here.dim <= LARGEST_DIM:
                solution = iterate(Directions(tol, warm), here, tol, run)
            else:
                solution = iterate(DoublyNonnegative(tol, warm), here, tol, run)
        candidate = tidy(here, solution, slack=tol)
        points.append(_point(here, solution, candidate))
        candidates.append(_bare(candidate))
        if store is not None:
            store.write(points, candidates[-1])
        if callback is not None:
            callback(points[-1])
    return DictionaryPath(tuple(points), tuple(candidates), along)


def default_values(problem: LargeDictionary, along: Along) -> list[float]:
    """The path of :func:`atom_cost_path` when none is given."""
    if along == "lam":
        top = problem.lambda_max()
        if top <= 0:
            raise InputError("every row of X equals the bias, so there is no path along lam; check X and bias.")
        return [float(v) for v in np.geomspace(0.02 * top, 0.9 * top, _DEFAULT_POINTS)]
    threshold = 0.1
    if not problem.bias_is_free:
        threshold = problem.sharing_threshold()
    low = min(max(threshold / 2, 1e-2), problem.n_points / 100)
    return [float(v) for v in np.geomspace(low, max(problem.n_points, 2 * low), _DEFAULT_POINTS)]


def _checked(values: Sequence[float]) -> list[float]:
    path = [arguments.positive(value, "values") for value in values]
    if not path or any(after <= before for before, after in itertools.pairwise(path)):
        raise InputError("values must be increasing positive numbers, at least one.")
    return path


def _at(problem: LargeDictionary, along: Along, value: float) -> LargeDictionary:
    bias: Any = problem.bias
    if along == "lam":
        return LargeDictionary(problem.X, value, problem.atom_cost, bias=bias)
    return LargeDictionary(problem.X, problem.lam, value, bias=bias)


def _warm(problem: LargeDictionary, candidate: Candidate) -> WarmStart:
    return WarmStart(torch.from_numpy(np.ascontiguousarray(factor_of(problem, candidate))))


def _bare(candidate: Candidate) -> Candidate:
    return Candidate(bias=candidate.bias, dictionary=candidate.dictionary, codes=candidate.codes)


def _point(problem: LargeDictionary, solution: Solution, candidate: Candidate) -> PathPoint:
    codes = candidate.codes.toarray() if scipy.sparse.issparse(candidate.codes) else np.asarray(candidate.codes)
    residual = problem.residual(candidate)
    X = problem.X.to_tensor(device=torch.device("cpu"))
    spread = float((X - X.mean(dim=0)).square().sum())
    value = problem.primal_value(candidate)
    nan = float("nan")
    return PathPoint(
        atom_cost=problem.atom_cost,
        lam=problem.lam,
        value=value,
        lower_bound=solution.lower_bound,
        gap=relative_gap(value, solution.lower_bound),
        solver_gap=float(solution.info.get("solver_gap", nan)),
        relaxation_gap=float(solution.info.get("relaxation_gap", nan)),
        live_atoms=live_atoms(candidate),
        l0=float((codes > 0).sum() / len(codes)),
        fvu=float(residual.square().sum()) / spread if spread > 0 else nan,
        status=solution.status.name,
        seconds=solution.seconds,
    )


class _Store:
    """The folder of a path: what was asked, the points so far, and their arrays; nothing is left half written."""

    def __init__(self, folder: Path, problem: LargeDictionary, path: list[float], along: Along, tol: float) -> None:
        self.folder, self.file = folder, folder / "path.json"
        digest = hashlib.sha256(np.ascontiguousarray(problem.X.to_numpy()).tobytes())
        bias = "free" if isinstance(problem.bias, str) else problem.fixed_bias().tolist()
        digest.update(json.dumps(bias).encode())
        other = problem.lam if along == "atom_cost" else problem.atom_cost
        self.asked = {"along": along, "values": path, "other": other, "tol": tol, "data": digest.hexdigest()}
        if folder.exists() and not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} is a file; pass a folder.")

    def read(self) -> tuple[list[PathPoint], list[Candidate]]:
        """The points that are there already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            return [], []
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            points = [PathPoint(**point) for point in known["points"]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{str(self.file)!r} is not a path's file; pass another folder.") from None
        if known.get("asked") != self.asked:
            raise InputError(f"{str(self.folder)!r} holds another path (data or settings differ); pass another folder.")
        return points, [self._candidate(number) for number in range(len(points))]

    def _candidate(self, number: int) -> Candidate:
        arrays: dict[str, Any] = dict(read_arrays(self._point(number), "folder"))
        return Candidate(**arrays)

    def write(self, points: list[PathPoint], candidate: Candidate) -> None:
        """The newest point's arrays, then the list that names it."""
        write_arrays(self._point(len(points) - 1), {f: getattr(candidate, f) for f in ("bias", "dictionary", "codes")})
        write_atomically(self.file, json.dumps({"asked": self.asked, "points": [asdict(p) for p in points]}, indent=1))

    def _point(self, number: int) -> Path:
        return self.folder / f"point_{number:03d}.npz"
