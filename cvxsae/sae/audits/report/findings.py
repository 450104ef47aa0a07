"""Tables of the diagnostics: worst features and datapoints, absorption, splits, antipodes, residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.sae.audits.report.tables import Column, from_frame, table

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Int64

    from cvxsae.diagnostics.report import OptimalityReport

LAM = "λ"
"""Unit of residuals."""


def findings(
    report: OptimalityReport, features: Int64[np.ndarray, " K"], numbers: Int64[np.ndarray, " N"], count: int
) -> dict[str, Any]:
    """The first ``count`` rows of every table; what is said are the SAE's features and the data's numbers of rows."""
    return {
        "conditions": _conditions(report),
        "worst_features": _worst_features(report, features, count),
        "splits": _splits(report, features, numbers, count),
        "absorbed": _pairs(
            report.absorbed,
            features,
            count,
            "Absorption",
            "Ordered pairs: this feature's datapoints contain the direction of the other feature, which is silent "
            "there (T4). Without labels, mere resemblance looks the same; compare cosine and co-firing before calling "
            "it absorption.",
            (
                Column("score", "score"),
                Column("cosine", "cosine"),
                Column("cofiring", "co-firing", "share"),
                Column("reverse_cofiring", "reverse co-firing", "share"),
                Column("carried", "other's direction carried"),
            ),
        ),
        "antipodes": _pairs(
            report.antipodes,
            features,
            count,
            "Dense antipodal pairs",
            "Two features in opposite directions, both active on more than a tenth of the datapoints.",
            (
                Column("cosine", "cosine"),
                Column("density", "density", "share"),
                Column("other_density", "other density", "share"),
                Column("cofiring", "co-firing", "share"),
                Column("gain", "gain over one atom", unit="per datapoint"),
            ),
        ),
        "duplicates": _pairs(
            report.duplicates,
            features,
            count,
            "Near duplicates",
            "Pairs of atoms with a cosine of at least 0.99; exact duplicates could split (T8).",
            (Column("cosine", "cosine"), Column("cofiring", "co-firing", "share")),
        ),
        "pairs": _pairs(
            report.pairs,
            features,
            count,
            "Where the co-firing identity fails most",
            "At a stationary dictionary, the cosine of two atoms equals its expected value (T4).",
            (
                Column("cosine", "cosine"),
                Column("expected", "expected cosine"),
                Column("deficit", "difference"),
                Column("cofiring", "co-firing", "share"),
            ),
        ),
        "longest_residuals": _longest(report, numbers, count),
        "residuals": _residuals(report),
    }


def _conditions(report: OptimalityReport) -> dict[str, Any]:
    rows = [
        ["stationarity residual", report.stationarity, LAM, "largest distance of E[r] from λ times the atom (T3)"],
        ["bias residual", report.bias_residual, LAM, "length of the mean residual (T3)"],
        ["identity deficit", report.identity_deficit, "", "largest deviation of a cosine from its expected value (T4)"],
        ["dual excess", report.dual_excess, "", "how far the codes are from dual feasibility (T1)"],
        [
            "best new atom",
            float(report.new_atom_gains[0]) if len(report.new_atom_gains) else 0.0,
            "per datapoint",
            "decrease of the loss by the best new atom found (T7)",
        ],
        ["tolerance", report.tol, LAM, "values up to this size count as zero in these verdicts"],
    ]
    return {
        **table(
            "Conditions of an optimum",
            "Conditions that every local optimum satisfies, measured on this dictionary with exact codes; the values "
            "are zero at an optimum.",
            (
                Column("name", "condition", "text"),
                Column("value", "value"),
                Column("unit", "unit", "text"),
                Column("meaning", "meaning", "sentence"),
            ),
            rows,
        ),
        "sentences": list(report.objections),
    }


def _worst_features(report: OptimalityReport, features: np.ndarray, count: int) -> dict[str, Any]:
    frame = report.worst_features(count)
    frame = frame.assign(at_least=frame["at_least"].clip(lower=0))
    return from_frame(
        "Worst features",
        "The features that are certainly farthest from stationarity, by the column 'at least': a lower bound for the "
        "distribution, each with 95% confidence, if these rows are a random sample. Where it is 0, nothing is certain, "
        "and the order is that of the residual on these rows. Features that fire on fewer than ten datapoints come "
        "last.",
        (
            Column("feature", "feature", "count"),
            Column("stationarity", "stationarity residual", unit=LAM),
            Column("at_least", "residual, at least", unit=LAM),
            Column("standard_error", "standard error", unit=LAM),
            Column("count", "active datapoints", "count"),
            Column("density", "density", "share"),
            Column("mean_activation", "mean activation"),
            Column("split_score", "split score"),
        ),
        frame.set_axis(_renamed(frame.index, features), axis=0).rename_axis("feature"),
    )


def _renamed(indices: Any, features: np.ndarray) -> np.ndarray:
    return features[np.asarray(indices, dtype=np.int64)]


def _splits(report: OptimalityReport, features: np.ndarray, numbers: np.ndarray, count: int) -> dict[str, Any]:
    rows = []
    for feature, score in report.predicted_splits(count)["split_score"].items():
        if score > 0:
            sides = [
                ", ".join(map(str, numbers[side].tolist())) for side in report.split_tokens(int(str(feature)), _TOKENS)
            ]
            rows.append([int(features[int(str(feature))]), score, *sides])
    return table(
        "Features that would split first",
        "Ranked by the first-order gain of a split (T8), with the rows that would go to each side, strongest first.",
        (
            Column("feature", "feature", "count"),
            Column("score", "split score"),
            Column("ahead", "rows on one side", "text"),
            Column("back", "rows on the other side", "text"),
        ),
        rows,
    )


_TOKENS = 5
"""Rows on each side of a split that are named."""


def _pairs(
    frame: pd.DataFrame,
    features: np.ndarray,
    count: int,
    title: str,
    about: str,
    columns: tuple[Column, ...],
) -> dict[str, Any]:
    first = frame.head(count).copy()
    for name in ("feature", "other"):
        first[name] = _renamed(first[name], features)
    return from_frame(title, about, (*_PAIR, *columns), first)


_PAIR = (Column("feature", "feature", "count"), Column("other", "other feature", "count"))


def _longest(report: OptimalityReport, numbers: np.ndarray, count: int) -> dict[str, Any]:
    found = report.statistics
    order = np.argsort(-found.residual_norms, kind="stable")[:count]
    active = np.diff(found.codes.codes.indptr)[order]
    squares = np.maximum(found.residual_norms[order] ** 2, np.finfo(np.float64).tiny)
    return table(
        "Worst datapoints",
        f"The {len(order)} longest residuals of {len(found.residual_norms):,} with exact codes; above 1 λ, more atoms "
        "would help (T7). Row numbers start from 0 and refer to the original data.",
        (
            Column("row", "row", "count"),
            Column("residual", "length of the residual", unit=LAM),
            Column("active", "active atoms", "count"),
            Column("shrinkage", "share due to shrinkage", "share"),
        ),
        zip(
            numbers[order].tolist(),
            (found.residual_norms[order] / found.lam).tolist(),
            active.tolist(),
            (found.shrinkage[order] / squares).tolist(),
            strict=True,
        ),
    )


def _residuals(report: OptimalityReport) -> dict[str, Any]:
    held = report.residuals
    rows = [
        ["energy", held.energy, "mean squared length, in the units of the data squared"],
        ["fraction unexplained", held.fraction_unexplained, "energy over the mean squared length of x − b"],
        ["shrinkage share", held.shrinkage_share, "share of the energy that the set of active atoms explains (T2)"],
        ["shrinkage ratio", held.shrinkage_ratio, "E‖x̂‖² over E[x̂·(x − b)]; below one because of shrinkage"],
        ["R² of the residual", held.vector_r2, "held-out R² of predicting the residual linearly from the datapoint"],
        ["R² of its length", held.norm_r2, "held-out R² of predicting the residual's length linearly"],
        ["share above λ", held.share_above_lambda, "share of the datapoints that more atoms would help (T7)"],
        [
            "longest residual",
            held.longest_ratio,
            "in units of λ; 1 or less if and only if no width is better (T7)",
        ],
        ["effective rank", held.effective_rank, "effective rank of the residuals' second moment"],
    ]
    return table(
        "Residuals",
        "Properties of the residuals of exact codes of the SAE's dictionary.",
        (Column("name", "measure", "text"), Column("value", "value"), Column("meaning", "meaning", "sentence")),
        rows,
    )
