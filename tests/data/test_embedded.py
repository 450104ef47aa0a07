"""Data sets that come with a wheel."""

import importlib.util
import sys

import numpy as np
import pytest

from cvxsae import Activations
from cvxsae.data import EMBEDDED_NAMES, digits, embedded, wordllama
from tests.helpers.sentences import rejects


def test_wordllama():
    X = wordllama()
    assert X.shape == (32_000, 256)
    assert X.dtype == np.float16
    data = Activations(X)
    np.testing.assert_array_equal(data[:100].tensor.numpy(), X[:100])
    assert "wordllama" not in sys.modules


@pytest.mark.slow
def test_digits():
    X = digits()
    assert X.shape == (1797, 64)
    assert X.min() == 0
    assert X.max() == 16


def test_embedded_by_name():
    assert EMBEDDED_NAMES == ("wordllama", "digits")
    np.testing.assert_array_equal(embedded("digits"), digits())
    with rejects("name is 'mnist'; choose one of wordllama, digits"):
        embedded("mnist")


def test_absent_wheels(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for name in EMBEDDED_NAMES:
        with rejects(rf"the data set '{name}' is not installed; `pip install cvxsae\[data\]` brings it"):
            embedded(name)
