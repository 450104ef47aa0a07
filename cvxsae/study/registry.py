"""The methods of a study by name, their options, and the axes they share."""

from __future__ import annotations

from typing import Any

from cvxsae.errors import InputError
from cvxsae.study.keys import COUNT, Key, known, refuse
from cvxsae.study.method import CellInput, Method, Outcome
from cvxsae.study.methods import (
    calibrate,
    check,
    large_dictionary,
    learned,
    spectral_floor,
    trained_sae,
    wide_limit,
    width_floor,
)

CALIBRATION = calibrate.METHOD
"""Finds λ where a target L0 is asked for; not one of ``[grid] methods``."""

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD
    for module in (wide_limit, spectral_floor, width_floor, large_dictionary, learned, trained_sae, check)
}
"""The methods that a study can ask for."""

EVERY_METHOD: dict[str, Method] = {**METHODS, CALIBRATION.name: CALIBRATION}
"""The methods that a cell can have."""

OPTIONS: dict[str, dict[str, Key]] = {
    **{name: method.options for name, method in METHODS.items()},
    CALIBRATION.name: {**CALIBRATION.options, "n_atoms": COUNT},
}
"""What may be said about each method, besides the grid. ``n_atoms``: only these widths of the grid."""


def depending_on(axis: str) -> tuple[str, ...]:
    """The methods that depend on an axis."""
    return tuple(name for name, method in METHODS.items() if axis in method.axes)


def compute(cell: CellInput) -> Outcome:
    """Do what the cell's method does."""
    return EVERY_METHOD[cell.method].run(cell)


def options(method: str, given: Any, widths: tuple[int, ...]) -> dict[str, Any]:
    """The options of one method, defaults filled in."""
    table = known(method, given, OPTIONS[method])
    if table.get("warm") == ():  # as read before, in a study made from another
        table = {**table, "warm": ("none",)}
    read = {key: OPTIONS[method][key].read(value, f"[{method}] {key}") for key, value in table.items()}
    if method != CALIBRATION.name and "n_atoms" in read:
        stray = [width for width in read["n_atoms"] if width not in widths]
        if stray:
            refuse(f"[{method}] n_atoms", stray[0], f"among [grid] n_atoms, {', '.join(map(str, widths)) or 'none'}")
        read["n_atoms"] = tuple(sorted(read["n_atoms"]))
    if "patience" in read and "validation" not in read:
        raise InputError(
            f"[{method}] patience is given without validation; give validation, the share of the rows that watch the "
            "search, or leave patience out."
        )
    if "warm" in read and "none" in read["warm"]:
        if len(read["warm"]) > 1:
            refuse(f"[{method}] warm", list(read["warm"]), "'none' alone, or some of n_atoms and lam")
        read["warm"] = ()
    return {**EVERY_METHOD[method].defaults, **read}
