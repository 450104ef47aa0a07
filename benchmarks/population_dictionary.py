"""The large dictionary of a finite population: gap against batch size, and what a pass costs at a million rows.

    python -m benchmarks.population_dictionary [--only floors stream] [--quick]
    python -m benchmarks.population_dictionary --only upper --against FOLDER

``floors``: upper and lower side at every price. ``stream``: rows made again at each pass, by one thread. ``upper``: the
upper sides by this version and by that of another checkout, side by side, ended at the first pass after a limit of CPU
seconds; the polar is searched at both ends in the residual of all rows, the same way. Times are CPU seconds of the
process. Writes ``benchmarks/results/population_dictionary.json``; ``python docs/tables.py`` shows it in
``population_dictionary.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Table, by_itself, parser, peak_gigabytes, run, table, timed
from benchmarks.population_upper import LAM, MADE, SAMPLE_ROWS
from cvxsae.data.activations import Activations
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, PopulationDictionaryFit, large_floor, solve_population
from cvxsae.population.large.rows import Facts, pass_over

PRICES = (0.05, 0.01, 0.002)
BATCHES = {250: 4, 500: 3, 1000: 2, 2000: 2}
"""Batches at each size."""

UPPER_STARTS = 256
"""Directions from which the polar is searched at the end of an upper side, of three times as many looked at."""

STREAM_SIZES = (10_000, 100_000, 1_000_000)
STREAM_DIM, STREAM_CLUSTERS = 8, 8


def population(name: str, price: float, asked: argparse.Namespace) -> dict[str, Any]:
    """Upper and lower side of a population at a price; batches beyond the budget of CPU seconds are blank."""
    X, problem = MADE[name](), PopulationDictionary(LAM, price)
    X, batches = (X[:500], {250: 2}) if asked.quick else (X, BATCHES)
    options: dict[str, Any] = {"max_seconds": asked.seconds, "sample_rows": SAMPLE_ROWS, "tol": 3e-4}
    fit, taken = timed(lambda: solve_population(X, problem, **options))
    told = fit.to_dict()
    kept = {key: told[key] for key in ("value", "n_atoms", "status", "passes", "new_atom_ratio")}
    floors = [floor_cell(X, fit, batch, count, asked) for batch, count in batches.items()]
    named = {"data": name, "atom_price": price, "seconds": asked.seconds}
    return {**named, **kept, "cpu_seconds": taken.cpu, "floors": floors}


def floor_cell(
    X: np.ndarray, fit: PopulationDictionaryFit, batch: int, count: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """One batch size: the mean of the bounds, the limit at 95 %, and the gap."""
    cell: dict[str, Any] = {"batch": batch, "n_batches": count, "surcharge": fit.problem.atom_cost(batch)}
    cell["tol"] = asked.tol
    if batch > asked.largest or time.process_time() > asked.budget:
        return {**cell, "blank": "not run: no time left for it"}
    started = time.process_time()
    floor = large_floor(X, fit.problem, batch=batch, n_batches=count, of="rows", tol=asked.tol)
    low = floor.limit_at(0.95).low
    assert floor.value <= fit.value and low <= fit.value
    spent = time.process_time() - started
    gaps = {"gap_of_mean": 1 - floor.value / fit.value, "gap": 1 - low / fit.value}
    return {**cell, "mean": floor.value, "limit": low, **gaps, "cpu_seconds": spent}


def upper(name: str, price: float, asked: argparse.Namespace) -> dict[str, Any]:
    """By this version and by another, side by side; the polar at both ends by the same search of all rows."""
    from cvxsae.data.files import read_arrays
    from cvxsae.population.large.directions import new_atoms
    from cvxsae.population.large.rows import PricedDictionary, coded_blocks

    here = Path(__file__).resolve().parent
    roots = {"before": Path(asked.against).resolve(), "after": here.parent}
    X, problem = MADE[name](), PopulationDictionary(LAM, price)
    row: dict[str, Any] = {"data": name, "atom_price": price, "cpu_limit": asked.seconds}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(roots)) as pool:

        def told(which: str) -> Any:
            words = [name, str(price), str(asked.seconds), str(Path(folder) / f"{which}.npz")]
            environment = {**os.environ, "PYTHONPATH": str(roots[which]), "OMP_NUM_THREADS": "1"}
            program = [sys.executable, str(here / "population_upper.py"), *words]
            run = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
            return json.loads(run.stdout.splitlines()[-1])

        for which, found in zip(roots, pool.map(told, roots), strict=True):
            held = dict(read_arrays(Path(folder) / f"{which}.npz"))
            D, bias, w, ridge = (np.asarray(held[part]) for part in ("dictionary", "bias", "weights", "ridge"))
            blocks = coded_blocks(Activations(X), PricedDictionary(D, bias, w, ridge), LAM, Run())
            residual = np.concatenate([block for _, _, block in blocks])
            row[which] = found | {"polar_ratio": new_atoms(residual, problem, 0, UPPER_STARTS).ratio}
    return row


def stream(n_rows: int) -> Any:
    """A function that gives the rows block by block; nothing is kept."""
    C = np.random.default_rng(1).normal(size=(STREAM_CLUSTERS, STREAM_DIM))
    C /= np.linalg.norm(C, axis=1, keepdims=True)

    def batches() -> Any:
        for seed in range(n_rows // 10_000):
            rng = np.random.default_rng(seed)
            strength = rng.uniform(0.5, 1.5, size=(10_000, 1))
            yield C[rng.integers(STREAM_CLUSTERS, size=10_000)] * strength + 0.05 * rng.normal(
                size=(10_000, STREAM_DIM)
            )

    return batches


def stream_cell(n_rows: int) -> dict[str, Any]:
    """Memory at its highest, and the CPU time of a pass."""
    torch.set_num_threads(1)
    problem = PopulationDictionary(0.2, 0.01)
    X = Activations(stream(n_rows))
    fit, whole = timed(lambda: solve_population(X, problem, sample_rows=5_000, tol=1e-2))
    facts = Facts.of(X, problem, 1000)
    pass_over(Facts.of(X[:10_000], problem, 1000), fit.priced, problem, Run())  # compiled by now
    _, one = timed(lambda: pass_over(facts, fit.priced, problem, Run()))
    _, reading = timed(lambda: sum(1 for _ in X.batches()))
    return {
        "n_rows": n_rows,
        "n_atoms": fit.n_atoms,
        "value": fit.value,
        "pass_us_per_row": 1e6 * one.cpu / n_rows,
        "reading_us_per_row": 1e6 * reading.cpu / n_rows,
        "whole_cpu_seconds": whole.cpu,
        "passes": fit.passes,
        "peak_mb": 1024 * peak_gigabytes(),
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Upper sides, floors by batch size, and streams; a floor's gap is to the best value on file."""
    of = {kind: [c for name, c in cells.items() if name.startswith(kind)] for kind in ("upper", "floors", "stream")}
    uppers = []
    for row in of["upper"]:
        ends = [row["before"], row["after"]]
        numbers = [[f"{end[key]:{form}}" for end in ends] for key, form in NUMBERS.items()]
        ratio = f"{ends[1]['value'] / ends[0]['value']:.4f}"
        statuses = [end["status"].lower() for end in ends]
        values, *others = numbers
        flat = [number for pair in others for number in pair]
        uppers.append([row["data"], price_of(row), f"{row['cpu_limit']:.0f}", *values, ratio, *flat, *statuses])
    best = {(row["data"], row["atom_price"]): row["after"]["value"] for row in of["upper"]}
    floors = []
    for row in of["floors"]:
        value = best.get((row["data"], row["atom_price"]), row["value"])
        for cell in row["floors"]:
            start = [row["data"], price_of(row), f"{cell['batch']:,}", cell["n_batches"]]
            if "blank" in cell:
                floors.append([*start, cell["blank"], *[None] * 4])
                continue
            bounds = [f"{cell[key]:.5f}" for key in ("mean", "limit")]
            gap, of_mean = (100 * (1 - cell[key] / value) for key in ("limit", "mean"))
            floors.append(
                [*start, *bounds, f"{gap:.1f} % ({of_mean:.1f} %)", f"{cell['tol']:g}", f"{cell['cpu_seconds']:.0f}"]
            )
    streams = []
    for c in of["stream"]:
        once = [f"{c['pass_us_per_row']:.2f}", f"{c['reading_us_per_row']:.2f}", f"{c['peak_mb']:.0f} MB"]
        streams.append([f"{c['n_rows']:,}", c["n_atoms"], *once, f"{c['whole_cpu_seconds']:.0f}", c["passes"]])
    pairs = ["atoms before", "after", "polar/λ before", "after", "CPU s before", "after", "ended before", "after"]
    made = {
        "upper": (["data", "τ̄", "CPU s allowed", "value before", "after", "ratio", *pairs], uppers),
        "floors": (["data", "τ̄", "n", "batches", "mean of bounds", "limit", "gap", "tol", "CPU s"], floors),
        "streams": (
            ["rows", "atoms", "a pass, µs a row", "of it reading", "peak memory", "whole solve, CPU s", "passes"],
            streams,
        ),
    }
    return {name: table(columns, rows) for name, (columns, rows) in made.items() if rows}


NUMBERS = {"value": ".5f", "n_atoms": "d", "polar_ratio": ".3f", "cpu_seconds": ".0f"}


def price_of(row: Mapping[str, Any]) -> str:
    """As a share."""
    return f"{100 * row['atom_price']:g} %"


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="seconds of each upper side")
    options.add_argument("--largest", type=int, default=2000, help="largest batch")
    options.add_argument("--tol", type=float, default=0.05, help="relative gap at which a batch's solver ends")
    options.add_argument("--budget", type=float, default=500.0, help="CPU seconds after which floors are left blank")
    options.add_argument("--against", help="folder of another checkout, for the cells upper")
    given = options.parse_args(arguments)
    if given.quick:
        given.seconds = 1.0
    cells: dict[str, Callable[[], Any]] = {}
    for name in MADE:
        for price in PRICES[:1] if given.quick else PRICES:
            cells[f"floors, {name}, {100 * price:g} %"] = partial(population, name, price, given)
            if given.against is not None:
                cells[f"upper, {name}, {100 * price:g} %"] = partial(upper, name, price, given)
    for size in STREAM_SIZES[:1] if given.quick else STREAM_SIZES:
        cells[f"stream, {size:,} rows"] = partial(by_itself, stream_cell, size)
    return run("population_dictionary", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
