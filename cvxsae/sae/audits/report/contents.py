"""What an audit's report says, as plain data: ``report.json``, and all that its page shows."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae._version import __version__
from cvxsae.data.storage import strict_json
from cvxsae.sae.audits.ledger import GAPS, LEVELS
from cvxsae.sae.audits.report.findings import findings
from cvxsae.sae.audits.report.tables import Column, from_frame, table
from cvxsae.sae.audits.verdict import PARTS
from cvxsae.sae.frontiers.curves import MEANINGS

if TYPE_CHECKING:
    from cvxsae.sae.audits.answer import Audit
    from cvxsae.sae.audits.ledger import LossLedger

SCHEMA = 1
"""Version of the layout of ``report.json``."""

LIBRARIES = ("numpy", "scipy", "torch", "numba", "pandas", "plotly", "jinja2")
"""Whose versions are told."""

WORST = 20
"""Rows of the tables of what is worst."""

FRONTIER = (
    Column("curve", "curve", "text"),
    Column("lam", "λ"),
    Column("k", "k", "count", "at most"),
    Column("l0", "L0", unit="active atoms per datapoint"),
    Column("fvu", "FVU"),
    Column("fvu_low", "FVU, low", unit="95 %"),
    Column("fvu_high", "FVU, high", unit="95 %"),
    Column("value", "value", unit="per datapoint"),
    Column("gap", "relative gap of value"),
)
"""Columns of the frontier."""

UNIT = "per datapoint"
"""Unit of every value of (P)."""


def contents(audit: Audit) -> dict[str, Any]:
    """All that there is to say of an audit, ready for JSON."""
    ledger = audit.ledger
    ratio = ledger.lam / ledger.lambda_max if ledger.lambda_max > 0 else None
    return strict_json(
        {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sentences": list(audit.sentences),
            "verdict": audit.verdict.to_dict(),
            "ledger": {**ledger.to_dict(), "certificates": ledger.certificates()},
            "lam": {"value": ledger.lam, "source": ledger.lam_source, "lambda_max": ledger.lambda_max, "ratio": ratio},
            "sae": _sae(audit),
            "self_test": {"passed": audit.self_test.passed, "sentence": str(audit.self_test)},
            "missing": list(audit.missing),
            "tables": {**_ledger_tables(ledger), **_gains(audit), **_parts(audit), **_about(audit)},
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


# ------------------------------------------------------------------------------------------------- ledger


def _ledger_tables(ledger: LossLedger) -> dict[str, Any]:
    l0 = {"loss": ledger.l0, "exact": ledger.exact_l0, "local": ledger.local_l0}
    dead = {"loss": ledger.dead, "exact": ledger.exact_dead}
    proofs = {
        "loss": "attained by the encoder's codes",
        "exact": "attained by exact codes",
        "local": "attained by the dictionary found",
        "floor": f"proved ({ledger.floor_theorem})",
        "wide": "proved (T9)",
    }
    levels = [
        [
            words,
            getattr(ledger, name),
            _share(getattr(ledger, name), ledger.loss),
            l0.get(name),
            dead.get(name),
            proofs[name],
        ]
        for name, words in LEVELS.items()
    ]
    certificates = ledger.certificates()
    lines = [
        [
            name.replace("_", " "),
            getattr(ledger, name),
            _share(getattr(ledger, name), ledger.loss),
            meaning,
            certificates[name],
        ]
        for name, (_, _, meaning) in GAPS.items()
    ]
    return {
        "levels": table(
            "Levels of the loss",
            "From what training reports down to what no dictionary of any width can be below.",
            (
                Column("level", "level", "text"),
                Column("value", "value", unit=UNIT),
                Column("share", "share of the loss", "share"),
                Column("l0", "L0", unit="active atoms per datapoint"),
                Column("dead", "dead features", "count"),
                Column("status", "attained or proved", "text"),
            ),
            levels,
        ),
        "lines": table(
            "Lines of the ledger",
            "The differences between neighboring levels; they add up to the loss above the floor of any width.",
            (
                Column("line", "line", "text"),
                Column("amount", "amount", unit=UNIT),
                Column("share", "share of the loss", "share"),
                Column("meaning", "meaning", "sentence"),
                Column("certificate", "certificate", "sentence"),
            ),
            lines,
        ),
    }


def _gains(audit: Audit) -> dict[str, Any]:
    verdict, loss = audit.verdict, audit.ledger.loss
    rows = []
    for part in PARTS:
        gain = getattr(verdict, part)
        rows.append([part, gain.least, _share(gain.least, loss), gain.most, _share(gain.most, loss)])
    return {
        "gains": table(
            "What a change would gain",
            "Each on top of the ones before it: exact codes in place of the encoder, another dictionary of this width, "
            "more atoms. At least: there are arrays that attain it. At most: proved for all.",
            (
                Column("part", "change", "text"),
                Column("least", "at least", unit=UNIT),
                Column("least_share", "at least, of the loss", "share"),
                Column("most", "at most", unit=UNIT),
                Column("most_share", "at most, of the loss", "share"),
            ),
            rows,
        )
    }


def _share(amount: float, loss: float) -> float:
    return amount / loss if loss > 0 else 0.0


# -------------------------------------------------------------------------------------------------- parts


def _parts(audit: Audit) -> dict[str, Any]:
    """The tables of the parts that are there."""
    found: dict[str, Any] = {}
    if audit.metrics is not None:
        frame = audit.metrics.table().reset_index()
        columns = [Column(str(one), str(one), _kind(str(one), frame[one])) for one in frame.columns]
        about = f"Intervals: {audit.metrics.confidence:.0%}. {' '.join(audit.metrics.notes)}"
        found["metrics"] = from_frame("Metrics of the field", about, columns, frame)
    if audit.frontier is not None:
        points, of = audit.frontier.n_points, audit.ledger.n_points
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
        about = f"On {points:,} of the {of:,} rows, each point attained. {meanings}. {' '.join(audit.frontier.notes)}"
        found["frontier"] = from_frame("FVU against L0", about, FRONTIER, audit.frontier.table())
    found["worst_points"] = _worst_points(audit)
    if audit.diagnostics is not None:
        found |= findings(audit.diagnostics, np.flatnonzero(audit.accounts.live), WORST)
    return found


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
    columns = (order, lost[order], found.encoder_values[order], found.exact_values[order], *counts)
    return table(
        "Datapoints on which the encoder loses most",
        f"The first {len(order)} of {len(lost):,}. Rows are counted from 0 among those given.",
        (
            Column("row", "row", "count"),
            Column("lost", "lost"),
            Column("encoder", "value with the encoder"),
            Column("exact", "value with exact codes"),
            Column("encoder_l0", "active, encoder", "count"),
            Column("exact_l0", "active, exact", "count"),
        ),
        zip(*(column.tolist() for column in columns), strict=True),
    )


# -------------------------------------------------------------------------------------------------- about


def _about(audit: Audit) -> dict[str, Any]:
    """Where the SAE and the numbers come from."""
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
        "metadata": table("What the SAE's file says", "As it stands there; not checked.", text, metadata),
        "stages": table("Time", "Wall-clock time of every stage.", seconds, audit.seconds.items()),
        "software": table("Software", "What computed this.", text, software),
    }
