"""The files that a study names: data, and files of document labels; relative paths start at the study's folder."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cvxsae.data.shards import KEY, files_of
from cvxsae.errors import InputError
from cvxsae.study.keys import nearest, refuse

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".arrow", ".parquet")
"""Types of data files."""

LABELS = (".txt", ".csv", ".tsv", ".npy", ".npz", ".safetensors", ".pt")
"""Types of files with one label per row."""

ARRAY = "array "
"""How the source of an array in memory begins; its fingerprint follows."""

Paths = str | list[str]
"""A path (``PATH::KEY`` picks an array or column), or several that are one data set."""


def data_files(source: Any, folder: Path, name: str, others: Collection[str] = ()) -> Paths:
    """The absolute paths of data: a file, a folder or pattern of files, or a list of these.

    Parameters
    ----------
    source
        What was written.
    folder
        Where relative paths begin.
    name
        What messages call it.
    others
        What else it may be, for messages.
    """
    if isinstance(source, list | tuple):
        if not source or not all(isinstance(one, str) and one for one in source):
            refuse(name, source, "a list of paths, each a text in quotes")
        return [_data_file(one, folder, name, others) for one in source]
    return _data_file(source, folder, name, others)


def _data_file(source: str, folder: Path, name: str, others: Collection[str]) -> str:
    path, key = _beside(source, folder)
    is_folder = _exists(path, name, folder=True)
    if is_folder or (glob.has_magic(str(path)) and not _exists(path, name)):
        files_of(str(path), name)  # which says what is wrong with it
    elif path.suffix not in SUFFIXES:
        known = f"one of {', '.join(others)}, " if others else ""
        mine = " or a [data.NAME] of yours" if others else ""
        raise InputError(
            f"{name} is {source!r}{nearest(source, others)}; it must be {known}"
            f"a file ({', '.join(SUFFIXES)}), a folder of such files{mine}."
        )
    elif not _exists(path, name):
        raise InputError(f"{name} is the file {str(path)!r}, which does not exist; pass the path of a file.")
    return f"{path.absolute()}{KEY}{key}" if key else str(path.absolute())


def is_data(text: str, folder: Path) -> bool:
    """Whether a text names data in files rather than a data set by name: a suffix, a pattern, or a folder's name."""
    path, _ = _beside(text, folder)
    return "." in text or glob.has_magic(text) or (len(text) < LONGEST and path.is_dir())


LONGEST = 255
"""Characters that the name of a folder can have."""


def label_file(source: str, folder: Path, name: str) -> str:
    """The absolute path of a file that says which document each row is of."""
    path, key = _beside(source, folder)
    if path.suffix not in LABELS:
        raise InputError(f"{name} is {source!r}; it must be a file with one label a row ({', '.join(LABELS)}).")
    if not _exists(path, name):
        raise InputError(f"{name} is the file {str(path)!r}, which does not exist; pass the path of a file.")
    return f"{path.absolute()}{KEY}{key}" if key else str(path.absolute())


def state(source: Paths) -> tuple[tuple[int, ...], ...]:
    """What changes when files are written again: what was read of them before is then not their content."""
    if isinstance(source, str) and source.startswith(ARRAY):
        return ()
    found = [file.stat() for file in files_of(source, "data") if file.is_file()]
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _beside(source: str, folder: Path) -> tuple[Path, str]:
    plain, _, key = source.partition(KEY)
    return (Path(plain) if Path(plain).is_absolute() else folder / plain), key


def _exists(path: Path, name: str, *, folder: bool = False) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError as error:  # too long, or not ours to look into
        raise InputError(f"{name} is the file {str(path)!r}, which cannot be read ({error.strerror}).") from None
