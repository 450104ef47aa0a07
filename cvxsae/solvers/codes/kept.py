"""Finished blocks of codes on disk: a later call with the same data, dictionary, λ and tolerance goes on from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from cvxsae.data.storage import Folder, Kept, fingerprint
from cvxsae.solvers.codes.rounds import BlockCodes

if TYPE_CHECKING:
    from pathlib import Path

    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes

_KEY = re.compile(r"rows-(\d{12})-(\d{12})")
"""Records are named after their first row and the one after their last: in order, up to 10^12 rows."""


class KeptBlocks:
    """A folder of finished blocks, each with the rows it is of: how a call cuts up its datapoints may change.

    Records carry a checksum and the fingerprint of what was asked; what does not verify is computed again.

    Raises
    ------
    InputError
        If the folder cannot be used, or holds codes of another problem.
    """

    def __init__(self, path: Path, problem: SparseCodes, tol: float) -> None:
        if not problem.group.is_alone:
            path = path / f"process-{problem.group.rank}-of-{problem.group.size}"
        self.n_points, self.n_atoms = problem.n_points, problem.n_atoms
        self.folder = Folder(
            path,
            "codes",
            {
                "data": fingerprint(problem.X),
                "dictionary": fingerprint(problem.atoms),
                "bias": fingerprint(problem.bias) if isinstance(problem.bias, torch.Tensor) else None,
                "lam": problem.lam,
                "tol": tol,
            },
        )

    def read_all(self) -> dict[int, BlockCodes]:
        """The blocks that verify and do not overlap, by first row."""
        blocks: dict[int, BlockCodes] = {}
        end = 0
        for key in self.folder.keys():  # noqa: SIM118 (a method, not a mapping)
            found = _KEY.fullmatch(key)
            if found is None:
                continue
            start, stop = (int(row) for row in found.groups())
            kept = self.folder.read(key) if end <= start < stop <= self.n_points else None
            if kept is not None:
                blocks[start], end = _block(kept), stop
        return blocks

    def write(self, rows: slice, block: BlockCodes) -> None:
        """Keep a finished block."""
        arrays = {name: value for name, value in vars(block).items() if name != "rounds"}
        self.folder.write(f"rows-{rows.start:012d}-{rows.stop:012d}", {"rounds": block.rounds}, arrays)


def _block(kept: Kept) -> BlockCodes:
    arrays: dict[str, Any] = kept.arrays
    return BlockCodes(rounds=int(kept.record["rounds"]), **arrays)
