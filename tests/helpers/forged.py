"""Records that are whole and wrong: altered, with a checksum that is right."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae.data.archive import RECORD, write_npz
from cvxsae.data.storage import _checksum


def forge(file: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Let ``change`` alter the text and the arrays of a record, then seal it as if it had been written so."""
    with zipfile.ZipFile(file) as archive:
        head = json.loads(archive.read(RECORD))
        names = [name for name in archive.namelist() if name != RECORD]
        arrays: dict[str, Any] = {}
        for name in names:
            with archive.open(name) as stream:
                arrays[name.removesuffix(".npy")] = np.array(np.lib.format.read_array(stream, allow_pickle=False))
    change(head["record"], arrays)
    head["checksum"] = _checksum(head, arrays)
    with file.open("wb") as stream:
        write_npz(stream, arrays, {RECORD: json.dumps(head)})
