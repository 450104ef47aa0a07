"""The spectral floor of one width at a fixed bias (T10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvxsae.relaxations.floors.spectral import spectral_floor as floor_of
from cvxsae.study.method import Bound, CellInput, Method, Outcome


def spectral_floor(cell: CellInput) -> Outcome:
    """One eigendecomposition."""
    floor = floor_of(cell.X, cell.width, cell.lam, bias=cell.bias_value)
    return Outcome({"lower_bound": floor.value, "theorem": floor.theorem})


def floor_for(numbers: Mapping[str, Any], n_atoms: int | None) -> Bound | None:
    """Of its width and narrower ones."""
    return Bound(numbers["lower_bound"], numbers.get("theorem") or "?", n_atoms)


METHOD = Method("spectral_floor", spectral_floor, axes=("n_atoms",), floor_for=floor_for)
