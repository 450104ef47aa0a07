"""Figures of what the validation room finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from cvxsae.validation.ledger import GAPS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from cvxsae.validation.optimality import OptimalityReport

_COLOURS = {
    "amortisation_gap": "#c0504d", "dictionary_gap": "#e8a33d", "local_gap": "#8fb4d8", "width_gap": "#4f81bd",
    "wide": "#1f4e79",
}  # fmt: skip


def stack_ledgers(axes: Axes, table: pd.DataFrame) -> None:
    """The ledgers of trained SAEs, stacked, one bar a width: the lines of a ledger are columns of the table."""
    ticks, bottom = np.arange(len(table)), np.zeros(len(table))
    for name in ("wide", *reversed(GAPS)):
        label = "floor of any width" if name == "wide" else name.replace("_", " ")
        heights = table[name].to_numpy(dtype=np.float64)
        axes.bar(ticks, heights, bottom=bottom, color=_COLOURS[name], label=label, width=0.7)
        bottom = bottom + heights
    axes.set_xticks(ticks, [str(width) for width in table["n_atoms"]])
    axes.set(xlabel="width K", ylabel="loss per datapoint")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize="small", bbox_to_anchor=(1, 1), loc="upper left")


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
