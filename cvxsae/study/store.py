"""The folder of a study: one record a cell, written whole or not at all; one process at a time."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from cvxsae.data.arguments import InputError
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.storage import write_atomically
from cvxsae.study.plan import SCHEMA, Cell

if TYPE_CHECKING:
    import pandas as pd

STUDY, CELLS, LOCK, HOLDER = "study.json", "cells", ".lock", ".holder.json"

Record = dict[str, Any]
"""What is kept of a cell: its numbers, or why it failed; versions, seconds, where it started from."""


class Store:
    """Records and arrays by cell. Reading needs no lock: files are replaced as a whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / CELLS

    # ------------------------------------------------------------------ one process at a time

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Hold the folder; yields the token that workers know it by.

        The operating system lets go of the lock when its process ends, however that ends.
        """
        self._require_ours()
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {str(self.folder)!r} cannot be made ({error.strerror}); pass another.") from None
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"folder {str(self.folder)!r} is in use by {self._holder()}; wait for it or stop it."
            ) from None
        except OSError as error:
            raise InputError(
                f"folder {str(self.folder)!r} cannot be written to ({error.strerror}); pass another."
            ) from None
        try:
            token = secrets.token_hex(8)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            _write(
                self.folder / HOLDER, {"pid": os.getpid(), "host": platform.node(), "started": started, "token": token}
            )
            for left in (*self.folder.glob(".*.partial"), *self.cells.glob(".*.partial")):
                left.unlink(missing_ok=True)  # of a run that was killed while it wrote
            yield token
        finally:
            lock.release()

    def _holder(self) -> str:
        try:
            holder = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def is_held_with(self, token: str) -> bool:
        """Whether this machine sees the folder of the run with that token: then its workers write their cells."""
        try:
            return bool(json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))["token"] == token)
        except (OSError, ValueError, KeyError):
            return False

    def _require_ours(self) -> None:
        """Refuse a folder that holds something else."""
        try:
            nearest = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        except (OSError, ValueError) as error:  # too long, or not ours to look into
            raise InputError(
                f"folder {str(self.folder)!r} cannot be made ({getattr(error, 'strerror', error)}); pass another."
            ) from None
        if not nearest.is_dir():
            raise InputError(
                f"folder {str(self.folder)!r} cannot be made, as {str(nearest)!r} is a file; pass another."
            )
        if nearest != self.folder:
            return
        if (self.folder / STUDY).is_file():
            try:
                known = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = None
            if not (isinstance(known, dict) and {"study", "plan"} <= set(known)):
                raise InputError(f"folder {str(self.folder)!r} holds a {STUDY!r} that no study wrote; pass another.")
            return
        others = sorted(
            path.name for path in self.folder.iterdir() if not path.name.startswith(".") and path.name != CELLS
        )
        if others:
            raise InputError(
                f"folder {str(self.folder)!r} holds {others[0]!r} and no study; pass another or a new one."
            )

    # ------------------------------------------------------------------ the plan

    def write_plan(self, study: Mapping[str, Any], cells: Iterable[Cell]) -> None:
        """What is asked, so that status and figures need neither the TOML file nor the data."""
        _write(
            self.folder / STUDY, {"schema": SCHEMA, "study": dict(study), "plan": [cell.to_dict() for cell in cells]}
        )

    def read_plan(self) -> tuple[str, tuple[Cell, ...]]:
        """Name and cells of the study that was last run here."""
        file = self.folder / STUDY
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            return str(known["study"]["name"]), tuple(Cell.from_dict(cell) for cell in known["plan"])
        except OSError:
            raise InputError(
                f"folder {str(self.folder)!r} holds no study; pass the folder of 'cvxsae study run'."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{str(file)!r} is not what a study wrote; pass another folder, or remove it.") from None

    # ------------------------------------------------------------------ cells

    def record(self, cell: str) -> Record | None:
        """What is kept of a cell; None if it has not ended, or what is there cannot be read."""
        try:
            known = json.loads((self.cells / f"{cell}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(known, dict) or known.get("id") != cell or known.get("status") not in ("done", "failed"):
            return None
        return known if {"numbers", "objections", "reason", "seconds", "versions"} <= set(known) else None

    def write(self, record: Record, arrays: Mapping[str, Any]) -> None:
        """Arrays first: a record says that all of its cell is there."""
        if arrays:
            write_arrays(self._arrays(record["id"]), arrays, "folder")
        _write(self.cells / f"{record['id']}.json", record)

    def arrays(self, cell: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Dictionary and bias of a cell that has them; None if they are gone or cannot be read."""
        try:
            known: dict[str, Any] = dict(read_arrays(self._arrays(cell), "folder"))
            return known["dictionary"], known["bias"]
        except (InputError, KeyError):
            return None

    def _arrays(self, cell: str) -> Path:
        return self.cells / f"{cell}.npz"

    # ------------------------------------------------------------------ tables

    def write_table(self, table: pd.DataFrame) -> None:
        """``table.parquet`` and ``table.csv``, each as a whole."""
        for name, write in (("table.parquet", table.to_parquet), ("table.csv", table.to_csv)):
            part = self.folder / f".{name}.{secrets.token_hex(4)}.partial"
            with _writing(self.folder / name):
                write(part, index=False)
                part.replace(self.folder / name)


def _write(file: Path, content: Any) -> None:
    with _writing(file):
        write_atomically(file, json.dumps(content, indent=1, allow_nan=False))


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"folder: {str(file)!r} cannot be written ({error.strerror or error}); make room or pass another folder."
        ) from None
