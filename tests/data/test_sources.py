"""Batches of n datapoints from any source: which rows come, what is asked of the source, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvxsae import Activations
from cvxsae.data import row_batches
from tests.helpers.sentences import rejects

X = np.arange(60, dtype=np.float32).reshape(20, 3)


@given(cuts=st.lists(st.integers(0, 20), max_size=5), size=st.integers(1, 25), skip=st.integers(0, 25))
def test_every_row_comes_once_and_in_order(cuts, size, skip):
    batches = row_batches(iter(np.split(X, sorted(cuts))), size, skip=skip)
    found = list(batches)
    whole = max(0, 20 - skip) // size
    assert all(batch.shape == (size, 3) and batch.dtype is torch.float32 for batch in found)
    assert len(found) == whole
    rest = X[min(skip, 20) :]
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *found]), rest[: whole * size])
    assert batches.remainder == len(rest) - whole * size
    assert batches.position == min(skip, 20) + whole * size
    assert next(batches, None) is None


@pytest.mark.parametrize("kind", ["array", "tensor", "path", "activations", "function", "list of batches", "rows"])
def test_sources_of_every_kind(tmp_path, kind):
    np.save(tmp_path / "X.npy", X)
    source = {
        "array": X,
        "tensor": torch.from_numpy(X),
        "path": tmp_path / "X.npy",
        "activations": Activations(X),
        "function": lambda: iter([X[:9], X[9:]]),
        "list of batches": [X[:9], X[9:]],
        "rows": X.tolist(),
    }[kind]
    for skip in (0, 3, 7):
        batches = row_batches(source, 6, skip=skip)
        np.testing.assert_array_equal(np.concatenate(list(batches)), X[skip:][: (20 - skip) // 6 * 6])
        assert batches.remainder == (20 - skip) % 6


def test_an_endless_source_is_asked_for_no_more_than_is_needed_and_may_reuse_its_buffer():
    asked = itertools.count()

    def endless():
        buffer = np.empty((4, 2))
        for n in asked:
            buffer[:] = n
            yield buffer

    batches = row_batches(endless(), 6)
    assert next(asked) == 0  # nothing was asked before
    first, second = next(batches), next(batches)
    assert first[:, 0].tolist() == [1, 1, 1, 1, 2, 2]
    assert second[:, 0].tolist() == [2, 2, 3, 3, 3, 3]
    assert next(asked) == 4
    first[:] = np.nan  # each is in memory of its own
    again = row_batches(endless(), 6, skip=batches.position)
    assert next(again)[:, 0].tolist() == [8, 8, 8, 8, 9, 9]


def test_what_is_refused_and_when():
    def after_one(bad):
        batches = row_batches(iter([X, bad]), 20)
        next(batches)
        return batches

    broken = X.copy()
    broken[7, 1] = np.nan
    for bad, message in {
        "dimension": (X[:, :2], r"source \(batch 1\) has dimension 2 but the first has 3"),
        "dtype": (X.astype(np.float64), r"source \(batch 1\) is float64 but the first is float32"),
        "shape": (X[0], r"source \(batch 1\) has shape \(3,\)"),
        "numbers": (broken, r"source \(batch 1\) holds 1 NaN or infinite value\(s\), the first in row 7"),
        "kind": ("text", r"source \(batch 1\) is a str"),
    }.values():
        with rejects(message):
            next(after_one(bad))
    with rejects("size is 0"):
        row_batches(X, 0)
    with rejects("skip is -1"):
        row_batches(X, 1, skip=-1)
