"""Rows that are said to be held out are not among those that something is learned from."""

import numpy as np
import pytest

import cvxsae
from cvxsae.data import sparse_features
from cvxsae.data.activations import Activations
from cvxsae.data.overlap import require_apart, shared_rows
from cvxsae.population import population_gap
from cvxsae.sae import train_sae
from tests.helpers.sentences import rejects

X = np.asarray(sparse_features(60, 4, 8, seed=0, noise=0.1).X)
OTHERS = np.asarray(sparse_features(40, 4, 8, seed=1, noise=0.1).X)
MIXED = np.concatenate([OTHERS, X[:10]])


def test_rows_are_counted_whatever_their_order_sign_of_zero_and_precision():
    rows = np.array([[0.0, 1.0], [2.0, 3.0], [0.1, 0.2]])
    other = np.array([[0.1, 0.2], [-0.0, 1.0], [1.0, 0.0], [0.1, 0.2]])
    assert shared_rows(Activations(rows), Activations(other)) == 3
    assert shared_rows(Activations(rows), Activations(other.astype(np.float32))) == 3
    assert shared_rows(Activations(other), Activations(rows)) == 2


def test_a_few_are_announced_none_is_silent_and_half_are_refused():
    assert require_apart(Activations(X), Activations(OTHERS), "held_out") is None
    assert "10 of the 50 held-out rows" in (require_apart(Activations(X), Activations(MIXED), "held_out") or "")
    with rejects("held_out holds 10 rows of 20 that are learned from"):
        require_apart(Activations(X), Activations(MIXED[-20:]), "held_out")


@pytest.fixture(scope="module")
def sae():
    return train_sae(X, 5, lam=0.1, steps=30)


@pytest.mark.slow
def test_an_audit_notices_rows_that_are_held_out_in_name_only(sae, tmp_path):
    with rejects("held_out holds 60 rows of 60 that are learned from"):
        cvxsae.audit(X, sae, held_out=X.copy())
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    with rejects("held_out holds 60 rows of 60 that are learned from"):
        cvxsae.audit(X, sae, held_out=tmp_path / "X.npy")
    notes = cvxsae.audit(X, sae, held_out=MIXED).ledger.notes
    assert any("10 of the 50 held-out rows are equal to rows that are learned from" in note for note in notes)
    assert not any("has not seen them" in note for note in notes)


def test_learning_and_comparing_notice_it_too(tmp_path):
    with rejects("validation holds 60 rows of 60 that are learned from"):
        cvxsae.learn_dictionary(X, 5, 0.1, validation=X[::-1].copy())
    with rejects("held_out holds 60 rows of 60 that are learned from"):
        cvxsae.compare(X, (2,), 0.1, held_out=X.copy(), folder=tmp_path / "comparison")
    fit = cvxsae.learn_dictionary(X, 5, 0.1, validation=MIXED, max_steps=3)
    assert fit.held_out is not None
    assert "10 of the 50 held-out rows are equal" in fit.held_out.announced


def test_a_population_gap_says_which_rows_chose_the_dictionary_and_what_is_presumed():
    fit = cvxsae.learn_dictionary(X, 5, 0.1, validation=OTHERS, max_steps=3)
    found = population_gap(OTHERS, fit, n_atoms=None, batch=10)
    assert any("40 of 40 rows are equal to rows by which the dictionary was chosen" in note for note in found.notes)
    found = population_gap(OTHERS, (fit.dictionary, fit.bias), 0.1, n_atoms=None, batch=10)
    assert any("not known here: that X holds none of them is presumed" in note for note in found.notes)
