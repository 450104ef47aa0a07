"""Files that are written completely or not at all, and operating system errors as one sentence."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cvxsae.errors import InputError

LONGEST_SHOWN = 160
"""Characters of a path that a message repeats."""

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


def write_atomically(
    path: str | os.PathLike[str], content: bytes | str | Callable[[IO[bytes]], None], name: str = "path"
) -> Path:
    """Write a file whole or not at all: under another name beside it, flushed to the disk, then renamed.

    Parameters
    ----------
    path
        The file; its folder must exist.
    content
        Bytes, a text (written as UTF-8), or a function that writes to a binary stream.
    name
        What messages call the argument.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If it cannot be written: no room, read-only, a name that no file can have, a folder that does not exist.
        The file is then what it was before, and nothing else is left behind.
    """
    with one_sentence(path, name):
        file = Path(path)
        if not file.parent.is_dir():
            problem = "a folder that does not exist; create it first"
            if any(parent.is_file() for parent in file.parents):
                problem = "a path that leads through a file; pass another path"
            raise InputError(f"{name} {shown(path)} is in {problem}.")
        if file.exists() and not file.is_file():
            found = "a directory" if file.is_dir() else "not a regular file"
            raise InputError(f"{name} {shown(path)} is {found}; pass the path of a file.")
        unfinished = file.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        try:
            with unfinished.open("xb") as stream:
                if callable(content):
                    content(stream)
                else:
                    stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(file)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        _flush_folder(file.parent)
    return file


def _flush_folder(folder: Path) -> None:
    """Let a renaming survive a power cut, where the file system knows how."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_possible(folder: Any, name: str) -> None:
    """Refuse a folder that can never be one: a file, a path through a file, a name that no file can have."""
    with one_sentence(folder, name):
        path = Path(folder)
        nearest = next((one for one in (path, *path.absolute().parents) if one.exists()), path)
        if nearest.exists() and not nearest.is_dir():
            what = "is a file" if nearest == path else f"cannot be made, as {shown(nearest)} is a file"
            raise InputError(f"{name} {shown(folder)} {what}; pass a folder.")


def make_folder(path: Any, name: str) -> Path:
    """Make a folder, and those above it, where there is none."""
    require_possible(path, name)
    with one_sentence(path, name):
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def one_sentence(path: Any, name: str) -> Iterator[None]:
    """Turn what an operating system says of a path into one sentence."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{name} {shown(path)} cannot be written ({error.strerror or error}); make room or pass another path."
        ) from None
    except (TypeError, ValueError) as error:  # no path at all, NUL, characters that no file name can have
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"{name} is a {type(path).__name__}; pass a path.") from None
        if isinstance(error, UnicodeError) or "\0" in os.fspath(path):
            raise InputError(f"{name} {shown(path)} cannot be the name of a file; pass another path.") from None
        raise


def shown(path: Any) -> str:
    """A path as messages show it: never longer than a line, whatever characters it holds."""
    text = ascii(os.fspath(path)) if isinstance(path, str | os.PathLike) else repr(path)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}...{text[-LONGEST_SHOWN // 4 :]}"
