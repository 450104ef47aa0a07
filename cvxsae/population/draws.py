"""Independent batches of rows: drawn at random from data, whole documents together, or as a source yields them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments, splits
from cvxsae.data.activations import Activations
from cvxsae.data.sources import row_batches
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError
from cvxsae.parallel.group import all_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

EIGHT = 8
"""Batches that data are cut into unless asked otherwise: Student's t then costs 1.9 standard errors instead of 1.64."""

MOST_ROWS = 4_000
"""Rows of a batch unless asked otherwise: half a minute of a core for a width's floor, whose time grows as the cube."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows that are independent of those of every other batch.

    Attributes
    ----------
    index
        Its place in the fixed order of batches, from 0.
    rows
        The datapoints, (n, d), in memory of their own.
    n_documents
        How many documents they are; None where rows are independent.
    """

    index: int
    rows: Float[torch.Tensor, "n d"] = field(repr=False)
    n_documents: int | None = None


class Draws(ABC):
    """Batches in a fixed order, which does not depend on what is computed of them.

    Attributes
    ----------
    unit
        What is independent: ``"row"`` or ``"document"``.
    size
        Rows of a batch; of whole documents, about so many.
    order
        ``"random"``, or ``"source"`` where the order is the source's own.
    """

    unit: str = "row"
    size: int
    order: str

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield batch after batch."""

    @abstractmethod
    def total(self) -> int | None:
        """How many there are; None if only the source knows."""

    @abstractmethod
    def left_over(self) -> int:
        """Rows that are in no batch, as far as they have been seen."""

    @abstractmethod
    def mark(self) -> dict[str, Any]:
        """What decides which rows are in which batch, ready for JSON."""


@dataclass(eq=False)
class RandomDraws(Draws):
    """Disjoint random batches of rows, or of equally many whole documents."""

    data: Activations
    size: int
    parts: list[Int64[np.ndarray, " n"]]
    per_batch: int
    groups: Int64[np.ndarray, " N"] | None
    seed: int

    @classmethod
    def of(cls, data: Activations, size: int, n_batches: int | None, groups: Any, seed: int) -> RandomDraws:
        """Cut a random order of rows or documents into batches; what does not fill two is one batch of all rows."""
        labels = splits.document_labels(groups, len(data))
        units = len(data) if labels is None else int(labels.max()) + 1
        per_batch = size if labels is None else max(1, round(size * units / len(data)))
        possible = units // per_batch
        if n_batches is not None and n_batches > max(1, possible):
            what = "rows" if labels is None else f"documents, about {size} rows,"
            raise InputError(f"n_batches is {n_batches} but X has {possible} of {per_batch} {what} each; pass fewer.")
        order = np.random.default_rng(seed).permutation(units)
        if possible < 2:
            chosen = [order]
        else:
            count = possible if n_batches is None else n_batches
            chosen = [order[start * per_batch : (start + 1) * per_batch] for start in range(count)]
        return cls(data, size, chosen, per_batch, labels, seed)

    def __post_init__(self) -> None:
        self.unit, self.order = "row" if self.groups is None else "document", "random"
        self._sorted, self._starts = None, None
        if self.groups is not None:
            self._sorted = np.argsort(self.groups, kind="stable")
            self._starts = np.append(0, np.cumsum(np.bincount(self.groups)))

    def _rows(self, part: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        if self._sorted is None or self._starts is None:
            return np.sort(part)
        own = [self._sorted[self._starts[document] : self._starts[document + 1]] for document in part]
        return np.sort(np.concatenate(own))

    def __iter__(self) -> Iterator[Batch]:
        for index, part in enumerate(self.parts):
            rows = self.data[self._rows(part)].to_tensor(dtype=self.data.dtype, device=torch.device("cpu"))
            yield Batch(index, rows, None if self.groups is None else len(part))

    def total(self) -> int:  # noqa: D102
        return len(self.parts)

    def left_over(self) -> int:  # noqa: D102
        return len(self.data) - sum(len(self._rows(part)) for part in self.parts)

    def mark(self) -> dict[str, Any]:  # noqa: D102
        groups = None if self.groups is None else fingerprint(self.groups.astype(np.float64))
        per_batch = len(self.parts[0]) if len(self.parts) == 1 else self.per_batch
        return {"data": fingerprint(self.data), "groups": groups, "batch": per_batch, "seed": self.seed}


@dataclass(eq=False)
class SourceDraws(Draws):
    """Consecutive rows of a source, which may have no end."""

    source: Any
    size: int
    n_batches: int | None

    def __post_init__(self) -> None:
        self.order, self._batches = "source", row_batches(self.source, self.size, name="X")

    def __iter__(self) -> Iterator[Batch]:
        index = 0
        while self.n_batches is None or index < self.n_batches:
            rows = next(self._batches, None)
            if rows is None:
                if index == 0:
                    raise InputError(
                        f"X ended after {self._batches.remainder} rows, before one batch of {self.size} was full; pass "
                        "a smaller batch."
                    )
                return
            yield Batch(index, rows)
            index += 1

    def total(self) -> int | None:  # noqa: D102
        return self.n_batches

    def left_over(self) -> int:  # noqa: D102
        return self._batches.remainder

    def mark(self) -> dict[str, Any]:  # noqa: D102
        return {"data": "a source, in its order", "groups": None, "batch": self.size, "seed": None}


def is_source(X: Any) -> bool:
    """Whether batches come from an iterable, or from a function that returns one, rather than from data with rows."""
    is_data = isinstance(X, Activations | torch.Tensor | str | os.PathLike | Sequence)
    if is_data or hasattr(X, "__array__") or hasattr(X, "toarray"):
        return False
    return isinstance(X, Iterable | Callable)


def draws_of(X: Any, batch: int | None, n_batches: int | None, groups: Any, seed: int) -> Draws:
    """The batches of data or of a source.

    Raises
    ------
    InputError
        For data that cannot be used, more batches than there are, or documents of a source without rows by number.
    """
    size = None if batch is None else arguments.count(batch, "batch")
    count = None if n_batches is None else arguments.count(n_batches, "n_batches")
    if is_source(X):
        if groups is not None:
            raise InputError(
                "groups says which document each row is of, but X is a source whose rows have no numbers; pass an "
                "array or a file."
            )
        return SourceDraws(X, MOST_ROWS if size is None else size, count)
    data = all_rows(X)
    if size is None:
        size = max(1, min(MOST_ROWS, len(data) // (EIGHT if count is None else max(EIGHT, count))))
    return RandomDraws.of(data, size, count, groups, seed)
