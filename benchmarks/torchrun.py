"""Two processes against one, a thread each: what a second core gives ``encode``, ``solve`` and ``learn_dictionary``.

    python -m benchmarks.torchrun [--quick] [--repeats 3]

Every solve is run by one process on all rows and by two on half each (``torch.distributed.run``, gloo), in turns, so
that a busy machine slows both alike. Time is that of the call itself, without start-up and compilation; of two
processes the slower one counts. ``two at once`` is how much longer a call takes while a second process makes the same
call, each all by itself: what two cores take from each other whatever runs on them. Writes
``benchmarks/results/torchrun.json`` and ``torchrun.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cvxsae import WideLimit, encode, learn_dictionary, process_group, solve
from cvxsae.data.embedded import embedded
from cvxsae.parallel.machine import in_words

RESULTS = Path(__file__).parent / "results"
LAM = 0.08


def embeddings() -> np.ndarray:
    """Centered token embeddings of unit mean-square norm, in random order."""
    X = np.array(embedded("wordllama"), dtype=np.float64)
    X = X[np.abs(X).sum(1) > 0]
    X -= X.mean(0)
    X /= np.sqrt((X**2).sum(1).mean())
    return X[np.random.default_rng(0).permutation(len(X))]


def many(X: np.ndarray, rows: int, path: Path) -> None:
    """A file of so many rows: the embeddings again and again, each time with other noise, in float32."""
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, X.shape[1]))
    for start in range(0, rows, len(X)):
        part = X[: rows - start]
        file[start : start + len(X)] = part + 0.02 * rng.standard_normal(part.shape)


def calls(quick: bool, file: Path) -> dict[str, Any]:
    """Each solve on this process's share of the data, by name; all return the value."""
    X = embeddings()
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
        start = time.perf_counter()
        value = call(mine)
        seconds = time.perf_counter() - start
        seconds = max(group.gather(seconds))
        if group.is_first:
            out.write_text(json.dumps({"seconds": seconds, "value": value}))


def launch(name: str, processes: int, quick: bool, alone: bool, file: Path) -> dict[str, float]:
    """Run :func:`work` in so many processes of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        options = [
            "-m",
            "benchmarks.torchrun",
            "--call",
            name,
            "--out",
            str(out),
            "--file",
            str(file),
            *["--quick"] * quick,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run([*program, *options, *["--alone"] * alone], check=True, env=environment)
        result: dict[str, float] = json.loads(out.read_text())
        return result


def report(quick: bool, repeats: int, file: Path) -> None:
    """Measure, print and write."""
    before = os.getloadavg()[0]
    lines, results = [], {}
    for name in calls(quick, file):
        seconds: dict[str, list[float]] = {"one": [], "two": [], "both": []}
        values: dict[str, float] = {}
        for _ in range(repeats):
            for kind, processes, alone in (("one", 1, False), ("two", 2, False), ("both", 2, True)):
                found = launch(name, processes, quick, alone, file)
                seconds[kind].append(found["seconds"])
                values[kind] = found["value"]
        median = {kind: statistics.median(times) for kind, times in seconds.items()}
        results[name] = {"seconds": seconds, "values": values}
        apart = abs(values["two"] - values["one"]) / values["one"]
        lines.append(
            f"| {name} | {median['one']:.2f} s | {median['two']:.2f} s | {median['one'] / median['two']:.2f} "
            f"| {median['both'] / median['one']:.2f} | {apart:.0e} |"
        )
        print(lines[-1], flush=True)
    after = os.getloadavg()[0]
    command = f"python -m benchmarks.torchrun{' --quick' * quick} --repeats {repeats}"
    machine = in_words()
    text = [
        "# Two processes against one",
        "",
        f"`{command}`: medians of {repeats} runs in turns, one thread a process, gloo, {machine}; wordllama",
        f"embeddings, d = 256, λ = {LAM}. Load average before {before:.1f}, after {after:.1f} (the benchmark makes 2).",
        "*Two at once* is how much longer one process takes for its call while a second makes the same call on its own",
        "copy of the problem: what two cores take from each other whatever runs on them. A speed-up of 2 divided by it",
        "is all that there is to have.",
        "",
        "| call | one process | two | speed-up | two at once | values apart, relative |",
        "|---|---|---|---|---|---|",
        *lines,
    ]
    (RESULTS / "torchrun.md").write_text("\n".join(text) + "\n")
    (RESULTS / "torchrun.json").write_text(json.dumps({"load": [before, after], "calls": results}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller problems")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        work(options.call, options.quick, options.out, options.alone, options.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(options.quick, options.repeats, Path(folder) / "X.npy")


if __name__ == "__main__":
    main()
