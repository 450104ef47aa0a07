"""Options about rows that are held out, and the files that say which they are."""

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


def rows_or_share(text: str | None, name: str, prepared: Callable[[Activations], Activations]) -> Any:
    """The share of the rows that a text is, or the rows in the file that it names, treated as the data were."""
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
        raise InputError(f"{name} is {share:g}; pass a share of the rows between 0 and 1, or a file with rows.")
    return share


TEXT = (".txt", ".csv", ".tsv")
"""Files that are read as one label a line."""


def labels_in(path: Path, name: str) -> Any:
    """The labels in a file: one a line of a text file, else the entries of an array; never unpickled."""
    import numpy as np

    from cvxsae.data import arguments
    from cvxsae.data.atomic import shown
    from cvxsae.data.files import read_array

    file = arguments.existing_file(path, name)
    if file.suffix not in TEXT:
        return np.asarray(read_array(file, name))
    try:
        return np.array(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{name} {shown(file)} is not UTF-8; save it so, or as a .npy file.") from None
    except OSError as error:
        raise InputError(f"{name} {shown(file)} cannot be read ({error.strerror}); pass another file.") from None


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """Which rows an audit holds out, and what it says of the distribution that they are from."""

    held_out: Annotated[
        str | None,
        typer.Option("--held-out", help="Share of DATA to hold out, a file with other rows, or none. [default: 0.25]"),
    ] = None
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            help="File that says which document each row of DATA is of (one label a line of a .txt file, or an array): "
            "documents are held out whole, and intervals are over documents.",
        ),
    ] = None
    held_out_groups: Annotated[
        Path | None, typer.Option("--held-out-groups", help="The same for the rows of the file in --held-out.")
    ] = None
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Of every interval for the distribution. [default: 0.95]")
    ] = None
    drop_outliers: DropOutliers = None

    def keywords(
        self, data: DataOptions, n_points: int, prepared: Callable[[Activations], Activations]
    ) -> dict[str, Any]:
        """The same for the functions of the API; rows of a file are treated as the data were."""
        options: dict[str, Any] = {"drop_outliers": False if self.drop_outliers is None else self.drop_outliers}
        if self.held_out == "none":
            options["held_out"] = None
        elif self.held_out is not None:
            options["held_out"] = rows_or_share(self.held_out, "--held-out", prepared)
        if self.groups is not None:
            labels = labels_in(self.groups, "--groups")
            total = n_points if data.rows is None else len(data.opened())
            if labels.shape != (total,):
                raise InputError(f"--groups has labels of shape {labels.shape}; DATA has {total} rows: pass one a row.")
            options["groups"] = labels[data.drawn(total)]
        if self.held_out_groups is not None:
            options["held_out_groups"] = labels_in(self.held_out_groups, "--held-out-groups")
        if self.confidence is not None:
            options["confidence"] = self.confidence
        return options
