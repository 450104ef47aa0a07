"""The verbs for convex problems (solve, crosscheck, certify, path), and check, for a given dictionary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from cvxsae.cli.errors import exit_code
from cvxsae.cli.options import (
    Answer,
    FilteredDataOptions,
    FreeBias,
    OutFile,
    PenaltyOptions,
    SteppedOptions,
    TimedOptions,
    bias_of,
    check_out,
    command,
    numbers,
    save,
    write_figure,
)
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from cvxsae.relaxations.candidate import Candidate
    from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
    from cvxsae.relaxations.problem import Problem

SOLVERS = (
    "auto, torch, newton, working-set, bias-descent, interior-point, proximal-gradient, block-descent, splitting, "
    "directions, copositive, factorized, local-search, reference"
)
"""Names of the solvers for the help text; a test compares them with the table of ``solve``."""

CLAIM_TOL = 1e-9
"""Relative difference between a number in a file and the one found here that gets a note; rounding is less."""


class Kind(StrEnum):
    """The four convex problems."""

    wide = "wide"
    codes = "codes"
    large = "large"
    candidates = "candidates"


DictionaryFile = Annotated[
    str | None, typer.Option("--dictionary", help="File with the atoms as rows, (K, d); only for codes and check.")
]


@dataclass(frozen=True, kw_only=True)
class AtomOptions:
    """Options that apply only to some problems."""

    bias: Annotated[
        str | None,
        typer.Option(
            "--bias", help="Bias: none, free, mean or a file with d numbers. [default: none for codes, else free]"
        ),
    ] = None
    dictionary: DictionaryFile = None
    atoms: Annotated[
        str | None,
        typer.Option(
            "--atoms", help="File with the candidate atoms as rows, or 'data' for the datapoints; only for candidates."
        ),
    ] = None
    atom_cost: Annotated[
        float | None, typer.Option("--atom-cost", help="Price τ of an atom; only for large and candidates.")
    ] = None

    def check(self, kind: Kind) -> None:
        """Refuse options that are missing or do not apply to the problem."""
        belongs = {
            "dictionary": (Kind.codes,),
            "atoms": (Kind.candidates,),
            "atom_cost": (Kind.large, Kind.candidates),
        }
        for name, kinds in belongs.items():
            flag, is_given = "--" + name.replace("_", "-"), getattr(self, name) is not None
            if is_given and kind not in kinds:
                raise InputError(f"{flag} does not apply to {kind.value!r}; it is for {' and '.join(kinds)}.")
            if not is_given and kind in kinds:
                raise InputError(f"{kind.value!r} needs {flag}.")


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    """A convex problem: its kind, data, penalty, bias and atoms."""

    kind: Annotated[
        Kind,
        typer.Argument(
            help="The problem: the floor of every width (wide), exact codes of a dictionary (codes), the large "
            "dictionary (large), or given candidate atoms (candidates).",
            metavar="wide|codes|large|candidates",
        ),
    ]
    data: FilteredDataOptions
    penalty: PenaltyOptions
    atoms: AtomOptions

    def build(self) -> tuple[Problem, list[str]]:
        """The problem, and sentences that say how the data were transformed."""
        from cvxsae.data.files import read_array
        from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, SparseCodes, datapoint_atoms
        from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
        from cvxsae.relaxations.convex.wide_limit import WideLimit

        self.penalty.check()
        self.atoms.check(self.kind)
        X, notes = self.data.load()
        bias: Any = bias_of(self.atoms.bias or ("none" if self.kind is Kind.codes else "free"), X)
        lam = 1.0 if self.penalty.lam is None else self.penalty.lam
        cost = self.atoms.atom_cost or 0.0
        problem: Problem
        if self.kind is Kind.wide:
            problem = WideLimit(X, lam, bias=bias)
        elif self.kind is Kind.codes:
            problem = SparseCodes(X, read_array(str(self.atoms.dictionary), "--dictionary"), lam, bias=bias)
        elif self.kind is Kind.large:
            problem = LargeDictionary(X, lam, cost, bias=bias)
        else:
            start, file = None if isinstance(bias, str) else bias, str(self.atoms.atoms)
            atoms = datapoint_atoms(X, start) if file == "data" else read_array(file, "--atoms")
            problem = CandidateDictionary(X, atoms, lam, cost, bias=bias)
        if self.penalty.lam is None:
            problem = replace(problem, lam=self.penalty.penalty(problem.lambda_max))
        return problem, notes


def solve_command(
    problem: ProblemOptions,
    compute: SteppedOptions,
    tol: Annotated[float, typer.Option("--tol", help="Target for the relative gap.")] = 1e-6,
    solver: Annotated[str, typer.Option("--solver", help=f"One of {SOLVERS}.")] = "auto",
    out: OutFile = None,
) -> Answer:
    """Solve a convex problem, have the referee check the answer, and print its value and lower bound."""
    from cvxsae.solvers.convex.solve import solve
    from cvxsae.validation.certify import certify

    check_out(out)
    built, notes = problem.build()
    solution = solve(built, solver=solver, tol=tol, raise_on_failure=False, **compute.keywords())
    certificate = certify(built, solution)
    lines = [str(certificate), f"  solver       {solution.solver}, {solution.seconds:.2f} s"]
    if not solution.is_certified:
        lines.append(f"  status       {solution.status.name}: {solution.status.message}; {solution.status.remedy}")
    report = {**solution.to_dict(), "certificate": certificate.to_dict()}
    code = exit_code(certificate.is_certified, solution.status)
    notes += save(out, solution.arrays(), lam=built.lam, value=solution.value, lower_bound=solution.lower_bound)
    return Answer("\n".join(lines), report, code, notes)


def crosscheck_command(
    problem: ProblemOptions,
    compute: TimedOptions,
    tol: Annotated[float | None, typer.Option("--tol", help="Largest relative difference allowed.")] = None,
    out: OutFile = None,
) -> Answer:
    """Solve with cvxpy and Clarabel and with torch, have the referee check both answers, and compare them."""
    from cvxsae.validation.crosscheck import crosscheck

    check_out(out)
    built, notes = problem.build()
    check = crosscheck(built, tol=tol, **compute.keywords())
    solutions = {"reference": check.reference, "torch": check.torch}
    arrays = {f"{name}.{key}": array for name, s in solutions.items() for key, array in s.arrays().items()}
    code = exit_code(check.agrees, check.reference.status, check.torch.status)
    return Answer(str(check), check.to_dict(), code, notes + save(out, arrays, lam=built.lam))


def certify_command(
    problem: ProblemOptions,
    solution: Annotated[Path, typer.Option("--solution", help="File written by 'cvxsae solve --out'.")],
    tol: Annotated[float, typer.Option("--tol", help="Largest relative gap that counts as certified.")] = 1e-6,
) -> Answer:
    """Check the arrays of a file against a problem from scratch, without trusting the claims in the file."""
    from cvxsae.validation.certify import certify

    candidate, claims = read_candidate(solution)
    built, notes = problem.build()
    certificate = certify(built, candidate, tol=tol)
    found = {"lam": built.lam, "value": certificate.value, "lower_bound": certificate.lower_bound}
    notes += [
        f"the file claims {name} {claim:.12g}, found {found[name]:.12g}"
        for name, claim in claims.items()
        if not abs(claim - found[name]) <= CLAIM_TOL * abs(found[name])
    ]
    return Answer(str(certificate), certificate.to_dict(), exit_code(certificate.is_certified), notes)


@dataclass(frozen=True, kw_only=True)
class PathOptions:
    """The parameter that varies along a path of large dictionaries."""

    bias: FreeBias = "free"
    atom_cost: Annotated[float, typer.Option("--atom-cost", help="Price τ of an atom, for a path along λ.")] = 1.0
    along: Annotated[str, typer.Option("--along", help="Parameter that varies: atom_cost (τ) or lam (λ).")] = (
        "atom_cost"
    )
    values: Annotated[
        str | None, typer.Option("--values", help="Increasing values of the path, e.g. 0.5,1,2. [default: automatic]")
    ] = None


def path_command(
    data: FilteredDataOptions,
    folder: Annotated[
        Path, typer.Option("--folder", help="Folder for table, figure and arrays; the same command resumes from it.")
    ],
    penalty: PenaltyOptions,
    path: PathOptions,
    compute: TimedOptions,
    tol: Annotated[float, typer.Option("--tol", help="Target for the relative gap at every point.")] = 1e-3,
) -> Answer:
    """Solve the large dictionary for a range of prices τ (or of λ): width, L0 and fit at each."""
    from cvxsae.data import arguments
    from cvxsae.data.storage import write_atomically
    from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
    from cvxsae.solvers.convex.large.path import default_values, large_path

    if path.along == "lam" and penalty.lam is None and penalty.lam_ratio is None:
        penalty = PenaltyOptions(lam=1.0)  # replaced along the path
    atoms = AtomOptions(bias=path.bias, atom_cost=path.atom_cost)
    problem, notes = ProblemOptions(kind=Kind.large, data=data, penalty=penalty, atoms=atoms).build()
    large = cast(LargeDictionary, problem)
    along = cast(Literal["atom_cost", "lam"], arguments.choice(path.along, "--along", ("atom_cost", "lam")))
    values = default_values(large, along) if path.values is None else numbers(path.values, "--values")
    found = large_path(
        large,
        values if along == "atom_cost" else None,
        lams=values if along == "lam" else None,
        tol=tol,
        folder=folder,
        **compute.keywords(),
    )
    table, chosen = found.table(), found.widest_plateau()
    write_atomically(folder / "path.csv", table.to_csv(index=False), "--folder")
    write_figure(folder / "path.png", found.figure(), "--folder")
    text = f"{table.to_string(index=False)}\nwidest plateau: {found.points[chosen].live_atoms} atoms (row {chosen})"
    closed = all(point.status in ("CERTIFIED", "RELAXED") for point in found.points)
    code = exit_code(closed, *(() if found.status is None else (found.status,)))
    return Answer(text, {"points": table.to_dict("records"), "plateau": chosen}, code, notes)


@dataclass(frozen=True, kw_only=True)
class ConditionOptions:
    """The conditions to test, and the tolerance."""

    tol: Annotated[float, typer.Option("--tol", help="Residuals up to this size, in units of λ, count as zero.")] = 1e-4
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Also look for a direction of negative curvature (T5).")
    ] = False
    noiseless: Annotated[bool, typer.Option("--noiseless", help="Also test the cone condition (T6).")] = False
    trained_bias: Annotated[
        bool,
        typer.Option("--trained-bias", help="Also test whether the bias is stationary (T3); use if it was trained."),
    ] = False


def check_command(
    data: FilteredDataOptions,
    penalty: PenaltyOptions,
    conditions: ConditionOptions,
    compute: TimedOptions,
    dictionary: DictionaryFile = None,
    bias: Annotated[str, typer.Option("--bias", help="Bias: none, mean or a file with d numbers.")] = "none",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the tables, the report and the figure.")] = None,
) -> Answer:
    """Test a dictionary against the conditions of any optimum: which atoms fail, split, absorb or are duplicates."""
    from cvxsae.data.atomic import make_folder, write_atomically
    from cvxsae.data.storage import strict_json
    from cvxsae.diagnostics.check import check_optimality

    if dictionary is None:
        raise InputError("check needs --dictionary, a file with the atoms as rows.")
    atoms = AtomOptions(bias=bias, dictionary=dictionary)
    problem, notes = ProblemOptions(kind=Kind.codes, data=data, penalty=penalty, atoms=atoms).build()
    options = {**asdict(conditions), **compute.keywords()}
    if out is not None:
        make_folder(out, "--out")  # before any work is done
    given = cast("SparseCodes", problem).dictionary
    found = check_optimality(problem.X, given, problem.lam, bias=problem.bias, seed=data.seed, **options)
    if out is not None:
        for name in ("features", "pairs", "absorbed", "antipodes", "duplicates"):
            write_atomically(out / f"{name}.csv", getattr(found, name).to_csv(index=name == "features"), "--out")
        report = json.dumps(strict_json(found.to_dict()), indent=2, allow_nan=False)
        write_atomically(out / "report.json", report, "--out")
        write_figure(out / "report.png", found.figure(), "--out")
        notes.append(f"tables, report and figure written to {out}")
    return Answer(str(found), found.to_dict(), exit_code(found.is_stationary), notes)


def read_candidate(path: Path) -> tuple[Candidate, dict[str, float]]:
    """The arrays of a file written by ``cvxsae solve --out``, and its claims about them."""
    from cvxsae.data.files import read_arrays
    from cvxsae.relaxations.candidate import candidate_from

    arrays: dict[str, Any] = dict(read_arrays(path, "--solution"))
    candidate = candidate_from(arrays, f"--solution {str(path)!r}")
    claims = {name: arrays[name] for name in ("lam", "value", "lower_bound") if name in arrays}
    for name, array in claims.items():
        if array.ndim > 0:
            raise InputError(f"--solution {str(path)!r} has {name!r} of shape {array.shape}; it must be one number.")
    return candidate, {name: float(array) for name, array in claims.items()}


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for function in (solve_command, crosscheck_command, certify_command, path_command, check_command):
        command(app, function.__name__.removesuffix("_command"))(function)
