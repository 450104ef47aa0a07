"""What each method computes for one cell: plain numbers for the table, arrays for the cells that start from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data.arguments import InputError
from cvxsae.diagnostics.check import check_optimality
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.tidy import live_atoms, tidy
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.floors.spectral import spectral_floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import Status
from cvxsae.sae.audit import AuditOptions, account
from cvxsae.sae.train import train_sae
from cvxsae.solvers.codes.paths import lambda_for_l0
from cvxsae.solvers.convex.solve import solve
from cvxsae.solvers.dictionary.learn import learn_dictionary
from cvxsae.solvers.floors.search import WIDE_TOL, width_floor
from cvxsae.validation.certify import certify
from cvxsae.validation.claims import stationarity

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cvxsae.relaxations.candidate import Candidate
    from cvxsae.relaxations.problem import Problem
    from cvxsae.relaxations.solution import Solution
    from cvxsae.solvers.dictionary.result import DictionaryFit
    from cvxsae.study.plan import Cell

CODES_TOL = 1e-6
"""Largest relative duality gap of the codes of a certified dictionary."""

Warm = tuple[np.ndarray, np.ndarray]
"""Dictionary and bias to start from."""


@dataclass(frozen=True)
class Outcome:
    """What a cell found.

    Attributes
    ----------
    numbers
        Columns of the table.
    objections
        What the referee says is wrong with it, a sentence each.
    arrays
        Dictionary and bias, for cells that start from them.
    ledger
        That of a trained SAE, at the wide limit's floor.
    """

    numbers: dict[str, Any]
    objections: tuple[str, ...] = ()
    arrays: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] | None = None


@dataclass(frozen=True)
class Setting:
    """The problem of a cell: datapoints, penalty, bias, and where to start."""

    cell: Cell
    X: Float64[np.ndarray, "N d"]
    lam: float
    warm: Warm | None = None

    @property
    def bias(self) -> Any:
        """None (zero), ``"free"`` or the mean of the data."""
        return {"none": None, "free": "free", "mean": self.X.mean(axis=0)}[self.cell.bias]

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of the method."""
        return self.cell.options

    @property
    def width(self) -> int:
        """K."""
        assert self.cell.n_atoms is not None
        return self.cell.n_atoms

    @property
    def seed(self) -> int:
        """Of the search."""
        return self.cell.seed or 0


def compute(setting: Setting) -> Outcome:
    """Do what the cell's method does."""
    return _METHODS[setting.cell.method](setting)


def _wide_limit(s: Setting) -> Outcome:
    solution = _finished(solve(WideLimit(s.X, s.lam, s.bias), tol=s.options["tol"], raise_on_failure=False))
    found = certify(solution.problem, solution)
    offsets = s.X - solution.bias
    norms = np.linalg.norm(offsets, axis=1)
    residuals = np.minimum(norms, s.lam)
    coded = int((norms > s.lam).sum())
    numbers = {
        **_enclosed(found.value, found.lower_bound), "l0": coded / len(norms), "live_atoms": coded,
        "fvu": _share(float(np.square(residuals).sum()), s.X), "outcome": solution.status.name,
        "bias_residual": found.bias_residual, "lambda_max": found.lambda_max,
    }  # fmt: skip
    return Outcome(numbers, found.objections)


def _spectral_floor(s: Setting) -> Outcome:
    return Outcome(_floor_numbers(spectral_floor(s.X, s.width, s.lam, bias=s.bias)))


def _width_floor(s: Setting) -> Outcome:
    given = {key: s.options[key] for key in ("kernels", "max_points", "tol", "max_seconds") if key in s.options}
    started = time.monotonic()
    floor = width_floor(s.X, s.width, s.lam, bias=s.bias, **given)
    limited = time.monotonic() - started >= given.get("max_seconds", math.inf)
    return Outcome({**_floor_numbers(floor), "outcome": "TIME_LIMIT" if limited else None})


def _floor_numbers(floor: Floor) -> dict[str, Any]:
    return {"lower_bound": floor.value, "theorem": floor.theorem}


def _large_dictionary(s: Setting) -> Outcome:
    tol, cost = s.options["tol"], s.cell.atom_cost or 0.0
    problem = LargeDictionary(s.X, s.lam, cost, s.bias)
    solution = _finished(solve(problem, tol=tol, max_seconds=s.options.get("max_seconds"), raise_on_failure=False))
    found = certify(problem, solution, tol=1.0)  # the gap is reported, and need not be closed
    candidate = tidy(problem, solution, slack=tol) if cost > 0 else solution
    numbers = {
        **_enclosed(found.value, found.lower_bound), "solver_gap": found.solver_gap,
        "relaxation_gap": found.relaxation_gap, "live_atoms": live_atoms(candidate), "l0": _l0(candidate),
        "fvu": _fvu(problem, candidate, s.X), "outcome": solution.status.name, "lambda_max": found.lambda_max,
    }  # fmt: skip
    return Outcome(numbers, found.objections)


def _learned(s: Setting) -> Outcome:
    fit = _learn(s, s.lam, s.warm, tol=s.options["tol"], second_order=s.options["second_order"])
    problem = SparseCodes(s.X, fit.dictionary, s.lam, fit.bias)
    found = certify(problem, fit.candidate(), tol=CODES_TOL)
    residuals, drift = stationarity(problem, fit.candidate())
    numbers = {
        **_enclosed(found.value, fit.floor), "codes_gap": found.gap,
        "stationarity": float(np.nanmax(residuals, initial=0)),
        "bias_residual": drift if s.cell.bias == "free" else None, "least_curvature": fit.least_curvature,
        "l0": fit.codes.l0, "live_atoms": fit.n_atoms - fit.dead_atoms, "outcome": fit.status.name,
        "fvu": _fvu(problem, fit.candidate(), s.X),
    }  # fmt: skip
    return Outcome(numbers, found.objections, {"dictionary": fit.dictionary, "bias": fit.bias})


def _learn(s: Setting, lam: float, start: Any, **more: Any) -> DictionaryFit:
    limits: dict[str, Any] = {key: s.options.get(key) for key in ("max_seconds", "max_steps")}
    fit = learn_dictionary(s.X, s.width, lam, bias=s.bias, seed=s.seed, init=start, **limits, **more)
    if fit.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return fit


def _trained_sae(s: Setting) -> Outcome:
    given = {key: s.options[key] for key in ("steps", "batch_size", "lr", "resample", "trainer")}
    sae = train_sae(s.X, s.width, s.lam, bias=s.bias, seed=s.seed, **given)
    wide = _finished(solve(WideLimit(s.X, s.lam, s.bias), tol=WIDE_TOL, raise_on_failure=False))
    floor = Floor(JointProblem(s.X, s.width, s.lam, bias=s.bias), wide.lower_bound, "T9")
    tol = s.options["tol"]
    found = account(
        sae, floor, wide, tol, Run.start({"max_seconds": s.options["search_seconds"], "seed": s.seed}, AuditOptions)
    )
    codes = sae.encode(s.X)
    residual = s.X - sae.b_dec.astype(np.float64) - codes @ sae.dictionary
    numbers = {
        **_enclosed(found.loss, found.wide), "exact": found.exact, "local": found.local, "codes_gap": found.codes_gap,
        "local_codes_gap": found.local_codes_gap, "stationarity": found.stationarity,
        "bias_residual": found.bias_residual, "l0": found.l0, "exact_l0": found.exact_l0, "local_l0": found.local_l0,
        "live_atoms": s.width - found.dead, "fvu": _share(float(np.square(residual).sum()), s.X),
        "lambda_max": found.lambda_max, "outcome": "TRAINED",
    }  # fmt: skip
    worst = max(found.codes_gap, found.local_codes_gap)
    objections = () if worst <= tol else (f"The codes are exact to {worst:.1e} only, not to {tol:.0e}.",)
    return Outcome(numbers, objections, {"dictionary": found.dictionary, "bias": found.decoder_bias}, found.to_dict())


def _check(s: Setting) -> Outcome:
    if s.warm is None:
        raise InputError("there is no dictionary to check, as the cell that learns it failed.")
    dictionary, bias = s.warm
    keys = ("tol", "splits", "new_atoms", "second_order", "noiseless")
    report = check_optimality(
        s.X, dictionary, s.lam, bias=bias, trained_bias=s.cell.bias == "free", seed=s.seed,
        **{key: s.options[key] for key in keys},
    )  # fmt: skip
    found = report.summary()
    second = report.second_order
    numbers = {
        **_enclosed(report.value, report.lower_bound), "l0": found["l0"], "live_atoms": s.width - found["dead"],
        "codes_gap": report.statistics.codes.gap, "stationarity": found["stationarity"],
        "bias_residual": found["bias_residual"] if s.cell.bias == "free" else None,
        "identity_deficit": found["identity_deficit"], "new_atom_gain": found["best_new_atom_gain"],
        "split_score": found["largest_split_score"], "dense": found["dense"],
        "least_curvature": None if second is None else second.least.eigenvalue,
        "outcome": "STATIONARY" if report.is_stationary else "NOT_STATIONARY",
    }  # fmt: skip
    gap = report.statistics.codes.gap
    objections = () if gap <= CODES_TOL else (f"The codes are exact to {gap:.1e} only, not to {CODES_TOL:.0e}.",)
    return Outcome(numbers, objections)


def _calibrate(s: Setting) -> Outcome:
    """λ at which the learned dictionary of this width has the target L0: learn, solve for λ, learn again.

    The λ that this dictionary needs is left for the middle (in log λ) of one known to be too small and one known to
    be too large wherever it is not between them, and in every other round.
    """
    target, rtol = s.cell.target_l0 or 0.0, s.options["rtol"]
    penalty = 0.1 * WideLimit(s.X, 1.0, s.bias).lambda_max()
    if not penalty > 0:
        raise InputError("every datapoint equals the bias, so no λ has any active atoms; check data and bias.")
    fit = _learn(s, penalty, None, tol=1e-1)
    small, large = 0.0, math.inf
    for turn in range(s.options["rounds"]):
        if fit.codes.l0 > target:
            small = max(small, penalty)
        else:
            large = min(large, penalty)
        penalty = lambda_for_l0(s.X, fit.dictionary, target, bias=fit.bias, seed=s.seed)
        if 0 < small < large < math.inf and (turn % 2 or not small < penalty < large):
            penalty = math.sqrt(small * large)
        fit = _learn(s, penalty, (fit.dictionary, fit.bias), tol=1e-2)
        if abs(fit.codes.l0 - target) <= rtol * target:
            numbers = {
                **_enclosed(fit.value, fit.floor), "l0": fit.codes.l0, "codes_gap": fit.codes.gap,
                "live_atoms": fit.n_atoms - fit.dead_atoms, "outcome": f"CALIBRATED_IN_{turn + 1}",
            }  # fmt: skip
            return Outcome({**numbers, "lam": penalty})
    raise InputError(
        f"[grid] target_l0 is {target:g} but after {s.options['rounds']} rounds of [calibrate] the learned dictionary "
        f"has {fit.codes.l0:.3g} active atoms at λ = {penalty:.4g}; raise [calibrate] rounds or rtol."
    )


_METHODS: dict[str, Callable[[Setting], Outcome]] = {
    "wide_limit": _wide_limit,
    "spectral_floor": _spectral_floor,
    "width_floor": _width_floor,
    "large_dictionary": _large_dictionary,
    "learned": _learned,
    "trained_sae": _trained_sae,
    "check": _check,
    "calibrate": _calibrate,
}


def _finished(solution: Solution) -> Solution:
    """The solution, unless someone interrupted it: then there is no answer to keep."""
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return solution


def _enclosed(value: float, bound: float) -> dict[str, float]:
    return {"value": value, "lower_bound": bound}


def _share(squares: float, X: Float64[np.ndarray, "N d"]) -> float | None:
    """Of the variance about the mean: None if there is none."""
    spread = float(np.square(X - X.mean(axis=0)).sum())
    return squares / spread if spread > 0 else None


def _fvu(problem: Problem, candidate: Candidate, X: Float64[np.ndarray, "N d"]) -> float | None:
    return _share(sum(float(block.square().sum()) for _, block in problem.residual_batches(candidate)), X)


def _l0(candidate: Candidate) -> float:
    codes: Any = candidate.codes
    return float((codes > 0).sum() / codes.shape[0])
