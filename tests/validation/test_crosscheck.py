"""Reference and torch on the same problems: the tolerances that are targets, and a referee between them."""

from __future__ import annotations

import dataclasses
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

from cvxsae import CandidateDictionary, InputError, LargeDictionary, SparseCodes, WideLimit
from cvxsae.validation import crosscheck
from cvxsae.validation.crosscheck import default_tolerance
from tests.helpers import problems
from tests.helpers.interrupts import interrupt_newton

module = importlib.import_module("cvxsae.validation.crosscheck")  # the function has the same name
LAM = 0.3
BIASES = ("none", "fixed", "free")
KINDS = ("random", "clustered")


@pytest.fixture(params=BIASES)
def bias(request):
    return {"none": None, "fixed": 0.2 * np.ones(4), "free": "free"}[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def data(kind, rng, n):
    return (problems.gaussian if kind == "random" else problems.clustered)(rng, n, 4)


def check(problem):
    result = crosscheck(problem)
    assert result.agrees, str(result)
    assert result.tol == default_tolerance(problem)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 40])
def test_wide_limit_to_1e6(kind, bias, n, rng):
    assert abs(check(WideLimit(data(kind, rng, n), LAM, bias=bias)).difference) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 40])
def test_sparse_codes_to_1e6(kind, bias, n, rng):
    result = check(SparseCodes(data(kind, rng, n), rng.normal(size=(10, 4)), LAM, bias=bias))
    assert abs(result.difference) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, 5.0])
def test_candidate_dictionary_to_1e5(kind, bias, tau, rng):
    result = check(CandidateDictionary(data(kind, rng, 30), rng.normal(size=(10, 4)), LAM, tau, bias=bias))
    assert abs(result.difference) <= 1e-5


def check_large(problem):
    """Torch within 2e-2 of the SDP, never below its own bound, its bound never above the SDP."""
    result = check(problem)
    relaxed = result.reference.relaxed_value
    assert relaxed * (1 - 1e-6) <= result.torch.value <= relaxed * (1 + 2e-2)
    assert result.torch.lower_bound <= relaxed * (1 + 1e-7)
    assert result.torch.lower_bound <= result.torch.value
    return result


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_large_dictionary_to_2e2(kind, bias, tau, rng):
    check_large(LargeDictionary(data(kind, rng, 16), LAM, tau, bias=bias))


@pytest.mark.slow
def test_large_dictionary_of_forty_points(rng):
    check_large(LargeDictionary(problems.clustered(rng, 40, 4), LAM, 2.0, bias="free"))


def test_large_dictionary_without_surcharge(kind, bias, rng):
    result = check(LargeDictionary(data(kind, rng, 12), LAM, 0.0, bias=bias))
    assert abs(result.difference) <= 1e-5


# ---------------------------------------------------------------- the result


def test_what_it_tells(rng):
    result = check(SparseCodes(rng.normal(size=(8, 4)), rng.normal(size=(5, 4)), LAM))
    table = result.table()
    assert list(table.index) == ["reference", "torch"]
    assert table.loc["torch", "value"] == pytest.approx(result.torch.value, rel=1e-12)
    assert table.loc["reference", "solver"] == "clarabel"
    assert (table["objections"] == 0).all()
    assert "reference and torch agree" in str(result)
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["agrees"] is True
    assert plain["difference"] == result.difference
    assert set(plain["certificates"]) == {"reference", "torch"}


def test_default_tolerances(rng):
    X = rng.normal(size=(4, 2))
    assert default_tolerance(WideLimit(X, LAM)) == 1e-6
    assert default_tolerance(SparseCodes(X, X, LAM)) == 1e-6
    assert default_tolerance(CandidateDictionary(X, X, LAM, 1.0, bias=None)) == 1e-5
    assert default_tolerance(LargeDictionary(X, LAM, 0.0, bias=None)) == 1e-5
    assert default_tolerance(LargeDictionary(X, LAM, 1.0, bias=None)) == 2e-2


@pytest.mark.slow
def test_zero_data_and_a_penalty_beyond_the_largest(bias):
    X = np.zeros((5, 4))
    for problem in (
        WideLimit(X, LAM, bias=bias),
        SparseCodes(X, np.eye(4), LAM, bias=bias),
        CandidateDictionary(X, np.eye(4), LAM, 1.0, bias=bias),
        LargeDictionary(X, LAM, 1.0, bias=bias),
    ):
        check(problem)
        check(replace(problem, lam=100.0))


# ---------------------------------------------------------------- negative controls


def tampered(monkeypatch, which, change):
    """Let one of the two solvers return something else."""
    honest = module.solved

    def solved(problem, run, *, solver, tol):
        solution = honest(problem, run, solver=solver, tol=tol)
        return change(solution) if solver == which else solution

    monkeypatch.setattr(module, "solved", solved)


@pytest.mark.parametrize("which", ["reference", "torch"])
def test_a_worse_answer_does_not_agree(which, rng, monkeypatch):
    tampered(monkeypatch, which, lambda s: dataclasses.replace(s, codes=1.1 * s.codes))
    result = crosscheck(SparseCodes(rng.normal(size=(8, 4)), rng.normal(size=(5, 4)), LAM))
    assert not result.agrees
    text = str(result)
    assert "DISAGREE" in text
    assert "apart, allowed" in text
    assert f"bound of {which}" in text
    assert (result.difference > 1e-4) == (which == "torch")


def test_a_false_claim_does_not_agree(rng, monkeypatch):
    tampered(monkeypatch, "torch", lambda s: dataclasses.replace(s, value=0.9 * s.value))
    result = crosscheck(WideLimit(rng.normal(size=(8, 4)), LAM))
    assert not result.agrees
    assert "claims the value" in " ".join(result.objections)
    assert abs(result.difference) < 1e-6  # the numbers compared are the referee's


def test_a_loose_bound_is_no_disagreement_and_is_named(rng, monkeypatch):
    loose = {"dual": np.zeros((8, 4)), "lower_bound": 0.0}
    tampered(monkeypatch, "reference", lambda solution: dataclasses.replace(solution, **loose))
    result = crosscheck(SparseCodes(rng.normal(size=(8, 4)), rng.normal(size=(5, 4)), LAM))
    assert result.agrees
    (note,) = result.notes
    assert note.startswith("The bound of reference (clarabel) is loose")
    assert note in str(result)


@pytest.mark.slow
def test_an_exact_answer_does_not_wait_for_a_relaxation(rng):
    """In three dimensions torch closes the gap that the reference's relaxation leaves open."""
    result = crosscheck(LargeDictionary(rng.normal(size=(12, 3)), LAM, 3.0), tol=1e-5)
    assert result.agrees
    assert result.difference > 1e-5
    assert any("reference" in sentence for sentence in result.notes)


def test_what_did_not_end_does_not_agree(rng):
    result = crosscheck(SparseCodes(rng.normal(size=(8, 4)), rng.normal(size=(5, 4)), LAM), max_seconds=1e-9)
    assert not result.agrees
    assert "did not end" in " ".join(result.objections)


@pytest.mark.slow
def test_a_relaxation_above_what_is_attained_does_not_agree(rng, monkeypatch):
    """No dictionary can go below the relaxed value: if one does, one of the two is wrong."""

    def raised(solution):
        return dataclasses.replace(solution, relaxed_value=1.01 * solution.value)

    tampered(monkeypatch, "reference", raised)
    result = crosscheck(LargeDictionary(problems.clustered(rng, 8, 4), LAM, 1.0, bias=None))
    assert not result.agrees
    assert "apart, allowed" in " ".join(result.objections)

    def lowered(solution):
        return dataclasses.replace(solution, relaxed_value=0.5 * solution.value)

    monkeypatch.undo()
    tampered(monkeypatch, "reference", lowered)
    objections = " ".join(crosscheck(LargeDictionary(problems.clustered(rng, 8, 4), LAM, 1.0, bias=None)).objections)
    assert "lower bound of torch" in objections
    assert "exceeds" in objections


@pytest.mark.slow
def test_a_tighter_tolerance_can_be_asked_for(rng):
    problem = LargeDictionary(problems.gaussian(rng, 12, 3), LAM, 5.0, bias=None)
    assert not crosscheck(problem, tol=1e-12).agrees
    with pytest.raises(InputError, match="tol is 0"):
        crosscheck(problem, tol=0.0)


def test_too_large_for_the_reference(rng):
    with pytest.raises(InputError, match="would need"):
        crosscheck(LargeDictionary(rng.normal(size=(200, 3)), LAM, 1.0, bias=None))


def test_an_interrupt_is_no_comparison(rng, monkeypatch):
    X = problems.gaussian(rng, 40, 5)
    interrupt_newton(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        crosscheck(WideLimit(X, LAM))
