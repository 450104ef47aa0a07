"""Finished blocks of codes on disk: written atomically, found again by a later call with the same arguments."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data.arguments import InputError
from cvxsae.solvers.codes.rounds import BlockCodes

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float64

    from cvxsae.data.activations import Activations

MANIFEST = "manifest.json"


class Shards:
    """A directory of finished blocks.

    Raises
    ------
    InputError
        If the directory holds blocks of a different problem.
    """

    def __init__(
        self,
        folder: str | Path,
        data: Activations,
        rows: Float64[torch.Tensor, "K d"],
        bias: Float64[torch.Tensor, " d"] | None,
        lam: float,
        tol: float,
        block: int,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out {str(folder)!r} is not a directory; pass a directory to write to.")
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "format": 1,
            "shape": [*data.shape, rows.shape[0]],
            "problem": _fingerprint(data, rows, bias, lam),
            "tol": tol,
            "block": block,
        }
        path = self.folder / MANIFEST
        if path.exists():
            if json.loads(path.read_text()) != manifest:
                raise InputError(
                    f"out {str(folder)!r} holds codes of other data, another dictionary or other options; "
                    "pass an empty directory, or the arguments they were made with."
                )
        else:
            _write_atomically(path, json.dumps(manifest).encode())

    def _path(self, start: int) -> Path:
        return self.folder / f"codes-{start:012d}.npz"

    def read(self, start: int) -> BlockCodes | None:
        """Return a finished block, or ``None``."""
        path = self._path(start)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as held:
            return BlockCodes(
                indptr=held["indptr"],
                indices=held["indices"],
                codes=held["codes"],
                values=held["values"],
                gaps=held["gaps"],
                passes=held["passes"],
                rounds=int(held["rounds"]),
                done=held["done"],
            )

    def write(self, start: int, block: BlockCodes) -> None:
        """Keep a finished block."""
        temporary = self._path(start).with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(
                file,
                indptr=block.indptr,
                indices=block.indices,
                codes=block.codes,
                values=block.values,
                gaps=block.gaps,
                passes=block.passes,
                rounds=np.int64(block.rounds),
                done=block.done,
            )
        temporary.replace(self._path(start))


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _fingerprint(
    data: Activations, rows: Float64[torch.Tensor, "K d"], bias: Float64[torch.Tensor, " d"] | None, lam: float
) -> str:
    digest = hashlib.sha256(repr(lam).encode())
    for batch in data.batches():
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    digest.update(rows.cpu().numpy().tobytes())
    if bias is not None:
        digest.update(bias.numpy().tobytes())
    return digest.hexdigest()
