"""Sparse codes against their peers: same points, one run, every gap recomputed in float64.

    python benchmarks/codes.py [--quick]

Prints, per problem and method, the median time in multiples of one dense float32 encoder pass (``X @ D.T``) and the
ratio to the fastest peer; writes ``benchmarks/results/codes.json`` and ``codes.md``. Runs are interleaved, so a busy
machine slows all methods alike. Compilation is not timed; Gram matrices that a peer wants are given to it for free.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from cvxsae.data.embedded import embedded
from cvxsae.parallel.machine import describe, in_words
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.paths import lambda_for_l0

RESULTS = Path(__file__).parent / "results"


def wordllama(K: int, n: int, active: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Centered token embeddings of unit mean-square norm; the dictionary is other rows of the data."""
    X = np.array(embedded("wordllama"), dtype=np.float64)
    X = X[np.abs(X).sum(1) > 0]
    X -= X.mean(0)
    X /= np.sqrt((X**2).sum(1).mean())
    order = np.random.default_rng(0).permutation(len(X))
    D = X[order[:K]]
    points = X[order[K : K + n]].astype(np.float32).astype(np.float64)
    D = (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    return points, D, lambda_for_l0(points[:1000], D, active)


def synthetic(d: int, K: int, n: int, active: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Sparse nonnegative combinations of random atoms, with noise."""
    rng = np.random.default_rng(0)
    D = rng.standard_normal((K, d))
    D = (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    codes = sp.random(n, K, density=40 / K, random_state=0, data_rvs=lambda size: rng.exponential(size=size))
    X = codes @ D + 0.02 * rng.standard_normal((n, d))
    X = (X / np.sqrt((X**2).sum(1).mean())).astype(np.float32).astype(np.float64)
    return X, D, lambda_for_l0(X[:500], D, active)


PROBLEMS: dict[str, tuple[Callable[[], tuple[np.ndarray, np.ndarray, float]], int, float, float]] = {
    "256 x 16384, 30 active": (lambda: wordllama(16384, 4000, 30), 100, 5, 5),
    "256 x 4096, 30 active": (lambda: wordllama(4096, 4000, 30), 400, 7, 4),
    "768 x 8192 synthetic": (lambda: synthetic(768, 8192, 4000, 40), 100, 6, 2.5),
    "256 x 4096, 10 active": (lambda: wordllama(4096, 4000, 10), 400, 4, 3),
    "256 x 4096, 57 active": (lambda: wordllama(4096, 4000, 57), 400, 15, 5),
}
"""Problem, points given to the peers, and the targets: most encoder passes, least ratio to spams."""


def float64_gaps(X: np.ndarray, D: np.ndarray, lam: float, Z: sp.csr_array) -> np.ndarray:
    """Relative duality gaps by dense float64 arithmetic: independent of what any method says."""
    R = X - Z @ D
    top, square = (R @ D.T).max(1), (R**2).sum(1)
    scale = np.minimum((X * R).sum(1) / np.maximum(square, 1e-300), lam / np.maximum(top, 1e-300)).clip(0)
    work = np.asarray((Z.multiply(R @ D.T)).sum(1)).ravel()
    mass = np.asarray(Z.sum(1)).ravel()
    gap = 0.5 * (1 - scale) ** 2 * square + lam * mass - scale * work
    return gap / np.maximum(0.5 * square + lam * mass, 1e-300)


def peers(X: np.ndarray, D: np.ndarray, lam: float) -> dict[str, tuple[int, Callable[[np.ndarray], sp.csr_array]]]:
    """Every peer that is installed: how many points it is given (of those the peers get), and how it is called."""
    found: dict[str, tuple[int, Callable[[np.ndarray], sp.csr_array]]] = {}
    n = len(X)
    try:
        import spams

        D32 = np.asfortranarray(D.T, dtype=np.float32)
        gram = np.asfortranarray(D32.T @ D32)

        def run_spams(x: np.ndarray) -> sp.csr_array:
            x32 = np.asfortranarray(x.T, dtype=np.float32)
            q = np.asfortranarray(D32.T @ x32)
            z = spams.lasso(x32, D=D32, Q=gram, q=q, lambda1=lam, mode=2, pos=True, numThreads=torch.get_num_threads())
            return sp.csr_array(z.T).astype(np.float64)

        found["spams float32"] = (n, run_spams)
    except ImportError:
        pass
    try:
        from sklearn.linear_model import Lasso

        def run_sklearn(x: np.ndarray) -> sp.csr_array:
            model = Lasso(alpha=lam / X.shape[1], positive=True, fit_intercept=False, tol=1e-6, max_iter=10_000)
            return sp.csr_array(np.stack([model.fit(D.T, row).coef_ for row in x]))

        found["scikit-learn Lasso"] = (max(4, n // 50), run_sklearn)
    except ImportError:
        pass
    try:
        import celer

        def run_celer(x: np.ndarray) -> sp.csr_array:
            model = celer.Lasso(alpha=lam / X.shape[1], positive=True, fit_intercept=False, tol=1e-6)
            return sp.csr_array(np.stack([model.fit(D.T, row).coef_ for row in x]))

        found["celer"] = (max(4, n // 50), run_celer)
    except ImportError:
        pass
    try:
        import skglm

        def run_skglm(x: np.ndarray) -> sp.csr_array:
            model = skglm.Lasso(alpha=lam / X.shape[1], positive=True, fit_intercept=False, tol=1e-6)
            return sp.csr_array(np.stack([model.fit(D.T, row).coef_ for row in x]))

        found["skglm"] = (max(4, n // 50), run_skglm)
    except ImportError:
        pass
    found["FISTA, gap 1e-3"] = (max(4, n // 10), lambda x: fista(x, D, lam))
    return found


def fista(X: np.ndarray, D: np.ndarray, lam: float, tol: float = 1e-3, most: int = 2000) -> sp.csr_array:
    """Accelerated proximal gradient with adaptive restart, float32, batched; stops when every gap is ≤ tol."""
    x, atoms = torch.from_numpy(X).float(), torch.from_numpy(D).float()
    step = 1 / float(torch.linalg.matrix_norm(atoms, 2)) ** 2
    z = torch.zeros(len(x), len(atoms))
    y, t = z, torch.ones(len(x), 1)
    for iteration in range(most):
        new = (y + step * ((x - y @ atoms) @ atoms.T - lam)).clamp_(min=0)
        restart = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
        t = torch.where(restart, 1.0, t)
        grown = (1 + (1 + 4 * t**2).sqrt()) / 2
        y, z, t = new + torch.where(restart, 0.0, (t - 1) / grown) * (new - z), new, grown
        if iteration % 50 == 49 and float64_gaps(X, D, lam, sp.csr_array(z.double().numpy())).max() <= tol:
            break
    return sp.csr_array(z.double().numpy())


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and the result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def run(name: str, *, repeats: int, quick: bool) -> list[dict[str, Any]]:
    """All methods on one problem, interleaved; times per point."""
    make, n_peer, most_passes, least_ratio = PROBLEMS[name]
    X, D, lam = make()
    x32, d32 = torch.from_numpy(X).float(), torch.from_numpy(D).float()
    chosen = peers(X[:n_peer], D, lam)
    if quick:
        chosen = {key: value for key, value in chosen.items() if key.startswith("spams")}
    for _, call in chosen.values():  # compilation and first touches are not timed
        call(X[:2])
    slow = {key: timed(lambda n=n, call=call: call(X[:n])) for key, (n, call) in chosen.items()}  # type: ignore[misc]
    passes, fresh, ours, calls, loose, fast = [], [], [], [], [], []
    product = torch.empty(len(X), len(D))
    for _ in range(repeats):
        passes.append(timed(lambda: torch.mm(x32, d32.T, out=product))[0] / len(X))
        fresh.append(timed(lambda: x32 @ d32.T)[0] / len(X))
        whole, exact = timed(lambda: encode(X, D, lam, tol=1e-6))
        calls.append(whole / len(X))
        ours.append(exact.seconds / len(X))
        loose.append(encode(X, D, lam, tol=1e-4).seconds / len(X))
        if "spams float32" in chosen:
            fast.append(timed(lambda: chosen["spams float32"][1](X[:n_peer]))[0] / n_peer)
    alone = one_thread(X, D, lam, repeats)
    unit = statistics.median(passes)
    rows: list[dict[str, Any]] = [
        {"method": "cvxsae, gap 1e-6", "us": statistics.median(ours) * 1e6, "gap": exact_gap(X, D, lam, exact.codes)},
        {"method": "cvxsae, gap 1e-4", "us": statistics.median(loose) * 1e6, "gap": 1e-4},
    ]
    for key, (n, _) in chosen.items():
        seconds, codes = slow[key]
        per_point = statistics.median(fast) if key == "spams float32" else seconds / n
        rows.append({"method": key, "us": per_point * 1e6, "gap": exact_gap(X[:n], D, lam, codes), "points": n})
    fastest = min((row["us"] for row in rows[2:]), default=float("nan"))
    for row in rows:
        row["passes"] = row["us"] / (unit * 1e6)
        row["peer_ratio"] = fastest / row["us"]
    rows[0] |= {
        "problem": name, "lam": lam, "l0": exact.l0, "correlation_passes": exact.passes_mean, "unit_us": unit * 1e6,
        "unit_fresh_us": statistics.median(fresh) * 1e6, "whole_call_us": statistics.median(calls) * 1e6,
        "one_thread_passes": alone[1] / alone[0], "load": os.getloadavg()[0],
        "target_passes": most_passes, "target_ratio": least_ratio, "points": len(X),
    }  # fmt: skip
    return rows


def one_thread(X: np.ndarray, D: np.ndarray, lam: float, repeats: int) -> tuple[float, float]:
    """CPU seconds of an encoder pass and of encoding, both by one thread: other work moves these least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x32, d32 = torch.from_numpy(X).float(), torch.from_numpy(D).float()
    product = torch.empty(len(X), len(D))
    passes, ours = [], []
    for _ in range(repeats):
        started = time.process_time()
        torch.mm(x32, d32.T, out=product)
        passes.append(time.process_time() - started)
        started = time.process_time()
        encode(X, D, lam, tol=1e-6)
        ours.append(time.process_time() - started)
    torch.set_num_threads(threads)
    return statistics.median(passes), statistics.median(ours)


def exact_gap(X: np.ndarray, D: np.ndarray, lam: float, codes: sp.csr_array) -> float:
    """Largest float64 gap."""
    return float(float64_gaps(X, D, lam, codes).max())


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="spams only")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    machine = in_words()
    lines = [
        f"# Sparse codes\n\n{machine}. "
        "One encoder pass is `X @ D.T` in float32 into memory that is already mapped, "
        "with as many threads as the methods; medians, interleaved.\n"
    ]
    everything = []
    for name in PROBLEMS:
        rows = run(name, repeats=options.repeats, quick=options.quick)
        everything.append(rows)
        first = rows[0]
        lines.append(
            f"\n## {name}\n\nλ = {first['lam']:.4g}, {first['l0']:.1f} active, "
            f"{first['correlation_passes']:.2f} correlation passes; an encoder pass takes {first['unit_us']:.1f} µs "
            f"per point ({first['unit_fresh_us']:.1f} into fresh memory). The whole call, with checks and the "
            f"preparation of the dictionary: {first['whole_call_us']:.1f} µs per point; by one thread: "
            f"{first['one_thread_passes']:.1f} encoder passes of CPU time. Load {first['load']:.1f}. "
            f"Target: at most {first['target_passes']} passes, at least {first['target_ratio']} times "
            "spams.\n\n| method | µs/point | encoder passes | fastest peer / this | largest gap |\n"
            "|---|---|---|---|---|"
        )
        lines += [
            f"| {row['method']} | {row['us']:.1f} | {row['passes']:.1f} | {row['peer_ratio']:.2f} | {row['gap']:.1e} |"
            for row in rows
        ]
        print("\n".join(lines[-len(rows) - 1 :]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "codes.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "codes.json").write_text(json.dumps({"machine": describe(), "results": everything}, indent=1) + "\n")


if __name__ == "__main__":
    main()
