"""The wide limit beside what people use for decoder biases: passes over the data, time, and the gap actually reached.

    python -m benchmarks.wide_limit [--device cuda] [--rows 32000] [--repeats 5] [--only "λ = 0.08"] [--quick]

The unit is one pass: the distances of all rows to one point, in float64, on the same device in the same run. Peers:
iteratively reweighted least squares (Weiszfeld for the Huber loss, as SAE libraries run it for the geometric
median, 100 steps) and SciPy's L-BFGS on the same objective. Every answer's gap is measured by the same referee.
``newton`` is ``solve``, which also writes out the dictionary, the codes and the dual point and evaluates them;
``search`` is the part of it that finds the bias, as the others do. Writes ``benchmarks/results/wide_limit.json``;
``python docs/tables.py`` shows it in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
import torch

from benchmarks.harness import Table, device_of, interleaved, parser, run, table
from cvxsae import WideLimit, solve
from cvxsae.data import center_and_scale, wordllama


def newton(problem, device):
    return torch.from_numpy(solve(problem, tol=1e-9, device=device).bias)


def reweighted(problem, device, steps=100):
    X = problem.X.to_tensor(device=device)
    bias = X.mean(dim=0)
    for _ in range(steps):
        weights = torch.clamp(problem.lam / torch.linalg.vector_norm(X - bias, dim=1).clamp(min=problem.lam), max=1)
        bias = weights @ X / weights.sum()
    return bias.cpu()


def lbfgs(problem, device):
    def objective(point):
        scan = problem.scan(torch.from_numpy(point), device=device)
        return scan.value, -scan.mean_psi.numpy()

    start = problem.starting_bias().numpy()
    point, _, _ = scipy.optimize.fmin_l_bfgs_b(objective, start, maxiter=200, factr=0.1, pgtol=1e-12)
    return torch.from_numpy(point)


SEARCHES = {"newton": newton, "reweighted": reweighted, "L-BFGS": lbfgs}


def measure(lam: float, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One pass and every search, in turns; medians, after one call to warm up."""
    raw = wordllama()
    rows = np.concatenate([raw] * -(-given.rows // len(raw)))[: given.rows]
    X = center_and_scale(rows).apply(rows).to_tensor(dtype=torch.float32, device=device)
    data, problem = X.to(torch.float64), WideLimit(X, lam)
    calls: dict[str, Any] = {name: partial(search, problem, device) for name, search in SEARCHES.items()}
    calls["pass"] = lambda: torch.linalg.vector_norm(data - data[0], dim=1)[0].item()
    calls["search"] = lambda: solve(problem, tol=1e-9, device=device).history[-1].seconds
    turns = interleaved(calls, given.repeats + 1, device)
    taken = {name: statistics.median(one.wall[1:]) for name, one in turns.items()}
    taken["search"] = statistics.median(turns["search"].results[1:])
    scans = {name: problem.scan(turns[name].last, device=device) for name in SEARCHES}
    gaps = {name: (scan.value - scan.lower_bound) / scan.value for name, scan in scans.items()}
    gaps["search"] = gaps["newton"]
    methods = {
        name: {"seconds": taken[name], "gap": gaps[name]} for name in ("newton", "search", "reweighted", "L-BFGS")
    }
    return {"lam": lam, "rows": given.rows, "dim": X.shape[1], "pass_seconds": taken["pass"], "methods": methods}


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Every method at every penalty."""
    rows = [
        [name, method, f"{one['seconds']:.3f}", f"{one['seconds'] / cell['pass_seconds']:.1f}", f"{one['gap']:.1e}"]
        for name, cell in cells.items()
        for method, one in cell["methods"].items()
    ]
    return {"methods": table(["problem", "method", "s", "passes", "gap"], rows)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__, gpu=True)
    options.set_defaults(device="cpu")
    options.add_argument("--rows", type=int, default=32_000)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args(arguments)
    if given.quick:
        given.rows, given.repeats = 200, 1
    device = device_of(given, options)
    cells = {f"{given.rows:,} x 256, λ = {lam}": partial(measure, lam, given, device) for lam in (0.3, 0.08, 0.01)}
    return run("wide_limit", cells, tables, given, device)


if __name__ == "__main__":
    sys.exit(main())
