"""The ``cvxsae`` command: every verb is a thin wrapper around a function of the API.

Exit codes: 0 certified (``crosscheck``: in agreement; ``check``: stationary), 1 not certified, 2 bad input,
130 interrupted.
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
    """Run a demo on real embeddings: floors, cross-checks, shared atoms, and the loss of trained SAEs in parts."""
    from cvxsae.cli.demo import run_demo

    report = run_demo(out, say=None if as_json else print, progress=wants_progress(progress))
    return Answer("", report, EXIT_CERTIFIED if report["certified"] else EXIT_NOT_CERTIFIED)


@command(app, "example")
def example_command(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; created if needed.", metavar="FOLDER")],
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the rows and of the training.")] = 0,
    as_json: Json = False,
) -> Answer:
    """Write a small trained SAE, and activations that it was not trained on, to try the other verbs with."""
    from cvxsae.sae.example import write_example

    made = write_example(folder, seed=seed)
    text = [
        f"{made.folder}: an SAE of {made.sae.n_atoms} features, trained briefly on token embeddings",
        f"{made.activations}: other embeddings, which it was not trained on",
        f"Next: {made.command}",
    ]
    report = {"sae": str(made.folder), "activations": str(made.activations), "lam": made.sae.lam, "next": made.command}
    return Answer("\n".join(text), report)


@app.callback(invoke_without_command=True, help=HELP)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Print the version if --version was passed, whatever the verb."""
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
