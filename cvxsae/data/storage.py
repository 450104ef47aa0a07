"""Saved work: files written completely or not at all, fingerprints of data, and folders that verify their content.

A :class:`Folder` keeps the finished parts of one computation, so that a later call with the same arguments goes on
where an earlier one stopped. Every record carries the digest of what was asked and a checksum of its own content.
A record that does not verify (truncated, altered, of another computation, of another version) is never returned.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch

from cvxsae.data.archive import RECORD, Array, StoredArray, flatten, rebuild, write_npz
from cvxsae.data.atomic import LONGEST_SHOWN, PARTIAL, one_sentence, require_possible, shown, write_atomically
from cvxsae.data.tensors import float_tensor
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from cvxsae.data.activations import Activations

FORMAT = 1
"""Version of the layout of folders; raised when older ones can no longer be read."""

MANIFEST, LOCK, HOLDER = "manifest.json", ".lock", ".holder.json"
"""Files of a folder: what was asked, the lock, and who holds it."""

BLOCK_BYTES = 32 * 2**20
"""Bytes hashed at a time: what :func:`fingerprint` needs in memory beyond the data. It does not change the result."""

LONGEST_VALUE = 40
"""Characters up to which a message shows the two values of what differs: not fingerprints."""

ABANDONED_SECONDS = 3600.0
"""Age from which an unfinished file belongs to a process that was killed; a live one writes to its file all along."""

__all__ = ["Folder", "Kept", "fingerprint", "json_text", "strict_json", "write_atomically"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")


# ---------------------------------------------------------------------- fingerprints and texts


def fingerprint(X: Activations | np.ndarray | torch.Tensor | Any) -> str:
    """SHA-256 of the shape and of the values as float64, in row order.

    It depends on the values alone: not on dtype, container, memory layout, device, threads or block size. It is
    computed from the data as they are now, every time, since data can change.
    """
    data: Any = X if hasattr(X, "batches") else float_tensor(X, "X")
    digest = hashlib.sha256(json.dumps([int(size) for size in data.shape]).encode())
    for block in data.batches() if hasattr(X, "batches") else _row_blocks(data):
        values = block.detach().to(device="cpu", dtype=torch.float64).contiguous().numpy()
        digest.update(np.asarray(values, dtype="<f8", order="C").data)
    return digest.hexdigest()


def _row_blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.ndim == 0:
        yield tensor
        return
    step = max(1, BLOCK_BYTES // max(8, 8 * (tensor[:1].numel())))
    for start in range(0, len(tensor), step):
        yield tensor[start : start + step]


def json_text(value: Any) -> str:
    """A JSON text, with numpy's numbers as plain ones; floats come back exactly as they were."""
    return json.dumps(value, indent=1, default=_plain)


def strict_json(value: Any) -> Any:
    """What JSON can hold: no numpy numbers, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: strict_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(entry) for entry in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept as JSON; put it into the arrays")


# ---------------------------------------------------------------------- folders


class Kept(NamedTuple):
    """One record: what was written under a key."""

    record: dict[str, Any]
    arrays: dict[str, StoredArray]


class Folder:
    """The folder of one computation: what was asked, and a record for each part that is finished.

    Every record is one ``.npz`` file, written atomically, that holds a JSON text and arrays. Reading needs no lock.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    kind
        Which computation this is, in words that fit after "holds": ``"codes"``, ``"a dictionary path"``.
    asked
        What decides the answer, ready for JSON: fingerprints of data and dictionary, λ, tolerance, seed. What does not
        decide it (threads, memory limits, engine, progress) does not belong here. Keys are the words of messages.
    name
        What messages call the argument.
    create
        Whether to make folder and manifest now, so that a folder that cannot be written is refused before anything is
        computed. With False nothing is written until :meth:`write` or :meth:`lock`.

    Attributes
    ----------
    digest
        Of kind, format and ``asked``: every record carries it, so that none of another computation is ever returned,
        even if the manifest is lost.
    notes
        Why records (or the manifest) that are there were not used; also logged as warnings.

    Raises
    ------
    InputError
        If the folder cannot be used, or holds other work: the message says what differs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        asked: Mapping[str, Any] | None = None,
        *,
        name: str = "folder",
        create: bool = True,
    ) -> None:
        self.kind, self.name, self.notes = kind, name, list[str]()
        self.asked: dict[str, Any] = json.loads(_canonical(dict(asked or {})))
        self._manifest = {"format": FORMAT, "kind": kind, "asked": self.asked}
        self.digest = hashlib.sha256(_canonical(self._manifest)).hexdigest()
        self._verified: set[str] = set()
        with one_sentence(path, name):
            self.path = Path(path)
        require_possible(path, name)
        self._check_manifest()
        if create:
            self._create()

    # ------------------------------------------------------------------ what was asked

    def _check_manifest(self) -> bool:
        """Whether the manifest is there and is this one; one that cannot be read counts as lost."""
        file = self.path / MANIFEST
        if not os.path.lexists(file):
            return False
        try:
            known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (OSError, ValueError, RecursionError):
            known = None
        if known is None:
            self._note(f"{shown(file)} cannot be read; records are used where they verify by themselves")
            return False
        here = f"{self.name} {shown(self.path)}"
        if not isinstance(known, dict) or set(known) != set(self._manifest) or not isinstance(known["asked"], dict):
            raise InputError(f"{here} holds a {MANIFEST!r} that this package did not write; pass another folder.")
        if known == self._manifest:
            return True
        if known["kind"] != self.kind:
            raise InputError(f"{here} holds {known['kind']}, not {self.kind}; pass another folder.")
        if known["format"] != FORMAT:
            raise InputError(f"{here} was written by another version of this package; pass another folder.")
        raise InputError(
            f"{here} holds {self.kind} of another call, which differs in {_differences(known['asked'], self.asked)}; "
            "pass another folder, or the arguments it was made with."
        )

    def _create(self) -> None:
        with one_sentence(self.path, self.name):
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished(ABANDONED_SECONDS)
            if not self._check_manifest():
                self._move_aside(self.path / MANIFEST)
                write_atomically(self.path / MANIFEST, json_text(self._manifest), self.name)

    def _remove_unfinished(self, age: float) -> None:
        for left in self.path.glob(f".*{PARTIAL}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime >= age:
                    left.unlink()

    def _move_aside(self, file: Path) -> None:
        """Keep what cannot be used under another name, so that nothing that was there is lost."""
        if not os.path.lexists(file):
            return
        aside = file.with_name(f"{file.name}.unverified")
        if os.path.lexists(aside):
            aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.unverified")
        file.rename(aside)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            _LOG.warning("%s", sentence)

    # ------------------------------------------------------------------ records

    def file(self, key: str) -> Path:
        """Where the record of a key is kept."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} cannot be the key of a record")
        return self.path / f"{key}.npz"

    def keys(self) -> list[str]:
        """The keys under which something is kept, in order; only :meth:`read` says whether it verifies."""
        try:
            names = sorted(file.name.removesuffix(".npz") for file in self.path.iterdir() if file.suffix == ".npz")
        except OSError:
            return []
        return [name for name in names if _KEY.fullmatch(name)]

    def read(self, key: str) -> Kept | None:
        """What was written under a key: None if nothing was, or what is there does not verify (see ``notes``)."""
        return self.read_as(key, lambda kept: kept)

    def read_as(self, key: str, use: Callable[[Kept], T]) -> T | None:
        """What ``use`` makes of a record; whatever it raises, the record counts as one that does not verify.

        A checksum says that a record is whole, not that it is true: what can be computed again from its arrays is.
        """
        file = self.file(key)
        if not os.path.lexists(file):
            return None
        try:
            found = use(self._verify(file, key))
        except Exception as error:  # a damaged archive can make a parser raise anything
            said = " ".join(str(error).split())[:LONGEST_SHOWN] or type(error).__name__
            self._note(f"{shown(file)} is not used and what it held is computed again, as {said}")
            return None
        self._verified.add(key)
        return found

    def _verify(self, file: Path, key: str) -> Kept:
        if not file.is_file():
            raise ValueError("it is not a file")
        with zipfile.ZipFile(file) as archive:
            head = json.loads(archive.read(RECORD))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError("it was written by another version")
            if head.get("asked") != self.digest:
                raise ValueError("it belongs to another call (other data, dictionary or options)")
            if head.get("key") != key:
                raise ValueError(f"it is the record {head.get('key')!r}")
            arrays: dict[str, Array] = {}
            for member in archive.namelist():
                if member != RECORD:
                    with archive.open(member) as stream:
                        arrays[member.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
        if head.get("checksum") != _checksum(head, arrays):
            raise ValueError("its checksum is not that of its content")
        return Kept(head["record"], rebuild(arrays))

    def write(self, key: str, record: Mapping[str, Any] | None = None, arrays: Mapping[str, Any] | None = None) -> None:
        """Keep a record: whole or not at all.

        Parameters
        ----------
        key
            Letters, digits and ``_ . = -``.
        record
            Return a dictionary for JSON; floats come back exactly, also those that are not finite.
        arrays
            Arrays, tensors and sparse arrays of real numbers by name.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        file, flat = self.file(key), {name: np.asarray(array) for name, array in flatten(arrays or {}).items()}
        head: dict[str, Any] = {"format": FORMAT, "key": key, "asked": self.digest, "record": dict(record or {})}
        head["checksum"] = _checksum(head, flat)
        if not (self.path / MANIFEST).exists():
            self._create()
        if key not in self._verified and os.path.lexists(file) and self.read(key) is None:
            with one_sentence(file, self.name):
                self._move_aside(file)
        write_atomically(file, lambda stream: write_npz(stream, flat, {RECORD: json_text(head)}), self.name)
        self._verified.add(key)

    def remove(self, key: str) -> None:
        """Forget a record, if there is one."""
        with one_sentence(self.path, self.name):
            self.file(key).unlink(missing_ok=True)

    # ------------------------------------------------------------------ one process at a time

    @contextmanager
    def lock(self) -> Iterator[str]:
        """Hold the folder; yields a token by which other processes of the same run know it.

        The operating system releases the lock when its process ends, however that ends.

        Raises
        ------
        InputError
            If another process holds it: the message says which.
        """
        from filelock import FileLock, Timeout

        self._create()
        lock = FileLock(self.path / LOCK)
        with one_sentence(self.path, self.name):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.name} {shown(self.path)} is in use by {self._holder()}; wait for it or stop it."
                ) from None
        try:
            token, started = secrets.token_hex(8), time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"pid": os.getpid(), "host": platform.node(), "started": started, "token": token}
            write_atomically(self.path / HOLDER, json_text(holder), self.name)
            self._remove_unfinished(0.0)
            yield token
        finally:
            lock.release()

    def _holder(self) -> str:
        try:
            holder = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def is_held_with(self, token: str) -> bool:
        """Whether this machine sees the folder of the run with that token."""
        try:
            return bool(json.loads((self.path / HOLDER).read_text(encoding="utf-8"))["token"] == token)
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _checksum(head: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """SHA-256 of a record: key, what was asked, text and arrays."""
    digest = hashlib.sha256(_canonical([head["format"], head["key"], head["asked"], head["record"]]))
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(_canonical([name, array.dtype.str, array.shape]))
        if array.size:
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The keys that differ, with their values where these are short enough to say something."""
    parts = []
    for key in dict.fromkeys((*here, *there)):
        if there.get(key) != here.get(key) or (key in there) != (key in here):
            old, new = (json.dumps(side.get(key)) for side in (there, here))
            parts.append(key if max(len(old), len(new)) > LONGEST_VALUE else f"{key} ({old} there, {new} here)")
    return ", ".join(parts)
