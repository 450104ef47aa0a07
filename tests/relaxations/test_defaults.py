"""Defaults that agree: the bias is free wherever it can be optimized, so floors and values are comparable."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest

from cvxsae import (
    CandidateDictionary,
    InputError,
    JointProblem,
    LargeDictionary,
    SparseCodes,
    WideLimit,
    learn_dictionary,
    solve,
    width_floor,
)


@pytest.mark.parametrize("problem", [WideLimit, LargeDictionary, CandidateDictionary, JointProblem])
def test_the_bias_is_free_wherever_it_can_be_optimized(problem):
    bias = inspect.signature(problem).parameters["bias"]
    assert bias.default == "free"
    assert bias.kind is inspect.Parameter.KEYWORD_ONLY


def test_the_bias_of_a_given_dictionary_is_not():
    bias = inspect.signature(SparseCodes).parameters["bias"]
    assert bias.default is None
    assert bias.kind is inspect.Parameter.KEYWORD_ONLY


def test_free_atoms_that_cost_nothing_are_the_wide_limit_by_default(rng):
    X = rng.normal(5, 1, size=(40, 4))
    wide, large = solve(WideLimit(X, 0.5)), solve(LargeDictionary(X, 0.5, 0.0))
    assert large.value == pytest.approx(wide.value, rel=1e-6)


@pytest.mark.slow
def test_the_default_floor_is_below_the_default_dictionary(rng):
    """On N(5, 1) a floor for a bias of zero is above what a dictionary with a free one attains."""
    X = rng.normal(5, 1, size=(60, 4))
    fit = learn_dictionary(X, 3, 0.5, max_seconds=5)
    assert width_floor(X, 3, 0.5).value <= fit.value
    assert solve(WideLimit(X, 0.5)).lower_bound <= fit.value


def test_another_problem_is_made_by_replace_and_checked_like_the_first(rng):
    X, rows = rng.normal(size=(6, 3)), 2 * rng.normal(size=(4, 3))
    for problem in (
        SparseCodes(X, rows, 0.3, bias=X[0]),
        CandidateDictionary(X, rows, 0.3, 1.0),
        LargeDictionary(X, 0.3, 1.0),
        WideLimit(X, 0.3),
        JointProblem(X, 4, 0.3),
    ):
        other = replace(problem, lam=0.4)
        assert other.lam == 0.4
        assert other.X.tensor.data_ptr() == problem.X.tensor.data_ptr()
        for name in {field.name for field in fields(problem)} - {"X", "lam"}:
            np.testing.assert_array_equal(getattr(other, name), getattr(problem, name))
        with pytest.raises(InputError, match="lam is -1"):
            replace(problem, lam=-1)
        with pytest.raises(InputError, match="bias has shape"):
            replace(problem, bias=np.zeros(7))  # type: ignore[arg-type]
