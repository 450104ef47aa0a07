"""Dual points of a free bias: rows that sum to exactly zero, in exact arithmetic (T1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from cvxsae.relaxations.linalg import EPS

_SUM_SLACK = 16
"""Units of rounding of the largest entry by which each entry of a dual point may move to make the rows sum to zero."""

_EXACT_ENTRIES = 2**17
"""Of a block whose halves are summed: few enough for the processor's cache, and far too few for float64 to round."""


def sum_slack(Y: Float[torch.Tensor, "N d"]) -> float:
    """By how much :func:`without_sum` can raise the polar of Y: no row moves further, and no polar is above norms."""
    return _SUM_SLACK * math.sqrt(Y.shape[1]) * EPS * _largest_entry(Y)


def _largest_entry(Y: Float[torch.Tensor, "N d"]) -> float:
    """In absolute value, without a copy of them all."""
    least, most = torch.aminmax(Y)
    return max(-float(least), float(most))


def without_sum(Y: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, "N d"]:
    """The rows moved by a few units of rounding so that they sum to zero in exact arithmetic.

    A free bias multiplies their sum, and where λ is small an optimal bias can be anywhere within a long way. Entries
    become multiples of one spacing, hence whole numbers, and what these sum to is taken from them evenly.
    """
    largest = _largest_entry(Y)
    if not 0 < largest < math.inf:
        return Y
    spacing = 2.0 ** max(math.frexp(largest)[1] - 51, -1074)
    units, total = torch.empty_like(Y), [0] * Y.shape[1]
    blocks = torch.split(units, max(1, _EXACT_ENTRIES // Y.shape[1]))
    for rows, block in zip(torch.split(Y, len(blocks[0])), blocks, strict=True):
        torch.div(rows, spacing, out=block).round_()
        high = (block * 2.0**-26).floor_()
        low = torch.sub(block, high, alpha=2**26)
        halves = zip(total, high.sum(dim=0).tolist(), low.sum(dim=0).tolist(), strict=True)
        total = [old + int(h) * 2**26 + int(w) for old, h, w in halves]
    shares = torch.tensor([divmod(t, len(Y)) for t in total], device=Y.device)
    rows_left = shares[:, 1].clone()  # this many rows more give one unit more
    for block in blocks:
        more = torch.arange(len(block), device=Y.device)[:, None] < rows_left
        block.sub_(shares[:, 0] + more).mul_(spacing)
        rows_left -= len(block)
    return units
