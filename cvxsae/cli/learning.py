"""The verbs for the nonconvex problem: learn a dictionary, prove floors, audit an SAE, compare over widths."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvxsae.cli.errors import EXIT_CERTIFIED, exit_code
from cvxsae.cli.held_out import DrawnOptions, HeldOutOptions, rows_or_share
from cvxsae.cli.options import (
    Answer,
    DataOptions,
    FilteredDataOptions,
    FreeBias,
    OutFile,
    PenaltyOptions,
    Stationarity,
    SteppedOptions,
    TimedOptions,
    Widths,
    bias_of,
    check_out,
    command,
    numbers,
    save,
    write_figure,
)
from cvxsae.cli.stage_lines import stage_lines
from cvxsae.cli.stored_sae import StoredSAE
from cvxsae.errors import InputError, in_short

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvxsae.data.activations import Activations


@dataclass(frozen=True, kw_only=True)
class TermsOptions:
    """The joint problem except for its width: data, penalty and bias."""

    data: FilteredDataOptions
    penalty: PenaltyOptions
    bias: FreeBias = "free"

    def load(self) -> tuple[Activations, float, Any, list[str]]:
        """Datapoints, penalty and bias, and sentences that say how the data were transformed."""
        return self.prepare()[:4]

    def prepare(self) -> tuple[Activations, float, Any, list[str], Callable[[Activations], Activations]]:
        """The same, and a function that transforms other rows in the same way."""
        from cvxsae.relaxations.convex.wide_limit import WideLimit

        self.penalty.check()
        X, notes, prepared = self.data.prepare()
        bias = bias_of(self.bias, X)
        lam = self.penalty.penalty(lambda: WideLimit(X, 1.0, bias=bias).lambda_max())
        return X, lam, bias, notes, prepared


def _whole_widths(text: str) -> list[int]:
    from cvxsae.data import arguments

    return [arguments.count(number, "--widths") for number in numbers(text, "--widths")]


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Where a search starts, which rows validate it, and what is computed at its end."""

    init: Annotated[str | None, typer.Option("--init", help="File with starting atoms as rows.")] = None
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation",
            help="File of validation rows, or the fraction of DATA to set aside for validation; the search stops when "
            "the loss on these rows stops falling.",
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Stop after this many validations without a shown decrease. [default: 5]"),
    ] = None
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Compute the least curvature at the end, and escape saddles (T5).")
    ] = False

    def keywords(self, prepared: Callable[[Activations], Activations]) -> dict[str, Any]:
        """The same for the functions of the API; rows of a file are transformed like the data."""
        from cvxsae.data.files import read_array

        return {
            "init": None if self.init is None else read_array(self.init, "--init"),
            "validation": rows_or_share(self.validation, "--validation", prepared),
            "patience": self.patience,
            "second_order": self.second_order,
        }


def learn_command(
    terms: TermsOptions,
    n_atoms: Annotated[int, typer.Option("--n-atoms", help="Number of atoms K.")],
    compute: SteppedOptions,
    search: SearchOptions,
    stationarity: Stationarity = 1e-4,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for the state; the same command resumes from it.")
    ] = None,
    out: OutFile = None,
) -> Answer:
    """Learn a dictionary with exact codes; print its value, its stationarity and the floor of every width."""
    from cvxsae.solvers.dictionary.learn import learn_dictionary

    check_out(out)
    X, lam, bias, notes, prepared = terms.prepare()
    asked = search.keywords(prepared)
    fit = learn_dictionary(
        X,
        n_atoms,
        lam,
        bias=bias,
        seed=terms.data.seed,
        stationarity=stationarity,
        folder=folder,
        **asked,
        **compute.keywords(),
    )
    if fit.held_out is not None:
        notes.append(fit.held_out.announced)
    report = {**fit.to_dict(), **fit.encoding.activity.to_dict()}
    text = [
        f"dictionary of {fit.n_atoms} atoms: {fit.message}",
        f"  value         {fit.value:.9g}   (codes exact to {fit.encoding.gap:.1e})",
        f"  floor         {fit.lower_bound:.9g}   (no dictionary of any width is below this)",
        f"  stationarity  {fit.worst_stationarity:.2e}   (target {stationarity:.0e})",
        f"  lambda        {lam:.6g} = {report['lam_over_lambda_max'] or float('nan'):.4g} lambda_max",
        f"  features      {fit.encoding.activity}",
        f"  time          {fit.seconds:.1f} s",
    ]
    if fit.remedy:
        text.append(f"  status        {fit.status.name}: {fit.remedy}")
    if fit.validation is not None:
        text.insert(1, f"  held-out F    {fit.validation.mean}")
    code = exit_code(fit.status.name in ("STATIONARY", "CERTIFIED", "EARLY_STOPPED"), fit.status)
    notes += save(out, fit.arrays(), lam=lam, value=fit.value, lower_bound=fit.lower_bound)
    return Answer("\n".join(text), report, code, notes)


@dataclass(frozen=True, kw_only=True)
class FloorSizes:
    """How large the parts of a floor may be."""

    max_points: Annotated[
        int | None,
        typer.Option(
            "--max-points", help="Largest number of datapoints in one part of a floor; more give higher ones."
        ),
    ] = None
    max_dim: Annotated[
        int | None,
        typer.Option(
            "--max-dim",
            help="Project the datapoints of a floor on so many directions first: lower, and larger parts in up to 76.",
        ),
    ] = None


def floor_command(
    terms: TermsOptions,
    widths: Widths,
    compute: TimedOptions,
    sizes: FloorSizes,
) -> Answer:
    """Prove a lower bound on the loss of every dictionary of a width, for each of several widths."""
    from cvxsae.solvers.floors.search import width_floor

    X, lam, bias, notes = terms.load()
    options = {**asdict(sizes), "seed": terms.data.seed, **compute.keywords()}
    floors = width_floor(X, _whole_widths(widths), lam, bias=bias, **options)
    text = [f"lambda {lam:.6g}, {terms.bias} bias: no dictionary has a loss below"]
    text += [f"  {floor.n_atoms:>8} atoms  {floor.value:.9g}   ({floor.theorem})" for floor in floors]
    if doubt := max(floor.failure_probability for floor in floors):
        notes.append(f"wrong with a probability of at most {doubt:.1g} over the seed: parts were too large to be exact")
    names = ("n_atoms", "value", "theorem", "failure_probability")
    rows = [{name: getattr(floor, name) for name in names} for floor in floors]
    return Answer("\n".join(text), {"lam": lam, "floors": rows}, EXIT_CERTIFIED, notes)


@dataclass(frozen=True, kw_only=True)
class AuditedParts(FloorSizes):
    """Further parts of an audit, where to write its report, and how its floor is built."""

    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also compute the field's metrics (a report has them).")
    ] = False
    frontier: Annotated[
        bool | None,
        typer.Option(
            "--frontier/--no-frontier",
            help="Also compute error against L0. [default: only for a report, and for SAEs not trained with L1]",
        ),
    ] = None
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="Also test the conditions of any optimum (a report has them).")
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Write one .html page and a .json beside it; turns on --metrics, --frontier and --diagnostics.",
        ),
    ] = None


def audit_command(
    data: DataOptions,
    sae: StoredSAE,
    compute: TimedOptions,
    parts: AuditedParts,
    rows: HeldOutOptions,
    lam: Annotated[
        str | None,
        typer.Option(
            "--lam",
            help="Penalty λ, or match-l0 for the λ at which exact codes have the SAE's L0. [default: the SAE's own λ]",
        ),
    ] = None,
    bias: Annotated[str, typer.Option("--bias", help="Bias: free, none, or a file with the SAE's b_dec.")] = "free",
    stationarity: Stationarity = 1e-4,
) -> Answer:
    """Find what causes the loss of a trained SAE (its encoder, its dictionary or its width) and what to change."""
    from cvxsae.sae.audits.audit import audit

    penalty: Any = lam if lam is None or lam == "match-l0" else _number_or_match(lam)
    if parts.report is not None:
        from cvxsae.sae.audits.report.page import require_report

        require_report(parts.report, "--report")
    model = sae.load()
    X, notes, prepared = data.prepare()
    options = {"stationarity": stationarity, "seed": data.seed, **asdict(parts), **compute.keywords()}
    options |= rows.keywords(data, len(X), prepared)
    with stage_lines(compute.progress):
        answer = audit(X, model, lam=penalty, bias=bias_of(bias, X), **options)
    if parts.report is not None:
        notes.append(f"report written to {parts.report} and {parts.report.with_suffix('.json')}")
    return Answer(str(answer), answer.to_dict(), EXIT_CERTIFIED, notes)


def _number_or_match(text: str) -> float:
    from cvxsae.data import arguments

    try:
        number = float(text)
    except ValueError:
        raise InputError(f"--lam is {in_short(text)}; pass a number, or match-l0.") from None
    return arguments.penalty(number, "--lam")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the SAEs of a comparison are trained."""

    steps: Annotated[int | None, typer.Option("--steps", help="Training steps of each SAE.")] = None
    trainer: Annotated[str, typer.Option("--trainer", help="Trainer of the SAEs: adam or saelens.")] = "adam"


def compare_command(
    terms: TermsOptions,
    widths: Widths,
    folder: Annotated[
        Path, typer.Option("--folder", help="Folder for table, figure and arrays; the same command resumes from it.")
    ],
    training: TrainingOptions,
    compute: TimedOptions,
    drawn: DrawnOptions,
    stationarity: Stationarity = 1e-4,
) -> Answer:
    """Train SAEs and learn dictionaries at several widths; compare both with the floors."""
    from cvxsae.data.storage import write_atomically
    from cvxsae.study.compare import compare

    X, lam, bias, notes, prepared = terms.prepare()
    if drawn.held_out_groups is not None and terms.data.drop_outliers is not None:
        raise InputError(
            "--held-out-groups has labels for rows that --drop-outliers may leave out; remove outliers from the files."
        )
    how = {name: value for name, value in asdict(training).items() if value is not None}
    options = drawn.keywords(terms.data, len(X), prepared)
    options |= {"stationarity": stationarity, "seed": terms.data.seed, **compute.keywords()}
    comparison = compare(X, _whole_widths(widths), lam, bias=bias, training=how, folder=folder, **options)
    table = comparison.table()
    write_atomically(folder / "compare.csv", table.to_csv(index=False), "--folder")
    write_figure(folder / "compare.png", comparison.figure(), "--folder")
    notes.append(f"table, figure and dictionaries written to {folder}")
    names = ["n_atoms", "loss", "exact", "local", "best", "floor", "wide"]
    notes += comparison.notes
    seen_first = comparison.results[0].held_out
    if seen_first is not None:
        notes.append(f"the columns loss to wide are about the rows learned from; {seen_first.said}")
        seen = ("exact", "grown", "dictionary_gap", "dictionary_gap_low", "dictionary_gap_high")
        names[1:1] = [f"held_out_{name}" for name in seen]
    shown = table[names]
    return Answer(shown.to_string(index=False), comparison.to_dict(), EXIT_CERTIFIED, notes)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for function in (learn_command, floor_command, audit_command, compare_command):
        command(app, function.__name__.removesuffix("_command"))(function)
