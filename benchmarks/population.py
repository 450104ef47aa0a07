"""The population gap against batch size and number of batches: how close floors of batches come to a dictionary.

    python -m benchmarks.population [--only wordllama] [--folder FOLDER] [--learn SECONDS] [--quick]

Two sets of 32,000 rows, K = 512, zero bias, one joint confidence of 95 %. ``wordllama``: the token embeddings, centered
and scaled to mean norm 1, λ = 0.08. ``synthetic``: rows of dimension 384 made to resemble activations of a small
sentence encoder (:func:`resembling_activations`), scaled to mean norm 1, λ = 0.08. A dictionary is learned on one half
of the rows, ``--learn`` seconds long; its upper limit and the floors are of the other half. Batches are kept in
``--folder``, if one is given, and not searched again.
Writes ``benchmarks/results/population.json``; ``python docs/tables.py`` shows it in ``docs/population.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import tokens, unit_mean_norm
from benchmarks.harness import Table, parser, run, table, timed
from cvxsae import learn_dictionary
from cvxsae.data.splits import split_rows
from cvxsae.population import evaluate, population_floor

LAM, WIDTH, CONFIDENCE = 0.08, 512, 0.95
SIDE = (1 + CONFIDENCE) / 2
BATCHES = {500: (4, 8, 16), 1000: (4, 8), 2000: (3,)}
"""Numbers of batches by their size: the first ones of the same order."""


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


SETS: dict[str, Callable[[], np.ndarray]] = {"wordllama": tokens, "synthetic": resembling_activations}


def measure(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One set: the upper limit, and the gap for every size and number of batches."""
    X, batches, width = SETS[name](), BATCHES, WIDTH
    if asked.quick:
        X, batches, width = X[:200], {50: (2,)}, 8
    split = split_rows(len(X), 0, share=0.5)
    train, held_out = X[split.train], X[split.held_out]
    fit = learn_dictionary(train, width, LAM, bias=None, max_seconds=asked.learn)
    upper = evaluate(held_out, fit.dictionary, LAM)
    limit = upper.limit("upper", SIDE)
    found: dict[str, Any] = {
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
    for size, counts in batches.items():
        options: dict[str, Any] = {"bias": None, "batch": size}
        kept = None if asked.folder is None else asked.folder / f"{name}-{size}"
        floor = population_floor(held_out, width, LAM, **options, n_batches=max(counts), confidence=SIDE, folder=kept)
        assert floor.is_certified, floor.objections
        _, once = timed(partial(population_floor, held_out[:size], width, LAM, **options))  # computed afresh
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
                "cpu_seconds_per_batch": once.cpu,
            }
            found["rows"].append(row)
    return found


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """What the dictionaries cost, and the gaps."""
    upper = [
        [name, f"{one['n_points']:,}", one["dim"], f"{one['held_out']:.4f}", f"{one['l0']:.1f}"]
        + [f"{one[key]:.4f}" for key in ("upper_limit", "wide")]
        for name, one in cells.items()
    ]
    gaps = []
    for name, one in cells.items():
        for row in one["rows"]:
            floor = [f"{row['batch']:,}", row["n_batches"], f"{row['mean_floor']:.4f}", row["theorem"]]
            gap = [f"{row['lower_limit']:.4f}", f"{row['gap']:.4f}", f"{row['relative']:.3f}"]
            gaps.append([name, *floor, *gap, f"{row['cpu_seconds_per_batch']:.1f}"])
    floors = ["mean floor", "by", "lower limit", "gap", "gap / upper limit", "CPU s a batch"]
    costs = ["loss on held-out rows", "active", "upper limit", "wide limit of held-out rows"]
    return {
        "dictionaries": table(["set", "rows", "d", *costs], upper),
        "gaps": table(["set", "rows of a batch", "batches", *floors], gaps),
    }


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, help="where batches are kept, and not searched again")
    options.add_argument("--learn", type=float, default=30.0, help="seconds for each dictionary")
    given = options.parse_args(arguments)
    given.learn = 0.5 if given.quick else given.learn
    return run("population", {name: partial(measure, name, given) for name in SETS}, tables, given)


if __name__ == "__main__":
    sys.exit(main())
