"""What an audit costs: seconds of every stage and peak memory, on data from a planted dictionary.

    python -m benchmarks.audit [--points 50000] [--dim 768] [--atoms 16384] [--max-seconds S] [--parts] [--report FILE]

Datapoints are sums of `--active` of K random atoms with exponential codes, a bias and a little noise. The SAE has the
planted atoms, turned a little, as its decoder, their transpose as its encoder, and a threshold that keeps out most of
what other atoms add: what training might leave. Everything is certified on all rows. The case is added to
``benchmarks/results/audit.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np

import cvxsae
from cvxsae import SparseAutoencoder, audit
from cvxsae.data.storage import write_atomically
from cvxsae.parallel.machine import describe

THRESHOLD = 0.8
"""Of the encoder: about twice the standard deviation of a product of a datapoint with an atom that is not in it."""

RESULTS = Path(__file__).parent / "results"


def case(points: int, dim: int, atoms: int, active: int, lam: float) -> tuple[np.ndarray, SparseAutoencoder]:
    """Float32 activations and an SAE of them."""
    rng = np.random.default_rng(0)
    D = rng.standard_normal((atoms, dim), dtype=np.float32)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    bias = rng.standard_normal(dim, dtype=np.float32) / np.sqrt(dim)
    X = np.empty((points, dim), dtype=np.float32)
    for start in range(0, points, 1000):
        n = min(1000, points - start)
        chosen = rng.random((n, atoms)).argpartition(active, axis=1)[:, :active]
        codes = rng.exponential(size=(n, active)).astype(np.float32)
        X[start : start + n] = np.einsum("na,nad->nd", codes, D[chosen]) + bias
    X += 0.01 * rng.standard_normal(X.shape, dtype=np.float32)
    turned = D + 0.2 * rng.standard_normal(D.shape, dtype=np.float32) / np.sqrt(dim)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    arrays = {"W_enc": turned.T.copy(), "b_enc": np.full(atoms, -THRESHOLD, np.float32), "W_dec": turned, "b_dec": bias}
    return X, SparseAutoencoder.from_arrays(arrays, lam=lam)


def peak_gigabytes() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--atoms", type=int, default=16_384)
    parser.add_argument("--active", type=int, default=16)
    parser.add_argument("--lam", type=float, default=0.2)
    parser.add_argument("--max-seconds", type=float, default=None)
    parser.add_argument("--parts", action="store_true", help="metrics, frontier and diagnostics too")
    parser.add_argument("--held-out", default="0.25", help="share of the rows, or none")
    parser.add_argument("--report", type=Path, default=None)
    asked = parser.parse_args()
    small, sae = case(100, 16, 32, 4, asked.lam)
    audit(small, sae, stationarity=1e-2)  # compiles
    X, sae = case(asked.points, asked.dim, asked.atoms, asked.active, asked.lam)
    before, start = peak_gigabytes(), time.perf_counter()
    parts = dict.fromkeys(("metrics", "frontier", "diagnostics"), asked.parts)
    share = None if asked.held_out == "none" else float(asked.held_out)
    how = {"held_out": share, "max_seconds": asked.max_seconds, "progress": True, "report": asked.report}
    found = audit(X, sae, **how, **parts)
    record = {
        "points": asked.points,
        "dim": asked.dim,
        "atoms": asked.atoms,
        "active": asked.active,
        "lam": asked.lam,
        "max_seconds": asked.max_seconds,
        "held_out": share,
        "parts": asked.parts or asked.report is not None,
        "seconds": time.perf_counter() - start,
        "stages": dict(found.seconds),
        "missing": list(found.missing),
        "gigabytes_before": before,
        "gigabytes_peak": peak_gigabytes(),
        "loss": found.ledger.loss,
        "codes_gap": found.ledger.codes_gap,
        "verdict": list(found.sentences),
        "machine": describe(),
        "cores": os.cpu_count(),
        "version": cvxsae.__version__,
    }
    print(found)
    print(json.dumps(record, indent=1))
    file = RESULTS / "audit.json"
    known = json.loads(file.read_text()) if file.exists() else []
    write_atomically(file, json.dumps([*known, record], indent=1) + "\n")


if __name__ == "__main__":
    main()
