"""The wide limit beside what people use for decoder biases: passes over the data, time, and the gap actually reached.

    python -m benchmarks.wide_limit [--device cuda] [--rows 32000] [--repeats 5] [--out FILE]

The unit is one pass: the distances of all rows to one point, in float64, on the same device in the same run. Peers:
iteratively reweighted least squares (Weiszfeld for the Huber loss, as SAE libraries run it for the geometric
median, 100 steps) and SciPy's L-BFGS on the same objective. Every answer's gap is measured by the same referee.
``newton`` is ``solve``, which also writes out the dictionary, the codes and the dual point and evaluates them;
``search`` is the part of it that finds the bias, as the others do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import scipy.optimize
import torch

from cvxsae import WideLimit, solve
from cvxsae.data import center_and_scale, wordllama
from cvxsae.parallel.machine import describe, processor


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


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(action, device, repeats):
    action()  # warm-up, outside the clock
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=32_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    raw = wordllama()
    repeats = -(-options.rows // len(raw))
    rows = np.concatenate([raw] * repeats)[: options.rows]
    X = center_and_scale(rows).apply(rows).to_tensor(dtype=torch.float32, device=device)
    data = X.to(torch.float64)
    unit = median_seconds(lambda: torch.linalg.vector_norm(data - data[0], dim=1), device, options.repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{options.rows} x {X.shape[1]} float32 on {name}, {torch.get_num_threads()} threads")
    print(f"one pass {unit * 1e3:.1f} ms")
    report = {
        "machine": describe() | {"device": name},
        "rows": options.rows,
        "dim": X.shape[1],
        "pass_seconds": unit,
        "runs": [],
    }
    print(f"{'lam':>8} {'solver':>12} {'seconds':>9} {'passes':>8} {'gap':>9}")
    for lam in (0.3, 0.08, 0.01):
        problem = WideLimit(X, lam)
        for solver in (newton, reweighted, lbfgs):
            seconds = median_seconds(lambda s=solver, p=problem: s(p, device), device, options.repeats)
            scan = problem.scan(solver(problem, device), device=device)
            gap = (scan.value - scan.lower_bound) / scan.value
            report["runs"].append({"lam": lam, "solver": solver.__name__, "seconds": seconds, "gap": gap})
            if solver is newton:
                searches = [solve(problem, tol=1e-9, device=device).history[-1].seconds for _ in range(options.repeats)]
                search = statistics.median(searches)
                report["runs"].append({"lam": lam, "solver": "search", "seconds": search, "gap": gap})
                print(f"{lam:8g} {'search':>12} {search:9.3f} {search / unit:8.1f} {gap:9.1e}")
            print(f"{lam:8g} {solver.__name__:>12} {seconds:9.3f} {seconds / unit:8.1f} {gap:9.1e}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
