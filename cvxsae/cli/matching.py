"""The verb that compares two dictionaries: which atoms both have, and whether they are the same optimum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvxsae.cli.errors import EXIT_CERTIFIED, EXIT_NOT_CERTIFIED
from cvxsae.cli.options import (
    EMBEDDED,
    Answer,
    DropOutliers,
    FilteredDataOptions,
    Lam,
    TimedOptions,
    command,
)
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from cvxsae.data.activations import Activations

_HELP = (
    "A dictionary: a folder or file of an SAE, a file with dictionary and bias (or W_dec and b_dec), or one array with "
    "atoms as rows (a .npy file or FILE::KEY)."
)


@dataclass(frozen=True, kw_only=True)
class TwoDictionaries:
    """The paths of the two dictionaries."""

    a: Annotated[str, typer.Argument(help=_HELP, metavar="A")]
    b: Annotated[str, typer.Argument(help="The dictionary to compare with, in any of the same forms.", metavar="B")]

    def load(self) -> tuple[Any, Any]:
        """Both, as :func:`cvxsae.match` takes them."""
        return dictionary_of(self.a, "A"), dictionary_of(self.b, "B")


@dataclass(frozen=True, kw_only=True)
class MatchingData:
    """Datapoints for comparing values, if any, and how they are transformed first."""

    data: Annotated[
        str | None,
        typer.Option("--data", help=f"Datapoints for comparing losses: a file, or a built-in data set ({EMBEDDED})."),
    ] = None
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="File of datapoints that neither dictionary was fitted to.")
    ] = None
    rows: Annotated[int | None, typer.Option("--rows", help="Use a random subset of this many rows of --data.")] = None
    seed: Annotated[int, typer.Option("--seed", help="Random seed of --rows and of the random baselines.")] = 0
    center: Annotated[bool, typer.Option("--center", help="First subtract the mean of --data.")] = False
    scale: Annotated[bool, typer.Option("--scale", help="First scale --data to mean squared norm 1.")] = False

    drop_outliers: DropOutliers = None

    def load(self) -> tuple[Activations | None, str | None, list[str]]:
        """The datapoints, the file of held-out ones, and sentences that say how they were transformed."""
        if self.data is None:
            given = {"--rows": self.rows, "--center": self.center, "--scale": self.scale}
            for name, value in {**given, "--drop-outliers": self.drop_outliers}.items():
                if value:
                    raise InputError(f"{name} applies to --data, which is not given; pass --data.")
            return None, self.held_out, []
        if self.held_out is not None and (self.center or self.scale):
            raise InputError("--center and --scale do not change --held-out; center and scale both files beforehand.")
        own = ("rows", "seed", "center", "scale", "drop_outliers")
        X, notes = FilteredDataOptions(data=[self.data], **{name: getattr(self, name) for name in own}).load()
        return X, self.held_out, notes


def dictionary_of(text: str, name: str) -> Any:
    """The content of a path on the command line: dictionary and bias from a file of arrays, or the path of an SAE."""
    from cvxsae.data.files import read_array, read_arrays

    file, _, key = text.partition("::")
    if key or Path(file).suffix == ".npy":
        return read_array(text, name)
    if Path(file).suffix not in (".npz", ".safetensors"):
        return text
    held = read_arrays(text, name)
    for atoms, bias, encoder in (("dictionary", "bias", ""), ("W_dec", "b_dec", "W_enc")):
        if atoms in held and encoder not in held:
            return (held[atoms], held[bias]) if bias in held else held[atoms]
    return read_array(text, name) if len(held) == 1 else text


def match_command(
    dictionaries: TwoDictionaries,
    data: MatchingData,
    compute: TimedOptions,
    lam: Lam = None,
    similar: Annotated[
        float | None,
        typer.Option("--similar", help="Smallest cosine at which two atoms count as similar. [default: 0.7]"),
    ] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", help="Number of random dictionaries drawn for the baselines.")
    ] = None,
    points: Annotated[
        int | None, typer.Option("--points", help="Number of points between A and B at which the loss is evaluated.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for A.csv and B.csv, with the kind of every feature.")
    ] = None,
) -> Answer:
    """Match two dictionaries: say which atoms are shared, split, merged or new, and whether both are one optimum."""
    from cvxsae.data.atomic import make_folder, write_atomically
    from cvxsae.sae.match import match

    place = None if folder is None else make_folder(folder, "--folder")
    X, held_out, notes = data.load()
    chosen: dict[str, Any] = {"similar": similar, "points": points}
    options = {name: value for name, value in chosen.items() if value is not None}
    A, B = dictionaries.load()
    found = match(A, B, X, lam, held_out=held_out, draws=draws, seed=data.seed, **options, **compute.keywords())
    if place is not None:
        for which in ("A", "B"):
            write_atomically(place / f"{which}.csv", found.table(which).to_csv(), "--folder")
        notes.append(f"tables written to {place}")
    is_done = found.between is None or found.between.is_complete
    return Answer(str(found), found.to_dict(), EXIT_CERTIFIED if is_done else EXIT_NOT_CERTIFIED, notes)


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command."""
    command(app, "match")(match_command)
