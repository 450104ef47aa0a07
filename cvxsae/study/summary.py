"""The findings of a study in words."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data.overlap import seen_in_words
from cvxsae.statistics.estimates import NONE
from cvxsae.study.laws import (
    RESOLVED,
    by_width,
    closed_by_doubling,
    ended_by_themselves,
    held_out_by_width,
    numbers,
    power_law,
    problems,
    resolved,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 12
"""Lines of a summary: what fits on a screen beside the table."""


def summary(name: str, table: pd.DataFrame, *, n_planned: int | None = None) -> str:
    """At most twelve lines; what is not proved is called what it is: an upper bound, a fit, a floor."""
    head = _cells(name, table, n_planned)
    body: list[str] = []
    for label, rows in problems(table):
        body += [f"{label}: {line}" if label else line for line in _problem(rows)]
    room = MOST_LINES - len(head)
    if len(body) > room:
        body = [*body[: room - 1], f"... and {len(body) - room + 1} more lines; the table has it all."]
    return "\n".join([*head, *body])


def _cells(name: str, table: pd.DataFrame, n_planned: int | None) -> list[str]:
    """Done, failed, missing, and what theory objects to."""
    failed = table[table["status"] == "failed"]
    missing = 0 if n_planned is None else n_planned - len(table)
    lines = [f"study {name}: {len(table) - len(failed)} cells done, {len(failed)} failed, {missing} missing."]
    if len(failed):
        first = failed.iloc[0]
        lines.append(f"First failure: {first['method']}: {first['reason']}")
    violated = table[table["violation"].notna()]
    if len(violated):
        first = violated.iloc[0]
        lines.append(
            f"VIOLATION of theory in {len(violated)} rows: something is wrong with data, code or mathematics; "
            f"the first: {first['method']} {first['cell']}: {first['violation']}"
        )
    elif len(table) > len(failed):
        lines.append("In every row that is done floor ≤ value, and all certificates hold.")
    return lines


def _problem(rows: pd.DataFrame) -> list[str]:
    seen = [*_held_out(rows), *_widths(rows), *_sparsity(rows)]
    return [*seen, *_sae(rows), *_floors(rows), *_large(rows), *_time(rows)]


def _held_out(rows: pd.DataFrame) -> list[str]:
    """What dictionaries cost on rows that nothing was learned from, and whether wider ones pay there (T17 b)."""
    lines = []
    for method, name in (("learned", "learned dictionaries"), ("trained_sae", "dictionaries of trained SAEs")):
        seen = held_out_by_width(rows, method)
        if seen.empty:
            continue
        ends = [seen.iloc[end] for end in ((0, -1) if len(seen) > 1 else (0,))]
        costs = " to ".join(f"{end['held_out']:.4g}{_between(end)} at K = {end['n_atoms']}" for end in ends)
        flattered = " to ".join(f"{end['memorization']:.2g}" for end in ends)
        noun = "row" if ends[0]["n_held_out"] == 1 else "rows"
        lines.append(
            f"On {ends[0]['n_held_out']:,} held-out {noun} {name} cost {costs}, {flattered} more than on the "
            f"rows learned from (memorization, and the luck of both draws); {said_of_intervals(ends[0])}."
        )
        lines += _falls(seen) if method == "learned" else []
    repeated = rows["n_held_out_seen"].dropna()
    if len(repeated):
        told = seen_in_words(int(repeated.max()), int(rows["n_held_out"].max()))
        lines.insert(0, f"{told}.")
    seen = held_out_by_width(rows)
    left = numbers(seen["held_out"]) - numbers(seen["held_out_wide"])
    law = power_law(numbers(seen["n_atoms"]), np.where(np.isfinite(left), left, 0.0))
    if law is not None:
        lines.append(
            f"Fit there: F_K − F_wide ∝ K^{law.exponent:.2f} over {law.n_points} widths, off by at most a factor of "
            f"{2**law.spread:.2f}."
        )
    return lines


def _falls(seen: pd.DataFrame) -> list[str]:
    """What each step to the next width gains on rows not seen: it pays, none is shown, or it costs more."""
    widths, steps = [int(width) for width in seen["n_atoms"]], seen.iloc[1:]
    fall, low, high = (numbers(steps[f"held_out_fall{end}"]) for end in ("", "_low", "_high"))
    known = np.isfinite(low)
    if not known.any():
        return []
    named = list(pairwise(widths))
    pays = _joined([step for step, shown in zip(named, known & (low > 0), strict=True) if shown])
    parts = [f"pays from K = {' and '.join(pays)}"] if pays else []
    for said, which, sign in (("none shown from", (low <= 0) & (high >= 0), 1), ("costs more from", high < 0, -1)):
        found = [
            f"{step[0]} to {step[1]} ({sign * fall[k]:.2g} [{min(ends):.2g}, {max(ends):.2g}])"
            for k, step in enumerate(named)
            if which[k] and (ends := (sign * low[k], sign * high[k]))
        ]
        parts += [f"{said} {', '.join(found)}"] if found else []
    every = "Each wider dictionary" if bool((low > 0).all()) else "Going wider"
    return [f"{every}, on rows not seen ({said_of_intervals(seen.iloc[0], paired=True)}), {'; '.join(parts)}."]


def _between(row: Any) -> str:
    """The interval of a row of the table, if it has one."""
    return f" [{row['held_out_low']:.4g}, {row['held_out_high']:.4g}]" if has_interval(row) else ""


def has_interval(row: Any) -> bool:
    """Whether a row of the table has intervals: of one row or document there are none."""
    return isinstance(row["held_out_method"], str) and row["held_out_method"] != NONE


def said_of_intervals(row: Any, *, paired: bool = False) -> str:
    """What the intervals of a row of the table are: confidence, unit and method."""
    which = "paired intervals" if paired else "intervals"
    if not has_interval(row):
        return f"there are no {which} of one {row['held_out_unit']}"
    units = f"{row['n_held_out_units']:,} {row['held_out_unit']}s"
    return f"{which}: {100 * row['held_out_confidence']:.4g} %, {row['held_out_method']}, {units}"


def _joined(steps: list[tuple[int, int]]) -> list[str]:
    """Steps that follow on each other, as one."""
    joined: list[tuple[int, int]] = []
    for narrow, wide in steps:
        follows = bool(joined) and joined[-1][1] == narrow
        joined = [*joined[:-1], (joined[-1][0], wide)] if follows else [*joined, (narrow, wide)]
    return [f"{narrow} to {wide}" for narrow, wide in joined]


def _widths(rows: pd.DataFrame) -> list[str]:
    """How what is left above F_wide falls with the width."""
    widths, best = by_width(rows, "best", ("learned", "trained_sae"))
    wide = rows["wide"].dropna()
    if wide.empty:
        return []
    limit = float(wide.max())
    lam, most = float(rows["lam"].iloc[0]), rows["lambda_max"].dropna()
    ratio = "" if most.empty or not most.iloc[0] > 0 else f" = {lam / float(most.iloc[0]):.3g} λ_max"
    known = f"F_wide = {limit:.4g} is certified (λ = {lam:.4g}{ratio})."
    if len(widths) == 0:
        return [known]
    fall = f"is {best[0]:.4g} at K = {widths[0]:.0f}"
    if len(widths) > 1:
        fall = f"goes from {best[0]:.4g} at K = {widths[0]:.0f} to {best[-1]:.4g} at K = {widths[-1]:.0f}"
    own = "On the rows learned from: the best found" if rows["held_out"].notna().any() else "The best found"
    lines = [f"{own}, an upper bound of F*_K (nonconvex), {fall}; {known}"]
    excess = best - limit
    above = resolved(excess, limit)
    if not above.all():
        lines.append(f"From K = {widths[~above][0]:.0f} on the best found is F_wide to within {RESOLVED:.0e} of it.")
    widths, excess = widths[above], excess[above]
    if len(widths) > 1:
        closed = closed_by_doubling(widths, excess)
        ends = f"; {closed[0]:.0%} at the narrow end, {closed[-1]:.0%} at the wide end" if len(closed) > 1 else ""
        lines.append(f"Doubling K closes {np.median(closed):.0%} of what is left above F_wide (median{ends}).")
    law = power_law(widths, excess)
    if law is not None:
        lines.append(
            f"Fit to these upper bounds: F_K − F_wide ∝ K^{law.exponent:.2f} over {law.n_points} widths, off by at "
            f"most a factor of {2**law.spread:.2f}."
        )
    return lines


def _sparsity(rows: pd.DataFrame) -> list[str]:
    learned = rows[rows["method"] == "learned"].sort_values("n_atoms")
    if learned.empty:
        return []
    first, last = learned.iloc[0], learned.iloc[-1]
    ended = int(learned["outcome"].isin(("STATIONARY", "CERTIFIED")).sum())
    left = f" and leave {first['fvu']:.1%} to {last['fvu']:.1%} of the variance" if learned["fvu"].notna().all() else ""
    rest = ", the others ended before" if ended < len(learned) else ""
    return [
        f"Learned dictionaries use {first['l0']:.3g} to {last['l0']:.3g} atoms a datapoint{left}; {ended} of "
        f"{len(learned)} reached stationarity or their lower bound{rest}."
    ]


def _sae(rows: pd.DataFrame) -> list[str]:
    trained = rows[(rows["method"] == "trained_sae") & (rows["best"] > 0).fillna(False)]
    if trained.empty:
        return []
    above = numbers(trained["value"]) / numbers(trained["best"]) - 1
    encoder = (numbers(trained["value"]) - numbers(trained["exact"])) / numbers(trained["value"])
    return [
        f"Trained SAEs lie {above.min():.1%} to {above.max():.1%} above the best found; their encoders' share of the "
        f"loss is {encoder.min():.1%} to {encoder.max():.1%}."
    ]


def _floors(rows: pd.DataFrame) -> list[str]:
    """How much of the distance to F_wide is proved to be the width's."""
    best = rows[rows["method"].isin(("learned", "trained_sae")) & rows["floor"].notna()].sort_values("best")
    best = best.drop_duplicates("n_atoms")
    wide, excess = numbers(best["wide"]), numbers(best["best"]) - numbers(best["wide"])
    above = excess > RESOLVED * wide
    share = (numbers(best["floor"]) - wide)[above] / excess[above]
    if not (share > 0).any():
        return []
    return [
        f"Of that distance {share.min():.0%} to {share.max():.0%} is proved to be the width's, by floors no dictionary "
        "of it is below; the rest may be the search's or the floors'."
    ]


def _large(rows: pd.DataFrame) -> list[str]:
    large = rows[rows["method"] == "large_dictionary"].sort_values("atom_cost")
    if large.empty:
        return []
    first, last, worst = large.iloc[0], large.iloc[-1], float(large["gap"].max())
    end = f" and {last['live_atoms']} at τ = {last['atom_cost']:g}" if len(large) > 1 else ""
    return [
        f"The large dictionary found has {first['live_atoms']} live atoms at τ = {first['atom_cost']:g}{end}; value "
        f"and bound are within {worst:.1%}."
    ]


def _time(rows: pd.DataFrame) -> list[str]:
    learned = rows[rows["method"] == "learned"]
    law = power_law(numbers(learned["n_atoms"]), ended_by_themselves(learned))
    if law is None:
        return []
    return [
        f"Time of a learned cell goes as K^{law.exponent:.2f}, from the {law.n_points} that did not meet their limit "
        "(warm starts included)."
    ]
