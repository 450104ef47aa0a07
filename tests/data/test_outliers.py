"""Rows of far larger norm than most: which they are, what is said of them, and the data without them."""

import numpy as np
import pytest
import torch

from cvxsae import Activations
from cvxsae.data import Outliers, find_outliers, outlier_note, without_outliers
from tests.helpers.sentences import rejects


@pytest.fixture(name="X")
def data_with_sinks(rng):
    X = rng.standard_normal((300, 8)).astype(np.float32)
    X[[7, 200]] *= 100
    return X


def test_known_rows_are_found(X):
    found = find_outliers(X)
    norms = np.linalg.norm(X.astype(np.float64), axis=1)
    assert found.rows.tolist() == [7, 200]
    np.testing.assert_allclose(found.norms, norms[[7, 200]], rtol=1e-14)
    assert found.median == pytest.approx(np.median(norms), rel=1e-14)
    assert (found.n_points, found.ratio, found.share) == (300, 10.0, 2 / 300)
    assert found.largest_ratio == pytest.approx(norms.max() / np.median(norms))
    np.testing.assert_array_equal(find_outliers(X, 1.5).rows, np.flatnonzero(norms >= 1.5 * np.median(norms)))


def test_the_rest_is_the_data_without_them(tmp_path, X):
    np.save(tmp_path / "X.npy", X)
    for given in (X, tmp_path / "X.npy", Activations(X)[:], torch.from_numpy(X)):
        rest, gone = without_outliers(given)
        np.testing.assert_array_equal(rest.tensor.numpy(), np.delete(X, [7, 200], axis=0))
        assert gone.rows.tolist() == [7, 200]
        assert rest.dtype is torch.float32
        Activations(rest)


def test_data_without_outliers_stay_what_they_are(X):
    clean = Activations(np.delete(X, [7, 200], axis=0))
    rest, gone = without_outliers(clean)
    assert rest.tensor.data_ptr() == clean.tensor.data_ptr()
    assert len(gone.rows) == 0
    assert gone.largest_ratio == 0
    assert outlier_note(clean) is None


def test_what_is_said_is_one_sentence(X):
    assert str(find_outliers(X)).startswith("2 of 300 rows (0.0067) have a norm of at least 10 times the median ")
    assert str(find_outliers(X)).endswith("(rows 7, 200).")
    assert str(find_outliers(X[:100])).startswith("1 of 100 rows (0.01) has a norm of ")
    assert str(find_outliers(X[:7])).startswith("None of 7 rows has a norm of at least 10 times the median ")
    note = outlier_note(X)
    assert note is not None
    assert note.endswith("(rows 7, 200); kept, as without_outliers or --drop-outliers would leave them out.")
    many = Outliers(np.arange(9), np.full(9, 50.0), 1.0, 10.0, 100)
    assert str(many).endswith("(rows 0, 1, 2, 3, 4, ...).")


def test_data_that_are_mostly_zero_have_none():
    X = np.zeros((9, 2))
    X[0] = 1
    assert find_outliers(X).rows.tolist() == []


@pytest.mark.parametrize("ratio", [1.0, 0.5, -1.0, np.nan])
def test_ratios_that_cannot_be(X, ratio):
    with rejects("ratio is "):
        without_outliers(X, ratio)


def test_an_outlier_has_at_least_so_many_times_the_median():
    """Ten times the median is one, a bit less is none."""
    X = np.array([[1.0], [-1.0], [1.0], [10.0], [np.nextafter(10.0, 0.0)]])
    assert find_outliers(X).rows.tolist() == [3]
