"""Planted dictionaries: whether the atoms that made the data are found, and if not, whose failure it is.

    python benchmarks/planted.py [--cases 50 100 500 1000] [--seeds 0 1 2]

Protocol, that of "Stop probing, start coding" (arXiv 2603.28744) as published: 2,500 datapoints, each the sum of k = 10
of n atoms with codes U(0, 1); atoms are Gaussian in m dimensions, scaled to norm 1; a dictionary of width n is learned.
The match is the mean |cos| over the assignment of learned to true atoms that is best (Hungarian). Nothing that is
learned uses k, the distribution of codes or the true atoms: `cvxsae.dictionary_path` gets the data, n, zero bias and
the penalties below, and the last fit of its path, at the smallest penalty, is judged. Penalties, surplus and reseeding
were chosen on seed 0 of n = 500 and 1000, with its match in view. One thread; the clock is CPU time.

`F(found)` and `F(truth)` have exact, certified codes. `F(from truth)` is the local optimum that descent from the true
atoms reaches: a failure is the *search's* if it is below F(found) by more than 1e-4 of it, for then a better
dictionary is known, and the *objective's* if not and the target match is missed. `truth moves to` is its match: what
the objective itself does to the true atoms at this penalty. `F_wide` and `floor` are certified: no dictionary of any
width, or of this width (`cvxsae.width_floor`), is below them.

Every finished run is added to ``benchmarks/results/planted.json`` at once and not run again while it is there;
``planted.md`` is written from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from cvxsae import dictionary_path, encode, learn_dictionary, width_floor
from cvxsae.data.storage import write_atomically
from cvxsae.parallel.machine import in_words
from cvxsae.results import DictionaryFit

RESULTS = Path(__file__).parent / "results"
POINTS, ACTIVE = 2_500, 10
DIMS = {50: 33, 100: 47, 500: 79, 1000: 93}
PUBLISHED = {  # dictionary learning with FISTA, TopK SAE, ReLU SAE
    50: (0.970, 0.754, 0.644),
    100: (0.977, 0.930, 0.558),
    500: (0.981, 0.484, 0.384),
    1000: (0.776, 0.392, 0.358),
}
TARGETS = {50: 0.98, 100: 0.98, 500: 0.98, 1000: 0.9}
PATHS: dict[int, dict[str, Any]] = {
    50: {"lams": (0.3, 0.1, 0.05, 0.02), "surplus": 1.2, "max_seconds": 60.0},
    100: {"lams": (0.3, 0.1, 0.05, 0.02), "surplus": 1.2, "max_seconds": 60.0},
    500: {"lams": (0.3, 0.1, 0.05, 0.02), "surplus": 1.2, "max_seconds": 120.0},
    1000: {"lams": (0.15, 0.05, 0.02), "surplus": 1.0, "reseeds": 16, "max_seconds": 240.0},
}


def planted(n_atoms: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data and the atoms that made them."""
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_atoms, dim))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((POINTS, n_atoms))
    for row in codes:
        row[rng.choice(n_atoms, ACTIVE, replace=False)] = rng.uniform(size=ACTIVE)
    return codes @ atoms, atoms


def match(found: np.ndarray, atoms: np.ndarray) -> tuple[float, float]:
    """Mean |cos| of matched atoms, and the share of them above 0.95."""
    cosines = np.abs(found @ atoms.T)
    matched = cosines[linear_sum_assignment(-cosines)]
    return float(matched.mean()), float((matched > 0.95).mean())


def stage(X: np.ndarray, atoms: np.ndarray, fit: DictionaryFit) -> dict[str, Any]:
    """What one penalty of the path came to."""
    mean, share = match(fit.dictionary, atoms)
    return {
        "lam": fit.lam,
        "n_atoms": fit.n_atoms,
        "found": fit.value,
        "truth": encode(X, atoms, fit.lam, tol=1e-8).value,
        "wide": fit.lower_bound,
        "match": mean,
        "above_0.95": share,
        "l0": fit.encoding.l0,
        "seconds": fit.seconds,
        "stationarity": fit.worst_stationarity,
        "status": fit.status.name,
    }


def record(n_atoms: int, seed: int) -> dict[str, Any]:
    """One path, judged."""
    X, atoms = planted(n_atoms, DIMS[n_atoms], seed)
    options = PATHS[n_atoms]
    with mock.patch("time.perf_counter", time.process_time):  # its time limit, too, is one of CPU time
        started = time.process_time()
        fits = dictionary_path(X, n_atoms, bias=None, seed=seed, stationarity=1e-3, **options)
        seconds = time.process_time() - started
        last = fits[-1]
        truth = learn_dictionary(
            X, n_atoms, last.lam, bias=None, init=atoms, stationarity=1e-2, max_seconds=30.0, moves=False
        )
        floor = width_floor(X, n_atoms, last.lam, bias=None, kernels=(2,), max_seconds=30.0, tol=1e-2)
    stages = [stage(X, atoms, fit) for fit in fits]
    return {
        "n_atoms": n_atoms,
        "dim": DIMS[n_atoms],
        "seed": seed,
        "options": {**options, "lams": list(options["lams"])},
        **stages[-1],
        "path_seconds": seconds,
        "from_truth": truth.value,
        "truth_moves_to": match(truth.dictionary, atoms)[0],
        "floor": floor.value,
        "stages": stages,
    }


def whose(run: dict[str, Any]) -> str:
    """Whose failure it is: any run with a better dictionary known counts, also one that reaches the target."""
    if run["from_truth"] < run["found"] * (1 - 1e-4):
        return "search"
    return "none" if run["match"] >= TARGETS[run["n_atoms"]] else "objective"


def report(runs: list[dict[str, Any]]) -> str:
    """The table beside the published one, and every run."""
    prose = (__doc__ or "").split("\n\n")
    lines = [
        f"# Planted dictionaries\n\n{prose[2]}\n\n{prose[3]}\n",
        f"{in_words()}; one thread used. CPU seconds are those of the whole path.\n",
        "| n | m | ours (mean of seeds) | seeds | target | FISTA dictionary learning | TopK SAE | ReLU SAE | CPU s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for n_atoms, dim in DIMS.items():
        here = [run for run in runs if run["n_atoms"] == n_atoms]
        if here:
            dictionary, topk, relu = PUBLISHED[n_atoms]
            mean = statistics.mean(run["match"] for run in here)
            timed = [run["path_seconds"] for run in here if run["path_seconds"] is not None]
            cpu = f"{statistics.mean(timed):.0f}" if timed else "not kept"
            lines.append(
                f"| {n_atoms} | {dim} | **{mean:.4f}** | {len(here)} | {TARGETS[n_atoms]} | {dictionary:.3f} | "
                f"{topk:.3f} | {relu:.3f} | {cpu} |"
            )
    lines += [
        "\n## Every run, at the last penalty\n",
        "| n | seed | λ | match | above 0.95 | F(found) | F(truth) | F(from truth) | truth moves to | F_wide | floor | "
        "failure | stationarity | CPU s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    ordered = sorted(runs, key=lambda run: (run["n_atoms"], run["seed"]))
    lines += [
        f"| {run['n_atoms']} | {run['seed']} | {run['lam']} | {run['match']:.4f} | {run['above_0.95']:.3f} | "
        f"{run['found']:.6f} | {run['truth']:.6f} | {run['from_truth']:.6f} | {run['truth_moves_to']:.4f} | "
        f"{run['wide']:.6f} | {run['floor']:.6f} | {whose(run)} | {run['stationarity']:.1e} | "
        f"{'not kept' if run['path_seconds'] is None else round(run['path_seconds'])} |"
        for run in ordered
    ]
    lines += [
        "\n## Along the path\n",
        "| n | seed | λ | width | match | F(found) | F(truth) | F_wide | L0 | status |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {run['n_atoms']} | {run['seed']} | {part['lam']} | {part['n_atoms']} | {part['match']:.4f} | "
        f"{part['found']:.6f} | {part['truth']:.6f} | {part['wide']:.6f} | {part['l0']:.1f} | "
        f"{part['status'].lower()} |"
        for run in ordered
        for part in run["stages"]
    ]
    options = "; ".join(f"n = {n}: {json.dumps(PATHS[n])}" for n in DIMS)
    return "\n".join(lines) + f"\n\nArguments of `dictionary_path`, with `tol=1e-3` and zero bias: {options}.\n"


def main() -> None:
    """Run what is missing, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", choices=list(DIMS), default=list(DIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    file = RESULTS / "planted.json"
    torch.set_num_threads(1)
    for n_atoms in options.cases:
        for seed in options.seeds:
            runs = json.loads(file.read_text()) if file.exists() else []
            if any((run["n_atoms"], run["seed"]) == (n_atoms, seed) for run in runs):
                continue
            with threadpool_limits(1):
                new = record(n_atoms, seed)
            print({name: value for name, value in new.items() if name != "stages"}, flush=True)
            runs = json.loads(file.read_text()) if file.exists() else []  # another process may have written meanwhile
            write_atomically(file, json.dumps([*runs, new], indent=1) + "\n")
    text = report(json.loads(file.read_text()))
    write_atomically(RESULTS / "planted.md", text)
    print(text)


if __name__ == "__main__":
    main()
