"""The width floor on real embeddings: how far above the wide limit, and how far below the best dictionary found.

    python -m benchmarks.width_floor [--only "K = 512"] [--check] [--learn SECONDS] [--quick]

wordllama (centered, mean norm 1), λ = 0.08, zero bias. Per width K: the wide limit (T9), the spectral floor (T10), the
kernel t² with equal weights (T14), the optimized floor (T14, T15), seconds of processor time, and the value of the best
dictionary that ``learn_dictionary`` finds. ``--check`` has the referee recompute every floor. Writes
``benchmarks/results/width_floor.json``; ``python docs/tables.py`` shows it in ``width_floor.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.data import tokens
from benchmarks.harness import Table, parser, run, table, timed
from cvxsae import WideLimit, certify, learn_dictionary, solve, width_floor
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.spectral import spectral_floor

LAM = 0.08
TARGET = {32: 2.2, 128: 1.76, 512: 1.37, 1024: 1.22}
"""Multiples of the wide limit to be reached at N = 5,000."""


wordllama = tokens


def plain(X: np.ndarray, width: int) -> float:
    """T14 with k(t) = t² and one weight for all datapoints, as first written down."""
    lengths = np.linalg.norm(X, axis=1)
    directions = torch.from_numpy(X / lengths[:, None])
    eigenvalues = torch.linalg.eigvalsh(bound.kernel(2)(directions @ directions.T)).flip(0).numpy()
    c = np.linspace(0, 1, bound.CELLS + 1)
    reach = np.minimum(lengths[:, None], LAM / c[1:])
    costs, charges = reach * (lengths[:, None] - reach / 2), c[:-1] ** 4
    multiples = np.geomspace(1e-3, 2, 60)
    inner = np.array([(costs + m * charges).min(axis=1).sum() for m in multiples])
    return float((inner - multiples * eigenvalues[:width].sum()).max()) / len(X)


def measure(n: int, width: int, given: argparse.Namespace) -> dict[str, Any]:
    """One width."""
    X = tokens(n)
    wide = solve(WideLimit(X, LAM, bias=None)).lower_bound
    floor, seconds = timed(lambda: width_floor(X, width, LAM, bias=None))
    learn = 0.2 if given.quick else given.learn
    return {
        "n": n,
        "K": width,
        "wide": wide,
        "spectral": spectral_floor(X, width, LAM).value,
        "plain": plain(X, width),
        "floor": floor.value,
        "theorem": floor.theorem,
        "kernel": str(floor.parts[0].kernel) if floor.parts else "",
        "cpu_seconds": seconds.cpu,
        "found": learn_dictionary(X, width, LAM, bias=None, max_seconds=learn).value if learn else None,
        "objections": list(certify(floor).objections) if given.check else None,
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Bounds in multiples of the wide limit."""
    rows = []
    for name, row in cells.items():
        wide, found = row["wide"], row["found"]
        best = [f"{found / wide:.3f}", f"{row['floor'] / found:.3f}"] if found else [None, None]
        bounds = [f"{row[key] / wide:.3f}" for key in ("spectral", "plain", "floor")]
        target = TARGET.get(row["K"])
        aimed = None if target is None else f"≥ {target}"
        rows.append([name, *bounds, aimed, row["theorem"], f"{row['cpu_seconds']:.0f}", *best])
    bounds = ["T10", "t², equal weights (T14)", "width floor", "target", "by", "CPU s"]
    return {"floors": table(["width", *bounds, "best dictionary", "floor / best"], rows)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--check", action="store_true", help="have the referee recompute every floor")
    options.add_argument("--learn", type=float, default=40.0, help="seconds for each dictionary; 0 for none")
    given = options.parse_args(arguments)
    n, widths = (60, (8,)) if given.quick else (5000, (32, 128, 256, 512, 1024))
    return run("width_floor", {f"K = {width}": partial(measure, n, width, given) for width in widths}, tables, given)


if __name__ == "__main__":
    sys.exit(main())
