"""Which rows an audit learns on and which it holds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.outliers import OUTLIER_RATIO, find_outliers, without_outliers
from cvxsae.data.overlap import require_apart
from cvxsae.data.splits import HELD_OUT_SHARE, chosen_rows, document_labels, split_rows
from cvxsae.errors import InputError
from cvxsae.parallel.group import all_rows
from cvxsae.sae.audits.held_out import Drawn
from cvxsae.sae.formats.stored import require_columns
from cvxsae.solvers.codes.evaluation import CONFIDENCE, level

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike

SHARE = HELD_OUT_SHARE
"""Part of the rows that an audit holds out, unless told otherwise."""


class HeldOutOptions(TypedDict, total=False):
    """Which rows are held out, and what is said of the distribution that they were drawn from."""

    held_out: Any
    """A share of the rows, drawn with ``seed``; other data; or None for no held-out rows."""
    groups: Any
    """Which document each row of X is of, (N,), integers or strings: documents are then held out whole."""
    held_out_groups: Any
    """The same for data held out: documents, not rows, are then independent."""
    confidence: float
    """Of every interval for the distribution."""


class RowOptions(HeldOutOptions, total=False):
    """The same, and what happens to outliers."""

    drop_outliers: float | bool
    """Whether to leave out rows of 10 times the median norm and more, or how many times it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of an audit, checked.

    Attributes
    ----------
    given
        The rows that were passed, without those that were to be dropped.
    learned_on
        What a better dictionary is learned on: all of ``given``, or those not held out.
    held_out
        What is held out; None for nothing.
    drawn
        How the held-out rows were drawn; the numbers are those of the data passed.
    notes
        What has to be said of it, a sentence each, without a period.
    """

    given: Activations
    learned_on: Activations
    held_out: Activations | None
    drawn: Drawn
    notes: tuple[str, ...]

    @property
    def judged(self) -> Activations:
        """The rows that the ledger is about."""
        return self.learned_on if self.held_out is None else self.held_out


def held_out_asked(X: ActivationsLike, options: Mapping[str, Any]) -> tuple[Any, bool, float]:
    """What is held out of X, whether that is a share of it, and the confidence, of :class:`HeldOutOptions`.

    Raises
    ------
    InputError
        If these do not go together.
    """
    held_out = options.get("held_out", SHARE)
    confidence = level(options.get("confidence", CONFIDENCE))
    if isinstance(held_out, bool | np.bool_):
        raise InputError(f"held_out is {held_out}; pass a share of the rows, other data, or None for none.")
    is_share = isinstance(held_out, int | float | np.number)
    are_paths = isinstance(X, str | Path) and isinstance(held_out, str | Path)
    if held_out is not None and (held_out is X or (are_paths and str(held_out) == str(X))):
        raise InputError("held_out is X itself; pass other data, or a share of X.")
    if not is_share:
        for name in ("groups",) if held_out is not None else ("groups", "held_out_groups"):
            if options.get(name) is not None:
                why = "only held-out rows have documents" if held_out is not None else "no rows are held out"
                raise InputError(f"{name} was passed, but {why}; leave it out, or pass held_out and what goes with it.")
    elif options.get("held_out_groups") is not None:
        raise InputError("held_out_groups was passed, but held_out is a share of X; pass groups, or other data.")
    return held_out, is_share, confidence


def rows_asked(X: ActivationsLike, dim: int, options: Mapping[str, Any], seed: int) -> Rows:
    """The rows that an audit was asked to learn on and to hold out."""
    held_out, is_share, confidence = held_out_asked(X, options)
    ratio = _ratio(options.get("drop_outliers", False))
    given = _Given(all_rows(X), "X", dim, options.get("groups"), ratio)
    if held_out is None:
        drawn = Drawn(numbers=given.numbers, groups=None, confidence=confidence)
        return Rows(given=given.data, learned_on=given.data, held_out=None, drawn=drawn, notes=given.notes)
    if not is_share:
        other = _Given(alone(held_out), "held_out", dim, options.get("held_out_groups"), ratio)
        drawn = Drawn(numbers=other.numbers, groups=other.groups, confidence=confidence)
        seen = require_apart(given.data, other.data, "held_out")
        said = f"the {len(other.data):,} held-out rows are other data; nothing was learned from them"
        notes = (said if seen is None else seen, *given.notes, *other.notes)
        return Rows(given=given.data, learned_on=given.data, held_out=other.data, drawn=drawn, notes=notes)
    return _shared(given, held_out, confidence, seed)


def _shared(given: _Given, share: Any, confidence: float, seed: int) -> Rows:
    """Set a share of the rows aside."""
    n, groups = len(given.data), given.groups
    units, unit = (n, "row") if groups is None else (int(groups.max()) + 1, "document")
    if units < 2:
        raise InputError(
            f"X has {units} {unit}, of which none can be held out; pass more, or other data as held_out, or None."
        )
    split = split_rows(n, seed, groups=groups, share=share)
    is_held_out = np.zeros(n, dtype=np.bool_)
    is_held_out[split.held_out] = True
    numbers = given.numbers[split.held_out]
    drawn = Drawn(numbers=numbers, groups=split.held_out_groups, confidence=confidence)
    said = str(split).replace(f"by {split.unit};", f"by {split.unit} with seed {seed};")
    learned_on, held_out = chosen_rows(given.data, ~is_held_out), chosen_rows(given.data, is_held_out)
    return Rows(given=given.data, learned_on=learned_on, held_out=held_out, drawn=drawn, notes=(said, *given.notes))


class _Given:
    """Data as they were passed, their documents, and what became of outliers."""

    def __init__(self, data: Activations, name: str, dim: int, groups: Any, ratio: float | None) -> None:
        require_columns(data.shape, dim, name)
        which = "groups" if name == "X" else f"{name}_groups"
        labels = document_labels(groups, len(data), which)
        self.data, self.numbers, self.groups = data, np.arange(len(data)), labels
        if ratio is None:
            found = find_outliers(data)
            kept = "they were kept: pass drop_outliers=True (--drop-outliers) to leave them out"
        else:
            self.data, found = without_outliers(data, ratio)
            kept = "they were left out"
            self.numbers = np.delete(self.numbers, found.rows)
            if labels is not None:
                self.groups = np.unique(labels[self.numbers], return_inverse=True)[1].astype(np.int64)
        said = str(found).removesuffix(".")
        self.notes = (f"{name}: {said[0].lower()}{said[1:]}; {kept}",) if len(found.rows) else ()


def _ratio(value: Any) -> float | None:
    """How many times the median norm is dropped; None for nothing."""
    if isinstance(value, bool | np.bool_):
        return OUTLIER_RATIO if value else None
    ratio = arguments.real(value, "drop_outliers")
    if not ratio > 1:
        raise InputError(
            f"drop_outliers is {ratio:g}; pass True, False, or more than 1: how many times the median norm is dropped."
        )
    return ratio


def alone(held_out: Any) -> Activations:
    """Data held out, all of them in this process."""
    data = Activations(held_out, name="held_out")
    if data.group is not None:
        raise InputError("held_out is shared by several processes, which cannot work together here; pass all rows.")
    return data
