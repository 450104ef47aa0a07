"""The result of :func:`~cvxsae.check_optimality`: where a dictionary is not optimal, in tables, words and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.solvers.codes.activity import show_dead

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64, Int64
    from matplotlib.figure import Figure

    from cvxsae.diagnostics.phenomena import ResidualStructure
    from cvxsae.diagnostics.second_order import SecondOrder
    from cvxsae.diagnostics.sums import FeatureStatistics
    from cvxsae.relaxations.joint.cone import ConeCondition

_BINS = 50
"""Bins of the histograms."""

_SMALLEST = 1e-16
"""What logarithmic axes show for zero: rounding of float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimalityReport:
    """The findings of :func:`check_optimality`. Everything is keyed by feature index; values are in units of (P).

    Attributes
    ----------
    statistics
        Exact codes and their sums.
    features
        One row per feature: densities (:func:`~cvxsae.diagnostics.phenomena.feature_densities`), ``stationarity``
        ``‖E_k[r]/λ − d_k‖`` (T3), its ``standard_error`` over the datapoints, what it is ``at_least`` with 95 %
        confidence if these are a sample of others (NaN for features that fire on fewer than ten), ``gradient`` (that
        times ``λ S_k/N``: the slope of F, per unit angle), ``identity_deficit`` (largest failure of (2) over j),
        ``largest_ratio`` ``max_n d_k·r_n/λ`` (T1), ``split_score`` (T8). Dead features have NaN where nothing can be
        said.
    pairs
        The ordered pairs that fail (2) most; see :func:`~cvxsae.diagnostics.pairs.scan_pairs` for the columns.
    absorbed
        Pairs ranked by :func:`~cvxsae.diagnostics.phenomena.absorption`.
    antipodes, duplicates
        Pairs of :func:`~cvxsae.diagnostics.phenomena.antipodal_pairs` and ``duplicates``.
    residuals
        The structure of the residuals.
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
        The second-order test (T5) and the cone condition (T6), if requested.
    noiseless_error
        Relative squared error of the codes the cone condition was tested on; it is about data with none.
    unfinished
        Requested measurements that were not made because ``max_seconds`` had passed; empty otherwise.
    tol
        Distances up to this size, in units of λ, count as zero in the verdicts.
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
    unfinished: tuple[str, ...]
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
        """Whether no rotation of an atom (and no shift of a free bias) lowers F at first order, to ``tol``."""
        known = "codes" not in self.unfinished
        return known and self.stationarity <= self.tol and (not self.bias_is_free or self.bias_residual <= self.tol)

    @property
    def is_optimal_at_every_width(self) -> bool:
        """Whether ``max_n ‖r_n‖ ≤ λ``: nothing can be gained by more atoms (T7)."""
        return self.residuals.longest_ratio <= 1 + self.tol

    @cached_property
    def objections(self) -> tuple[str, ...]:
        """One sentence for each condition of a local optimum that this dictionary fails, the most basic first."""
        return (*_first_order(self), *_structure(self))

    def worst_features(self, count: int = 10) -> pd.DataFrame:
        """The features that are certainly farthest from stationarity (``at_least``); rarely firing ones come last.

        Those for which nothing is certain (a bound of zero or below) are in the order of their residual on these rows.
        """
        sure = self.features.assign(sure=self.features["at_least"].clip(lower=0))
        ordered = sure.sort_values(["sure", "stationarity"], ascending=False, na_position="last", kind="stable")
        return ordered.head(count).drop(columns="sure")

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
        """Return the numbers of the report, without its tables."""
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
            **found.activity.to_dict(),
            "dense": int(self.features["dense"].sum()),
            "dual_excess": self.dual_excess,
            "stationarity": self.stationarity,
            "bias_residual": self.bias_residual,
            "bias_is_free": self.bias_is_free,
            "identity_deficit": self.identity_deficit,
            "best_new_atom_gain": float(self.new_atom_gains[0]) if len(self.new_atom_gains) else 0.0,
            "largest_split_score": float(np.nan_to_num(self.features["split_score"].to_numpy(dtype=np.float64)).max()),
            "dependent_points": found.dependent,
            "unfinished": list(self.unfinished),
            "is_stationary": self.is_stationary,
            "is_optimal_at_every_width": self.is_optimal_at_every_width,
            "tol": self.tol,
        }

    def to_dict(self, count: int = 20) -> dict[str, Any]:
        """Return a dictionary for JSON: the summary, the objections, and the first ``count`` rows of every table."""
        splits = self.predicted_splits(count)
        scores = zip(splits.index.tolist(), splits["split_score"].tolist(), strict=True)
        return {
            **self.summary(),
            "objections": list(self.objections),
            "residuals": self.residuals.to_dict(),
            "worst_features": _records(self.worst_features(count)),
            "predicted_splits": [
                {"feature": k, "split_score": score, "tokens": [side.tolist() for side in self.split_tokens(k)]}
                for k, score in scores
                if score > 0
            ],
            "pairs": _records(self.pairs.head(count)),
            "absorbed": _records(self.absorbed.head(count)),
            "antipodes": _records(self.antipodes.head(count)),
            "duplicates": _records(self.duplicates.head(count)),
            "second_order": None if self.second_order is None else self.second_order.to_dict(),
            "noiseless": None if self.noiseless is None else _cone_summary(self.noiseless, self.noiseless_error),
        }

    def figure(self) -> Figure:
        """Six panels: densities, stationarity, the identity (2), split scores, residual lengths, spectrum."""
        return _figure(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


# ------------------------------------------------------------------------------------------ words and JSON


def _first_order(report: OptimalityReport) -> list[str]:
    found, features, tol = report.statistics, report.features, report.tol
    sentences = []
    if not found.codes.done.all():
        missing = int((~found.codes.done).sum())
        sentences.append(f"The codes of {missing} datapoints could not be certified to {found.codes.tol:g}.")
    if report.unfinished:
        sentences.append(f"max_seconds passed before all was measured; missing: {', '.join(report.unfinished)}.")
    off = int((features["stationarity"] > tol).sum())
    if off:
        worst = report.worst_features(1).iloc[0]
        error = f" (standard error {worst['standard_error']:.1g} λ)" if np.isfinite(worst["standard_error"]) else ""
        certain = int((features["at_least"] > tol).sum())
        which = "The residual that is certainly farthest off" if certain else "The largest residual"
        if not certain and (features["stationarity"] > worst["stationarity"]).any():
            which = "Of those that fire on ten datapoints or more, the largest residual"
        sentences.append(
            f"{off} of {int(found.live.sum())} live features are not stationary (T3) on these rows; of the "
            f"distribution that is certain for {certain}, each with 95% confidence. {which} is that of feature "
            f"{worst.name} over its {worst['count']:.0f} datapoints: the mean residual is {worst['stationarity']:.2g} "
            f"λ from λ times its atom{error}."
        )
    if report.bias_is_free and report.bias_residual > tol:
        sentences.append(f"The bias is not stationary (T3): the mean residual is {report.bias_residual:.2g} λ long.")
    if report.identity_deficit > tol and len(report.pairs):
        first = report.pairs.iloc[0]
        sentences.append(
            f"cos(d_j, d_k) = E_k[ρ_j] fails by up to {report.identity_deficit:.2g} (T4): for k = "
            f"{first['feature']:.0f} and j = {first['other']:.0f} the cosine is {first['cosine']:.3f} but should be "
            f"{first['expected']:.3f}."
        )
    return sentences


def _structure(report: OptimalityReport) -> list[str]:
    sentences = []
    activity = report.statistics.activity
    if activity.dead:
        dead = show_dead(activity.dead_range)
        sentences.append(
            f"{activity.dead} features are dead ({dead}): never at a global minimum, since a live one could split (T8)."
        )
    if len(report.duplicates):
        found = len(report.duplicates)  # the table keeps a limited number of pairs
        sentences.append(f"At least {found} pairs of atoms are near duplicates: exact ones could split (T8).")
    curved = report.second_order
    if curved is not None and curved.least.eigenvalue < -curved.least.residual:
        sentences.append(f"F curves downwards along a direction (T5): least eigenvalue {curved.least.eigenvalue:.3g}.")
    cone = report.noiseless
    if cone is not None and not cone.all_hold:
        failing = cone.features[~cone.holds]
        sentences.append(f"{len(failing)} features fail the cone condition (T6), feature {failing[0]} among them.")
    return sentences


def _lines(report: OptimalityReport) -> list[str]:
    """The report as lines of text."""
    found, residuals = report.statistics, report.residuals
    splits = [f"{k} ({s:.2e})" for k, s in report.predicted_splits(3)["split_score"].items() if s > 0]
    gain = report.new_atom_gains[0] if len(report.new_atom_gains) else 0.0
    ratio = found.codes.lambda_ratio
    text = [
        f"{found.n_atoms} atoms on {found.n_points} datapoints, λ {found.lam:.4g} ({ratio:.3g} λ_max of this "
        "dictionary)",
        f"  value          {report.value:.9g}, lower bound {report.lower_bound:.9g} for this dictionary",
        f"  wide limit     {report.wide_value:.9g}, lower bound {report.wide_lower_bound:.9g} for every width (T9)",
        f"  features       {found.n_atoms - found.activity.dead} live, {int(report.features['dense'].sum())} dense, "
        f"{found.activity}",
        f"  stationarity   {report.stationarity:.2e} (T3)",
        f"  bias           {report.bias_residual:.2e} (T3){'' if report.bias_is_free else ', fixed'}",
        f"  identity (2)   {report.identity_deficit:.2e} at the worst pair (T4)",
        f"  residuals      longest {residuals.longest_ratio:.3g} λ, {residuals.share_above_lambda:.1%} above λ (T7), "
        f"{residuals.shrinkage_share:.1%} shrinkage (T2)",
        f"  best new atom  lowers F by {gain:.3g} (T7)",
        f"  next to split  {', '.join(splits) or 'none'} (T8)",
        f"  pairs kept     {len(report.antipodes)} dense antipodal, {len(report.duplicates)} near duplicate",
    ]
    if report.second_order is not None:
        least = report.second_order.least
        text.append(f"  second order   least eigenvalue {least.eigenvalue:.3g} ± {least.residual:.1g} (T5)")
    if report.noiseless is not None:
        holds = report.noiseless.holds
        text.append(f"  cone condition {int(holds.sum())} of {len(holds)} features (T6)")
    return [*text, *(f"  {sentence}" for sentence in report.objections)]


def _cone_summary(cone: ConeCondition, error: float) -> dict[str, Any]:
    rates = zip(cone.features.tolist(), cone.rate.tolist(), cone.holds.tolist(), strict=True)
    failing = [{"feature": k, "rate": rate} for k, rate, holds in rates if not holds]
    return {"all_hold": cone.all_hold, "failing": failing, "error": error}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    frame = table.reset_index() if table.index.name == "feature" else table
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.astype(object).itertuples(index=False)]


# ------------------------------------------------------------------------------------------------- figure


def _figure(report: OptimalityReport) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    features, found = report.features, report.statistics
    live = features[~features["dead"]]

    axes[0, 0].hist(np.log10(live["density"]), bins=_BINS)
    axes[0, 0].set(xlabel="log10 density", ylabel="features", title=f"{int(features['dead'].sum())} dead")

    axes[0, 1].loglog(live["mass"], live["stationarity"].clip(lower=_SMALLEST), ".")
    axes[0, 1].axhline(report.tol, color="grey", linewidth=0.8)
    axes[0, 1].set(xlabel="mean activation S/N", ylabel="‖E[r]/λ − d‖", title="stationarity (T3)")

    axes[0, 2].plot(report.pairs["expected"], report.pairs["cosine"], ".")
    axes[0, 2].axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes[0, 2].set(xlabel="E_k[ρ_j]", ylabel="cos(d_j, d_k)", title="worst pairs of the identity (T4)")

    scores = np.sort(np.nan_to_num(features["split_score"].to_numpy(dtype=np.float64)))[::-1]
    axes[1, 0].semilogy(np.arange(1, len(scores) + 1), np.clip(scores, _SMALLEST, None), ".")
    axes[1, 0].set(xlabel="rank", ylabel="split score", title="which features would split (T8)")

    axes[1, 1].hist(found.residual_norms / found.lam, bins=_BINS)
    axes[1, 1].axvline(1, color="grey", linewidth=0.8)
    axes[1, 1].set(xlabel="‖r‖/λ", ylabel="datapoints", title="residual lengths (T7)")

    spectrum = np.array(report.residuals.spectrum)
    axes[1, 2].semilogy(np.arange(1, len(spectrum) + 1), np.clip(spectrum, _SMALLEST, None))
    axes[1, 2].set(xlabel="component", ylabel="share", title="spectrum of the residuals")
    return figure
