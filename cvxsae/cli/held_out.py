"""Options for held-out rows and for files that say which document each row belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvxsae.cli.options import DropOutliers
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvxsae.cli.options import DataOptions
    from cvxsae.data.activations import Activations


def rows_or_share(text: str | None, name: str, prepared: Callable[[Activations], Activations], others: str = "") -> Any:
    """The fraction that a text states, or the rows of the file that it names, transformed like the data."""
    from cvxsae.data import arguments
    from cvxsae.data.activations import Activations

    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        return prepared(Activations(text, name=name))
    share = arguments.positive(share, name)
    if not share < 1:
        raise InputError(
            f"{name} is {share:g}; pass a fraction of the rows between 0 and 1, or a file with rows{others}."
        )
    return share


@dataclass(frozen=True, kw_only=True)
class DrawnOptions:
    """Which rows are held out, and how intervals for their distribution are computed."""

    held_out: Annotated[
        str | None,
        typer.Option("--held-out", help="Fraction of DATA to hold out, a file of other rows, or none. [default: 0.25]"),
    ] = None
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            help="File that says which document each row of DATA belongs to: a .txt file with one label per line, or "
            "an array (FILE::KEY). Documents are then held out whole, and intervals are over documents.",
        ),
    ] = None
    held_out_groups: Annotated[
        Path | None, typer.Option("--held-out-groups", help="The same as --groups, for the file in --held-out.")
    ] = None
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Confidence of intervals for the distribution. [default: 0.95]")
    ] = None

    def keywords(
        self, data: DataOptions, n_points: int, prepared: Callable[[Activations], Activations]
    ) -> dict[str, Any]:
        """The same for the functions of the API; rows of a file are transformed like the data."""
        from cvxsae.data.labels import labels_in

        options: dict[str, Any] = {}
        if self.held_out == "none":
            options["held_out"] = None
        elif self.held_out is not None:
            options["held_out"] = rows_or_share(self.held_out, "--held-out", prepared, ", or none")
        if self.groups is not None:
            labels = labels_in(self.groups, "--groups")
            total = n_points if data.takes_all else len(data.opened())
            if labels.shape != (total,):
                raise InputError(
                    f"--groups has labels of shape {labels.shape}, and DATA has {total} rows; pass one label per row."
                )
            options["groups"] = data.those_used(labels)
        if self.held_out_groups is not None:
            options["held_out_groups"] = labels_in(self.held_out_groups, "--held-out-groups")
        if self.confidence is not None:
            options["confidence"] = self.confidence
        return options


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions(DrawnOptions):
    """The same options for an audit, which handles outliers itself."""

    drop_outliers: DropOutliers = None

    def keywords(
        self, data: DataOptions, n_points: int, prepared: Callable[[Activations], Activations]
    ) -> dict[str, Any]:
        """The same for the functions of the API; rows of a file are transformed like the data."""
        dropped = False if self.drop_outliers is None else self.drop_outliers
        return {"drop_outliers": dropped, **super().keywords(data, n_points, prepared)}
