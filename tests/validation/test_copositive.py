"""The referee's own check of dual points of large dictionaries: what it proves, refuses and does not use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cvxsae import LargeDictionary, certify, solve
from cvxsae.relaxations import proofs
from cvxsae.relaxations.convex import penalty
from cvxsae.relaxations.proofs import NonnegativeProof, SliceProof, pencil_bound, triple_bound
from cvxsae.validation import copositive
from cvxsae.validation.copositive import check_dual, proved_polar
from tests.helpers import problems

LAM, TAU = 0.3, 5.0


@pytest.fixture(scope="module")
def answer():
    X = problems.clustered(np.random.default_rng(5), 24, 6)
    return solve(LargeDictionary(X, LAM, TAU, bias=None), tol=1e-4, raise_on_failure=False)


def without(answer, **changes):
    return dataclasses.replace(answer, **changes)


def copositive_directions(Y, level):
    """``zᵀMz`` of random ``z ≥ 0``, for M at a level: never negative if the level is above the polar."""
    rng = np.random.default_rng(0)
    z = rng.gamma(0.3, size=(2000, len(Y)))
    return level**2 * (z.sum(axis=1) ** 2 + TAU * (z**2).sum(axis=1)) - np.square(z @ Y).sum(axis=1)


def test_a_true_proof_is_proved_again(answer):
    assert proved_polar(answer.dual, answer.proof, TAU, LAM) <= LAM * (1 + 1e-11)
    check = check_dual(answer.problem, answer)
    assert check.lower_bound == pytest.approx(answer.lower_bound, rel=1e-10)
    assert check.excess <= 1e-11 and check.drift == 0
    assert not [said for said in certify(answer).objections if "gap" not in said]


def spoiled(answer):
    P = answer.proof.P
    negative = P - 0.05 * P.max()
    return {
        "negative entries": NonnegativeProof(negative),
        "one half": NonnegativeProof(np.triu(P)),
        "nothing": NonnegativeProof(0 * P),
        "too much": NonnegativeProof(2 * P + 1e-3),
    }


@pytest.mark.parametrize("kind", ["negative entries", "one half", "nothing", "too much"])
def test_a_false_multiplier_proves_less(answer, kind):
    false = without(answer, proof=spoiled(answer)[kind])
    check = check_dual(answer.problem, false)
    assert check.excess > 1e-6
    assert check.lower_bound < answer.lower_bound * (1 - 1e-7)
    assert any("exceeds its limit" in sentence for sentence in certify(false).objections)


def test_the_lower_half_makes_up_for_the_upper(answer):
    """Only the symmetric part of P counts, so an asymmetric one with the same part proves the same."""
    P = answer.proof.P
    turned = without(answer, proof=NonnegativeProof(2 * np.triu(P, 1) + np.diag(P.diagonal())))
    assert check_dual(answer.problem, turned).excess <= 1e-11


def test_a_longer_dual_point_and_a_smaller_t_are_refused(answer):
    longer = without(answer, dual=1.001 * answer.dual)
    check = check_dual(answer.problem, longer)
    assert 1e-4 < check.excess < 0.1 and check.lower_bound < answer.lower_bound
    assert any("exceeds its limit" in sentence for sentence in certify(longer).objections)
    assert proved_polar(answer.dual, answer.proof, TAU, 0.999 * LAM) > 0.999 * LAM * (1 + 1e-6)


def test_a_proof_of_the_wrong_shape_is_refused(answer):
    for P in (answer.proof.P[:-1, :-1], answer.proof.P[:, :-1]):
        assert certify(without(answer, proof=NonnegativeProof(P))).objections


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none_prove_nothing(answer, bad):
    dual, P = answer.dual.copy(), answer.proof.P.copy()
    dual[3, 2] = P[4, 1] = bad
    assert not proved_polar(dual, answer.proof, TAU, LAM) <= 1
    assert proved_polar(answer.dual, NonnegativeProof(P), TAU, LAM) > LAM
    assert check_dual(answer.problem, without(answer, dual=dual)).lower_bound <= answer.value


def test_it_does_not_ask_the_solvers_proofs(answer, monkeypatch):
    """A solver's proof that says yes to everything is not believed, and one that says no changes nothing."""
    longer = without(answer, dual=1.001 * answer.dual)
    honest = certify(longer)
    for lie in (0.0, 1e9):
        for module in (proofs, penalty):
            monkeypatch.setattr(module, "pencil_bound", lambda *_, told=lie, **__: told)
        for kind in (NonnegativeProof, SliceProof):
            monkeypatch.setattr(kind, "polar_bound", lambda *_, told=lie, **__: told)
        found = certify(longer)
        assert found.lower_bound == honest.lower_bound
        assert found.dual_violation == honest.dual_violation
        assert any("exceeds its limit" in sentence for sentence in found.objections)


@pytest.mark.parametrize("bias", [None, "free"])
def test_both_ways_agree_where_the_proof_is_not_tight(bias, rng):
    problem = LargeDictionary(problems.gaussian(rng, 30, 5), LAM, TAU, bias=bias)
    Y = rng.normal(size=(30, 5))
    Y = Y - Y.mean(axis=0) if bias else Y
    gram = torch.from_numpy(Y @ Y.T)
    P = NonnegativeProof.one_shot(gram.numpy(), 1.0)
    exact = pencil_bound(gram, torch.from_numpy(P.P), TAU, 5)
    found = proved_polar(Y, P, TAU, LAM)
    assert exact * (1 - 1e-9) <= min(found, exact) and found <= max(exact, np.linalg.norm(Y, axis=1).max()) * 1.1
    assert copositive_directions(Y, found).min() >= 0
    assert check_dual(problem, dataclasses.replace(problem.zero_candidate(), dual=Y, proof=P)).lower_bound <= float(
        problem.primal_value(problem.zero_candidate())
    )


def test_without_a_proof_it_makes_one(rng):
    Y = rng.normal(size=(40, 5))
    level = proved_polar(Y, None, TAU, 0.7)
    assert level <= np.linalg.norm(Y, axis=1).max() * (1 + 1e-12)
    assert copositive_directions(Y, level).min() >= 0


def test_slices_are_checked_by_its_own_tensors(rng):
    Y = rng.normal(size=(8, 5))
    gram = torch.from_numpy(Y @ Y.T)
    level = pencil_bound(gram, None, TAU, 5)
    M = level**2 * (1 + TAU * np.eye(8)) - Y @ Y.T
    slices = np.repeat(M[None], 8, axis=0)
    exact = triple_bound(gram, torch.from_numpy(slices), TAU, 5)
    longest = float(np.linalg.norm(Y, axis=1).max())
    assert proved_polar(Y, SliceProof(slices), TAU, 0.1 * level) == pytest.approx(min(exact, longest), rel=1e-9)
    false = slices.copy()
    false[2, 3, 4] -= 5.0
    assert proved_polar(Y, SliceProof(0 * false), TAU, 0.1 * level) <= longest * (1 + 1e-12)
    assert copositive._level_of_slices(Y, false, TAU) > exact
    assert copositive._level_of_slices(Y, -slices, TAU) > exact


def test_the_allowance_for_rounding_is_what_refuses(answer, monkeypatch):
    """At the least eigenvalue itself the factorization is a matter of luck: the allowance must be there, and count."""
    Y = np.zeros((3, 5))
    Y[:, 0] = 1.0  # M = t²(11ᵀ + τI) − 11ᵀ is singular at t² = 3/(3 + τ)
    edge = float(np.sqrt(3 / (3 + TAU)))
    P = NonnegativeProof(np.zeros((3, 3)))
    assert proved_polar(Y, P, TAU, edge) > edge
    assert proved_polar(Y, P, TAU, edge * (1 + 1e-12)) == edge * (1 + 1e-12)
    assert proved_polar(Y, P, TAU, edge * (1 - 1e-12)) > edge * (1 - 1e-12)
