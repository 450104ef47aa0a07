"""Checks whether held-out rows are among the training rows (theory.md T17 b)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from cvxsae.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import UInt64

    from cvxsae.data.activations import Activations

MOST_SEEN = 0.5
"""Share of the held-out rows that were learned from, from which they are refused; fewer are announced,

as a distribution may yield the same row twice (a token of the same activation)."""


def shared_rows(learned_on: Activations, X: Activations) -> int:
    """How many rows of X are equal to rows that were learned from, to single precision; one pass over each."""
    return int(np.isin(_marks(X), _marks(learned_on)).sum())


def require_apart(learned_on: Activations, held_out: Activations, name: str) -> str | None:
    """Refuse held-out rows that are those learned from; where a few are, what has to be said, without a period.

    Raises
    ------
    InputError
        If half of them are, or more: values there are below those of the distribution by what memorizing saves.
    """
    count, total = shared_rows(learned_on, held_out), len(held_out)
    if count >= MOST_SEEN * total:
        raise InputError(
            f"{name} holds {count:,} rows of {total:,} that are learned from, on which nothing can be said of the "
            "distribution; pass rows that X does not hold, or a share of X."
        )
    if count == 0:
        return None
    return seen_in_words(count, total)


def seen_in_words(count: int, total: int) -> str:
    """What has to be said of so many held-out rows that were learned from, without a period."""
    return (
        f"{count:,} of the {total:,} held-out rows are equal to rows that are learned from, which flatters what is "
        "learned unless the distribution itself repeats rows"
    )


def _marks(X: Activations) -> UInt64[np.ndarray, " N"]:
    """One number per row, the same for rows of the same values whether a file keeps them in single precision or not."""
    marks = []
    for block in X.batches(device=torch.device("cpu")):
        rows = (block.to(torch.float32) + 0.0).contiguous().numpy()  # −0 is 0
        marks += [xxhash.xxh3_64_intdigest(row) for row in rows]
    return np.array(marks, dtype=np.uint64)
