"""The content of an audit's report as plain data: ``report.json``, and everything that its page shows."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae._version import __version__
from cvxsae.data.storage import strict_json
from cvxsae.sae.audits.report.findings import findings
from cvxsae.sae.audits.report.losses import ledger_tables, rows_said
from cvxsae.sae.audits.report.tables import Column, from_frame, table
from cvxsae.sae.frontiers.curves import MEANINGS, NO_BEST

if TYPE_CHECKING:
    import pandas as pd

    from cvxsae.sae.audits.answer import Audit
    from cvxsae.sae.frontiers.curves import Frontier

SCHEMA = 3
"""Version of the layout of ``report.json``; 1 had no held-out rows, 2 one column of the frontier for two objectives."""

LIBRARIES = ("numpy", "scipy", "torch", "numba", "pandas", "plotly", "jinja2")
"""Libraries that the report gives versions of."""

WORST = 20
"""Number of rows in the tables of worst features and datapoints."""

FRONTIER = (
    Column("curve", "curve", "text"),
    Column("lam", "λ"),
    Column("k", "largest number of active atoms", "count"),
    Column("l0", "L0", unit="active atoms per datapoint"),
    Column("fvu", "FVU", unit="fraction of variance unexplained"),
    Column("fvu_low", "FVU, lower end"),
    Column("fvu_high", "FVU, upper end"),
    Column("loss", "loss at λ", unit="per datapoint"),
    Column("loss_gap", "relative gap of the loss"),
    Column("half_error", "half the squared error", unit="per datapoint"),
    Column("half_error_gap", "relative gap of half the squared error"),
)
"""Columns of the frontier: codes at a λ have a loss of (P), others only an error, and the two cannot be compared."""


def contents(audit: Audit) -> dict[str, Any]:
    """Return everything about an audit as a dictionary for JSON."""
    ledger = audit.ledger
    ratio = ledger.lam / ledger.lambda_max if ledger.lambda_max > 0 else None
    return strict_json(
        {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sentences": list(audit.sentences),
            "verdict": audit.verdict.to_dict(),
            "ledger": {**ledger.to_dict(), "certificates": ledger.certificates()},
            "sample": audit.sample.to_dict(),
            "rows": rows_said(ledger),
            "lam": {"value": ledger.lam, "source": ledger.lam_source, "lambda_max": ledger.lambda_max, "ratio": ratio},
            "sae": _sae(audit),
            "self_test": {"passed": audit.self_test.passed, "sentence": str(audit.self_test)},
            "missing": list(audit.missing),
            "tables": {**ledger_tables(audit), **_parts(audit), **_about(audit)},
        }
    )


def _sae(audit: Audit) -> dict[str, Any]:
    sae = audit.sae
    return {
        "dim": sae.dim,
        "n_atoms": sae.n_atoms,
        "activation": sae.activation.name,
        "is_trained_with_l1": sae.activation.is_trained_with_l1,
        "normalization": None if sae.normalization is None else sae.normalization.name,
        "lam": sae.lam,
        "trainer": sae.trainer,
    }


# -------------------------------------------------------------------------------------------------- parts


def _parts(audit: Audit) -> dict[str, Any]:
    """The tables of the parts that were computed."""
    found: dict[str, Any] = {}
    which = f"{audit.ledger.n_points:,} {'held-out' if audit.ledger.is_held_out else 'given'} rows"
    if audit.metrics is not None:
        frame = audit.metrics.table().reset_index()
        columns = [Column(str(one), str(one), _kind(str(one), frame[one])) for one in frame.columns]
        level = f"{100 * audit.metrics.confidence:.4g}%"
        about = f"For the {which}, with {level} intervals. {' '.join(audit.metrics.notes)}"
        found["metrics"] = from_frame("The field's metrics", about, columns, frame)
    if audit.frontier is not None:
        points = audit.frontier.n_points
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
        said = f"{meanings}. {' '.join(audit.frontier.notes)}"
        units = "documents" if _unit(audit) == "document" else "rows"
        level = f"The lower and upper ends are those of {100 * audit.frontier.confidence:.4g}% intervals over {units}."
        about = f"For {points:,} of the {which}; every point is attained. {level} {said}"
        found["frontier"] = from_frame("FVU against L0", f"{about} {NO_BEST}", FRONTIER, _by_objective(audit.frontier))
    found["worst_points"] = _worst_points(audit)
    if audit.diagnostics is not None:
        found |= findings(audit.diagnostics, np.flatnonzero(audit.accounts.live), audit.accounts.numbers, WORST)
    return found


def _by_objective(frontier: Frontier) -> pd.DataFrame:
    """The points of a frontier, with what codes at a λ minimize and what others do in columns of their own."""
    points = frontier.table()
    at_lam = points["lam"].notna()
    parts = {"loss": ("value", at_lam), "loss_gap": ("gap", at_lam)}
    parts |= {"half_error": ("value", ~at_lam), "half_error_gap": ("gap", ~at_lam)}
    return points.assign(**{name: points[source].where(rows) for name, (source, rows) in parts.items()})


def _unit(audit: Audit) -> str:
    """The unit that was drawn independently."""
    known = audit.ledger.estimates.get("loss")
    return "row" if known is None else known.unit


def _kind(name: str, column: Any) -> Any:
    from pandas.api import types

    if name == "meaning":
        return "sentence"
    if types.is_integer_dtype(column):
        return "count"
    return "number" if types.is_numeric_dtype(column) and not types.is_bool_dtype(column) else "text"


def _worst_points(audit: Audit) -> dict[str, Any]:
    """The datapoints on which the encoder loses most."""
    found = audit.accounts
    lost = found.encoder_values - found.exact_values
    order = np.argsort(-lost, kind="stable")[:WORST]
    counts = [np.diff(codes.indptr)[order] for codes in (found.by_encoder, found.exact)]
    columns = (found.numbers[order], lost[order], found.encoder_values[order], found.exact_values[order], *counts)
    return table(
        "Datapoints on which the encoder loses most",
        f"The first {len(order)} of {len(lost):,} datapoints. Row numbers start from 0 and refer to the original data.",
        (
            Column("row", "row", "count"),
            Column("lost", "loss due to the encoder"),
            Column("encoder", "value with the encoder's codes"),
            Column("exact", "value with exact codes"),
            Column("encoder_l0", "active atoms, encoder", "count"),
            Column("exact_l0", "active atoms, exact codes", "count"),
        ),
        zip(*(column.tolist() for column in columns), strict=True),
    )


# -------------------------------------------------------------------------------------------------- about


def _about(audit: Audit) -> dict[str, Any]:
    """The origin of the SAE and of the numbers."""
    metadata = [[str(name), str(value)] for name, value in audit.sae.metadata.items()]
    software = [["cvxsae", __version__], ["python", sys.version.split()[0]], ["platform", platform.platform()]]
    for library in LIBRARIES:
        try:
            software.append([library, version(library)])
        except PackageNotFoundError:
            continue
    text = (Column("name", "name", "text"), Column("value", "value", "text"))
    seconds = (Column("stage", "stage", "text"), Column("seconds", "seconds"))
    return {
        "metadata": table("What the SAE's file says", "Quoted from the file; not checked.", text, metadata),
        "stages": table("Time", "Wall-clock time of every stage.", seconds, audit.seconds.items()),
        "software": table("Software", "Versions of the software that computed this report.", text, software),
    }
