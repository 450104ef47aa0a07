"""What an :class:`~cvxsae.diagnostics.check.OptimalityReport` says in words and in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.diagnostics.check import OptimalityReport
    from cvxsae.relaxations.joint.cone import ConeCondition


def complaints(report: OptimalityReport) -> list[str]:
    """One sentence for each condition of a local optimum that fails, the most basic first."""
    return [*_first_order(report), *_structure(report)]


def _first_order(report: OptimalityReport) -> list[str]:
    found, features, tol = report.statistics, report.features, report.tol
    sentences = []
    if not found.codes.done.all():
        missing = int((~found.codes.done).sum())
        sentences.append(f"The codes of {missing} datapoints could not be certified to {found.codes.tol:g}.")
    off = int((features["stationarity"] > tol).sum())
    if off:
        worst = int(report.worst_features(1).index[0])
        sentences.append(
            f"{off} of {int(found.live.sum())} live features are not stationary (T3): "
            f"the mean residual of feature {worst} is {report.stationarity:.2g} λ from λ times its atom."
        )
    if report.bias_is_free and report.bias_residual > tol:
        sentences.append(f"The bias is not stationary (T3): the mean residual is {report.bias_residual:.2g} λ long.")
    if report.identity_deficit > tol and len(report.pairs):
        first = report.pairs.iloc[0]
        sentences.append(
            f"cos(d_j, d_k) = E_k[ρ_j] fails by up to {report.identity_deficit:.2g} (T4): k = {first['feature']:.0f} "
            f"and j = {first['other']:.0f} have cosine {first['cosine']:.3f} where {first['expected']:.3f} is due."
        )
    return sentences


def _structure(report: OptimalityReport) -> list[str]:
    sentences = []
    dead = int((~report.statistics.live).sum())
    if dead:
        sentences.append(f"{dead} features are dead: never at a global minimum, since a live one could split (T8).")
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


def lines(report: OptimalityReport) -> list[str]:
    """The report as lines of text."""
    found, residuals = report.statistics, report.residuals
    splits = [f"{k} ({s:.2e})" for k, s in report.predicted_splits(3)["split_score"].items() if s > 0]
    gain = report.new_atom_gains[0] if len(report.new_atom_gains) else 0.0
    ratio = found.codes.lambda_ratio
    text = [
        f"{found.n_atoms} atoms on {found.n_points} datapoints, λ {found.lam:.4g} ({ratio:.3g} λ_max)",
        f"  value          {report.value:.9g} ≥ {report.lower_bound:.9g} for this dictionary",
        f"  wide limit     {report.wide_value:.9g} ≥ {report.wide_lower_bound:.9g} for every width (T9)",
        f"  features       {int(found.live.sum())} live, {int(report.features['dense'].sum())} dense, "
        f"L0 {found.codes.l0:.2f}",
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
    return [*text, *(f"  {sentence}" for sentence in complaints(report))]


def report_dict(report: OptimalityReport, count: int) -> dict[str, Any]:
    """The summary, the complaints, and the first ``count`` rows of every table, for JSON."""
    splits = report.predicted_splits(count)
    scores = zip(splits.index.tolist(), splits["split_score"].tolist(), strict=True)
    return {
        **report.summary(),
        "complaints": complaints(report),
        "residuals": report.residuals.to_dict(),
        "worst_features": _records(report.worst_features(count)),
        "predicted_splits": [
            {"feature": k, "split_score": score, "tokens": [side.tolist() for side in report.split_tokens(k)]}
            for k, score in scores
            if score > 0
        ],
        "pairs": _records(report.pairs.head(count)),
        "absorbed": _records(report.absorbed.head(count)),
        "antipodes": _records(report.antipodes.head(count)),
        "duplicates": _records(report.duplicates.head(count)),
        "second_order": None if report.second_order is None else report.second_order.to_dict(),
        "noiseless": None if report.noiseless is None else _cone_summary(report.noiseless, report.noiseless_error),
    }


def _cone_summary(cone: ConeCondition, error: float) -> dict[str, Any]:
    rates = zip(cone.features.tolist(), cone.rate.tolist(), cone.holds.tolist(), strict=True)
    failing = [{"feature": k, "rate": rate} for k, rate, holds in rates if not holds]
    return {"all_hold": cone.all_hold, "failing": failing, "error": error}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    frame = table.reset_index() if table.index.name == "feature" else table
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.astype(object).itertuples(index=False)]
