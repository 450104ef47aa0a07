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

BATCHES = "t interval of a mean of batches"
"""Of a number of each of several independent batches of one size."""

RATIO_OF_BATCHES = "t interval of a ratio of sums over batches, linearized"
"""The same where sizes differ: batches of whole documents."""

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
        One number per row, (N,).
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


def ratio_interval(
    sums: Float64[np.ndarray, " m"],
    sizes: Int64[np.ndarray, " m"],
    confidence: float,
    *,
    side: Side = "both",
    unit: str = "batch",
) -> Estimate:
    """``E[sum]/E[size]`` from independent batches of several sizes, with Student's t interval.

    Batches of whole documents have different sizes n_S, and what is asked for is a mean of *rows*: for a loss ℓ it is
    ``E[Σ_{n in document} ℓ_n] / E[rows of a document]``. Let S be q independent documents and ``f_S`` a number that is
    below ``(1/n_S) Σ_{n∈S} ℓ_n`` (a floor of the batch). Then ``n_S f_S ≤ Σ_{n∈S} ℓ_n`` for every S; expectations of
    both sides give ``E[n_S f_S] ≤ q E[Σ_document ℓ]``, and division by ``E[n_S] = q E[rows of a document]``

        ``ρ = E[n_S f_S]/E[n_S]  ≤  E[Σ_document ℓ]/E[rows of a document]``                                  (T17 d)

    whatever f_S has to do with n_S. So a lower limit of ρ is one of the mean loss. The mean ``E f_S`` of floors would
    not do: where long documents lose less, it is above. ρ is estimated by ``R = Σ n_S f_S / Σ n_S``, for which

        ``R − ρ = Σ_S (n_S f_S − ρ n_S) / Σ_S n_S``,

    the terms of the numerator are independent with mean zero, and ``Σ n_S / m → E[n_S]``. So R is asymptotically normal
    with variance ``s²/(m n̄²)``, s² the sample variance of ``n_S f_S − R n_S``. Sizes that are all the same give the
    ordinary t interval of the mean of the f_S.

    Parameters
    ----------
    sums
        ``n_S f_S`` of each batch, (m,).
    sizes
        ``n_S``, (m,): rows of each batch, one or more.
    confidence
        How often such intervals are to hold, between 0 and 1.
    side
        ``"both"``, or ``"lower"`` or ``"upper"`` for a limit whose other end is infinite.
    unit
        What the batches are called.

    Returns
    -------
    Estimate
        Its value is R. Without an interval where there are fewer than two batches.
    """
    m, total = len(sums), float(sizes.sum())
    R = float(sums.sum()) / total
    if m < 2:
        return Estimate(R, unit=unit, n_units=m)
    off: Float64[np.ndarray, " m"] = sums - R * sizes
    error = float(np.sqrt(float(off @ off) * m / (m - 1))) / total
    method = BATCHES if (sizes == sizes[0]).all() else RATIO_OF_BATCHES
    return _around(R, error, m - 1, confidence, side, (method, unit))


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
