"""Everything that is measured on a GPU, by one command that is done in ten minutes on an H100 or H200.

    python -m benchmarks.gpu [--only codes dictionary] [--seconds 40] [--quick --device cpu]

- ``codes``: encoder passes, ``encode`` and peers in plain torch (``benchmarks/codes_gpu.py``);
- ``dictionary``: ``learn_dictionary`` and an SAE trained by Adam for as long, judged by exact codes on the same device;
- ``large``: the large dictionary at N = 4,000, 10,000 and 20,000, clustered, τ = 10, to a solver gap of 2e-3;
- ``floor``: the floor of 512 atoms under all token embeddings of wordllama, and under 400,000 clustered points.

A search ends after ``--seconds``, and is listed with what it had by then. Problems that do not fit, or fail, are
reported and left out. Memory is the device's, at its highest. Results go to ``benchmarks/results/gpu.json``, under the
GPU's name; ``docs/benchmarks.md`` shows them. Without a GPU it refuses; ``--quick --device cpu`` shows that it works.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import codes_gpu
from benchmarks.data import tokens
from benchmarks.harness import Table, device_of, parser, peak_gigabytes, run, table, timed
from cvxsae import LargeDictionary, WideLimit, encode, learn_dictionary, solve, width_floor
from cvxsae.sae import train_sae

LAM, ATOM_COST, BATCH = 0.08, 10.0, 4096
DICTIONARIES: tuple[tuple[int, int, int], ...] = ((768, 4096, 200_000),)
LARGE: tuple[int, ...] = (4_000, 10_000, 20_000)
FLOORS = {"wordllama": 32_000, "clusters": 400_000}


def used(call: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float]]:
    """What a call returns, its seconds, and the most memory of the device (on a CPU: of the process)."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    result, seconds = timed(call, device)
    gigabytes = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else peak_gigabytes()
    return result, {"seconds": seconds.wall, "cpu": seconds.cpu, "gigabytes": gigabytes}


def dictionary(d: int, K: int, n: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Ours, and Adam for as long: objective at exact codes of 20,000 rows of the training set."""
    data, _ = codes_gpu.problem(d, K, n, device)
    X = data.cpu().numpy().astype(np.float64)
    start = X[np.random.default_rng(0).choice(n, K, replace=False)]
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    options: dict[str, Any] = {"bias": None, "init": start, "seed": 0, "device": device}
    learn_dictionary(X[: 2 * K], K, LAM, **options, max_seconds=1.0)  # first touches
    fit, ours = used(lambda: learn_dictionary(X, K, LAM, **options, max_seconds=given.seconds), device)
    trained: dict[str, Any] = {**options, "batch_size": min(BATCH, n), "lr": 1e-3}
    train_sae(X, K, LAM, steps=5, **trained)
    _, trial = used(lambda: train_sae(X, K, LAM, steps=50, **trained), device)
    steps = max(1, round(50 * ours["seconds"] / trial["seconds"]))
    sae, adam = used(lambda: train_sae(X, K, LAM, steps=steps, **trained), device)
    found = {"learn_dictionary": (fit.dictionary, ours), "Adam": (sae.dictionary, adam)}
    return {
        name: {**times, "objective": encode(X[:20_000], np.asarray(D), LAM, device=device).value}
        for name, (D, times) in found.items()
    }


def large(n: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The large dictionary: both gaps when time is up."""
    from benchmarks.large_dictionary import dataset

    problem = LargeDictionary(dataset("clustered", n), 0.1, ATOM_COST, bias=None)
    options: dict[str, Any] = {"tol": 2e-3, "device": device, "max_seconds": given.seconds, "raise_on_failure": False}
    solution, times = used(lambda: solve(problem, **options), device)
    kept = {key: getattr(solution, key) for key in (*GAPS, "value", "lower_bound")}
    return {**times, **kept, "n": n, "status": solution.status.name}


def floor(kind: str, n: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The floor of one part that holds all points."""
    from benchmarks.width_floor_large import clusters

    X, lam = (tokens(n), LAM) if kind == "wordllama" else (clusters(n), 0.1)
    width = 8 if given.quick else 512
    options: dict[str, Any] = {"bias": None, "max_points": n, "max_seconds": given.seconds, "device": device}
    wide = solve(WideLimit(X, lam, bias=None), device=device).lower_bound
    found, times = used(lambda: width_floor(X, width, lam, **options), device)
    named = {"data": kind, "n": n, "d": X.shape[1], "K": width}
    return {**named, **times, "ratio": found.value / wide, "theorem": found.theorem}


def cells(given: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Everything, by name."""
    dictionaries, sizes, floors = DICTIONARIES, LARGE, FLOORS
    if given.quick:
        dictionaries, sizes, floors = ((8, 16, 100),), (30,), {"clusters": 60}
    made: dict[str, Callable[[], Any]] = codes_gpu.cells(given, device)
    for d, K, n in dictionaries:
        made[f"dictionary {d} x {K}, {n:,} points"] = partial(dictionary, d, K, n, given, device)
    made |= {f"large dictionary, {n:,} points": partial(large, n, given, device) for n in sizes}
    return made | {f"floor, {kind}, {n:,} points": partial(floor, kind, n, given, device) for kind, n in floors.items()}


def tables(found: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """A table for each kind of cell that there is."""
    of = {kind: {name: cell for name, cell in found.items() if name.startswith(kind)} for kind in ROWS}
    made = {kind: table(COLUMNS[kind], [row for name, cell in of[kind].items() for row in ROWS[kind](name, cell)])
            for kind in ROWS if of[kind]}  # fmt: skip
    codes = {name: cell for name, cell in found.items() if name.startswith("codes")}
    return ({"codes": codes_gpu.codes_table(codes)} if codes else {}) | made


GAPS = ("solver_gap", "relaxation_gap")
COLUMNS = {
    "dictionary": ["problem", "method", "s", "objective at exact codes", "GB"],
    "large": ["problem", "status", "solver gap", "relaxation gap", "s", "GB"],
    "floor": ["problem", "K", "floor / F_wide", "by", "s", "GB"],
}
ROWS: dict[str, Callable[[str, Any], list[list[Any]]]] = {
    "dictionary": lambda name, cell: [
        [name, method, f"{one['seconds']:.1f}", f"{one['objective']:.5f}", f"{one['gigabytes']:.1f}"]
        for method, one in cell.items()
    ],
    "large": lambda name, cell: [
        [name, cell["status"], *(None if cell[gap] is None else f"{cell[gap]:.1e}" for gap in GAPS), *cost(cell)]
    ],
    "floor": lambda name, cell: [[name, cell["K"], f"{cell['ratio']:.3f}", cell["theorem"], *cost(cell)]],
}


def cost(cell: Mapping[str, float]) -> list[str]:
    """Seconds and memory as they are shown."""
    return [f"{cell['seconds']:.1f}", f"{cell['gigabytes']:.1f}"]


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for."""
    options = parser(__doc__, gpu=True)
    options.add_argument("--seconds", type=float, default=40.0, help="for each search")
    codes_gpu.add_options(options)
    given = options.parse_args(arguments)
    given.seconds = min(given.seconds, 0.5) if given.quick else given.seconds
    device = device_of(given, options)
    return run("gpu", cells(given, device), tables, given, device)


if __name__ == "__main__":
    sys.exit(main())
