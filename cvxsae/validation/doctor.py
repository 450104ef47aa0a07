"""The check of an installation: versions, threads, GPU and caches, and every engine tried on a tiny problem."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae._version import __version__
from cvxsae.errors import in_short

ROWS, DIM, ATOMS = 12, 4, 6
"""The tiny problem: every solver of the table of :func:`cvxsae.solve` accepts it and is done in a moment."""

TINY_LAM, TINY_COST = 0.2, 1.0
"""Penalty and atom price of the tiny problem, whose rows have a mean-square norm of 1: some codes, and not all."""

LOOSE = 5e-2
"""Relative gap asked of a solver: enough to see it work. Relaxations leave a few percent open by their nature."""

ANY_GAP = 1.0
"""Relative gap that any bound closes: between a learned dictionary and the floor under every width a gap remains."""

EXACT = 1e-6
"""Relative gap asked of the engines for codes, which close it to rounding."""


class State(StrEnum):
    """What became of a check."""

    works = "works"
    fails = "fails"
    absent = "absent"


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes
    ----------
    name
        What was tried.
    state
        ``works``, ``fails``, or ``absent`` for what this machine or installation does not have and need not have.
    detail
        What was found, or what went wrong and what to do.
    seconds
        How long it took, compilation included.
    """

    name: str
    state: State
    detail: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"  {self.state:<7} {self.name:<35} {self.detail}"


@dataclass(frozen=True)
class Extra:
    """An optional group of packages.

    Attributes
    ----------
    name
        What stands in the brackets of ``pip install 'cvxsae[...]'``.
    purpose
        What it is for.
    packages
        Distribution names and their versions; None where one is not installed.
    """

    name: str
    purpose: str
    packages: dict[str, str | None]

    @property
    def is_complete(self) -> bool:
        """Whether every package is there."""
        return None not in self.packages.values()

    def __str__(self) -> str:
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in self.packages.items())
        return f"  {'there' if self.is_complete else 'absent':<7} {f'extra: {self.name}':<35} {self.purpose} ({found})"


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`examine` found.

    Attributes
    ----------
    machine
        Processor, cores, threads, memory, GPUs and versions, as :func:`cvxsae.parallel.machine.describe` has them.
    checks
        Everything that was tried, in order.
    extras
        Optional packages.
    """

    machine: dict[str, Any]
    checks: tuple[Check, ...]
    extras: tuple[Extra, ...]

    @property
    def objections(self) -> tuple[str, ...]:
        """One sentence for each thing that should work here and does not."""
        return tuple(f"{check.name}: {check.detail}" for check in self.checks if check.state is State.fails)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "sound": not self.objections,
            "machine": self.machine,
            "checks": [{**asdict(check), "state": check.state.value} for check in self.checks],
            "extras": [{**asdict(extra), "complete": extra.is_complete} for extra in self.extras],
            "objections": list(self.objections),
        }

    def __str__(self) -> str:
        return "\n".join([*map(str, self.checks), self.summary()])

    def summary(self) -> str:
        """The machine, the extras and the verdict, without the checks."""
        versions = self.machine.get("versions", {})
        lines = [f"  {name:<43} {_shown(value)}" for name, value in self.machine.items() if name != "versions"]
        lines.append(f"  {'versions':<43} {', '.join(f'{name} {version}' for name, version in versions.items())}")
        verdict = f"NOT sound: {len(self.objections)} of {len(self.checks)} checks failed"
        good = "sound: everything that should work here works"
        return "\n".join([*map(str, self.extras), *lines, verdict if self.objections else good])


PURPOSES = {
    "data": "the embedded data sets",
    "report": "`cvxsae audit --report`: one page with figures in it",
    "saelens": "training with sae-lens",
    "cluster": "studies on a Dask cluster",
    "bench": "the peers that benchmarks compare with",
}
"""What each extra is for; a test compares the names with those of the package. ``test``, ``dev`` and ``docs`` are for
those who change the package."""


def examine(report: Callable[[Check], None] = lambda check: None) -> Diagnosis:
    """Try every engine on a tiny problem and look at what the installation stands on.

    No check lets an exception through except an interrupt: what goes wrong is what it reports.

    Parameters
    ----------
    report
        Called with every check as soon as it is done.

    Returns
    -------
    Diagnosis
        Its ``objections`` are empty if everything that should work here does. An answer of an engine counts as right
        when the referee (:func:`cvxsae.certify`) has nothing against it, and all engines for codes must agree.
    """
    checks = []
    for name, attempt in _attempts():
        check = _tried(name, attempt)
        report(check)
        checks.append(check)
    return Diagnosis(_machine(), tuple(checks), tuple(_extras()))


class _Absent(Exception):  # noqa: N818 (nothing is wrong)
    """What is tried is not here, and need not be."""


def _tried(name: str, attempt: Callable[[], str]) -> Check:
    begun = time.perf_counter()
    try:
        state, detail = State.works, attempt()
    except _Absent as reason:
        state, detail = State.absent, str(reason)
    except Exception as error:
        state, detail = State.fails, f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    return Check(name, state, detail, round(time.perf_counter() - begun, 3))


def _attempts() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "numba's cache", _cache
    yield "files", _files
    yield "measured products", _measurements
    try:
        from cvxsae.solvers.codes.engines import ENGINES
        from cvxsae.solvers.convex.solve import METHODS
    except Exception as error:
        raised = error
        yield "import", lambda: _raise(raised)
        return
    yield "codes: torch on CUDA", lambda: _codes("torch", "cuda")
    for engine in ENGINES:
        if engine != "auto":
            yield f"codes: {engine}", lambda engine=engine: _codes(engine)  # type: ignore[misc]
    for method in METHODS:
        yield f"{method.name}: {method.problem.__name__}", lambda method=method: _solver(method)  # type: ignore[misc]
    yield "learn_dictionary", _learned
    yield "width_floor", _floor
    yield "process group", _group


def _raise(error: Exception) -> str:
    raise error


def _tiny() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    X, atoms = generator.standard_normal((ROWS, DIM)), generator.standard_normal((ATOMS, DIM))
    return X / np.sqrt((X**2).sum(axis=1).mean()), atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def _sound(answer: Any, tol: float) -> str:
    """What the referee says of an answer, if it has nothing against it and the gap is within tol."""
    from cvxsae.errors import CertificateError
    from cvxsae.validation.certify import certify

    certificate = certify(answer, tol=tol)
    if certificate.objections:
        raise CertificateError("; ".join(certificate.objections))
    return f"value {certificate.value:.6g}, relative gap {certificate.gap:.0e} (within tol {tol:g})"


def _codes(engine: str, device: str = "cpu") -> str:
    import torch

    from cvxsae.solvers.codes.encode import encode
    from cvxsae.solvers.codes.engines.compiled import why_not_compiled

    version = _version("triton")
    if engine == "triton":
        device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
        if version is None:
            raise _Absent("triton is not installed; only GPUs need it")
    if device == "cuda" and not torch.cuda.is_available():
        how = f"; triton {version} runs with TRITON_INTERPRET=1 in its interpreter" if engine == "triton" else ""
        raise _Absent(f"no CUDA device{how}")
    if engine == "fused" and (reason := why_not_compiled()) is not None:
        raise RuntimeError(f"{reason}; codes come from the engine 'torch', which is slower")
    X, atoms = _tiny()
    found = _sound(encode(X, atoms, TINY_LAM, tol=EXACT, engine=engine, device=device), EXACT)
    return f"{found}, on {device}{f' with triton {version}' if engine == 'triton' else ''}"


def _solver(method: Any) -> str:
    import torch

    from cvxsae.parallel.context import Run
    from cvxsae.relaxations.convex.fixed_atoms import CandidateDictionary, SparseCodes
    from cvxsae.relaxations.convex.large_dictionary import LargeDictionary
    from cvxsae.relaxations.convex.penalized_codes import PenalizedCodes
    from cvxsae.relaxations.convex.penalties.nonconvex import L0
    from cvxsae.relaxations.convex.penalties.separable import L1
    from cvxsae.relaxations.convex.wide_limit import WideLimit

    X, atoms = _tiny()
    problems = (
        SparseCodes(X, atoms, TINY_LAM),
        SparseCodes(X, atoms, TINY_LAM, bias="free"),
        CandidateDictionary(X, atoms, TINY_LAM, TINY_COST),
        WideLimit(X, TINY_LAM),
        LargeDictionary(X, TINY_LAM, TINY_COST),
        LargeDictionary(X, TINY_LAM, 0.0),
        LargeDictionary(X[:, :3], TINY_LAM, TINY_COST),
        PenalizedCodes(X, atoms, TINY_LAM, L1()),
        PenalizedCodes(X, atoms, TINY_LAM, L0()),
    )
    cpu = torch.device("cpu")
    fitting = [p for p in problems if isinstance(p, method.problem) and method.why_not(p, cpu) is None]
    if not fitting:
        raise LookupError("no tiny problem here is one that it solves")
    solution = method.run(fitting[0], LOOSE, Run())
    return f"{_sound(solution, LOOSE)}, {solution.status.name}"


def _learned() -> str:
    from cvxsae.solvers.dictionary.learn import learn_dictionary

    fit = learn_dictionary(_tiny()[0], 2, TINY_LAM)
    if not fit.status.is_success:
        raise RuntimeError(f"{fit.status.name}: {fit.status.message}")
    return f"{_sound(fit, ANY_GAP)}, {fit.status.name}"


def _floor() -> str:
    from cvxsae.solvers.floors.search import width_floor

    floor = width_floor(_tiny()[0], 2, TINY_LAM)
    return f"{floor.value:.6g} ({floor.theorem})"


def _group() -> str:
    import torch

    if not torch.distributed.is_available():
        raise _Absent("this build of torch has no torch.distributed; one process is all there is")
    nccl = "and nccl " if torch.distributed.is_nccl_available() else ""
    if not torch.distributed.is_gloo_available():
        raise _Absent("torch.distributed has no gloo, which processes on CPUs need")
    return f"torch.distributed with gloo {nccl}for several processes"


def _cache() -> str:
    """Where compiled kernels are kept, by numba's own account."""
    from cvxsae.solvers.codes.engines.compiled import why_not_compiled

    if (reason := why_not_compiled()) is not None:
        raise _Absent(reason)
    from cvxsae.solvers.codes.engines import cpu_kernels

    kernels = [value for value in vars(cpu_kernels).values() if hasattr(value, "stats") and hasattr(value, "py_func")]
    place = next((kernel.stats.cache_path for kernel in kernels if kernel.stats.cache_path), None)
    if place is None:
        raise _Absent("no writable place, so every process compiles for ten seconds; set NUMBA_CACHE_DIR to a folder")
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        files = list(folder.glob("*.nbc"))
    return f"{folder} is writable and has {len(files)} compiled kernels"


def _measurements() -> str:
    from cvxsae.solvers.codes.engines.calibration import kept_in_words

    return kept_in_words()


def _files() -> str:
    """Arrays written to a temporary folder and read again."""
    from cvxsae.data.files import read_arrays, write_arrays

    X, _ = _tiny()
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".safetensors", ".npz"):
            file = write_arrays(Path(folder) / f"tiny{suffix}", {"X": X}, "file")
            if not np.array_equal(np.asarray(read_arrays(file, "file")["X"]), X):
                raise OSError(f"what was written as {suffix} is not what is read")
    return f"safetensors and npz written to {tempfile.gettempdir()} and read again"


def _machine() -> dict[str, Any]:
    try:
        from cvxsae.parallel.machine import describe

        return describe()
    except Exception as error:  # whatever is broken has a check of its own
        versions = {"cvxsae": __version__, "python": platform.python_version()}
        return {"executable": sys.executable, "unknown": in_short(str(error)), "versions": versions}


def _extras() -> Iterator[Extra]:
    for name, purpose in PURPOSES.items():
        yield Extra(name, purpose, {package: _version(package) for package in _packages(name)})


def _packages(extra: str) -> list[str]:
    """What an extra brings, by the metadata of the installed package."""
    marker = f'extra == "{extra}"'
    try:
        required = importlib.metadata.requires("cvxsae") or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path, not an installation
        return []
    found = [line for line in required if marker in line.replace("'", '"')]
    return [re.match(r"[\w.-]+", line)[0] for line in found]  # type: ignore[index]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
