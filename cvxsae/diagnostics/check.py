"""Where and why a dictionary is not optimal: every necessary condition, measured on exact certified codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.diagnostics import phenomena
from cvxsae.diagnostics import report as optimality_text
from cvxsae.diagnostics.pairs import identity_score, scan_pairs
from cvxsae.diagnostics.second_order import second_order as check_second_order
from cvxsae.diagnostics.sums import CODE_TOL, FeatureStatistics, feature_statistics
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.cone import cone_condition
from cvxsae.relaxations.joint.refinement import best_new_atoms, residual_starts, split_scores
from cvxsae.solvers.convex.solve import solve

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64, Int64
    from matplotlib.figure import Figure

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.diagnostics.phenomena import ResidualStructure
    from cvxsae.diagnostics.second_order import SecondOrder
    from cvxsae.relaxations.joint.cone import ConeCondition

_SAME_ATOM = 0.999


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimalityReport:
    """What :func:`check_optimality` found. Everything is keyed by feature index; values are in units of (P).

    Attributes
    ----------
    statistics
        Exact codes and their sums.
    features
        One row a feature: densities (:func:`~cvxsae.diagnostics.phenomena.feature_densities`), ``stationarity``
        ``‖E_k[r]/λ − d_k‖`` (T3), ``gradient`` (that times ``λ S_k/N``: the slope of F, per unit angle),
        ``identity_deficit`` (largest failure of (2) over j), ``largest_ratio`` ``max_n d_k·r_n/λ`` (T1),
        ``split_score`` (T8). Dead features have NaN where nothing can be said.
    pairs
        The ordered pairs that fail (2) most; see :func:`~cvxsae.diagnostics.pairs.scan_pairs` for the columns.
    absorbed
        Pairs ranked by :func:`~cvxsae.diagnostics.phenomena.absorption`.
    antipodes, duplicates
        Pairs of :func:`~cvxsae.diagnostics.phenomena.antipodal_pairs` and ``duplicates``.
    residuals
        What the residuals are made of.
    dual_excess
        ``max_nk d_k·r_n/λ − 1`` (T1): at most about the root of ``code_tol``.
    identity_deficit
        ``max |cos(d_j, d_k) − E_k[ρ_j]|`` over all pairs of live features (T4).
    bias_residual
        ``‖mean_n r_n‖/λ`` (T3).
    bias_is_free
        Whether the bias counts as a variable.
    new_atoms, new_atom_gains
        Best new atoms found, (m, d), and how much each alone lowers F, (m,), best first (T7). Empty if none can.
    split_directions
        v_k of every feature, (K, d) (T8).
    wide_value, wide_lower_bound
        F_wide and its certified lower bound: what no dictionary of any width can beat (T9).
    second_order, noiseless
        The second-order test (T5) and the cone condition (T6), if asked for.
    noiseless_error
        Relative squared error of the codes the cone condition was tested on; it is about data with none.
    tol
        What counts as zero in the verdicts.
    """

    statistics: FeatureStatistics
    features: pd.DataFrame
    pairs: pd.DataFrame
    absorbed: pd.DataFrame
    antipodes: pd.DataFrame
    duplicates: pd.DataFrame
    residuals: ResidualStructure
    dual_excess: float
    identity_deficit: float
    bias_residual: float
    bias_is_free: bool
    new_atoms: Float64[np.ndarray, "m d"]
    new_atom_gains: Float64[np.ndarray, " m"]
    split_directions: Float64[np.ndarray, "K d"]
    wide_value: float
    wide_lower_bound: float
    second_order: SecondOrder | None
    noiseless: ConeCondition | None
    noiseless_error: float
    tol: float

    @property
    def value(self) -> float:
        """F(D, b), attained."""
        return self.statistics.codes.value

    @property
    def lower_bound(self) -> float:
        """Certified lower bound on F(D, b), this dictionary's value."""
        return self.statistics.codes.lower_bound

    @property
    def stationarity(self) -> float:
        """Largest ``‖E_k[r]/λ − d_k‖`` over live features (T3); 0 if all are dead."""
        return float(np.nan_to_num(self.features["stationarity"].to_numpy(dtype=np.float64)).max())

    @property
    def is_stationary(self) -> bool:
        """Whether no turn of an atom (and no shift of a free bias) lowers F at first order, to ``tol``."""
        return self.stationarity <= self.tol and (not self.bias_is_free or self.bias_residual <= self.tol)

    @property
    def is_optimal_at_every_width(self) -> bool:
        """Whether ``max_n ‖r_n‖ ≤ λ``: nothing can be gained by more atoms (T7)."""
        return self.residuals.longest_ratio <= 1 + self.tol

    @cached_property
    def complaints(self) -> tuple[str, ...]:
        """One sentence for each condition of a local optimum that this dictionary does not satisfy."""
        return tuple(optimality_text.complaints(self))

    def worst_features(self, count: int = 10) -> pd.DataFrame:
        """The features farthest from stationarity, worst first."""
        return self.features.sort_values("stationarity", ascending=False, na_position="last").head(count)

    def predicted_splits(self, count: int = 10) -> pd.DataFrame:
        """The features that would split first, by score (T8)."""
        return self.features.sort_values("split_score", ascending=False, na_position="last").head(count)

    def split_tokens(self, feature: int, count: int = 10) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " q"]]:
        """Datapoints that would follow ``d_k + εv`` and those that would follow ``d_k − εv``, strongest first."""
        points, codes = self.statistics.activations(feature)
        residuals = self.statistics.residuals
        rows = residuals[torch.from_numpy(points).to(residuals.device)].cpu().double().numpy()
        pull = codes * (rows @ self.split_directions[feature])
        order = np.argsort(-np.abs(pull), kind="stable")
        ahead = pull[order] > 0
        return points[order[ahead]][:count], points[order[~ahead]][:count]

    def summary(self) -> dict[str, Any]:
        """The numbers of the report, without its tables."""
        found = self.statistics
        return {
            "n_points": found.n_points,
            "n_atoms": found.n_atoms,
            "dim": len(found.bias),
            "lam": found.lam,
            "lambda_ratio": found.codes.lambda_ratio,
            "value": self.value,
            "lower_bound": self.lower_bound,
            "wide_value": self.wide_value,
            "wide_lower_bound": self.wide_lower_bound,
            "l0": found.codes.l0,
            "dead": int((~found.live).sum()),
            "dense": int(self.features["dense"].sum()),
            "dual_excess": self.dual_excess,
            "stationarity": self.stationarity,
            "bias_residual": self.bias_residual,
            "bias_is_free": self.bias_is_free,
            "identity_deficit": self.identity_deficit,
            "best_new_atom_gain": float(self.new_atom_gains[0]) if len(self.new_atom_gains) else 0.0,
            "largest_split_score": float(np.nan_to_num(self.features["split_score"].to_numpy(dtype=np.float64)).max()),
            "dependent_points": found.dependent,
            "is_stationary": self.is_stationary,
            "is_optimal_at_every_width": self.is_optimal_at_every_width,
            "tol": self.tol,
        }

    def to_dict(self, count: int = 20) -> dict[str, Any]:
        """Ready for JSON: the summary, the complaints, and the first ``count`` rows of every table."""
        return optimality_text.report_dict(self, count)

    def figure(self) -> Figure:
        """Six panels: densities, stationarity, the identity (2), split scores, residual lengths, spectrum."""
        from cvxsae.diagnostics.figures import optimality_figure

        return optimality_figure(self)

    def __str__(self) -> str:
        return "\n".join(optimality_text.lines(self))


def check_optimality(
    X: ActivationsLike,
    dictionary: Any,
    lam: float,
    *,
    bias: BiasLike = None,
    bias_is_free: bool | None = None,
    codes: Any = None,
    tol: float = 1e-4,
    code_tol: float = CODE_TOL,
    splits: bool = True,
    new_atoms: int = 32,
    pairs: int = 100,
    second_order: bool = False,
    noiseless: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> OptimalityReport:
    """Measure every condition that an optimal dictionary satisfies, and say where this one does not (theory.md §1–3).

    The codes are computed here, exactly and with certificates, whatever encoder the dictionary came with: so what is
    found is a property of the dictionary. Passes over the data: the encoder's, one for the sums, a few for new atoms;
    pairs are scanned block by block. Nothing K × K is held; memory is about that of the data and three dictionaries.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    dictionary
        Atoms as rows, (K, d), as in an SAE's ``W_dec``; any norm but zero. Codes refer to atoms of norm 1.
    lam
        Penalty λ > 0 of (P): half the L1 coefficient of an SAE trained on a sum of squares without ½.
    bias
        None (zero) or an array (d,), an SAE's ``b_dec``.
    bias_is_free
        Whether the bias is a variable, so that ``mean_n r_n = 0`` is a condition; by default, whether one was passed.
    codes
        Codes to start from, as in :func:`~cvxsae.encode`; not believed.
    tol
        What counts as zero in the verdicts: a distance in units of λ.
    code_tol
        Relative gap of the codes.
    splits
        Whether to compute split scores (T8).
    new_atoms
        How many starts the search for new atoms has (T7); 0 skips it.
    pairs
        How many pairs each table keeps.
    second_order
        Whether to run the second-order test (T5): tens to hundreds of Hessian-vector products.
    noiseless
        Whether to test the cone condition (T6) on codes refitted without shrinkage; for independent atoms.
    seed
        Of random starts.
    device
        Where to compute; the CPU by default.
    progress
        Show progress bars on stderr.

    Returns
    -------
    OptimalityReport
        Tables, verdicts, figure and JSON.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    """
    data = Activations(X)
    tol = arguments.positive(tol, "tol")
    n_starts, n_pairs = arguments.count(new_atoms, "new_atoms", least=0), arguments.count(pairs, "pairs")
    found = feature_statistics(
        data, dictionary, lam, bias=bias, codes=codes, code_tol=code_tol, device=device, progress=progress
    )
    free = bias is not None if bias_is_free is None else bias_is_free
    scores = {
        "pairs": identity_score,
        "absorbed": phenomena.absorption_score,
        "antipodes": phenomena.antipodal_score(),
        "duplicates": phenomena.duplicate_score(),
    }
    scan = scan_pairs(found, scores, n_pairs)
    features, directions = _features(found, scan.deficits, splits=splits, seed=seed)
    atoms, gains = _new_atoms(found, n_starts, seed)
    wide = solve(WideLimit(data, found.lam, "free" if free else found.bias), device=device, raise_on_failure=False)
    cone, error = _noiseless(found) if noiseless else (None, float("nan"))
    curved = (
        check_second_order(
            data,
            found.dictionary,
            found.lam,
            bias=found.bias,
            bias_is_free=free,
            codes=found.codes,
            seed=seed,
            device=device,
        )
        if second_order
        else None
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
        bias_is_free=free,
        new_atoms=atoms,
        new_atom_gains=gains,
        split_directions=directions,
        wide_value=wide.value,
        wide_lower_bound=wide.lower_bound,
        second_order=curved,
        noiseless=cone,
        noiseless_error=error,
        tol=tol,
    )


def _features(
    found: FeatureStatistics, deficits: Float64[np.ndarray, " K"], *, splits: bool, seed: int
) -> tuple[pd.DataFrame, Float64[np.ndarray, "K d"]]:
    frame = phenomena.feature_densities(found)
    distance = np.linalg.norm(found.mean_residual / found.lam - found.dictionary.numpy(), axis=1)
    frame["stationarity"] = distance
    frame["gradient"] = found.lam * found.mass * distance
    frame["identity_deficit"] = deficits
    frame["largest_ratio"] = found.largest_ratio
    directions = np.zeros(tuple(found.dictionary.shape))
    frame["split_score"] = np.nan
    if splits:
        scores, along = split_scores(found.residuals, found.codes.codes, found.dictionary, seed=seed)
        frame["split_score"] = np.where(found.live, scores.cpu().double().numpy(), np.nan)
        directions = along.cpu().double().numpy()
    return frame, directions


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
    return cone_condition(refit.codes, found.dictionary.numpy(), tol=1e-6), refit.fvu_after
