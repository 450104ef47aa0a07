"""Files with one label a row: what an editor or a spreadsheet adds must not make other documents."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cvxsae import InputError
from cvxsae.data.labels import labels_in
from cvxsae.data.splits import document_labels, split_rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", b"a\na\nb\nb"),
        ("windows.txt", b"a\r\na\r\nb\r\nb\r\n"),
        ("marked.txt", b"\xef\xbb\xbfa\na\nb\nb\n"),
        ("marked.csv", b'\xef\xbb\xbf"a"\r\na\r\n"b"\r\nb\r\n'),
        ("blanks.txt", b"a\na \n b\nb\t\n"),
        ("plain.tsv", b"a\na\nb\nb\n"),
    ],
)
def test_documents_are_those_that_were_meant(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    np.testing.assert_array_equal(document_labels(labels_in(file, "groups"), 4), [0, 0, 1, 1])


def test_first_row_of_a_marked_file_stays_with_its_document(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("".join(f"{row // 3}\n" for row in range(12)), encoding="utf-8-sig")
    documents = np.arange(12) // 3
    for seed in range(8):
        split = split_rows(12, seed, groups=labels_in(file, "groups"))
        assert not set(documents[split.train]) & set(documents[split.held_out])


def test_commas_and_separators_of_lines_within_labels_of_text(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("a, b\nc\u2028d\n", encoding="utf-8")
    assert labels_in(file, "groups").tolist() == ["a, b", "c\u2028d"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("two.csv", "0,a\n1,a\n2,b\n", "has 2 columns in line 1"),
        ("two.tsv", "a\n0\ta\n", "has 2 columns in line 2"),
        ("gap.txt", "a\n\nb\n", "has no label in line 2"),
        ("end.csv", "a\nb\n\n", "has no label in line 3"),
        ("blank.tsv", "a\n\t\n", "has no label in line 2"),
    ],
)
def test_lines_that_are_not_one_label_are_refused(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(said)):
        labels_in(file, "groups")


def test_an_empty_file_has_no_labels(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("", encoding="utf-8")
    assert labels_in(file, "groups").shape == (0,)
