"""Intervals of means: against a peer, against their definitions, and by simulation where the truth is known."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS

from cvxsae.statistics.estimates import Moments
from cvxsae.statistics.means import bounded_mean, certified_interval, mean_interval, ratio_interval

LEVEL = 0.95

REPETITIONS = 300

LEAST_COVERAGE = 0.93
"""Of 300 intervals announced at 95 %: two standard errors below are 92.5 %."""


def test_rows_are_those_of_statsmodels():
    values = np.random.default_rng(0).exponential(size=57)
    peer = OLS(values, np.ones(57)).fit()
    found = mean_interval(values, LEVEL)
    assert (found.low, found.high) == pytest.approx(tuple(peer.conf_int(1 - LEVEL)[0]), rel=1e-12)
    assert (found.unit, found.n_units, found.confidence) == ("row", 57, LEVEL)


def test_documents_are_those_of_statsmodels():
    rng = np.random.default_rng(1)
    groups = np.sort(rng.integers(0, 23, size=400))
    values = rng.standard_normal(400) + rng.standard_normal(23)[groups]
    peer = OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    found = mean_interval(values, LEVEL, groups=groups)
    small_sample = np.sqrt(399 / 400)  # theirs has (N − 1)/(N − K) beside G/(G − 1)
    half = (found.high - found.low) / 2
    assert half * small_sample == pytest.approx(np.diff(peer.conf_int(1 - LEVEL)[0])[0] / 2 * small_sample, rel=1e-12)
    assert (found.unit, found.n_units) == ("document", 23)


def test_a_limit_is_the_interval_of_twice_the_error():
    values = np.random.default_rng(2).standard_normal(30)
    two_sided, lower = mean_interval(values, 0.9), mean_interval(values, LEVEL, side="lower")
    assert lower.low == pytest.approx(two_sided.low, rel=1e-12) and lower.high == np.inf


def _draw(rng: np.random.Generator, n_documents: int = 40, size: int = 25, share: float = 0.3):
    """Rows with mean 1 whose correlation within documents is ``share``."""
    groups = np.repeat(np.arange(n_documents), size)
    common, own = rng.standard_normal(n_documents)[groups], rng.standard_normal(len(groups))
    return 1 + np.sqrt(share) * common + np.sqrt(1 - share) * own, groups


def test_documents_cover_and_rows_do_not():
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    for _ in range(REPETITIONS):
        values, groups = _draw(rng)
        for which, labels in enumerate((groups, None)):
            found = mean_interval(values, LEVEL, groups=labels)
            hits[which] += found.low <= 1 <= found.high
    assert hits[0] / REPETITIONS >= LEAST_COVERAGE
    assert hits[1] / REPETITIONS < 0.75  # the negative control: rows of one document are not independent


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_bounded_limits_cover_at_small_counts(side):
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(REPETITIONS):
        found = bounded_mean(rng.random(8) ** 4, (0.0, 1.0), LEVEL, side=side)
        hits += found.low <= 1 / 5 <= found.high
    assert hits / REPETITIONS >= LEAST_COVERAGE


def test_bounded_limit_is_the_formula():
    values = np.array([0.1, 0.4, 0.2, 0.9])
    log = np.log(2 / 0.05)
    low = values.mean() - np.sqrt(2 * np.var(values, ddof=1) * log / 4) - 7 * log / (3 * 3)
    assert bounded_mean(values, (-5.0, 1.0), LEVEL, side="lower").low == pytest.approx(max(-5.0, low - 5 * 7 * log / 9))


def test_what_is_not_known_of_the_numbers_is_inside():
    upper = np.random.default_rng(5).random(50)
    lower = upper - 0.2
    found = certified_interval(lower, upper, LEVEL)
    assert found.value == upper.mean()
    assert found.low == mean_interval(lower, LEVEL).low and found.high == mean_interval(upper, LEVEL).high


def test_one_unit_has_no_interval():
    found = mean_interval(np.ones(5), LEVEL, groups=np.zeros(5, dtype=int))
    assert np.isnan(found.low) and found.n_units == 1 and not found.excludes_zero


def test_a_ratio_of_sums_is_the_mean_of_rows_in_documents():
    rng = np.random.default_rng(6)
    groups = np.sort(rng.integers(0, 17, size=300))
    values = rng.exponential(size=300) + rng.exponential(size=17)[groups]
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    found, peer = ratio_interval(sums, sizes, LEVEL), mean_interval(values, LEVEL, groups=groups)
    assert (found.value, found.low, found.high) == pytest.approx((peer.value, peer.low, peer.high), rel=1e-12)
    assert found.unit == "batch" and "ratio" in found.method


def test_a_ratio_of_batches_of_one_size_is_students_interval_of_their_mean():
    floors = np.random.default_rng(7).exponential(size=9)
    found, peer = (
        ratio_interval(5.0 * floors, np.full(9, 5), LEVEL, side="lower"),
        mean_interval(floors, LEVEL, side="lower"),
    )
    assert (found.value, found.low) == pytest.approx((peer.value, peer.low), rel=1e-12)
    assert found.high == np.inf and "ratio" not in found.method
    alone = ratio_interval(np.array([6.0]), np.array([3]), LEVEL)
    assert alone.value == 2.0 and np.isnan(alone.low) and alone.n_units == 1


def test_limits_from_batches_of_documents_cover_where_a_mean_of_batches_does_not():
    """Long documents have small values, so that the mean over batches is above that of a row."""
    rng, hits = np.random.default_rng(8), np.zeros(2)
    truth = (0.5 * 2 * 3.0 + 0.5 * 20 * 1.0) / 11  # half of the documents have 2 rows of mean 3, half 20 of mean 1
    for _ in range(REPETITIONS):
        is_long = rng.random((12, 5)) < 0.5
        sizes = np.where(is_long, 20, 2)
        sums = sizes * (np.where(is_long, 1.0, 3.0) + 0.3 * rng.standard_normal((12, 5)))
        batches = ratio_interval(sums.sum(axis=1), sizes.sum(axis=1), LEVEL, side="lower")
        hits += (
            batches.low <= truth,
            mean_interval(sums.sum(axis=1) / sizes.sum(axis=1), LEVEL, side="lower").low <= truth,
        )
    assert hits[0] / REPETITIONS >= LEAST_COVERAGE
    assert hits[1] / REPETITIONS < 0.9  # the negative control


def test_moments_over_documents_are_the_intervals_of_the_mean_and_ratio_of_documents():
    """What metrics and frontiers of an audit with documents say; row by row they would claim too much."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), [3, 5, 2, 7, 4, 4, 6, 9])
    a = 0.2 * rng.standard_normal(len(groups)) + rng.standard_normal(8)[groups]
    b = 2 + a**2
    moments, rows = Moments(("a", "b"), groups), Moments(("a", "b"))
    for start in range(0, len(a), 7):
        for one in (moments, rows):
            one.add({"a": a[start : start + 7], "b": b[start : start + 7]})
    found, known = moments.average("a", 0.9), mean_interval(a, 0.9, groups=groups)
    assert (found.unit, found.n_units) == ("document", 8)
    np.testing.assert_allclose([found.value, found.low, found.high], [known.value, known.low, known.high])
    ratio, R = moments.ratio("a", "b", 0.9), a.mean() / b.mean()
    off = np.bincount(groups, a - R * b) / b.mean() / len(a)
    reach = stats.t.ppf(0.95, 7) * np.sqrt(8 / 7 * off @ off)
    np.testing.assert_allclose([ratio.value, ratio.low, ratio.high], [R, R - reach, R + reach])
    assert found.high - found.low > 2 * (rows.average("a", 0.9).high - rows.average("a", 0.9).low)
