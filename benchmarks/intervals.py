"""How often 95 % intervals hold that are made in three ways, for skewed rows and for documents of uneven lengths.

    python -m benchmarks.intervals               # two minutes; --quick: some seconds

The package gives Student's t, linearized over documents (``cvxsae.statistics.means.mean_interval``). Beside it stand
``scipy.stats.bootstrap`` with ``method="BCa"`` and a studentized bootstrap, each of 999 resamples of the units, to see
whether one of them is worth offering. All three see the same samples; seeds are fixed. Writes
``benchmarks/results/intervals.json``; ``python docs/tables.py`` shows it in ``docs/population.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.harness import Table, parser, run, table
from cvxsae.statistics.means import mean_interval

REPETITIONS, RESAMPLES, LEVEL = 2000, 999, 0.95

SHAPE = 4 / 5.6**2
"""Of a gamma distribution of skewness 5.6, as the losses of rows had in ``docs/population.md``."""

Sample = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray | None]]
"""Losses, and which document each is of."""


def skewed(n: int) -> Sample:
    """Independent rows."""
    return lambda rng: (rng.gamma(SHAPE, 1.0, n), None)


def correlated(m: int) -> Sample:
    """Documents of 5 to 40 rows with an intra-class correlation of 0.3."""

    def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        groups = np.repeat(np.arange(m), rng.integers(5, 41, m))
        common, own = rng.standard_normal(m)[groups], rng.standard_normal(len(groups))
        return np.sqrt(0.3) * common + np.sqrt(0.7) * own, groups

    return sample


def heavy(m: int) -> Sample:
    """Documents of 3 to 300 rows, most of them short (Zipf, exponent 1.6), whose mean losses are skewed."""

    def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        groups = np.repeat(np.arange(m), np.minimum(rng.zipf(1.6, m) + 2, 300))
        return 0.5 * rng.gamma(0.5, 1.0, m)[groups] + rng.exponential(0.5, len(groups)), groups

    return sample


CASES: tuple[tuple[str, Sample, float], ...] = (
    ("400 rows, skewness 5.6", skewed(400), SHAPE),
    ("60 documents, intra-class correlation 0.3", correlated(60), 0.0),
    ("60 documents, heavy-tailed lengths and losses", heavy(60), 0.75),
    ("200 documents, heavy-tailed lengths and losses", heavy(200), 0.75),
)
"""What is sampled, and its true mean: of a row, whatever its document."""


def units(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of rows of each unit."""
    if groups is None:
        return values, np.ones(len(values))
    return np.bincount(groups, values), np.bincount(groups).astype(np.float64)


def ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of a row."""
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))


def student(values: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[float, float]:
    """What the package gives."""
    found = mean_interval(values, LEVEL, groups=groups)
    return found.low, found.high


def accelerated(values: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[float, float]:
    """BCa, by scipy."""
    found = scipy.stats.bootstrap(
        units(values, groups), ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="BCa", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def studentized(values: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[float, float]:
    """Quantiles of resampled t statistics, with the linearized standard error."""
    sums, sizes = units(values, groups)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    center, error = _with_error(sums, sizes)
    centers, errors = _with_error(sums[drawn], sizes[drawn])
    high, low = np.quantile((centers - center) / errors, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return float(center - high * error), float(center - low * error)


def _with_error(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    center, m = ratio(sums, sizes), sums.shape[-1]
    off = sums - center[..., None] * sizes
    return center, np.sqrt((off**2).sum(axis=-1) * m / (m - 1)) / sizes.sum(axis=-1)


WAYS = {"t": student, "BCa": accelerated, "studentized": studentized}


def measure(sample: Sample, truth: float, repetitions: int) -> dict[str, tuple[float, float]]:
    """Of each way how often it holds, and its mean width in units of that of the first."""
    rng, ends = np.random.default_rng(0), {way: np.empty((repetitions, 2)) for way in WAYS}
    for seed in range(repetitions):
        values, groups = sample(rng)
        for way, interval in WAYS.items():
            ends[way][seed] = interval(values, groups, seed)
    widths = {way: float(np.mean(found[:, 1] - found[:, 0])) for way, found in ends.items()}
    return {
        way: (float(np.mean((found[:, 0] <= truth) & (truth <= found[:, 1]))), widths[way] / widths["t"])
        for way, found in ends.items()
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """How often each way holds, and how wide its intervals are."""
    rows = [
        [name, *(f"{found[way][0]:.1%}" for way in WAYS), *(f"{found[way][1]:.2f}" for way in WAYS)]
        for name, found in cells.items()
    ]
    return {"coverage": table(["what is sampled", *WAYS, *(f"width of {way}" for way in WAYS)], rows)}


def main(arguments: list[str] | None = None) -> int:
    """Measure the cases that were asked for."""
    given = parser(__doc__).parse_args(arguments)
    repetitions = 20 if given.quick else REPETITIONS
    return run(
        "intervals",
        {name: partial(measure, sample, truth, repetitions) for name, sample, truth in CASES},
        tables,
        given,
    )


if __name__ == "__main__":
    sys.exit(main())
