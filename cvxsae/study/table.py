"""One row a cell, the floors that hold for it joined on, and what theory has to object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cvxsae.relaxations.solution import relative_gap
from cvxsae.sae.ledger import GAPS

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.study.plan import Cell
    from cvxsae.study.store import Record, Store

SLACK = 1e-9
"""Relative rounding allowed between a value and a floor that were computed in different ways."""

COLUMNS: dict[str, tuple[str, str]] = {
    "cell": ("string", "identity: hash of method, its parameters, data, seed and schema"),
    "method": ("string", "what was computed"),
    "data": ("string", "name of the data set"),
    "data_hash": ("string", "SHA-256 of its rows and of what is done to them"),
    "n_points": ("Int64", "N"),
    "dim": ("Int64", "d"),
    "n_atoms": ("Int64", "K"),
    "lam": ("Float64", "λ, calibrated where a target L0 was asked for"),
    "target_l0": ("Float64", "active atoms asked for"),
    "atom_cost": ("Float64", "τ"),
    "bias": ("string", "none, free or mean"),
    "seed": ("Int64", "of search and training"),
    "status": ("string", "done or failed"),
    "reason": ("string", "why it failed"),
    "violation": ("string", "what theory has to object: never anything, unless a value, a floor or this code is wrong"),
    "certified": ("boolean", "the referee has no objection and nothing violates theory"),
    "value": ("Float64", "attained, mean per datapoint as in (P); trained_sae: by its own encoder"),
    "lower_bound": (
        "Float64",
        "certified by the cell itself, of its own problem; learned, trained_sae: of every width",
    ),
    "gap": ("Float64", "(value − lower_bound)/value"),
    "floor": ("Float64", "highest lower bound in the study that holds for this row: of its width or any"),
    "floor_theorem": ("string", "what proves it"),
    "wide": ("Float64", "lower bound of F_wide: no dictionary of any width is below (T9)"),
    "excess": ("Float64", "value − wide"),
    "best": ("Float64", "lowest value found for this width or a narrower one: an upper bound of F*_K"),
    "theorem": ("string", "what proves a floor cell"),
    "exact": ("Float64", "trained_sae: its dictionary with exact codes"),
    "local": ("Float64", "trained_sae: best dictionary found from its own"),
    "amortisation_gap": ("Float64", "trained_sae: value − exact"),
    "dictionary_gap": ("Float64", "trained_sae: exact − local"),
    "local_gap": ("Float64", "trained_sae: local − floor"),
    "width_gap": ("Float64", "trained_sae: floor − wide"),
    "codes_gap": ("Float64", "relative duality gap of exact codes"),
    "local_codes_gap": ("Float64", "trained_sae: the same for the best dictionary found from its own"),
    "stationarity": ("Float64", "largest ‖E_k[r]/λ − d_k‖ (T3); trained_sae: at the best dictionary found"),
    "bias_residual": ("Float64", "‖mean r‖/λ for a free bias (T3)"),
    "least_curvature": ("Float64", "least eigenvalue of the scaled Hessian, where asked for (T5)"),
    "identity_deficit": ("Float64", "check: largest failure of the cosine–co-firing identity (T4)"),
    "new_atom_gain": ("Float64", "check: what the best new atom found lowers F by (T7)"),
    "split_score": ("Float64", "check: largest split score (T8)"),
    "dense": ("Int64", "check: dense features"),
    "solver_gap": ("Float64", "large_dictionary: part of the gap that is the solver's"),
    "relaxation_gap": ("Float64", "large_dictionary: part of the gap that is the relaxation's"),
    "l0": ("Float64", "active atoms per datapoint; trained_sae: by its encoder"),
    "exact_l0": ("Float64", "trained_sae: of exact codes"),
    "local_l0": ("Float64", "trained_sae: of the best dictionary found from its own"),
    "fvu": ("Float64", "fraction of variance about the mean left unexplained"),
    "live_atoms": ("Int64", "atoms that some datapoint uses"),
    "lambda_max": ("Float64", "smallest λ at which all codes are zero; large_dictionary: at its τ"),
    "outcome": ("string", "how the computation ended"),
    "warm_from": ("string", "cell whose dictionary it started from, or checks"),
    "note": ("string", "why a start is cold that was to be warm"),
    "seconds": ("Float64", "wall-clock time of the cell"),
    "cpu_seconds": ("Float64", "processor time of its process meanwhile"),
    "threads": ("Int64", "threads it was allowed"),
    "cvxsae": ("string", "version"),
    "torch": ("string", "version"),
    "numpy": ("string", "version"),
    "python": ("string", "version"),
    "platform": ("string", "operating system and processor"),
    "ended": ("string", "when, local time"),
}
"""Type and meaning of every column."""


@dataclass(frozen=True)
class Below:
    """A certified lower bound: of F at widths up to ``n_atoms``, or of any width (None)."""

    value: float
    theorem: str
    n_atoms: int | None

    def holds_for(self, n_atoms: int | None) -> bool:
        """A bound for K atoms holds for fewer."""
        return self.n_atoms is None or (n_atoms is not None and n_atoms <= self.n_atoms)


def table(cells: Sequence[Cell], store: Store) -> pd.DataFrame:
    """One row for every cell that has ended, in the order of the plan."""
    records = {cell.id: record for cell in cells if (record := store.record(cell.id)) is not None}
    return frame(cells, records)


def frame(cells: Sequence[Cell], records: Mapping[str, Record]) -> pd.DataFrame:
    """The table of these records; violations are found here, from the numbers as they are."""
    import pandas as pd

    floors, found, scales = _floors(cells, records), _attained(cells, records), _scales(cells, records)
    rows = [
        {"lambda_max": scales.get(cell.place)} | _row(cell, records[cell.id], floors, found)
        for cell in cells
        if cell.id in records
    ]
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, (kind, _) in COLUMNS.items()}
    return pd.DataFrame(columns)


def violations(records: Mapping[str, Record], cells: Sequence[Cell], ended: Cell) -> list[str]:
    """What theory has to object to a cell that has just ended, and to what ended before in view of it."""
    near = [cell for cell in cells if cell.id in records and cell.place == ended.place]
    floors, found = _floors(near, records), _attained(near, records)
    said = {cell.id: _row(cell, records[cell.id], floors, found)["violation"] for cell in near}
    if ended.method in ("wide_limit", "spectral_floor", "width_floor"):
        return [f"{cell}: {said[cell.id]}" if cell.id != ended.id else said[cell.id] for cell in near if said[cell.id]]
    return [said[ended.id]] if said[ended.id] else []


Places = dict[tuple[Any, ...], list[Below]]
Values = dict[tuple[Any, ...], list[tuple[int, float]]]


def _floors(cells: Sequence[Cell], records: Mapping[str, Record]) -> Places:
    """The lower bounds of every place."""
    floors: Places = {}
    for cell in cells:
        bound = records[cell.id]["numbers"].get("lower_bound") if cell.id in records else None
        if bound is None:
            continue
        if cell.method == "wide_limit":
            floors.setdefault(cell.place, []).append(Below(bound, "T9", None))
        elif cell.method in ("spectral_floor", "width_floor"):
            theorem = records[cell.id]["numbers"].get("theorem") or "?"
            floors.setdefault(cell.place, []).append(Below(bound, theorem, cell.n_atoms))
    return floors


def _scales(cells: Sequence[Cell], records: Mapping[str, Record]) -> dict[tuple[Any, ...], float]:
    """λ_max of every place: λ means nothing without it."""
    wide = [cell for cell in cells if cell.method == "wide_limit" and cell.id in records]
    return {cell.place: records[cell.id]["numbers"]["lambda_max"] for cell in wide
            if records[cell.id]["numbers"].get("lambda_max")}  # fmt: skip


def _attained(cells: Sequence[Cell], records: Mapping[str, Record]) -> Values:
    """What dictionaries of every place attain, with their widths."""
    found: Values = {}
    for cell in cells:
        if cell.id in records and cell.n_atoms is not None and cell.method in ("learned", "trained_sae"):
            numbers = records[cell.id]["numbers"]
            values = [numbers[name] for name in ("value", "exact", "local") if numbers.get(name) is not None]
            if values:
                found.setdefault(cell.place, []).append((cell.n_atoms, min(values)))
    return found


def _row(cell: Cell, record: Record, floors: Places, found: Values) -> dict[str, Any]:
    numbers = record["numbers"]
    row: dict[str, Any] = {
        "cell": cell.id, "method": cell.method, "data": cell.data, "data_hash": cell.data_hash,
        "n_points": cell.n_points, "dim": cell.dim, "n_atoms": cell.n_atoms, "lam": cell.lam,
        "target_l0": cell.target_l0, "atom_cost": cell.atom_cost, "bias": cell.bias, "seed": cell.seed,
        **{name: value for name, value in numbers.items() if value is not None and name in COLUMNS},
        **{name: record.get(name) for name in (
            "status", "reason", "warm_from", "note", "seconds", "cpu_seconds", "threads", "ended")},
        **{name: record["versions"].get(name) for name in ("cvxsae", "torch", "numpy", "python", "platform")},
    }  # fmt: skip
    holding = [below for below in floors.get(cell.place, []) if below.holds_for(cell.n_atoms)]
    wide = [below for below in holding if below.n_atoms is None]
    if holding and cell.method != "calibrate":
        highest = max(holding, key=lambda below: below.value)
        row |= {"floor": highest.value, "floor_theorem": highest.theorem}
    value, bound = row.get("value"), row.get("lower_bound")
    if value is not None and bound is not None:
        row["gap"] = relative_gap(value, bound)
    if wide and cell.method != "calibrate":
        row["wide"] = max(below.value for below in wide)
        if value is not None:
            row["excess"] = value - row["wide"]
    if cell.method in ("learned", "trained_sae"):
        narrower = [best for width, best in found.get(cell.place, []) if width <= (cell.n_atoms or 0)]
        row["best"] = min(narrower, default=None)
    if cell.method == "trained_sae":
        for name, (above, below_, _) in GAPS.items():
            ends = [row.get("value" if end == "loss" else end) for end in (above, below_)]
            row[name] = ends[0] - ends[1] if ends[0] is not None and ends[1] is not None else None
    said = _objections(row, record)
    row["violation"] = " ".join(said) or None
    row["certified"] = row["status"] == "done" and not said
    return row


def _objections(row: Mapping[str, Any], record: Record) -> list[str]:
    """What theory demands and does not find; the referee's own objections among it."""
    said = list(record["objections"])
    if record["status"] != "done":
        return said
    value, bound = row.get("value"), row.get("lower_bound")
    by_width = row["method"] in ("spectral_floor", "width_floor")
    if value is None and not by_width:
        said.append("There is no finite value.")
    if bound is None:
        said.append("There is no finite lower bound.")
    named = {"value": value, "exact codes": row.get("exact"), "best from there": row.get("local")}
    levels: list[tuple[str, float]] = [(name, level) for name, level in named.items() if level is not None]
    for name, level in levels:
        for below, of in (
            (bound, "its own lower bound"),
            (row.get("floor"), f"the floor ({row.get('floor_theorem')})"),
        ):
            if below is not None and below > level + SLACK * abs(level):
                said.append(f"The {name} {level:.9g} is below {of} {below:.9g}.")
    for (above_name, above), (name, level) in pairwise(levels):
        if level > above + SLACK * abs(above):
            said.append(f"The {name} {level:.9g} is above the {above_name} {above:.9g}.")
    for name in ("codes_gap", "local_codes_gap"):
        if row.get(name) is not None and row[name] < -SLACK:
            said.append(f"The {name} {row[name]:.1e} is negative.")
    best = row.get("best")
    if by_width and best is not None and bound is not None and bound > best * (1 + SLACK):
        said.append(f"The floor {bound:.9g} is above what a dictionary of this width attains, {best:.9g}.")
    return said
