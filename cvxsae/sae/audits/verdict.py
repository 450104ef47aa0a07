"""What a ledger says in words: what to change first, and what that would gain at least and at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from cvxsae.sae.audits.ledger import LossLedger

WORTHWHILE = 0.01
"""A gain below this share of the loss is called nothing: seeds, batches and learning rates move an SAE by as much."""

First: TypeAlias = Literal["encoder", "dictionary", "width", "nothing", "open"]
"""What is to be changed first, if anything, and if that is known."""

PARTS = ("encoder", "dictionary", "width")
"""What can be changed, in the order of the ledger."""


@dataclass(frozen=True)
class Gain:
    """By how much the loss falls if one part is changed, in units of (P), for the rows given.

    Attributes
    ----------
    least
        What is certain: there are arrays that attain it.
    most
        What no arrays can exceed.
    """

    least: float
    most: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {"least": self.least, "most": self.most}


@dataclass(frozen=True)
class Verdict:
    """What to change first.

    The encoder or the dictionary, whichever gains more for certain, if that is a percent of the loss; else the width,
    if more atoms can gain as much; else nothing, since nobody could gain it. It is open where neither gains for certain
    and exact codes, cut off by a limit on time, could gain a percent yet.

    Attributes
    ----------
    first
        ``"encoder"``, ``"dictionary"``, ``"width"``, ``"nothing"`` or ``"open"``.
    encoder
        Exact codes in place of the encoder's, with the SAE's own dictionary.
    dictionary
        Another dictionary of the same width, on top of exact codes.
    width
        More atoms, on top of the dictionary found: at least what no dictionary of this width can have.
    everything
        The loss above the floor of any width: what all changes together can gain at most.
    loss
        What the gains are gains from.
    """

    first: First
    encoder: Gain
    dictionary: Gain
    width: Gain
    everything: float
    loss: float

    @classmethod
    def of(cls, ledger: LossLedger) -> Verdict:
        """The verdict on a ledger."""
        attained = ledger.wide / (1 - ledger.wide_gap) if ledger.wide_gap < 1 else ledger.local  # by an atom a point
        lowest = max(ledger.exact * (1 - ledger.codes_gap), ledger.floor)
        encoder = Gain(ledger.amortization_gap, ledger.loss - lowest)
        dictionary = Gain(ledger.dictionary_gap, ledger.exact - ledger.floor)
        width = Gain(max(0.0, ledger.floor - attained), ledger.local - ledger.wide)
        worth = WORTHWHILE * ledger.loss
        first: First = "nothing"
        if max(encoder.least, dictionary.least) >= worth > 0:
            first = "encoder" if encoder.least >= dictionary.least else "dictionary"
        elif encoder.most >= worth > 0:
            first = "open"
        elif width.most >= worth > 0:
            first = "width"
        return cls(first, encoder, dictionary, width, ledger.loss - ledger.wide, ledger.loss)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words, the most important sentence first; all of it is about the rows given."""
        gains: dict[str, float] = {"everything": self.everything}
        for part in PARTS:
            gain: Gain = getattr(self, part)
            gains |= {f"{part}_least": gain.least, f"{part}_most": gain.most}
        words = {name: self._amount(value) for name, value in gains.items()}
        others = [part for part in PARTS if part != self.first] if self.first in PARTS else []
        said = {**_OTHERS, **({} if self.dictionary.least > 0 else {"dictionary": _NONE_KNOWN})}
        return (_HEADLINES[self.first].format(**words), *(said[part].format(**words) for part in others))

    def _amount(self, gain: float) -> str:
        share = gain / self.loss if self.loss > 0 else 0.0
        return f"{max(gain, 0.0):.4g} ({max(share, 0.0):.1%} of the loss)"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        gains = {part: getattr(self, part).to_dict() for part in PARTS}
        return {"first": self.first, **gains, "sentences": list(self.sentences)}


_HEADLINES = {
    "encoder": "Change the encoder first: exact codes of the same dictionary lower the loss by {encoder_least}, and no "
    "codes of it lower it by more than {encoder_most}.",
    "dictionary": "Change the dictionary first: one of the same width was found that lowers the loss, with exact "
    "codes, by {dictionary_least}, and no dictionary of this width lowers it by more than {dictionary_most}.",
    "width": "Change the width first, since encoder and dictionary leave little that is known to be gained: more "
    "atoms can lower the loss by at most {width_most}, of which at least {width_least} is out of reach at this width.",
    "nothing": "Change nothing: no encoder, no dictionary and no width can lower the loss by more than {everything}.",
    "open": "What to change first is open: exact codes of its dictionary were not done in the time there was, and "
    "could lower the loss by up to {encoder_most}; give it more time.",
}
"""The first sentence, by what is to be changed first."""

_OTHERS = {
    "encoder": "The encoder loses at least {encoder_least} and at most {encoder_most} against exact codes of its own "
    "dictionary.",
    "dictionary": "With exact codes, another dictionary of the same width gains {dictionary_least} for certain (one "
    "was found) and at most {dictionary_most}.",
    "width": "After that, more atoms gain at least {width_least} and at most {width_most}.",
}
"""What is said of the others, in their order."""

_NONE_KNOWN = "No better dictionary of the same width is known; one could gain at most {dictionary_most}."
"""What is said of the dictionary where the search found none, or had no time to begin."""
