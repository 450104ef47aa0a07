"""Rows set aside."""

import numpy as np
import pytest

from cvxsae.data.splits import document_labels, split_rows
from tests.helpers.sentences import rejects


def test_rows_are_on_one_side_each():
    split = split_rows(100, 0)
    assert sorted([*split.train, *split.held_out]) == list(range(100))
    assert len(split.held_out) == 25 and split.unit == "row"
    assert "25 of 100 rows are held out, by row" in str(split)
    np.testing.assert_array_equal(split.held_out, split_rows(100, 0).held_out)
    assert not np.array_equal(split.held_out, split_rows(100, 1).held_out)


def test_documents_are_whole():
    names = np.array(["b", "a", "c", "d"]).repeat(7)[np.random.default_rng(0).permutation(28)]
    split = split_rows(28, 3, groups=names)
    assert not set(names[split.train]) & set(names[split.held_out])
    assert len(split.held_out) == 7 and split.unit == "document"
    assert split.train_groups is not None and set(split.train_groups) == {0, 1, 2}
    assert split.held_out_groups is not None and set(split.held_out_groups) == {0}


@pytest.mark.parametrize(
    ("given", "word"),
    [(np.zeros(3), "shape"), (np.zeros(4), "holds float64"), ([1, None, 2, 3], "holds object")],
)
def test_labels_that_are_none(given, word):
    with rejects(f"groups.*{word}"):
        document_labels(given, 4)


def test_too_few_to_hold_out():
    with rejects("X"):
        split_rows(4, 0, groups=["one"] * 4)
    with rejects("held_out"):
        split_rows(4, 0, share=1.0)


def test_a_small_share_sets_one_unit_aside_and_a_large_one_leaves_one():
    assert len(split_rows(10, 0, share=0.01).held_out) == 1
    assert len(split_rows(10, 0, share=0.99).train) == 1
