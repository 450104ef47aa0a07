"""What can go wrong: at a chosen write, at a random moment, or between two runs."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae.data.archive import RECORD
from tests.helpers.forged import forge


class Steps:
    """Counts what a process does to the disk (every flush and every renaming) and strikes at one of these steps."""

    def __init__(self, at: int = 0, strike: Callable[[], Any] | None = None) -> None:
        self.count, self.at, self.strike = 0, at, strike
        self._fsync, self._replace = os.fsync, Path.replace

    def install(self) -> None:
        """In the process that is to be struck, for good."""
        os.fsync = self._counted(self._fsync)
        Path.replace = self._counted(self._replace)  # type: ignore[method-assign]

    def _counted(self, honest: Any) -> Any:
        def step(*arguments: Any) -> Any:
            self.count += 1
            if self.count == self.at and self.strike is not None:
                self.strike()
            return honest(*arguments)

        return step


def kill(number: int) -> Callable[[], None]:
    """A signal to this process."""
    return lambda: os.kill(os.getpid(), number)


def no_room() -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def quota(rng: np.random.Generator) -> None:
    """No file may become longer than this."""
    size = int(rng.integers(0, 6000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def jumping_clock(rng: np.random.Generator) -> None:
    """Wall clock that goes back and forth by days, monotonic clock that leaps forward."""
    wall, monotonic, leap = time.time, time.perf_counter, 0.0

    def leaping() -> float:
        nonlocal leap
        leap += float(rng.exponential(100.0)) if rng.random() < 0.1 else 0.0
        return monotonic() + leap

    time.time = lambda: wall() + float(rng.normal()) * 86400.0
    time.perf_counter = leaping


# ---------------------------------------------------------------------- damage between two runs


def _cut(file: Path, rng: np.random.Generator) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(rng.integers(0, len(content)))])


def _empty(file: Path, _: np.random.Generator) -> None:
    file.write_bytes(b"")


def _flip(file: Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    place = int(rng.integers(0, len(content)))
    content[place] ^= 1 << int(rng.integers(0, 8))
    file.write_bytes(content)


def _another(file: Path, rng: np.random.Generator) -> None:
    others = [other for other in sorted(file.parent.glob("*.npz")) if other != file]
    if others:
        shutil.copy(others[int(rng.integers(0, len(others)))], file)
    else:
        _empty(file, rng)


def _older(file: Path, _: np.random.Generator) -> None:
    _rewrite(file, lambda head: head.update(format=0))


def _foreign(file: Path, _: np.random.Generator) -> None:
    np.savez(file, codes=np.ones((3, 3)))


def _rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(members[RECORD])
    change(head)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**members, RECORD: json.dumps(head).encode()}.items():
            archive.writestr(name, content)


def _pickle(file: Path, _: np.random.Generator) -> None:
    file.write_bytes(pickle.dumps({"codes": np.ones(3)}))


def _folder(file: Path, _: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


def _dangling(file: Path, _: np.random.Generator) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def _gone(file: Path, _: np.random.Generator) -> None:
    file.unlink()


def _manifest_gone(file: Path, _: np.random.Generator) -> None:
    (file.parent / "manifest.json").unlink()


def _manifest_cut(file: Path, rng: np.random.Generator) -> None:
    _cut(file.parent / "manifest.json", rng)


def _with_right_checksum(value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.random.Generator], None]:
    def damage(file: Path, rng: np.random.Generator) -> None:
        def change(_: dict[str, Any], arrays: dict[str, Any]) -> None:
            names = [name for name, array in arrays.items() if array.dtype.kind == "f" and array.size]
            if names:
                name = names[int(rng.integers(0, len(names)))]
                arrays[name] = value(arrays[name])

        forge(file, change)

    return damage


def _one_nan(array: np.ndarray) -> np.ndarray:
    found = array.copy()
    found.reshape(-1)[0] = np.nan
    return found


DAMAGES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "cut": _cut,
    "empty": _empty,
    "a bit flipped": _flip,
    "another record": _another,
    "another version": _older,
    "a foreign file": _foreign,
    "a pickle": _pickle,
    "a folder": _folder,
    "a dangling link": _dangling,
    "gone": _gone,
    "manifest gone": _manifest_gone,
    "manifest cut": _manifest_cut,
}
"""What happens to a file of finished work between two runs."""

FORGERIES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "NaN, right checksum": _with_right_checksum(_one_nan),
    "tripled, right checksum": _with_right_checksum(lambda array: 3 * array),
}
"""Records that are whole and wrong; of stores whose arrays decide all numbers."""

STRIKES: dict[str, Callable[[], Any]] = {
    "kill -9 at a write": kill(signal.SIGKILL),
    "SIGTERM at a write": kill(signal.SIGTERM),
    "SIGINT at a write": kill(signal.SIGINT),
    "disk full at a write": no_room,
}
"""What happens at a chosen write."""
