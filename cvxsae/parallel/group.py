"""Several processes that share one solve, as a value that is passed explicitly.

Every process runs the same program on its own rows of the data. What a solve needs of all datapoints are sums, so those
are what is exchanged; the rest stays where its rows are. Each exchange is preceded by a word with the others
on whether all is well, so that a process that fails ends the others with a reason instead of leaving them to wait.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.origins import LazyRows
from cvxsae.data.shards import opened_rows
from cvxsae.errors import GroupError, InputError, reason

T = TypeVar("T")

TIMEOUT = 1800.0
"""Seconds that a process waits for the others before it gives up."""

_TOLD = "_cvxsae_told"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share one solve, seen from one of them; a single process by default, at no cost.

    Get one from :func:`process_group`. Every method but :meth:`shard` is *collective*: all processes call it, in the
    same order.

    Attributes
    ----------
    rank
        This process's number, from 0.
    size
        Number of processes.
    device
        Device on which this process computes.
    handle
        The ``torch.distributed`` group underneath; None if alone.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    handle: Any = None

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def shard(self, X: ActivationsLike) -> Activations:
        """Return this process's rows of the whole data (N, d): contiguous, near-equal, in the order of the processes.

        Of a memory map, a file that can be mapped or several of them, only those rows are read.

        Raises
        ------
        InputError
            For data that cannot be used, or fewer rows than processes.
        """
        rows: Any = opened_rows(X, "X")
        if isinstance(rows, torch.Tensor):
            tensors.require_plain(rows, "X")
        is_open = isinstance(rows, Activations | LazyRows)
        if not (is_open or (isinstance(rows, np.ndarray | torch.Tensor) and rows.ndim == 2)):
            rows = Activations(rows)
        n_points = len(rows)
        if n_points < self.size:
            raise InputError(f"X has {n_points} row(s) for {self.size} processes; start at most as many as rows.")
        first, last = (n_points * number // self.size for number in (self.rank, self.rank + 1))
        return Activations(rows[first:last], group=None if self.is_alone else self)

    def places(self, count: int) -> tuple[int, int]:
        """Where this process's things begin, if all are numbered by rank, and how many there are in all."""
        counts = self.gather(count)
        return sum(counts[: self.rank]), sum(counts)

    # ------------------------------------------------------------------ failing together

    @contextmanager
    def guard(self) -> Iterator[None]:
        """All that the processes do together goes in here: an exception in one is one in all.

        The process that failed raises what happened to it, the others a :class:`GroupError` that quotes it. Guards
        nest: what solves do is in one already; a script puts one around work of its own between them.
        """
        if self.is_alone:
            yield
            return
        try:
            yield
        except GroupError:
            raise
        except BaseException as error:
            if getattr(error, _TOLD, None) is self.handle:  # by a guard further in
                raise
            setattr(error, _TOLD, self.handle)
            try:
                self._meet(f"{type(error).__name__}: {error}")
            except GroupError:  # then the others are gone; what happened here says more
                raise error from None
            raise
        self._meet()

    def _meet(self, trouble: str = "") -> None:
        """Say whether all is well here and hear it of the others."""
        from torch import distributed

        with _undisturbed(), self._talking():
            failed = torch.tensor([int(bool(trouble))])
            distributed.all_reduce(failed, group=self.handle)
            if not int(failed):
                return
            reports: list[str] = [""] * self.size
            distributed.all_gather_object(reports, trouble, group=self.handle)
        if not trouble:
            rank, report = next((number, report) for number, report in enumerate(reports) if report)
            raise GroupError(f"process {rank} of {self.size} failed ({report}), so this one stopped as well.")

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what torch raises when a peer is gone into one sentence."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, GroupError):
                raise
            raise GroupError(
                f"process {self.rank} of {self.size} lost the others ({reason(error)}); the first to fail says why."
            ) from error

    def agree(self, **settings: Any) -> None:
        """Refuse, in every process, settings that are not the same in all.

        Raises
        ------
        InputError
            One sentence that names the first argument that differs and what it is where.
        """
        if self.is_alone:
            return
        here = {name: _mark(value) for name, value in settings.items()}
        everywhere = self.gather({**here, "version of torch": torch.__version__})
        for name, mine in everywhere[0].items():
            for rank, theirs in enumerate(everywhere):
                if theirs.get(name) != mine:
                    found = f"({mine} in process 0, {theirs.get(name, 'absent')} in process {rank})"
                    raise InputError(f"{name} is not the same in all processes {found}; pass the same in each.")

    # ------------------------------------------------------------------ exchanges

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """One exchange: whole, whatever the keyboard says, and only if all is well everywhere."""
        with _undisturbed():
            self._meet()
            with self._talking():
                yield

    def sum(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each tensor summed over the processes, bit for bit the same in all; what is passed in is left alone."""
        if self.is_alone:
            return tensors
        from torch import distributed

        totals = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
        with self._exchange():
            for total in totals:
                distributed.all_reduce(total, group=self.handle)
        return totals

    def total(self, number: float) -> float:
        """A number summed over the processes."""
        return float(self.sum(torch.tensor([number], dtype=torch.float64))[0])

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in some process."""
        return self.total(float(flag)) > 0

    def same(self, tensor: torch.Tensor) -> torch.Tensor:
        """Process 0's tensor, in every process.

        What matrix products went into may differ in the last bit between processes, and decisions must not.
        """
        if self.is_alone:
            return tensor
        from torch import distributed

        copy = tensor.clone(memory_format=torch.contiguous_format)
        with self._exchange():
            distributed.broadcast(copy, src=0, group=self.handle)
        return copy

    def same_number(self, number: float) -> float:
        """Process 0's number, in every process."""
        return float(self.same(torch.tensor(number, dtype=torch.float64)))

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, in every process."""
        if self.is_alone:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        with self._exchange():
            distributed.all_gather_object(values, value, group=self.handle)
        return values

    def on_first(self, value: T, decide: Callable[[list[T]], Any]) -> Any:
        """What ``decide`` makes, in process 0, of every process's value; in every process."""
        if self.is_alone:
            return decide([value])
        from torch import distributed

        values: list[Any] | None = [None] * self.size if self.is_first else None
        with self._exchange():
            distributed.gather_object(value, values, dst=0, group=self.handle)
        decided = [decide(values) if values is not None else None]
        with self._exchange():  # begins with a meeting: process 0 may have failed to decide
            distributed.broadcast_object_list(decided, src=0, group=self.handle)
        return decided[0]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back until an exchange is over: half of one is answered by the others with the other half."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        handler(*heard[0])


ALONE = ProcessGroup()
"""One process: what every solve runs with unless it is given a group."""


@contextmanager
def process_group(device: str | torch.device | None = None, *, timeout: float = TIMEOUT) -> Iterator[ProcessGroup]:
    """The processes that ``torchrun`` started, for as long as the ``with`` block lasts.

    Gloo connects CPUs and NCCL connects GPUs. A script that is run without ``torchrun`` gets a group of one, so it
    works both ways; if ``torch.distributed`` is initialized already, its processes are the group and it is left
    as it was.

    Parameters
    ----------
    device
        ``"cpu"`` (default) or ``"cuda"``: then each process takes the GPU of its ``LOCAL_RANK``.
    timeout
        Seconds to wait for another process in one exchange; longer than the processes' work can differ.

    Raises
    ------
    InputError
        For a device that is not there, or a timeout that is no positive number.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import encode, process_group
    >>> X = np.array([[3.0, 0.0], [0.0, -1.0]])
    >>> with process_group() as group:  # torchrun --nproc-per-node 2 script.py
    ...     codes = encode(group.shard(X), np.eye(2), lam=1.0)
    >>> codes.value
    1.5
    """
    try:
        seconds = timedelta(seconds=arguments.positive(timeout, "timeout"))
    except OverflowError:
        raise InputError(f"timeout is {timeout:g} seconds; pass one that is shorter than a life.") from None
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not started and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup(device=arguments.compute_device(device))
        return
    from torch import distributed

    local = os.environ.get("LOCAL_RANK", "0")
    where = arguments.compute_device(f"cuda:{local}" if str(device) == "cuda" else device)
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    with torch.cuda.device(where) if where.type == "cuda" else nullcontext():
        if not started:
            distributed.init_process_group(backend, timeout=seconds, **_fresh_store(seconds))
        handle = distributed.new_group(backend=backend, timeout=seconds)
        try:
            yield ProcessGroup(distributed.get_rank(), distributed.get_world_size(), where, handle)
        finally:
            distributed.destroy_process_group(None if not started else handle)


def _fresh_store(timeout: timedelta) -> dict[str, Any]:
    """Where processes find each other: the launcher's store, without what an earlier group of theirs left in it."""
    from torch.distributed import distributed_c10d
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=timeout))
    turn = store.add(f"cvxsae/{rank}", 1)
    return {"store": distributed_c10d.PrefixStore(f"cvxsae/{turn}", store), "rank": rank, "world_size": size}


def all_rows(X: ActivationsLike) -> Activations:
    """Data that this process has all rows of; a share of them is refused where processes cannot work together."""
    data = Activations(X)
    group = group_of(data)
    if not group.is_alone:
        raise InputError(
            f"X is shared by {group.size} processes, which cannot work together here; pass all rows in one process "
            "(encode, learn_dictionary and solve(WideLimit) take shared data)."
        )
    return data


def group_of(X: Activations) -> ProcessGroup:
    """The processes that share these data; :data:`ALONE` if they are all here."""
    return ALONE if X.group is None else X.group


def chosen_device(device: str | torch.device | None, group: ProcessGroup) -> torch.device:
    """Where to compute: the device named, else the group's."""
    return arguments.compute_device(group.device if device is None else device)


def _mark(value: Any) -> str:
    """What a setting is, in a few characters: arrays by shape and hash."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:8]
        return f"an array {value.shape} with hash {digest}"
    return f"{value!r}"
