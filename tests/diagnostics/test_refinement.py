"""Refinement and splits for arrays of any kind; tests/relaxations/joint/test_refinement.py has the mathematics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import InputError, encode
from cvxsae.diagnostics import best_new_atoms, feature_statistics, refinement_gain, split_atom, split_scores


@pytest.fixture
def case(rng):
    X, D = rng.normal(size=(60, 4)), rng.normal(size=(3, 4))
    found = feature_statistics(X, D, 0.2)
    return X, D, found.codes.codes, found.residuals.numpy()


def test_arrays_of_any_kind_give_numpy(case):
    _, D, Z, R = case
    expected = split_scores(R, Z, D)
    for residuals, codes, atoms in (
        (torch.from_numpy(R), Z, torch.from_numpy(D)),
        (R.tolist(), Z.toarray(), (3 * D).tolist()),
        (np.asfortranarray(R), sp.coo_array(Z), D),
    ):
        for found, due in zip(split_scores(residuals, codes, atoms), expected, strict=True):
            assert isinstance(found, np.ndarray)
            np.testing.assert_allclose(found, due, rtol=1e-9, atol=1e-12)
    new, gains = best_new_atoms(R.tolist(), 0.2)
    assert isinstance(new, np.ndarray)
    np.testing.assert_allclose(refinement_gain(torch.from_numpy(R), 0.2, 5 * new), gains, rtol=1e-6)
    assert gains.max() > 0


def test_what_they_promise_is_attained(case):
    X, D, Z, R = case
    value = encode(X, D, 0.2, tol=1e-10).value
    new, gains = best_new_atoms(R, 0.2)
    best = int(gains.argmax())
    assert encode(X, np.vstack([D, new[best]]), 0.2, tol=1e-10).value <= value - gains[best] * (1 - 1e-6)
    scores, directions = split_scores(R, Z, D, atoms=[1])
    wider = split_atom(D, 1, directions[0], 1e-4)
    assert (value - encode(X, wider, 0.2, tol=1e-12).value) / 1e-4 == pytest.approx(scores[0], rel=2e-2)


def test_nothing_to_gain_is_nothing():
    new, gains = best_new_atoms(0.1 * np.eye(3), 0.2)
    assert new.shape == (0, 3)
    assert gains.shape == (0,)


def test_what_they_refuse(case):
    _, D, Z, R = case
    for call, message in (
        (lambda: split_scores(R, Z[:5], D), "codes has shape"),
        (lambda: split_scores(R, Z, D, atoms=[7]), "atoms is 7 and there are 3"),
        (lambda: split_atom(D, 9, D[0], 0.1), "atom is 9"),
        (lambda: best_new_atoms(R, 0), "lam"),
        (lambda: refinement_gain(R, 0.2, np.ones((2, 3))), "dimension 4"),
    ):
        with pytest.raises(InputError, match=message):
            call()
