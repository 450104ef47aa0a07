"""The sentences of a verdict, on the given rows or on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cvxsae.sae.audits.verdict import Verdict
    from cvxsae.statistics.estimates import Estimate


def phrases(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict says, the most important sentence first."""
    words = _Words(verdict)
    parts = [part for part in _ORDER if part != verdict.first] if verdict.first in _ORDER else []
    if not verdict.ledger.is_held_out:
        said = {**_GIVEN, **({} if verdict.dictionary.least > 0 else {"dictionary": _NONE_KNOWN})}
        return words.fill(_GIVEN_HEADLINES[verdict.first], *(said[part] for part in parts))
    said = {**_HELD_OUT, "encoder": words.encoder(), "dictionary": words.dictionary()}
    if verdict.first in ("nothing", "open") and verdict.ledger.improved and not verdict.ledger.shows_better:
        parts = ["dictionary"]
    return words.fill(words.headline(), *(said[part] for part in parts))


class _Words:
    """The numbers of a verdict by the names that sentences have for them."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.ledger = verdict, verdict.ledger
        ledger, known = self.ledger, self.ledger.estimates.get("loss")
        self.unit = "row" if known is None else known.unit
        gains = {"everything": verdict.everything}
        for part in _ORDER:
            gain = getattr(verdict, part)
            gains |= {f"{part}_least": gain.least, f"{part}_most": gain.most}
            if gain.estimate is not None:
                gains[f"{part}_low"] = gain.estimate.low
        memorized = ledger.estimates.get("memorization")
        gains["memorized_low"] = float("nan") if memorized is None else memorized.low
        self.numbers = {name: self._amount(value) for name, value in gains.items()}
        some = ledger.estimates.get("loss")
        self.numbers |= {
            "given": _rows(ledger.n_points, " given"),
            "held_out": _rows(ledger.n_points, " held-out"),
            "n_seen": _rows(ledger.n_seen, ""),
            "n_others": _rows(ledger.n_seen, " other"),
            "unit": self.unit,
            "seen": f"{ledger.seen_gap or 0.0:.4g}",
            "confidence": "" if some is None or np.isnan(some.low) else f"{100 * some.confidence:.4g} % confidence",
        }

    def fill(self, *texts: str) -> tuple[str, ...]:
        """Fill the numbers into sentences."""
        return tuple(text.format(**self.numbers) for text in texts)

    def headline(self) -> str:
        """The first sentence on held-out rows."""
        first, encoder, dictionary = self.verdict.first, self.verdict.encoder, self.verdict.dictionary
        if first != "open":
            return _HEADLINES[first]
        if max(encoder.least, dictionary.least) < self.verdict.worth:
            return _CUT_OFF
        part = "encoder" if encoder.least >= dictionary.least else "dictionary"
        gain = encoder if part == "encoder" else dictionary
        return _TOO_FEW[part] + self._between(gain.estimate) + "; hold out more {unit}s."

    def encoder(self) -> str:
        """The sentence about the encoder on held-out rows, if it does not come first."""
        return _HELD_OUT["encoder"] if np.isfinite(self.verdict.encoder.sure) else _ENCODER_HERE

    def dictionary(self) -> str:
        """The sentence about the dictionary on held-out rows, if it does not come first."""
        gap = self.verdict.dictionary.estimate
        if not self.ledger.improved:
            return _NONE_KNOWN_HERE
        if self.ledger.shows_better:
            return _HELD_OUT["dictionary"]
        return f"{_NONE_SHOWN} ({self._between(gap)}): {self._memorized()}{_AT_MOST}"

    def _memorized(self) -> str:
        memorized = self.ledger.estimates.get("memorization")
        if memorized is None or not memorized.low > 0:
            return "these rows do not show whether its gain on the rows it was learned on is memorization"
        gap = self.verdict.dictionary.estimate
        if gap is not None and gap.high <= 0:
            return "its gain on the rows it was learned on is memorization"
        return "at least {memorized_low} of its gain on the rows it was learned on is memorization"

    def _between(self, estimate: Estimate | None) -> str:
        if estimate is None or np.isnan(estimate.low):
            return f"the gain for the distribution is not known, because one {self.unit} is too few for an interval"
        ends = f"between {estimate.low:.4g} and {estimate.high:.4g}"
        return f"the gain for the distribution is {ends}, with {{confidence}}"

    def _amount(self, gain: float) -> str:
        """A gain with its share of the loss. Of the given rows none is negative but by rounding."""
        if not self.ledger.is_held_out or abs(gain) < np.finfo(np.float64).eps * abs(self.verdict.loss):
            gain = max(gain, 0.0)
        share = gain / self.verdict.loss if self.verdict.loss > 0 else 0.0
        return f"{gain:.4g} ({share:.1%} of the loss)"


def _rows(count: int, which: str = "") -> str:
    """So many rows, in words."""
    return f"{count:,}{which} row{'' if count == 1 else 's'}"


_ORDER = ("encoder", "dictionary", "width")

_GIVEN_HEADLINES = {
    "encoder": "On the {given} (none are held out, so nothing is said about others), change the encoder first: "
    "exact codes of the same dictionary lower the loss by {encoder_least}, and no codes of this dictionary lower it by "
    "more than {encoder_most}.",
    "dictionary": "On the {given} (none are held out, so nothing is said about others), change the dictionary "
    "first: another one of the same width, learned on these rows, lowers the loss with exact codes by "
    "{dictionary_least}, and no dictionary of this width lowers it by more than {dictionary_most}.",
    "width": "On the {given} (none are held out, so nothing is said about others), change the width first, because "
    "little gain is known for encoder and dictionary: more atoms can lower the loss by at most {width_most}, of which "
    "at least {width_least} is out of reach at this width.",
    "nothing": "On the {given} (none are held out, so nothing is said about others), change nothing: no encoder, "
    "no dictionary and no width can lower the loss by more than {everything}.",
    "open": "On the {given} (none are held out, so nothing is said about others), what to change first is open: "
    "there was not enough time for exact codes of its dictionary, which could lower the loss by up to {encoder_most}; "
    "allow more time.",
}
"""The first sentence if nothing is held out, by what to change first."""

_GIVEN = {
    "encoder": "Compared with exact codes of its own dictionary, the encoder loses at least {encoder_least} and at "
    "most {encoder_most} on these rows.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on these rows, gains "
    "{dictionary_least} on them, and no dictionary of this width gains more than {dictionary_most}.",
    "width": "Beyond that, more atoms gain at least {width_least} and at most {width_most} on these rows.",
}
"""The sentences about the other parts, in their order."""

_NONE_KNOWN = (
    "No better dictionary of the same width is known for these rows; one could gain at most {dictionary_most}."
)
"""The sentence about the dictionary if the search found none, or had no time to begin."""

_HEADLINES = {
    "encoder": "Change the encoder first: exact codes of the same dictionary lower the loss by at least {encoder_low} "
    "for the distribution, with {confidence}; on the {held_out} they lower it by {encoder_least}, and no codes of this "
    "dictionary lower it by more than {encoder_most}.",
    "dictionary": "Change the dictionary first: another one of the same width, learned on {n_others}, lowers the "
    "loss with exact codes by at least {dictionary_low} for the distribution, with {confidence}; on the {held_out} it "
    "lowers it by {dictionary_least}, and no dictionary of this width lowers it by more than {dictionary_most}.",
    "width": "Change the width first, because little gain is shown for encoder and dictionary: on the {held_out}, more "
    "atoms can lower the loss by at most {width_most}, of which at least {width_least} is out of reach at this width.",
    "nothing": "Change nothing: on the {held_out}, no encoder, no dictionary and no width can lower the loss by "
    "more than {everything}.",
}
"""The first sentence on held-out rows, by what to change first."""

_CUT_OFF = (
    "What to change first is open: there was not enough time for exact codes of its dictionary, which could lower the "
    "loss by up to {encoder_most} on the {held_out}; allow more time."
)
_TOO_FEW = {
    "encoder": "What to change first is open: exact codes of the same dictionary lower the loss by {encoder_least} on "
    "the {held_out}, but ",
    "dictionary": "What to change first is open: another dictionary of the same width, learned on {n_others}, lowers "
    "the loss with exact codes by {dictionary_least} on the {held_out}, but ",
}
"""The first sentence if that is open, because time ran out or the rows are too few."""

_HELD_OUT = {
    "encoder": "Compared with exact codes of its own dictionary, the encoder loses at least {encoder_low} for the "
    "distribution, with {confidence}; on the held-out rows it loses at least {encoder_least} and at most "
    "{encoder_most}.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on {n_others}, gains at "
    "least {dictionary_low} for the distribution, with {confidence}; on the held-out rows it gains "
    "{dictionary_least}, and no dictionary of this width gains more than {dictionary_most}.",
    "width": "Beyond that, more atoms gain at least {width_least} and at most {width_most} on the held-out rows.",
}
"""The sentences about the other parts on held-out rows, in their order."""

_ENCODER_HERE = (
    "Compared with exact codes of its own dictionary, the encoder loses at least {encoder_least} and at most "
    "{encoder_most} on the held-out rows; one {unit} is too few to say more."
)
"""The sentence about the encoder if there is no interval."""

_NONE_KNOWN_HERE = (
    "No better dictionary of the same width is known; on the held-out rows, one could gain at most {dictionary_most}."
)
_NONE_SHOWN = (
    "A better dictionary of the same width: none shown. The one found gains {seen} on the {n_seen} it was learned "
    "on and {dictionary_least} on the {held_out}"
)
_AT_MOST = "; on the held-out rows, no dictionary of this width gains more than {dictionary_most}."
"""The sentence about a dictionary that was not found, or is not better on rows that it has not seen."""
