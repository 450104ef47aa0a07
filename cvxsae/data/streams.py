"""Rows that come only in order, from a function that starts again at every call.

The first pass counts the rows and keeps a checksum of every few megabytes of them; whatever is read later is compared
with these before anyone sees it, so that a function that gives something else is an error at the first row of which
that is known. Blocks asked for one after the other cost one pass, also where several threads ask a little out of order:
what was read last is kept, and who asks for what comes next resumes from there. Rows chosen by number cost one pass
for all that are asked for together.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

from cvxsae.data import files
from cvxsae.data.archive import Array
from cvxsae.data.deadline import go_on
from cvxsae.data.origins import LazyRows, Origin, State
from cvxsae.errors import InputError

CHUNK_BYTES = 2**22
"""Rows read and compared together, in bytes: large enough for a checksum to cost nothing, small beside a block."""

KEPT_BYTES = 2**27
"""Of what was read last, how much is kept: some blocks of ``encode`` for each of a few threads."""

SHUFFLED_BYTES = 2**26
"""Rows that are drawn from at random while they are kept: half of these, so that the next can be read meanwhile."""


class Segment(NamedTuple):
    """A part of the rows."""

    begin: Callable[[], Iterable[Array]]
    """Gives its batches, from its first row on."""
    label: str
    """What messages call it."""


class FunctionOrigin:
    """A function as the place where rows are: whether it gives the same is known once it has given it."""

    def __init__(self, name: str) -> None:
        self.name, self.state = name, ()

    state: State
    has_name = True

    def state_now(self) -> State:
        """It has none."""
        return ()

    def age(self) -> float:
        """Nothing shows when it changes, and nothing has to: all that is read is compared."""
        return float("inf")

    def changed(self) -> InputError:
        """What to say of one that gives something else."""
        return InputError(
            f"{self.name} comes from a function that gave other rows in a later pass than in the first; pass one that "
            "gives the same rows in the same order whenever it is called, for example with a fixed seed."
        )


class RowStream:
    """Rows in one order, read forward from where the last reader stopped.

    Parameters
    ----------
    segments
        The parts in their order. Reading can begin at each of them.
    origin
        What says whether the rows can still be what they were.

    Attributes
    ----------
    n_points
        Rows in all, once :meth:`accept` has gone over them.
    like
        A tensor without rows that has the width and dtype of all.
    passes
        How often reading began.
    lock
        Held by who reads.
    """

    def __init__(self, segments: Sequence[Segment], origin: Origin, name: str) -> None:
        self.segments, self.origin, self.name = tuple(segments), origin, name
        self.n_points = self.passes = 0
        self.like = torch.empty((0, 1))
        self._starts: list[int] = []
        self._digests: list[int] = []
        self._forget()

    def _forget(self) -> None:
        """Be where nothing has been read."""
        self.lock = threading.RLock()
        self._ahead: _Reader | None = None
        self._kept: dict[int, torch.Tensor] = {}  # in the order in which they were read
        self._state = self.origin.state

    def __getstate__(self) -> dict[str, Any]:
        own = ("lock", "_ahead", "_kept", "_state")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def step(self) -> int:
        """Rows that are compared together."""
        return max(1, CHUNK_BYTES // (self.like.element_size() * self.like.shape[1]))

    def accept(self) -> Iterator[torch.Tensor]:
        """Go over all rows for the first time, and yield them."""
        reader = _Reader(self, 0, None)
        self.passes += 1
        if not reader.has(1):
            raise InputError(f"{self.name} yields no rows; pass at least one (n, d) batch.")
        self.like = reader.like
        while len(chunk := reader.take(self.step)):
            go_on()
            self._digests.append(_digest(chunk))
            self.n_points += len(chunk)
            yield chunk
        self._starts = reader.starts

    def rows(self) -> StreamedRows:
        """All rows."""
        return StreamedRows(self, range(self.n_points))

    def chunk(self, number: int) -> torch.Tensor:
        """A chunk of rows, read forward from what was read last if it comes later, and compared.

        Whoever wants several that follow each other holds the stream meanwhile: readers that took turns would each
        make the others begin anew.
        """
        with self.lock:
            if self._state != self.origin.state:  # compared anew
                self._state, self._ahead = self.origin.state, None
                self._kept.clear()
            if number in self._kept:
                return self._kept[number]
            ahead, self._ahead = self._ahead, None  # so that whatever interrupts, the next reader begins anew
            segment = max(i for i, start in enumerate(self._starts) if start <= number * self.step)
            if ahead is None or ahead.number > number or self._starts[segment] > ahead.number * self.step:
                self.passes += 1
                ahead = _Reader(self, segment, self.like)
                ahead.take(-self._starts[segment] % self.step)
                ahead.number = -(-self._starts[segment] // self.step)
            while ahead.number <= number:
                go_on()
                self._read(ahead)
            self._ahead = ahead
            return self._kept[number]

    def _read(self, reader: _Reader) -> None:
        """Read the next chunk and keep it, if it is what it was in the first pass."""
        chunk, number = reader.take(self.step), reader.number
        is_last = number + 1 == len(self._digests)
        if _digest(chunk) != self._digests[number] or (is_last and reader.has(1)):
            raise self.origin.changed()
        reader.number += 1
        self._kept.pop(number, None)
        self._kept[number] = chunk
        most = max(1, KEPT_BYTES // max(1, chunk.nbytes))
        while len(self._kept) > most:
            del self._kept[next(iter(self._kept))]


class _Reader:
    """A pass in progress, cut into chunks of equal length."""

    def __init__(self, stream: RowStream, segment: int, like: torch.Tensor | None) -> None:
        self.number = 0
        self.starts: list[int] = []
        self._segments, self._like = stream.segments[segment:], like
        self._batches = self._all()
        self._held: list[torch.Tensor] = []
        self._n_held = 0

    @property
    def like(self) -> torch.Tensor:
        """What the batches have in common."""
        assert self._like is not None
        return self._like

    def _all(self) -> Iterator[torch.Tensor]:
        """The batches of all parts, each in memory of its own."""
        seen = 0
        for segment in self._segments:
            self.starts.append(seen)
            for index, value in enumerate(segment.begin()):
                batch = files.checked_batch(value, f"{segment.label} (batch {index})", self._like)
                if self._like is None:
                    self._like = torch.empty((0, batch.shape[1]), dtype=batch.dtype)
                seen += len(batch)
                # The next batch may come in the same memory.
                yield batch.to("cpu", self._like.dtype, copy=True, memory_format=torch.contiguous_format)

    def has(self, count: int) -> bool:
        """Whether so many rows are left."""
        while self._n_held < count:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._held.append(batch)
            self._n_held += len(batch)
        return True

    def take(self, count: int) -> torch.Tensor:
        """The next so many rows, or as many as are left."""
        self.has(count)
        rows = self._held[0] if len(self._held) == 1 else torch.cat([self.like, *self._held])
        self._held, self._n_held = ([rows[count:]], len(rows) - count) if count < len(rows) else ([], 0)
        return rows[:count].clone() if self._held else rows


@dataclass(frozen=True)
class StreamedRows(LazyRows):
    """Some rows of a stream.

    Attributes
    ----------
    stream
        Where they come from.
    chosen
        Which of its rows.
    """

    stream: RowStream
    chosen: range

    @property
    def file(self) -> Origin:  # type: ignore[override]
        """What says whether they can still be what they were."""
        return self.stream.origin

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Number of rows, and their width."""
        return len(self.chosen), self.stream.like.shape[1]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of the entries as torch has it."""
        return self.stream.like.dtype

    @property
    def is_forward_only(self) -> bool:
        """Whether rows come in one order, so that some of them cost a pass."""
        return True

    def __getitem__(self, rows: slice) -> StreamedRows:
        return replace(self, chosen=self.chosen[rows])

    def tensor(self) -> torch.Tensor:
        """All entries as a tensor, in memory of its own: one pass at most, none if they come next."""
        return self.take(torch.arange(len(self)))

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Chosen rows (indices or a mask), in the order asked for, in memory of their own: one pass at most."""
        chosen = (self.chosen.start + self.chosen.step * torch.arange(len(self))[rows]).numpy()
        found = torch.empty((len(chosen), self.shape[1]), dtype=self.torch_dtype)
        if not len(chosen):
            return found
        order = np.argsort(chosen, kind="stable")
        ordered, step = chosen[order], self.stream.step
        cuts = np.flatnonzero(np.diff(ordered // step)) + 1
        with self.stream.lock:
            for places in np.split(order, cuts):
                number = int(chosen[places[0]]) // step
                local = torch.from_numpy(chosen[places] - number * step)
                found[torch.from_numpy(places)] = self.stream.chunk(number)[local]
        return found


def function_rows(function: Callable[[], Iterable[Array]], name: str) -> RowStream:
    """The rows that a function without arguments gives, whenever it is called."""
    return RowStream([Segment(_Called(function, name), name)], FunctionOrigin(name), name)


@dataclass(frozen=True)
class _Called:
    """A function that has to return batches."""

    function: Callable[[], Any]
    name: str

    def __call__(self) -> Iterable[Array]:
        try:
            inspect.signature(self.function).bind()
        except TypeError:
            raise InputError(f"{self.name} is a function that needs arguments; pass one that needs none.") from None
        except ValueError:  # of a function in C that does not say
            pass
        batches = self.function()
        if not isinstance(batches, Iterable) or isinstance(batches, str | bytes):
            raise InputError(
                f"{self.name} is a function that returned a {type(batches).__name__}; return an iterable of (n, d) "
                "batches."
            )
        return batches


def _digest(chunk: torch.Tensor) -> int:
    return xxhash.xxh3_64_intdigest(chunk.contiguous().view(torch.uint8).numpy().data)
