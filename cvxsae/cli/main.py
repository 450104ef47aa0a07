"""The ``cvxsae`` command: thin, every verb is a function of the API.

Exit codes: 0 certified (in agreement, stationary), 1 not certified, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from cvxsae import __version__
from cvxsae.cli import learning as cli_learning
from cvxsae.cli import study as cli_study
from cvxsae.cli.options import (
    EXIT_CERTIFIED,
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
    Tol,
    app,
    bias_of,
    check_out,
    clean_exits,
    datapoints,
    exit_code,
    numbers,
    one_penalty,
    show,
    times_lambda_max,
    wants_progress,
)
from cvxsae.data import InputError
from cvxsae.data.files import read_array, read_arrays, write_arrays
from cvxsae.data.storage import strict_json, write_atomically
from cvxsae.diagnostics.check import check_optimality
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, SparseCodes, datapoint_atoms
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.problem import Problem
from cvxsae.solvers.convex.large.path import Along, atom_cost_path
from cvxsae.solvers.convex.solve import SOLVERS, solve
from cvxsae.validation.certify import certify
from cvxsae.validation.crosscheck import crosscheck

__all__ = ["app", "cli_learning", "cli_study", "main"]


class Kind(StrEnum):
    """The four convex problems."""

    wide = "wide"
    codes = "codes"
    large = "large"
    candidates = "candidates"


KindArgument = Annotated[Kind, typer.Argument(help="The convex problem.", metavar="wide|codes|large|candidates")]
Bias = Annotated[
    str | None,
    typer.Option("--bias", help="none, free, mean or a file with d numbers. [default: free for wide, else none]"),
]
DictionaryFile = Annotated[str | None, typer.Option("--dictionary", help="codes: file with the atoms as rows, (K, d).")]
Atoms = Annotated[
    str | None, typer.Option("--atoms", help="candidates: file with the atoms as rows, or 'data' for the datapoints.")
]
AtomCost = Annotated[float | None, typer.Option("--atom-cost", help="large, candidates: surcharge τ of an atom.")]
Solver = Annotated[str, typer.Option("--solver", help=f"One of {', '.join(SOLVERS)}.")]


@dataclass(frozen=True)
class ProblemOptions:
    """What the command line says about a problem."""

    kind: Kind
    data: str
    lam: float | None
    lam_ratio: float | None
    bias: str | None
    dictionary: str | None
    atoms: str | None
    atom_cost: float | None
    rows: int | None
    seed: int
    center: bool
    scale: bool

    def check(self) -> None:
        """Refuse options that contradict each other or do not apply to the problem."""
        one_penalty(self.lam, self.lam_ratio)
        belongs = {
            "dictionary": ((Kind.codes,), True),
            "atoms": ((Kind.candidates,), True),
            "atom_cost": ((Kind.large, Kind.candidates), True),
        }
        for name, (kinds, needed) in belongs.items():
            flag, given = "--" + name.replace("_", "-"), getattr(self, name) is not None
            if given and self.kind not in kinds:
                raise InputError(f"{flag} does not apply to {self.kind.value!r}; it is for {' and '.join(kinds)}.")
            if needed and not given and self.kind in kinds:
                raise InputError(f"{self.kind.value!r} needs {flag}.")

    def build(self) -> tuple[Problem, list[str]]:
        """The problem, and sentences on what was done to the data."""
        self.check()
        X, notes = datapoints(self.data, self.rows, self.seed, centre=self.center, scale=self.scale)
        bias: Any = bias_of(self.bias or ("free" if self.kind is Kind.wide else "none"), X)
        lam = 1.0 if self.lam is None else self.lam
        problem: Problem
        if self.kind is Kind.wide:
            problem = WideLimit(X, lam, bias)
        elif self.kind is Kind.codes:
            problem = SparseCodes(X, read_array(str(self.dictionary), "--dictionary"), lam, bias)
        elif self.kind is Kind.large:
            problem = LargeDictionary(X, lam, self.atom_cost or 0.0, bias)
        else:
            start = None if isinstance(bias, str) else bias
            atoms = datapoint_atoms(X, start) if self.atoms == "data" else read_array(str(self.atoms), "--atoms")
            problem = CandidateDictionary(X, atoms, lam, self.atom_cost or 0.0, bias)
        if self.lam_ratio is not None:
            problem = problem.with_penalty(times_lambda_max(self.lam_ratio, problem.lambda_max()))
        return problem, notes


@app.command("solve")
def solve_command(
    kind: KindArgument,
    data: DataArgument,
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = None,
    dictionary: DictionaryFile = None,
    atoms: Atoms = None,
    atom_cost: AtomCost = None,
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Tol = 1e-6,
    solver: Solver = "auto",
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    out: Out = None,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Solve a convex problem, let the referee check the answer, print both bounds."""
    with clean_exits():
        check_out(out)
        options = ProblemOptions(
            kind, data, lam, lam_ratio, bias, dictionary, atoms, atom_cost, rows, seed, center, scale
        )
        problem, notes = options.build()
        solution = solve(
            problem,
            solver=solver,
            tol=1e-6 if tol is None else tol,
            max_seconds=max_seconds,
            device=device,
            raise_on_failure=False,
            progress=wants_progress(progress),
        )
        certificate = certify(problem, solution)
        if out is not None:
            write_arrays(out, {**solution.arrays(), "lam": problem.lam, "value": solution.value,
                               "lower_bound": solution.lower_bound}, "--out")  # fmt: skip
            notes.append(f"arrays written to {out}")
        report = {**solution.to_dict(), "certificate": certificate.to_dict(), "notes": notes}
        lines = [str(certificate), f"  solver       {solution.solver}, {solution.seconds:.2f} s"]
        if not solution.is_certified:
            lines.append(f"  status       {solution.status.name}: {solution.status.message}; {solution.status.remedy}")
        show("\n".join([*lines, *(f"  note: {note}" for note in notes)]), report, as_json)
    raise typer.Exit(exit_code(certificate.is_certified, solution))


@app.command("crosscheck")
def crosscheck_command(
    kind: KindArgument,
    data: DataArgument,
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = None,
    dictionary: DictionaryFile = None,
    atoms: Atoms = None,
    atom_cost: AtomCost = None,
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Tol = None,
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    out: Out = None,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Solve with cvxpy + Clarabel and with torch, send both through the referee, compare."""
    with clean_exits():
        check_out(out)
        options = ProblemOptions(
            kind, data, lam, lam_ratio, bias, dictionary, atoms, atom_cost, rows, seed, center, scale
        )
        problem, notes = options.build()
        check = crosscheck(problem, tol=tol, max_seconds=max_seconds, device=device, progress=wants_progress(progress))
        if out is not None:
            arrays = {f"{name}.{key}": array for name in ("reference", "torch")
                      for key, array in getattr(check, name).arrays().items()}  # fmt: skip
            write_arrays(out, {**arrays, "lam": problem.lam}, "--out")
            notes.append(f"arrays written to {out}")
        show(
            "\n".join([str(check), *(f"  note: {note}" for note in notes)]),
            {**check.to_dict(), "notes": notes},
            as_json,
        )
    raise typer.Exit(exit_code(check.agrees, check.reference, check.torch))


@app.command("certify")
def certify_command(
    kind: KindArgument,
    data: DataArgument,
    solution: Annotated[Path, typer.Option("--solution", help="Arrays written by 'cvxsae solve --out'.")],
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = None,
    dictionary: DictionaryFile = None,
    atoms: Atoms = None,
    atom_cost: AtomCost = None,
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Tol = 1e-6,
    as_json: AsJson = False,
) -> None:
    """Check arrays from a file against a problem, from scratch; the claims in the file are not believed."""
    with clean_exits():
        options = ProblemOptions(
            kind, data, lam, lam_ratio, bias, dictionary, atoms, atom_cost, rows, seed, center, scale
        )
        candidate, claims = read_candidate(solution)
        problem, notes = options.build()
        certificate = certify(problem, candidate, tol=1e-6 if tol is None else tol)
        notes += [
            f"the file claims {name} {claims[name]:.12g}, found {found:.12g}"
            for name, found in (
                ("lam", problem.lam),
                ("value", certificate.value),
                ("lower_bound", certificate.lower_bound),
            )
            if name in claims and not abs(claims[name] - found) <= 1e-9 * abs(found)
        ]
        show("\n".join([str(certificate), *(f"  note: {note}" for note in notes)]),
              {**certificate.to_dict(), "notes": notes}, as_json)  # fmt: skip
    raise typer.Exit(EXIT_CERTIFIED if certificate.is_certified else EXIT_NOT_CERTIFIED)


@app.command("path")
def path_command(
    data: DataArgument,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the table, figure and arrays; a path is resumed in it.")
    ],
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = None,
    atom_cost: Annotated[float, typer.Option("--atom-cost", help="τ of a path along λ.")] = 1.0,
    along: Annotated[str, typer.Option("--along", help="What varies: atom_cost (τ) or lam (λ).")] = "atom_cost",
    values: Annotated[str | None, typer.Option("--values", help="The path, increasing: 0.5,1,2.")] = None,
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Tol = None,
    max_seconds: MaxSeconds = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Solve the large dictionary along τ (or λ): width, L0 and fit against the price of an atom."""
    with clean_exits():
        if along == "lam" and lam is None and lam_ratio is None:
            lam = 1.0  # replaced along the path
        options = ProblemOptions(
            Kind.large, data, lam, lam_ratio, bias, None, None, atom_cost, rows, seed, center, scale
        )
        problem, notes = options.build()
        path = atom_cost_path(
            cast(LargeDictionary, problem),
            None if values is None else numbers(values, "--values"),
            along=cast(Along, along),
            tol=1e-3 if tol is None else tol,
            max_seconds=max_seconds,
            device=device,
            folder=out,
        )
        table = path.table()
        write_atomically(out / "path.csv", table.to_csv(index=False))
        path.figure().savefig(out / "path.png", dpi=120)
        chosen = path.widest_plateau()
        report = {"points": table.to_dict("records"), "plateau": chosen, "notes": notes}
        text = [table.to_string(index=False), f"widest plateau: {path.points[chosen].live_atoms} atoms (row {chosen})"]
        show("\n".join([*text, *(f"note: {note}" for note in notes)]), report, as_json)
        closed = all(point.status in ("CERTIFIED", "RELAXED") for point in path.points)
    raise typer.Exit(EXIT_CERTIFIED if closed else EXIT_NOT_CERTIFIED)


@app.command("check")
def check_command(
    data: DataArgument,
    dictionary: DictionaryFile = None,
    lam: Lam = None,
    lam_ratio: LamRatio = None,
    bias: Bias = None,
    rows: Rows = None,
    seed: Seed = 0,
    center: Center = False,
    scale: Scale = False,
    tol: Annotated[float, typer.Option("--tol", help="What counts as zero, in units of λ.")] = 1e-4,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Look for a direction to escape in (T5).")
    ] = False,
    noiseless: Annotated[bool, typer.Option("--noiseless", help="Test the cone condition (T6).")] = False,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the tables, the report and the figure.")] = None,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Check a dictionary against what any optimum satisfies: where it fails, what splits, what absorbs what."""
    with clean_exits():
        options = ProblemOptions(
            Kind.codes, data, lam, lam_ratio, bias, dictionary, None, None, rows, seed, center, scale
        )
        problem, notes = options.build()
        found = check_optimality(
            problem.X,
            cast(SparseCodes, problem).dictionary,
            problem.lam,
            bias=problem.bias,
            tol=tol,
            second_order=second_order,
            noiseless=noiseless,
            seed=seed,
            device=device,
            progress=wants_progress(progress),
        )
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for name in ("features", "pairs", "absorbed", "antipodes", "duplicates"):
                write_atomically(out / f"{name}.csv", getattr(found, name).to_csv(index=name == "features"))
            write_atomically(out / "report.json", json.dumps(strict_json(found.to_dict()), indent=2, allow_nan=False))
            found.figure().savefig(out / "report.png", dpi=120)
            notes.append(f"tables, report and figure written to {out}")
        show(
            "\n".join([str(found), *(f"  note: {note}" for note in notes)]),
            {**found.to_dict(), "notes": notes},
            as_json,
        )
    raise typer.Exit(EXIT_CERTIFIED if found.is_stationary else EXIT_NOT_CERTIFIED)


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for the figure and the numbers.")] = Path("demo"),
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Tell the story on real embeddings: the wide limit, four cross-checks, when atoms start to be shared."""
    from cvxsae.cli.demo import run_demo  # matplotlib is only needed here

    with clean_exits():
        report = run_demo(out, say=None if as_json else print, progress=wants_progress(progress))
        if as_json:
            show("", report, as_json)
    raise typer.Exit(EXIT_CERTIFIED if report["certified"] else EXIT_NOT_CERTIFIED)


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Convex optimisation for sparse autoencoders: every answer carries a certificate."""
    if version:
        print(f"cvxsae {__version__}")  # noqa: T201
        raise typer.Exit


def read_candidate(path: Path) -> tuple[Candidate, dict[str, float]]:
    """The arrays of a file written by ``cvxsae solve --out``, and what it claims of them."""
    arrays = read_arrays(path, "--solution")
    if "bias" not in arrays:
        raise InputError(f"--solution {str(path)!r} has no array 'bias'; pass a file written by 'cvxsae solve --out'.")
    known = {f.name for f in fields(Candidate)}
    claims = {
        str(name): _number(path, name, arrays[name]) for name in ("lam", "value", "lower_bound") if name in arrays
    }
    parts: dict[str, Any] = {name: array for name, array in arrays.items() if name in known}
    return Candidate(**parts), claims


def _number(path: Path, name: str, array: Any) -> float:
    if np.ndim(array) > 0:
        raise InputError(f"--solution {str(path)!r} has {name!r} of shape {np.shape(array)}; it must be one number.")
    return float(array)


def main() -> None:
    """Entry point of the ``cvxsae`` command."""
    app()


if __name__ == "__main__":
    main()
