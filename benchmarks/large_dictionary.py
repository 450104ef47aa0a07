"""The large dictionary: against Clarabel in one run, and seconds and both gaps against N, with the exponent.

``python -m benchmarks.large_dictionary [--points 80 250 500 1000] [--reference 80] [--device cpu] [--out FILE]``
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae import LargeDictionary, solve
from cvxsae.data import wordllama

LAM, ATOM_COST = 0.1, 10.0


def dataset(kind: str, n: int, seed: int = 0) -> np.ndarray:
    """Rows of unit mean-square norm: ``random`` and ``clustered`` in 64 dimensions, ``wordllama`` in 256."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        X = rng.normal(size=(n, 64))
    elif kind == "clustered":
        centres = rng.normal(size=(max(3, n // 20), 64))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        sizes = rng.uniform(0.5, 1.5, (n, 1))
        X = centres[rng.integers(len(centres), size=n)] * sizes + 0.3 / 8 * rng.normal(size=(n, 64))
    else:
        tokens = wordllama().astype(np.float64)
        X = tokens[rng.choice(len(tokens), n, replace=False)] - tokens.mean(axis=0)
    return X / math.sqrt((X**2).sum(axis=1).mean())


def measure(kind: str, n: int, tol: float, device: str, solver: str = "auto") -> dict[str, Any]:
    """One solve: seconds, both gaps, live atoms."""
    problem = LargeDictionary(dataset(kind, n), LAM, ATOM_COST)
    start = time.perf_counter()
    solution = solve(problem, solver=solver, tol=tol, device=device, raise_on_failure=False)
    row = {"data": kind, "n": n, "solver": solution.solver, "seconds": time.perf_counter() - start}
    names = ("solver_gap", "relaxation_gap", "live_atoms", "splitting_steps", "rank")
    row |= {name: solution.info.get(name) for name in names}
    row["status"] = solution.status.name
    print(
        "  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    )
    return row


def main() -> None:
    """Run it, print the ratios, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="*", default=[80, 250, 500, 1000])
    parser.add_argument("--data", nargs="*", default=["clustered", "wordllama"])
    parser.add_argument("--reference", type=int, default=80, help="rows for Clarabel; 0 for none")
    parser.add_argument("--tol", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    if arguments.reference:
        ours = [measure("clustered", arguments.reference, 1e-3, arguments.device) for _ in range(3)]
        theirs = measure("clustered", arguments.reference, 1e-3, "cpu", "reference")
        ratio = theirs["seconds"] / float(np.median([row["seconds"] for row in ours]))
        print(f"N = {arguments.reference}: {ratio:.0f} times faster than Clarabel to a solver gap of 1e-3")
        rows += [*ours, {**theirs, "ratio": ratio}]
    for kind in arguments.data:
        series = [measure(kind, n, arguments.tol, arguments.device) for n in arguments.points]
        if len(series) > 1:
            logs = np.log([[row["n"], row["seconds"]] for row in series])
            print(f"{kind}: seconds grow as N^{np.polyfit(logs[:, 0], logs[:, 1], 1)[0]:.2f}")
        rows += series
    if arguments.out:
        header = {"torch": torch.__version__, "device": arguments.device, "lam": LAM, "atom_cost": ATOM_COST}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
