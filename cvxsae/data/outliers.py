"""Outlier rows: datapoints whose norm is many times the median, as attention sinks and first tokens are.

One such row can weigh more in a sum of squares than a thousand others, so a value of (P), a learned dictionary and a
share of explained variance can all be about a handful of tokens. They are reported, and dropped where that is asked
for; never silently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.errors import InputError

OUTLIER_RATIO = 10.0
"""Norm of an outlier in units of the median norm: what dictionary_learning drops by, and far above what tokens other
than sinks have."""

LISTED = 5
"""Rows that a sentence names."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """The rows of some data with far larger norms than most; about the given rows, not their distribution.

    Attributes
    ----------
    rows
        Their indices in the data, ascending.
    norms
        Their norms ‖x_n‖, in the same order.
    median
        Median norm of all rows.
    ratio
        Smallest norm of an outlier, as a multiple of the median.
    n_points
        Rows in the data, outliers included.
    """

    rows: Int64[np.ndarray, " n"]
    norms: Float64[np.ndarray, " n"]
    median: float
    ratio: float
    n_points: int

    @property
    def share(self) -> float:
        """Share of the rows that are outliers."""
        return len(self.rows) / self.n_points

    @property
    def largest_ratio(self) -> float:
        """The largest of their norms over the median; 0 if there are none."""
        return float(self.norms.max() / self.median) if len(self.rows) else 0.0

    def dropped(self) -> str:
        """A sentence for reports about data without them."""
        if not len(self.rows):
            return f"no outliers to leave out: {str(self)[0].lower()}{str(self)[1:].removesuffix('.')}"
        return f"{str(self).removesuffix('.')}; left out"

    def __str__(self) -> str:
        at_least = f"at least {self.ratio:g} times the median {self.median:.4g}"
        if not len(self.rows):
            return f"None of {self.n_points} rows has a norm of {at_least}."
        more = ", ..." if len(self.rows) > LISTED else ""
        which = ", ".join(map(str, self.rows[:LISTED].tolist())) + more
        numbers = f"row {which}" if len(self.rows) == 1 else f"rows {which}"
        return (
            f"{len(self.rows)} of {self.n_points} rows ({self.share:.2g}) {'has' if len(self.rows) == 1 else 'have'} "
            f"a norm of {at_least}, up to {self.largest_ratio:.4g} times ({numbers})."
        )


@own_arithmetic()
def find_outliers(X: ActivationsLike, ratio: float = OUTLIER_RATIO) -> Outliers:
    """Find the rows whose norm is at least ``ratio`` times the median norm: one pass over the data.

    Parameters
    ----------
    X
        Anything :class:`~cvxsae.data.activations.Activations` accepts, shape (N, d). The data as they are: norms are
        those of x_n, whatever the bias.
    ratio
        More than 1.

    Returns
    -------
    Outliers
        With the exact median, and norms in float64; this takes 8 bytes per row. If the median is 0, there are none.

    Raises
    ------
    InputError
        If X is not valid data, or the ratio is not a number above 1.
    """
    ratio = _ratio(ratio)
    data = Activations(X)
    norms = np.concatenate([torch.linalg.vector_norm(block, dim=1).cpu().numpy() for block in data.batches()])
    median = float(np.median(norms))
    found = np.flatnonzero(norms >= ratio * median) if median > 0 else np.zeros(0, np.int64)
    return Outliers(found, norms[found], median, ratio, len(norms))


@own_arithmetic()
def without_outliers(X: ActivationsLike, ratio: float = OUTLIER_RATIO) -> tuple[Activations, Outliers]:
    """Return the data without the rows that :func:`find_outliers` finds, and the record of these rows.

    Parameters
    ----------
    X
        Anything :class:`~cvxsae.data.activations.Activations` accepts, shape (N, d).
    ratio
        Smallest norm of an outlier, as a multiple of the median norm.

    Returns
    -------
    Activations
        The other rows in their order, in the precision they have: a copy of data in memory, a view of what is not (of
        files the rows between the outliers; of a function what it gives, filtered). Row n of it is row
        ``numpy.delete(numpy.arange(N), outliers.rows)[n]`` of X.
    Outliers
        The rows that were left out, and their norms.

    Raises
    ------
    InputError
        As :func:`find_outliers`, and if the data are one process's share of many.
    """
    data = Activations(X)
    if data.group is not None:
        raise InputError("X is shared by several processes; drop its outliers before it is cut into shares.")
    found = find_outliers(data, ratio)
    if not len(found.rows):
        return data, found
    return data.without(found.rows), found


def outlier_note(X: ActivationsLike, ratio: float = OUTLIER_RATIO) -> str | None:
    """A sentence for reports about outliers among the data; None if there are none."""
    found = find_outliers(X, ratio)
    if not len(found.rows):
        return None
    return f"{str(found).removesuffix('.')}; kept, as without_outliers or --drop-outliers would leave them out."


def _ratio(value: float) -> float:
    ratio = arguments.positive(value, "ratio")
    if ratio <= 1:
        raise InputError(f"ratio is {ratio:g}; pass more than 1, how many times the median norm makes an outlier.")
    return ratio
