"""Opening one file, several files, a folder of files or a pattern as one matrix of rows.

Every shard has to have the width and the dtype of the first; what does not fit is one sentence that names it. Nothing
is read but what tells where the rows are.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae.data import arrow, files, tensors
from cvxsae.data.archive import Array
from cvxsae.data.arguments import existing_file
from cvxsae.data.atomic import shown
from cvxsae.data.origins import LazyRows
from cvxsae.data.pieces import PiecedRows
from cvxsae.data.stored import Mapping, StoredRows, mapping_under, stored_rows
from cvxsae.data.streams import RowStream
from cvxsae.errors import InputError

SHARDS = (".npy", ".safetensors", ".pt")
"""Files that can be shards: read row by row, so no archives."""

KEY = "::"
"""What separates a path from the name of the array or column in it."""


def are_paths(X: Any) -> bool:
    """Whether this is a path or several."""
    if isinstance(X, str | os.PathLike):
        return True
    return isinstance(X, list | tuple) and len(X) > 0 and all(isinstance(one, str | os.PathLike) for one in X)


def files_of(X: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str) -> list[Path]:
    """The files that paths stand for, in their order; nothing is read.

    Raises
    ------
    InputError
        If a folder or pattern has none.
    """
    texts = [os.fspath(one) for one in ([X] if isinstance(X, str | os.PathLike) else X)]
    return [_split(one)[0] for text in texts for one in (_expanded(text, name) or [text])]


def opened_rows(X: Any, name: str) -> Any:
    """What paths name, opened and not read, where rows of it can then be read alone; anything else as it is."""
    found = open_paths(X, name) if are_paths(X) else X
    return X if isinstance(found, RowStream) else found


def open_paths(X: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str) -> Array | LazyRows | RowStream:
    """Open what paths name: one array, as :func:`cvxsae.data.files.read_array` does, or rows in several files.

    Raises
    ------
    InputError
        If a file is missing, cannot be read, or does not fit the first; the message names it.
    """
    if isinstance(X, str | os.PathLike):
        text = os.fspath(X)
        found = _expanded(text, name)
        if found is None and (isinstance(text, bytes) or _split(text)[0].suffix not in arrow.SUFFIXES):
            if not isinstance(text, bytes):
                _require_known_type(text, name)
            return files.read_array(X, name)
        paths = [text] if found is None else found
    else:
        paths = [one for path in X for one in (_expanded(os.fspath(path), name) or [os.fspath(path)])]
    return _opened(paths, name)


def _require_known_type(text: str, name: str) -> None:
    """Refuse a file of a type that cannot hold rows."""
    known, (file, key) = (*files.READERS, *arrow.SUFFIXES), _split(text)
    if file.suffix not in known and existing_file(text if key is None else file, name):
        raise InputError(
            f"{name} {shown(file)} has the file type {file.suffix or 'none'!r}; pass a {', '.join(known[:-1])} or "
            f"{known[-1]} file."
        )


def _expanded(text: str, name: str) -> list[str] | None:
    """The files that a folder or a pattern stands for, in their order; None for the path of one file."""
    if isinstance(text, bytes) or not text.strip():  # an empty path would be the folder we are in
        return None
    file, key = _split(text)
    try:
        is_folder, is_there = file.is_dir(), file.exists()
    except (OSError, ValueError):  # too long, or with characters that no name can have
        return None
    if is_folder:
        listed = _in_folder(file, name)
    elif not is_there and glob.has_magic(str(file)):
        listed = sorted(map(Path, glob.glob(str(file))), key=_natural)  # noqa: PTH207 (of an absolute path too)
        if not listed:
            raise InputError(f"{name} {shown(file)} is a pattern that no file has; pass one that some have.")
    else:
        return None
    return [f"{one}{KEY}{key}" if key else str(one) for one in listed]


def _in_folder(folder: Path, name: str) -> list[Path]:
    """The shards in a folder: those that a data set of Hugging Face names, or all that are of one type."""
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(one.name for one in folder.iterdir() if one.is_dir()))
        raise InputError(f"{name} {shown(folder)} holds the splits {splits}; pass the folder of one of them.")
    if (folder / arrow.STATE).is_file():
        return _of_data_set(folder, name)
    known = (*SHARDS, *arrow.SUFFIXES)
    found = sorted((one for one in folder.iterdir() if one.suffix in known and one.is_file()), key=_natural)
    if not found:
        raise InputError(f"{name} {shown(folder)} holds no {', '.join(known[:-1])} or {known[-1]} file.")
    return found


def _of_data_set(folder: Path, name: str) -> list[Path]:
    """The files of a data set that was saved with ``save_to_disk``, in their order."""
    state = folder / arrow.STATE
    try:
        listed = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        return [folder / Path(str(one["filename"])).name for one in listed]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{name} {shown(folder)} has a {arrow.STATE} that does not list the data's files; save the data set again "
            "with save_to_disk."
        ) from None


def _natural(file: Path) -> list[Any]:
    """A key that sorts numbers in names as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _split(text: str) -> tuple[Path, str | None]:
    """A path and the name after it, if there is one."""
    if KEY in text and not Path(text).exists():
        path, _, key = text.rpartition(KEY)
        return Path(path), key
    return Path(text), None


def _opened(paths: list[str], name: str) -> LazyRows | RowStream | torch.Tensor:
    """Rows of files of one type."""
    split = [_split(path) for path in paths]
    kinds = {file.suffix for file, _ in split}
    if len(kinds) > 1:
        pattern = split[0][0].parent / f"*{min(kinds)}"
        raise InputError(
            f"{name} is made of {' and '.join(sorted(kinds))} files; pass shards of one type, such as {shown(pattern)}."
        )
    (suffix,) = kinds
    if suffix in arrow.SUFFIXES:
        return arrow.arrow_rows([(existing_file(file, name), key) for file, key in split], name)
    if suffix not in SHARDS:
        known = (*SHARDS, *arrow.SUFFIXES)
        raise InputError(
            f"{name} {shown(split[0][0])} has the file type {suffix or 'none'!r}; shards are {', '.join(known[:-1])} "
            f"or {known[-1]} files."
        )
    return _arrays(paths, name)


def _arrays(paths: list[str], name: str) -> LazyRows | torch.Tensor:
    """Rows of array files, each of which is looked at and closed again."""
    pieces: list[StoredRows] = []
    first: tuple[str, np.ndarray | torch.Tensor] | None = None
    for path in paths:
        array = files.read_array(path, name)
        if array.ndim != 2 or array.shape[1] == 0:
            raise InputError(f"{name} {shown(path)} has shape {tuple(array.shape)}; each shard has datapoints as rows.")
        if isinstance(array, torch.Tensor):
            tensors.require_plain(array, f"{name} {shown(path)}")
        if first is None:
            first = path, array[:0]
            tensors.float_tensor(array[:0], f"{name} {shown(path)}")
        _require_alike(path, array, first, name)
        if len(array):
            found = _mapping(array, _split(path)[0])
            if found is None:  # a system that does not say what lies under memory
                return files.gather((_gathered(one, name) for one in paths), name)
            pieces.append(stored_rows(array, name, found))
    if not pieces:
        raise InputError(f"{name} is made of {len(paths)} files without rows; pass at least one datapoint.")
    return PiecedRows.of(pieces, name)


def _gathered(path: str, name: str) -> Array:
    return files.read_array(path, name)


def _require_alike(path: str, array: Array, first: tuple[str, Array], name: str) -> None:
    """Refuse a shard that does not go with the first."""
    if array.shape[1] != first[1].shape[1]:
        raise InputError(
            f"{name} {shown(path)} has dimension {array.shape[1]} but {shown(first[0])} has {first[1].shape[1]}; all "
            "shards must have the same."
        )
    if str(array.dtype) != str(first[1].dtype):
        found, wanted = (str(one.dtype).removeprefix("torch.") for one in (array, first[1]))
        raise InputError(f"{name} {shown(path)} is {found} but {shown(first[0])} is {wanted}; write one dtype.")


def _mapping(array: Array, file: Path) -> Mapping | None:
    """Where an array is in its file."""
    if isinstance(array, np.memmap):
        return Mapping(file, array.offset, is_copy=False)
    return mapping_under(array)
