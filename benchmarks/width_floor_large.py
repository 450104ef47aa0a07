"""Floors of many datapoints in one part: what more data are worth, in time and memory.

    python -m benchmarks.width_floor_large [--wordllama N …] [--synthetic N …] [--width K] [--check]

wordllama (256 dimensions, centered, mean norm 1, λ = 0.08, zero bias, K = 512) for growing numbers of embeddings, all
in one part, in multiples of the wide limit of the same data; and planted clusters in 50 dimensions (λ = 0.1, K = 512).
Every measurement runs in a process of its own, which gives its peak of memory. ``--check`` has the referee compute
each floor again. Writes ``benchmarks/results/width_floor_large.json``; ``python docs/tables.py`` shows it in floors.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.width_floor import LAM, wordllama
from cvxsae import WideLimit, certify, solve, width_floor
from cvxsae.data.storage import json_text, write_atomically
from cvxsae.parallel.machine import describe

RESULTS = Path(__file__).parent / "results" / "width_floor_large.json"
COLUMNS = ["data", "N", "d", "K", "floor / F_wide", "by", "failure probability", "s", "CPU s", "peak GB", "objections"]


def clusters(n: int, dim: int = 50, count: int = 2000, spread: float = 0.3) -> np.ndarray:
    """Unit-length points around ``count`` directions, drawn with unequal probabilities."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((count, dim))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    chosen = rng.choice(count, size=n, p=rng.dirichlet(np.ones(count)))
    X = centers[chosen] + spread * rng.standard_normal((n, dim)) / np.sqrt(dim)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def measure(kind: str, n: int, width: int, check: bool) -> list[str]:
    """One row of the table."""
    X, lam = (wordllama(n), LAM) if kind == "wordllama" else (clusters(n), 0.1)
    wide = solve(WideLimit(X, lam, bias=None)).lower_bound
    start, cpu = time.perf_counter(), time.process_time()
    floor = width_floor(X, width, lam, bias=None, max_points=n)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    objections = str(len(certify(floor).objections)) if check else "not checked"
    return [
        kind,
        f"{n:,}",
        str(X.shape[1]),
        str(width),
        f"{floor.value / wide:.3f}",
        floor.theorem,
        f"{floor.failure_probability:.0e}" if floor.failure_probability else "0",
        f"{seconds:.0f}",
        f"{cpu:.0f}",
        f"{peak:.1f}",
        objections,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordllama", type=int, nargs="*", default=[8000, 16_000, 32_000])
    parser.add_argument("--synthetic", type=int, nargs="*", default=[50_000, 400_000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    cells = [("wordllama", n) for n in options.wordllama] + [("clusters", n) for n in options.synthetic]
    rows = []
    for kind, n in cells:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
            rows.append(one.submit(measure, kind, n, options.width, options.check).result())
        print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
        made: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.width_floor_large", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": describe(),
            "tables": {"floors": {"columns": COLUMNS, "rows": rows}},
        }
        write_atomically(RESULTS, json_text(made))


if __name__ == "__main__":
    main()
