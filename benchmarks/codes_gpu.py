"""Sparse codes on a CUDA device, beside dense encoder passes and what plain torch does.

    python -m benchmarks.codes_gpu [--points 100000] [--engines torch triton] [--quick --device cpu]

Data are made on the device: sparse nonnegative combinations of random atoms, and noise. Times are the device's, medians
of three after one call to warm up, and for each problem these are measured:

- one encoder pass ``X @ D.T`` in float32, in tf32 and in bfloat16, its output written;
- for each engine *rounds*: all rounds, data already on the device, until every gap is certified, codes left there; and
  *encode*: the whole call from float32 data in host memory to a scipy array of codes, transfers included;
- peers in plain torch on fewer points, once: FISTA with restart in float32, and coordinate descent in float32 on blocks
  of atoms for all points at once, the scheme of cuML's solvers (whose lasso has no sign constraint, and is no peer).
  Both stop at a gap of 1e-3 or at a limit of time, and are listed with the gap they had by then.

Gaps are recomputed densely in float64. ``python -m benchmarks.gpu`` runs this and the rest. Results go to ``gpu.json``;
``docs/benchmarks.md`` shows them. On a CPU it only shows that it works; those times mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Table, interleaved, synchronize, table, timed
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import make_engine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning
from cvxsae.solvers.codes.paths import lambda_for_l0

PROBLEMS = ((768, 16384), (768, 65536), (2304, 65536))
QUICK = ((16, 64),)
ACTIVE, TOL = 30.0, 1e-6
BLOCK = 32768
"""Datapoints per block of the rounds."""

PEER_POINTS, PEER_TOL, PEER_SECONDS, ATOM_BLOCK = 4096, 1e-3, 15.0, 64
ENCODERS = {"float32": (torch.float32, "highest"), "tf32": (torch.float32, "high"), "bf16": (torch.bfloat16, "highest")}
"""Precision of an encoder pass, and what torch is told of float32 products."""


def problem(d: int, K: int, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Data (n, d) in float32 and unit atoms (K, d) in float64, both on the device."""
    generator = torch.Generator(device=device).manual_seed(0)
    D = torch.randn(K, d, generator=generator, device=device, dtype=torch.float64)
    D /= torch.linalg.vector_norm(D, dim=1, keepdim=True)
    single = D.to(torch.float32)
    X = 0.02 * torch.randn(n, d, generator=generator, device=device)
    for _ in range(40):
        atom = torch.randint(0, K, (n,), generator=generator, device=device)
        size = torch.empty(n, 1, device=device).exponential_(generator=generator)
        X += size * single[atom]
    return X / (X * X).sum(dim=1).mean().sqrt(), D


def encoder_pass(X: torch.Tensor, D: torch.Tensor, name: str) -> Callable[[], None]:
    """``X @ D.T`` in a precision, in pieces that fit on the device."""
    dtype, precision = ENCODERS[name]
    x, atoms = X.to(dtype), D.to(dtype)
    rows = max(1, min(len(x), 2**32 // (4 * len(atoms))))
    out = torch.empty(rows, len(atoms), dtype=dtype, device=X.device)

    def call() -> None:
        torch.set_float32_matmul_precision(precision)
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            torch.mm(part, atoms.T, out=out[: len(part)])
        torch.set_float32_matmul_precision("highest")

    return call


def rounds(engine: Any, X: torch.Tensor, lam: float) -> tuple[int, float]:
    """Rounds for all datapoints without leaving the device: datapoints certified, mean passes."""
    certified, passes = 0, 0
    for start in range(0, len(X), BLOCK):
        state = engine.begin(X[start : start + BLOCK].to(torch.float64) / lam, None)
        active = np.arange(len(state.data))
        for number in range(50):
            passes += len(active)
            active = active[~engine.advance(state, active, first=number == 0, double=False).done]
            if not len(active):
                break
        certified += len(state.data) - len(active)
    return certified, passes / len(X)


def dense_gap(X: torch.Tensor, D: torch.Tensor, lam: float, Z: torch.Tensor) -> float:
    """Largest relative gap of the first 1000 points, by dense float64 arithmetic."""
    x, z = X[:1000].to(torch.float64), Z[:1000].to(torch.float64)
    r = x - z @ D
    inner = r @ D.T
    square = (r * r).sum(dim=1)
    scale = torch.minimum((x * r).sum(dim=1) / square, lam / inner.amax(dim=1)).clamp(min=0)
    primal = 0.5 * square + lam * z.sum(dim=1)
    gap = 0.5 * (1 - scale) ** 2 * square + (z * (lam - scale[:, None] * inner).clamp(min=0)).sum(dim=1)
    return float((gap / primal).max())


def slowest(call: Callable[[], Any], device: torch.device, most: int = 12) -> list[dict[str, Any]]:
    """What took longest: name, milliseconds, calls."""
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as recorded:
        call()
        synchronize(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, key))[:most]
    return [{"name": e.key[:80], "ms": round(getattr(e, key) / 1e3, 3), "calls": e.count} for e in events]


def fista(X: torch.Tensor, D: torch.Tensor, lam: float) -> Iterator[torch.Tensor]:
    """Accelerated proximal gradient with adaptive restart, float32: the codes after every 50 steps."""
    atoms = D.to(torch.float32)
    step = 1 / float(torch.linalg.matrix_norm(atoms, 2)) ** 2
    z = torch.zeros(len(X), len(atoms), device=X.device)
    y, t = z, torch.ones(len(X), 1, device=X.device)
    while True:
        for _ in range(50):
            new = (y + step * ((X - y @ atoms) @ atoms.T - lam)).clamp_(min=0)
            restart = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
            t = torch.where(restart, 1.0, t)
            grown = (1 + (1 + 4 * t**2).sqrt()) / 2
            y, z, t = new + torch.where(restart, 0.0, (t - 1) / grown) * (new - z), new, grown
        yield z


def coordinate_descent(X: torch.Tensor, D: torch.Tensor, lam: float) -> Iterator[torch.Tensor]:
    """Cyclic coordinate descent for all points at once, float32: the codes after every sweep over the atoms."""
    atoms = D.to(torch.float32)
    z, residual = torch.zeros(len(X), len(atoms), device=X.device), X.clone()
    while True:
        for start in range(0, len(atoms), ATOM_BLOCK):
            block, old = atoms[start : start + ATOM_BLOCK], z[:, start : start + ATOM_BLOCK].clone()
            gram, inner, new = block @ block.T, residual @ block.T, old.clone()
            for k in range(len(block)):
                value = (new[:, k] + (inner[:, k] - lam) / gram[k, k]).clamp_(min=0)
                inner -= (value - new[:, k])[:, None] * gram[k]
                new[:, k] = value
            residual -= (new - old) @ block
            z[:, start : start + ATOM_BLOCK] = new
        yield z


PEERS = {"FISTA, torch": fista, "coordinate descent, torch": coordinate_descent}


def until(steps: Iterator[torch.Tensor], gap_of: Callable[[torch.Tensor], float], seconds: float) -> float:
    """Go on until the gap is small or time is up; the gap."""
    started = time.perf_counter()
    for codes in steps:
        gap = gap_of(codes)
        if gap <= PEER_TOL or time.perf_counter() - started > seconds:
            return gap
    raise AssertionError("steps do not end")


def measure(d: int, K: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One problem: milliseconds a thousand points, of every method."""
    n, repeats, seconds = (100, 1, 0.5) if given.quick else (given.points, 3, PEER_SECONDS)
    X, D = problem(d, K, n, device)
    host_X, host_D = X.cpu().numpy(), D.cpu().numpy()
    lam = lambda_for_l0(host_X[:500], host_D, min(ACTIVE, d / 4), device=device)
    methods: dict[str, dict[str, Any]] = {}
    passes = {f"encoder pass, {name}": encoder_pass(X, D, name) for name in ENCODERS}
    for name, turns in interleaved(passes, repeats + 1, device).items():
        methods[name] = {"seconds": statistics.median(turns.wall[1:]), "points": n}
    profiles = {}
    for name in given.engines if device.type == "cuda" else ["torch"]:
        engine: Any = make_engine(name, PreparedDictionary(D, device), Tuning(TOL))
        engine.warm_up()
        calls = partial(rounds, engine, X, lam)
        turns = interleaved({name: calls}, repeats + 1, device)[name]
        certified, mean = turns.last
        methods[f"rounds, {name}"] = {"seconds": statistics.median(turns.wall[1:]), "points": n, "certified": certified}
        profiles[name] = slowest(partial(rounds, engine, X[: min(n, BLOCK)], lam), device)
        memory = 2**33 if device.type == "cuda" else 2**28
        options: dict[str, Any] = {"tol": TOL, "device": device, "engine": name, "memory_limit": memory}
        encode(host_X[:100], host_D, lam, **options)  # first touches
        codes, taken = timed(partial(encode, host_X, host_D, lam, **options), device)
        gap = dense_gap(X, D, lam, torch.from_numpy(codes.codes[:1000].toarray()).to(device))
        methods[f"encode, {name}"] = {"seconds": taken.wall, "points": n, "gap": gap, "certified": codes.n_points}
    few = X[:PEER_POINTS]
    for name, make in PEERS.items():
        gap_of = partial(dense_gap, few, D, lam)
        gap, taken = timed(partial(until, make(few, D, lam), gap_of, seconds), device)
        methods[name] = {"seconds": taken.wall, "points": len(few), "gap": gap}
    active = codes.codes.nnz / n
    return {"lam": lam, "active": active, "passes": mean, "methods": methods, "profiles": profiles}


def cells(given: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """A cell for each problem."""
    problems = QUICK if given.quick else PROBLEMS
    return {f"codes {d} x {K}": partial(measure, d, K, given, device) for d, K in problems}


def codes_table(found: Mapping[str, Any]) -> Table:
    """Every method beside the encoder."""
    rows = []
    for name, cell in found.items():
        each = {key: one["seconds"] / one["points"] for key, one in cell["methods"].items()}
        units = [each[f"encoder pass, {unit}"] for unit in ENCODERS]
        for key, one in cell["methods"].items():
            gap = f"{one['gap']:.1e}" if "gap" in one else None
            rows.append(
                [name, key, one["points"], f"{1 / each[key]:.0f}", *(f"{each[key] / u:.2f}" for u in units), gap]
            )
    columns = [
        "problem",
        "method",
        "points",
        "points a second",
        *(f"{unit} passes" for unit in ENCODERS),
        "largest gap",
    ]
    return table(columns, rows)


def tables(found: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """The table of codes alone."""
    return {"codes": codes_table(found)}


def add_options(options: argparse.ArgumentParser) -> None:
    """What this script asks for."""
    options.add_argument("--engines", nargs="+", default=["torch", "triton"], help="torch, triton or both")
    options.add_argument("--points", type=int, default=100_000)


def main(arguments: list[str] | None = None) -> int:
    """The problems of codes, by the command that runs everything."""
    from benchmarks import gpu

    return gpu.main([*(sys.argv[1:] if arguments is None else arguments), "--only", "codes"])


if __name__ == "__main__":
    sys.exit(main())
