"""The large dictionary: against Clarabel, ten starts of L-BFGS and N; in few dimensions, and with cuts.

    python -m benchmarks.large_dictionary [--only TEXT …] [--points N …] [--many N …] [--quick]

A cell's name begins with its section: small, reference, few, cuts, candidates, scale or many (``--only many``).
Data has unit mean-square norm and λ = 0.1 unless a row says otherwise. CPU seconds are process time, which a busy
machine does not change much. Writes ``benchmarks/results/large_dictionary.json``; ``python docs/tables.py`` shows it in
``large_dictionary.md``, the targets beside what was measured. On a GPU: ``python -m benchmarks.gpu --only large``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
import torch

from benchmarks.harness import by_itself, parser, peak_gigabytes, run, timed
from benchmarks.large_dictionary_table import tables
from cvxsae import CandidateDictionary, LargeDictionary, solve
from cvxsae.data import wordllama
from cvxsae.relaxations.convex.fixed_atoms import datapoint_atoms
from cvxsae.results import Record
from cvxsae.solvers.convex.large.factorized import _value_and_gradient

LAM, ATOM_COST = 0.1, 10.0
STARTS = 10
GAPS = (1e-2, 2e-3)
"""Solver gaps that many datapoints are to reach: beyond 4,000, and up to there."""
KEPT = (
    "solver_gap",
    "relaxation_gap",
    "relaxed_value",
    "closed_by_copositive",
    "live_atoms",
    "splitting_steps",
    "rank",
)

Cells = dict[str, Callable[[], Any]]


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


def measure(problem: LargeDictionary | CandidateDictionary, tol: float, **options: Any) -> dict[str, Any]:
    """One solve: seconds, value, bound, both gaps."""
    solution, seconds = timed(lambda: solve(problem, tol=tol, raise_on_failure=False, **options))
    found = solution.to_dict()
    row = {key: found[key] for key in KEPT if key in found}
    row |= {"solver": solution.solver, "status": solution.status.name, "gap": solution.gap}
    bounds = {"value": solution.value, "lower_bound": solution.lower_bound}
    return {**row, **bounds, "seconds": seconds.wall, "cpu": seconds.cpu}


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


def small(given: argparse.Namespace) -> Cells:
    """N = 40 and 60 beside the SDP by Clarabel and ten starts of L-BFGS."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        problem = LargeDictionary(dataset(name["data"], name["n"], name["d"]), LAM, name["tau"], bias=None)
        row = measure(problem, 1e-5, device=given.device)
        theirs, seconds = timed(partial(solve, problem, solver="reference", raise_on_failure=False))
        row |= {"sdp": theirs.relaxed_value, "sdp_cpu": seconds.cpu, "ten_starts": ten_starts(problem)}
        return name | row

    kinds, sizes = (("random", 8), ("clustered", 8), ("wordllama", 16)), (40, 60)
    names = [{"data": kind, "n": n, "d": d, "tau": tau} for n in sizes for kind, d in kinds for tau in (0.1, 1.0, 10.0)]
    return named("small", cell, [{"data": "random", "n": 8, "d": 4, "tau": 1.0}] if given.quick else names)


def reference(given: argparse.Namespace) -> Cells:
    """N = 80 beside Clarabel, to a solver gap of 1e-3; ours three times, for the median."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        problem = LargeDictionary(dataset("clustered", name["n"], name["d"]), LAM, ATOM_COST, bias=None)
        options: dict[str, Any] = {"solver": name["solver"]} if name["run"] == 0 else {"device": given.device}
        return name | measure(problem, 1e-3, **options)

    shape = {"data": "clustered", "n": 12 if given.quick else 80, "d": 8}
    names = [shape | {"solver": "splitting", "run": run} for run in (1, 2, 3)]
    return named("reference", cell, [*names, shape | {"solver": "reference", "run": 0}])


def few(given: argparse.Namespace) -> Cells:
    """Up to three dimensions: the total gap."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        problem = LargeDictionary(dataset("random", name["n"], name["d"]), LAM, name["tau"], bias=None)
        return name | measure(problem, 1e-4, device=given.device)

    every = ((500, 2, 1.0), (500, 3, 10.0), (2000, 2, 1.0), (2000, 2, 10.0), (2000, 3, 10.0))
    chosen = ((20, 2, 1.0),) if given.quick else every
    return named("few", cell, [{"n": n, "d": d, "tau": tau} for n, d, tau in chosen])


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


def cuts(given: argparse.Namespace) -> Cells:
    """The share of the relaxation's gap that cuts close, N ≤ 30, and what they cost at N = 60."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        data = dataset("random", name["n"], name["d"], name["seed"])
        problem = LargeDictionary(data, name["lam"], name["tau"], bias=None)
        return name | measure(problem, 2e-4, solver="copositive", device=given.device)

    chosen = [(10, 5, 0.1, 5.0, 0)] if given.quick else [*CUT_SUITE, (60, 8, 0.1, 10.0, 0)]
    return named("cuts", cell, [dict(zip(("n", "d", "lam", "tau", "seed"), one, strict=True)) for one in chosen])


def candidates(given: argparse.Namespace) -> Cells:
    """Datapoints as candidates: block descent beside the accelerated proximal gradient, to a gap of 1e-5."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        X: Any = dataset(name["data"], name["n"])
        bias: Any = None if name["bias"] == "none" else name["bias"]
        atoms = datapoint_atoms(X - X.mean(axis=0) if bias == "free" else X)
        problem = CandidateDictionary(X, atoms, LAM, ATOM_COST, bias=bias)
        return name | measure(problem, 1e-5, solver=name["solver"], max_seconds=300, device=given.device)

    both, ours = ("block-descent", "proximal-gradient"), ("block-descent",)
    every = (
        ("clustered", 200, "none", both),
        ("wordllama", 200, "none", both),
        ("clustered", 1000, "none", ours),
        ("clustered", 1000, "free", ours),
        ("wordllama", 1000, "none", ours),
    )
    chosen = (("clustered", 20, "none", both),) if given.quick else every
    names = [{"data": data, "n": n, "bias": bias, "solver": who} for data, n, bias, rivals in chosen for who in rivals]
    return named("candidates", cell, names)


def scale(given: argparse.Namespace) -> Cells:
    """Cost and both gaps against N, at a solver gap of 2e-3."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        problem = LargeDictionary(dataset(name["data"], name["n"]), LAM, ATOM_COST, bias=None)
        options: dict[str, Any] = {"device": given.device, "max_seconds": given.max_seconds}
        return name | {"d": problem.dim} | measure(problem, 2e-3, **options)

    names = [
        {"data": kind, "n": n, "device": given.device}
        for n in ([30] if given.quick else given.points)
        for kind in (("random", "clustered", "wordllama") if n <= 1000 else ("clustered",))
    ]
    return named("scale", cell, names)


def many(given: argparse.Namespace) -> Cells:
    """Many datapoints at two prices of an atom, each in a process of its own, which gives its peak of memory."""

    def cell(name: dict[str, Any]) -> dict[str, Any]:
        return name | by_itself(solved, name["data"], name["n"], name["tau"], given.device, given.max_seconds)

    sizes, kinds = ([30], ["random"]) if given.quick else (given.many, ["random", "clustered", "wordllama"])
    every = [(n, tau, kind) for n in sizes for tau in (10.0, 100.0) for kind in kinds]
    return named("many", cell, [{"data": kind, "n": n, "tau": tau, "device": given.device} for n, tau, kind in every])


def solved(kind: str, n: int, tau: float, device: str, max_seconds: float) -> dict[str, Any]:
    """To a solver gap of 2e-3, and beyond 4,000 datapoints of 1e-2."""
    tol, problem = GAPS[1] if n <= 4000 else GAPS[0], LargeDictionary(dataset(kind, n), LAM, tau, bias=None)
    begun, within = time.process_time(), dict[str, dict[str, float]]()

    def note(record: Record) -> None:
        """When the solver's gap is first within a target; after the last comes the search for a better dictionary."""
        for gap in GAPS:
            if record.solver_gap is not None and record.solver_gap <= gap:
                within.setdefault(f"{gap:g}", {"seconds": record.seconds, "cpu": time.process_time() - begun})

    row = measure(problem, tol, device=device, max_seconds=max_seconds, callback=note)
    return row | {
        "within": within,
        "d": problem.dim,
        "tol": tol,
        "threads": torch.get_num_threads(),
        "gigabytes": peak_gigabytes(),
    }


def named(section: str, cell: Callable[[dict[str, Any]], Any], names: list[dict[str, Any]]) -> Cells:
    """A cell for each name."""
    return {cell_name(section, name): partial(cell, name) for name in names}


def cell_name(section: str, name: dict[str, Any]) -> str:
    """What a cell is called: its section, and what it is about."""
    return f"{section}: " + ", ".join(f"{key} {value}" for key, value in name.items())


SECTIONS = (small, reference, few, cuts, candidates, scale, many)


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for."""
    options = parser(__doc__)
    options.add_argument("--points", type=int, nargs="*", default=[250, 500, 1000, 2000, 4000], help="of scale")
    options.add_argument("--many", type=int, nargs="*", default=[1000, 2000, 4000, 10_000], help="points of many")
    options.add_argument("--max-seconds", type=float, default=1800, help="for each solve of scale and many")
    options.add_argument("--device", default="cpu")
    given = options.parse_args(arguments)
    cells = {name: cell for section in SECTIONS for name, cell in section(given).items()}
    return run("large_dictionary", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
