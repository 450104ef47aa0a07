"""The versioned schemas of what ``--json`` prints, one per verb; ``docs/how-to/json.md`` shows them.

A report may gain fields without a new version. A report that loses or renames a field, or changes the meaning of one,
gets a new version.
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
"""JSON types and their Python types. A trailing question mark allows null, for a missing or nonfinite number."""


@dataclass(frozen=True)
class Schema:
    """The report of one verb.

    Attributes
    ----------
    verb
        The verb, as in ``study run``.
    version
        Version of the report.
    fields
        ``"name: type"`` and the meaning of every field that is always present; :data:`COMMON` are in all reports.
    sometimes
        The same for fields that only some calls have.
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
        """The value of the field ``schema``."""
        return f"cvxsae/{self.verb.replace(' ', '-')}/{self.version}"

    def objections(self, report: dict[str, Any]) -> list[str]:
        """One sentence for each way in which a report does not match this schema."""
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
    "notes: array": "further sentences, for example on how the data were transformed",
}
"""The fields of every report."""

_PROBLEM = {
    "problem: string": "wide, codes, large, candidates or joint",
    "n_points: integer": "number of rows N",
    "dim: integer": "number of dimensions d",
    "lam: number": "λ, in the units of the data after --center and --scale",
    "lam_over_lambda_max: number?": "λ/λ_max; at 1 all codes are zero",
}
_BOUNDS = {
    "value: number?": "loss of the returned arrays, mean per datapoint",
    "lower_bound: number?": "certified lower bound on the loss, mean per datapoint",
    "gap: number?": "(value − lower_bound)/value",
    "tol: number?": "target for the relative gap",
}
_ENDED = {
    "solver: string": "the method that ran",
    "status: string": "how the call ended, for example CERTIFIED or TIME_LIMIT",
    "certified: boolean": "whether the gap is within tol",
    "message: string": "the status in words",
    "seconds: number": "wall-clock time of the whole call",
}
_PATH = {
    "name: string": "name of the study",
    "done: integer": "number of cells computed",
    "failed: integer": "number of cells that failed",
    "missing: integer": "number of cells not computed yet",
    "methods: object": "the same three numbers by method",
    "reasons: object": "reasons for failures, and how many cells failed for each",
    "seconds_left: number?": "estimated time for the missing cells",
}
_RUN = {"folder: string": "folder of the study", "summary: array": "the findings in words"}
_SAMPLE = {
    "lam: number": "λ",
    "confidence: number": "confidence of the limits",
    "seconds: number": "wall-clock time of the whole call",
}

_TABLE = (
    Schema(
        "solve",
        1,
        _PROBLEM | _BOUNDS | _ENDED | {"certificate: object": "the referee's findings, as `certify` prints them"},
        {
            "device: string": "device that the solver ran on",
            "iterations: integer": "number of steps",
            "passes: number": "number of passes over the data",
            "solver_gap: number": "part of the gap that is due to the solver",
            "relaxation_gap: number": "part of the gap that is due to the relaxation",
            "l0: number": "mean number of active atoms per datapoint",
            "live_atoms: integer": "number of atoms in use",
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
            "tol: number": "largest relative difference allowed",
            "objections: array": "one sentence for each disagreement",
            "certificates: object": "the referee's findings for `reference` and `torch`",
            "seconds: object": "wall-clock time of each solver",
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
            "bound: string": "what proves the lower bound",
            "lam: number": "λ",
            "lambda_max: number": "the smallest λ at which all codes are zero",
            "objections: array": "one sentence for each thing that is wrong",
            "smallest_code: number?": "smallest code; negative codes are an objection",
            "atom_norm_error: number?": "largest distance of an atom's norm from 1",
            "dual_violation: number?": "how far the dual point was outside its feasible set before repair",
            "bias_residual: number?": "residual of the dual constraint that a free bias adds",
            "solver_gap: number?": "part of the gap that is due to the solver",
            "relaxation_gap: number?": "part of the gap that is due to the relaxation",
            "codes_gap: number?": "relative gap of the codes of a dictionary",
            "stationarity: number?": "stationarity residual of a dictionary, in units of λ",
            "violation: object?": "the optimality condition that fails most",
        },
        {},
    ),
    Schema(
        "path",
        1,
        {
            "points: array": "one row per value of the path: width, L0, fit, value, bound, status",
            "plateau: integer": "index of the row with the widest plateau",
        },
        {},
    ),
    Schema(
        "check",
        1,
        {
            "n_points: integer": "number of rows N",
            "n_atoms: integer": "number of atoms K",
            "dim: integer": "number of dimensions d",
            "lam: number": "λ",
            "lambda_ratio: number?": "λ/λ_max",
            "value: number": "F with exact codes",
            "lower_bound: number": "lower bound on F with exact codes",
            "wide_value: number": "attained value of the wide limit",
            "wide_lower_bound: number": "certified lower bound of the wide limit, the floor of every width",
            "l0: number": "mean number of active atoms per datapoint",
            "l0_range: array": "certain bounds on the L0 of every optimum",
            "dead: integer": "number of atoms that are never used",
            "dead_range: array": "certain bounds on the number of dead atoms",
            "dense: integer": "number of atoms that are active on a large share of rows",
            "dual_excess: number": "how far an atom's correlation exceeds λ, at most",
            "stationarity: number": "largest stationarity residual of an atom, in units of λ",
            "bias_residual: number": "residual of the bias, in units of λ",
            "bias_is_free: boolean": "whether the bias must be stationary too",
            "identity_deficit: number": "largest deviation from the identity that all optima satisfy",
            "best_new_atom_gain: number": "the least that the best new atom found gains",
            "largest_split_score: number": "largest first-order gain of splitting an atom",
            "dependent_points: integer": "number of rows with linearly dependent active atoms",
            "unfinished: array": "parts that a time limit left out",
            "is_stationary: boolean": "whether every residual is within tol",
            "is_optimal_at_every_width: boolean": "whether the value reaches the floor of every width",
            "tol: number": "residuals up to this size, in units of λ, count as zero",
            "objections: array": "one sentence for each violated condition",
            "residuals: object": "properties of the residual: energy, fraction unexplained, shrinkage",
            "worst_features: array": "the atoms with the largest stationarity residuals",
            "predicted_splits: array": "the atoms that gain most by splitting",
            "pairs: array": "pairs of atoms that occur together",
            "absorbed: array": "pairs in which a child atom absorbs its parent",
            "antipodes: array": "pairs of atoms that point in opposite directions",
            "duplicates: array": "pairs of atoms that are nearly the same",
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
            "n_atoms: integer": "number of atoms K",
            "dead_atoms: integer": "number of atoms that are never used",
            "codes_gap: number": "relative gap of the codes",
            "largest_code_gap: number": "relative gap of the worst datapoint's codes",
            "l0: number": "mean number of active atoms per datapoint",
            "l0_range: array": "certain bounds on the L0 of every optimum",
            "dead: integer": "number of atoms with only zero codes",
            "dead_range: array": "certain bounds on the number of dead atoms",
            "stationarity: number?": "largest stationarity residual, in units of λ",
            "stationarity_target: number": "target for the stationarity residual",
            "bias_residual: number?": "residual of a free bias",
            "least_curvature: number?": "least curvature at the end (--second-order)",
            "seed: integer": "random seed of the start",
        },
        {
            "steps: integer": "number of steps of the search",
            "device: string": "device that the search ran on",
            "validation: object": "the value on validation rows (--validation)",
        },
        is_open=True,
    ),
    Schema("floor", 1, {"lam: number": "λ", "floors: array": "n_atoms, value, theorem, failure_probability"}, {}),
    Schema(
        "audit",
        3,
        {
            "created: string": "date and time",
            "sentences: array": "the findings in words, the most useful first",
            "verdict: object": "what to change first, and the least and the most that it gains",
            "ledger: object": "the loss in parts, with bounds",
            "sample: object": "estimates for the distribution, with intervals",
            "rows: object": "which rows were learned on and which were held out",
            "lam: object": "λ and where it comes from",
            "sae: object": "the SAE as it was read",
            "self_test: object": "whether the SAE, as it was read, reconstructs data",
            "missing: array": "parts that a time limit left out",
            "tables: object": "every table of the report",
        },
        {},
    ),
    Schema(
        "compare", 1, {"settings: object": "the arguments of the call", "results: array": "one ledger per width"}, {}
    ),
    Schema(
        "match",
        1,
        {
            "dim: integer": "number of dimensions d",
            "similar: number": "smallest cosine at which two atoms count as similar",
            "mean_cosine: number?": "mean cosine of matched pairs",
            "mean_nearest: array": "mean cosine to the nearest atom of the other dictionary, in both directions",
            "share: number?": "fraction of matched pairs that are similar",
            "baselines: array": "the same numbers for random dictionaries",
            "A: object": "the kind of each atom of A",
            "B: object": "the kind of each atom of B",
            "between: object?": "F at A, at B and along the path between them (--data)",
        },
        {},
    ),
    Schema(
        "population-floor",
        1,
        _SAMPLE
        | {
            "estimate: object": "the mean over batches, with its limit",
            "lower_limit: number?": "with this confidence, no dictionary's expected loss is below this",
            "for_rows: number?": "the floor of these rows themselves",
            "n_atoms: integer?": "the width; null for every width",
            "bias: string": "free, none or fixed",
            "n_batches: integer": "number of batches",
            "n_points: integer": "number of rows in the batches",
            "left_over: integer": "number of rows in no batch",
            "unit: string": "what is drawn independently: row or document",
            "order: string": "how rows were put into batches",
            "range: array?": "range of a batch's value, if it is known beforehand",
            "values: array": "the floor of each batch",
            "sizes: array": "number of rows of each batch",
            "theorems: array": "the theorem that proves each batch's floor",
            "batch_seconds: array": "time of each batch",
            "status: string?": "what ended the call early",
            "objections: array": "one sentence for each thing that is wrong",
        },
        {},
    ),
    Schema(
        "population-gap",
        1,
        _SAMPLE
        | {
            "gap: number?": "the most that any dictionary can gain, with this confidence",
            "relative: number?": "gap divided by the upper limit of the dictionary's loss",
            "upper: object": "the dictionary's loss, with its limit",
            "upper_limit: number?": "upper limit of the dictionary's expected loss",
            "lower: object": "the floor, as `population-floor` prints it",
            "n_points: integer": "number of rows",
            "n_atoms: integer?": "the width that it is compared with; null for every width",
            "codes: string": "exact or encoder",
            "l0: number": "mean number of active atoms per datapoint",
        },
        {},
    ),
    Schema(
        "population-dictionary",
        1,
        _SAMPLE
        | {
            "atom_price: number": "share of tokens below which an atom is not worth having",
            "n_rows: integer": "number of training rows",
            "n_atoms: integer": "number of atoms that are worth their price",
            "value: number": "cost of the dictionary on the training rows",
            "of: string": "what the limits are about: rows or distribution",
            "upper: number?": "upper limit of the dictionary's cost",
            "lower: number?": "lower limit of every dictionary's cost",
            "gap: number?": "(upper − lower)/upper",
            "l0: number": "mean number of active atoms per datapoint",
            "held_out: object?": "cost on held-out rows",
            "floor: object?": "the batches of the lower limit",
            "status: string": "how the call ended",
            "new_atom_ratio: number?": "above 1, a new atom would pay",
            "passes: number": "number of passes over the data",
        },
        {},
    ),
    Schema("study run", 1, _PATH | _RUN, {}),
    Schema("study status", 1, _PATH, {}),
    Schema("study plot", 1, {"summary: array": "the findings in words", "figures: array": "files written"}, {}),
    Schema(
        "demo",
        1,
        {
            "wide: array": "the floor under every dictionary at several λ",
            "scale: number": "factor that multiplied the embeddings",
            "dictionary: object": "results for random tokens as a dictionary",
            "crosscheck: array": "four problems, each solved by two solvers",
            "sharing: object": "the price at which words begin to share an atom",
            "ledger: object": "the loss of trained SAEs in parts",
            "certified: boolean": "whether everything is certified",
            "seconds: number": "wall-clock time of the whole call",
        },
        {},
    ),
    Schema(
        "example",
        1,
        {
            "sae: string": "folder of the SAE",
            "activations: string": "file with rows that it was not trained on",
            "lam: number": "λ that it was trained with",
            "next: string": "the command to try next",
        },
        {},
    ),
    Schema(
        "doctor",
        1,
        {
            "sound: boolean": "whether everything that should work here does",
            "machine: object": "processor, threads, memory, GPUs, versions",
            "checks: array": "name, state (works, fails, absent), detail and seconds of every check",
            "extras: array": "optional packages: name, purpose, versions, and whether all are installed",
            "objections: array": "one sentence for each thing that fails",
        },
        {},
    ),
)

SCHEMAS = {schema.verb: schema for schema in _TABLE}
"""The schema of each verb's report."""
