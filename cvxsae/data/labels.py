"""Files that say which document each row belongs to, with one label per row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data.arguments import existing_file
from cvxsae.data.atomic import shown
from cvxsae.data.files import read_array
from cvxsae.errors import InputError

if TYPE_CHECKING:
    import os

TEXT = (".txt", ".csv", ".tsv")
"""Files that are read as one label per line."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""What stands between the columns of a table; there, a label may be in quotes."""


def labels_in(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """The labels in a file: one per line of a text file, else the entries of an array; never unpickled.

    A label of a text file is what stands in its line between blanks, so that blanks at its end make no other document.

    Parameters
    ----------
    path
        A text file (``.txt``, ``.csv``, ``.tsv``), or what :func:`~cvxsae.data.files.read_array` reads
        (``"file.npz::key"`` picks an array).
    name
        What messages call it.

    Raises
    ------
    InputError
        If the file is missing or cannot be read, a line holds no label, or a table has several columns.
    """
    if "::" in str(path):
        return np.asarray(read_array(path, name))
    file = existing_file(path, name)
    if file.suffix not in TEXT:
        return np.asarray(read_array(file, name))
    try:
        text = file.read_text(encoding="utf-8-sig")  # a mark of the byte order would make a document of the first row
    except UnicodeDecodeError:
        raise InputError(f"{name} {shown(file)} is not UTF-8; save it so, or as a .npy file.") from None
    except OSError as error:
        raise InputError(f"{name} {shown(file)} cannot be read ({error.strerror}); pass another file.") from None
    return np.array(_labels(text.removesuffix("\n").split("\n") if text else [], file, name), dtype=np.str_)


def _labels(lines: list[str], file: Path, name: str) -> list[str]:
    """The label in each line."""
    separator, labels = SEPARATORS.get(file.suffix), list[str]()
    for number, line in enumerate(lines, start=1):
        # Two columns, read as one label, would make a document of every row.
        columns = [line] if separator is None or not line.strip() else next(csv.reader([line], delimiter=separator))
        if len(columns) > 1:
            raise InputError(
                f"{name} {shown(file)} has {len(columns)} columns in line {number}; pass a file with the labels alone."
            )
        labels.append(columns[0].strip())
        if not labels[-1]:
            raise InputError(f"{name} {shown(file)} has no label in line {number}; pass one label a line, one a row.")
    return labels
