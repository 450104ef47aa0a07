"""Endless data: batches of n datapoints from any iterable of batches of any size.

What has no end has no checksum, no second pass and no rows by index, so it is no
:class:`~cvxsae.data.activations.Activations`. What can be said of it is said of one batch after the other, each checked
on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.errors import InputError

BatchSource: TypeAlias = (
    ActivationsLike | Iterable[np.ndarray | torch.Tensor] | Callable[[], Iterable[np.ndarray | torch.Tensor]]
)
"""Where rows come from: an iterable of (m, d) batches, finite or endless, a function that returns one, or data."""


GATHERED_BYTES = 2**28
"""Rows that :func:`rows_in_turn` holds where they cost a pass: a quarter of a GiB."""


class RowBatches(Iterator[torch.Tensor]):
    """An iterator of (size, d) tensors: consecutive datapoints, each yielded once.

    Attributes
    ----------
    size
        Number of datapoints in a batch.
    position
        Number of datapoints skipped or yielded so far: pass it as ``skip`` to resume from here.
    remainder
        Number of datapoints left over at the end of the source, fewer than ``size`` and in no batch; 0 until the end.
    """

    def __init__(self, batches: Iterator[Any], size: int, name: str, *, skip: int = 0, position: int = 0) -> None:
        self.size, self.position, self.remainder = size, position, 0
        self._batches, self._name, self._skip = batches, name, skip
        self._index = 0
        self._like: torch.Tensor | None = None
        self._held: list[torch.Tensor] = []  # rows at hand, which belong to nobody else
        self._n_held = 0

    def __iter__(self) -> RowBatches:
        return self

    def __next__(self) -> Float[torch.Tensor, "size d"]:
        while self._n_held < self.size:
            value = next(self._batches, None)
            if value is None:
                self.remainder = self._n_held
                raise StopIteration
            self._take(value)
            self._index += 1
        rows = self._held[0] if len(self._held) == 1 else torch.cat(self._held)
        self._held = [rows[self.size :]] if len(rows) > self.size else []
        self._n_held -= self.size
        self.position += self.size
        return rows[: self.size].clone() if self._held else rows

    def _take(self, value: Any) -> None:
        """Check one batch of the source and hold what is not skipped of it."""
        name = f"{self._name} (batch {self._index})"
        if not isinstance(value, np.ndarray | torch.Tensor):
            raise InputError(f"{name} is a {type(value).__name__}; yield (n, d) arrays or tensors.")
        batch = tensors.float_tensor(value, name)
        if batch.ndim != 2 or batch.shape[1] == 0:
            raise InputError(f"{name} has shape {tuple(batch.shape)}; yield (n, d) arrays or tensors.")
        like = self._like
        if like is None:
            self._like = like = torch.empty((0, batch.shape[1]), dtype=batch.dtype)
        if batch.shape[1] != like.shape[1]:
            raise InputError(
                f"{name} has dimension {batch.shape[1]} but the first has {like.shape[1]}; all must have the same."
            )
        if batch.dtype != like.dtype:
            found, wanted = (str(dtype).removeprefix("torch.") for dtype in (batch.dtype, like.dtype))
            raise InputError(f"{name} is {found} but the first is {wanted}; yield one dtype.")
        skipped = min(self._skip, len(batch))
        self._skip -= skipped
        self.position += skipped
        if skipped == len(batch):
            return
        rows = batch[skipped:].to("cpu", copy=True, memory_format=torch.contiguous_format)
        tensors.require_finite(rows, name, first_row=skipped)
        self._held.append(rows)
        self._n_held += len(rows)


def row_batches(source: BatchSource, size: int, *, skip: int = 0, name: str = "source") -> RowBatches:
    """Iterate over a source in batches of ``size`` datapoints, whatever the sizes of the batches that it yields.

    Parameters
    ----------
    source
        An iterable of (m, d) arrays or tensors, finite or endless, with any number of rows each; a function without
        arguments that returns one; or anything :class:`~cvxsae.data.activations.Activations` accepts.
    size
        Datapoints in each batch that comes out.
    skip
        Datapoints to leave out first: the ``position`` of an earlier iterator continues where it was. Of data whose
        rows can be read by number they are not read; of an iterable they are taken and dropped.
    name
        What messages call the source.

    Returns
    -------
    RowBatches
        Yields (size, d) tensors on the CPU in the precision of the source, each in memory of its own. Nothing is asked
        of the source before it is needed, and what is held beyond one batch is the rest of the last one that the source
        gave. What is left at the end is in no batch; ``remainder`` says how many rows that are.

    Raises
    ------
    InputError
        If the source is none of these; and when a batch is asked for, if what the source yields is no (m, d) array of
        finite numbers, or has another dimension or dtype than its first: the message names batch and row.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.data import row_batches
    >>> batches = row_batches((np.full((3, 2), n) for n in range(5)), 4)
    >>> [batch[:, 0].tolist() for batch in batches]
    [[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 2.0, 2.0], [2.0, 3.0, 3.0, 3.0]]
    >>> batches.position, batches.remainder
    (12, 3)
    """
    size = arguments.count(size, "size")
    skip = arguments.count(skip, "skip", least=0)
    if callable(source) and not isinstance(source, torch.Tensor):
        source = source()
    if isinstance(source, Iterable) and not _is_data(source):
        return RowBatches(iter(source), size, name, skip=skip)
    data = Activations(source, name=name)
    skip = min(skip, len(data))
    rest = iter(()) if skip == len(data) else data[skip:].batches(rows=size, dtype=None)
    return RowBatches(rest, size, name, position=skip)


def rows_in_turn(X: Activations, chosen: Sequence[np.ndarray]) -> Iterator[Float[torch.Tensor, "n d"]]:
    """Selections of rows one after the other, as float64 on the CPU.

    Where rows come in one order, as many selections as :data:`GATHERED_BYTES` hold are read in one pass; else each is
    read when it is asked for.
    """
    if not X.is_forward_only:
        yield from (X[rows].to_tensor().cpu() for rows in chosen)
        return
    together = GATHERED_BYTES // (X.shape[1] * X.dtype.itemsize)
    first = 0
    while first < len(chosen):
        sizes = np.cumsum([len(rows) for rows in chosen[first:]])
        count = max(1, int(np.searchsorted(sizes, together, side="right")))
        rows = X[np.concatenate(chosen[first : first + count])].tensor
        lengths = [len(one) for one in chosen[first : first + count]]
        yield from (part.to(torch.float64) for part in torch.split(rows, lengths))
        first += count


def _is_data(source: Any) -> bool:
    """Whether these are datapoints rather than batches of them."""
    if isinstance(source, Activations | torch.Tensor | str) or hasattr(source, "__array__"):
        return True
    if isinstance(source, list | tuple) and source:
        return not (isinstance(source[0], torch.Tensor | np.ndarray) and source[0].ndim == 2)
    return hasattr(source, "toarray")
