"""``cvxsae study``: run a declared grid, report its status, plot its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from cvxsae.cli.errors import EXIT_CERTIFIED, EXIT_NOT_CERTIFIED
from cvxsae.cli.options import Answer, Progress, command, wants_progress
from cvxsae.errors import InputError

StudyFolder = Annotated[Path, typer.Argument(help="The folder of a study.", metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the cells of a study are computed."""

    n_jobs: Annotated[int, typer.Option("--n-jobs", help="Cells to run at a time; -1 for one per core.")] = 1
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads per cell. [default: cores divided by --n-jobs]")
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cells again.")] = False
    progress: Progress = None


def run_command(
    study: Annotated[Path, typer.Argument(help="The TOML file of a study; see docs/studies.md.", metavar="STUDY.toml")],
    options: RunOptions,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for cells and tables. [default: named like the file]")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option("--held-out", help="Fraction of the rows to hold out. [default: from the file]"),
    ] = None,
) -> Answer:
    """Compute the missing cells and write the table."""
    from cvxsae.study.keys import SHARE
    from cvxsae.study.scale_study import ScaleStudy
    from cvxsae.study.summary import summary

    if options.n_jobs == 0:
        raise InputError("--n-jobs is 0; pass the number of cells to run at a time, or -1 for one per core.")
    loaded = ScaleStudy.from_toml(study, folder=folder)
    if held_out is not None:
        loaded = replace(loaded, held_out=SHARE.read(held_out, "--held-out"))
    found = loaded.run(**{**asdict(options), "progress": wants_progress(options.progress)})
    said = summary(loaded.name, found)
    report = {"folder": str(loaded.folder), "summary": said.splitlines(), **loaded.status().to_dict()}
    good = bool((found["status"] == "done").all() and found["violation"].isna().all())
    text = f"{said}\ntable written to {Path(loaded.folder) / 'table.csv'}"
    return Answer(text, report, EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED)


def status_command(folder: StudyFolder) -> Answer:
    """Print which cells are done, failed or missing."""
    from cvxsae.study.status import status_of
    from cvxsae.study.store import Store

    store = Store(folder)
    found = status_of(*store.read_plan(), store)
    complete = not (found.total("failed") or found.total("missing"))
    return Answer(str(found), found.to_dict(), EXIT_CERTIFIED if complete else EXIT_NOT_CERTIFIED)


def plot_command(
    folder: StudyFolder,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the figures. [default: FOLDER]")] = None,
) -> Answer:
    """Draw the figures and print a summary."""
    from cvxsae.study.figures import draw
    from cvxsae.study.store import Store
    from cvxsae.study.summary import summary
    from cvxsae.study.table import table

    store = Store(folder)
    name, cells = store.read_plan()
    found = table(cells, store)
    if not (found["status"] == "done").any():
        raise InputError(f"folder {str(folder)!r} has no finished cell; run the study first.")
    written = [str(file) for file in draw(found, name, folder if out is None else out)]
    said = summary(name, found, n_planned=len(cells))
    text = "\n".join([said, *(f"figure written to {file}" for file in written)])
    return Answer(text, {"summary": said.splitlines(), "figures": written})


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command, as ``cvxsae study ...``."""
    studies = typer.Typer(
        help="Run a grid of certified computations, declared in a TOML file; a study can be resumed.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for function in (run_command, status_command, plot_command):
        command(studies, function.__name__.removesuffix("_command"), under="study")(function)
    app.add_typer(studies, name="study")
