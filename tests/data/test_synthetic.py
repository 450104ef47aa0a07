"""Made-up data: the truth it claims is the truth, and a seed is a seed."""

from functools import partial

import numpy as np
import pytest

from cvxsae import Activations
from cvxsae.data import (
    FOUR_FEATURES,
    TWENTY_FEATURES,
    Feature,
    circle_feature,
    clustered,
    dense_signed_feature,
    duplicated_rows,
    hierarchy,
    sparse_features,
)
from tests.helpers.sentences import rejects

MADE = {
    "sparse_features": partial(sparse_features, 300, 20, 50, noise=0.1, bias_norm=2.0),
    "orthogonal": partial(sparse_features, 300, 20, 20, orthogonal=True),
    "hierarchy": partial(hierarchy, 300, 50, TWENTY_FEATURES, noise=0.1, bias_norm=2.0),
    "dense_signed_feature": partial(dense_signed_feature, 300, 20, n_sparse=19, noise=0.1, bias_norm=2.0),
    "gaussian": partial(dense_signed_feature, 300, 20, levels=None),
    "circle_feature": partial(circle_feature, 300, 20, radius=3.0, noise=0.1, bias_norm=2.0),
    "duplicated_rows": partial(duplicated_rows, 30, 20, copies=10, bias_norm=2.0),
    "clustered": partial(clustered, 300, 20, 7, noise=0.1, bias_norm=2.0),
}
every = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
ARRAYS = ("X", "dictionary", "codes", "bias", "noise", "parents")


@every
def test_truth(make):
    made = make(seed=3)
    assert np.array_equal(made.X, made.codes @ made.dictionary + made.bias + made.noise)
    np.testing.assert_allclose(np.linalg.norm(made.dictionary, axis=1), 1, rtol=1e-14)
    assert (made.codes >= 0).all()
    assert made.X.shape == made.noise.shape == (300, made.dictionary.shape[1])
    assert made.codes.shape == (300, len(made.dictionary))
    assert np.linalg.norm(made.bias) == pytest.approx(make.keywords.get("bias_norm", 0.0))
    scatter = make.keywords.get("noise", 0.0)
    assert made.noise.std() == pytest.approx(scatter, rel=0.1, abs=1e-12)
    assert made.name == make.func.__name__
    assert made.seed == 3
    assert Activations(made.X).shape == made.X.shape


@every
def test_seeds(make):
    state = str(np.random.get_state())  # noqa: NPY002
    one, again, other = make(seed=5), make(seed=5), make(seed=6)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.X, other.X)
    assert str(np.random.get_state()) == state  # noqa: NPY002


def test_sparse_features_fire_independently():
    made = sparse_features(40_000, 8, 4, seed=0, probability=0.2, strength=(1.0, 3.0))
    active = made.codes > 0
    np.testing.assert_allclose(active.mean(0), 0.2, atol=0.01)
    np.testing.assert_allclose((active[:, 0] & active[:, 1]).mean(), 0.04, atol=0.005)
    strengths = made.codes[active]
    assert strengths.min() >= 1
    assert strengths.max() <= 3
    assert strengths.mean() == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("make", [MADE["orthogonal"], MADE["hierarchy"]], ids=["orthogonal", "hierarchy"])
def test_orthogonal_atoms(make):
    dictionary = make(seed=1).dictionary
    np.testing.assert_allclose(dictionary @ dictionary.T, np.eye(len(dictionary)), atol=1e-13)


def test_four_features():
    made = hierarchy(60_000, 50, FOUR_FEATURES, seed=0)
    active = made.codes > 0
    np.testing.assert_array_equal(made.parents, [-1, 0, -1, -1])
    np.testing.assert_allclose(active.mean(0), [0.25, 0.05, 0.05, 0.05], atol=0.005)
    assert not (active[:, 1] & ~active[:, 0]).any()
    assert set(np.unique(made.codes)) == {0.0, 1.0}


def test_twenty_features():
    made = hierarchy(60_000, 50, TWENTY_FEATURES, seed=0)
    active = made.codes > 0
    np.testing.assert_array_equal(made.parents, [-1, 0, 0, 0, -1, 4, 4, 4, -1, 8, 8, 8, *8 * [-1]])
    for parent in (0, 4, 8):
        children = active[:, parent + 1 : parent + 4]
        assert active[:, parent].mean() == pytest.approx(0.15, abs=0.006)
        np.testing.assert_allclose(children[active[:, parent]].mean(0), 0.2, atol=0.015)
        assert not children[~active[:, parent]].any()
        assert children.sum(1).max() == 1
    np.testing.assert_allclose(active[:, 12:].mean(0), 0.05, atol=0.005)
    assert np.abs(np.corrcoef(active[:, 12:].T) - np.eye(8)).max() < 0.02


def test_children_of_children():
    chain = (Feature(0.5, children=(Feature(0.5, children=(Feature(0.5),)), Feature(1.0))),)
    made = hierarchy(20_000, 6, chain, seed=0)
    np.testing.assert_array_equal(made.parents, [-1, 0, 1, 0])
    np.testing.assert_allclose((made.codes > 0).mean(0), [0.5, 0.25, 0.125, 0.5], atol=0.015)


def test_dense_signed_feature_is_case_c8():
    made = dense_signed_feature(3, 5, seed=0)
    u = made.dictionary[0]
    np.testing.assert_array_equal(made.dictionary[1], -u)
    np.testing.assert_allclose(np.sort(made.X @ u), [-1, 0, 1], atol=1e-14)
    lam = 0.1
    residual = made.X - np.maximum(made.codes - lam, 0) @ made.dictionary
    cost = 0.5 * (residual**2).sum() + lam * np.maximum(made.codes - lam, 0).sum()
    assert cost == pytest.approx(0.19)


def test_dense_signed_feature_takes_both_signs():
    made = dense_signed_feature(999, 10, seed=0, n_sparse=4)
    assert [int((made.X @ made.dictionary[0]).round(9).tolist().count(level)) for level in (-1, 0, 1)] == [333] * 3
    assert not (made.codes[:, 0] * made.codes[:, 1]).any()
    gaussian = dense_signed_feature(20_000, 2, seed=0, levels=None)
    assert (gaussian.X @ gaussian.dictionary[0]).std() == pytest.approx(1, abs=0.02)


def test_circle():
    made = circle_feature(1000, 6, seed=0, radius=2.0)
    np.testing.assert_allclose(np.linalg.norm(made.X, axis=1), 2, rtol=1e-13)
    assert np.linalg.matrix_rank(made.X) == 2
    assert (np.count_nonzero(made.codes, axis=1) <= 2).all()
    even = circle_feature(8, 6, seed=0, even=True)
    cosines = np.round(even.X @ even.X[0], 12)
    np.testing.assert_allclose(cosines, np.cos(2 * np.pi * np.arange(8) / 8), atol=1e-12)


def test_duplicates_are_bit_for_bit():
    made = duplicated_rows(5, 4, copies=6, seed=0)
    rows, counts = np.unique(made.X, axis=0, return_counts=True)
    assert len(rows) == 5
    np.testing.assert_array_equal(counts, 6)
    assert not np.array_equal(made.X[0], made.X[1]) or not np.array_equal(made.X[1], made.X[2])


def test_clusters_are_equally_large():
    made = clustered(100, 4, 8, seed=0)
    assert set(np.count_nonzero(made.codes, axis=0)) == {12, 13}
    np.testing.assert_array_equal(np.count_nonzero(made.codes, axis=1), 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (partial(sparse_features, 0, 2, 2), "n_points is 0; it must be a whole number"),
        (partial(sparse_features, 2, 0, 2), "dim is 0"),
        (partial(sparse_features, 2, 2, 0), "n_features is 0"),
        (partial(sparse_features, 2, 2, 3, orthogonal=True), "3 orthogonal atoms do not fit in dimension 2"),
        (partial(sparse_features, 2, 2, 2, probability=1.5), "probability is 1.5; it must be at most 1"),
        (partial(sparse_features, 2, 2, 2, strength=(2.0, 1.0)), r"strength is \(2, 1\)"),
        (partial(sparse_features, 2, 2, 2, strength=(-1.0, 1.0)), "strength is -1; it must be zero or more"),
        (partial(sparse_features, 2, 2, 2, noise=-1.0), "noise is -1"),
        (partial(sparse_features, 2, 2, 2, bias_norm=np.nan), "bias_norm is nan"),
        (partial(hierarchy, 2, 2, ()), "features is empty"),
        (partial(hierarchy, 2, 2, FOUR_FEATURES), "4 orthogonal atoms do not fit"),
        (partial(dense_signed_feature, 2, 2, levels=()), "levels is empty"),
        (partial(dense_signed_feature, 2, 2, n_sparse=2), "3 orthogonal atoms do not fit"),
        (partial(circle_feature, 2, 1), "dim is 1; it must be a whole number of at least 2"),
        (partial(circle_feature, 2, 2, radius=0.0), "radius is 0"),
        (partial(duplicated_rows, 2, 2, copies=0), "copies is 0"),
        (partial(clustered, 2, 2, 0), "n_clusters is 0"),
    ],
)
def test_bad_arguments(make, message):
    with rejects(message):
        make(seed=0)


def test_bad_features():
    with rejects("probability is 1.2; it must be at most 1"):
        Feature(1.2)
    with rejects("children that exclude each other have probabilities adding up to 1.2"):
        Feature(0.5, children=(Feature(0.6), Feature(0.6)), exclusive=True)
