"""The verbs for the distribution that rows come from: a floor for every dictionary, and the gap of a given one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvxsae.cli.errors import exit_code
from cvxsae.cli.learning import FloorSizes, TermsOptions
from cvxsae.cli.matching import dictionary_of
from cvxsae.cli.options import Answer, DataOptions, TimedOptions, command
from cvxsae.cli.stored_sae import load_sae
from cvxsae.errors import InputError

if TYPE_CHECKING:
    import numpy as np


GroupsFile = Annotated[
    str | None,
    typer.Option(
        "--groups",
        help="File that says which document each row belongs to: a .txt file with one label per line, or an array "
        "(FILE::KEY).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How batches are drawn and kept, and what is known about the rows."""

    groups: GroupsFile = None
    batch: Annotated[
        int | None, typer.Option("--batch", help="Rows per batch. [default: an eighth of the rows, at most 4000]")
    ] = None
    batches: Annotated[
        int | None, typer.Option("--batches", help="Number of batches. [default: as many as the rows allow]")
    ] = None
    confidence: Annotated[float, typer.Option("--confidence", help="Confidence of the limit.")] = 0.95
    largest_norm: Annotated[
        float | None,
        typer.Option("--largest-norm", help="Norm that no row of the distribution exceeds; must be known beforehand."),
    ] = None
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for finished batches; several processes may share it.")
    ] = None
    jobs: Annotated[int | None, typer.Option("--jobs", help="Batches to compute at a time; -1 for one per core.")] = (
        None
    )

    def keywords(self, data: DataOptions) -> dict[str, Any]:
        """The same for the functions of the API."""
        return {
            "groups": self.labels(data),
            "batch": self.batch,
            "n_batches": self.batches,
            "confidence": self.confidence,
            "largest_norm": self.largest_norm,
            "folder": self.folder,
            "jobs": self.jobs,
            "seed": data.seed,
        }

    def labels(self, data: DataOptions) -> np.ndarray | None:
        """The document that each row belongs to."""
        if self.groups is None:
            return None
        if data.rows is not None:
            raise InputError("--groups has one label per row of DATA, but --rows uses a subset; pass only one of them.")
        from cvxsae.data.labels import labels_in

        return labels_in(self.groups, "--groups")


def chosen_from_rows(terms: TermsOptions) -> list[str]:
    """A sentence if an option depends on these rows."""
    choices = {
        "--lam-ratio": terms.penalty.lam_ratio is not None,
        "--center": terms.data.center,
        "--scale": terms.data.scale,
        "--bias mean": terms.bias == "mean",
    }
    named = [name for name, is_so in choices.items() if is_so]
    if not named:
        return []
    return [
        f"{' and '.join(named)} depends on these rows; the limit treats its result as if it had been fixed beforehand"
    ]


def population_floor_command(
    terms: TermsOptions,
    batches: BatchOptions,
    compute: TimedOptions,
    sizes: FloorSizes,
    width: Annotated[int | None, typer.Option("--width", help="Number of atoms K.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Compute the floor for every width.")] = False,
) -> Answer:
    """Prove, with a confidence, a lower bound on the expected loss of every dictionary on the rows' distribution."""
    from cvxsae.population.floor import population_floor

    if (width is None) != wide:
        raise InputError("Pass exactly one of --width and --wide.")
    labels = batches.keywords(terms.data)
    X, lam, bias, notes = terms.load()
    found = population_floor(X, width, lam, bias=bias, **labels, **asdict(sizes), **compute.keywords())
    statuses = () if found.status is None else (found.status,)
    code = exit_code(found.is_certified and not isnan(found.lower_limit), *statuses)
    return Answer(str(found), found.to_dict(), code, notes + chosen_from_rows(terms))


@dataclass(frozen=True, kw_only=True)
class Given:
    """The dictionary to compare, and the widths to compare it with."""

    dictionary: Annotated[
        str | None,
        typer.Option("--dictionary", help="File with dictionary and bias, as written by 'cvxsae learn --out'."),
    ] = None
    sae: Annotated[str | None, typer.Option("--sae", help="Folder or file of an SAE, from any supported library.")] = (
        None
    )
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Use the codes of the SAE's encoder instead of exact codes.")
    ] = False
    width: Annotated[
        int | None, typer.Option("--width", help="Compare with this many atoms. [default: the dictionary's own width]")
    ] = None
    wide: Annotated[bool, typer.Option("--wide", help="Compare with dictionaries of every width.")] = False

    def load(self) -> Any:
        """The dictionary, as :func:`cvxsae.population.population_gap` takes it."""
        if (self.dictionary is None) == (self.sae is None):
            raise InputError("Pass exactly one of --dictionary and --sae.")
        if self.width is not None and self.wide:
            raise InputError("Pass at most one of --width and --wide.")
        if self.sae is not None:
            return load_sae(self.sae)
        found = dictionary_of(str(self.dictionary), "--dictionary")
        if isinstance(found, str):
            raise InputError(f"--dictionary {found!r} does not contain a dictionary; pass --sae for an SAE.")
        return found if isinstance(found, tuple) else (found, None)

    def keywords(self) -> dict[str, Any]:
        """The comparison as keywords of the API."""
        width: Any = None if self.wide else "own" if self.width is None else self.width
        return {"n_atoms": width, "codes": "encoder" if self.encoder else "exact"}


def population_gap_command(
    terms: TermsOptions,
    given: Given,
    batches: BatchOptions,
    compute: TimedOptions,
    sizes: FloorSizes,
) -> Answer:
    """Bound, with a confidence, how much any dictionary can gain over a given one; DATA must be unseen rows."""
    from cvxsae.population.gap import population_gap

    what = given.load()
    how = {**given.keywords(), **batches.keywords(terms.data), **asdict(sizes), **compute.keywords()}
    X, lam, bias, notes = terms.load()
    found = population_gap(X, what, lam, bias=bias, **how)
    statuses = () if found.lower.status is None else (found.lower.status,)
    code = exit_code(found.is_certified and not isnan(found.gap), *statuses)
    return Answer(str(found), found.to_dict(), code, notes + chosen_from_rows(terms))


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    command(app, "population-floor")(population_floor_command)
    command(app, "population-gap")(population_gap_command)
