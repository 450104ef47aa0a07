"""Finished blocks of codes on disk: a later call with the same data, dictionary, λ and tolerance resumes from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.storage import Folder, Kept, fingerprint
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.engines.state import Engine
from cvxsae.solvers.codes.rounds import BlockCodes
from cvxsae.solvers.codes.worth import worth_of_rows

_KEY = re.compile(r"rows-(\d{12})-(\d{12})")
"""Records are named after their first row and the one after their last: in order, up to 10^12 rows."""


class KeptBlocks:
    """A folder of finished blocks, each with the rows it is of: how a call cuts up its datapoints may change.

    Records carry a checksum and the fingerprint of what was asked, and hold codes alone: values and gaps are computed
    again from them (one correlation pass). What does not verify, or is not certified, is computed again.

    Raises
    ------
    InputError
        If the folder cannot be used, or holds codes of another problem.
    """

    def __init__(self, path: Path, problem: SparseCodes, tol: float) -> None:
        if not problem.group.is_alone:
            path = path / f"process-{problem.group.rank}-of-{problem.group.size}"
        self.problem = problem
        self.folder = Folder(
            path,
            "codes",
            {
                "data": fingerprint(problem.X),
                "dictionary": fingerprint(problem.atoms),
                "bias": fingerprint(problem.bias) if isinstance(problem.bias, torch.Tensor) else None,
                "lam": problem.lam,
                "tol": tol,
                **{
                    name: fingerprint(prices)
                    for name in ("weights", "ridge")
                    if (prices := getattr(problem, name)) is not None
                },
            },
        )

    def read_all(self, engine: Engine) -> dict[int, BlockCodes]:
        """The rows that verify and that the engine certifies, in blocks that do not overlap, by first row."""
        blocks: dict[int, BlockCodes] = {}
        end = 0
        for key in self.folder.keys():  # noqa: SIM118 (a method, not a mapping)
            found = _KEY.fullmatch(key)
            start, stop = (0, 0) if found is None else (int(row) for row in found.groups())
            if not end <= start < stop <= self.problem.n_points:
                continue
            shape = (stop - start, self.problem.n_atoms)
            codes = self.folder.read_as(key, lambda kept, shape=shape: _codes(kept, shape))  # type: ignore[misc]
            if codes is None:
                continue
            for first, block in worth_of_rows(engine, self.problem, codes, start):
                if block.done.all():
                    blocks[first] = block
            end = stop
        return blocks

    def write(self, rows: slice, block: BlockCodes) -> None:
        """Keep the codes of a finished block, in units of λ."""
        shape = (len(block.values), self.problem.n_atoms)
        codes = sp.csr_array((block.codes, block.indices, block.indptr), shape=shape)
        self.folder.write(f"rows-{rows.start:012d}-{rows.stop:012d}", {}, {"codes": codes})


def _codes(kept: Kept, shape: tuple[int, int]) -> sp.csr_array:
    codes = kept.arrays.get("codes")
    if not isinstance(codes, sp.csr_array) or codes.shape != shape:
        raise ValueError("it holds no codes of its rows")
    if not (np.isfinite(codes.data).all() and (codes.data > 0).all()):
        raise ValueError("its codes are not finite and positive")
    return codes
