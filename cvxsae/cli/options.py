"""What the verbs of the command share: the app, options, the data they name, and how a verb ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from cvxsae.data import (
    EMBEDDED_NAMES,
    Activations,
    InputError,
    arguments,
    center,
    center_and_scale,
    embedded,
    scale_to_unit_mean_square,
)
from cvxsae.data.activations import ActivationsLike
from cvxsae.data.files import read_array
from cvxsae.data.storage import strict_json
from cvxsae.relaxations.solution import CertificateError, NotCertifiedError, Solution, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CERTIFIED, EXIT_NOT_CERTIFIED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Convex optimisation for sparse autoencoders: every answer carries a certificate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataArgument = Annotated[
    str,
    typer.Argument(
        help="Datapoints as rows: a .npy, .npz, .safetensors or .pt file (FILE::KEY picks an array), "
        f"or one of {', '.join(EMBEDDED_NAMES)}.",
        metavar="DATA",
    ),
]
Lam = Annotated[float | None, typer.Option("--lam", help="Penalty λ, in the units of the data as solved.")]
LamRatio = Annotated[float | None, typer.Option("--lam-ratio", help="Penalty as a fraction of lambda_max.")]
Rows = Annotated[int | None, typer.Option("--rows", help="Solve for this many rows, drawn with --seed.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw of --rows, and of whatever else is random.")]
Center = Annotated[bool, typer.Option("--center", help="Subtract the mean of the rows first.")]
Scale = Annotated[bool, typer.Option("--scale", help="Scale to unit mean-square norm first.")]
Tol = Annotated[float | None, typer.Option("--tol", help="Relative gap (solve, certify) or agreement (crosscheck).")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", help="Time limit.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write the arrays to a .safetensors or .npz file.")]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Progress bar. [default: on a terminal]")
]


def datapoints(data: str, rows: int | None, seed: int, *, centre: bool, scale: bool) -> tuple[Activations, list[str]]:
    """The datapoints that DATA, --rows, --center and --scale name, and sentences on what was done to them."""
    if data not in EMBEDDED_NAMES and not Path(data.partition("::")[0]).exists():
        raise InputError(
            f"DATA {data!r} does not exist; pass the path of a file, or one of {', '.join(EMBEDDED_NAMES)}."
        )
    source: ActivationsLike = embedded(data) if data in EMBEDDED_NAMES else data
    X = Activations(source, name="DATA")
    notes = []
    seed = arguments.count(seed, "--seed", least=0)
    if rows is not None:
        if not 1 <= rows <= len(X):
            raise InputError(f"--rows is {rows}; DATA has {len(X)} rows.")
        X = X[np.sort(np.random.default_rng(seed).choice(len(X), size=rows, replace=False))]
        notes.append(f"{rows} rows drawn with seed {seed}")
    if centre or scale:
        make: Callable[[Activations], Any] = (
            center_and_scale if centre and scale else center if centre else scale_to_unit_mean_square
        )
        transform = make(X)
        X = transform.apply(X)
        notes.append(transform.describe())
    return X, notes


def bias_of(text: str, X: Activations) -> Any:
    """The bias that --bias names: none, free, mean or a file."""
    if text == "none":
        return None
    if text == "free":
        return text
    if text == "mean":
        return center(X).shift
    return read_array(text, "--bias")


def one_penalty(lam: float | None, lam_ratio: float | None) -> None:
    """Insist on exactly one of the two."""
    if (lam is None) == (lam_ratio is None):
        raise InputError("Pass exactly one of --lam and --lam-ratio.")


def times_lambda_max(lam_ratio: float, lambda_max: float) -> float:
    """The penalty that --lam-ratio names."""
    ratio = arguments.positive(lam_ratio, "--lam-ratio")
    if lambda_max == 0:
        raise InputError(
            "--lam-ratio cannot be used: lambda_max is 0, since no row points from the bias along any atom; pass --lam."
        )
    return ratio * lambda_max


def numbers(text: str, name: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} is {text!r}; pass numbers separated by commas, as in 0.5,1,2.") from None


@contextmanager
def clean_exits() -> Iterator[None]:
    """Turn what can go wrong into one sentence and an exit code; nothing else may reach the terminal."""
    try:
        yield
    except (InputError, CertificateError, NotCertifiedError) as error:
        print(f"cvxsae: {error}", file=sys.stderr)  # noqa: T201
        if isinstance(error, NotCertifiedError):
            raise typer.Exit(exit_code(False, error.solution)) from None
        raise typer.Exit(EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_NOT_CERTIFIED) from None
    except KeyboardInterrupt:
        print("cvxsae: interrupted.", file=sys.stderr)  # noqa: T201
        raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(good: bool, *solutions: Solution) -> int:
    """0, 1 or 130."""
    if any(solution.status is Status.INTERRUPTED for solution in solutions):
        return EXIT_INTERRUPTED
    return EXIT_CERTIFIED if good else EXIT_NOT_CERTIFIED


def show(text: str, report: dict[str, Any], as_json: bool) -> None:
    """Print the text, or the report as strict JSON."""
    print(json.dumps(strict_json(report), indent=2, allow_nan=False) if as_json else text)  # noqa: T201


def wants_progress(flag: bool | None) -> bool:
    """What was asked for, else whether someone is watching."""
    return sys.stderr.isatty() if flag is None else flag


def check_out(out: Path | None) -> None:
    """Refuse an output file that could not be written before any work is done."""
    if out is None:
        return
    if out.suffix not in (".npz", ".safetensors"):
        raise InputError(f"--out {str(out)!r} has type {out.suffix!r}; write to a .npz or .safetensors file.")
    if not out.parent.is_dir():
        raise InputError(f"--out {str(out)!r} is in a folder that does not exist; create {str(out.parent)!r} first.")
