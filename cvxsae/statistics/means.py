"""Intervals and limits of the mean of a distribution, from independent rows or from independent documents of rows.

Rows of one document are not independent. Where ``groups`` says which rows belong together, documents are the units: the
mean of rows is a ratio of two means over documents (sums over counts), and its variance that of the residual sums
``Σ_{n in document} (v_n − mean)`` (theory.md T17 d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cvxsae.statistics.estimates import MEAN, Estimate

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

Side = Literal["both", "lower", "upper"]
"""Which ends of an interval are finite: both, or the one of a lower or upper confidence limit."""

DOCUMENTS = "t interval of a ratio of document sums, linearized"
"""How intervals over documents are made."""

BERNSTEIN = "empirical Bernstein limit (Maurer and Pontil 2009), for numbers in a known range"
"""Valid at every number of units, whatever the distribution."""


def mean_interval(
    values: Float64[np.ndarray, " N"],
    confidence: float,
    *,
    groups: Int64[np.ndarray, " N"] | None = None,
    side: Side = "both",
) -> Estimate:
    """The mean of independent rows, or of rows in independent documents, with Student's t interval.

    Parameters
    ----------
    values
        One number a row, (N,).
    confidence
        How often such intervals are to hold, between 0 and 1.
    groups
        Which document each row is of, (N,): integers from 0, as :func:`cvxsae.data.splits.document_labels` gives them;
        None if rows are independent.
    side
        ``"both"``, or ``"lower"`` or ``"upper"`` for a limit whose other end is infinite.

    Returns
    -------
    Estimate
        Without an interval where there are fewer than two units.
    """
    mean, n = float(values.mean()), len(values)
    sums: Float64[np.ndarray, " m"] = values - mean
    method, unit = MEAN, "row"
    if groups is not None:
        sums, method, unit = np.bincount(groups, sums), DOCUMENTS, "document"
    units = len(sums)
    if units < 2:
        return Estimate(mean, unit=unit, n_units=units)
    error = float(np.sqrt(float(sums @ sums) * units / (units - 1))) / n
    return _around(mean, error, units - 1, confidence, side, (method, unit))


def bounded_mean(
    values: Float64[np.ndarray, " m"],
    within: tuple[float, float],
    confidence: float,
    *,
    side: Side = "both",
    unit: str = "row",
) -> Estimate:
    """The mean of independent numbers that are known to lie in a range: empirical Bernstein.

    With probability ``1 − δ`` the mean of the distribution is not below
    ``mean − √(2 s² ln(2/δ)/m) − 7 (high − low) ln(2/δ)/(3 (m − 1))``, s² the sample variance; likewise above. A limit
    to both sides is two of them at δ/2. Ends are cut to the range.
    """
    mean, m, (low, high) = float(values.mean()), len(values), within
    if m < 2:
        return Estimate(mean, unit=unit, n_units=m)
    delta = (1 - confidence) / (2 if side == "both" else 1)
    log = float(np.log(2 / delta))
    reach = float(np.sqrt(2 * values.var(ddof=1) * log / m)) + 7 * (high - low) * log / (3 * (m - 1))
    ends = (max(low, mean - reach), min(high, mean + reach))
    return Estimate(mean, *_open(ends, side), BERNSTEIN, confidence, unit, m)


def certified_interval(
    lower: Float64[np.ndarray, " N"],
    upper: Float64[np.ndarray, " N"],
    confidence: float,
    *,
    groups: Int64[np.ndarray, " N"] | None = None,
    side: Side = "both",
) -> Estimate:
    """The mean of numbers that are known to lie between ``lower`` and ``upper``, row by row (certified codes).

    The value is the mean of ``upper``, which is attained; the ends are those of the two bounds' own intervals, so that
    what is not known of the numbers is inside.
    """
    below = mean_interval(lower, confidence, groups=groups, side=side)
    above = mean_interval(upper, confidence, groups=groups, side=side)
    return Estimate(above.value, below.low, above.high, above.method, above.confidence, above.unit, above.n_units)


def _around(mean: float, error: float, freedom: int, confidence: float, side: Side, how: tuple[str, str]) -> Estimate:
    from scipy.stats import t

    level = (1 + confidence) / 2 if side == "both" else confidence
    reach = float(t.ppf(level, freedom)) * error
    return Estimate(mean, *_open((mean - reach, mean + reach), side), how[0], confidence, how[1], freedom + 1)


def _open(ends: tuple[float, float], side: Side) -> tuple[float, float]:
    """An interval of which one end may be infinite."""
    low, high = ends
    return (-np.inf if side == "upper" else low), (np.inf if side == "lower" else high)
