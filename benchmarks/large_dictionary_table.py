"""The tables of ``benchmarks/large_dictionary.py``, with what was measured of each target as a note below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import Table, table

Rows = list[dict[str, Any]]
REACHED = ("RELAXED", "CERTIFIED")
"""How a solve ends that has closed its own gap."""


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """A table for each section that has cells."""
    rows = {name: [row for key, row in cells.items() if key.startswith(f"{name}:")] for name in SECTIONS}
    return {name: make(rows[name]) for name, make in SECTIONS.items() if rows[name]}


def short(columns: list[str], lines: list[list[Any]], note: str) -> Table:
    """A table with numbers to three digits."""
    return table(
        columns, [[f"{cell:.3g}" if isinstance(cell, float) else cell for cell in line] for line in lines], note
    )


def picked(rows: Rows, *keys: str) -> list[list[Any]]:
    """Some entries of every row."""
    return [[row.get(key) for key in keys] for row in rows]


def not_measured(rows: Rows, *sizes: int) -> str:
    """Which of the sizes that have a target no row has, as a sentence."""
    missing = [f"{n:,}" for n in sizes if all(r["n"] != n for r in rows)]
    return f"Not measured yet: N = {' and '.join(missing)}." if missing else ""


def small(rows: Rows) -> Table:
    """Bound and value beside the SDP and ten starts."""
    lines = []
    for r in rows:
        apart = [1 - r["lower_bound"] / r["sdp"], r["value"] / r["sdp"] - 1, r["value"] / r["ten_starts"] - 1]
        lines.append([r["data"], r["n"], r["d"], r["tau"], *apart, r["cpu"], r["sdp_cpu"]])
    order = max(max(r["lower_bound"] / r["sdp"], r["sdp"] / r["value"]) - 1 for r in rows)
    below, above = max(line[4] for line in lines), max(line[6] for line in lines)
    note = (
        f"The order is broken by at most {max(order, 0.0):.1e} (relative; Clarabel's own accuracy is about 1e-8), the "
        f"bound is within {max(below, 0.0):.1e}, the value exceeds the best of ten starts by at most {above:.1e} "
        "(negative: it is below)."
    )
    columns = ["1 − bound/SDP", "value/SDP − 1", "value/ten starts − 1", "CPU s", "Clarabel CPU s"]
    return short(["data", "N", "d", "τ", *columns], lines, note)


def reference(rows: Rows) -> Table:
    """Ours beside Clarabel."""
    ours, theirs = ([r for r in rows if (r["solver"] == "clarabel") == is_theirs] for is_theirs in (False, True))
    note = ""
    if ours and theirs:
        wall, cpu = (theirs[0][key] / float(np.median([r[key] for r in ours])) for key in ("seconds", "cpu"))
        note = f"Clarabel takes {wall:.0f} times as long (wall), {cpu:.0f} times (process time)."
    return short(
        ["solver", "CPU s", "wall s", "solver gap"], picked(rows, "solver", "cpu", "seconds", "solver_gap"), note
    )


def few(rows: Rows) -> Table:
    """Total gaps."""
    keys = ("n", "d", "tau", "status", "gap", "live_atoms", "cpu", "seconds")
    note = f"The total gap is at most {max(r['gap'] for r in rows):.1e}."
    return short(["N", "d", "τ", "status", "total gap", "live atoms", "CPU s", "wall s"], picked(rows, *keys), note)


def cuts(rows: Rows) -> Table:
    """Shares of the gap that are closed."""
    suite = [r for r in rows if r["n"] <= 30]
    counted = [r.get("closed_by_copositive", 0.0) for r in suite if r["relaxation_gap"] > 3e-3]
    note = f"Of {len(suite)} instances with N ≤ 30, {len(counted)} have a gap above 0.3 %"
    note += f"; between {min(counted):.0%} and {max(counted):.0%} of it is closed." if counted else "."
    keys = ("n", "d", "lam", "tau", "seed", "relaxation_gap", "closed_by_copositive", "gap", "cpu")
    columns = ["N", "d", "λ", "τ", "seed", "relaxation gap", "closed", "gap left", "CPU s"]
    return short(columns, picked(rows, *keys), note)


def candidates(rows: Rows) -> Table:
    """Block descent beside the proximal gradient."""
    ours = {(r["data"], r["n"], r["bias"]): r for r in rows if r["solver"] == "block-descent"}
    note = f"By block descent the gap is at most {max(r['gap'] for r in ours.values()):.1e}." if ours else ""
    ratios = [
        f"{r['cpu'] / ours[key]['cpu']:.1f} ({r['data']}, N = {r['n']})"
        for r in rows
        if r["solver"] == "proximal-gradient" and (key := (r["data"], r["n"], r["bias"])) in ours
    ]
    if ratios:
        note += f" The accelerated proximal gradient takes {', '.join(ratios)} times its process time."
    columns = ["data", "N = candidates", "bias", "solver", "gap", "CPU s", "wall s"]
    return short(columns, picked(rows, "data", "n", "bias", "solver", "gap", "cpu", "seconds"), note)


def scale(rows: Rows) -> Table:
    """Cost against N, and the exponent."""
    keys = (
        "data",
        "n",
        "d",
        "status",
        "solver_gap",
        "relaxation_gap",
        "live_atoms",
        "splitting_steps",
        "cpu",
        "seconds",
    )
    fits = []
    for kind in dict.fromkeys(r["data"] for r in rows):
        done = np.log([[r["n"], r["cpu"]] for r in rows if r["data"] == kind and r["status"] in REACHED])
        if len(done) > 1:
            fits.append(f"{kind} N^{np.polyfit(done[:, 0], done[:, 1], 1)[0]:.2f}")
    grows = f"Process time grows as {', '.join(fits)} over the rows that reached the gap." if fits else ""
    columns = ["data", "N", "d", "status", "solver gap", "relaxation gap", "live atoms", "steps", "CPU s", "wall s"]
    return short(columns, picked(rows, *keys), " ".join(filter(None, [not_measured(rows, 4_000), grows])))


MINUTES = {4_000: (2e-3, "10 minutes"), 10_000: (1e-2, "30 minutes, 12 GB")}
"""Targets: the solver gap, and within what it is to be reached on two cores."""


def many(rows: Rows) -> Table:
    """Targets beside what was reached, and the exponents."""
    lines, fits = [], []
    for r in rows:
        gap, within = MINUTES.get(r["n"], (None, ""))
        aimed = None if gap is None else f"≤ {gap:.0e} in {within}"
        name = [r["data"], f"{r['n']:,}", r["d"], r["tau"], r["status"]]
        gaps = [r.get("solver_gap"), r["tol"], aimed, r.get("relaxation_gap")]  # a solve that time ended may lack some
        first = r.get("within", {}).get(f"{r['tol']:g}", {})
        closed = [f"{first[key]:.0f}" if key in first else None for key in ("cpu", "seconds")]
        cost = [*closed, f"{r['cpu']:.0f}", f"{r['seconds']:.0f}", r["threads"], f"{r['gigabytes']:.1f}"]
        lines.append([*name, *gaps, r.get("splitting_steps"), r.get("rank"), *cost])
    for kind, tau, threads in dict.fromkeys((r["data"], r["tau"], r["threads"]) for r in rows):
        same = [r for r in rows if (r["data"], r["tau"], r["threads"]) == (kind, tau, threads)]
        fits += [f"{kind}, τ = {tau:g}, {fit}" for gap in (1e-2, 2e-3) if (fit := _power(same, gap))]
    grew = f"Process time to a solver gap grows as: {'; '.join(fits)}." if fits else ""
    gaps = ["solver gap", "asked", "target", "relaxation gap", "steps", "rank"]
    gaps += ["gap closed: CPU s", "wall s"]
    columns = ["data", "N", "d", "τ", "status", *gaps, "CPU s", "wall s", "threads", "peak GB"]
    return short(columns, lines, " ".join(filter(None, [not_measured(rows, *MINUTES), grew])))


def _power(rows: Rows, gap: float) -> str:
    """The exponent of the process time to a solver gap, over the sizes for which it is known; empty for fewer than two.

    Of rows that do not say when they were within a gap, the whole solve counts for the gap that was asked.
    """
    times = {}
    for r in rows:
        whole = r["cpu"] if r["tol"] == gap and r["status"] in REACHED else None
        cpu = r["within"].get(f"{gap:g}", {}).get("cpu") if "within" in r else whole
        if cpu is not None:
            times[r["n"]] = cpu
    if len(times) < 2:
        return ""
    power = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
    return f"{gap:g}: N^{power:.2f} over N = {', '.join(f'{n:,}' for n in sorted(times))}"


SECTIONS: dict[str, Callable[[Rows], Table]] = {
    "small": small,
    "reference": reference,
    "few": few,
    "cuts": cuts,
    "candidates": candidates,
    "scale": scale,
    "many": many,
}
