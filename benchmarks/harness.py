"""What every benchmark shares: options, clocks, turns, and a file of results in which machines stand side by side.

A benchmark measures *cells*, by name, and makes tables of them. ``benchmarks/results/NAME.json`` holds::

    {"machines": {KEY: {"machine": {...}, "cells": {NAME: {"made": {...}, "result": ...}},
                        "tables": {NAME: {"columns": [...], "rows": [[...]], "note": "..."}}}}}

KEY names the device, the arithmetic it has and the threads. A cell says which command and commit made it, when, at
what load and with which torch. A run replaces the cells it measures in the entry of its own machine, and nothing else.
The pages show the tables of all machines (``docs/tables.py``).
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cvxsae.data.storage import json_text, write_atomically
from cvxsae.errors import InputError
from cvxsae.parallel.machine import describe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

MATRIX_UNITS, DOT_PRODUCTS, PLAIN = "AMX", "bf16 dot products, no matrix units", "no bf16 products"
"""Kinds of processors, which targets are for."""

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+popcnt,+sse4.2,+movbe",
}
"""Environment in which every library takes the processor for one without AVX-512."""

Table = dict[str, Any]
Cells = Mapping[str, Any]
Tables = Callable[[Cells, Mapping[str, Any]], dict[str, Table]]
"""Tables of the results of one machine's cells, given the machine."""


# ---------------------------------------------------------------------- clocks
class Seconds(NamedTuple):
    """What a call took by the clock on the wall, and of the process's own time."""

    wall: float
    cpu: float


class Clock:
    """Seconds so far, with pauses; it runs from the start."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0
        self.start()

    def start(self) -> None:
        """Go on."""
        self._from = time.perf_counter(), time.process_time()

    def stop(self) -> Seconds:
        """Pause; seconds so far."""
        self._wall += time.perf_counter() - self._from[0]
        self._cpu += time.process_time() - self._from[1]
        return Seconds(self._wall, self._cpu)


def timed(call: Callable[[], Any], device: torch.device | None = None) -> tuple[Any, Seconds]:
    """What a call returns and took; a GPU is waited for before and after."""
    synchronize(device)
    clock = Clock()
    result = call()
    synchronize(device)
    return result, clock.stop()


def synchronize(device: torch.device | None) -> None:
    """Wait for a GPU."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


class Turns(NamedTuple):
    """The runs of one method."""

    wall: list[float]
    cpu: list[float]
    results: list[Any]

    @property
    def seconds(self) -> float:
        """The median by the clock on the wall."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """The median of the process's own time."""
        return statistics.median(self.cpu)

    @property
    def last(self) -> Any:
        """What the last run returned."""
        return self.results[-1]


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device | None = None
) -> dict[str, Turns]:
    """Every method in turn, ``repeats`` times over, so that a busy machine slows all alike; no warm-up."""
    turns = {name: Turns([], [], []) for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            result, seconds = timed(call, device)
            for kept, new in zip(turns[name], (*seconds, result), strict=True):
                kept.append(new)
    return turns


def peak_gigabytes() -> float:
    """The most memory that this process has had."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def by_itself(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns in a fresh process, which has memory and caches of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
        return one.submit(call, *arguments).result()


# ---------------------------------------------------------------------- machines
def this_machine(device: torch.device | None = None) -> dict[str, Any]:
    """The machine as :func:`describe` has it, with its kind of arithmetic, and the device that is measured.

    Where the environment limits libraries to AVX2, name and instruction sets say so; other limits are refused.
    """
    machine, on_gpu = describe(), device is not None and device.type == "cuda"
    if machine["limits"] == AVX2 and "avx2" in machine["instruction_sets"]:
        machine |= {"processor": f"{machine['processor']}, limited to AVX2", "instruction_sets": ["avx2"]}
    elif machine["limits"] and not on_gpu:
        raise InputError(
            f"{', '.join(machine['limits'])} limit instruction sets in a way that results cannot name; unset them, "
            f"or set {' '.join(f'{name}={value}' for name, value in AVX2.items())}."
        )
    name = torch.cuda.get_device_name(device) if on_gpu else machine["processor"]
    kind = "GPU" if on_gpu else kind_of(machine["instruction_sets"])
    return machine | {"device": name, "kind": kind} | ({"cuda": torch.version.cuda} if on_gpu else {})


def kind_of(instruction_sets: Iterable[str]) -> str:
    """What a processor can do in bf16, which targets depend on."""
    sets = set(instruction_sets)
    if sets & {"amx-bf16", "amx-int8"}:
        return MATRIX_UNITS
    return DOT_PRODUCTS if sets & {"avx512bf16", "bf16"} else PLAIN


def key_of(machine: Mapping[str, Any]) -> str:
    """What its entry is called: device, kind and threads; of a GPU the name alone."""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return str(machine["device"]) if machine["kind"] == "GPU" else f"{machine['device']} ({machine['kind']}), {threads}"


def commit() -> str | None:
    """The commit that is checked out, with a + where files differ from it; None outside a repository."""
    try:
        git = ["git", "-C", str(ROOT)]
        short = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        other = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
        changed = subprocess.run(other, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return short.stdout.strip() + ("+" if changed else "")


# ---------------------------------------------------------------------- results
def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> Table:
    """A table as files hold it: cells as text, None as an empty one; the note stands below it."""

    def shown(cell: Any) -> str:
        return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)

    made: Table = {"columns": list(columns), "rows": [[shown(cell) for cell in row] for row in rows]}
    return made | ({"note": note} if note else {})


def between(values: Iterable[float], digits: int = 1) -> str:
    """Least to most of some numbers."""
    found = sorted(values)
    ends = [f"{end:.{digits}f}" for end in (found[0], found[-1])] if found else [""]
    return ends[0] if len(set(ends)) == 1 else " to ".join(ends)


def read(file: Path) -> dict[str, Any]:
    """The entries of a file of results by machine; none where there is no file."""
    if not file.exists():
        return {}
    try:
        machines = json.loads(file.read_text(encoding="utf-8"))["machines"]
        if all({"machine", "cells", "tables"} <= set(entry) for entry in machines.values()):
            return dict(machines)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(
        f"{file} is not a file of benchmark results with an entry for each machine; move it away, or pass --results."
    )


class Store:
    """The entry of this machine in a file of results."""

    def __init__(self, file: Path, tables: Tables, machine: Mapping[str, Any]) -> None:
        self.file, self.make_tables, self.machine = file, tables, dict(machine)
        self.key = key_of(machine)
        read(file)

    @property
    def cells(self) -> dict[str, Any]:
        """Results of this machine on file, by cell."""
        return results_of(read(self.file).get(self.key, {"cells": {}}))

    @property
    def tables(self) -> dict[str, Table]:
        """Tables of this machine on file."""
        return dict(read(self.file).get(self.key, {"tables": {}})["tables"])

    def add(self, name: str, result: Any, order: Sequence[str] = ()) -> None:
        """Keep one cell and make the machine's tables anew; what others wrote meanwhile stays."""
        made = {
            "command": command(),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "load": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
        }
        machines = read(self.file)
        cells = machines.get(self.key, {"cells": {}})["cells"] | {name: {"made": made, "result": result}}
        names = [*(cell for cell in order if cell in cells), *(cell for cell in cells if cell not in order)]
        machines[self.key] = {"machine": self.machine, "cells": {cell: cells[cell] for cell in names}, "tables": {}}
        self._write(machines, [self.key])

    def remake(self) -> None:
        """Make the tables of all machines anew from the cells on file."""
        machines = read(self.file)
        self._write(machines, list(machines))

    def _write(self, machines: dict[str, Any], changed: Iterable[str]) -> None:
        for key in changed:
            machines[key]["tables"] = self.make_tables(results_of(machines[key]), machines[key]["machine"])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json_text({"machines": machines}) + "\n")


def results_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The results of an entry by cell."""
    return {name: cell["result"] for name, cell in entry["cells"].items()}


def command() -> str:
    """The command that measures all of this again: what chooses cells or a folder is left out."""
    words, given, skipping = [], sys.argv[1:], False
    for word in given:
        if word.startswith("--"):
            skipping = word.partition("=")[0] in {"--only", "--results", "--resume"}
        if not skipping:
            words.append(word)
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


# ---------------------------------------------------------------------- a script
def parser(doc: str | None, *, gpu: bool = False) -> argparse.ArgumentParser:
    """The options that every benchmark has; its docstring as help."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="tiny problems, to see that it runs: not kept by default")
    options.add_argument("--only", nargs="+", metavar="TEXT", help="measure the cells whose name contains a text")
    options.add_argument("--list", action="store_true", help="measure nothing; print the names of the cells")
    options.add_argument("--results", type=Path, metavar="FOLDER", help="where NAME.json is (benchmarks/results)")
    options.add_argument("--resume", action="store_true", help="leave out the cells of this machine that are on file")
    options.add_argument("--tables", action="store_true", help="measure nothing; make the tables from what is on file")
    if gpu:
        options.add_argument("--device", default="cuda", help="cuda, or cpu with --quick to see that it runs")
    return options


def device_of(given: argparse.Namespace, options: argparse.ArgumentParser) -> torch.device:
    """The device asked for; one sentence where there is no GPU, unless nothing is measured."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        if not (given.tables or given.list):
            options.error("no CUDA device was found; --device cpu --quick shows that this program runs")
        device = torch.device("cpu")
    torch.set_float32_matmul_precision("highest")
    return device


def run(
    name: str,
    cells: Mapping[str, Callable[[], Any]],
    tables: Tables,
    given: argparse.Namespace,
    device: torch.device | None = None,
) -> int:
    """Measure the cells that were asked for, keep each as it is done, and print the tables.

    A cell that fails is reported and costs the others nothing. Returns an exit code: 1 if one failed, 2 if asked amiss.
    """
    try:
        return _run(name, cells, tables, given, device)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _run(
    name: str,
    cells: Mapping[str, Callable[[], Any]],
    tables: Tables,
    given: argparse.Namespace,
    device: torch.device | None,
) -> int:
    kept = None if given.quick and given.results is None else (given.results or RESULTS) / f"{name}.json"
    machine = this_machine(device)
    store = None if kept is None else Store(kept, tables, machine)
    if given.tables:
        if store is not None:
            store.remake()
        return 0
    chosen = [cell for cell in cells if given.only is None or any(text in cell for text in given.only)]
    if not chosen:
        asked, close = " or ".join(map(repr, given.only)), ", ".join(map(repr, closest(given.only, cells)))
        raise InputError(f"no cell contains {asked}; --list names all {len(cells)}, of which the closest are {close}.")
    if given.list:
        print("\n".join(chosen))
        return 0
    there = store.cells if store is not None and given.resume else {}
    print(f"{name}: {key_of(machine)}", flush=True)
    found: dict[str, Any] = {}
    failed = 0
    for cell in (cell for cell in chosen if cell not in there):
        clock = Clock()
        try:
            found[cell] = cells[cell]()
        except Exception:  # what one cell meets is no reason to lose the others
            traceback.print_exc()
            print(f"{cell}: failed", flush=True)
            failed = 1
            continue
        seconds = clock.stop()
        print(f"{cell}: {seconds.wall:.1f} s, {seconds.cpu:.1f} s CPU", flush=True)
        if store is not None:
            store.add(cell, found[cell], list(cells))
    for title, made in (tables(found, machine) if store is None else store.tables).items():
        show(title, made)
    return failed


def closest(texts: Sequence[str], names: Iterable[str], most: int = 3) -> list[str]:
    """The names with the longest parts in common with a text: names are long, and a text is a part of one, misspelt."""

    def shared(name: str) -> int:
        return max(difflib.SequenceMatcher(None, text, name).find_longest_match().size for text in texts)

    return sorted(names, key=shared, reverse=True)[:most]


def show(title: str, made: Table) -> None:
    """Print a table, aligned."""
    lines = [made["columns"], *made["rows"]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(made["columns"]))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if made.get("note"):
        print(made["note"])
    sys.stdout.flush()
