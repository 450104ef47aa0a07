"""Rows set aside: a search that memorizes is ended, what is best on them is returned, and nothing else changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import cvxsae
from cvxsae import Status, certify, dictionary_path, grow, learn_dictionary, shrink
from cvxsae.data.splits import split_rows
from cvxsae.population import evaluate
from cvxsae.solvers.dictionary.spheres import unit
from cvxsae.solvers.dictionary.watching import EVERY
from tests.helpers.interrupts import interrupt_codes
from tests.helpers.sentences import rejects

K, D, LAM = 20, 12, 0.05


def planted(seed: int, n: int) -> np.ndarray:
    """Rows of one distribution: 20 features in 12 dimensions, and noise that few rows invite to memorize."""
    truth = unit(np.random.default_rng(0).standard_normal((K, D)))
    rng = np.random.default_rng(seed)
    codes = rng.uniform(0.5, 1.5, (n, K)) * (rng.random((n, K)) < 0.1)
    return codes @ truth + 0.2 * rng.standard_normal((n, D))


X, HELD_OUT, THIRD = planted(1, 40), planted(2, 120), planted(3, 1000)


def learned(**options: Any) -> Any:
    return learn(X, K, LAM, **{"bias": None, "max_steps": 45, **options})


learn: Any = learn_dictionary  # what is optional in a fit is there in most tests; mypy need not be told each time


def alike(one: Any, other: Any) -> None:
    """The same but for codes that were made exact twice."""
    np.testing.assert_allclose(one.dictionary, other.dictionary, atol=1e-6)
    assert one.value == pytest.approx(other.value, rel=1e-7) and one.status is other.status
    np.testing.assert_allclose(one.validation.values, other.validation.values, rtol=1e-5)


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.dictionary, other.dictionary)
    np.testing.assert_array_equal(one.bias, other.bias)
    assert one.value == other.value and one.status is other.status
    if one.validation is not None:
        np.testing.assert_array_equal(one.validation.values, other.validation.values)


@pytest.fixture(scope="module")
def without() -> Any:
    return learned()


@pytest.fixture(scope="module")
def watched() -> Any:
    return learned(validation=HELD_OUT)


@pytest.mark.slow
def test_what_memorizes_is_stopped_and_is_better_on_rows_that_neither_taught_nor_chose(without, watched):
    seen = [(record.iteration, record.held_out) for record in watched.history if record.held_out is not None]
    values = [value for _, value in seen]
    assert min(values) < values[0] and min(values) < values[-1]  # it falls, then rises
    sample = [record.value for record in without.history]
    assert all(after <= before for before, after in pairwise(sample))  # there it only falls
    assert watched.status is Status.EARLY_STOPPED and not watched.is_certified and not watched.status.is_success
    assert len(watched.history) < len(without.history)
    assert watched.validation.value == pytest.approx(min(values), rel=1e-6)
    assert watched.value > without.value
    on_third = [evaluate(THIRD, fit.dictionary, LAM) for fit in (without, watched)]
    assert on_third[0].minus(on_third[1]).low > 0
    # The negative control: on their own rows it is the other way round.
    own = [evaluate(X, fit.dictionary, LAM) for fit in (without, watched)]
    assert own[0].value < own[1].value


def test_what_is_returned_is_certified_like_any_other(watched):
    report = certify(watched)
    assert not report.objections
    assert watched.encoding.gap <= 1e-9
    found = evaluate(HELD_OUT, watched.dictionary, LAM, tol=1e-9)
    assert (watched.validation.lower <= found.values * (1 + 1e-9)).all()
    assert (found.lower <= watched.validation.values * (1 + 1e-9)).all()
    # The formula in plain numpy, with codes made elsewhere.
    residual = HELD_OUT - cvxsae.encode(HELD_OUT, watched.dictionary, LAM, tol=1e-9).codes @ watched.dictionary
    codes = cvxsae.encode(HELD_OUT, watched.dictionary, LAM, tol=1e-9).codes
    plain = 0.5 * (residual**2).sum(axis=1) + LAM * np.asarray(codes.sum(axis=1)).ravel()
    np.testing.assert_allclose(watched.validation.values, plain, rtol=2e-6)
    mean = watched.validation.mean
    assert mean.unit == "row" and mean.n_units == len(HELD_OUT) and mean.low < mean.value < mean.high
    assert watched.to_dict()["validation"]["value"] == mean.value
    assert "held-out F" in repr(watched) and "rows set aside" in watched.message and "evaluate" in watched.remedy


def test_without_validation_nothing_is_different_and_the_search_is_the_same_until_it_ends(without, watched):
    assert without.validation is None and without.held_out is None
    assert all(record.held_out is None for record in without.history)
    steps = len(watched.history)
    assert [r.value for r in watched.history] == [r.value for r in without.history[:steps]]
    assert "validation" not in without.to_dict()


@pytest.mark.slow
def test_patience_decides_how_long_no_decrease_is_borne():
    ends = [len(learned(validation=HELD_OUT, patience=patience).history) for patience in (1, 3)]
    assert ends[1] - ends[0] == 2 * EVERY


def test_a_share_is_the_same_as_the_rows_it_stands_for():
    split = split_rows(len(HELD_OUT), 4, share=0.25)
    share = learn(HELD_OUT, 8, LAM, validation=0.25, seed=4, max_steps=12)
    given = learn(HELD_OUT[split.train], 8, LAM, validation=HELD_OUT[split.held_out], seed=4, max_steps=12)
    same(share, given)
    np.testing.assert_array_equal(share.held_out.rows, split.held_out)
    assert given.held_out.rows is None and "30 of 120 rows are held out, by row" in share.held_out.announced
    assert share.problem.n_points == 90


def test_documents_stay_together_and_are_the_units():
    labels = np.repeat(np.arange(12), 10).astype(str)
    fit = learn(HELD_OUT, 8, LAM, validation=0.25, validation_groups=labels, max_steps=5)
    assert len(np.unique(labels[fit.held_out.rows])) == 3 and len(fit.held_out.rows) == 30
    assert fit.validation.mean.unit == "document" and fit.validation.mean.n_units == 3


@pytest.mark.slow
@pytest.mark.parametrize("steps", [7, 23])
def test_a_search_that_goes_on_ends_where_an_undisturbed_one_does(tmp_path, watched, steps):
    learned(validation=HELD_OUT, folder=tmp_path, max_steps=steps)
    rest = learned(validation=HELD_OUT, folder=tmp_path)
    alike(rest, watched)
    again = learned(validation=HELD_OUT, folder=tmp_path)
    assert len(again.history) == 1
    alike(again, rest)


@pytest.mark.slow
def test_stochastic_rounds_are_watched_and_gone_on_from(tmp_path):
    rows, aside = planted(5, 2100), planted(6, 200)
    options: dict[str, Any] = {"bias": None, "epochs": 3, "max_steps": 18, "validation": aside}
    whole = learn(rows, 8, LAM, **options)
    seen = [record.iteration for record in whole.history if record.held_out is not None]
    assert seen[:3] == [0, 10, 13]  # two passes of five minibatches, an exact pass of three
    learn(rows, 8, LAM, **{**options, "max_steps": 11}, folder=tmp_path)
    alike(learn(rows, 8, LAM, **{**options, "max_steps": 7}, folder=tmp_path), whole)


@pytest.mark.slow
def test_an_end_by_steps_or_ctrl_c_still_returns_the_best_seen(monkeypatch):
    few = learned(validation=HELD_OUT, max_steps=28)
    assert few.status is Status.MAX_ITER
    values = [record.held_out for record in few.history if record.held_out is not None]
    assert few.validation.value == pytest.approx(min(values), rel=1e-6)

    def press(record: Any) -> None:
        if record.iteration == 28:
            raise KeyboardInterrupt

    pressed = learned(validation=HELD_OUT, callback=press)
    assert pressed.status is Status.INTERRUPTED
    np.testing.assert_array_equal(pressed.dictionary, few.dictionary)


def test_an_interrupt_before_there_is_anything_passes_through(monkeypatch):
    interrupt_codes(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        learned(validation=HELD_OUT)


def test_time_that_is_over_at_once_leaves_a_true_answer():
    fit = learned(validation=HELD_OUT, max_seconds=1e-3)
    assert fit.status is Status.TIME_LIMIT
    exact = evaluate(HELD_OUT, fit.dictionary, LAM, tol=1e-9)
    assert (fit.validation.lower <= exact.values * (1 + 1e-9)).all()
    assert (exact.lower <= fit.validation.values * (1 + 1e-9)).all()


@pytest.mark.slow
def test_other_widths_keep_the_rows_set_aside_unless_told_otherwise(watched):
    verbs: tuple[Any, Any] = grow, shrink
    wider = verbs[0](watched, K + 4, max_steps=6)
    assert wider.held_out.X.shape == HELD_OUT.shape and wider.validation.n_points == len(HELD_OUT)
    assert wider.validation.value <= watched.validation.value * (1 + 1e-9)  # it starts from there
    narrower = verbs[1](watched, K - 4, max_steps=6)
    assert narrower.validation.n_points == len(HELD_OUT)
    assert verbs[0](watched, K + 1, max_steps=1, validation=None).validation is None
    assert verbs[1](watched, K - 1, max_steps=1, validation=THIRD[:50]).validation.n_points == 50
    assert verbs[0](watched, K + 1, max_steps=1, patience=2).held_out.patience == 2
    for verb, width in ((grow, K + 1), (shrink, K - 1)):
        with rejects("validation is 0.2, a share of rows that the fit has learned from"):
            verb(watched, width, validation=0.2)


@pytest.mark.slow
def test_a_path_evaluates_every_fit_and_takes_it_up_again(tmp_path):
    options: dict[str, Any] = {"bias": None, "validation": HELD_OUT, "stationarity": 1e-1, "folder": tmp_path}
    fits: Any = dictionary_path(X, 10, (0.4, 0.2), reseeds=1, **options)
    assert all(fit.validation.n_points == len(HELD_OUT) for fit in fits) and len(fits) == 3
    again = dictionary_path(X, 10, (0.4, 0.2), reseeds=1, **options)
    for one, other in zip(fits, again, strict=True):
        alike(one, other)
    with rejects("folder"):
        dictionary_path(X, 10, (0.4, 0.2), reseeds=1, **{**options, "validation": None})


def test_a_folder_of_other_rows_or_patience_is_another_search(tmp_path):
    learned(validation=HELD_OUT, folder=tmp_path, max_steps=1)
    for other in ({"validation": HELD_OUT[:-1]}, {"validation": HELD_OUT, "patience": 2}, {}):
        with rejects("folder"):
            learned(folder=tmp_path, max_steps=1, **other)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a share of one": ({"validation": 1.0}, "validation is 1; as a share"),
    "a negative share": ({"validation": -0.1}, "validation is -0.1"),
    "another width": ({"validation": np.ones((5, 3))}, "validation has 3 columns and X has 12"),
    "not finite": ({"validation": np.full((5, D), np.nan)}, "validation"),
    "the data themselves": ({"validation": X}, "validation is X itself"),
    "a flag": ({"validation": True}, "validation"),
    "too few labels": ({"validation": HELD_OUT, "validation_groups": [1, 2]}, "validation_groups has shape"),
    "labels of nothing": ({"validation_groups": [1, 2]}, "validation_groups is given without validation"),
    "patience with nothing": ({"patience": 3}, "patience is given without validation"),
    "no patience": ({"validation": HELD_OUT, "patience": 0}, "patience is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_in_one_sentence(case):
    options, said = BAD[case]
    with rejects(said):
        learned(**options)
