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
            "n": _rows(ledger.n_points),
            "n_seen": _rows(ledger.n_seen, ""),
            "n_others": _rows(ledger.n_seen, " other"),
            "unit": self.unit,
            "seen": f"{ledger.seen_gap or 0.0:.4g}",
            "confidence": "" if some is None or np.isnan(some.low) else f"{100 * some.confidence:.4g} % confidence",
        }

    def fill(self, *texts: str) -> tuple[str, ...]:
        """Sentences with the numbers in their places."""
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
        """What is said of the encoder on held-out rows, where that is not what comes first."""
        return _HELD_OUT["encoder"] if np.isfinite(self.verdict.encoder.sure) else _ENCODER_HERE

    def dictionary(self) -> str:
        """What is said of the dictionary on held-out rows, where that is not what comes first."""
        gap = self.verdict.dictionary.estimate
        if not self.ledger.improved:
            return _NONE_KNOWN_HERE
        if self.ledger.shows_better:
            return _HELD_OUT["dictionary"]
        return f"{_NONE_SHOWN} ({self._between(gap)}): {self._memorized()}{_AT_MOST}"

    def _memorized(self) -> str:
        memorized = self.ledger.estimates.get("memorization")
        if memorized is None or not memorized.low > 0:
            return "whether what was gained on the rows it was learned on was memorized is more than these rows tell"
        gap = self.verdict.dictionary.estimate
        if gap is not None and gap.high <= 0:
            return "what was gained on the rows it was learned on was memorized"
        return "of what was gained on the rows it was learned on at least {memorized_low} was memorized"

    def _between(self, estimate: Estimate | None) -> str:
        if estimate is None or np.isnan(estimate.low):
            return f"for the distribution not known, since one {self.unit} is too few for an interval"
        return f"for the distribution, with {{confidence}}, between {estimate.low:.4g} and {estimate.high:.4g}"

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
    "encoder": "On the {n} given (none are held out, so nothing is said of others), change the encoder first: "
    "exact codes of the same dictionary lower the loss by {encoder_least}, and no codes of it lower it by more than "
    "{encoder_most}.",
    "dictionary": "On the {n} given (none are held out, so nothing is said of others), change the dictionary "
    "first: one of the same width, learned on these very rows, lowers the loss, with exact codes, by "
    "{dictionary_least}, and no dictionary of this width lowers it by more than {dictionary_most}.",
    "width": "On the {n} given (none are held out, so nothing is said of others), change the width first, since "
    "encoder and dictionary leave little that is known to be gained: more atoms can lower the loss by at most "
    "{width_most}, of which at least {width_least} is out of reach at this width.",
    "nothing": "On the {n} given (none are held out, so nothing is said of others), change nothing: no encoder, "
    "no dictionary and no width can lower the loss by more than {everything}.",
    "open": "On the {n} given (none are held out, so nothing is said of others), what to change first is open: "
    "exact codes of its dictionary were not done in the time there was, and could lower the loss by up to "
    "{encoder_most}; give it more time.",
}
"""The first sentence where nothing is held out, by what is to be changed first."""

_GIVEN = {
    "encoder": "The encoder loses at least {encoder_least} and at most {encoder_most} against exact codes of its own "
    "dictionary on these rows.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on these very rows, gains "
    "{dictionary_least} on them for certain (one was found) and at most {dictionary_most}.",
    "width": "After that, more atoms gain at least {width_least} and at most {width_most} on these rows.",
}
"""What is said of the others, in their order."""

_NONE_KNOWN = (
    "No better dictionary of the same width is known for these rows; one could gain at most {dictionary_most}."
)
"""What is said of the dictionary where the search found none, or had no time to begin."""

_HEADLINES = {
    "encoder": "Change the encoder first: exact codes of the same dictionary lower the loss by at least {encoder_low} "
    "for the distribution, with {confidence}; on the {n} held out by {encoder_least}, and no codes of it lower it "
    "there by more than {encoder_most}.",
    "dictionary": "Change the dictionary first: one of the same width, learned on {n_others}, lowers the "
    "loss, with exact codes, by at least {dictionary_low} for the distribution, with {confidence}; on the {n} "
    "held out by {dictionary_least}, and no dictionary of this width lowers it there by more than {dictionary_most}.",
    "width": "Change the width first, since encoder and dictionary leave little that is shown to be gained: on the {n} "
    "held out more atoms can lower the loss by at most {width_most}, of which at least {width_least} is out of "
    "reach at this width.",
    "nothing": "Change nothing: on the {n} held out no encoder, no dictionary and no width can lower the loss by "
    "more than {everything}.",
}
"""The first sentence on held-out rows, by what is to be changed first."""

_CUT_OFF = (
    "What to change first is open: exact codes of its dictionary were not done in the time there was, and could lower "
    "the loss by up to {encoder_most} on the {n} held out; give it more time."
)
_TOO_FEW = {
    "encoder": "What to change first is open: exact codes of the same dictionary lower the loss by {encoder_least} on "
    "the {n} held out, but ",
    "dictionary": "What to change first is open: one of the same width, learned on {n_others}, lowers "
    "the loss, with exact codes, by {dictionary_least} on the {n} held out, but ",
}
"""The first sentence where that is open: time ran out, or the rows are too few."""

_HELD_OUT = {
    "encoder": "Against exact codes of its own dictionary the encoder loses at least {encoder_low} for the "
    "distribution, with {confidence}; on the rows held out {encoder_least}, and at most {encoder_most}.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on {n_others}, gains at "
    "least {dictionary_low} for the distribution, with {confidence}; on the rows held out {dictionary_least}, where "
    "none gains more than {dictionary_most}.",
    "width": "After that, more atoms gain at least {width_least} and at most {width_most} on the rows held out.",
}
"""What is said of the others on held-out rows, in their order."""

_ENCODER_HERE = (
    "Against exact codes of its own dictionary the encoder loses {encoder_least} on the rows held out, and at most "
    "{encoder_most}; one {unit} is too few to say more."
)
"""The same of the encoder where there is no interval."""

_NONE_KNOWN_HERE = (
    "No better dictionary of the same width is known; on the rows held out one could gain at most {dictionary_most}."
)
_NONE_SHOWN = (
    "A better dictionary of the same width: none shown. The one found gains {seen} on the {n_seen} it was learned "
    "on and {dictionary_least} on the {n} held out"
)
_AT_MOST = "; on the rows held out no dictionary of this width gains more than {dictionary_most}."
"""What is said of a dictionary that was not found, or is not better on rows that it has not seen."""
