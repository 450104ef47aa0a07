"""Values and certified gaps of codes from other sources, without changing the codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.correlation import centered
from cvxsae.solvers.codes.engines.batched import BatchedEngine
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Engine, Tuning, Warm
from cvxsae.solvers.codes.rounds import BlockCodes, certified

COPY_BYTES = 32 * 2**20
"""Of active atoms that are copied out in float64 for the datapoints certified at a time."""

MOST_POINTS = 1024
"""Datapoints certified at a time: more gain nothing."""


def worth_of(problem: SparseCodes, codes: sp.csr_array, tol: float) -> list[BlockCodes]:
    """Values and gaps of nonnegative codes (N, K) as they are, by the torch engine, for blocks of consecutive rows."""
    prices = Prices.of(problem, torch.device("cpu"))
    engine = BatchedEngine(PreparedDictionary(problem.atoms, prices=prices), Tuning(tol))
    return [block for _, block in worth_of_rows(engine, problem, sp.csr_array(codes / problem.lam), 0)]


def worth_of_rows(
    engine: Engine, problem: SparseCodes, codes: sp.csr_array, first: int
) -> Iterator[tuple[int, BlockCodes]]:
    """The same for the rows from ``first`` on, with codes in units of λ: blocks, each with its first row."""
    rows = codes.sorted_indices()
    widest = max(1, int(np.diff(rows.indptr).max(initial=0)))
    step = max(1, min(MOST_POINTS, COPY_BYTES // (8 * widest * problem.dim)))
    for block in problem.X[first : first + rows.shape[0]].batches(rows=step):
        x = centered(block, problem) / problem.lam
        held = rows[: len(x)]
        rows = rows[len(x) :]
        warm = Warm(held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data)
        state = engine.as_they_are(x, warm)
        outcome = engine.certify(state, np.arange(len(x)))
        yield first, certified(engine.export(state), outcome, np.ones(len(x), np.int64), rounds=1, data=x)
        first += len(x)
