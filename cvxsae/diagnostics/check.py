"""Measure every condition that an optimal dictionary satisfies, on exact certified codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.deadline import OutOfTime, until
from cvxsae.diagnostics import phenomena
from cvxsae.diagnostics.pairs import evident_score, scan_pairs
from cvxsae.diagnostics.report import OptimalityReport
from cvxsae.diagnostics.second_order import LANCZOS_TOL, least_curvature
from cvxsae.diagnostics.sums import CODE_TOL, FeatureStatistics, at_one_bias, measured, never_too_late
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.cone import cone_condition
from cvxsae.relaxations.joint.refinement import best_new_atoms, residual_starts, split_scores
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.floors.search import WIDE_SHARE, solved_wide_limit

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
    from cvxsae.relaxations.joint.cone import ConeCondition

Measured = TypeVar("Measured")

_SAME_ATOM = 0.999
"""New atoms with a larger cosine are one: climbs from different starts that end at the same maximum."""

_CONE_TOL = 1e-6
"""What counts as zero in the cone condition: refitted codes are exact to about 1e-10."""

_CONFIDENCE = 0.95
"""Of the intervals by which features are ranked."""

_WIDE_TOL = 1e-6
"""Relative gap of the wide limit in a report."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions that :func:`check_optimality` measures, and how closely.

    Attributes
    ----------
    code_tol
        Relative gap of the codes.
    splits
        Whether to compute split scores (T8).
    new_atoms
        Number of starts of the search for new atoms (T7); 0 skips it.
    pairs
        Number of pairs in each table.
    second_order
        Whether to run the second-order test (T5): tens to hundreds of Hessian-vector products.
    noiseless
        Whether to test the cone condition (T6) on codes refitted without shrinkage; for independent atoms.
    """

    code_tol: float = CODE_TOL
    splits: bool = True
    new_atoms: int = 32
    pairs: int = 100
    second_order: bool = False
    noiseless: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "code_tol", arguments.positive(self.code_tol, "code_tol"))
        object.__setattr__(self, "new_atoms", arguments.count(self.new_atoms, "new_atoms", least=0))
        object.__setattr__(self, "pairs", arguments.count(self.pairs, "pairs"))


class CheckOptions(Compute, Seeded, total=False):
    """How :func:`check_optimality` runs, and what it measures."""

    code_tol: float
    splits: bool
    new_atoms: int
    pairs: int
    second_order: bool
    noiseless: bool


_DEFAULTS = {field.name: field.default for field in fields(Conditions)}


@keywords(CheckOptions, **_DEFAULTS)
def check_optimality(
    X: ActivationsLike,
    dictionary: Any,
    lam: float | None = None,
    *,
    bias: BiasLike = None,
    trained_bias: bool = False,
    codes: Any = None,
    tol: float = 1e-4,
    **options: Unpack[CheckOptions],
) -> OptimalityReport:
    """Measure every condition that an optimal dictionary satisfies, and say which of them fail (theory.md §1–3).

    The codes are computed here, exactly and with certificates, whatever encoder the dictionary came with, so the
    findings are properties of the dictionary. The call makes the passes of :func:`~cvxsae.encode` over the data, one
    pass for the sums and a few for new atoms, and scans pairs block by block. No K × K array is formed; memory is
    about that of the data and three dictionaries.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts.
    dictionary
        Atoms as rows, (K, d), as in an SAE's ``W_dec``; any norm but zero. Codes refer to atoms of norm 1. Or a
        ``DictionaryFit``, which brings λ, its bias, whether that was optimized, and codes to start from.
    lam
        Penalty λ > 0 of (P): half the L1 coefficient of an SAE trained on a sum of squares without ½. Not with a fit.
    bias
        None (zero) or an array (d,), an SAE's ``b_dec``: a fixed bias, as everywhere. Not with a fit.
    trained_bias
        Whether that bias was optimized along with the dictionary. Then ``mean_n r_n = 0`` is a condition too (T3), the
        bias is a variable of the second-order test, and the wide limit is over all biases. Not with a fit.
    codes
        Codes to start from, as in :func:`~cvxsae.encode`; not trusted.
    tol
        Distances up to this size, in units of λ, count as zero in the verdicts.
    options
        ``device``, ``max_seconds``, ``progress``, ``seed`` (of random starts), and those of :class:`Conditions`:
        ``code_tol``, ``splits``, ``new_atoms``, ``pairs``, ``second_order``, ``noiseless``. If time runs out,
        ``unfinished`` says what was not measured.

    Returns
    -------
    OptimalityReport
        Tables, verdicts, figure and JSON.

    Raises
    ------
    InputError
        For arguments that cannot be used, and if ``max_seconds`` passed before the sums over all datapoints were
        complete, since nothing can be said then.
    KeyboardInterrupt
        On Ctrl-C: conditions mean nothing where codes are not exact.
    """
    run = Run.start(options, CheckOptions)
    chosen = Conditions(**{name: value for name, value in options.items() if name in _DEFAULTS})  # type: ignore[arg-type]
    tol = arguments.positive(tol, "tol")
    if isinstance(dictionary, DictionaryFit):
        fit = dictionary
        if lam is not None or bias is not None or trained_bias:
            raise InputError("dictionary is a fit, which knows its lam and bias; leave out lam, bias and trained_bias.")
        problem = at_one_bias(X, fit.dictionary, fit.lam, fit.bias)
        if codes is None and problem.n_points == fit.codes.shape[0]:
            codes = fit.codes  # likely of the same data; not trusted
        with never_too_late():
            return check(problem, codes, chosen, tol, run, bias_is_free=fit.problem.bias_is_free)
    if lam is None:
        raise InputError("lam is None; pass the penalty λ of (P), unless dictionary is a fit that knows it.")
    problem = at_one_bias(X, dictionary, lam, bias)
    with never_too_late():
        return check(problem, codes, chosen, tol, run, bias_is_free=trained_bias)


def check(
    problem: SparseCodes, codes: Any, chosen: Conditions, tol: float, run: Run, *, bias_is_free: bool
) -> OptimalityReport:
    """:func:`check_optimality` for arguments that have been checked. An interrupt passes through, and OutOfTime."""
    wide = WideLimit(problem.X, problem.lam, bias="free" if bias_is_free else problem.bias)
    limit = solved_wide_limit(wide, _WIDE_TOL, run, share=WIDE_SHARE)
    found = measured(problem, codes, chosen.code_tol, run)
    scores = {
        "pairs": evident_score,
        "absorbed": phenomena.absorption_score,
        "antipodes": phenomena.antipodal_score(),
        "duplicates": phenomena.duplicate_score(),
    }
    scan = scan_pairs(found, scores, chosen.pairs, run)
    unfinished = ["codes"] if run.is_late and not found.codes.done.all() else []
    unfinished += [] if scan.is_complete else ["pairs"]

    def measured_in_time(what: str, asked: bool, measure: Callable[[], Measured]) -> Measured | None:
        """What was asked for; None, and noted down, if there is no time for it."""
        if not asked:
            return None
        try:
            with until(run.last_moment):
                if not run.is_late:
                    return measure()
        except OutOfTime:
            pass
        unfinished.append(what)
        return None

    splits = measured_in_time("split scores", chosen.splits, lambda: _split_scores(found, run.seed))
    features, directions = _features(found, scan.deficits, splits)
    new = measured_in_time("new atoms", chosen.new_atoms > 0, lambda: _new_atoms(found, chosen.new_atoms, run.seed))
    atoms, gains = (np.zeros((0, len(found.bias))), np.zeros(0)) if new is None else new
    noiseless = measured_in_time("the cone condition", chosen.noiseless, lambda: _noiseless(found))
    cone, error = (None, float("nan")) if noiseless is None else noiseless
    curved = measured_in_time(
        "the second-order test",
        chosen.second_order,
        lambda: least_curvature(problem, found.codes, LANCZOS_TOL, run.inner(), bias_is_free=bias_is_free),
    )
    return OptimalityReport(
        statistics=found,
        features=features,
        pairs=scan.tables["pairs"],
        absorbed=scan.tables["absorbed"],
        antipodes=phenomena.antipodal_table(found, scan.tables["antipodes"]),
        duplicates=scan.tables["duplicates"],
        residuals=phenomena.residual_structure(found),
        dual_excess=float(found.largest_ratio.max()) - 1,
        identity_deficit=scan.largest_deficit,
        bias_residual=float(np.linalg.norm(found.mean_bias_residual)) / found.lam,
        bias_is_free=bias_is_free,
        new_atoms=atoms,
        new_atom_gains=gains,
        split_directions=directions,
        wide_value=limit.value,
        wide_lower_bound=limit.lower_bound,
        second_order=curved,
        noiseless=cone,
        noiseless_error=error,
        unfinished=tuple(unfinished),
        tol=tol,
    )


def _features(
    found: FeatureStatistics,
    deficits: Float64[np.ndarray, " K"],
    splits: tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, "K d"]] | None,
) -> tuple[pd.DataFrame, Float64[np.ndarray, "K d"]]:
    frame = phenomena.feature_densities(found)
    distance = np.linalg.norm(found.mean_residual / found.lam - found.dictionary.numpy(), axis=1)
    frame["stationarity"] = distance
    frame["standard_error"] = found.standard_error
    frame["at_least"] = distance - _likely_error(found)
    frame["gradient"] = found.lam * found.mass * distance
    frame["identity_deficit"] = deficits
    frame["largest_ratio"] = found.largest_ratio
    frame["split_score"] = np.nan if splits is None else splits[0]
    return frame, np.zeros(tuple(found.dictionary.shape)) if splits is None else splits[1]


def _split_scores(found: FeatureStatistics, seed: int) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, "K d"]]:
    """How fast F falls when each feature splits, and along which direction; NaN for dead ones."""
    scores, along = split_scores(found.residuals, found.codes.codes, found.dictionary, seed=seed)
    return np.where(found.live, scores.cpu().double().numpy(), np.nan), along.cpu().double().numpy()


def _likely_error(found: FeatureStatistics) -> Float64[np.ndarray, " K"]:
    """Half the width of the confidence interval of ``‖E_k[r]/λ‖``; NaN for features that fire too seldom."""
    from scipy import special

    width = special.stdtrit(np.maximum(found.counts - 1, 1), 0.5 + _CONFIDENCE / 2)  # Student's t
    return np.where(found.has_evidence, width * found.standard_error, np.nan)


def _new_atoms(found: FeatureStatistics, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct best new atoms, best first."""
    starts = residual_starts(found.residuals, found.lam, count, seed=seed) if count else found.residuals[:0]
    if not len(starts):
        return np.zeros((0, len(found.bias))), np.zeros(0)
    atoms, gains = (part.cpu().double().numpy() for part in best_new_atoms(found.residuals, found.lam, starts))
    kept: list[int] = []
    for index in np.argsort(-gains, kind="stable"):
        if gains[index] > 0 and (not kept or (atoms[kept] @ atoms[index]).max() < _SAME_ATOM):
            kept.append(int(index))
    return atoms[kept], gains[kept]


def _noiseless(found: FeatureStatistics) -> tuple[ConeCondition, float]:
    """The cone condition of the live atoms, on codes refitted without shrinkage; features keep their indices."""
    refit = found.codes.refit()
    return cone_condition(refit.codes, found.dictionary.numpy(), tol=_CONE_TOL), refit.fvu_after
