"""Options that several verbs share, in groups, and :func:`command`, which turns a verb into a command.

A verb is a function of options and of groups of options (frozen dataclasses with fields annotated for typer). It
returns an :class:`Answer`. :func:`command` flattens its signature for typer and prints the answer. Functions import
torch only when they use it, so that ``--help`` takes less than a second.
"""

from __future__ import annotations

import glob
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cvxsae.cli.errors import EXIT_CERTIFIED, one_sentence_errors
from cvxsae.cli.schemas import SCHEMAS
from cvxsae.errors import InputError, in_short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cvxsae.data.activations import Activations

EMBEDDED = "wordllama, digits"
"""Names of the built-in data sets for help texts; a test compares them with ``EMBEDDED_NAMES``."""

FIGURE_DPI = 120
"""Dots per inch of the figures written: sharp on a screen, and small."""

Lam = Annotated[
    float | None, typer.Option("--lam", help="Penalty λ, in the units of the data after --center and --scale.")
]
Stationarity = Annotated[
    float, typer.Option("--stationarity", help="Target for the stationarity residual, in units of λ.")
]
Widths = Annotated[str, typer.Option("--widths", help="Numbers of atoms, separated by commas.")]
FreeBias = Annotated[str, typer.Option("--bias", help="Bias: free, none, mean or a file with d numbers.")]
DropOutliers = Annotated[
    float | None,
    typer.Option("--drop-outliers", help="Leave out rows with at least this many times the median norm, e.g. 10."),
]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Show a progress bar. [default: only on a terminal]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OutFile = Annotated[Path | None, typer.Option("--out", help="Write the arrays to a .safetensors or .npz file.")]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The datapoints, and how they are transformed first."""

    data: Annotated[
        list[str],
        typer.Argument(
            help="Datapoints as rows: a .npy, .npz, .safetensors, .pt, .arrow or .parquet file (FILE::KEY picks an "
            "array or column), several files of one type, a folder of such files, a folder saved by Hugging Face "
            f"datasets, or a built-in data set ({EMBEDDED}).",
            metavar="DATA...",
        ),
    ]
    rows: Annotated[int | None, typer.Option("--rows", help="Use a random subset of this many rows.")] = None
    seed: Annotated[int, typer.Option("--seed", help="Random seed of --rows and of all other random choices.")] = 0
    center: Annotated[bool, typer.Option("--center", help="First subtract the mean of the rows.")] = False
    scale: Annotated[bool, typer.Option("--scale", help="First scale the rows to mean squared norm 1.")] = False

    def load(self) -> tuple[Activations, list[str]]:
        """The datapoints, and sentences that say how they were transformed."""
        X, notes, _ = self.prepare()
        return X, notes

    def prepare(self) -> tuple[Activations, list[str], Callable[[Activations], Activations]]:
        """The same, and a function that transforms other rows in the same way."""
        from cvxsae.data import arguments, transforms

        arguments.count(self.seed, "--seed", least=0)
        X, notes = self.filtered(self.opened())
        if self.rows is not None:
            X = X[self.drawn(len(X))]
            notes.append(f"{self.rows} rows drawn with seed {self.seed}")
        makers: dict[tuple[bool, bool], Callable[[Activations], Any]] = {
            (True, False): transforms.center,
            (False, True): transforms.scale_to_unit_mean_square,
            (True, True): transforms.center_and_scale,
        }
        if (self.center, self.scale) not in makers:
            return X, notes, lambda rows: self.filtered(rows)[0]
        transform = makers[self.center, self.scale](X)
        return (
            transform.apply(X),
            [*notes, transform.describe()],
            lambda rows: transform.apply(self.filtered(rows)[0]),
        )

    def filtered(self, X: Activations) -> tuple[Activations, list[str]]:
        """The rows that are kept, and sentences about those that are left out."""
        return X, []

    def opened(self) -> Activations:
        """The datapoints before any transformation."""
        from cvxsae.data.activations import Activations
        from cvxsae.data.atomic import shown
        from cvxsae.data.embedded import EMBEDDED_NAMES, embedded

        first, known = self.data[0], ", ".join(EMBEDDED_NAMES)
        if len(self.data) == 1 and first in EMBEDDED_NAMES:
            return Activations(embedded(first), name="DATA")
        for text in self.data:
            file = text.partition("::")[0]
            if not os.path.exists(file) and not glob.has_magic(file):  # noqa: PTH110 (never raises)
                raise InputError(f"DATA {shown(text)} does not exist; pass the path of a file, or one of {known}.")
        return Activations(first if len(self.data) == 1 else self.data, name="DATA")

    def drawn(self, n_points: int) -> Any:
        """Indices of the rows that --rows selects from ``n_points``, in order; all rows if it was not passed."""
        import numpy as np

        if self.rows is None:
            return np.arange(n_points)
        if not 1 <= self.rows <= n_points:
            raise InputError(f"--rows is {self.rows}; DATA has {n_points} rows.")
        return np.sort(np.random.default_rng(self.seed).choice(n_points, size=self.rows, replace=False))

    @property
    def takes_all(self) -> bool:
        """Whether all rows are used."""
        return self.rows is None

    def those_used(self, labels: Any) -> Any:
        """The labels of the rows that are used, in order, from one label for every row."""
        return labels[self.drawn(len(labels))]


@dataclass(frozen=True, kw_only=True)
class FilteredDataOptions(DataOptions):
    """The same, with an option that leaves out outliers."""

    drop_outliers: DropOutliers = None

    def filtered(self, X: Activations) -> tuple[Activations, list[str]]:
        """The rows that are kept, and sentences about those that are left out."""
        from cvxsae.data import arguments
        from cvxsae.data.outliers import without_outliers

        if self.drop_outliers is None:
            return X, []
        X, found = without_outliers(X, arguments.positive(self.drop_outliers, "--drop-outliers"))
        return X, [found.dropped()]

    @property
    def takes_all(self) -> bool:
        """Whether all rows are used."""
        return super().takes_all and self.drop_outliers is None

    def those_used(self, labels: Any) -> Any:
        """The labels of the rows that are used, in order, from one label for every row."""
        import numpy as np

        from cvxsae.data.outliers import find_outliers

        if self.drop_outliers is not None:
            labels = np.delete(labels, find_outliers(self.opened(), self.drop_outliers).rows)
        return super().those_used(labels)


@dataclass(frozen=True, kw_only=True)
class PenaltyOptions:
    """The penalty, as a number or as a fraction of λ_max, at which all codes are zero."""

    lam: Lam = None
    lam_ratio: Annotated[float | None, typer.Option("--lam-ratio", help="Penalty as a fraction of λ_max.")] = None

    def check(self) -> None:
        """Insist on exactly one of the two."""
        if self.lam is None and self.lam_ratio is None:
            raise InputError(
                "λ is missing; pass --lam (in the units of the data) or --lam-ratio 0.1 (a tenth of λ_max)."
            )
        if self.lam is not None and self.lam_ratio is not None:
            raise InputError("--lam and --lam-ratio were both passed; leave one of them out.")

    def penalty(self, lambda_max: Callable[[], float]) -> float:
        """The penalty λ; ``lambda_max`` is called only for a ratio."""
        from cvxsae.data import arguments

        if self.lam is not None:
            return arguments.penalty(self.lam, "--lam")
        ratio, largest = arguments.positive(self.lam_ratio, "--lam-ratio"), lambda_max()
        if largest == 0:
            raise InputError(
                "--lam-ratio cannot be used: lambda_max is 0, since no row points from the bias along any atom; "
                "pass --lam."
            )
        return ratio * largest


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """The device, and whether to show progress."""

    device: Annotated[str, typer.Option("--device", help="Device: cpu or cuda.")] = "cpu"
    progress: Progress = None

    def keywords(self) -> dict[str, Any]:
        """The same for the functions of the API."""
        from cvxsae.data import arguments

        arguments.compute_device(self.device, "--device")
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"progress": wants_progress(self.progress)}


@dataclass(frozen=True, kw_only=True)
class TimedOptions(ComputeOptions):
    """The same with a time limit."""

    max_seconds: Annotated[float | None, typer.Option("--max-seconds", help="Time limit of the whole call.")] = None


@dataclass(frozen=True, kw_only=True)
class SteppedOptions(TimedOptions):
    """The same with a limit on steps."""

    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", help="Limit on iterations of this call. [default: the algorithm's own limit]"),
    ] = None


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes
    ----------
    text
        The answer for people; empty if it was printed on the way.
    report
        The same for programs, printed as JSON with ``--json``.
    code
        The exit code.
    notes
        Further sentences, for both.
    """

    text: str
    report: dict[str, Any]
    code: int = EXIT_CERTIFIED
    notes: list[str] = field(default_factory=list)

    def show(self, as_json: bool, verb: str = "") -> None:
        """Print the text, or the report as strict JSON, with the name and version of its schema if it has one."""
        from cvxsae.data.storage import strict_json

        schema = {"schema": SCHEMAS[verb].name} if verb in SCHEMAS else {}
        report = {**self.report, **schema, "notes": self.notes}
        text = "\n".join([self.text, *(f"  note: {note}" for note in self.notes)])
        if as_json:
            text = json.dumps(strict_json(report), indent=2, allow_nan=False)
        if text:
            try:
                print(text, flush=True)  # noqa: T201
            except BrokenPipeError:  # whoever reads it has seen enough
                raise
            except OSError as error:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
                raise InputError(f"The answer cannot be written ({error.strerror}); make room for it.") from None


def command(
    app: typer.Typer, name: str, *, under: str = ""
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Turn a function into a command: groups among its parameters become separate options, and ``--json`` is added.

    Parameters
    ----------
    app
        The group that the command belongs to.
    name
        Its name.
    under
        The name of ``app``, if that is a part of the command.

    Returns
    -------
    Callable
        A decorator that registers the function and returns it unchanged.
    """
    verb = f"{under} {name}".strip()

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        hints = get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters

        def run(**values: Any) -> None:
            with one_sentence_errors(verb):
                answer = function(**{name: _built(name, hints[name], values) for name in own})
                answer.show(values["as_json"], verb)
            raise typer.Exit(answer.code)

        parameters = [p for name in own for p in _flat(name, hints[name], own[name].default)]
        if "as_json" not in own:
            parameters += _flat("as_json", Json, False)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return register


def _flat(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """The options that a parameter stands for: itself, or the fields of its group."""
    if is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for member in fields(hint):
            missing = member.default is MISSING
            yield from _flat(member.name, hints[member.name], inspect.Parameter.empty if missing else member.default)
    else:
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _built(name: str, hint: Any, values: dict[str, Any]) -> Any:
    """The value of a parameter, its group built from the values of its options."""
    if not is_dataclass(hint) or not isinstance(hint, type):
        return values[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{member.name: _built(member.name, hints[member.name], values) for member in fields(hint)})


def wants_progress(flag: bool | None) -> bool:
    """The flag if it was passed, otherwise whether stderr is a terminal."""
    return sys.stderr.isatty() if flag is None else flag


def bias_of(text: str, X: Activations) -> Any:
    """The bias that --bias names: none, free, mean or a file."""
    from cvxsae.data.files import read_array
    from cvxsae.data.transforms import center

    if text == "mean":
        return center(X).shift
    return {"none": None, "free": "free"}[text] if text in ("none", "free") else read_array(text, "--bias")


def numbers(text: str, name: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} is {in_short(text)}; pass numbers separated by commas, as in 0.5,1,2.") from None


def check_out(out: Path | None) -> None:
    """Refuse an output file that could not be written before any work is done."""
    if out is None:
        return
    if out.suffix not in (".npz", ".safetensors"):
        raise InputError(f"--out {str(out)!r} has type {out.suffix!r}; write to a .npz or .safetensors file.")
    if not out.parent.is_dir():
        raise InputError(f"--out {str(out)!r} is in a folder that does not exist; create {str(out.parent)!r} first.")


def write_figure(path: Path, figure: Figure, name: str) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    from functools import partial

    from cvxsae.data.atomic import write_atomically

    write_atomically(path, partial(figure.savefig, dpi=FIGURE_DPI, format="png"), name)


def save(out: Path | None, arrays: Mapping[str, Any], **claims: float) -> list[str]:
    """Write the arrays and the claims about them to ``out`` if it is given; return a sentence that says so."""
    if out is None:
        return []
    from cvxsae.data.files import write_arrays

    write_arrays(out, {**arrays, **claims}, "--out")
    return [f"arrays written to {out}"]
