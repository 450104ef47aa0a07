"""The rows of a comparison: training rows, held-out rows, their documents, and notes about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.data.overlap import require_apart
from cvxsae.data.splits import document_labels, split_rows
from cvxsae.data.storage import fingerprint
from cvxsae.data.transforms import Affine
from cvxsae.errors import InputError
from cvxsae.parallel.group import all_rows
from cvxsae.sae.audits.rows import alone, held_out_asked
from cvxsae.solvers.codes.evaluation import CONFIDENCE
from cvxsae.study.rows import labels_digest

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRows:
    """The rows of a comparison, checked.

    Attributes
    ----------
    data
        The rows given.
    seed
        Of the choice of those held out.
    n_points, n_held_out
        How many are learned from, and how many held out.
    share, aside
        The share of the rows given that is held out, or the other rows that are; None otherwise.
    groups
        Which document each row is of: of ``aside``, or of those given where a share of them is held out.
    confidence
        Of every interval.
    notes
        What has to be said, a sentence each, without a period.
    """

    data: Activations
    seed: int
    n_points: int
    n_held_out: int = 0
    share: float | None = None
    aside: Activations | None = None
    groups: Int64[np.ndarray, " N"] | None = None
    confidence: float = CONFIDENCE
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, X: Any, options: Mapping[str, Any], seed: int) -> ComparedRows:
        """The rows that were asked for."""
        held_out, is_share, confidence = held_out_asked(X, options)
        data = all_rows(X)
        if held_out is None:
            if options.get("confidence") is not None:
                raise InputError("confidence was passed, but no rows are held out; leave it out, or pass held_out.")
            return cls(data=data, seed=seed, n_points=len(data))
        if is_share:
            labels = document_labels(options.get("groups"), len(data))
            split = split_rows(len(data), seed, groups=labels, share=held_out)
            return cls(
                data=data,
                seed=seed,
                n_points=len(split.train),
                n_held_out=len(split.held_out),
                share=float(held_out),
                groups=labels,
                confidence=confidence,
                notes=(str(split).replace(f"by {split.unit};", f"by {split.unit} with seed {seed};"),),
            )
        aside = alone(held_out)
        if aside.shape[1] != data.shape[1]:
            raise InputError(
                f"held_out has {aside.shape[1]} columns and X has {data.shape[1]}; pass rows of the same width."
            )
        own = document_labels(options.get("held_out_groups"), len(aside), "held_out_groups")
        said = f"the {len(aside):,} held-out rows are other data; nothing was learned from them"
        return cls(
            data=data,
            seed=seed,
            n_points=len(data),
            n_held_out=len(aside),
            aside=aside,
            groups=own,
            confidence=confidence,
            notes=(require_apart(data, aside, "held_out") or said,),
        )

    def table(self, shift: np.ndarray | None) -> dict[str, Any]:
        """As a study names data; with a fixed bias subtracted."""

        def shifted(rows: Activations) -> Activations:
            return rows if shift is None else Affine(shift).apply(rows, dtype=torch.float64)

        table: dict[str, Any] = {"source": shifted(self.data), "seed": self.seed}
        if not self.n_held_out:
            return table
        table["confidence"] = self.confidence
        if self.aside is not None:
            table["held_out"] = shifted(self.aside)
        if self.groups is not None:
            table["groups" if self.aside is None else "held_out_groups"] = self.groups
        return table

    @property
    def settings(self) -> dict[str, Any]:
        """What a comparison says of the held-out rows."""
        if not self.n_held_out:
            return {}
        how = {"held_out": "other data" if self.share is None else self.share}
        unit = "row" if self.groups is None else "document"
        return {"n_held_out": self.n_held_out, **how, "unit": unit, "confidence": self.confidence}

    def known(self) -> dict[str, str]:
        """What identifies the held-out rows beyond that."""
        rows = {} if self.aside is None else {"held_out_rows": fingerprint(self.aside)}
        return rows | ({} if self.groups is None else {"groups": labels_digest(self.groups)})
