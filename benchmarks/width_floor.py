"""The width floor on real embeddings: how far above the wide limit, and how far below the best dictionary found.

    python benchmarks/width_floor.py [--quick] [--check] [--learn SECONDS]

wordllama (centered, mean norm 1), λ = 0.08, zero bias. Per width K: the wide limit (T9), the spectral floor (T10), the
kernel t² with equal weights (T14), the optimized floor (T14, T15), seconds of processor time, and the value of the best
dictionary that ``learn_dictionary`` finds. ``--check`` has the referee recompute every floor. Writes
``benchmarks/results/width_floor.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae import WideLimit, certify, learn_dictionary, solve, width_floor
from cvxsae.data.embedded import embedded
from cvxsae.parallel.machine import describe
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.spectral import spectral_floor

RESULTS = Path(__file__).parent / "results"
LAM = 0.08
TARGET = {32: 2.2, 128: 1.76, 512: 1.37, 1024: 1.22}
"""Multiples of the wide limit to be reached at N = 5,000."""


def wordllama(n: int) -> np.ndarray:
    """A random n of the token embeddings, centered and scaled to mean norm 1."""
    X = np.array(embedded("wordllama"), dtype=np.float64)
    X = X[np.random.default_rng(0).permutation(len(X))[:n]]
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1).mean()


def plain(X: np.ndarray, widths: tuple[int, ...]) -> list[float]:
    """T14 with k(t) = t² and one weight for all datapoints, as first written down."""
    lengths = np.linalg.norm(X, axis=1)
    directions = torch.from_numpy(X / lengths[:, None])
    eigenvalues = torch.linalg.eigvalsh(bound.kernel(2)(directions @ directions.T)).flip(0).numpy()
    c = np.linspace(0, 1, bound.CELLS + 1)
    reach = np.minimum(lengths[:, None], LAM / c[1:])
    costs, charges = reach * (lengths[:, None] - reach / 2), c[:-1] ** 4
    multiples = np.geomspace(1e-3, 2, 60)
    inner = np.array([(costs + m * charges).min(axis=1).sum() for m in multiples])
    return [float((inner - multiples * eigenvalues[:width].sum()).max()) / len(X) for width in widths]


def measure(n: int, widths: tuple[int, ...], learn: float, check: bool) -> list[dict[str, Any]]:
    X = wordllama(n)
    wide = solve(WideLimit(X, LAM, bias=None)).lower_bound
    rows = []
    for width, simple in zip(widths, plain(X, widths), strict=True):
        start = time.process_time()
        floor = width_floor(X, width, LAM, bias=None)
        seconds = time.process_time() - start
        found = learn_dictionary(X, width, LAM, bias=None, max_seconds=learn).value if learn else None
        rows.append(
            {
                "K": width,
                "wide": wide,
                "spectral": spectral_floor(X, width, LAM).value,
                "plain": simple,
                "floor": floor.value,
                "theorem": floor.theorem,
                "kernel": str(floor.parts[0].kernel) if floor.parts else "",
                "ratio": floor.value / wide,
                "target": TARGET.get(width),
                "cpu_seconds": seconds,
                "found": found,
                "objections": list(certify(floor).objections) if check else None,
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(n: int, rows: list[dict[str, Any]]) -> str:
    """The figures as markdown, values in multiples of the wide limit."""
    lines = [
        f"wordllama, N = {n}, λ = {LAM}, zero bias; F_wide = {rows[0]['wide']:.6f}; bounds in multiples of it.",
        "",
        "| K | T10 | t², equal weights (T14) | width floor | by | target | CPU s | best dictionary | floor / best |",
        "|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        wide, found = row["wide"], row["found"]
        best = f"{found / wide:.3f} | {row['floor'] / found:.3f}" if found else " | "
        target = "" if row["target"] is None else row["target"]
        lines.append(
            f"| {row['K']} | {row['spectral'] / wide:.3f} | {row['plain'] / wide:.3f} | **{row['ratio']:.3f}** "
            f"| {row['theorem']} | {target} | {row['cpu_seconds']:.0f} | {best} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="N = 1,500 and three widths")
    parser.add_argument("--check", action="store_true", help="have the referee recompute every floor")
    parser.add_argument("--learn", type=float, default=40.0, help="seconds for each dictionary; 0 for none")
    options = parser.parse_args()
    n, widths = (1500, (32, 256, 512)) if options.quick else (5000, (32, 128, 256, 512, 1024))
    rows = measure(n, widths, options.learn, options.check)
    text = table(n, rows)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "width_floor.md").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "width_floor.json").write_text(
        json.dumps({"n": n, "lam": LAM, "machine": describe(), "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
