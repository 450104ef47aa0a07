"""Two processes against one, a thread each: what a second core gives ``encode``, ``solve`` and ``learn_dictionary``.

    python -m benchmarks.torchrun [--quick] [--repeats 3]

Every solve is run by one process on all rows and by two on half each (``torch.distributed.run``, gloo), in turns, so
that a busy machine slows both alike. Time is that of the call itself, without start-up and compilation; of two
processes the slower one counts. ``two at once`` is how much longer a call takes while a second process makes the same
call, each all by itself: what two cores take from each other whatever runs on them. Writes
``benchmarks/results/torchrun.json``; ``python docs/tables.py`` shows it in ``torchrun.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import shuffled_tokens
from benchmarks.harness import Table, parser, run, table, timed
from cvxsae import WideLimit, encode, learn_dictionary, process_group, solve

LAM = 0.08


def many(X: np.ndarray, rows: int, path: Path) -> None:
    """A file of so many rows: the embeddings again and again, each time with other noise, in float32."""
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, X.shape[1]))
    for start in range(0, rows, len(X)):
        part = X[: rows - start]
        file[start : start + len(X)] = part + 0.02 * rng.standard_normal(part.shape)


def calls(quick: bool, file: Path) -> dict[str, Any]:
    """Each solve on this process's share of the data, by name; all return the value."""
    X = shuffled_tokens()
    rows, atoms, few, width, steps = (4000, 1024, 4000, 256, 20) if quick else (16000, 4096, 16000, 1024, 30)
    total = 64000 if quick else 600_000
    if not file.exists():
        many(X, total, file)
    D = X[-atoms:]

    def coded(group):
        return encode(group.shard(X[:rows]), D, LAM, tol=1e-6).value

    def wide(group):
        return solve(WideLimit(group.shard(file), LAM), tol=1e-9).value

    def learned(group):
        share = group.shard(X[:few])
        return learn_dictionary(share, width, LAM, max_steps=steps).value

    return {
        f"encode, {rows:,} rows, {atoms:,} atoms": coded,
        f"wide limit, {total:,} rows of a file, free bias": wide,
        f"learn_dictionary, {few:,} rows, {width:,} atoms, {steps} steps": learned,
    }


def work(name: str, quick: bool, out: Path, alone: bool, file: Path) -> None:
    """One process of a launch: warm up on the call's own kind of work, meet, and time one call."""
    from cvxsae.parallel.group import ProcessGroup

    small = np.random.default_rng(0).standard_normal((200, 8))
    with process_group() as group:
        mine = ProcessGroup() if alone else group
        learn_dictionary(mine.shard(small), 8, 0.5, max_steps=12)  # kernels are compiled or read here
        solve(WideLimit(mine.shard(small), 0.5))
        call = calls(quick, file)[name]
        group.total(0.0)
        value, taken = timed(lambda: call(mine))
        seconds = max(group.gather(taken.wall))
        if group.is_first:
            out.write_text(json.dumps({"seconds": seconds, "value": value}))


def launch(name: str, processes: int, quick: bool, alone: bool, file: Path) -> dict[str, float]:
    """Run :func:`work` in so many processes of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        asked = ["--call", name, "--out", str(out), "--file", str(file), *["--quick"] * quick, *["--alone"] * alone]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run([*program, "-m", "benchmarks.torchrun", *asked], check=True, env=environment)
        result: dict[str, float] = json.loads(out.read_text())
        return result


KINDS = {"one": (1, False), "two": (2, False), "both": (2, True)}
"""Processes, and whether each is by itself."""


def measure(name: str, quick: bool, repeats: int, file: Path) -> dict[str, Any]:
    """One call by one process, by two, and by each of two, in turns."""
    found = {kind: list[dict[str, float]]() for kind in KINDS}
    for _ in range(repeats):
        for kind, (processes, alone) in KINDS.items():
            found[kind].append(launch(name, processes, quick, alone, file))
    return {
        "seconds": {kind: [one["seconds"] for one in runs] for kind, runs in found.items()},
        "values": {kind: runs[-1]["value"] for kind, runs in found.items()},
    }


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Medians and what two processes gain."""
    rows = []
    for name, cell in cells.items():
        one, two, both = (statistics.median(cell["seconds"][kind]) for kind in KINDS)
        apart = abs(cell["values"]["two"] - cell["values"]["one"]) / cell["values"]["one"]
        rows.append([name, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}", f"{both / one:.2f}", f"{apart:.0e}"])
    columns = ["one process, s", "two, s", "speed-up", "two at once", "values apart, relative"]
    return {"calls": table(["call", *columns], rows)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    options.add_argument("--call", help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.call:
        work(given.call, given.quick, given.out, given.alone, given.file)
        return 0
    torch.set_num_threads(1)  # as in every process that is measured
    repeats = 1 if given.quick else given.repeats
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "X.npy"
        names = [] if given.tables else list(calls(given.quick, file))
        cells = {name: partial(measure, name, given.quick, repeats, file) for name in names}
        return run("torchrun", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
