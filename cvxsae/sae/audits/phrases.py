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
    if verdict.is_above_lambda_max:
        return words.fill(words.headline())
    parts = [part for part in _ORDER if part != verdict.first] if verdict.first in _ORDER else []
    if verdict.shows_nothing:
        parts = ["encoder", "dictionary"]
    if not verdict.ledger.is_held_out:
        said = {**_GIVEN, **({} if verdict.dictionary.least > 0 else {"dictionary": _NONE_KNOWN})}
        return words.fill(words.headline(), *(said[part] for part in parts))
    said = {**_HELD_OUT, "encoder": words.encoder(), "dictionary": words.dictionary()}
    if not parts and verdict.ledger.improved and not verdict.ledger.shows_better:
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
        self.numbers |= {f"{name}_share": self._share(value) for name, value in gains.items()}
        some = ledger.estimates.get("loss")
        self.numbers |= {
            "rows": _rows(ledger.n_points, " held-out" if ledger.is_held_out else " given"),
            "n_seen": _rows(ledger.n_seen, ""),
            "n_others": _rows(ledger.n_seen, " other"),
            "unit": self.unit,
            "seen": f"{ledger.seen_gap or 0.0:.4g}",
            "confidence": "" if some is None or np.isnan(some.low) else f"{100 * some.confidence:.4g}% confidence",
            "worth": self._share(verdict.worth, digits=0),
            "codes_gap": f"{ledger.codes_gap:.2g}",
            "lam": f"{ledger.lam:.4g}",
            "lambda_max": f"{ledger.lambda_max:.4g}",
            "bias": ", at the best bias" if ledger.bias == "free" else "",
        }

    def fill(self, *texts: str) -> tuple[str, ...]:
        """Fill the numbers into sentences."""
        return tuple(text.format(**self.numbers) for text in texts)

    def headline(self) -> str:
        """The first sentence."""
        verdict, is_held_out = self.verdict, self.ledger.is_held_out
        if verdict.first != "open":
            said = (_HEADLINES if is_held_out else _GIVEN_HEADLINES)[verdict.first]
        elif verdict.is_above_lambda_max:
            said = _ABOVE_LAMBDA_MAX
        elif verdict.shows_nothing:
            said = _SOME_NEED_ATOMS if verdict.width.least > 0 else _NOTHING_SHOWN
        elif max(verdict.encoder.least, verdict.dictionary.least) < verdict.worth:
            said = _NOT_EXACT.get(self.ledger.codes_ended, _NOT_EXACT[""])
        else:
            part = "encoder" if verdict.encoder.least >= verdict.dictionary.least else "dictionary"
            gain = verdict.encoder if part == "encoder" else verdict.dictionary
            said = _TOO_FEW[part] + self._between(gain.estimate) + "; hold out more {unit}s."
        return said if is_held_out else f"{_NONE_HELD_OUT}{said[0].lower()}{said[1:]}"

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
        return "of its gain on the rows it was learned on, at least {memorized_low} is memorization"

    def _between(self, estimate: Estimate | None) -> str:
        if estimate is None or np.isnan(estimate.low):
            return f"the gain for the distribution is not known, because one {self.unit} is too few for an interval"
        ends = f"between {estimate.low:.4g} and {estimate.high:.4g}"
        return f"the gain for the distribution is {ends}, with {{confidence}}"

    def _amount(self, gain: float) -> str:
        """A gain with its share of the loss."""
        return f"{self._shown(gain):.4g} ({self._share(gain)} of the loss)"

    def _share(self, gain: float, digits: int = 1) -> str:
        """The share of the loss that a gain is."""
        share = self._shown(gain) / self.verdict.loss if self.verdict.loss > 0 else 0.0
        return f"{share:.{digits}%}"

    def _shown(self, gain: float) -> float:
        """A gain as it is shown. On the given rows none is negative but by rounding."""
        if not self.ledger.is_held_out or abs(gain) < np.finfo(np.float64).eps * abs(self.verdict.loss):
            return max(gain, 0.0)
        return gain


def _rows(count: int, which: str = "") -> str:
    """So many rows, in words."""
    return f"{count:,}{which} row{'' if count == 1 else 's'}"


_ORDER = ("encoder", "dictionary", "width")

_NONE_HELD_OUT = "On the {rows} (none are held out, so nothing is said about others), "
"""How the first sentence begins if nothing is held out."""

_GIVEN_HEADLINES = {
    "encoder": "Change the encoder first: exact codes of the same dictionary lower the loss by {encoder_least}, and "
    "no codes of this dictionary lower it by more than {encoder_most}.",
    "dictionary": "Change the dictionary first: another one of the same width, learned on these rows, lowers the loss "
    "with exact codes by {dictionary_least}, and no dictionary of this width lowers it by more than {dictionary_most}.",
    "width": "Change the width first, because little gain is known for encoder and dictionary: enough additional atoms "
    "(up to one per datapoint; how many are needed is not known) lower the loss by at most {width_most}, of which at "
    "least {width_least} is proved to be impossible at this width.",
    "nothing": "Change nothing: no encoder, no dictionary and no width can lower the loss by more than {everything}.",
}
"""The first sentence if nothing is held out, by what to change first."""

_GIVEN = {
    "encoder": "Compared with exact codes of its own dictionary, the encoder loses at least {encoder_least} and at "
    "most {encoder_most} on these rows.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on these rows, gains "
    "{dictionary_least} on them, and no dictionary of this width gains more than {dictionary_most}.",
    "width": "Beyond the best dictionary of this width, enough additional atoms (up to one per datapoint) would gain "
    "between {width_least} and {width_most} on these rows; how many are needed is not known.",
}
"""The sentences about the other parts, in their order."""

_NONE_KNOWN = (
    "No better dictionary of the same width is known for these rows; one could gain at most {dictionary_most}."
)
"""The sentence about the dictionary if the search found none, or had no time to begin."""

_HEADLINES = {
    "encoder": "Change the encoder first. Exact codes of the same dictionary lower the loss by {encoder_least_share} "
    "on the {rows}, and by at least {encoder_low_share} for the distribution ({confidence}). No codes of this "
    "dictionary lower it by more than {encoder_most_share}.",
    "dictionary": "Change the dictionary first. A dictionary of the same width, learned on {n_others}, lowers the loss "
    "(with exact codes) by {dictionary_least_share} on the {rows}, and by at least {dictionary_low_share} for the "
    "distribution ({confidence}). No dictionary of this width can lower it by more than {dictionary_most_share}.",
    "width": "Change the width first, because little gain is shown for encoder and dictionary. On the {rows}, enough "
    "additional atoms (up to one per datapoint; how many are needed is not known) lower the loss by at most "
    "{width_most_share}, of which at least {width_least_share} is proved to be impossible at this width.",
    "nothing": "Change nothing: on the {rows}, no encoder, no dictionary and no width can lower the loss by "
    "more than {everything}.",
}
"""The first sentence on held-out rows, by what to change first."""

_ABOVE_LAMBDA_MAX = (
    "λ = {lam} is not below λ_max = {lambda_max}, so the best codes of the {rows} are all zero for every "
    "dictionary{bias}, and this audit says nothing about the SAE; pass a smaller lam (--lam), or match-l0."
)
_NOTHING_SHOWN = (
    "Nothing is shown to help: neither encoder nor dictionary has a sure gain of {worth}, and it is not proved that "
    "more atoms are needed; on the {rows}, another dictionary and more atoms could gain at most {width_most}."
)
_SOME_NEED_ATOMS = (
    "Nothing is shown to help much: neither encoder nor dictionary has a sure gain of {worth}, and only {width_least} "
    "is proved to need more atoms; on the {rows}, another dictionary and more atoms could gain at most {width_most}."
)
_STILL = "codes are exact only to {codes_gap}, and exact ones could still lower the loss by up to {encoder_most} on the"
_NOT_EXACT = {
    "certified": f"What to change first is open: at this stationarity (--stationarity), {_STILL} {{rows}}; pass a "
    "smaller one.",
    "time_limit": f"What to change first is open: the time limit came before exact codes were done. So far, {_STILL} "
    "{rows}; allow more time.",
    "": f"What to change first is open: {_STILL} {{rows}}; pass a smaller stationarity (--stationarity), or allow more "
    "time.",
}
"""The first sentence if codes that are not exact leave it open, by how they ended."""

_TOO_FEW = {
    "encoder": "What to change first is open: exact codes of the same dictionary lower the loss by {encoder_least} on "
    "the {rows}, but ",
    "dictionary": "What to change first is open: another dictionary of the same width, learned on {n_others}, lowers "
    "the loss with exact codes by {dictionary_least} on the {rows}, but ",
}
"""The first sentence if that is open because the rows are too few."""

_HELD_OUT = {
    "encoder": "Compared with exact codes of its own dictionary, the encoder loses at least {encoder_low} for the "
    "distribution, with {confidence}; on the held-out rows it loses at least {encoder_least} and at most "
    "{encoder_most}.",
    "dictionary": "With exact codes, another dictionary of the same width, learned on {n_others}, gains at "
    "least {dictionary_low} for the distribution, with {confidence}; on the held-out rows it gains "
    "{dictionary_least}, and no dictionary of this width gains more than {dictionary_most}.",
    "width": "Beyond the best dictionary of this width, enough additional atoms (up to one per datapoint) would gain "
    "between {width_least} and {width_most} on the held-out rows; how many are needed is not known.",
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
    "on and {dictionary_least} on the {rows}"
)
_AT_MOST = "; on the held-out rows, no dictionary of this width gains more than {dictionary_most}."
"""The sentence about a dictionary that was not found, or is not better on rows that it has not seen."""
