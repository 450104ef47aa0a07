"""What ``--json`` prints, verb by verb, in versions; ``docs/how-to/json.md`` shows it.

A report may gain fields without a new version. One that loses or renames a field, or changes what it means, gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
"""JSON's types and Python's. A question mark behind one allows null: no such number, or not a finite one."""


@dataclass(frozen=True)
class Schema:
    """The report of one verb.

    Attributes
    ----------
    verb
        The verb, as in ``study run``.
    version
        Of the report.
    fields
        ``"name: type"`` and what it means, for the fields that are always there; :data:`COMMON` are in all.
    sometimes
        The same for fields that some calls have.
    is_open
        Whether a solver may add numbers of its own.
    """

    verb: str
    version: int
    fields: dict[str, str]
    sometimes: dict[str, str]
    is_open: bool = False

    @property
    def name(self) -> str:
        """What the field ``schema`` says."""
        return f"cvxsae/{self.verb.replace(' ', '-')}/{self.version}"

    def objections(self, report: dict[str, Any]) -> list[str]:
        """One sentence for each way in which a report is not what is written here."""
        typed = {**_typed(self.sometimes), **_typed(self.fields), **_typed(COMMON)}
        missing = [name for name in {**_typed(self.fields), **_typed(COMMON)} if name not in report]
        found = [f"{name} is missing" for name in missing]
        found += [f"{name} is not documented" for name in report if name not in typed and not self.is_open]
        found += [
            f"{name} is {value!r}, not {typed[name]}"
            for name, value in report.items()
            if name in typed and not _is_a(value, typed[name])
        ]
        return found


def _typed(fields: dict[str, str]) -> dict[str, str]:
    return {name: kind for name, _, kind in (field.partition(": ") for field in fields)}


def _is_a(value: Any, kind: str) -> bool:
    if value is None:
        return kind.endswith("?")
    right = isinstance(value, KINDS[kind.rstrip("?")])
    return right and (isinstance(value, bool) == (kind.rstrip("?") == "boolean"))


COMMON = {
    "schema: string": "name and version of this report",
    "notes: array": "sentences on what else was done",
}
"""What every report has."""

_PROBLEM = {
    "problem: string": "wide, codes, large, candidates or joint",
    "n_points: integer": "rows N",
    "dim: integer": "dimensions d",
    "lam: number": "λ, in the units of the data as solved",
    "lam_over_lambda_max: number?": "λ/λ_max; at 1 all codes are zero",
}
_BOUNDS = {
    "value: number?": "what the returned arrays attain, mean per datapoint",
    "lower_bound: number?": "what nothing can be below, mean per datapoint",
    "gap: number?": "(value − lower_bound)/value",
    "tol: number?": "the relative gap asked for",
}
_ENDED = {
    "solver: string": "the method that ran",
    "status: string": "how it ended, as in CERTIFIED or TIME_LIMIT",
    "certified: boolean": "whether the gap is within tol",
    "message: string": "the status in words",
    "seconds: number": "of the whole call",
}
_PATH = {
    "name: string": "the study",
    "done: integer": "cells computed",
    "failed: integer": "cells that failed",
    "missing: integer": "cells yet to compute",
    "methods: object": "the same by method",
    "reasons: object": "why cells failed, and how many",
    "seconds_left: number?": "an estimate for the cells that are missing",
}
_SAMPLE = {
    "lam: number": "λ",
    "confidence: number": "of the limits",
    "seconds: number": "of the whole call",
}

_TABLE = (
    Schema(
        "solve",
        1,
        _PROBLEM | _BOUNDS | _ENDED | {"certificate: object": "what the referee found, as `certify` prints it"},
        {
            "device: string": "where it ran",
            "iterations: integer": "steps",
            "passes: number": "passes over the data",
            "solver_gap: number": "the part of the gap that is the solver's",
            "relaxation_gap: number": "the part that is the relaxation's",
            "l0: number": "mean active atoms per datapoint",
            "live_atoms: integer": "atoms in use",
        },
        is_open=True,
    ),
    Schema(
        "crosscheck",
        1,
        {
            "problem: string": "wide, codes, large or candidates",
            "agrees: boolean": "whether both answers are certified and agree",
            "difference: number?": "(torch − reference)/reference of the values",
            "tol: number": "the agreement asked for",
            "objections: array": "a sentence for everything that does not agree",
            "certificates: object": "what the referee found of `reference` and `torch`",
            "seconds: object": "of each",
        },
        {},
    ),
    Schema(
        "certify",
        1,
        _BOUNDS
        | {
            "problem: string": "wide, codes, large, candidates or joint",
            "certified: boolean": "whether there are no objections",
            "bound: string": "where the lower bound comes from",
            "lam: number": "λ",
            "lambda_max: number": "the λ from which all codes are zero",
            "objections: array": "a sentence for each thing that is wrong",
            "smallest_code: number?": "negative if a code is",
            "atom_norm_error: number?": "largest distance of an atom's norm from 1",
            "dual_violation: number?": "by how much the dual point had to be repaired",
            "bias_residual: number?": "of the dual constraint that a free bias adds",
            "solver_gap: number?": "the part of the gap that is the solver's",
            "relaxation_gap: number?": "the part that is the relaxation's",
            "codes_gap: number?": "of the codes of a dictionary",
            "stationarity: number?": "of a dictionary, in units of λ",
            "violation: object?": "an atom that the dual point violates",
        },
        {},
    ),
    Schema(
        "path",
        1,
        {
            "points: array": "a row for each value: width, L0, fit, value, bound, status",
            "plateau: integer": "the row of the widest plateau",
        },
        {},
    ),
    Schema(
        "check",
        1,
        {
            "n_points: integer": "rows N",
            "n_atoms: integer": "atoms K",
            "dim: integer": "dimensions d",
            "lam: number": "λ",
            "lambda_ratio: number?": "λ/λ_max",
            "value: number": "F with exact codes",
            "lower_bound: number": "of F with exact codes",
            "wide_value: number": "the floor of every width, as attained",
            "wide_lower_bound: number": "the floor of every width, as proved",
            "l0: number": "mean active atoms per datapoint",
            "l0_range: array": "what is certain of it",
            "dead: integer": "atoms that are never used",
            "dead_range: array": "what is certain of it",
            "dense: integer": "atoms in use on a large share of rows",
            "dual_excess: number": "by how much an atom's correlation exceeds λ",
            "stationarity: number": "worst residual of an atom, in units of λ",
            "bias_residual: number": "of the bias, in units of λ",
            "bias_is_free: boolean": "whether the bias must be stationary too",
            "identity_deficit: number": "of the identity that all optima satisfy",
            "best_new_atom_gain: number": "what one more atom gains at least",
            "largest_split_score: number": "above 1 an atom gains by splitting",
            "dependent_points: integer": "rows whose active atoms are dependent",
            "unfinished: array": "what a limit left out",
            "is_stationary: boolean": "whether every residual is within tol",
            "is_optimal_at_every_width: boolean": "whether the value is the floor of every width",
            "tol: number": "what counts as zero, in units of λ",
            "objections: array": "a sentence for each condition that is violated",
            "residuals: object": "of the reconstruction: energy, fraction unexplained, shrinkage",
            "worst_features: array": "the atoms that are least stationary",
            "predicted_splits: array": "atoms that gain by splitting",
            "pairs: array": "atoms that occur together",
            "absorbed: array": "atoms that absorb another",
            "antipodes: array": "atoms that point in opposite directions",
            "duplicates: array": "atoms that are the same",
            "second_order: object?": "the least curvature (--second-order)",
            "noiseless: object?": "the cone condition (--noiseless)",
        },
        {},
    ),
    Schema(
        "learn",
        1,
        _PROBLEM
        | _BOUNDS
        | _ENDED
        | {
            "n_atoms: integer": "width K",
            "dead_atoms: integer": "atoms that are never used",
            "codes_gap: number": "relative gap of the codes",
            "largest_code_gap: number": "of the worst datapoint",
            "l0: number": "mean active atoms per datapoint",
            "l0_range: array": "what is certain of it",
            "dead: integer": "atoms whose codes are all zero",
            "dead_range: array": "what is certain of it",
            "stationarity: number?": "worst residual, in units of λ",
            "stationarity_target: number": "the one asked for",
            "bias_residual: number?": "of a free bias",
            "least_curvature: number?": "at the end (--second-order)",
            "seed: integer": "of the start",
        },
        {
            "steps: integer": "of the search",
            "device: string": "where it ran",
            "validation: object": "the value on rows set aside (--validation)",
        },
        is_open=True,
    ),
    Schema("floor", 1, {"lam: number": "λ", "floors: array": "n_atoms, value and theorem of each width"}, {}),
    Schema(
        "audit",
        2,
        {
            "created: string": "when",
            "sentences: array": "the findings in words, the most useful first",
            "verdict: object": "what to change first, and what it gains at least and at most",
            "ledger: object": "the loss in parts, with bounds",
            "sample: object": "estimates for the distribution, with intervals",
            "rows: object": "which rows were learned on and which were held out",
            "lam: object": "λ and where it comes from",
            "sae: object": "the SAE as it was understood",
            "self_test: object": "whether the SAE as read does what its file says",
            "missing: array": "what a limit left out",
            "tables: object": "every table of the report",
        },
        {},
    ),
    Schema(
        "compare",
        1,
        {"settings: object": "what was asked", "results: array": "a ledger for each width"},
        {},
    ),
    Schema(
        "match",
        1,
        {
            "dim: integer": "dimensions d",
            "similar: number": "the cosine from which atoms are alike",
            "mean_cosine: number?": "of matched pairs",
            "mean_nearest: array": "mean cosine to the nearest atom of the other, both ways",
            "share: number?": "of atoms that both have",
            "baselines: array": "the same of random dictionaries",
            "A: object": "what became of each atom of A",
            "B: object": "what became of each atom of B",
            "between: object?": "F at both and on the way between them (--data)",
        },
        {},
    ),
    Schema(
        "population-floor",
        1,
        _SAMPLE
        | {
            "estimate: object": "the mean over batches, with its limit",
            "lower_limit: number?": "no dictionary is below on the distribution, with this confidence",
            "for_rows: number?": "the floor of these rows themselves",
            "n_atoms: integer?": "the width; null for every width",
            "bias: string": "free, none or fixed",
            "n_batches: integer": "how many batches",
            "n_points: integer": "rows in them",
            "left_over: integer": "rows in none",
            "unit: string": "what is drawn independently: row or document",
            "order: string": "how rows were put into batches",
            "range: array?": "of a batch's value, where it is known beforehand",
            "values: array": "the floor of each batch",
            "sizes: array": "rows of each batch",
            "theorems: array": "what proves each",
            "batch_seconds: array": "of each",
            "status: string?": "what ended it early",
            "objections: array": "a sentence for each thing that is wrong",
        },
        {},
    ),
    Schema(
        "population-gap",
        1,
        _SAMPLE
        | {
            "gap: number?": "what any dictionary can gain at most, with this confidence",
            "relative: number?": "the same over the dictionary's own loss",
            "upper: object": "the dictionary's loss, with its limit",
            "upper_limit: number?": "above the dictionary's loss on the distribution",
            "lower: object": "the floor, as `population-floor` prints it",
            "n_points: integer": "rows",
            "n_atoms: integer?": "the width compared with; null for every width",
            "codes: string": "exact or encoder",
            "l0: number": "mean active atoms per datapoint",
        },
        {},
    ),
    Schema(
        "population-dictionary",
        1,
        _SAMPLE
        | {
            "atom_price: number": "share of tokens below which an atom is not worth having",
            "n_rows: integer": "rows learned on",
            "n_atoms: integer": "atoms found worth their price",
            "value: number": "what it costs, on the rows learned on",
            "of: string": "what the limits are of: rows or distribution",
            "upper: number?": "limit above what it costs",
            "lower: number?": "limit below what any dictionary costs",
            "gap: number?": "(upper − lower)/upper",
            "l0: number": "mean active atoms per datapoint",
            "held_out: object?": "the cost on rows held out",
            "floor: object?": "the batches of the lower side",
            "status: string": "how it ended",
            "new_atom_ratio: number?": "above 1 a new atom would pay",
            "passes: number": "passes over the data",
        },
        {},
    ),
    Schema("study run", 1, _PATH | {"folder: string": "of the study", "summary: array": "the findings in words"}, {}),
    Schema("study status", 1, _PATH, {}),
    Schema("study plot", 1, {"summary: array": "the findings in words", "figures: array": "files written"}, {}),
    Schema(
        "demo",
        1,
        {
            "wide: array": "the floor under every dictionary at several λ",
            "scale: number": "what the embeddings were multiplied by",
            "dictionary: object": "random tokens as a dictionary",
            "crosscheck: array": "four problems solved twice",
            "sharing: object": "the price at which words begin to share an atom",
            "ledger: object": "trained SAEs taken apart",
            "certified: boolean": "whether everything is",
            "seconds: number": "of the whole call",
        },
        {},
    ),
    Schema(
        "example",
        1,
        {
            "sae: string": "the folder with the SAE",
            "activations: string": "the file with rows that it has not seen",
            "lam: number": "λ that it was trained with",
            "next: string": "a command to go on with",
        },
        {},
    ),
    Schema(
        "doctor",
        1,
        {
            "sound: boolean": "whether everything that should work here does",
            "machine: object": "processor, threads, memory, GPUs, versions",
            "checks: array": "name, state (works, fails, absent), detail and seconds of everything tried",
            "extras: array": "optional packages: name, purpose, versions, and whether all are there",
            "objections: array": "a sentence for each thing that fails",
        },
        {},
    ),
)

SCHEMAS = {schema.verb: schema for schema in _TABLE}
"""The report of each verb."""
