"""One row per cell, the floors that hold for it joined on, and the inequalities it violates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cvxsae.relaxations.solution import relative_gap
from cvxsae.sae.audits.ledger import GAPS
from cvxsae.study.held_out import COLUMNS as HELD_OUT_COLUMNS
from cvxsae.study.held_out import with_falls
from cvxsae.study.method import Bound
from cvxsae.study.registry import CALIBRATION, EVERY_METHOD, METHODS

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.study.plan import Cell
    from cvxsae.study.store import Record, Store

SLACK = 1e-9
"""Relative rounding allowed between a value and a floor that were computed in different ways."""

COMMON: dict[str, tuple[str, str]] = {
    "cell": ("string", "identity: hash of method, its parameters, data, seed and schema"),
    "method": ("string", "the method of the cell"),
    "data": ("string", "name of the data set"),
    "data_hash": ("string", "SHA-256 of its rows and of their preprocessing"),
    "n_points": ("Int64", "number of rows N, including held-out rows"),
    "dim": ("Int64", "number of dimensions d"),
    "n_atoms": ("Int64", "number of atoms K"),
    "lam": ("Float64", "penalty λ, in the units of the data; calibrated if a target L0 was given"),
    "target_l0": ("Float64", "target number of active atoms per datapoint"),
    "atom_cost": ("Float64", "price τ of an atom, in datapoints"),
    "bias": ("string", "none, free or mean"),
    "seed": ("Int64", "random seed of search and training"),
    "status": ("string", "done or failed"),
    "reason": ("string", "why it failed"),
    "violation": ("string", "the violated inequality, if any (empty unless something is wrong)"),
    "certified": ("boolean", "the referee has no objection and nothing violates theory"),
    "value": ("Float64", "attained value, mean per datapoint as in (P); trained_sae: with its own encoder"),
    "lower_bound": (
        "Float64",
        "certified lower bound of the cell's own problem; learned, trained_sae: for every width",
    ),
    "gap": ("Float64", "(value − lower_bound)/value"),
    "floor": ("Float64", "highest lower bound in the study that holds for this row: for its width or for every width"),
    "floor_theorem": ("string", "theorem that proves the floor"),
    "wide": ("Float64", "lower bound of F_wide: no dictionary of any width is below it (T9)"),
    "excess": ("Float64", "value − wide"),
    "best": ("Float64", "lowest value found for this width or a narrower one: an upper bound of F*_K"),
    "theorem": ("string", "theorem that proves the bound of a floor cell"),
    "codes_gap": ("Float64", "relative duality gap of exact codes"),
    "stationarity": ("Float64", "largest ‖E_k[r]/λ − d_k‖ (T3); trained_sae: at the best dictionary found"),
    "bias_residual": ("Float64", "‖mean r‖/λ for a free bias (T3)"),
    "least_curvature": ("Float64", "least eigenvalue of the scaled Hessian, if requested (T5)"),
}
"""Columns that several methods fill: identity of a cell, attained values, and lower bounds."""

LAST: dict[str, tuple[str, str]] = {
    "l0": ("Float64", "mean active atoms per datapoint; trained_sae: of its encoder's codes"),
    "fvu": ("Float64", "fraction of variance unexplained, about the mean"),
    "live_atoms": ("Int64", "number of atoms that some datapoint uses"),
    "lambda_max": ("Float64", "smallest λ at which all codes are zero; large_dictionary: at its τ"),
    "outcome": ("string", "how the computation ended"),
    "warm_from": ("string", "cell with the dictionary that this cell started from or checks"),
    "note": ("string", "why a planned warm start was not used"),
    "seconds": ("Float64", "wall-clock time of the cell"),
    "cpu_seconds": ("Float64", "processor time of its process during the cell"),
    "threads": ("Int64", "number of threads allowed"),
    "cvxsae": ("string", "version of cvxsae"),
    "torch": ("string", "version of torch"),
    "numpy": ("string", "version of numpy"),
    "python": ("string", "version of python"),
    "platform": ("string", "operating system and processor"),
    "ended": ("string", "local time at the end of the cell"),
}
"""The last columns: sparsity, how the cell ended, where and when."""

COLUMNS: dict[str, tuple[str, str]] = {
    **COMMON,
    **HELD_OUT_COLUMNS,
    **{name: column for method in METHODS.values() for name, column in method.columns.items()},
    **LAST,
}
"""Type and meaning of every column."""


def table(cells: Sequence[Cell], store: Store) -> pd.DataFrame:
    """One row for every cell that has ended, in the order of the plan."""
    records = {cell.id: record for cell in cells if (record := store.record(cell.id)) is not None}
    return frame(cells, with_falls(cells, records, store))


def frame(cells: Sequence[Cell], records: Mapping[str, Record]) -> pd.DataFrame:
    """The table of these records; violations are found here, from the numbers as they are."""
    import pandas as pd

    floors, found, shared = _floors(cells, records), _attained(cells, records), _shared(cells, records)
    rows = [
        shared.get(cell.problem, {}) | _row(cell, records[cell.id], floors, found)
        for cell in cells
        if cell.id in records
    ]
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, (kind, _) in COLUMNS.items()}
    return pd.DataFrame(columns)


def violations(records: Mapping[str, Record], cells: Sequence[Cell], ended: Cell) -> list[str]:
    """What theory has to object to a cell that has just ended, and to what ended before in view of it."""
    near = [cell for cell in cells if cell.id in records and cell.problem == ended.problem]
    floors, found = _floors(near, records), _attained(near, records)
    violated = [(cell, _row(cell, records[cell.id], floors, found)["violation"]) for cell in near]
    proves = EVERY_METHOD[ended.method].floor_for is not None
    shown = [(cell, why) for cell, why in violated if why and (proves or cell.id == ended.id)]
    return [why if cell.id == ended.id else f"{cell}: {why}" for cell, why in shown]


Floors = dict[tuple[Any, ...], list[Bound]]
"""The bounds that hold for each problem."""

Values = dict[tuple[Any, ...], list[tuple[int, float]]]
"""Widths and what was attained at them, for each problem."""


def _floors(cells: Sequence[Cell], records: Mapping[str, Record]) -> Floors:
    """The lower bounds of every problem."""
    floors: Floors = {}
    for cell in cells:
        floor_for = EVERY_METHOD[cell.method].floor_for
        numbers = records[cell.id]["numbers"] if cell.id in records else {}
        if floor_for is not None and numbers.get("lower_bound") is not None:
            bound = floor_for(numbers, cell.n_atoms)
            floors.setdefault(cell.problem, []).extend([] if bound is None else [bound])
    return floors


def _shared(cells: Sequence[Cell], records: Mapping[str, Record]) -> dict[tuple[Any, ...], dict[str, float]]:
    """What the wide limit says for all rows of its problem: λ_max, without which λ means nothing; a floor held out."""
    wide = [cell for cell in cells if cell.method == "wide_limit" and cell.id in records]
    found = {cell.problem: records[cell.id]["numbers"] for cell in wide}
    names = ("lambda_max", "held_out_wide")
    return {problem: {name: n[name] for name in names if n.get(name)} for problem, n in found.items()}


def _attained(cells: Sequence[Cell], records: Mapping[str, Record]) -> Values:
    """What dictionaries of every problem attain, with their widths."""
    found: Values = {}
    for cell in cells:
        if cell.id in records and cell.n_atoms is not None:
            numbers = records[cell.id]["numbers"]
            attains = EVERY_METHOD[cell.method].attains
            values = [numbers[name] for name in attains if numbers.get(name) is not None]
            if values:
                found.setdefault(cell.problem, []).append((cell.n_atoms, min(values)))
    return found


def _row(cell: Cell, record: Record, floors: Floors, found: Values) -> dict[str, Any]:
    row = _as_computed(cell, record)
    holding = [bound for bound in floors.get(cell.problem, []) if bound.holds_for(cell.n_atoms)]
    wide = [bound for bound in holding if bound.n_atoms is None]
    if holding and cell.method != CALIBRATION.name:
        highest = max(holding, key=lambda bound: bound.value)
        row |= {"floor": highest.value, "floor_theorem": highest.theorem}
    value, own_bound = row.get("value"), row.get("lower_bound")
    if value is not None and own_bound is not None:
        row["gap"] = relative_gap(value, own_bound)
    if wide and cell.method != CALIBRATION.name:
        row["wide"] = max(bound.value for bound in wide)
        if value is not None:
            row["excess"] = value - row["wide"]
    if EVERY_METHOD[cell.method].attains:
        narrower = [best for width, best in found.get(cell.problem, []) if width <= (cell.n_atoms or 0)]
        row["best"] = min(narrower, default=None)
    if cell.method == "trained_sae":
        for name, (above, below, _) in GAPS.items():
            ends = [row.get("value" if end == "loss" else end) for end in (above, below)]
            row[name] = ends[0] - ends[1] if ends[0] is not None and ends[1] is not None else None
    objections = _objections(row, record)
    row["violation"] = " ".join(objections) or None
    row["certified"] = row["status"] == "done" and not objections
    return row


def _as_computed(cell: Cell, record: Record) -> dict[str, Any]:
    """What a cell is and what it found, before anything is joined on."""
    problem = ("data", "data_hash", "n_points", "dim", "lam", "target_l0", "bias")
    how = ("status", "reason", "warm_from", "note", "seconds", "cpu_seconds", "threads", "ended")
    numbers = {name: value for name, value in record["numbers"].items() if value is not None and name in COLUMNS}
    return {
        "cell": cell.id,
        **{name: getattr(cell, name) for name in ("method", *problem, "n_atoms", "atom_cost", "seed")},
        **numbers,
        **{name: record.get(name) for name in how},
        **{name: record["versions"].get(name) for name in ("cvxsae", "torch", "numpy", "python", "platform")},
    }


def _objections(row: Mapping[str, Any], record: Record) -> list[str]:
    """The inequalities of the theory that a row violates, with the referee's own objections."""
    objections = list(record["objections"])
    if record["status"] != "done":
        return objections
    value, bound = row.get("value"), row.get("lower_bound")
    method = EVERY_METHOD[row["method"]]
    by_width = method.floor_for is not None and "n_atoms" in method.axes
    if value is None and not by_width:
        objections.append("There is no finite value.")
    if bound is None:
        objections.append("There is no finite lower bound.")
    named = {"value": value, "exact codes": row.get("exact"), "best from there": row.get("local")}
    levels: list[tuple[str, float]] = [(name, level) for name, level in named.items() if level is not None]
    for name, level in levels:
        for below, of in (
            (bound, "its own lower bound"),
            (row.get("floor"), f"the floor ({row.get('floor_theorem')})"),
        ):
            if below is not None and below > level + SLACK * abs(level):
                objections.append(f"The {name} {level:.9g} is below {of} {below:.9g}.")
    aside, below = row.get("held_out"), row.get("held_out_wide")
    if aside is not None and below is not None and below > aside + SLACK * abs(aside):
        objections.append(f"The value {aside:.9g} on the held-out rows is below their wide limit {below:.9g} (T9).")
    for (above_name, above), (name, level) in pairwise(levels):
        if level > above + SLACK * abs(above):
            objections.append(f"The {name} {level:.9g} is above the {above_name} {above:.9g}.")
    for name in ("codes_gap", "local_codes_gap"):
        if row.get(name) is not None and row[name] < -SLACK:
            objections.append(f"The {name} {row[name]:.1e} is negative.")
    best = row.get("best")
    if by_width and best is not None and bound is not None and bound > best * (1 + SLACK):
        objections.append(f"The floor {bound:.9g} is above what a dictionary of this width attains, {best:.9g}.")
    return objections
