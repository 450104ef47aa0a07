"""Errors of the command line: one sentence, the next command to try, and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

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

ADVICE = {
    r"pip install '?(cvxsae\[\w+\])'?": r"pip install '\1'",
    r": (cvxsae [\w-]+ .+)\.$": r"\1",
    r"^λ is missing": "the same command with --lam-ratio 0.1",
    r"^--lam and --lam-ratio": "the same command without --lam-ratio",
    r" needs --dictionary": "the same command with --dictionary SAE.safetensors::W_dec",
    r" needs --atoms": "the same command with --atoms data",
    r" needs --atom-cost": "the same command with --atom-cost 1",
    r"^--held-out is": "the same command with --held-out 0.25",
    r"^--device is": "the same command with --device cpu",
}
"""The command to try after some sentences, by patterns of these; parts of a sentence are quoted by number."""

EXAMPLES = {
    "DATA": "the same command with wordllama for DATA",
    "--sae": "cvxsae example example",
    "--n-atoms": "the same command with --n-atoms 512",
    "--widths": "the same command with --widths 64,256",
    "--folder": "the same command with --folder comparison",
}
"""The command to try when a required option or argument was not passed."""

USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])
"""What the parser of command lines raises: click's class, or the copy that newer versions of typer have."""


def next_command(error: BaseException, verb: str) -> str:
    """The command to try after an error of a verb."""
    if isinstance(error, CertificateError | ImportError):
        return "cvxsae doctor"
    if isinstance(error, NotCertifiedError) and (change := SAME.get(error.solution.status.name)):
        return f"the same command with {change}"
    for pattern, command in ADVICE.items():
        if found := re.search(pattern, str(error)):
            return found.expand(command)
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


@contextmanager
def one_sentence_usage(ctx: Any = None) -> Iterator[None]:
    """Turn what the parser says about options and arguments into one sentence, the next command and exit code 2.

    Parameters
    ----------
    ctx
        The parser's context of the whole command; it knows the verb where the error does not.
    """
    try:
        yield
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help of a group of verbs
            raise
        said, following = _usage(error, getattr(ctx, "invoked_subcommand", None) or "")
        print(f"cvxsae: {said}.\nnext: {following}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(EXIT_BAD_INPUT) from None


def _usage(error: Any, called: str) -> tuple[str, str]:
    """What is wrong with a command line, without the stop at its end, and the command to try next."""
    verb = called if error.ctx is None else " ".join(error.ctx.command_path.split()[1:])
    usage, param = " ".join(["cvxsae", *verb.split(), "--help"]), getattr(error, "param", None)
    if param is not None:
        is_option = param.param_type_name == "option"
        name = param.opts[0] if is_option else str(param.metavar or param.human_readable_name).rstrip(".")
        if type(error).__name__ == "MissingParameter":
            what = re.split(r"[:;]|\.$", getattr(param, "help", None) or "")[0]
            what = what if what[1:2].isupper() else what[:1].lower() + what[1:]
            return f"{verb} needs {name}{what and ': '}{what}", EXAMPLES.get(name, usage)
        return f"{name}: {_clause(error.message)}", usage
    if type(error).__name__ == "NoSuchOption":
        near = f"; the nearest are {', '.join(error.possibilities)}" if error.possibilities else ""
        return f"{verb or 'the command'} has no option {error.option_name}{near}", usage
    return _clause(error.format_message()), usage


def _clause(text: str) -> str:
    """What the parser says, as one clause on one line."""
    text = text.removeprefix("Value error, ")
    text = re.sub(r"\. Did you mean (.*)\?", r"; the nearest is \1", " ".join(text.split()))
    text = re.sub(r"[.!?] (?=[A-Z(])", "; ", text).rstrip(".!?")
    return text[:1].lower() + text[1:]


def exit_code(good: bool, *statuses: Status) -> int:
    """0, 1 or 130."""
    if any(status.name == "INTERRUPTED" for status in statuses):
        return EXIT_INTERRUPTED
    return EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED
