"""The large dictionary of a finite population: gap against batch size, and what a pass costs at a million rows.

Run from the repository root: ``python -m benchmarks.population_dictionary``; writes ``benchmarks/results``.
``--sections upper --against FOLDER`` compares the upper sides with those of another checkout, side by side.
Times are CPU seconds of the process, which a busy machine lengthens less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.data.embedded import embedded
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, PopulationDictionaryFit, large_floor, solve_population
from cvxsae.population.large.rows import Facts, pass_over

RESULTS = Path(__file__).parent / "results"
N_ROWS, SAMPLE_ROWS, LAM = 20_000, 2000, 0.08
PRICES = (0.05, 0.01, 0.002)
BATCHES = {250: 4, 500: 3, 1000: 2, 2000: 2}
"""Batches at each size."""

UPPER_STARTS = 256
"""Directions from which the polar is searched at the end of an upper side, of three times as many looked at."""

STREAM_SIZES = (10_000, 100_000, 1_000_000)
STREAM_DIM, STREAM_CLUSTERS = 8, 8


def clustered_rows() -> np.ndarray:
    """20,000 rows around 60 directions of unequal frequency in 32 dimensions, unit mean-square norm."""
    rng = np.random.default_rng(0)
    C = rng.normal(size=(60, 32))
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    often = 1.0 / np.arange(1, 61)
    X = C[rng.choice(60, N_ROWS, p=often / often.sum())] * rng.uniform(0.5, 1.5, size=(N_ROWS, 1))
    return unit_mean_square(X + 0.05 * rng.normal(size=X.shape))


def wordllama_rows() -> np.ndarray:
    """20,000 of the 32,000 token embeddings, centered, unit mean-square norm."""
    X = np.asarray(embedded("wordllama"), dtype=np.float64)
    return unit_mean_square(X[np.sort(np.random.default_rng(0).choice(len(X), N_ROWS, replace=False))])


def unit_mean_square(X: np.ndarray) -> np.ndarray:
    """Centered and scaled."""
    X = X - X.mean(axis=0)
    scaled: np.ndarray = X / np.sqrt((X**2).sum(axis=1).mean())
    return scaled


def populations(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Upper and lower side of both populations at every price; cells beyond the budget of CPU seconds are blank."""
    for name, make in MADE.items():
        X = make()
        for price in PRICES:
            problem, started = PopulationDictionary(LAM, price), time.process_time()
            fit = solve_population(X, problem, max_seconds=asked.seconds, sample_rows=SAMPLE_ROWS, tol=3e-4)
            row = {
                "data": name,
                "atom_price": price,
                "seconds": asked.seconds,
                "value": fit.value,
                "n_atoms": fit.n_atoms,
                "status": fit.status.name,
                "passes": fit.passes,
                "new_atom_ratio": fit.to_dict()["new_atom_ratio"],
                "cpu_seconds": time.process_time() - started,
            }
            cells = [floor_cell(X, fit, batch, count, asked) for batch, count in BATCHES.items()]
            yield {**row, "floors": cells}


MADE = {"clustered": clustered_rows, "wordllama": wordllama_rows}


def upper_cell(name: str, price: float, seconds: float, file: str) -> dict[str, Any]:
    """In a process of its own, of this version or another: the search until so many CPU seconds have passed."""
    torch.set_num_threads(1)
    X, problem = MADE[name](), PopulationDictionary(LAM, price)
    solve_population(X[:500], problem, max_steps=12, sample_rows=SAMPLE_ROWS)  # compiles
    started = time.process_time()

    def stop(_: Any) -> None:
        if time.process_time() - started > seconds:
            raise KeyboardInterrupt

    fit = solve_population(X, problem, sample_rows=SAMPLE_ROWS, tol=3e-4, callback=stop)
    fit.save(file)
    told = fit.to_dict()
    kept = {key: told[key] for key in ("value", "n_atoms", "l0", "status", "passes", "new_atom_ratio")}
    return {**kept, "cpu_seconds": time.process_time() - started}


def uppers(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each cell by this version and by another, side by side; the polar at both ends by the same search of all rows."""
    from cvxsae.data.files import read_arrays
    from cvxsae.population.large.directions import new_atoms
    from cvxsae.population.large.rows import PricedDictionary, coded_blocks

    here = Path(__file__).resolve()
    roots = {"before": Path(asked.against).resolve(), "after": here.parent.parent}
    cells = [(name, price) for price in PRICES for name in MADE]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:

        def told(name: str, price: float, which: str) -> dict[str, Any]:
            file = str(Path(folder) / f"{name}{price}{which}.npz")
            cell = ["--upper-cell", name, str(price), str(asked.seconds), file]
            environment = {**os.environ, "PYTHONPATH": str(roots[which]), "OMP_NUM_THREADS": "1"}
            run = subprocess.run(
                [sys.executable, str(here), *cell], check=True, capture_output=True, text=True, env=environment
            )
            found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
            print(name, price, which, found, flush=True)
            return {**found, "file": file}

        waiting = [(name, price, {k: pool.submit(told, name, price, k) for k in roots}) for name, price in cells]
        for name, price, jobs in waiting:
            X, problem = MADE[name](), PopulationDictionary(LAM, price)
            row: dict[str, Any] = {"data": name, "atom_price": price, "cpu_limit": asked.seconds}
            for which, job in jobs.items():
                found = job.result()
                held = dict(read_arrays(found.pop("file")))
                D, bias, w, ridge = (np.asarray(held[part]) for part in ("dictionary", "bias", "weights", "ridge"))
                blocks = coded_blocks(Activations(X), PricedDictionary(D, bias, w, ridge), LAM, Run())
                residual = np.concatenate([block for _, _, block in blocks])
                found["polar_ratio"] = new_atoms(residual, problem, 0, UPPER_STARTS).ratio
                row[which] = found
            yield row


def with_uppers(told: dict[str, Any]) -> None:
    """What the upper sides attain by now, in the table of floors."""
    for row in told["populations"]:
        for new in told.get("upper", []):
            if (new["data"], new["atom_price"]) == (row["data"], row["atom_price"]):
                row["value"] = new["after"]["value"]
        for cell in row["floors"]:
            if "limit" in cell:
                cell["gap_of_mean"], cell["gap"] = (1 - cell[name] / row["value"] for name in ("mean", "limit"))


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
    """In a process of its own: memory at its highest, and the CPU time of a pass."""
    import resource

    torch.set_num_threads(1)
    problem = PopulationDictionary(0.2, 0.01)
    X = Activations(stream(n_rows))
    started = time.process_time()
    fit = solve_population(X, problem, sample_rows=5_000, tol=1e-2)
    whole = time.process_time() - started
    facts = Facts.of(X, problem, 1000)
    pass_over(Facts.of(X[:10_000], problem, 1000), fit.priced, problem, Run())  # compiled by now
    started = time.process_time()
    pass_over(facts, fit.priced, problem, Run())
    one = time.process_time() - started
    started = time.process_time()
    for _ in X.batches():
        pass
    reading = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "n_rows": n_rows,
        "n_atoms": fit.n_atoms,
        "value": fit.value,
        "pass_us_per_row": 1e6 * one / n_rows,
        "reading_us_per_row": 1e6 * reading / n_rows,
        "whole_cpu_seconds": whole,
        "passes": fit.passes,
        "peak_mb": peak,
    }


def streams(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Each size in a process of its own."""
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.population_dictionary", "--stream-cell", str(size)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield json.loads(told.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What it ran on."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    load = os.getloadavg()[0]
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "load": load,
        "python": platform.python_version(),
    }


def page(told: dict[str, Any]) -> str:
    """The results as a page."""
    m = told["machine"]
    lines = [
        "# The large dictionary of a population",
        "",
        "Made by `python -m benchmarks.population_dictionary`.",
        f"Machine: {m['cpu']}, {m['cores']} shared cores, load {m['load']:.1f} at the end; no GPU was measured.",
        f"λ = {LAM}, free bias, finite populations of {N_ROWS:,} rows of unit mean-square norm; times are CPU seconds.",
        "The value is attained on all rows; limits are 95 % lower limits by Student's t over batches of these rows.",
        f"Dictionaries are grown on {SAMPLE_ROWS:,} rows first, then on all, by one thread each, several at a time.",
        "Before is another checkout, which added no atoms once it had left the sample.",
        "Each search was interrupted at the first pass that ended after the limit of CPU seconds; the pass counts.",
        f"The polar is searched in the residual of all rows at the end, the same way for both, from {UPPER_STARTS} "
        "directions: a lower bound.",
        "",
        "| data | τ̄ | CPU s allowed | value before | after | ratio | atoms before | after | polar/λ before | after | "
        "CPU s before | after | ended before | after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in told.get("upper", []):
        old, new = row["before"], row["after"]
        pairs = [("n_atoms", "d"), ("polar_ratio", ".3f"), ("cpu_seconds", ".0f")]
        numbers = [f"{end[key]:{spec}}" for key, spec in pairs for end in (old, new)]
        lines.append(
            f"| {row['data']} | {100 * row['atom_price']:g} % | {row['cpu_limit']:.0f} | {old['value']:.5f} | "
            f"{new['value']:.5f} | {new['value'] / old['value']:.4f} | {' | '.join(numbers)} | "
            f"{old['status'].lower()} | {new['status'].lower()} |"
        )
    there = {(row["data"], row["atom_price"]) for row in told.get("upper", [])}
    lines += [
        f"| {name} | {100 * price:g} % | not run: no time left for it |{' |' * 11}"
        for name in ("clustered", "wordllama")
        for price in PRICES
        if (name, price) not in there
    ]
    lines += [
        "",
        "Floors by batch size n, surcharge n τ̄; the gap is (value − limit)/value, in brackets that of the mean alone.",
        "The value is that after, above; where that was not run it is that of an earlier search, of up to 90 seconds.",
        "",
        "A batch ends at a solver's gap of tol; its bound is certified whatever that is.",
        "",
        "| data | τ̄ | n | batches | mean of bounds | limit | gap | tol | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in told["populations"]:
        for cell in row["floors"]:
            start = f"| {row['data']} | {100 * row['atom_price']:g} % | {cell['batch']:,} | {cell['n_batches']} "
            if "blank" in cell:
                lines.append(f"{start}| {cell['blank']} | | | | |")
                continue
            lines.append(
                f"{start}| {cell['mean']:.5f} | {cell['limit']:.5f} | {100 * cell['gap']:.1f} % "
                f"({100 * cell['gap_of_mean']:.1f} %) | {cell['tol']:g} | {cell['cpu_seconds']:.0f} |"
            )
    lines += [
        "",
        f"Streamed rows (d = {STREAM_DIM}, made again at each pass), one thread:",
        "",
        "| rows | atoms | a pass, µs a row | of it reading | peak memory | whole solve, CPU s | passes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {c['n_rows']:,} | {c['n_atoms']} | {c['pass_us_per_row']:.2f} | {c['reading_us_per_row']:.2f} | "
        f"{c['peak_mb']:.0f} MB | {c['whole_cpu_seconds']:.0f} | {c['passes']} |"
        for c in told["streams"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is asked for and write both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="wall-clock seconds of each upper side")
    parser.add_argument("--largest", type=int, default=2000, help="largest batch")
    parser.add_argument("--tol", type=float, default=0.05, help="relative gap at which a batch's solver ends")
    parser.add_argument("--budget", type=float, default=500.0, help="CPU seconds after which floors are left blank")
    parser.add_argument("--sections", nargs="*", default=["populations", "streams"])
    parser.add_argument("--keep", action="store_true", help="keep the rows of populations that are there")
    parser.add_argument("--against", help="folder of another checkout, for the section upper")
    parser.add_argument("--jobs", type=int, default=2, help="upper sides at a time")
    parser.add_argument("--upper-cell", nargs=4, help="data, price, CPU seconds, file: in this process, as JSON")
    parser.add_argument("--stream-cell", type=int, help="one size, in this process, as JSON")
    parser.add_argument("--stream-sizes", type=int, nargs="*", default=STREAM_SIZES)
    asked = parser.parse_args()
    if asked.stream_cell:
        print(json.dumps(stream_cell(asked.stream_cell)))
        return
    if asked.upper_cell:
        name, price, seconds, target = asked.upper_cell
        print(json.dumps(upper_cell(name, float(price), float(seconds), target)))
        return
    file = RESULTS / "population_dictionary.json"
    told = json.loads(file.read_text()) if file.exists() else {"populations": [], "streams": []}
    for section in asked.sections:
        if section == "upper":
            made = uppers(asked)
        else:
            made = populations(asked) if section == "populations" else streams(tuple(asked.stream_sizes))
        told[section] = [row for row in told[section] if asked.keep] if section == "populations" else []
        for cell in made:  # written after each, so that what ended is there if the rest is not
            told[section].append(cell)
            with_uppers(told)
            print(json.dumps(cell), flush=True)
            told["machine"] = machine()
            file.write_text(json.dumps(told, indent=1) + "\n")
            (RESULTS / "population_dictionary.md").write_text(page(told))


if __name__ == "__main__":
    main()
