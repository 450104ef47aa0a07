"""Pairs of features that stand out by the cosine–co-firing identity (T4) and related scores, without a K × K array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.diagnostics.sums import FeatureStatistics, require_statistics
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64


_PARALLEL = 1e-12
"""Atoms with a smaller sine of the angle between them are parallel: there is no direction to turn in."""

_PAIR_ENTRIES = 2**20
"""Most entries of each array of a :class:`PairBlock`: 8 MB in float64."""


@dataclass(frozen=True, eq=False)
class PairBlock:
    """The pair statistics of a few features k with every other j, (m, K) each: T4's two sides and what fires together.

    Attributes
    ----------
    first
        Index of the first feature k of the block.
    cosine
        ``d_j·d_k``.
    expected
        ``E_k[ρ_j]``, ``ρ_nj = d_j·r_n/λ``: what the cosine is at a stationary dictionary (2). NaN where k is dead.
    cofiring
        ``P_k(j) = E_k[1{z_j > 0}]``.
    carried
        ``E_k[d_j·(x − b)] / E_j[d_j·(x − b)]``: how much of j's direction is in k's datapoints, relative to its own.
        NaN where the latter is not positive: j fires only to correct others.
    """

    first: int
    cosine: Float64[np.ndarray, "m K"]
    expected: Float64[np.ndarray, "m K"]
    cofiring: Float64[np.ndarray, "m K"]
    carried: Float64[np.ndarray, "m K"]


def pair_blocks(statistics: FeatureStatistics) -> Iterator[PairBlock]:
    """All ordered pairs of features, block by block: three products (K, d)·(d, K) in all, nothing K × K at once."""
    D = statistics.dictionary.numpy()
    K = len(D)
    Z = statistics.codes.codes
    firing = Z.astype(bool).astype(np.float64)
    transposed: Any = Z.T.tocsr()
    own = np.einsum("kd,kd->k", D, statistics.mean_data)
    own = np.where(own > 0, own, np.nan)
    mass = statistics.mass * statistics.n_points
    step = max(1, _PAIR_ENTRIES // K)
    for first in range(0, K, step):
        part = slice(first, first + step)
        together: Any = transposed[part] @ firing
        live = np.where(mass[part] > 0, mass[part], np.nan)[:, None]
        yield PairBlock(
            first=first,
            cosine=D[part] @ D.T,
            expected=statistics.mean_residual[part] @ D.T / statistics.lam,
            cofiring=together.toarray() / live,
            carried=statistics.mean_data[part] @ D.T / own,
        )


Score: TypeAlias = Callable[[FeatureStatistics, PairBlock], np.ndarray]
"""What to rank the ordered pairs of a block by, (m, K); pairs with a NaN or −inf score are left out."""


@dataclass(frozen=True, eq=False)
class PairScan:
    """The best pairs by every score, and the largest deficit of all pairs and of each feature.

    Attributes
    ----------
    tables
        By name of the score, best first; the columns of :func:`scan_pairs`.
    largest_deficit
        ``max |cos(d_j, d_k) − E_k[ρ_j]|`` over live j, k: zero iff the dictionary is stationary in the span of its
        atoms.
    deficits
        The same for every feature k, its largest over j, (K,); NaN for dead features and those that were not scanned.
    is_complete
        Whether all were scanned.
    """

    tables: dict[str, pd.DataFrame]
    largest_deficit: float
    deficits: Float64[np.ndarray, " K"]
    is_complete: bool = True


@own_arithmetic()
def scan_pairs(
    statistics: FeatureStatistics, scores: Mapping[str, Score], count: int, run: Run | None = None
) -> PairScan:
    """Rank all ordered pairs (k, j) of live features, j ≠ k, by several scores in one sweep.

    Columns of the tables: ``feature`` k, ``other`` j, ``score``, ``cosine`` d_j·d_k, ``expected`` E_k[ρ_j],
    ``deficit`` (cosine − expected, zero at a stationary dictionary), ``cofiring`` P_k(j), ``reverse_cofiring`` P_j(k),
    ``silent`` E_k[ρ_j 1{z_j = 0}] (what j would explain on k's datapoints if it were not silent, at most 1 − P_k(j)),
    ``carried`` (:class:`~cvxsae.diagnostics.pairs.PairBlock`), ``mixing_rate``: how fast F falls, per unit angle,
    when ``d_k`` turns towards ``d_j`` (negative: when it turns away), ``−(λ S_k/N) · deficit / √(1 − cos²)``.
    Past the deadline of ``run`` the features k that are left are not scanned.
    """
    live, count = require_statistics(statistics).live, arguments.count(count, "count")
    if not all(map(callable, arguments.instance(scores, "scores", Mapping, "a dict of functions").values())):
        raise InputError("scores holds something that is no function; pass a dict of functions of a block of pairs.")
    run = Run() if run is None else arguments.instance(run, "run", Run, "how the call that this is part of runs")
    deficits = np.full(statistics.n_atoms, np.nan)
    best = {name: _Best(count) for name in scores}
    is_complete = True
    for block in pair_blocks(statistics):
        if run.is_late:
            is_complete = False
            break
        rows = block.first + np.arange(len(block.cosine))
        both = live[rows][:, None] & live
        errors = np.abs(block.cosine - block.expected)
        errors[~both] = -1.0
        deficits[rows] = np.where(live[rows], errors.max(axis=1), np.nan)
        both[np.arange(len(rows)), rows] = False
        for name, score in scores.items():
            best[name].add(statistics, block, score(statistics, block), both)
    tables = {name: found.table for name, found in best.items()}
    for table in tables.values():
        table["reverse_cofiring"] = _reverse_cofiring(statistics, table)
    largest = float("nan") if np.isnan(deficits).all() else float(np.nanmax(deficits))
    return PairScan(tables, largest, deficits, is_complete)


def identity_score(statistics: FeatureStatistics, block: PairBlock) -> np.ndarray:
    """|cos(d_j, d_k) − E_k[ρ_j]|: the deviation from (2)."""
    return np.abs(block.cosine - block.expected)


def evident_score(statistics: FeatureStatistics, block: PairBlock) -> np.ndarray:
    """:func:`identity_score` where k fires often enough for E_k to say something."""
    known = statistics.has_evidence[block.first : block.first + len(block.cosine)]
    return np.where(known[:, None], identity_score(statistics, block), -np.inf)


class _Best:
    """The first ``count`` pairs so far; a block adds only those that beat the last of them."""

    def __init__(self, count: int) -> None:
        import pandas as pd

        self.count = count
        self.table = pd.DataFrame({name: np.zeros(0, dtype=kind) for name, kind in _COLUMNS.items()})
        self.least = -np.inf

    def add(self, statistics: FeatureStatistics, block: PairBlock, values: np.ndarray, allowed: np.ndarray) -> None:
        import pandas as pd

        places = np.flatnonzero((values > self.least) & allowed)
        scores = values.ravel()[places]
        if len(places) > self.count:
            places = places[np.argpartition(-scores, self.count - 1)[: self.count]]
        if not len(places):
            return
        table = pd.concat([self.table, _rows(statistics, block, values, places)], ignore_index=True)
        table = table.sort_values(["score", "feature", "other"], ascending=[False, True, True], kind="stable")
        self.table = table.head(self.count).reset_index(drop=True)
        if len(self.table) == self.count:
            self.least = float(self.table["score"].iloc[-1])


_COLUMNS = {
    "feature": np.int64,
    "other": np.int64,
    **dict.fromkeys(
        ("score", "cosine", "expected", "deficit", "cofiring", "silent", "carried", "mixing_rate"), np.float64
    ),
}


def _rows(statistics: FeatureStatistics, block: PairBlock, values: np.ndarray, places: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    m, j = np.unravel_index(places, values.shape)
    cosine, expected, cofiring = block.cosine[m, j], block.expected[m, j], block.cofiring[m, j]
    k = block.first + m
    slope = statistics.lam * statistics.mass[k] * (expected - cosine)
    sine = np.sqrt(np.clip(1 - cosine**2, 0, None))
    columns = {
        "feature": k,
        "other": j,
        "score": values[m, j],
        "cosine": cosine,
        "expected": expected,
        "deficit": cosine - expected,
        "cofiring": cofiring,
        "silent": expected - cofiring,
        "carried": block.carried[m, j],
        "mixing_rate": np.divide(slope, sine, out=np.zeros_like(slope), where=sine > _PARALLEL),
    }
    return pd.DataFrame({name: columns[name].astype(kind) for name, kind in _COLUMNS.items()})


def _reverse_cofiring(statistics: FeatureStatistics, table: pd.DataFrame) -> np.ndarray:
    """P_j(k) of the pairs (k, j) of a table."""
    wanted = np.unique(table[["feature", "other"]].to_numpy(dtype=np.int64))
    columns: Any = statistics.codes.codes[:, wanted].tocsc()
    firing = columns.astype(bool).astype(np.float64)
    together: Any = columns.T @ firing  # S_j P_j(k)
    k, j = (np.searchsorted(wanted, table[name].to_numpy(dtype=np.int64)) for name in ("feature", "other"))
    mass = statistics.mass[table["other"].to_numpy(dtype=np.int64)] * statistics.n_points
    return np.asarray(together.tocsr()[j, k]).ravel() / mass if len(table) else np.zeros(0)
