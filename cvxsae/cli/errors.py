"""Errors of the command line: one sentence, the next command to try, and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from cvxsae.errors import CertificateError, Error, InputError, NotCertifiedError, reason

if TYPE_CHECKING:
    from cvxsae.relaxations.solution import Status

EXIT_CERTIFIED, EXIT_NOT_CERTIFIED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

SAME = {
    "TIME_LIMIT": "a larger --max-seconds",
    "MAX_ITER": "a larger --max-steps",
    "STALLED": "a larger --tol",
    "NONFINITE": "--center --scale",
    "BREAKDOWN": "--center --scale",
    "REFERENCE_FAILED": "--solver torch",
}
"""What to add to the same command after a solve that ended with this status."""

FIRST = {"study status": "cvxsae study run STUDY.toml", "study plot": "cvxsae study run STUDY.toml"}
"""The command to run before some verbs; for all other verbs, the next command is the verb's help."""

INSTALL = re.compile(r"pip install '?(cvxsae\[\w+\])'?")


def next_command(error: BaseException, verb: str) -> str:
    """The command to try after an error of a verb."""
    if isinstance(error, CertificateError | ImportError):
        return "cvxsae doctor"
    if isinstance(error, NotCertifiedError) and (change := SAME.get(error.solution.status.name)):
        return f"the same command with {change}"
    if extra := INSTALL.search(str(error)):
        return f"pip install '{extra[1]}'"
    return FIRST.get(verb, f"cvxsae {verb} --help")


@contextmanager
def one_sentence_errors(verb: str) -> Iterator[None]:
    """Turn every error into one sentence, the next command and an exit code; nothing else reaches the terminal.

    Parameters
    ----------
    verb
        The verb that was called, as in ``study run``.
    """
    try:
        yield
    except (InputError, CertificateError, NotCertifiedError, ImportError) as error:
        said = error if isinstance(error, Error) else f"a library cannot be imported ({reason(error)})."
        print(f"cvxsae: {said}\nnext: {next_command(error, verb)}", file=sys.stderr)  # noqa: T201
        if isinstance(error, NotCertifiedError):
            raise typer.Exit(exit_code(False, error.solution.status)) from None
        raise typer.Exit(EXIT_NOT_CERTIFIED if isinstance(error, CertificateError) else EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        print("cvxsae: interrupted.", file=sys.stderr)  # noqa: T201
        raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(good: bool, *statuses: Status) -> int:
    """0, 1 or 130."""
    if any(status.name == "INTERRUPTED" for status in statuses):
        return EXIT_INTERRUPTED
    return EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED
