"""The verbs about the nonconvex optimum: learn a dictionary, floor its width, audit an SAE, compare over widths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cvxsae.cli.options import (
    EXIT_CERTIFIED,
    EXIT_INTERRUPTED,
    EXIT_NOT_CERTIFIED,
    AsJson,
    Center,
    DataArgument,
    Device,
    Lam,
    LamRatio,
    MaxSeconds,
    Out,
    Progress,
    Rows,
    Scale,
    Seed,
    app,
    bias_of,
    check_out,
    clean_exits,
    datapoints,
    numbers,
    one_penalty,
    show,
    times_lambda_max,
    wants_progress,
)
from cvxsae.data import Activations, arguments
from cvxsae.data.files import read_array, write_arrays
from cvxsae.data.storage import write_atomically
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.solution import Status
from cvxsae.sae.ledger import audit
from cvxsae.solvers.dictionary.learn import learn_dictionary
from cvxsae.solvers.floors.search import width_floors
from cvxsae.study.compare import compare

Bias = Annotated[str, typer.Option("--bias", help="free, none, mean or a file with d numbers.")]
Widths = Annotated[str, typer.Option("--widths", help="Numbers of atoms, separated by commas.")]
Stationarity = Annotated[float, typer.Option("--tol", help="Stationarity to reach, in units of λ.")]


def _problem(
    data: str, lam: float | None, lam_ratio: float | None, bias: str, rows: int | None, seed: int, centre: bool,
    scale: bool,
) -> tuple[Activations, float, Any, list[str]]:  # fmt: skip
    """Datapoints, penalty and bias, and sentences on what was done to the data."""
    one_penalty(lam, lam_ratio)
    X, notes = datapoints(data, rows, seed, centre=centre, scale=scale)
    chosen = bias_of(bias, X)
    if lam is None:
        lam = times_lambda_max(float(lam_ratio or 0), WideLimit(X, 1.0, chosen).lambda_max())
    return X, arguments.penalty(lam, "--lam"), chosen, notes


def _widths(text: str) -> list[int]:
    return [arguments.count(number, "--widths") for number in numbers(text, "--widths")]


def _lines(text: str, notes: list[str]) -> str:
    return "\n".join([text, *(f"  note: {note}" for note in notes)])


@app.command("learn")
def learn_command(
    data: DataArgument,
    n_atoms: Annotated[int, typer.Option("--n-atoms", help="Width K.")],
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = "free",
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Stationarity = 1e-4,
    init: Annotated[str | None, typer.Option("--init", help="File with atoms to start from, as rows.")] = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="A .npz file to resume from.")] = None,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Compute the least curvature at the end, and leave saddles (T5).")
    ] = False,
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    out: Out = None,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Learn a dictionary with exact codes: how low it gets, how stationary it is, and the floor under it."""
    with clean_exits():
        check_out(out)
        X, penalty, chosen, notes = _problem(data, lam, lam_ratio, bias, rows, seed, center, scale)
        fit = learn_dictionary(
            X, n_atoms, penalty, bias=chosen, seed=seed, tol=tol, max_seconds=max_seconds, device=device,
            progress=wants_progress(progress), init=None if init is None else read_array(init, "--init"),
            checkpoint=checkpoint, second_order=second_order,
        )  # fmt: skip
        if out is not None:
            write_arrays(out, {**fit.arrays(), "lam": penalty, "value": fit.value, "lower_bound": fit.floor}, "--out")
            notes.append(f"arrays written to {out}")
        report = fit.summary()
        text = [
            f"dictionary of {fit.n_atoms} atoms: {fit.message}",
            f"  value         {fit.value:.9g}   (codes exact to {fit.codes.gap:.1e})",
            f"  floor         {fit.floor:.9g}   (no dictionary of any width is below)",
            f"  stationarity  {fit.worst_stationarity:.2e}   (tol {tol:.0e})",
            f"  lambda        {penalty:.6g} = {report['lam_over_lambda_max'] or float('nan'):.4g} lambda_max",
            f"  L0            {fit.codes.l0:.2f}   ({fit.dead_atoms} dead atoms)",
            f"  time          {fit.seconds:.1f} s",
        ]
        if fit.remedy:
            text.append(f"  status        {fit.status.name}: {fit.remedy}")
        show(_lines("\n".join(text), notes), {**report, "notes": notes}, as_json)
    if fit.status is Status.INTERRUPTED:
        raise typer.Exit(EXIT_INTERRUPTED)
    good = fit.status in (Status.STATIONARY, Status.CERTIFIED)
    raise typer.Exit(EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED)


@app.command("floor")
def floor_command(
    data: DataArgument,
    widths: Widths,
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Annotated[str, typer.Option("--bias", help="none, free, mean or a file with d numbers.")] = "none",
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    max_points: Annotated[int | None, typer.Option("--max-points", help="Most datapoints in one part.")] = None,
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Certify what no dictionary of a width can be below, for each of several widths."""
    with clean_exits():
        X, penalty, chosen, notes = _problem(data, lam, lam_ratio, bias, rows, seed, center, scale)
        found = width_floors(
            X, penalty, _widths(widths), bias=chosen, max_points=max_points, max_seconds=max_seconds, device=device,
            progress=wants_progress(progress), seed=seed,
        )  # fmt: skip
        text = [f"lambda {penalty:.6g}, {bias} bias: no dictionary is below"]
        text += [f"  {floor.n_atoms:>8} atoms  {floor.value:.9g}   ({floor.theorem})" for floor in found]
        floors = [{"n_atoms": f.n_atoms, "value": f.value, "theorem": f.theorem} for f in found]
        show(_lines("\n".join(text), notes), {"lam": penalty, "floors": floors, "notes": notes}, as_json)
    raise typer.Exit(EXIT_CERTIFIED)


@app.command("audit")
def audit_command(
    data: DataArgument,
    sae: Annotated[Path, typer.Option("--sae", help="Folder of an SAE in the layout of SAELens.")],
    lam: Annotated[float | None, typer.Option("--lam", help="Penalty λ: half of SAELens's l1_coefficient.")] = None,
    bias: Annotated[str, typer.Option("--bias", help="free, none, or a file with the SAE's b_dec.")] = "free",
    rows: Rows = None,
    seed: Seed = 0,
    tol: Stationarity = 1e-4,
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Say where the loss of a trained SAE goes: encoder, dictionary, width, or nothing that anyone could gain."""
    with clean_exits():
        X, notes = datapoints(data, rows, seed, centre=False, scale=False)
        ledger = audit(
            sae, X, lam=lam, bias=bias_of(bias, X), tol=tol, max_seconds=max_seconds, seed=seed, device=device,
            progress=wants_progress(progress),
        )  # fmt: skip
        report = {**ledger.to_dict(), "certificates": ledger.certificates(), "notes": notes}
        show(_lines(str(ledger), notes), report, as_json)
    raise typer.Exit(EXIT_CERTIFIED)


@app.command("compare")
def compare_command(
    data: DataArgument,
    widths: Widths,
    out: Annotated[Path, typer.Option("--out", help="Folder for table, figure and arrays; resumed in it.")],
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = "free",
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Stationarity = 1e-4,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps of each SAE.")] = None,
    trainer: Annotated[str, typer.Option("--trainer", help="adam or saelens.")] = "adam",
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", help="Limit of each search: two a width, one for all floors.")
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Train SAEs and learn dictionaries at several widths; set both above the floors."""
    with clean_exits():
        X, penalty, chosen, notes = _problem(data, lam, lam_ratio, bias, rows, seed, center, scale)
        training: dict[str, Any] = {"trainer": trainer} if steps is None else {"trainer": trainer, "steps": steps}
        comparison = compare(
            X, penalty, _widths(widths), bias=chosen, seed=seed, tol=tol, max_seconds=max_seconds, training=training,
            device=device, progress=wants_progress(progress), out=out,
        )  # fmt: skip
        table = comparison.table()
        write_atomically(out / "compare.csv", table.to_csv(index=False))
        comparison.figure().savefig(out / "compare.png", dpi=120)
        notes.append(f"table, figure and dictionaries written to {out}")
        shown = table[["n_atoms", "loss", "exact", "local", "best", "floor", "wide"]]
        show(_lines(shown.to_string(index=False), notes), {**comparison.to_dict(), "notes": notes}, as_json)
    raise typer.Exit(EXIT_CERTIFIED)
