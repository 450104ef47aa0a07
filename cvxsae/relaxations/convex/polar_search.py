"""The polar of few-dimensional data, exactly: branch and bound over the sphere (T13)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float

from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError
from cvxsae.relaxations.linalg import FAILURES

LARGEST_DIM = 3
"""Dimensions in which the sphere is searched exhaustively: cells grow as size^(1−d), a million at d = 3."""

_BATCH = 2**22
"""Most entries of a block of products of datapoints and directions: 32 MB in float64."""


@dataclass(frozen=True)
class SpherePolar:
    """``lower ≤ θ°(Y) ≤ upper``, with the direction (d,) that attains ``lower`` and the cells examined."""

    lower: float
    upper: float
    direction: torch.Tensor
    cells: int


def sphere_polar(
    polar: Callable[[torch.Tensor], torch.Tensor],
    Y: Float[torch.Tensor, "N d"],
    start: tuple[float, torch.Tensor],
    *,
    tol: float = 1e-6,
    max_cells: int = 2_000_000,
) -> SpherePolar:
    """``θ°(Y) = max_{‖u‖=1} θ°(Yu)`` to a relative ``tol``, proved (T13, equation 9), for d ≤ 3.

    A cell is a polyhedral cone spanned by d directions. ``v ↦ θ°(v)`` is convex, positively homogeneous and
    monotone, so on the convex hull of a cell's unit corners it is at most its largest value at a corner, and
    every unit vector of the cell is a point of that hull times at most ``1/h``, h the distance of
    the hull from the origin. The bound of a cell is that product; it is off by O(size²). Cells whose bound
    does not exceed the best direction found are dropped, the others halved. Rounding slack is included.

    ``polar`` is θ°_τ of every column, (N, K) → (K,), exact or from above; ``start`` is a direction's value and the
    direction, to prune with. After ``max_cells`` cells the interval is reported as it is.

    Raises
    ------
    InputError
        If d exceeds 3.
    """
    n, d = Y.shape
    if d > LARGEST_DIM:
        raise InputError(f"Y has {d} columns; branch and bound over the sphere is for at most {LARGEST_DIM}.")
    lower, direction = start
    corners = _first_cells(d, Y)
    values = _direction_values(polar, Y, corners.reshape(-1, d)).reshape(corners.shape[:2])
    upper, examined = lower, 0
    slack = 1 + 8 * (n + d) * torch.finfo(torch.float64).eps
    while len(corners):
        examined += len(corners)
        best = int(values.argmax())
        if float(values.ravel()[best]) > lower:
            lower, direction = float(values.ravel()[best]), corners.reshape(-1, d)[best]
        bounds = values.amax(dim=1) / _hull_distance(corners) * slack
        open_cells = bounds > lower * (1 + tol)
        if not bool(open_cells.any()) or examined >= max_cells:
            upper = max(float(bounds.max()), lower) if bool(open_cells.any()) else lower * (1 + tol)
            break
        corners, values = _halved(polar, Y, corners[open_cells], values[open_cells])
    return SpherePolar(lower, max(upper, lower) * slack, direction, examined)


def _first_cells(d: int, like: torch.Tensor) -> Float[torch.Tensor, "c d d"]:
    """The orthants: cones spanned by ``±e_1, …, ±e_d``."""
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=d)), dtype=like.dtype, device=like.device)
    return torch.diag_embed(signs)


def _direction_values(
    polar: Callable[[torch.Tensor], torch.Tensor], Y: torch.Tensor, rows: Float[torch.Tensor, "c d"]
) -> Float[torch.Tensor, " c"]:
    """θ°(Yu) at every direction u, in blocks."""
    step, values = max(1, _BATCH // len(Y)), []
    for first in range(0, len(rows), step):
        go_on()
        values.append(polar(Y @ rows[first : first + step].T))
    return torch.cat(values)


def _hull_distance(corners: Float[torch.Tensor, "c d d"]) -> Float[torch.Tensor, " c"]:
    """Distance from the origin to the plane through a cell's corners: no point of the hull is nearer."""
    ones = torch.ones((*corners.shape[:2], 1), dtype=corners.dtype, device=corners.device)
    d = corners.shape[1]
    # ‖Σ w_i c_i‖² is at least the least cosine of two corners, and at least 1/d as these are at most at right angles.
    nearest = (corners @ corners.mT).amin(dim=(1, 2)).clamp(min=1 / d).sqrt()
    try:
        normal, failed = torch.linalg.solve_ex(corners, ones)
    except FAILURES:
        return nearest
    return torch.where(failed > 0, nearest, 1 / torch.linalg.vector_norm(normal, dim=(1, 2)))


def _halved(
    polar: Callable[[torch.Tensor], torch.Tensor], Y: torch.Tensor, corners: torch.Tensor, values: torch.Tensor
) -> tuple[Float[torch.Tensor, "e d d"], Float[torch.Tensor, "e d"]]:
    """Every cell cut in two across its longest edge, whose midpoint goes to the sphere; and the corners' values."""
    d = corners.shape[1]
    if d == 1:
        return corners[:0], values[:0]
    pairs = torch.tensor(list(itertools.combinations(range(d), 2)), device=corners.device)
    lengths = torch.linalg.vector_norm(corners[:, pairs[:, 0]] - corners[:, pairs[:, 1]], dim=2)
    edge = pairs[lengths.argmax(dim=1)]
    rows = torch.arange(len(corners), device=corners.device)
    middle = corners[rows, edge[:, 0]] + corners[rows, edge[:, 1]]
    middle = middle / torch.linalg.vector_norm(middle, dim=1, keepdim=True)
    # Cells that share an edge share its midpoint, up to the order of a commutative sum.
    distinct, which = torch.unique(middle, dim=0, return_inverse=True)
    at_middle = _direction_values(polar, Y, distinct)[which]
    halves, halves_values = [], []
    for side in (0, 1):
        cells, cell_values = corners.clone(), values.clone()
        cells[rows, edge[:, side]], cell_values[rows, edge[:, side]] = middle, at_middle
        halves.append(cells)
        halves_values.append(cell_values)
    return torch.cat(halves), torch.cat(halves_values)
