"""What an audit costs: seconds of every stage and peak memory, on data from a planted dictionary.

    python -m benchmarks.audit [--points 50000] [--dim 768] [--atoms 16384] [--max-seconds S] [--parts] [--report FILE]
                               [--quick]

Datapoints are sums of `--active` of K random atoms with exponential codes, a bias and a little noise. The SAE has the
planted atoms, turned a little, as its decoder, their transpose as its encoder, and a threshold that keeps out most of
what other atoms add: what training might leave. Everything is certified on all rows.
Writes ``benchmarks/results/audit.json``, a cell for each case; ``python docs/tables.py`` shows it in ``ledger.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Table, by_itself, parser, peak_gigabytes, run, table, timed
from cvxsae import SparseAutoencoder, audit

THRESHOLD = 0.8
"""Of the encoder: about twice the standard deviation of a product of a datapoint with an atom that is not in it."""


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


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One audit; memory is that of this process."""
    small, sae = case(100, 16, 32, 4, asked.lam)
    audit(small, sae, stationarity=1e-2)  # compiles
    X, sae = case(asked.points, asked.dim, asked.atoms, asked.active, asked.lam)
    before, share = peak_gigabytes(), None if asked.held_out == "none" else float(asked.held_out)
    options: dict[str, Any] = dict.fromkeys(("metrics", "frontier", "diagnostics"), asked.parts)
    options |= {"held_out": share, "max_seconds": asked.max_seconds, "progress": True, "report": asked.report}
    found, seconds = timed(lambda: audit(X, sae, **options))
    print(found)
    return {
        **{key: getattr(asked, key) for key in ("points", "dim", "atoms", "active", "lam", "max_seconds")},
        "held_out": share,
        "parts": asked.parts or asked.report is not None,
        "seconds": seconds.wall,
        "stages": dict(found.seconds),
        "missing": list(found.missing),
        "gigabytes_before": before,
        "gigabytes_peak": peak_gigabytes(),
        "loss": found.ledger.loss,
        "codes_gap": found.ledger.codes_gap,
        "verdict": list(found.sentences),
    }


STAGES = ("the encoder's codes", "exact codes", "a better dictionary", "width floor", "referee")


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Seconds of the whole and of its stages, and memory."""
    rows = []
    for name, cell in cells.items():
        stages = [f"{cell['stages'][stage]:.0f}" if stage in cell["stages"] else None for stage in STAGES]
        rows.append(
            [name, f"{cell['seconds']:.0f}", *stages, f"{cell['gigabytes_peak']:.1f}", f"{cell['codes_gap']:.0e}"]
        )
        rows[-1].append(", ".join(cell["missing"]))
    return {"cost": table(["audit", "s", *STAGES, "GB at most", "gap of codes", "not begun"], rows)}


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=50_000)
    options.add_argument("--dim", type=int, default=768)
    options.add_argument("--atoms", type=int, default=16_384)
    options.add_argument("--active", type=int, default=16)
    options.add_argument("--lam", type=float, default=0.2)
    options.add_argument("--max-seconds", type=float, default=None)
    options.add_argument("--parts", action="store_true", help="metrics, frontier and diagnostics too")
    options.add_argument("--held-out", default="0.25", help="share of the rows, or none")
    options.add_argument("--report", type=Path, default=None)
    given = options.parse_args(arguments)
    if given.quick:
        given.points, given.dim, given.atoms, given.active, given.max_seconds = 200, 16, 32, 4, 5.0
    return run("audit", {name_of(given): partial(by_itself, measure, given)}, tables, given)


def name_of(asked: argparse.Namespace) -> str:
    """What the cell of a case is called."""
    limit = "" if asked.max_seconds is None else f", {asked.max_seconds:g} s"
    parts = ", all parts" if asked.parts or asked.report is not None else ""
    held_out = "none" if asked.held_out == "none" else f"{float(asked.held_out):.0%}"
    return f"{asked.points:,} x {asked.dim}, {asked.atoms:,} atoms, {held_out} held out{limit}{parts}"


if __name__ == "__main__":
    sys.exit(main())
