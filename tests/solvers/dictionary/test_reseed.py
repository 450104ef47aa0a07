"""Support of atoms, the class of those that memorize, and what takes their place."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxsae import dictionary_path, encode
from cvxsae.solvers.dictionary.reseed import MOST, reseeded, supports, weakly_supported
from tests.solvers.dictionary.test_shrink import match, planted, unit


def test_the_support_of_equal_codes_is_their_number() -> None:
    codes = np.zeros((6, 4))
    codes[:3, 0], codes[5, 1], codes[:, 2] = 0.7, 2.0, 0.1
    np.testing.assert_allclose(supports(sp.csr_array(codes)), [3, 1, 6, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_the_weak_are_a_lower_class_and_never_too_many(seed: int, size: int) -> None:
    support = np.random.default_rng(seed).lognormal(size=size)
    weak = weakly_supported(support)
    assert weak.mean() <= MOST
    if weak.any():
        assert support[weak].max() <= support[~weak].min()


def test_two_classes_are_told_apart_and_one_class_has_no_weak() -> None:
    rng = np.random.default_rng(0)
    support = np.concatenate([rng.uniform(1, 2, 30), rng.uniform(10, 20, 50)])
    np.testing.assert_array_equal(weakly_supported(support), support < 5)
    assert not weakly_supported(np.full(7, 3.0)).any()


def test_memorized_atoms_are_replaced_and_the_others_kept() -> None:
    X, atoms = planted()
    D = np.concatenate([atoms[:12], unit(X[:4])])
    codes = encode(X, D, 0.05, tol=1e-6).codes.tolil()
    codes[4:, 12:] = 0  # the four belong to their datapoint alone
    codes[:4, :12], codes[:4, 12:] = 0, np.eye(4)
    kept = sp.csr_array(codes)
    after = reseeded(X, D, kept, seed=0)
    np.testing.assert_array_equal(after[:12], D[:12])
    left = unit(X - kept[:, :12] @ D[:12])
    for atom in after[12:]:
        assert (left @ atom).max() == pytest.approx(1)
    np.testing.assert_array_equal(after, reseeded(X, D, kept, seed=0))


@pytest.mark.slow
def test_reseeding_never_ends_above_its_first_round() -> None:
    X, atoms = planted(150)
    path = {rounds: dictionary_path(X, 16, (0.1,), bias=None, reseeds=rounds, stationarity=1e-3) for rounds in (1, 5)}
    assert path[5][-1].value <= path[1][-1].value * (1 + 1e-9)
    assert path[5][-1].n_atoms == 16
    assert match(path[5][-1].dictionary, atoms) > 0.8
