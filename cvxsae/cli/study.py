"""``cvxsae study``: run a declared grid, say where it stands, draw what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvxsae.cli.options import (
    EXIT_CERTIFIED,
    EXIT_NOT_CERTIFIED,
    AsJson,
    Progress,
    app,
    clean_exits,
    show,
    wants_progress,
)
from cvxsae.data import InputError
from cvxsae.study.figures import draw
from cvxsae.study.spec import ScaleStudy
from cvxsae.study.status import status_of
from cvxsae.study.store import Store
from cvxsae.study.summary import summary
from cvxsae.study.table import table

study_app = typer.Typer(
    help="Scale studies: a grid of certified cells from a TOML file, resumable.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
app.add_typer(study_app, name="study")

Folder = Annotated[Path, typer.Argument(help="The folder of a study.", metavar="FOLDER")]


@study_app.command("run")
def run_command(
    study: Annotated[Path, typer.Argument(help="The TOML file of a study; see docs/studies.md.", metavar="STUDY.toml")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for cells and tables. [default: the file's name]")
    ] = None,
    n_jobs: Annotated[int, typer.Option("--n-jobs", help="Cells at a time; -1: one a core.")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of a cell. [default: the cores shared out]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cells again.")] = False,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Compute the cells that are missing, write the table, say what was found."""
    with clean_exits():
        if n_jobs == 0:
            raise InputError("--n-jobs is 0; pass a number of cells at a time, or -1 for one a core.")
        asked = ScaleStudy.from_toml(study, folder=out)
        found = asked.run(n_jobs=n_jobs, threads=threads, retry_failed=retry_failed, progress=wants_progress(progress))
        said = summary(asked.name, found)
        report = {"folder": str(asked.folder), "summary": said.splitlines(), **asked.status().to_dict()}
        show(f"{said}\ntable written to {Path(asked.folder) / 'table.csv'}", report, as_json)
    good = bool((found["status"] == "done").all() and found["violation"].isna().all())
    raise typer.Exit(EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED)


@study_app.command("status")
def status_command(folder: Folder, as_json: AsJson = False) -> None:
    """Say what is done, failed and missing, why, and about how long the rest takes."""
    with clean_exits():
        store = Store(folder)
        found = status_of(*store.read_plan(), store)
        show(str(found), found.to_dict(), as_json)
    raise typer.Exit(EXIT_NOT_CERTIFIED if found.total("failed") or found.total("missing") else EXIT_CERTIFIED)


@study_app.command("plot")
def plot_command(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the figures. [default: FOLDER]")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the figures whose data exist and say what was found."""
    with clean_exits():
        store = Store(folder)
        name, cells = store.read_plan()
        found = table(cells, store)
        if not (found["status"] == "done").any():
            raise InputError(f"folder {str(folder)!r} has no cell that is done; run the study first.")
        written = [str(file) for file in draw(found, name, folder if out is None else out)]
        said = summary(name, found, n_planned=len(cells))
        show("\n".join([said, *(f"figure written to {file}" for file in written)]),
             {"summary": said.splitlines(), "figures": written}, as_json)  # fmt: skip
    raise typer.Exit(EXIT_CERTIFIED)
