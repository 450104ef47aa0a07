"""The verdict of a ledger: what to change first, and the least and the most that this would gain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from cvxsae.sae.audits.phrases import phrases

if TYPE_CHECKING:
    from cvxsae.sae.audits.ledger import LossLedger
    from cvxsae.statistics.estimates import Estimate

WORTHWHILE = 0.01
"""A gain below this share of the loss is called nothing: seeds, batches and learning rates move an SAE by as much."""

First: TypeAlias = Literal["encoder", "dictionary", "width", "nothing", "open"]
"""What to change first, or that nothing is worthwhile, or that this is open."""

PARTS = ("encoder", "dictionary", "width")
"""The parts that can be changed, in the order of the ledger."""


@dataclass(frozen=True)
class Gain:
    """By how much the loss falls if one part is changed, in units of (P).

    Attributes
    ----------
    least
        What is attained on the rows of the ledger. Of a dictionary learned on other rows it can be negative.
    most
        What no arrays can exceed on these rows.
    estimate
        On held-out rows, of encoder and dictionary: what ``least`` is for the distribution, with a confidence.
    """

    least: float
    most: float
    estimate: Estimate | None = None

    @property
    def sure(self) -> float:
        """What can be counted on: ``least`` for the given rows, the lower end of the interval for held-out rows."""
        if self.estimate is None:
            return self.least
        return -np.inf if np.isnan(self.estimate.low) else self.estimate.low

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "least": self.least,
            "most": self.most,
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
        }


@dataclass(frozen=True)
class Verdict:
    """What to change first.

    It is the encoder or the dictionary, whichever has the larger sure gain, if that gain is one percent of the loss.
    The sure gain is what is attained on given rows, and the lower end of the interval for the distribution on held-out
    rows. Otherwise the verdict is open if the gain on the held-out rows is a percent but the rows are too few to show
    it for the distribution, or if codes that are not exact, because of a time limit or a loose tolerance, could still
    gain a percent. Otherwise it is the width, if more atoms have a sure gain of a percent: enough of them attain it,
    and no dictionary of this width does. Otherwise it is nothing if nothing can gain a percent on the rows, and open if
    something could, but nothing is shown to. It is open, too, if λ is not below λ_max: all codes are zero there,
    whatever the SAE.

    Attributes
    ----------
    first
        ``"encoder"``, ``"dictionary"``, ``"width"``, ``"nothing"`` or ``"open"``.
    encoder
        Exact codes in place of the encoder's, with the SAE's own dictionary.
    dictionary
        Another dictionary of the same width, on top of exact codes.
    width
        More atoms, up to one per datapoint, on top of the best dictionary of this width. That one is not known: it is
        between the floor (``least``) and the better of the two dictionaries (``most``).
    everything
        The loss above the floor of any width: what all changes together can gain at most on these rows.
    ledger
        The ledger that the verdict is about.
    """

    first: First
    encoder: Gain
    dictionary: Gain
    width: Gain
    everything: float
    ledger: LossLedger = field(repr=False)

    @classmethod
    def of(cls, ledger: LossLedger) -> Verdict:
        """The verdict on a ledger."""
        best = min(ledger.exact, ledger.local)
        attained = ledger.wide / (1 - ledger.wide_gap) if ledger.wide_gap < 1 else best  # by an atom a point
        lowest = max(ledger.exact * (1 - ledger.codes_gap), ledger.floor)
        known = ledger.estimates.get
        encoder = Gain(ledger.amortization_gap, ledger.loss - lowest, known("amortization_gap"))
        dictionary = Gain(ledger.dictionary_gap, ledger.exact - ledger.floor, known("dictionary_gap"))
        width = Gain(max(0.0, ledger.floor - attained), best - ledger.wide)
        worth = WORTHWHILE * ledger.loss
        first: First = "nothing"
        if ledger.lam >= ledger.lambda_max > 0 and worth > 0:
            first = "open"
        elif max(encoder.sure, dictionary.sure) >= worth > 0:
            first = "encoder" if encoder.sure >= dictionary.sure else "dictionary"
        elif max(encoder.most, dictionary.least) >= worth > 0:
            first = "open"
        elif width.least >= worth > 0:
            first = "width"
        elif width.most >= worth > 0:
            first = "open"
        return cls(first, encoder, dictionary, width, ledger.loss - ledger.wide, ledger)

    @property
    def worth(self) -> float:
        """The smallest worthwhile gain."""
        return WORTHWHILE * self.loss

    @property
    def is_above_lambda_max(self) -> bool:
        """Whether the verdict is open because the best codes are zero for every dictionary."""
        return self.first == "open" and self.ledger.lam >= self.ledger.lambda_max > 0

    @property
    def shows_nothing(self) -> bool:
        """Whether the verdict is open although codes are exact: something could gain a percent, nothing is shown to."""
        is_known = max(self.encoder.most, self.dictionary.least) < self.worth
        return self.first == "open" and not self.is_above_lambda_max and is_known

    @property
    def loss(self) -> float:
        """The loss that gains are subtracted from."""
        return self.ledger.loss

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words, the most important sentence first; each says which rows it is about."""
        return phrases(self)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        gains = {part: getattr(self, part).to_dict() for part in PARTS}
        return {"first": self.first, **gains, "sentences": list(self.sentences)}
