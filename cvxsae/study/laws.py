"""Power laws fitted to a study's table, if there is enough to fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.relaxations.linalg import failing_as

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64

SHARED = ["data", "n_points", "lam", "target_l0", "bias"]
"""What rows of one problem share, whatever their width, τ and seed."""

RESOLVED = 1e-4
"""Least excess over F_wide, relative to it, that is not the rounding or the tolerance of the values it is made of."""


LEAST_POINTS = 3
"""Fewest different x of a fit: through two points every line is exact."""


@dataclass(frozen=True)
class PowerLaw:
    """``y ≈ factor · x^exponent``, by least squares in the logarithms.

    Attributes
    ----------
    exponent, factor
        Of the fit.
    spread
        Largest ``|log2 y − log2 fit|``: 0 where the points lie on the law.
    n_points
        Number of points fitted.
    """

    exponent: float
    factor: float
    spread: float
    n_points: int

    def __call__(self, x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The fit at x."""
        return np.asarray(self.factor * x**self.exponent)


def power_law(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> PowerLaw | None:
    """The power law through points above zero; None with fewer than three different x."""
    used = (x > 0) & (y > 0)
    if len(np.unique(x[used])) < LEAST_POINTS:
        return None
    u, v = np.log2(x[used]), np.log2(y[used])
    with failing_as("the slope of a power law", u[:, None]):
        slope, start = np.polyfit(u, v, 1)
    spread = float(np.abs(v - slope * u - start).max())
    return PowerLaw(float(slope), float(2.0**start), spread, int(used.sum()))


def numbers(column: pd.Series) -> Float64[np.ndarray, " n"]:
    """A column as floats, NaN where nothing is."""
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def ended_by_themselves(rows: pd.DataFrame) -> Float64[np.ndarray, " n"]:
    """Seconds of each cell, NaN for one that ended at its limit of seconds or steps."""
    limited = rows["outcome"].isin(("TIME_LIMIT", "MAX_ITER")).to_numpy(dtype=bool)
    return np.where(limited, np.nan, numbers(rows["seconds"]))


def problems(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows that are done, problem by problem, with a label that says what tells them apart."""
    done = table[table["status"] == "done"]
    varying = [name for name in SHARED if done[name].nunique(dropna=False) > 1]
    # Rows of one hash may be split in several ways, which the name of the data tells apart.
    keys = ["data", "data_hash", "bias", "target_l0" if done["target_l0"].notna().any() else "lam"]
    symbols = {"n_points": "N", "lam": "λ", "target_l0": "target L0"}
    for _, rows in done.groupby(keys, sort=False, dropna=False):
        first = rows.iloc[0]
        parts = [
            f"{symbols.get(name, name)} {first[name]:g}" if name in symbols else str(first[name])
            for name in varying
            if first[name] is not None and first[name] == first[name]
        ]
        yield ", ".join(parts), rows


def by_width(rows: pd.DataFrame, column: str, methods: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Widths, and the least of a column over the rows of these methods at each."""
    chosen = rows[rows["method"].isin(methods) & rows[column].notna()]
    least = chosen.groupby("n_atoms")[column].min()
    return least.index.to_numpy(dtype=np.float64), numbers(least)


def held_out_by_width(rows: pd.DataFrame, method: str = "learned") -> pd.DataFrame:
    """One row per width, of those with held-out rows: of its seeds the one that is lowest on the rows learned from."""
    chosen = rows[(rows["method"] == method) & rows["held_out"].notna()].sort_values(["n_atoms", "value"])
    return chosen.drop_duplicates("n_atoms")


def resolved(excess: np.ndarray, wide: float) -> np.ndarray:
    """Whether what is left above F_wide is more than the values' own tolerance."""
    return np.asarray(excess > RESOLVED * abs(wide))


def closed_by_doubling(widths: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Share of what is left above F_wide that each doubling of K closes, between neighboring widths."""
    steps = np.log2(widths[1:] / widths[:-1])
    return np.asarray(1 - (excess[1:] / excess[:-1]) ** (1 / steps))
