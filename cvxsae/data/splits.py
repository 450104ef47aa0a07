"""Held-out rows: splitting rows into those learned from and those evaluated on, with whole documents on one side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.errors import InputError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Int64

HELD_OUT_SHARE = 0.25
"""Part of the rows set aside where only one set of data is given."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows are learned on and which are set aside.

    Attributes
    ----------
    train, held_out
        Indices of rows, in order, (n,) and (m,).
    train_groups, held_out_groups
        Their documents as integers from 0, or None where rows are independent.
    unit
        What was drawn at random: ``"row"`` or ``"document"``.
    """

    train: Int64[np.ndarray, " n"]
    held_out: Int64[np.ndarray, " m"]
    train_groups: Int64[np.ndarray, " n"] | None
    held_out_groups: Int64[np.ndarray, " m"] | None
    unit: str

    def __str__(self) -> str:
        return (
            f"{len(self.held_out):,} of {len(self.train) + len(self.held_out):,} rows are held out, by {self.unit}; "
            "nothing was learned from them"
        )


def document_labels(groups: Any, n_points: int, name: str = "groups") -> Int64[np.ndarray, " N"] | None:
    """Which document each row is of, as integers from 0; None for None.

    Parameters
    ----------
    groups
        One label per row, (N,): integers or strings, in any order.

    Raises
    ------
    InputError
        If there is not one label per row, or labels are of another kind.
    """
    if groups is None:
        return None
    try:
        labels = np.asarray(groups)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as an array ({reason(error)}); pass one label a row.") from None
    if labels.shape != (n_points,):
        raise InputError(f"{name} has shape {labels.shape}; pass one label a row, shape ({n_points},).")
    if labels.dtype.kind not in "iuUSb" and not any(
        all(isinstance(one, kind) for one in labels.tolist()) for kind in (str, int)
    ):
        raise InputError(
            f"{name} holds {labels.dtype} entries; pass integers, or strings, that say which document a row is of."
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def split_rows(n_points: int, seed: int, *, groups: Any = None, share: float = HELD_OUT_SHARE) -> Split:
    """Set rows aside at random: single rows, or whole documents where ``groups`` is given.

    Parameters
    ----------
    n_points
        Number of rows N.
    seed
        Of the choice.
    groups
        One label per row, (N,), or None.
    share
        Part of the units (rows or documents) that is set aside; at least one unit on either side.

    Raises
    ------
    InputError
        For fewer than two units, a share that is not between 0 and 1, or labels that cannot be used.
    """
    share = arguments.positive(share, "held_out")
    if not share < 1:
        raise InputError(f"held_out is {share:g}; as a share of the rows it must be below 1.")
    labels = document_labels(groups, n_points)
    unit, of_row = ("row", np.arange(n_points)) if labels is None else ("document", labels)
    count = int(of_row.max(initial=-1)) + 1
    if count < 2:
        raise InputError(
            f"X has {count} {unit}{'' if count == 1 else 's'}; to hold some out there must be two or more."
        )
    chosen = np.zeros(count, dtype=bool)
    aside = min(count - 1, max(1, round(share * count)))
    chosen[np.random.default_rng(seed).permutation(count)[:aside]] = True
    is_held_out = chosen[of_row]
    train, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    if labels is None:
        return Split(train, held_out, None, None, unit)
    own = [np.unique(labels[rows], return_inverse=True)[1].astype(np.int64) for rows in (train, held_out)]
    return Split(train, held_out, own[0], own[1], unit)


def chosen_rows(data: Activations, mask: Bool[np.ndarray, " N"]) -> Activations:
    """Rows of a mask as a copy: in memory up to 1 GiB and beyond that in an unnamed file, read block by block."""
    where = torch.from_numpy(mask)
    return data[where.to(data.device)] if data.device.type != "cpu" else Activations(_blocks(data, where))


def _blocks(data: Activations, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    start = 0
    for block in data.batches(dtype=None):
        yield block[mask[start : start + len(block)]]
        start += len(block)
