"""The verb about the large dictionary of a distribution: its atoms pay for the share of tokens that use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cvxsae.cli.errors import exit_code
from cvxsae.cli.learning import TermsOptions
from cvxsae.cli.options import Answer, OutFile, SteppedOptions, check_out, command


@dataclass(frozen=True, kw_only=True)
class LargeFloorOptions:
    """The batches whose bounds are the lower side."""

    held_out: Annotated[
        str | None,
        typer.Option("--held-out", help="File with rows not learned on: then limits are of the distribution."),
    ] = None
    batch: Annotated[int | None, typer.Option("--batch", help="Rows of a batch; none for no lower side.")] = None
    batches: Annotated[int, typer.Option("--batches", help="How many batches.")] = 8
    confidence: Annotated[float, typer.Option("--confidence", help="Of what is said together.")] = 0.95
    folder: Annotated[Path | None, typer.Option("--folder", help="Folder to keep finished batches in.")] = None


def population_dictionary_command(
    terms: TermsOptions,
    lower: LargeFloorOptions,
    compute: SteppedOptions,
    price: Annotated[
        float, typer.Option("--atom-price", help="Share of tokens below which an atom is not worth having.")
    ],
    out: OutFile = None,
) -> Answer:
    """Find as many atoms as pay for the share of tokens that use them, and bound what any dictionary costs."""
    from cvxsae.data.activations import Activations
    from cvxsae.population import PopulationDictionary, large_floor, solve_population

    check_out(out)
    X, lam, bias, notes, prepared = terms.prepare()
    problem = PopulationDictionary(lam, price, bias=bias)
    aside = None if lower.held_out is None else prepared(Activations(lower.held_out, name="--held-out"))
    options, floor = compute.keywords(), None
    if lower.batch is not None:
        given = {name: options[name] for name in ("device", "progress", "max_seconds")}
        of = "rows" if aside is None else "distribution"
        batches: dict[str, Any] = {"batch": lower.batch, "n_batches": lower.batches, "of": of, "folder": lower.folder}
        floor = large_floor(X, problem, **batches, confidence=lower.confidence, seed=terms.data.seed, **given)
    how: dict[str, Any] = {"confidence": lower.confidence, "seed": terms.data.seed}
    fit = solve_population(X, problem, held_out=aside, floor=floor, **how, **options)
    if out is not None:
        fit.save(out)
        notes = [*notes, f"arrays written to {out}"]
    statuses = (fit.status,) if floor is None else (fit.status, floor.status)
    return Answer(str(fit), fit.to_dict(), exit_code(fit.status.is_success and not fit.objections, *statuses), notes)


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command."""
    command(app, "population-dictionary")(population_dictionary_command)
