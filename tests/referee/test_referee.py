"""The referee catches every kind of false claim, and finds none in a sample of drawn problems."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import cvxsae
from tests.helpers.problems import unit
from tests.referee import ask
from tests.referee.draw import KINDS, draw
from tests.referee.exact import is_positive_semidefinite, root, whole
from tests.referee.judge import beaten, judge, judge_rows
from tests.referee.mathematics import Case, _slices_prove, objective

LAM = 0.3


def solved(kind, rng, bias="free", tau=2.0, n=8, d=4, k=6):
    X, atoms = rng.normal(size=(n, d)), unit(rng.normal(size=(k, d)))
    problem = {
        "wide": lambda: cvxsae.WideLimit(X, LAM, bias=bias),
        "codes": lambda: cvxsae.SparseCodes(X, atoms, LAM, bias=bias),
        "candidates": lambda: cvxsae.CandidateDictionary(X, atoms, LAM, tau, bias=bias),
        "large": lambda: cvxsae.LargeDictionary(X, LAM, tau, bias=bias),
    }[kind]()
    tau = tau if kind in ("candidates", "large") else 0.0
    case = Case(kind, X, LAM, tau, atoms if kind in ("codes", "candidates") else None, bias)
    return case, ask.answer_of(cvxsae.solve(problem, tol=1e-3, raise_on_failure=False))


SPOILED = {
    "value": lambda a: replace(a, value=a.value * (1 - 1e-9)),
    "gap": lambda a: replace(a, gap=a.gap / 2 - 1e-12),
    "bound": lambda a: replace(a, lower_bound=a.lower_bound + 1e-9 * a.value, gap=a.gap - 1e-9),
    "status": lambda a: replace(a, status="CERTIFIED", tol=0.5 * a.gap),
    "dual": lambda a: replace(a, dual=a.dual * (1 + 1e-9)),
    "drift": lambda a: replace(a, dual=a.dual + 1e-9),
    "codes": lambda a: replace(a, codes=a.codes - 1e-9),
    "bias": lambda a: replace(a, bias=a.bias * np.nan),
    "dictionary": lambda a: replace(a, dictionary=a.dictionary * (1 + 1e-9)),
    "shape": lambda a: replace(a, codes=a.codes[1:]),
}


@pytest.mark.parametrize("kind", ["wide", "codes", "candidates", pytest.param("large", marks=pytest.mark.slow)])
def test_every_spoiled_claim_is_caught(kind, rng):
    case, answer = solved(kind, rng)
    assert judge(case, answer).false == ()
    for name, spoil in SPOILED.items():
        if kind == "large" and name == "dual":
            continue  # its polar is a bound, with room above it: see below
        assert judge(case, spoil(answer)).false, name


def test_the_given_bias_and_atoms_are_held_to(rng):
    case, answer = solved("codes", rng, bias=None)
    assert judge(case, answer).false == ()
    assert judge(replace(case, bias=np.ones(4)), answer).false
    assert judge(replace(case, atoms=case.atoms[::-1]), answer).false
    assert judge(case, replace(answer, bias=np.full(4, 1e-300))).false


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 5])
def test_a_proof_of_copositivity_is_needed(d, rng):
    """A dual point beyond the polar is refused whatever proves it, and one inside it needs no honest P."""
    case, answer = solved("large", rng, d=d, bias=None)
    assert judge(case, answer).false == ()
    assert judge(case, replace(answer, dual=answer.dual * 1.1)).false
    forged = {"P": np.full((8, 8), 10.0)}
    assert judge(case, replace(answer, dual=answer.dual * 1.1, proof=forged)).false


def test_slices_prove_and_forged_slices_do_not(rng):
    """``M = S + P`` is proved by N times the slice S, for a positive semidefinite S; and no slices prove more."""
    B, P = rng.normal(size=(5, 2)), rng.random((5, 5))
    S, P = B @ B.T, P + P.T
    slices = np.tile(S, (5, 1, 1))
    shift, (M, s) = whole(S + P, S)
    assert _slices_prove(M, shift, slices)
    assert _slices_prove(s + int(s.max()) // 10**9 * np.eye(5, dtype=object), shift, slices)
    assert not _slices_prove(M - 2 * int(M.max()) * np.eye(5, dtype=object), shift, slices)
    assert not _slices_prove(M, shift, slices + 2 * float(np.max(S + P)))


def test_rows_of_codes_are_held_to_their_gaps(rng):
    X, atoms = rng.normal(size=(6, 3)), unit(rng.normal(size=(5, 3)))
    codes = cvxsae.encode(X, atoms, LAM, tol=1e-6, engine="torch")
    answer, gaps, values = ask.answer_of(codes), codes.gaps, codes.values
    assert judge_rows(X, LAM, answer, gaps, values) == []
    worse = cvxsae.encode(X, atoms, LAM, tol=0.5, engine="torch")
    loose = ask.answer_of(worse)
    assert judge_rows(X, LAM, loose, np.full(6, -1e-6), worse.values)
    assert judge_rows(X, LAM, answer, gaps, values * (1 + 1e-9))
    assert judge_rows(X, LAM, replace(answer, status="CERTIFIED"), np.full(6, 1e-3), values)


def test_a_floor_above_a_dictionary_is_caught():
    assert beaten(1.0 + 1e-9, Fraction(1))
    assert not beaten(1.0, Fraction(1))


def test_exact_arithmetic(rng):
    """Against closed forms: C7 of identical points, roots, and matrices on the edge of the cone."""
    X = np.tile([[3.0, 4.0]], (4, 1))
    z = np.full((4, 1), 5 - np.sqrt(6) / 2)
    best = float(objective(X, np.zeros(2), np.array([[0.6, 0.8]]), z, 1.0, 2.0))
    assert best * 4 == pytest.approx(5 * np.sqrt(4 * 6) - 6 / 2)
    assert abs(root(Fraction(2)) ** 2 - 2) < Fraction(1, 2**150)
    for exponent in (-100, 0, 100):
        s, (a,) = whole(rng.normal(size=5) * 10.0**exponent)
        assert all(Fraction(int(v), 1 << s) > 0 or v <= 0 for v in a)
    for null in (1, -1, 0):
        B = np.array([[int(v) for v in row] for row in np.round(8 * rng.normal(size=(4, 3)))], dtype=object)
        gram = B.dot(B.T)
        gram[0, 0] += null
        singular_on_the_edge = null >= 0
        assert is_positive_semidefinite(gram) is singular_on_the_edge


def test_problems_are_those_of_their_seed():
    first, again = draw(3, 17), draw(3, 17)
    assert first.story == again.story
    np.testing.assert_array_equal(first.given, again.given)
    assert {draw(0, index).kind for index in range(200)} == set(KINDS)


def test_an_exception_and_a_false_claim_are_told_apart_from_a_refusal(monkeypatch):
    def refuse(drawn, outcome):
        raise cvxsae.InputError("X is empty; pass some.")

    def fail(drawn, outcome):
        raise ZeroDivisionError("none")

    for ask_for, is_false in ((refuse, False), (fail, True)):
        monkeypatch.setattr(ask, "_ASK", dict.fromkeys(KINDS, ask_for))
        assert bool(ask.referee(0, 0).false) is is_false


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_no_claim_is_false_in_a_sample(first):
    for index in range(first, first + 20):
        outcome = ask.referee(0, index)
        assert not outcome.false, (index, outcome.story, outcome.false)
