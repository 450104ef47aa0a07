"""The verb for the large dictionary of a distribution, where the price of an atom depends on its share of tokens."""

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
    """The batches for the lower bound."""

    held_out: Annotated[
        str | None,
        typer.Option("--held-out", help="File of held-out rows; then the limits are about the distribution."),
    ] = None
    batch: Annotated[
        int | None, typer.Option("--batch", help="Rows per batch. [default: no batches and no lower bound]")
    ] = None
    batches: Annotated[int, typer.Option("--batches", help="Number of batches.")] = 8
    confidence: Annotated[float, typer.Option("--confidence", help="Joint confidence of the limits.")] = 0.95
    folder: Annotated[Path | None, typer.Option("--folder", help="Folder for finished batches.")] = None


def population_dictionary_command(
    terms: TermsOptions,
    lower: LargeFloorOptions,
    compute: SteppedOptions,
    price: Annotated[
        float, typer.Option("--atom-price", help="Share of tokens below which an atom is not worth having.")
    ],
    out: OutFile = None,
) -> Answer:
    """Learn as many atoms as the tokens justify when atoms have a price, and bound the cost of every dictionary."""
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
