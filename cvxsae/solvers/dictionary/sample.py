"""The datapoints that moves are judged on, and the minibatches of data that can only be read forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from cvxsae.data.activations import Activations
from cvxsae.data.streams import SHUFFLED_BYTES
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


def windows(n_points: int, row_bytes: int, parts: int) -> list[range]:
    """Which of so many minibatches are dealt from the same stretch of data that can only be read forward.

    A stretch is what a shuffle buffer of :data:`~cvxsae.data.streams.SHUFFLED_BYTES` holds: its minibatches cost one
    reading of it together, and all stretches one pass.
    """
    rows = -(-n_points // parts)
    size = max(1, SHUFFLED_BYTES // max(1, rows * row_bytes))
    return [range(first, min(first + size, parts)) for first in range(0, parts, size)]


def stretches(X: Activations, parts: int) -> list[int]:
    """Where each stretch of rows begins from which so many minibatches are drawn, and the end.

    All rows are one stretch, but of data that can only be read forward, where each is one of :func:`windows`.
    """
    dealt = windows(len(X), X.shape[1] * X.dtype.itemsize, parts) if X.is_forward_only else [range(parts)]
    return [*(len(X) * one.start // parts for one in dealt), len(X)]


def deal_forward(n_points: int, dealt: list[range], seed: int) -> tuple[Int64[np.ndarray, " _"], ...]:
    """The datapoints of each minibatch, ascending, where rows come in one order: shuffled within each of its windows.

    Windows follow each other as the data do, so that minibatches taken in the order of their numbers, or in any order
    within a window, cost one pass.
    """
    found: list[np.ndarray] = []
    for number, window in enumerate(dealt):
        first, last = (n_points * end // dealt[-1].stop for end in (window.start, window.stop))
        order = first + np.random.default_rng((seed, number)).permutation(last - first)
        found += [np.sort(order[part :: len(window)]) for part in range(len(window))]
    return tuple(found)
