"""The large dictionary: against Clarabel, ten starts of L-BFGS and N; in few dimensions, with cuts, on a GPU.

    python -m benchmarks.large_dictionary [--sections small reference few cuts candidates scale many gpu]

Every section adds its rows to ``benchmarks/results/large_dictionary.json`` as they are measured, and the table
``large_dictionary.md``, the targets beside what was measured, is written from that file alone. Data has unit
mean-square norm and λ = 0.1 unless a row says otherwise. ``cpu`` is process time, which a busy machine does not change
much; ``seconds`` is wall-clock time. ``gpu`` needs a CUDA device and says so where there is none.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import torch

from cvxsae import CandidateDictionary, LargeDictionary, solve
from cvxsae.data import wordllama
from cvxsae.relaxations.convex.fixed_atoms import datapoint_atoms
from cvxsae.solvers.convex.large.factorized import _value_and_gradient

LAM, ATOM_COST = 0.1, 10.0
RESULTS = Path(__file__).parent / "results" / "large_dictionary.json"
STARTS = 10


def dataset(kind: str, n: int, d: int | None = None, seed: int = 0) -> np.ndarray:
    """Rows of unit mean-square norm: ``random`` and ``clustered`` in d = 64 and ``wordllama`` in d = 256, or in fewer.

    For wordllama those are principal coordinates of the sample.
    """
    rng = np.random.default_rng(seed)
    if kind == "wordllama":
        tokens = wordllama().astype(np.float64)
        X = tokens[rng.choice(len(tokens), n, replace=False)] - tokens.mean(axis=0)
        if d is not None:
            left, singular, _ = np.linalg.svd(X, full_matrices=False)
            X = left[:, :d] * singular[:d]
        return X / math.sqrt((X**2).sum(axis=1).mean())
    d = d or 64
    if kind == "random":
        X = rng.normal(size=(n, d))
    else:
        centers = rng.normal(size=(max(3, n // 20), d))
        centers /= np.linalg.norm(centers, axis=1, keepdims=True)
        sizes = rng.uniform(0.5, 1.5, (n, 1))
        X = centers[rng.integers(len(centers), size=n)] * sizes + 0.3 / math.sqrt(d) * rng.normal(size=(n, d))
    return X / math.sqrt((X**2).sum(axis=1).mean())


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it returns, with wall-clock and process seconds."""
    wall, process = time.perf_counter(), time.process_time()
    result = action()
    return result, {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - process}


def measure(problem: LargeDictionary | CandidateDictionary, tol: float, **options: Any) -> dict[str, Any]:
    """One solve: seconds, value, bound, both gaps."""
    solution, times = timed(lambda: solve(problem, tol=tol, raise_on_failure=False, **options))
    keys = (
        "solver_gap",
        "relaxation_gap",
        "relaxed_value",
        "closed_by_copositive",
        "live_atoms",
        "splitting_steps",
        "rank",
    )
    found = solution.to_dict()
    row = {key: found[key] for key in keys if key in found}
    row |= {"solver": solution.solver, "status": solution.status.name, "gap": solution.gap}
    return {**row, "value": solution.value, "lower_bound": solution.lower_bound, **times}


def ten_starts(problem: LargeDictionary, seed: int = 0) -> float:
    """The best of ten runs of SciPy's L-BFGS-B on (7) at ``Q = BBᵀ``, B ≥ 0 (N, N), from random B."""
    rng, X, n = np.random.default_rng(seed), problem.X.to_tensor(), problem.n_points
    minimize: Any = scipy.optimize.minimize

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _value_and_gradient(problem, torch.from_numpy(flat.reshape(n, n)), X)
        return value, gradient.numpy().ravel()

    bounds, options = scipy.optimize.Bounds(0, np.inf), {"maxiter": 300, "maxfun": 400}
    starts = [rng.uniform(size=n * n) / math.sqrt(n) for _ in range(STARTS)]
    values = [
        minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun for start in starts
    ]
    return float(min(values)) / n


class Store:
    """The results file: rows by section, written after every row."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, list[dict[str, Any]]] = json.loads(file.read_text()) if file.exists() else {}

    def begin(self, section: str) -> None:
        """Forget a section's old rows."""
        self.rows[section] = []

    def has(self, section: str, name: dict[str, Any]) -> bool:
        """Whether there is a row of that name already."""
        return any(all(row.get(key) == value for key, value in name.items()) for row in self.rows.get(section, []))

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Print and keep one row."""
        entries = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        shown = "  ".join(entries)
        print(f"{section}: {shown}", flush=True)
        self.rows.setdefault(section, []).append(row)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.rows, indent=1) + "\n")


def small(store: Store, device: str) -> None:
    """N = 40 and 60 beside the SDP by Clarabel and ten starts of L-BFGS."""
    for n in (40, 60):
        for kind, d in (("random", 8), ("clustered", 8), ("wordllama", 16)):
            for tau in (0.1, 1.0, 10.0):
                name = {"data": kind, "n": n, "d": d, "tau": tau}
                if store.has("small", name):
                    continue
                problem = LargeDictionary(dataset(kind, n, d), LAM, tau, bias=None)
                row = {**name, **measure(problem, 1e-5, device=device)}
                theirs, times = timed(functools.partial(solve, problem, solver="reference", raise_on_failure=False))
                row |= {"sdp": theirs.relaxed_value, "sdp_cpu": times["cpu"], "ten_starts": ten_starts(problem)}
                store.add("small", row)


def reference(store: Store, device: str) -> None:
    """N = 80 beside Clarabel, to a solver gap of 1e-3."""
    problem = LargeDictionary(dataset("clustered", 80, 8), LAM, ATOM_COST, bias=None)
    for _ in range(3):
        store.add("reference", {"data": "clustered", "n": 80, "d": 8, **measure(problem, 1e-3, device=device)})
    store.add("reference", {"data": "clustered", "n": 80, "d": 8, **measure(problem, 1e-3, solver="reference")})


def few(store: Store, device: str) -> None:
    """Up to three dimensions: the total gap."""
    for n, d, tau in ((500, 2, 1.0), (500, 3, 10.0), (2000, 2, 1.0), (2000, 2, 10.0), (2000, 3, 10.0)):
        name = {"n": n, "d": d, "tau": tau}
        if not store.has("few", name):
            problem = LargeDictionary(dataset("random", n, d), LAM, tau, bias=None)
            store.add("few", {**name, **measure(problem, 1e-4, device=device)})


CUT_SUITE = [
    (n, d, lam, tau, seed)
    for seed, (n, d, lam, tau) in enumerate(
        [
            (20, 5, 0.1, 5.0),
            (20, 5, 0.1, 10.0),
            (20, 5, 0.1, 20.0),
            (25, 6, 0.1, 10.0),
            (25, 7, 0.03, 20.0),
            (30, 5, 0.1, 5.0),
            (30, 6, 0.1, 10.0),
            (30, 7, 0.1, 20.0),
            (30, 8, 0.1, 5.0),
            (30, 8, 0.1, 10.0),
            (30, 8, 0.03, 10.0),
            (30, 8, 0.1, 20.0),
        ]
    )
]


def cuts(store: Store, device: str) -> None:
    """The share of the relaxation's gap that cuts close, N ≤ 30, and what they cost at N = 60."""
    for n, d, lam, tau, seed in [*CUT_SUITE, (60, 8, 0.1, 10.0, 0)]:
        name = {"n": n, "d": d, "lam": lam, "tau": tau, "seed": seed}
        if not store.has("cuts", name):
            problem = LargeDictionary(dataset("random", n, d, seed), lam, tau, bias=None)
            store.add("cuts", {**name, **measure(problem, 2e-4, solver="copositive", device=device)})


def candidates(store: Store, device: str) -> None:
    """Datapoints as candidates: block descent beside the accelerated proximal gradient, to a gap of 1e-5."""
    for kind, n, bias, rivals in (
        ("clustered", 200, None, ("block-descent", "proximal-gradient")),
        ("wordllama", 200, None, ("block-descent", "proximal-gradient")),
        ("clustered", 1000, None, ("block-descent",)),
        ("clustered", 1000, "free", ("block-descent",)),
        ("wordllama", 1000, None, ("block-descent",)),
    ):
        X: Any = dataset(kind, n)
        for solver in rivals:
            given: Any = bias
            atoms = datapoint_atoms(X - X.mean(axis=0) if bias == "free" else X)
            problem = CandidateDictionary(X, atoms, LAM, ATOM_COST, bias=given)
            name = {"data": kind, "n": n, "bias": bias or "none", "solver": solver}
            if not store.has("candidates", name):
                row = measure(problem, 1e-5, solver=solver, max_seconds=300, device=device)
                store.add("candidates", {**name, **row})


def scale(store: Store, device: str, points: tuple[int, ...], max_seconds: float) -> None:
    """Cost and both gaps against N, at a solver gap of 2e-3."""
    for n in points:
        for kind in ("random", "clustered", "wordllama") if n <= 1000 else ("clustered",):
            name = {"data": kind, "n": n, "device": device}
            if not store.has("scale", name):
                problem = LargeDictionary(dataset(kind, n), LAM, ATOM_COST, bias=None)
                row = measure(problem, 2e-3, device=device, max_seconds=max_seconds)
                store.add("scale", {**name, "d": problem.dim, **row})


def many(store: Store, device: str, points: tuple[int, ...], max_seconds: float) -> None:
    """Many datapoints at two prices of an atom: to a solver gap of 2e-3, and beyond 4,000 of 1e-2."""
    for n in points:
        for tau in (10.0, 100.0):
            for kind in ("random", "clustered", "wordllama"):
                name = {"data": kind, "n": n, "tau": tau, "device": device}
                if not store.has("many", name):
                    problem = LargeDictionary(dataset(kind, n), LAM, tau, bias=None)
                    tol = 2e-3 if n <= 4000 else 1e-2
                    row = measure(problem, tol, device=device, max_seconds=max_seconds)
                    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
                    threads = torch.get_num_threads()
                    row |= {"d": problem.dim, "tol": tol, "threads": threads, "most_memory": memory}
                    store.add("many", {**name, **row})


def gpu(store: Store) -> None:
    """The same on a CUDA device, beside the CPU where that takes minutes."""
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here; run this section where there is one.")
        return
    store.begin("gpu")
    for n, devices in ((1000, ("cpu", "cuda")), (4000, ("cuda",)), (10_000, ("cuda",))):
        for device in devices:
            problem = LargeDictionary(dataset("clustered", n), LAM, ATOM_COST, bias=None)
            row = measure(problem, 2e-3, device=device, max_seconds=1800)
            name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
            store.add("gpu", {"data": "clustered", "n": n, "d": problem.dim, "device": name, **row})


def main() -> None:
    """Run the sections asked for, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {"small": small, "reference": reference, "few": few, "cuts": cuts, "candidates": candidates}
    parser.add_argument("--sections", nargs="*", default=[*every, "scale", "many", "gpu"])
    parser.add_argument("--points", type=int, nargs="*", default=[250, 500, 1000, 2000, 4000])
    parser.add_argument("--many", type=int, nargs="*", default=[1000, 2000, 4000, 10_000])
    parser.add_argument("--max-seconds", type=float, default=1800, help="for each solve of the sections scale and many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    store = Store(given.out)
    for section in given.sections:
        if section == "gpu":
            gpu(store)
        elif section == "scale":
            if not given.resume:
                store.begin("scale")
            scale(store, given.device, tuple(given.points), given.max_seconds)
        elif section == "many":
            if not given.resume:
                store.begin("many")
            many(store, given.device, tuple(given.many), given.max_seconds)
        else:
            if not given.resume:
                store.begin(section)
            every[section](store, given.device)
    from benchmarks.large_dictionary_table import write_table

    write_table(given.out)


if __name__ == "__main__":
    main()
