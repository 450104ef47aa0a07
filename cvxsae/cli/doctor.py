"""The verb that checks the installation."""

from __future__ import annotations

import typer

from cvxsae.cli.errors import EXIT_CERTIFIED, EXIT_NOT_CERTIFIED
from cvxsae.cli.options import Answer, Json, command


def doctor_command(as_json: Json = False) -> Answer:
    """Try every engine and solver on a tiny problem; print versions, threads, GPU, caches and optional packages.

    The exit code is 1 if something that should work here does not. The first run compiles kernels, which takes a
    minute.
    """
    from cvxsae.validation.doctor import examine

    found = examine() if as_json else examine(lambda check: print(check, flush=True))  # noqa: T201
    code = EXIT_NOT_CERTIFIED if found.objections else EXIT_CERTIFIED
    return Answer(found.summary(), found.to_dict(), code)


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command."""
    command(app, "doctor")(doctor_command)
