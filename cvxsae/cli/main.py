"""The ``cvxsae`` command: thin, every verb is a function of the API.

Exit codes: 0 certified (in agreement, stationary), 1 not certified, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from cvxsae import __version__
from cvxsae.cli import doctor, learning, matching, population, population_dictionary, problems, study
from cvxsae.cli.errors import EXIT_CERTIFIED, EXIT_NOT_CERTIFIED
from cvxsae.cli.help import EPILOG, HELP, Jobs
from cvxsae.cli.options import Answer, Json, Progress, command, wants_progress

app = typer.Typer(
    cls=Jobs,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
problems.register(app)
doctor.register(app)
learning.register(app)
matching.register(app)
population.register(app)
population_dictionary.register(app)
study.register(app)


@command(app, "demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for the figure and the numbers.")] = Path("demo"),
    as_json: Json = False,
    progress: Progress = None,
) -> Answer:
    """Show what the package does on real embeddings: floors, cross-checks, when atoms start to be shared."""
    from cvxsae.cli.demo import run_demo

    report = run_demo(out, say=None if as_json else print, progress=wants_progress(progress))
    return Answer("", report, EXIT_CERTIFIED if report["certified"] else EXIT_NOT_CERTIFIED)


@command(app, "example")
def example_command(
    folder: Annotated[Path, typer.Argument(help="Where to write it; made if it is not there.", metavar="FOLDER")],
    seed: Annotated[int, typer.Option("--seed", help="Seed of the rows and of the training.")] = 0,
    as_json: Json = False,
) -> Answer:
    """Write a small trained SAE and activations that it has not seen, to try the other verbs on."""
    from cvxsae.sae.example import write_example

    made = write_example(folder, seed=seed)
    text = [
        f"{made.folder}: an SAE of {made.sae.n_atoms} features, trained briefly on token embeddings",
        f"{made.activations}: other embeddings, which it has not seen",
        f"Next: {made.command}",
    ]
    report = {"sae": str(made.folder), "activations": str(made.activations), "lam": made.sae.lam, "next": made.command}
    return Answer("\n".join(text), report)


@app.callback(invoke_without_command=True, help=HELP)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Print the version where that is asked for, whatever the verb."""
    if version:
        print(f"cvxsae {__version__}")  # noqa: T201
        raise typer.Exit


def main() -> None:
    """Entry point of the ``cvxsae`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe without λ gets a question mark
    app(prog_name="cvxsae")


if __name__ == "__main__":
    main()
