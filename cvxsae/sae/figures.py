"""The figure of loss ledgers, stacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cvxsae.sae.ledger import GAPS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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
