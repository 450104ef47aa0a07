"""The datapoints that moves are judged on: all of them, or an even sample of many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from cvxsae.parallel.group import ProcessGroup

SAMPLE_ENTRIES = 2**26
"""Residuals held at a time, in numbers: a quarter of a GiB in float32."""


@dataclass(frozen=True)
class ResidualSample:
    """Residuals ``(x_n − b − z_n D) / length`` of some datapoints.

    Attributes
    ----------
    values
        (n, d); they are used in float32.
    rows
        Which datapoints they are of; None for all.
    length
        What the residuals were divided by: :func:`~cvxsae.solvers.dictionary.state.unit_length` of the data.
    """

    values: Float[np.ndarray, "n d"]
    rows: Int64[np.ndarray, " n"] | None = None
    length: float = 1.0


def sample_rows(n_points: int, dim: int) -> Int64[np.ndarray, " n"]:
    """Datapoints that moves are judged on: all of them, or as many evenly spaced ones as fit."""
    most = max(1, SAMPLE_ENTRIES // dim)
    return np.unique(np.linspace(0, n_points - 1, min(n_points, most)).astype(np.int64))


def sample_here(n_points: int, dim: int, group: ProcessGroup) -> Int64[np.ndarray, " n"]:
    """Those of :func:`sample_rows` of all processes' datapoints, counted by rank, that are this process's."""
    first, total = group.places(n_points)
    rows = sample_rows(total, dim)
    return rows[(rows >= first) & (rows < first + n_points)] - first
