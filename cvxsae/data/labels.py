"""Files that say which document each row is of: one label a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data.arguments import existing_file
from cvxsae.data.atomic import shown
from cvxsae.data.files import read_array
from cvxsae.errors import InputError

if TYPE_CHECKING:
    import os

TEXT = (".txt", ".csv", ".tsv")
"""Files that are read as one label a line."""


def labels_in(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """The labels in a file: one a line of a text file, else the entries of an array; never unpickled.

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
        If the file is missing or cannot be read.
    """
    if "::" in str(path):
        return np.asarray(read_array(path, name))
    file = existing_file(path, name)
    if file.suffix not in TEXT:
        return np.asarray(read_array(file, name))
    try:
        return np.array(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{name} {shown(file)} is not UTF-8; save it so, or as a .npy file.") from None
    except OSError as error:
        raise InputError(f"{name} {shown(file)} cannot be read ({error.strerror}); pass another file.") from None
