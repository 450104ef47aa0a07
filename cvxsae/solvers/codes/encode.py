"""Exact sparse codes for a fixed dictionary, datapoint by datapoint, each with its duality gap."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.parallel.group import ALONE, ProcessGroup, chosen_device
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.correlation import FREE_BIAS
from cvxsae.solvers.codes.engines import ENGINES, engine_name, make_engine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning, Warm
from cvxsae.solvers.codes.result import Codes
from cvxsae.solvers.codes.rounds import BlockCodes, solve_block
from cvxsae.solvers.codes.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64
    from numpy.typing import ArrayLike

    from cvxsae.data.activations import ActivationsLike

MEMORY_LIMIT = 2**30
"""Default working memory, in bytes, besides the data, the dictionary's copies and the codes."""

SMALLEST_TOL = 1e-13

_ENDS = (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STALLED)
"""Why codes may not be certified; of what several processes say the first counts."""


def encode(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    lam: float,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    tol: float = 1e-4,
    warm_start: Any = None,
    engine: str = "auto",
    device: str | torch.device | None = None,
    memory_limit: int = MEMORY_LIMIT,
    progress: bool = False,
    out: str | Path | None = None,
    max_seconds: float | None = None,
    group: ProcessGroup | None = None,
) -> Codes:
    """Compute the exact nonnegative sparse codes of every datapoint, certified (theory.md §1).

    Solves ``min_{z ≥ 0} ½‖x − b − Σ_k z_k d_k‖² + λ Σ_k z_k`` for every row x of X, to a relative duality gap of at
    most ``tol`` for *every* datapoint. Values are in units of (P): with the ½, sums over features, means per datapoint.

    Parameters
    ----------
    X
        Data (N, d): arrays, tensors, memory maps, files or batches, whatever :class:`cvxsae.data.Activations` takes.
        Read in blocks; zero and duplicate rows are legal.
    dictionary
        Atoms (K, d), rows of any non-zero norm; duplicates are legal. Codes are for the rows scaled to norm 1;
        :meth:`Codes.for_own_rows` gives them for the rows as passed.
    lam
        Penalty λ > 0. It scales with the data: see ``lambda_ratio`` of the result.
    bias
        ``None`` (zero) or a fixed array (d,).
    tol
        Relative duality gap per datapoint, (value − lower bound)/value, from 1e-13 to 1.
    warm_start
        Codes (N, K) to start from: a :class:`Codes`, or a sparse array of codes for atoms of norm 1.
    engine
        ``"auto"``, ``"fused"`` (numba, CPU), ``"torch"`` (any device) or ``"triton"`` (CUDA). All give codes that pass
        the same certificate.
    device
        Where to compute; the CPU by default.
    memory_limit
        Working memory in bytes, besides the data, three copies of the dictionary and the codes themselves.
    progress
        Show a progress bar on stderr.
    out
        Directory for finished blocks. They are written atomically; a later call with the same arguments
        resumes from them.
    max_seconds
        Stop after this time and return what is finished, as after Ctrl-C.
    group
        The processes that share the work, from :func:`cvxsae.process_group`: ``X``, ``warm_start`` and the arrays
        returned are this process's rows, the rest is the same in all. Each process writes to its own folder in
        ``out``.

    Returns
    -------
    Codes
        Its ``gaps`` are the certificate: the dual point is the residual, recomputed in float64 from the codes
        returned and scaled into ``{y : D y ≤ λ}``; every atom that the bounded error of a low-precision
        product could not exclude was recomputed in float64, and the rounding of all that is added to the gap.
        ``status`` is ``STALLED`` if some datapoint could not be certified to ``tol``, and ``INTERRUPTED`` after
        Ctrl-C: then datapoints not ``done`` have zero codes and the (true) gap 1.

    Raises
    ------
    InputError
        For data, dictionary, bias or options that cannot be used, or that are not the same in all processes; the
        sentence says what to do.
    GroupError
        If another process failed.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import encode
    >>> codes = encode(np.array([[3.0, 0.0], [0.0, -1.0]]), np.eye(2), lam=1.0)
    >>> codes.codes.toarray().round(6).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    group = group or ALONE
    with group.guard():
        data = Activations(X)
        rows, norms = tensors.unit_rows(dictionary, "dictionary", data.shape[1])
        fixed = arguments.bias_vector(bias, data.shape[1])
        if isinstance(fixed, str):
            raise InputError(FREE_BIAS)
        penalty = arguments.positive(lam, "lam")
        tol = arguments.positive(tol, "tol")
        if not SMALLEST_TOL <= tol <= 1:
            raise InputError(f"tol is {tol:g}; it is a relative gap, pass a number from {SMALLEST_TOL:g} to 1.")
        arguments.choice(engine, "engine", ENGINES)
        memory = arguments.count(memory_limit, "memory_limit", least=2**20)
        warm = _warm_codes(warm_start, len(data), len(rows))
        seconds = None if max_seconds is None else arguments.positive(max_seconds, "max_seconds")
        group.agree(
            call="encode", d=data.shape[1], dtype=data.tensor.dtype, dictionary=rows, lam=penalty, bias=fixed, tol=tol
        )
        return encode_rows(
            data, rows, penalty, bias=fixed, tol=tol, warm=warm, norms=norms, engine=engine, device=device,
            memory_limit=memory, progress=progress, out=out, max_seconds=seconds, partial=True, group=group,
        )  # fmt: skip


def encode_rows(
    data: Activations,
    rows: Float64[torch.Tensor, "K d"],
    lam: float,
    *,
    bias: Float64[torch.Tensor, " d"] | None = None,
    tol: float = 1e-4,
    warm: sp.csr_array | None = None,
    norms: Float64[torch.Tensor, " K"] | None = None,
    engine: str = "auto",
    device: str | torch.device | None = None,
    memory_limit: int = MEMORY_LIMIT,
    progress: bool = False,
    out: str | Path | None = None,
    max_seconds: float | None = None,
    partial: bool = False,
    group: ProcessGroup = ALONE,
) -> Codes:
    """:func:`encode` for arguments that have been checked: float64 unit rows, a float64 bias or ``None``.

    Ctrl-C returns what is finished only if that is asked for (``partial``): most callers have no use for codes that
    are zero where none were computed, and would go on as if nothing had happened.
    """
    where = chosen_device(device, group)
    if out is not None and not group.is_alone:
        out = Path(out) / f"process-{group.rank}-of-{group.size}"
    name = engine_name(engine, where.type)
    prepared = PreparedDictionary(rows, where, uses=len(data))
    plan = _Plan.for_limit(len(data), prepared, memory_limit, name)
    tuning = Tuning(tol, rows=plan.rows)
    shards = None if out is None else Shards(out, data, rows, bias, lam, tol, plan.block)
    make_engine(name, prepared, tuning).warm_up()
    started = time.perf_counter()
    job = _Job(data, bias, lam, warm, plan, shards)
    with _single_threaded(plan.workers):
        blocks, ended = job.run(name, prepared, tuning, progress=progress, max_seconds=max_seconds)
    if ended is Status.INTERRUPTED and not partial:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - started
    codes = _assemble(job, blocks, prepared, rows, norms, tol, seconds, name, ended=ended)
    return codes if group.is_alone else _of_all(codes, group)


def _of_all(codes: Codes, group: ProcessGroup) -> Codes:
    """The codes of this process with the sums, and the status, of all."""
    shares, statuses = zip(*group.gather((codes.share(), codes.status)), strict=True)
    worst = next((status for status in _ENDS if status in statuses), Status.CERTIFIED)
    return replace(codes, status=worst, _shares=shares)


class _Plan:
    """How the datapoints are cut up: block and batch sizes that keep to the memory limit."""

    def __init__(self, block: int, rows: int, workers: int) -> None:
        self.block, self.rows, self.workers = block, rows, workers

    @classmethod
    def for_limit(cls, n: int, prepared: PreparedDictionary, memory_limit: int, name: str) -> _Plan:
        workers = max(1, torch.get_num_threads()) if name == "fused" else 1
        workers = min(workers, -(-n // 64))
        share = memory_limit // workers
        capacity = prepared.capacity
        per_product = 6 * prepared.n_atoms
        per_point = 28 * capacity + 40 * prepared.dim + 4 * 80 * 80
        rows = int(np.clip(0.4 * share / per_product, 8, 1024))
        # A worker reuses the pages of its last block; a GPU wants enough datapoints to hide its launches.
        most = 1024 if name == "fused" else 8192 if prepared.device.type == "cpu" else 32768
        block = int(np.clip(0.4 * share / per_point, 32, most))
        return cls(max(1, min(block, -(-n // workers))), rows, workers)


class _Job:
    """The blocks of one call: read, coded by worker threads, collected in order."""

    def __init__(
        self,
        data: Activations,
        bias: Float64[torch.Tensor, " d"] | None,
        lam: float,
        warm: sp.csr_array | None,
        plan: _Plan,
        shards: Shards | None,
    ) -> None:
        self.data, self.bias, self.lam, self.warm, self.plan, self.shards = data, bias, lam, warm, plan, shards
        self.starts = list(range(0, len(data), plan.block))
        self.stop = threading.Event()
        self.local = threading.local()

    def read(self, start: int) -> Float64[torch.Tensor, "n d"]:
        """(x − b)/λ of one block."""
        (block,) = self.data[slice(start, start + self.plan.block)].batches(rows=self.plan.block)
        centred = block.cpu() if self.bias is None else block.cpu() - self.bias
        return centred / self.lam

    def solve(self, start: int, name: str, prepared: PreparedDictionary, tuning: Tuning) -> BlockCodes:
        if self.shards is not None and (found := self.shards.read(start)) is not None:
            return found
        if not hasattr(self.local, "engine"):
            if self.plan.workers > 1:
                torch.set_num_threads(1)
            self.local.engine = make_engine(name, prepared, tuning)
        x = self.read(start)
        warm = None if self.warm is None else _warm_block(self.warm[start : start + len(x)], self.lam)
        block = solve_block(self.local.engine, x, warm, stop=self.stop.is_set)
        if self.shards is not None:
            self.shards.write(start, block)
        return block

    def run(
        self, name: str, prepared: PreparedDictionary, tuning: Tuning, *, progress: bool, max_seconds: float | None
    ) -> tuple[dict[int, BlockCodes], Status | None]:
        """Solve all blocks; after Ctrl-C or ``max_seconds`` return those that are finished, and why not all are."""
        deadline = math.inf if max_seconds is None else time.perf_counter() + max_seconds
        blocks: dict[int, BlockCodes] = {}
        waiting = iter(self.starts)
        pool = ThreadPoolExecutor(self.plan.workers, thread_name_prefix="encode")
        running: dict[Future[BlockCodes], int] = {}
        with tqdm(total=len(self.data), unit="points", disable=not progress, desc="encode") as bar:
            try:
                while True:
                    while len(running) < self.plan.workers + 1 and (start := next(waiting, None)) is not None:
                        running[pool.submit(self.solve, start, name, prepared, tuning)] = start
                    if not running:
                        return blocks, None
                    left = deadline - time.perf_counter()
                    if left <= 0:
                        return self._give_up(blocks, running), Status.TIME_LIMIT
                    patience = None if math.isinf(left) else left
                    for finished in wait(running, timeout=patience, return_when=FIRST_COMPLETED).done:
                        block = finished.result()
                        blocks[running.pop(finished)] = block
                        bar.update(len(block.values))
            except KeyboardInterrupt:
                return self._give_up(blocks, running), Status.INTERRUPTED
            finally:
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _give_up(self, blocks: dict[int, BlockCodes], running: dict[Future[BlockCodes], int]) -> dict[int, BlockCodes]:
        """Stop the workers at the end of their round and keep what they have finished."""
        self.stop.set()
        for future, start in running.items():
            future.cancel()
            if not future.cancelled() and future.exception() is None:
                blocks[start] = future.result()
        return blocks


@contextmanager
def _single_threaded(workers: int) -> Iterator[None]:
    """Give every worker thread one core of torch's, and torch its threads back at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if workers > 1:
            torch.set_num_threads(threads)


def _warm_codes(warm_start: Any, n: int, K: int) -> sp.csr_array | None:
    if warm_start is None:
        return None
    codes: Any = warm_start.codes if isinstance(warm_start, Codes) else warm_start
    sparse = bool(sp.issparse(codes))
    if not sparse:
        raise InputError(
            f"warm_start is a {type(codes).__name__}; pass Codes or a scipy sparse array of shape ({n}, {K})."
        )
    if codes.shape != (n, K):
        raise InputError(f"warm_start has shape {codes.shape}; there are {n} datapoints and {K} atoms.")
    rows = sp.csr_array(codes)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if not np.isfinite(rows.data).all():
        raise InputError("warm_start holds NaN or infinite codes; pass finite ones.")
    return rows


def _warm_block(codes: sp.csr_array, lam: float) -> Warm:
    return Warm(codes.indptr.astype(np.int64), codes.indices.astype(np.int64), codes.data.astype(np.float64) / lam)


def _assemble(
    job: _Job, blocks: dict[int, BlockCodes], prepared: PreparedDictionary, rows: Float64[torch.Tensor, "K d"],
    norms: Float64[torch.Tensor, " K"] | None, tol: float, seconds: float, name: str, *, ended: Status | None,
) -> Codes:  # fmt: skip
    """Put the blocks together in the units of the data."""
    parts = [blocks[start] if start in blocks else BlockCodes.of_zeros(job.read(start).numpy()) for start in job.starts]
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([part.values for part in parts])
    gaps = np.concatenate([part.gaps for part in parts])
    done = np.concatenate([part.done for part in parts])
    codes = sp.csr_array(
        (
            np.concatenate([part.codes for part in parts]) * job.lam,
            np.concatenate([part.indices for part in parts]),
            indptr,
        ),
        shape=(len(values), prepared.n_atoms),
    )
    status = Status.CERTIFIED if done.all() else ended or Status.STALLED
    return Codes(
        codes=codes, values=values * job.lam**2, gaps=gaps, passes=np.concatenate([part.passes for part in parts]),
        done=done, lam=job.lam, tol=tol,
        atom_norms=np.ones(prepared.n_atoms) if norms is None else norms.numpy(),
        rounds=max(part.rounds for part in parts), seconds=seconds, engine=name, status=status,
        _data=job.data, _rows=rows, _bias=job.bias,
    )  # fmt: skip
