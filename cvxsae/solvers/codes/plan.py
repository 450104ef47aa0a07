"""How the datapoints of a call are cut into blocks, and the threads that solve the blocks."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from tqdm import tqdm

from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import WORTH_SHARING, torch_threads, worker_pool
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.correlation import centered
from cvxsae.solvers.codes.engines import make_engine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Engine, Tuning, Warm
from cvxsae.solvers.codes.kept import KeptBlocks
from cvxsae.solvers.codes.rounds import BlockCodes, solve_block

MEMORY_LIMIT = 2**30
"""Default working memory, in bytes, besides the data, the dictionary's copies and the codes."""

LEAST_MEMORY = 2**20
"""Least working memory that can be asked for: below it not even a few rows of correlations fit."""


@dataclass(frozen=True)
class Plan:
    """Block and batch sizes that keep to a memory limit.

    Attributes
    ----------
    block
        Datapoints that one thread works on at a time.
    rows
        Of those, how many have their correlations held at a time.
    workers
        Threads that work on blocks.
    threads
        Threads that torch uses in each of them.
    """

    block: int
    rows: int
    workers: int
    threads: int

    POINTS_PER_WORKER = 64
    """Fewest datapoints that keep another thread busy longer than it takes to start."""

    SHARE = 0.4
    """Share of the memory for products, and for blocks: a fifth is left for what is not counted."""

    CORRELATION_BYTES, PLACE_BYTES, ENTRY_BYTES, GRAM_BYTES = 8, 28, 40, 4 * 80 * 80
    """Bytes of a correlation (int32 and float32), of a place in a working set (index, code, correlation, spare)
    and an entry of a datapoint (data and residual, with copies); of the inner products kept with each datapoint."""

    FEWEST_ROWS, MOST_ROWS = 8, 1024
    """Bounds of ``rows``: a product of fewer wastes the dictionary it reads, of more has nothing left to gain."""

    FEWEST_POINTS = 32
    MOST_POINTS_FUSED, MOST_POINTS_CPU, MOST_POINTS_DEVICE = 1024, 8192, 32768
    """Bounds of ``block``. A fused worker reuses the pages of its last block; a GPU wants enough datapoints to hide its
    launches."""

    @classmethod
    def for_limit(cls, n_points: int, prepared: PreparedDictionary, memory_limit: int, engine: str) -> Plan:
        """Cut ``n_points`` for an engine."""
        workers = max(1, torch.get_num_threads()) if engine == "fused" else 1
        workers = min(workers, -(-n_points // cls.POINTS_PER_WORKER))
        share = cls.SHARE * (memory_limit // workers)
        per_product = cls.CORRELATION_BYTES * prepared.n_atoms
        per_point = cls.PLACE_BYTES * prepared.capacity + cls.ENTRY_BYTES * prepared.dim + cls.GRAM_BYTES
        rows = int(np.clip(share / per_product, cls.FEWEST_ROWS, cls.MOST_ROWS))
        on_device = cls.MOST_POINTS_CPU if prepared.device.type == "cpu" else cls.MOST_POINTS_DEVICE
        most = cls.MOST_POINTS_FUSED if engine == "fused" else on_device
        block = int(np.clip(share / per_point, cls.FEWEST_POINTS, most))
        block = max(1, min(block, -(-n_points // workers)))
        is_small = block * prepared.n_atoms * prepared.dim < WORTH_SHARING
        alone = engine == "fused" and (workers > 1 or is_small)
        return cls(block, rows, workers, 1 if alone else torch.get_num_threads())


class Job:
    """The blocks of one call: read, solved by worker threads, collected.

    Attributes
    ----------
    blocks
        What is finished, by first row.
    """

    def __init__(
        self,
        problem: SparseCodes,
        prepared: PreparedDictionary,
        plan: Plan,
        *,
        warm: sp.csr_array | None = None,
        kept: KeptBlocks | None = None,
    ) -> None:
        self.problem, self.prepared, self.plan, self.warm, self.kept = problem, prepared, plan, warm, kept
        self.blocks: dict[int, BlockCodes] = {}
        self._stop = threading.Event()
        self._local = threading.local()

    def missing(self) -> list[slice]:
        """Rows that no finished block holds, cut into blocks."""
        pieces, start = [], 0
        for first in [*sorted(self.blocks), self.problem.n_points]:
            pieces += [slice(row, min(row + self.plan.block, first)) for row in range(start, first, self.plan.block)]
            start = first + (len(self.blocks[first].values) if first in self.blocks else 0)
        return pieces

    def read(self, rows: slice) -> Float64[torch.Tensor, "n d"]:
        """(x − b)/λ of some rows."""
        (block,) = self.problem.X[rows].batches(rows=rows.stop - rows.start)
        return centered(block, self.problem) / self.problem.lam

    def run(self, engine: str, tuning: Tuning, run: Run) -> Status | None:
        """Solve what neither was kept nor is there; ``None`` if all is done, else why not: Ctrl-C or the deadline."""
        if self.kept is not None:
            with torch_threads(self.plan.threads):
                self.blocks |= self.kept.read_all(make_engine(engine, self.prepared, tuning))
        waiting = iter(self.missing())
        running: dict[Future[BlockCodes], slice] = {}
        with (
            tqdm(total=self.problem.n_points, unit="points", disable=not run.progress, desc="encode") as bar,
            worker_pool(self.plan.workers, "encode", self.plan.threads) as pool,
        ):
            bar.update(sum(len(block.values) for block in self.blocks.values()))
            try:
                while not run.is_late:
                    while len(running) < self.plan.workers + 1 and (rows := next(waiting, None)) is not None:
                        running[pool.submit(self._solve, rows, engine, tuning)] = rows
                    if not running:
                        return None
                    patience = None if math.isinf(run.deadline) else run.deadline - time.perf_counter()
                    for finished in wait(running, timeout=patience, return_when=FIRST_COMPLETED).done:
                        block = finished.result()
                        self.blocks[running.pop(finished).start] = block
                        bar.update(len(block.values))
                self._give_up(running)
                return Status.TIME_LIMIT if self.missing() else None
            except KeyboardInterrupt:
                self._give_up(running)
                return Status.INTERRUPTED
            finally:
                self._stop.set()

    def _solve(self, rows: slice, name: str, tuning: Tuning) -> BlockCodes:
        if not hasattr(self._local, "engine"):
            self._local.engine = make_engine(name, self.prepared, tuning)
        engine: Engine = self._local.engine
        warm = None if self.warm is None else _in_units_of(self.problem.lam, self.warm[rows])
        block = solve_block(engine, self.read(rows), warm, stop=self._stop.is_set)
        if self.kept is not None:
            self.kept.write(rows, block)
        return block

    def _give_up(self, running: dict[Future[BlockCodes], slice]) -> None:
        """Stop the workers at the end of their round and keep what they have finished."""
        self._stop.set()
        for future, rows in running.items():
            future.cancel()
            if not future.cancelled() and future.exception() is None:
                self.blocks[rows.start] = future.result()

    def all_blocks(self) -> list[BlockCodes]:
        """Blocks of all rows in order, of zero codes where nothing is finished."""
        with torch_threads(1):  # blocks are small: threads would spend their time, and that of a limit, waiting
            zeros = {rows.start: BlockCodes.of_zeros(self.read(rows).numpy()) for rows in self.missing()}
        every = self.blocks | zeros
        return [every[start] for start in sorted(every)]


def _in_units_of(lam: float, codes: sp.csr_array) -> Warm:
    return Warm(codes.indptr.astype(np.int64), codes.indices.astype(np.int64), codes.data.astype(np.float64) / lam)
