"""Validation rows of dictionary learning, and the values on them during the search (T17 b)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cvxsae.data import arguments, splits
from cvxsae.data.activations import Activations
from cvxsae.data.overlap import require_apart
from cvxsae.data.storage import fingerprint
from cvxsae.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch
    from jaxtyping import Float64, Int64

    from cvxsae.solvers.codes.evaluation import Evaluation

PATIENCE = 5
"""Evaluations in a row that show no decrease, after which a search ends: some 25 descent steps."""

NOT_ALONE = (
    "validation is given and X is shared by several processes; learn from data of one process, or without validation."
)
"""Why rows of several processes are refused."""


class HeldOutOptions(TypedDict, total=False):
    """Options of every verb that watches a search on rows set aside."""

    validation: Any
    """Rows (M, d) that are not learned from, or the share of X to set aside; None for none."""
    validation_groups: Any
    """Which document each row is of: of ``validation``, or of X where a share of it is set aside."""
    patience: int | None
    """Evaluations in a row without a shown decrease on the rows set aside, after which the search ends; None for 5."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows set aside.

    Attributes
    ----------
    X
        The rows, (M, d).
    groups
        Which document each is of, (M,), as integers from 0; None if rows are independent.
    rows
        Where they were in the given data, (M,), if they are a share of those; None if they are data of their own.
    patience
        Evaluations in a row without a shown decrease of F on them, after which a search ends.
    announced
        What was set aside, in a sentence.
    """

    X: Activations
    groups: Int64[np.ndarray, " M"] | None = None
    rows: Int64[np.ndarray, " M"] | None = None
    patience: int = PATIENCE
    announced: str = ""

    @property
    def digest(self) -> str:
        """What identifies rows, documents and patience."""
        labels = b"" if self.groups is None else self.groups.tobytes()
        text = f"{fingerprint(self.X)} {self.patience} ".encode()
        return hashlib.sha256(text + labels).hexdigest()


def set_aside(X: Any, options: Mapping[str, Any]) -> tuple[Any, HeldOut | None]:
    """The data to learn from, and the rows set aside: a share of them, or data of their own; None without any.

    Parameters
    ----------
    X
        The data given.
    options
        Of :class:`HeldOutOptions`, and the ``seed`` of the choice.

    Raises
    ------
    InputError
        For rows of another width, a share that is not between 0 and 1, labels that do not fit, and
        ``validation_groups`` or ``patience`` without ``validation``.
    """
    validation, groups, patience = (options.get(name) for name in HeldOutOptions.__annotations__)
    if validation is None:
        for name in ("validation_groups", "patience"):
            if options.get(name) is not None:
                raise InputError(f"{name} is given without validation; pass validation too, or leave {name} out.")
        return X, None
    allowed = PATIENCE if patience is None else arguments.count(patience, "patience")
    data = Activations(X)
    if data.group is not None and not data.group.is_alone:
        raise InputError(NOT_ALONE)
    if isinstance(validation, Real) and not isinstance(validation, bool | np.bool_):
        share = arguments.positive(validation, "validation")
        if not share < 1:
            raise InputError(
                f"validation is {share:g}; as a share of the rows it must be below 1, otherwise pass rows (M, d)."
            )
        labels = splits.document_labels(groups, len(data), "validation_groups")
        split = splits.split_rows(len(data), arguments.seed(options.get("seed", 0)), groups=labels, share=share)
        aside = data[split.held_out]
        return data[split.train], HeldOut(aside, split.held_out_groups, split.held_out, allowed, str(split))
    if validation is X:
        raise InputError("validation is X itself; pass rows that X does not hold, or a share such as 0.2.")
    given = validation if isinstance(validation, HeldOut) else None
    aside = Activations(validation if given is None else given.X, name="validation")
    if aside.shape[1] != data.shape[1]:
        raise InputError(
            f"validation has {aside.shape[1]} columns and X has {data.shape[1]}; pass rows of the same width."
        )
    labels = splits.document_labels(groups, len(aside), "validation_groups")
    if given is not None:  # of another fit
        kept = given.groups if labels is None else labels
        return data, replace(given, groups=kept, patience=given.patience if patience is None else allowed)
    seen = require_apart(data, aside, "validation")
    announced = f"{len(aside):,} rows of their own are held out" + ("" if seen is None else f"; {seen}")
    return data, HeldOut(aside, labels, None, allowed, announced)


def going_on(held_out: HeldOut | None, options: Mapping[str, Any]) -> Any:
    """The ``validation`` of a search that goes on from a fit: what was given, else the rows that were set aside for it.

    Raises
    ------
    InputError
        For a share: the fit has seen all of its rows.
    """
    if "validation" not in options:
        return held_out
    given = options["validation"]
    if isinstance(given, Real) and not isinstance(given, bool | np.bool_):
        raise InputError(
            f"validation is {given:g}, a share of rows that the fit has learned from; pass rows that it has not seen."
        )
    return given


@dataclass(frozen=True, eq=False)
class Watched:
    """What the rows set aside have said so far.

    Attributes
    ----------
    dictionary, offset
        Where F on them was lowest.
    found
        Its evaluation there, row by row.
    codes
        Its codes there.
    step
        The step of the search at which that was.
    reference
        Values and certified lower bounds of every row at the last evaluation that showed a decrease, (2, M): the next
        is compared with it, paired, so that many small decreases count as the large one that they are.
    warm
        Codes of the last evaluation, from which the next one starts.
    last, value
        Step and value of the last evaluation.
    idle
        Evaluations since the one of ``reference``.
    """

    dictionary: Float64[torch.Tensor, "K d"]
    offset: Float64[torch.Tensor, " d"]
    found: Evaluation
    codes: sp.csr_array
    step: int
    reference: Float64[np.ndarray, "2 M"]
    warm: sp.csr_array
    last: int
    value: float
    idle: int = 0
