"""The figure of an optimality report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from cvxsae.diagnostics.check import OptimalityReport


def optimality_figure(report: OptimalityReport) -> Figure:
    """Six panels: densities, stationarity, the identity (2), split scores, residual lengths, spectrum."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    features, found = report.features, report.statistics
    live = features[~features["dead"]]

    axes[0, 0].hist(np.log10(live["density"]), bins=40)
    axes[0, 0].set(xlabel="log10 density", ylabel="features", title=f"{int(features['dead'].sum())} dead")

    axes[0, 1].loglog(live["mass"], live["stationarity"].clip(lower=1e-16), ".")
    axes[0, 1].axhline(report.tol, color="grey", linewidth=0.8)
    axes[0, 1].set(xlabel="mean activation S/N", ylabel="‖E[r]/λ − d‖", title="stationarity (T3)")

    axes[0, 2].plot(report.pairs["expected"], report.pairs["cosine"], ".")
    axes[0, 2].axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes[0, 2].set(xlabel="E_k[ρ_j]", ylabel="cos(d_j, d_k)", title="worst pairs of the identity (T4)")

    scores = np.sort(np.nan_to_num(features["split_score"].to_numpy(dtype=np.float64)))[::-1]
    axes[1, 0].semilogy(np.arange(1, len(scores) + 1), np.clip(scores, 1e-16, None), ".")
    axes[1, 0].set(xlabel="rank", ylabel="split score", title="which features would split (T8)")

    axes[1, 1].hist(found.residual_norms / found.lam, bins=60)
    axes[1, 1].axvline(1, color="grey", linewidth=0.8)
    axes[1, 1].set(xlabel="‖r‖/λ", ylabel="datapoints", title="residual lengths (T7)")

    spectrum = np.array(report.residuals.spectrum)
    axes[1, 2].semilogy(np.arange(1, len(spectrum) + 1), np.clip(spectrum, 1e-16, None))
    axes[1, 2].set(xlabel="component", ylabel="share", title="spectrum of the residuals")
    return figure
