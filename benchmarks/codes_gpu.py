"""Sparse codes on a CUDA device: points per second, and multiples of one dense encoder pass.

    python benchmarks/codes_gpu.py [--engine triton] [--points 100000] [--quick] [--device cuda]

Data are made on the device: sparse nonnegative combinations of random atoms, and noise. Per problem it prints

- the seconds of one float32 pass (``X @ D.T``, tf32 off) and of one bfloat16 pass, each with its output written;
- the floor: two bfloat16 passes, the encoder's and the proof's;
- ``rounds``: all rounds of the engine, data already on the device, until every gap is certified, codes left there;
- ``encode``: the whole call from float32 data in host memory to a scipy array of codes, transfers included;
- the worst gap, recomputed densely in float64 for the first 1000 points: independent of what the engine says.

Then the kernels that took longest. Everything goes to ``benchmarks/results/codes_gpu.json``. With ``--device cpu
--quick`` it runs in seconds on any machine, to know that it works; those times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from cvxsae.parallel.machine import describe, processor
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import engine_name, make_engine
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning
from cvxsae.solvers.codes.paths import lambda_for_l0

RESULT = Path(__file__).parent / "results" / "codes_gpu.json"
PROBLEMS = ((768, 16384), (768, 65536), (2304, 65536))
QUICK = ((32, 256),)
ACTIVE = 30.0
BLOCK = 32768
"""Datapoints per block of the rounds."""


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


def seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def encoder_pass(X: torch.Tensor, D: torch.Tensor, dtype: torch.dtype, repeats: int) -> float:
    """Seconds of X @ D.T, in pieces that fit on the device."""
    x, atoms = X.to(dtype), D.to(dtype)
    rows = max(1, min(len(x), 2**32 // (4 * len(atoms))))
    out = torch.empty(rows, len(atoms), dtype=dtype, device=X.device)

    def run() -> None:
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            torch.mm(part, atoms.T, out=out[: len(part)])

    return seconds(run, X.device, repeats)


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


def dense_gaps(X: torch.Tensor, D: torch.Tensor, lam: float, codes: Any) -> float:
    """Largest relative gap of the first 1000 points, by dense float64 arithmetic."""
    Z = torch.from_numpy(codes[:1000].toarray()).to(X.device)
    x = X[:1000].to(torch.float64)
    r = x - Z @ D
    inner = r @ D.T
    square = (r * r).sum(dim=1)
    scale = torch.minimum((x * r).sum(dim=1) / square, lam / inner.amax(dim=1)).clamp(min=0)
    primal = 0.5 * square + lam * Z.sum(dim=1)
    gap = 0.5 * (1 - scale) ** 2 * square + (Z * (lam - scale[:, None] * inner).clamp(min=0)).sum(dim=1)
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


def measure(d: int, K: int, n: int, name: str, device: torch.device, tol: float, repeats: int) -> dict[str, Any]:
    """One problem, all figures."""
    X, D = problem(d, K, n, device)
    host_X, host_D = X.cpu().numpy(), D.cpu().numpy()
    lam = lambda_for_l0(host_X[:500], host_D, min(ACTIVE, d / 4))
    single = encoder_pass(X, D, torch.float32, repeats)
    half = encoder_pass(X, D, torch.bfloat16, repeats)
    engine: Any = make_engine(name, PreparedDictionary(D, device), Tuning(tol))
    engine.warm_up()
    certified, passes = rounds(engine, X, lam)
    took = seconds(lambda: rounds(engine, X, lam), device, repeats)
    profiled = slowest(lambda: rounds(engine, X[: min(n, BLOCK)], lam), device)
    memory = 2**33 if device.type == "cuda" else 2**28
    started = time.perf_counter()
    codes = encode(host_X, host_D, lam, tol=tol, device=device, engine=name, memory_limit=memory)
    whole = time.perf_counter() - started
    return {
        "d": d, "K": K, "points": n, "lambda": lam, "active": codes.codes.nnz / n, "tol": tol,
        "float32_pass_seconds": single, "bfloat16_pass_seconds": half, "floor_seconds": 2 * half,
        "rounds_seconds": took, "rounds_points_per_second": n / took, "certified": certified, "passes": passes,
        "rounds_float32_passes": took / single, "rounds_bfloat16_passes": took / half,
        "encode_seconds": whole, "encode_points_per_second": n / whole, "encode_float32_passes": whole / single,
        "worst_gap": dense_gaps(X, D, lam, codes.codes), "profile": profiled,
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    """Print one problem's figures."""
    print(f"\nd = {row['d']}, K = {row['K']}, {row['points']} points, {row['active']:.1f} active, tol {row['tol']:g}")
    for label, key in (
        ("float32 pass", "float32_pass_seconds"), ("bfloat16 pass", "bfloat16_pass_seconds"),
        ("floor: 2 bfloat16 passes", "floor_seconds"), ("rounds", "rounds_seconds"), ("encode", "encode_seconds"),
    ):  # fmt: skip
        took, rate = row[key], row["points"] / row[key]
        single, half = took / row["float32_pass_seconds"], took / row["bfloat16_pass_seconds"]
        print(f"  {label:26s}{took:10.4f} s {rate:14.0f} points/s {single:8.2f} float32 passes {half:8.2f} bfloat16")
    print(f"  {row['certified']} certified, {row['passes']:.2f} correlation passes", end=", ")
    print(f"worst gap {row['worst_gap']:.1e} (float64)")
    for event in row["profile"]:
        print(f"    {event['ms']:10.3f} ms {event['calls']:6d} × {event['name']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--engine", default="triton", help="triton or torch")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--quick", action="store_true", help="one small problem")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --quick shows that this program works")
    torch.set_float32_matmul_precision("highest")
    name = engine_name(arguments.engine, device.type) if device.type == "cuda" else "torch"
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{label}; torch {torch.__version__}; engine {name}")
    rows = []
    for d, K in QUICK if arguments.quick else PROBLEMS:
        n = min(arguments.points, 200) if arguments.quick else arguments.points
        rows.append(measure(d, K, n, name, device, arguments.tol, 1 if arguments.quick else 3))
        show(rows[-1])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = describe() | {"device": label, "cuda": torch.version.cuda, "engine": name}
    arguments.out.write_text(json.dumps({"machine": machine, "problems": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
