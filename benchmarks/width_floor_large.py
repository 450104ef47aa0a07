"""Floors of many datapoints in one part: what more data are worth, in time and memory.

    python -m benchmarks.width_floor_large [--only wordllama] [--wordllama N …] [--synthetic N …] [--width K] [--check]

wordllama (256 dimensions, centered, mean norm 1, λ = 0.08, zero bias, K = 512) for growing numbers of embeddings, all
in one part, in multiples of the wide limit of the same data; and planted clusters in 50 dimensions (λ = 0.1, K = 512).
Every measurement runs in a process of its own, which gives its peak of memory. ``--check`` has the referee compute
each floor again. Writes ``benchmarks/results/width_floor_large.json``; ``python docs/tables.py`` shows it in floors.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.data import tokens
from benchmarks.harness import Table, by_itself, parser, peak_gigabytes, run, table, timed
from benchmarks.width_floor import LAM
from cvxsae import WideLimit, certify, solve, width_floor

TARGETS = {("wordllama", 32_000): "≥ 1.85, ≤ 600 s, ≤ 4 GB"}


def clusters(n: int, dim: int = 50, count: int = 2000, spread: float = 0.3) -> np.ndarray:
    """Unit-length points around ``count`` directions, drawn with unequal probabilities."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((count, dim))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    chosen = rng.choice(count, size=n, p=rng.dirichlet(np.ones(count)))
    X = centers[chosen] + spread * rng.standard_normal((n, dim)) / np.sqrt(dim)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def measure(kind: str, n: int, width: int, check: bool) -> dict[str, Any]:
    """One row of the table."""
    X, lam = (tokens(n), LAM) if kind == "wordllama" else (clusters(n), 0.1)
    wide = solve(WideLimit(X, lam, bias=None)).lower_bound
    floor, seconds = timed(lambda: width_floor(X, width, lam, bias=None, max_points=n))
    return {
        "data": kind,
        "n": n,
        "d": X.shape[1],
        "K": width,
        "ratio": floor.value / wide,
        "theorem": floor.theorem,
        "failure_probability": floor.failure_probability,
        "seconds": seconds.wall,
        "cpu": seconds.cpu,
        "gigabytes": peak_gigabytes(),
        "objections": list(certify(floor).objections) if check else None,
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """What more data are worth."""
    rows = []
    for cell in cells.values():
        sure = f"{cell['failure_probability']:.0e}" if cell["failure_probability"] else "0"
        found = "not checked" if cell["objections"] is None else len(cell["objections"])
        bound = [f"{cell['ratio']:.3f}", TARGETS.get((cell["data"], cell["n"])), cell["theorem"], sure]
        cost = [f"{cell['seconds']:.0f}", f"{cell['cpu']:.0f}", f"{cell['gigabytes']:.1f}"]
        rows.append([cell["data"], f"{cell['n']:,}", cell["d"], cell["K"], *bound, *cost, found])
    bound = ["floor / F_wide", "target", "by", "failure probability"]
    return {"floors": table(["data", "N", "d", "K", *bound, "s", "CPU s", "peak GB", "objections"], rows)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--wordllama", type=int, nargs="*", default=[8000, 16_000, 32_000])
    options.add_argument("--synthetic", type=int, nargs="*", default=[50_000, 400_000])
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--check", action="store_true")
    given = options.parse_args(arguments)
    if given.quick:
        given.wordllama, given.synthetic, given.width = [60], [200], 8
    chosen = [("wordllama", n) for n in given.wordllama] + [("clusters", n) for n in given.synthetic]
    cells = {
        f"{kind}, N = {n:,}, K = {given.width}": partial(by_itself, measure, kind, n, given.width, given.check)
        for kind, n in chosen
    }
    return run("width_floor_large", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
