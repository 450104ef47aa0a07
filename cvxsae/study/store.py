"""The folder of a study: the plan, one record per cell that proves itself, tables; one process at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.data.atomic import one_sentence, require_possible, shown
from cvxsae.data.storage import Folder, Kept, json_text, strict_json, write_atomically
from cvxsae.errors import InputError
from cvxsae.study.held_out import OWN, kept_evaluation
from cvxsae.study.plan import SCHEMA, Cell

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.solvers.codes.evaluation import Evaluation

STUDY, CELLS = "study.json", "cells"
"""The plan, so that status and figures need neither the TOML file nor the data; the folder of the cells."""

Record = dict[str, Any]
"""What is kept of a cell: its numbers, or why it failed; versions, seconds, where it started from."""


class Store:
    """Records and arrays by cell. Reading needs no lock: files are replaced as a whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        require_possible(folder, "folder")
        with one_sentence(folder, "folder"):
            self.cells = Folder(self.folder / CELLS, "the cells of a study", {"schema": SCHEMA}, create=False)

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Hold the folder; yields the token that workers know it by."""
        self._require_ours()
        with self.cells.lock() as token:
            yield token

    def is_held_with(self, token: str) -> bool:
        """Whether this machine sees the folder of the run with that token: then its workers write their cells."""
        return self.cells.is_held_with(token)

    def _require_ours(self) -> None:
        """Refuse a folder that holds something else."""
        here = f"folder {shown(self.folder)}"
        with one_sentence(self.folder, "folder"):
            found = [] if not self.folder.exists() else sorted(path.name for path in self.folder.iterdir())
        if (self.folder / STUDY).is_file():
            try:
                known = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = None
            if not (isinstance(known, dict) and {"study", "plan"} <= set(known)):
                raise InputError(f"{here} holds a {STUDY!r} that no study wrote; pass another.")
            return
        others = [name for name in found if not name.startswith(".") and name != CELLS]
        if others:
            raise InputError(f"{here} holds {others[0]!r} and no study; pass another or a new one.")

    # ------------------------------------------------------------------ the plan

    def write_plan(self, study: Mapping[str, Any], cells: Iterable[Cell]) -> None:
        """What is asked."""
        plan = {"schema": SCHEMA, "study": dict(study), "plan": [cell.to_dict() for cell in cells]}
        write_atomically(self.folder / STUDY, json_text(strict_json(plan)), "folder")

    def read_plan(self) -> tuple[str, tuple[Cell, ...]]:
        """Name and cells of the study that was last run here."""
        file = self.folder / STUDY
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            return str(known["study"]["name"]), tuple(Cell.from_dict(cell) for cell in known["plan"])
        except (OSError, UnicodeError):
            raise InputError(
                f"folder {shown(self.folder)} holds no study; pass the folder of 'cvxsae study run'."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{shown(file)} is not what a study wrote; pass another folder, or remove it.") from None

    # ------------------------------------------------------------------ cells

    def record(self, cell: str, proven: Callable[[Kept], Record] | None = None) -> Record | None:
        """What is kept of a cell; None if it has not ended, or what is there does not verify.

        ``proven`` returns the record of what is kept, or raises where its arrays do not bear it out.
        """
        return self.cells.read_as(cell, (lambda kept: kept.record) if proven is None else proven)

    def write(self, record: Record, arrays: Mapping[str, Any]) -> None:
        """Keep a cell, its arrays with it."""
        self.cells.write(record["id"], strict_json(record), arrays)

    def arrays(self, cell: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Dictionary and bias of a cell; None if it has none, or what is there does not verify."""
        kept = self.cells.read(cell)
        if kept is None or not {"dictionary", "bias"} <= set(kept.arrays):
            return None
        return np.asarray(kept.arrays["dictionary"]), np.asarray(kept.arrays["bias"])

    def evaluation(self, cell: str, name: str = OWN) -> Evaluation | None:
        """What a cell's dictionary is worth on every row held out; None if it has none, or nothing verifies."""
        kept = self.cells.read(cell)
        return None if kept is None else kept_evaluation(kept, name)

    # ------------------------------------------------------------------ tables

    def write_table(self, table: pd.DataFrame) -> None:
        """``table.parquet`` and ``table.csv``, each as a whole."""
        write_atomically(self.folder / "table.parquet", lambda file: table.to_parquet(file, index=False), "folder")
        write_atomically(self.folder / "table.csv", lambda file: table.to_csv(file, index=False), "folder")
