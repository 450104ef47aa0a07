"""F of two dictionaries on the same datapoints, and along the path between them: which is better, and by how much.

Everything is evaluated at exact codes with their certificates. What holds for the given datapoints is kept apart from
what holds for the distribution they were drawn from (T17).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.diagnostics.matching.way import Aligned, End, coded, verdict, way
from cvxsae.relaxations.candidate import Candidate
from cvxsae.validation.claims import stationarity

if TYPE_CHECKING:
    from cvxsae.data.activations import Activations
    from cvxsae.diagnostics.matching.assignment import Assignment
    from cvxsae.diagnostics.matching.way import Placed, Questions, Verdict, Way
    from cvxsae.parallel.context import Run
    from cvxsae.solvers.codes.result import Codes

CONFIDENCE = 0.95
"""Confidence of the interval for the distribution."""


@dataclass(frozen=True)
class Difference:
    """``F(A) − F(B)`` on the same datapoints, exact codes for both; in units of (P).

    Attributes
    ----------
    n_points
        Datapoints.
    value_a, value_b
        F(A) and F(B) on them, attained by codes.
    gap_a, gap_b
        Relative duality gap of those codes: F is between ``value · (1 − gap)`` and ``value``.
    low, high
        What ``F(A) − F(B)`` on these datapoints is between: certified, nothing is sampled.
    """

    n_points: int
    value_a: float
    value_b: float
    gap_a: float
    gap_b: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedEstimate:
    """``F(A) − F(B)`` over the distribution, from paired differences on datapoints that neither was fitted to (T17).

    Attributes
    ----------
    unit, n_units
        What was taken to be drawn independently, and how many there were.
    mean
        Mean difference.
    low, high
        Student's t interval of :data:`CONFIDENCE` for it, widened by what the codes are inexact. It is approximate:
        it relies on the mean over units being close to normal. Infinite for one unit.
    """

    unit: str
    n_units: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Between:
    """Which of two dictionaries is better on data, and what lies between them. Values are in units of (P).

    Attributes
    ----------
    lam
        Penalty λ.
    rows
        On the given datapoints: a statement about these, certified.
    held_out
        The same on datapoints that neither dictionary was fitted to; None without.
    distribution
        What those say about the distribution; None without: of datapoints that a dictionary was fitted to nothing
        follows, as its value there is too low by what it memorized.
    stationarity_a, stationarity_b
        Largest ``‖E_k[r]/λ − d_k‖`` over live atoms on ``rows`` (T3): zero at an optimum for these rows.
    way
        F between them on ``rows``.
    verdict
        One of :data:`~cvxsae.diagnostics.matching.way.VERDICTS`, about ``rows`` and the way that was looked at.
    is_complete
        Whether there was time for codes within their tolerance everywhere and for all of the way.
    """

    lam: float
    rows: Difference
    held_out: Difference | None
    distribution: PairedEstimate | None
    stationarity_a: float
    stationarity_b: float
    way: Way
    verdict: Verdict
    is_complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        found = asdict(self)
        found["way"] |= {"barrier": list(self.way.barrier), "change": list(self.way.change)}
        return found


def between(A: Placed, B: Placed, found: Assignment, asked: Questions, run: Run) -> Between:
    """Evaluate F at both and on the way. Past the deadline points of the way are left out; an interrupt passes."""
    codes = _both(A, B, asked.rows, asked, run)
    held_out = distribution = None
    others = codes
    if asked.held_out is not None:
        if asked.held_out is not asked.rows:
            others = _both(A, B, asked.held_out, asked, run)
        held_out, distribution = _difference(*others), _estimate(*others, asked.units)
    sides = Aligned.both(found)
    start, end = (
        End(side, side.place(place), side.codes(own.codes), own)
        for side, place, own in zip(sides, (A, B), codes, strict=True)
    )
    found_way = way(start, end, asked, run)
    return Between(
        lam=asked.lam,
        rows=_difference(*codes),
        held_out=held_out,
        distribution=distribution,
        stationarity_a=_worst(codes[0]),
        stationarity_b=_worst(codes[1]),
        way=found_way,
        verdict=verdict(found_way) if all(bool(one.done.all()) for one in codes) else "undecided",
        is_complete=found_way.is_complete and all(bool(one.done.all()) for one in (*codes, *others)),
    )


# ------------------------------------------------------------------------------------------------------ its parts


def _both(A: Placed, B: Placed, rows: Activations, asked: Questions, run: Run) -> tuple[Codes, Codes]:
    return coded(A.problem(rows, asked.lam), asked, run), coded(B.problem(rows, asked.lam), asked, run)


def _difference(a: Codes, b: Codes) -> Difference:
    return Difference(
        n_points=a.n_points,
        value_a=a.value,
        value_b=b.value,
        gap_a=a.gap,
        gap_b=b.gap,
        low=a.lower_bound - b.value,
        high=a.value - b.lower_bound,
    )


def _estimate(a: Codes, b: Codes, units: np.ndarray | None) -> PairedEstimate:
    """The mean difference as a ratio of sums over units: units may have different numbers of rows."""
    from scipy import stats

    differences, n = a.values - b.values, len(a.values)
    owner = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
    sums, sizes = np.bincount(owner, weights=differences), np.bincount(owner)
    count, mean = len(sums), float(differences.mean())
    low, high = -math.inf, math.inf
    if count > 1:
        error = math.sqrt(count / (count - 1) * float(np.square(sums - mean * sizes).sum())) / n
        reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        low, high = mean - reach, mean + reach
    return PairedEstimate(
        unit="row" if units is None else "unit",
        n_units=count,
        mean=mean,
        low=low - (a.value - a.lower_bound),
        high=high + (b.value - b.lower_bound),
    )


def _worst(codes: Codes) -> float:
    """Largest distance of a live atom from what T3 asks of it."""
    arrays = Candidate(bias=codes.bias, dictionary=codes.dictionary, codes=codes.codes)
    return float(np.nanmax(stationarity(codes.problem, arrays)[0], initial=0))
