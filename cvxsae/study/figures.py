"""The figures of a study; each is drawn if its data exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from cvxsae.data.atomic import make_folder, write_atomically
from cvxsae.sae.audits.ledger import stack_ledgers
from cvxsae.sae.styles import EXACT, FLOOR, LEARNED, LINES, SAE, SPECTRAL, WIDE
from cvxsae.study.laws import by_width, ended_by_themselves, held_out_by_width, numbers, power_law, problems, resolved
from cvxsae.study.summary import has_interval, said_of_intervals

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_PANELS = 6
"""Problems that one figure shows side by side."""

DPI = 100
"""Resolution of the files."""


def figures(table: pd.DataFrame, name: str) -> dict[str, Figure]:
    """By name: objective, approach, ledger, sparsity, live_atoms and time, those whose data exist."""
    by_problem: dict[str, tuple[Callable[[pd.DataFrame], bool], Callable[[Axes, pd.DataFrame], None]]] = {
        "objective": (_has_widths, _objective),
        "approach": (_has_excess, _approach),
        "ledger": (lambda rows: bool(rows["width_gap"].notna().any()), _ledger),
        "sparsity": (lambda rows: bool((rows["method"] == "learned").any()), _sparsity),
    }
    panels_of = list(problems(table))
    drawn: dict[str, Figure] = {}
    for kind, (has, draw_one) in by_problem.items():
        panels = [(label, rows) for label, rows in panels_of if has(rows)][:MOST_PANELS]
        if panels:
            drawn[kind], axes = _panels(len(panels))
            for axis, (label, rows) in zip(axes, panels, strict=True):
                draw_one(axis, rows)
                axis.set_title(label or name, fontsize="medium")
    large = [(label, rows) for label, rows in panels_of if (rows["method"] == "large_dictionary").any()]
    if large:
        drawn["live_atoms"], (axis,) = _panels(1)
        for label, rows in large:
            _live_atoms(axis, rows, label)
        axis.set_title(name, fontsize="medium")
    sized = _sizes(table)
    if sized:
        drawn["time"], (axis,) = _panels(1)
        _time(axis, sized, "N K" if table["n_points"].nunique() > 1 else "width K")
        axis.set_title(name, fontsize="medium")
    return drawn


def draw(table: pd.DataFrame, name: str, folder: Path) -> list[Path]:
    """Write the figures as PNG files, each as a whole.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    written = []
    make_folder(folder, "--out")
    for kind, figure in figures(table, name).items():
        file = folder / f"{kind}.png"
        written.append(write_atomically(file, partial(figure.savefig, dpi=DPI, format="png"), "--out"))
    return written


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(6.4 if count == 1 else 4.6 * columns, 4.4 * lines), layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns))
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, list(axes[:count])


def _has_widths(rows: pd.DataFrame) -> bool:
    return bool(rows["method"].isin(("learned", "trained_sae")).any())


def _has_excess(rows: pd.DataFrame) -> bool:
    widths, excess = by_width(rows, "excess", ("learned",))
    return len(widths) > 1 and int(resolved(excess, float(rows["wide"].max())).sum()) > 1


def _curve(axis: Axes, rows: pd.DataFrame, method: str, column: str, label: str, **style: Any) -> None:
    widths, values = by_width(rows, column, (method,))
    if len(widths):
        axis.plot(widths, values, label=label, **{"markersize": 4, **style})


def _objective(axis: Axes, rows: pd.DataFrame) -> None:
    """What is attained, and what cannot be, against width."""
    _curve(axis, rows, "trained_sae", "value", "trained SAE", color=SAE, marker="o")
    _curve(axis, rows, "trained_sae", "exact", "its dictionary, exact codes", color=EXACT, marker="s")
    _curve(axis, rows, "learned", "value", "learned dictionary, grown", color=LEARNED, marker="D")
    _held_out(axis, rows, lambda seen: (numbers(seen[name]) for name in _ENDS))
    _curve(axis, rows, "width_floor", "lower_bound", "width floor", color=FLOOR, marker="^")
    _curve(
        axis, rows, "spectral_floor", "lower_bound", "spectral floor (T10)", color=SPECTRAL, marker="v", linestyle=":"
    )
    if rows["wide"].notna().any():
        axis.axhline(float(rows["wide"].max()), color=WIDE, linestyle="--", label="wide limit (T9)")
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set(xlabel="width K", ylabel="F, mean per datapoint")
    _legend(axis, rows)


_ENDS = ("held_out", "held_out_low", "held_out_high")

_OF = {"learned": ("learned, held-out rows", LEARNED), "trained_sae": ("SAE's dictionary, held-out rows", EXACT)}


def _held_out(axis: Axes, rows: pd.DataFrame, levels: Callable[[pd.DataFrame], Iterable[np.ndarray]]) -> None:
    """What is attained on rows that nothing was learned from, with its interval."""
    for method, (label, color) in _OF.items():
        seen = held_out_by_width(rows, method)
        if len(seen):
            widths, (value, low, high) = numbers(seen["n_atoms"]), levels(seen)
            axis.plot(widths, value, label=label, color=color, marker="x", markersize=5, linestyle="-.")
            axis.fill_between(widths, low, high, color=color, alpha=0.15, linewidth=0)


def _legend(axis: Axes, rows: pd.DataFrame) -> None:
    """What each line is, and under it what the shaded intervals are, if there are any."""
    seen = rows[rows["held_out"].notna()]
    told = ""
    if not seen.empty:
        first = seen.iloc[0]
        told = f"{'shaded ' if has_interval(first) else ''}{said_of_intervals(first)}"
    axis.legend(framealpha=0.9, fontsize="small", title=told or None, title_fontsize="x-small")


def _approach(axis: Axes, rows: pd.DataFrame) -> None:
    """What is left above F_wide, where it is more than the tolerance, and the power law fitted to it."""
    wide = float(rows["wide"].max())
    rows = rows[resolved(numbers(rows["excess"]), wide)]
    for method, label, style in (
        ("learned", "learned: upper bound of F*_K", {"color": LEARNED, "marker": "D"}),
        ("trained_sae", "trained SAE", {"color": SAE, "marker": "o"}),
    ):
        _curve(axis, rows, method, "excess", label, **style)
    if rows["held_out_wide"].notna().any():  # each above the wide limit of its own rows
        _held_out(axis, rows, lambda seen: (numbers(seen[name]) - numbers(seen["held_out_wide"]) for name in _ENDS))
    widths, floors = by_width(rows, "floor", ("learned", "trained_sae"))
    left = floors - wide
    above = resolved(left, wide)
    if above.any():
        axis.plot(widths[above], left[above], color=FLOOR, marker="^", markersize=4, label="highest floor")
    widths, excess = by_width(rows, "excess", ("learned",))
    law = power_law(widths, excess)
    if law is not None:
        axis.plot(widths, law(widths), color="gray", linewidth=0.9, label=f"fit ∝ K^{law.exponent:.2f}")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set(xlabel="width K", ylabel="F − F_wide, mean per datapoint")
    _legend(axis, rows)


def _ledger(axis: Axes, rows: pd.DataFrame) -> None:
    """Where the loss of the trained SAEs goes."""
    trained = rows[(rows["method"] == "trained_sae") & rows["width_gap"].notna()]
    stack_ledgers(axis, trained.sort_values("n_atoms").drop_duplicates("n_atoms"))


def _sparsity(axis: Axes, rows: pd.DataFrame) -> None:
    """L0 on the left axis, FVU on the right."""
    _curve(axis, rows, "learned", "l0", "L0, learned", color=LEARNED, marker="D")
    _curve(axis, rows, "trained_sae", "l0", "L0, trained SAE", color=SAE, marker="o")
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set(xlabel="width K", ylabel="active atoms per datapoint")
    other = axis.twinx()
    _curve(other, rows, "learned", "fvu", "FVU, learned", color=LEARNED, marker="D", fillstyle="none", linestyle=":")
    _curve(
        other, rows, "trained_sae", "fvu", "FVU, trained SAE", color=SAE, marker="o", fillstyle="none", linestyle=":"
    )
    other.set_ylim(bottom=0)
    other.set_ylabel("fraction of variance unexplained (dotted)")
    mine, theirs = axis.get_legend_handles_labels(), other.get_legend_handles_labels()
    handles, labels = mine[0] + theirs[0], mine[1] + theirs[1]
    other.legend(handles, labels, fontsize="small", loc="lower right")  # the upper axes cover what the lower ones draw


def _live_atoms(axis: Axes, rows: pd.DataFrame, label: str) -> None:
    """Width as an outcome: live atoms of the large dictionary against τ."""
    large = rows[rows["method"] == "large_dictionary"].sort_values("atom_cost")
    style = LINES[len(axis.lines) % len(LINES)]
    axis.plot(numbers(large["atom_cost"]), numbers(large["live_atoms"]), markersize=5, label=label or None, **style)
    axis.set_xscale("symlog" if (large["atom_cost"] == 0).any() else "log")
    axis.set_yscale("symlog", linthresh=1)  # all of them can be gone
    axis.set_ylim(-0.1, 1.6 * max(1.0, *(float(np.max(line.get_ydata())) for line in axis.lines)))
    axis.set(xlabel="atom cost τ, datapoints", ylabel="live atoms")
    if label:
        axis.legend(frameon=False, fontsize="small")


def _sizes(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sizes and seconds of the cells of each method that has cells of several sizes.

    The size is K where all have one N, else N K (N where there is no K); NaN stands for the seconds of cells that ended
    at their time limit, which say nothing.
    """
    done = table[table["status"] == "done"]
    points = done["n_points"] if done["n_points"].nunique() > 1 else 1
    sizes = numbers(points * done["n_atoms"].fillna(1))
    seconds = ended_by_themselves(done)
    found = {}
    for method in dict.fromkeys(done["method"]):
        chosen = (done["method"] == method).to_numpy(dtype=bool) & np.isfinite(seconds)
        if len(np.unique(sizes[chosen])) > 1:
            found[method] = sizes[chosen], seconds[chosen]
    return found


def _time(axis: Axes, sized: Mapping[str, tuple[np.ndarray, np.ndarray]], size: str) -> None:
    """Seconds of a cell against its size, with the exponent."""
    for index, (method, (sizes, seconds)) in enumerate(sized.items()):
        law = power_law(sizes, seconds)
        label = method if law is None else f"{method}, exponent {law.exponent:.2f}"
        style = LINES[index % len(LINES)]
        axis.plot(sizes, seconds, linestyle="none", markersize=5, label=label, **style)
        if law is not None:
            ends = np.array([sizes.min(), sizes.max()])
            axis.plot(ends, law(ends), color=style["color"], linewidth=0.9)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set(xlabel=size, ylabel="seconds of a cell (not of those that met their limit)")
    axis.legend(frameon=False, fontsize="small")
