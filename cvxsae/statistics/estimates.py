"""Means and ratios of means over rows, with confidence intervals, from running moments: no row is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float64, Int64

MEAN, RATIO, NONE = "t interval of a mean of rows", "delta method, a ratio of means of rows", "none"
"""How intervals are made. The unit is the row: they hold where rows are independent draws."""

OF_DOCUMENTS = ", linearized, over documents"
"""Added to these where documents are independent and not rows (theory.md T17 d)."""

EXACT_BINOMIAL = "Clopper–Pearson, of a share of rows"
"""The same for how often a feature is active."""


UNITS = ("row", "document", "batch")
"""What is drawn independently."""


@dataclass(frozen=True)
class Estimate:
    """A number for the given rows, with an interval for the distribution that they were drawn from.

    Attributes
    ----------
    value
        Of the given rows, exactly.
    low, high
        Ends of the confidence interval; NaN where there is none, infinite on the open side of a limit.
    method
        How the interval was made; ``"none"`` for statements about these rows alone.
    confidence
        How often such intervals hold at least; NaN where there is none.
    unit
        What is drawn independently: ``"row"``, ``"document"`` (theory.md T17 d), or ``"batch"`` of either (T17 a).
    n_units
        How many of them.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    method: str = NONE
    confidence: float = float("nan")
    unit: str = "row"
    n_units: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False where there is none."""
        return self.low > 0 or self.high < 0

    def at(self, value: float) -> Estimate:
        """The same interval, around another number of these rows that it holds for."""
        return replace(self, value=value)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, with None for what is not known."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "confidence": self.confidence}
        known = {name: float(n) if np.isfinite(n) else None for name, n in numbers.items()}
        return {**known, "method": self.method, "unit": self.unit, "n_units": self.n_units}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Estimate:
        """The inverse of :meth:`to_dict`; an open side comes back as NaN."""
        numbers = {
            name: float("nan") if known.get(name) is None else float(known[name])
            for name in ("value", "low", "high", "confidence")
        }
        return cls(
            **numbers, method=known["method"], unit=known.get("unit", "row"), n_units=int(known.get("n_units", 0))
        )

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.6g}"
        units = f"{self.n_units:,} {self.unit}s"
        return f"{self.value:.6g} [{self.low:.6g}, {self.high:.6g}] at {self.confidence:.4g} ({self.method}; {units})"


class Moments:
    """Mean and scatter of several numbers of every row, added block by block without cancellation.

    Where ``groups`` (N,), integers from 0 without a gap, say which document each row is of, sums over documents are
    kept too, and intervals are over documents: rows of one document may depend on each other (theory.md T17 d).
    """

    def __init__(self, names: tuple[str, ...], groups: Int64[np.ndarray, " N"] | None = None) -> None:
        self.names, self.n, self.groups = names, 0, groups
        n_documents = 0 if groups is None else int(groups.max()) + 1
        self.sums: Float64[np.ndarray, "G m"] = np.zeros((n_documents, len(names)))
        self.counts: Int64[np.ndarray, " G"] = np.bincount([] if groups is None else groups, minlength=n_documents)
        self.mean: Float64[np.ndarray, " m"] = np.zeros(len(names))
        self.scatter: Float64[np.ndarray, "m m"] = np.zeros((len(names), len(names)))

    def add(self, columns: dict[str, Float64[np.ndarray, " n"]]) -> None:
        """Add the rows of a block."""
        rows = np.stack([columns[name] for name in self.names], axis=1)
        mean, n = rows.mean(axis=0), len(rows)
        if self.groups is not None:
            np.add.at(self.sums, self.groups[self.n : self.n + n], rows)
        centered, apart = rows - mean, mean - self.mean
        self.scatter += centered.T @ centered + np.outer(apart, apart) * (self.n * n / (self.n + n))
        self.mean = self.mean + apart * (n / (self.n + n))
        self.n += n

    def average(self, name: str, confidence: float) -> Estimate:
        """The mean of a number, with the interval of Student's t."""
        return self.combination({name: 1.0}, confidence)

    def combination(self, weights: dict[str, float], confidence: float) -> Estimate:
        """The mean of a weighted sum of numbers, with the interval of Student's t."""
        at = [self.names.index(name) for name in weights]
        w = np.array(list(weights.values()))
        scatter = float(w @ self._scatter()[np.ix_(at, at)] @ w)
        return self._around(float(w @ self.mean[at]), scatter, 1.0, confidence, MEAN)

    def ratio(self, above: str, below: str, confidence: float, *, complement: bool = False) -> Estimate:
        """The ratio of two means, or 1 minus it: to first order, the mean of (a − R b)/E[b]."""
        a, b = self.names.index(above), self.names.index(below)
        if self.mean[b] == 0:
            return Estimate(float("nan"))
        R, S = float(self.mean[a] / self.mean[b]), self._scatter()
        scatter = float(S[a, a] - 2 * R * S[a, b] + R**2 * S[b, b])
        return self._around(1 - R if complement else R, scatter, abs(float(self.mean[b])), confidence, RATIO)

    def _scatter(self) -> Float64[np.ndarray, "m m"]:
        """Sums of products about the mean: of rows, or of what documents are off in sum."""
        if self.groups is None:
            return self.scatter
        off = self.sums - self.counts[:, None] * self.mean
        return off.T @ off

    def _around(self, value: float, scatter: float, scale: float, confidence: float, method: str) -> Estimate:
        from scipy.stats import t

        unit, units = ("row", self.n) if self.groups is None else ("document", len(self.counts))
        if units < 2:
            return Estimate(value, unit=unit, n_units=units)
        error = float(np.sqrt(max(scatter, 0.0) * units / (units - 1))) / self.n / scale
        reach = float(t.ppf((1 + confidence) / 2, units - 1)) * error
        how = method if self.groups is None else method + OF_DOCUMENTS
        return Estimate(value, value - reach, value + reach, how, confidence, unit, units)


class Means:
    """Means over rows of arrays by name, block by block."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: dict[str, np.ndarray] = {}

    def add(self, columns: Any) -> None:
        """Add the rows of a block."""
        n = len(next(iter(columns.values())))
        for name, rows in columns.items():
            before = self.mean.get(name, 0.0)
            self.mean[name] = before + (rows.mean(axis=0) - before) * (n / (self.n + n))
        self.n += n


def shares(counts: Float64[np.ndarray, " K"], n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the exact (Clopper–Pearson) intervals of probabilities, from how often something happened in n rows."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = np.where(counts > 0, beta.ppf(tail, np.maximum(counts, 1), n - counts + 1), 0.0)
    high = np.where(counts < n, beta.ppf(1 - tail, counts + 1, np.maximum(n - counts, 1)), 1.0)
    return low, high
