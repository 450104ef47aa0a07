"""The population gap against batch size and number of batches: how close floors of batches come to a dictionary.

    python benchmarks/population.py [--folder FOLDER] [--learn SECONDS] [--sets wordllama synthetic]

Two sets of 32,000 rows, K = 512, zero bias, one joint confidence of 95 %. ``wordllama``: the token embeddings, centered
and scaled to mean norm 1, λ = 0.08. ``synthetic``: rows of dimension 384 made to resemble activations of a small
sentence encoder (:func:`resembling_activations`), scaled to mean norm 1, λ = 0.08. A dictionary is learned on one half
of the rows, ``--learn`` seconds long; its upper limit and the floors are of the other half. Batches are kept in
``--folder`` and not searched again. Writes ``benchmarks/results/population.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae import learn_dictionary
from cvxsae.data.embedded import embedded
from cvxsae.data.splits import split_rows
from cvxsae.parallel.machine import processor
from cvxsae.population import evaluate, population_floor

RESULTS = Path(__file__).parent / "results"
LAM, WIDTH, CONFIDENCE = 0.08, 512, 0.95
SIDE = (1 + CONFIDENCE) / 2
BATCHES = {500: (4, 8, 16), 1000: (4, 8), 2000: (3,)}
"""Numbers of batches by their size: the first ones of the same order."""


def unit_mean_norm(X: np.ndarray) -> np.ndarray:
    """Centered and scaled to mean norm 1: two constants of the data, taken as known."""
    X = X - X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1).mean()


def wordllama() -> np.ndarray:
    return unit_mean_norm(np.array(embedded("wordllama"), dtype=np.float64))


def resembling_activations(n: int = 32_000, dim: int = 384, features: int = 4_096, rank: int = 96) -> np.ndarray:
    """Low rank, heavy tails and many rare features.

    Each of 4,096 unit directions lies for nine tenths of its energy in one subspace of 96 dimensions, whose axes have
    standard deviations that fall as ``i^(−0.6)``. Feature k is active on a row with probability ``∝ k^(−0.8)``, 24 of
    them on average, most of them on fewer than one row in a thousand; activations are log-normal (σ = 0.8). Gaussian
    noise of a tenth of the energy lies in the same subspace, and all of a row is multiplied by a log-normal length
    (σ = 0.3).
    """
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((dim, rank)))[0].T * np.arange(1, rank + 1)[:, None] ** -0.6
    directions = rng.standard_normal((features, rank)) @ axes
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    own = rng.standard_normal((features, dim))
    directions = np.sqrt(0.9) * directions + np.sqrt(0.1) * own / np.linalg.norm(own, axis=1, keepdims=True)
    rates = np.arange(1, features + 1) ** -0.8
    rates = np.minimum(24 * rates / rates.sum(), 0.9)
    X = np.empty((n, dim))
    for start in range(0, n, 2_000):
        count = min(2_000, n - start)
        codes = (rng.random((count, features)) < rates) * np.exp(0.8 * rng.standard_normal((count, features)))
        X[start : start + count] = codes @ directions
    noise = rng.standard_normal((n, rank)) @ axes
    X += noise * np.sqrt(0.1 * np.square(X).sum() / np.square(noise).sum())
    return unit_mean_norm(X * np.exp(0.3 * rng.standard_normal((n, 1))))


SETS: dict[str, Callable[[], np.ndarray]] = {"wordllama": wordllama, "synthetic": resembling_activations}


def cpu_seconds(X: np.ndarray, size: int) -> float:
    """Processor time of one batch, search and referee, computed afresh."""
    start = time.process_time()
    population_floor(X[:size], WIDTH, LAM, bias=None, batch=size)
    return time.process_time() - start


def measure(name: str, learn: float, folder: Path) -> dict[str, Any]:
    """One set: the upper limit, and the gap for every size and number of batches."""
    X = SETS[name]()
    split = split_rows(len(X), 0, share=0.5)
    train, held_out = X[split.train], X[split.held_out]
    fit = learn_dictionary(train, WIDTH, LAM, bias=None, max_seconds=learn)
    upper = evaluate(held_out, fit.dictionary, LAM)
    limit = upper.limit("upper", SIDE)
    found = {
        "set": name,
        "n_points": len(X),
        "dim": X.shape[1],
        "held_out": upper.value,
        "upper_limit": limit.high,
        "l0": upper.l0,
        "seconds_learning": fit.seconds,
        "wide": population_floor(held_out, None, LAM, bias=None, batch=len(held_out)).for_rows,
        "rows": [],
    }
    for size, counts in BATCHES.items():
        kept = folder / f"{name}-{size}"
        floor = population_floor(
            held_out, WIDTH, LAM, bias=None, batch=size, n_batches=max(counts), confidence=SIDE, folder=kept
        )
        assert floor.is_certified, floor.objections
        seconds = cpu_seconds(held_out, size)
        for count in counts:
            some = replace(floor, batches=floor.batches[:count])
            row = {
                "batch": size,
                "n_batches": count,
                "theorem": some.theorems[0],
                "mean_floor": some.for_rows,
                "lower_limit": some.lower_limit,
                "gap": limit.high - some.lower_limit,
                "relative": 1 - some.lower_limit / limit.high,
                "cpu_seconds_per_batch": seconds,
            }
            found["rows"].append(row)
            print(name, row, flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = [
        f"{found['set']}: {found['n_points']:,} rows of dimension {found['dim']}, half of them held out, K = {WIDTH}, "
        f"λ = {LAM}, zero bias.",
        f"The dictionary costs {found['held_out']:.4f} on the held-out rows, with "
        f"{found['l0']:.1f} active atoms a row.",
        f"With confidence {SIDE:.4g} it costs at most {found['upper_limit']:.4f} in expectation; the wide limit of the "
        f"held-out rows is {found['wide']:.4f}.",
        "",
        "| rows of a batch | batches | mean floor | by | lower limit | gap | gap / upper limit | CPU s a batch |",
        "|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['batch']:,} | {row['n_batches']} | {row['mean_floor']:.4f} | {row['theorem']} "
        f"| {row['lower_limit']:.4f} | **{row['gap']:.4f}** | {row['relative']:.3f} "
        f"| {row['cpu_seconds_per_batch']:.1f} |"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("population-batches"), help="where batches are kept")
    parser.add_argument("--learn", type=float, default=30.0, help="seconds for each dictionary")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sorted(SETS, reverse=True))
    options = parser.parse_args()
    write([measure(name, options.learn, options.folder) for name in options.sets])


def write(found: list[dict[str, Any]]) -> None:
    """The numbers of these sets, beside those of others that were measured before."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "population.json"
    known = json.loads(file.read_text(encoding="utf-8"))["sets"] if file.exists() else []
    by_name = {one["set"]: one for one in (*known, *found)}
    sets = [by_name[name] for name in sorted(by_name, reverse=True)]
    head = f"Both limits of a gap together have confidence {CONFIDENCE}; CPU seconds are those of {processor()}."
    text = "\n\n".join([head, *map(table, sets)])
    print(text)
    (RESULTS / "population.md").write_text(text + "\n", encoding="utf-8")
    report = {"lam": LAM, "n_atoms": WIDTH, "confidence": CONFIDENCE, "machine": processor(), "sets": sets}
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
