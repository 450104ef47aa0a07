"""Tables of the ledger: levels, lines and gains, on the ledger's rows and on those that D' was learned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsae.sae.audits.ledger import GAPS, LEVELS
from cvxsae.sae.audits.report.tables import Column, table
from cvxsae.sae.audits.verdict import PARTS
from cvxsae.statistics.estimates import Estimate

if TYPE_CHECKING:
    from cvxsae.sae.audits.answer import Audit
    from cvxsae.sae.audits.ledger import LossLedger

UNIT = "per datapoint"
"""Unit of every value of (P)."""

NOT_KNOWN = Estimate(float("nan"))
"""Where there is no interval."""


def ledger_tables(audit: Audit) -> dict[str, Any]:
    """Levels and lines of the ledger, and what changes would gain."""
    return {"levels": _levels(audit), "lines": _lines(audit), "gains": _gains(audit)}


def rows_said(ledger: LossLedger) -> dict[str, Any]:
    """Which rows the ledger is about, in numbers and in words."""
    one = ledger.estimates.get("loss", NOT_KNOWN)
    unit = "" if one.unit == "row" else f" in {one.n_units:,} {one.unit}s"
    said = f"{ledger.n_points:,} held out{unit}" if ledger.is_held_out else f"{ledger.n_points:,} given, none held out"
    return {
        "kind": ledger.rows,
        "n_points": ledger.n_points,
        "learned_on": ledger.n_seen if ledger.is_held_out else ledger.n_points,
        "unit": one.unit,
        "n_units": one.n_units,
        "confidence": None if np.isnan(one.confidence) else one.confidence,
        "method": one.method,
        "words": said,
    }


def _intervals(ledger: LossLedger) -> tuple[Column, ...]:
    """The columns that only held-out rows have: intervals, and the same on the rows that D' was learned on."""
    if not ledger.is_held_out:
        return ()
    level = ledger.estimates.get("loss", NOT_KNOWN).confidence
    unit = "no interval" if np.isnan(level) else f"{100 * level:.4g}%"
    seen = Column("seen", "on the training rows", unit=UNIT)
    low = Column("low", "distribution, lower end", unit=unit)
    return low, Column("high", "distribution, upper end", unit=unit), seen


def _ends(audit: Audit, name: str) -> list[Any]:
    """What stands in these columns."""
    if not audit.ledger.is_held_out:
        return []
    one = audit.ledger.estimates.get(name, NOT_KNOWN)
    ends = [None if np.isnan(end) else end for end in (one.low, one.high)]
    return [*ends, getattr(audit.sample, name)]


def _levels(audit: Audit) -> dict[str, Any]:
    ledger = audit.ledger
    l0 = {"loss": ledger.l0, "exact": ledger.exact_l0, "local": ledger.local_l0}
    dead = {"loss": ledger.dead, "exact": ledger.exact_dead}
    proofs = {
        "loss": "attained by the encoder's codes",
        "exact": "attained by exact codes",
        "local": "attained by the dictionary found",
        "floor": f"proved ({ledger.floor_theorem})",
        "wide": "proved (T9)",
    }
    rows = []
    for name, words in LEVELS.items():
        value = getattr(ledger, name)
        facts = [_share(value, ledger.loss), l0.get(name), dead.get(name), proofs[name]]
        rows.append([words, value, *_ends(audit, name), *facts])
    return table(
        "Levels of the loss",
        f"From the SAE's own loss down to the floor of every width. {_about(ledger)}",
        (
            Column("level", "level", "text"),
            Column("value", "value", unit=UNIT),
            *_intervals(ledger),
            Column("share", "share of the loss", "share"),
            Column("l0", "L0", unit="active atoms per datapoint"),
            Column("dead", "dead features", "count"),
            Column("status", "attained or proved", "text"),
        ),
        rows,
    )


def _lines(audit: Audit) -> dict[str, Any]:
    ledger = audit.ledger
    certificates, meanings = ledger.certificates(), ledger.meanings()
    rows = []
    for name in (*GAPS, *(["memorization"] if ledger.is_held_out else [])):
        amount, proof = getattr(ledger, name), certificates[name if name in GAPS else "dictionary_gap"]
        words = [_share(amount, ledger.loss), meanings[name], proof]
        rows.append([name.replace("_", " "), amount, *_ends(audit, name), *words])
    more = (
        ""
        if not ledger.is_held_out
        else (
            " The last row is not part of the sum: a dictionary costs less on the rows that it was learned on, because "
            "of memorization."
        )
    )
    return table(
        "Lines of the ledger",
        "The differences between neighboring levels; they add up to the loss above the floor of any width."
        f"{more} Rows and intervals are as in the table of levels.",
        (
            Column("line", "line", "text"),
            Column("amount", "amount", unit=UNIT),
            *_intervals(ledger),
            Column("share", "share of the loss", "share"),
            Column("meaning", "meaning", "sentence"),
            Column("certificate", "certificate", "sentence"),
        ),
        rows,
    )


def _about(ledger: LossLedger) -> str:
    """Sentences that say which rows a table is about, and what its intervals mean."""
    if not ledger.is_held_out:
        return f"Everything is about the {ledger.n_points:,} given rows, none of which are held out."
    one = ledger.estimates.get("loss", NOT_KNOWN)
    said = f"Values are exact for the {ledger.n_points:,} held-out rows"
    if np.isnan(one.low):
        return f"{said}; one {one.unit} is too few for intervals."
    return (
        f"{said}; intervals are for the distribution that they were drawn from ({one.method}, over {one.n_units:,} "
        f"independent {one.unit}s), if the SAE was not trained on them. Intervals of levels "
        f"may overlap although a gap is sure, because gaps are paired {one.unit} by {one.unit}. Floors are about the "
        "held-out rows; in expectation they are below those of the distribution."
    )


def _gains(audit: Audit) -> dict[str, Any]:
    verdict, ledger = audit.verdict, audit.ledger
    rows = []
    for part in PARTS:
        gain = getattr(verdict, part)
        one = NOT_KNOWN if gain.estimate is None else gain.estimate
        ends = [None if np.isnan(end) else end for end in (one.low, one.high)] if ledger.is_held_out else []
        least, most = (_share(amount, ledger.loss) for amount in (gain.least, gain.most))
        rows.append([part, gain.least, *ends, least, gain.most, most])
    which = "held-out" if ledger.is_held_out else "given"
    return table(
        "What a change would gain",
        "Each change comes on top of the ones before it: exact codes instead of the encoder's, another dictionary of "
        f"this width, more atoms. Attained: there are arrays with this gain on the {which} rows (for the width: with "
        f"enough atoms, up to one per datapoint, and impossible at this width). At most: proved for all arrays, on the "
        f"{which} rows.",
        (
            Column("part", "change", "text"),
            Column("least", "attained", unit=UNIT),
            *_intervals(ledger)[:2],
            Column("least_share", "attained, share of the loss", "share"),
            Column("most", "at most", unit=UNIT),
            Column("most_share", "at most, share of the loss", "share"),
        ),
        rows,
    )


def _share(amount: float, loss: float) -> float:
    return amount / loss if loss > 0 else 0.0
