"""Sparse codes against their peers: same points, one run, every gap recomputed in float64.

    python -m benchmarks.codes [--only "256 x 4096, 30 active"] [--peers spams] [--repeats 9] [--quick]

The unit is one encoder pass: ``X @ D.T`` in float32 into memory that is already mapped, with as many threads as the
methods. Runs take turns, so a busy machine slows all methods alike, and medians are shown. Compilation is not timed;
Gram matrices that a peer wants are given to it for free. Writes ``benchmarks/results/codes.json``;
``python docs/tables.py`` shows it in ``codes.md``.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.data import shuffled_tokens, unit_atoms
from benchmarks.harness import (
    DOT_PRODUCTS,
    MATRIX_UNITS,
    Table,
    between,
    by_itself,
    interleaved,
    parser,
    peak_gigabytes,
    run,
    table,
    timed,
)
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.paths import lambda_for_l0

Data = tuple[np.ndarray, np.ndarray, float]
Method = Callable[[np.ndarray], sp.csr_array]
OURS, LOOSE, SPAMS = "cvxsae, gap 1e-6", "cvxsae, gap 1e-4", "spams float32"


class Problem(NamedTuple):
    """How to make it, and how many of its points the peers get."""

    make: Callable[[], Data]
    n_peer: int


def wordllama(K: int, n: int, active: float) -> Data:
    """Token embeddings; the dictionary is other rows of the data."""
    X = shuffled_tokens()
    points, D = X[K : K + n].astype(np.float32).astype(np.float64), unit_atoms(X[:K])
    return points, D, lambda_for_l0(points[:1000], D, active)


def synthetic(d: int, K: int, n: int, active: float) -> Data:
    """Sparse nonnegative combinations of random atoms, with noise."""
    rng = np.random.default_rng(0)
    D = unit_atoms(rng.standard_normal((K, d)))
    share = min(40, K / 4) / K
    codes = sp.random(n, K, density=share, random_state=0, data_rvs=lambda size: rng.exponential(size=size))
    X = codes @ D + 0.02 * rng.standard_normal((n, d))
    X = (X / np.sqrt((X**2).sum(1).mean())).astype(np.float32).astype(np.float64)
    return X, D, lambda_for_l0(X[:500], D, active)


PROBLEMS = {
    "256 x 16384, 30 active": Problem(partial(wordllama, 16384, 4000, 30), 100),
    "256 x 4096, 30 active": Problem(partial(wordllama, 4096, 4000, 30), 400),
    "768 x 8192 synthetic": Problem(partial(synthetic, 768, 8192, 4000, 40), 100),
    "256 x 4096, 10 active": Problem(partial(wordllama, 4096, 4000, 10), 400),
    "256 x 4096, 57 active": Problem(partial(wordllama, 4096, 4000, 57), 400),
}
QUICK = {"16 x 64 synthetic": Problem(partial(synthetic, 16, 64, 100, 4), 20)}

TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    DOT_PRODUCTS: {
        "256 x 16384, 30 active": (3.3, 14),
        "256 x 4096, 30 active": (4, 8),
        "768 x 8192 synthetic": (4.5, 5),
        "256 x 4096, 57 active": (9, 8),
    },
    MATRIX_UNITS: {
        "256 x 16384, 30 active": (3.2, 30),
        "256 x 4096, 30 active": (5, 12),
        "768 x 8192 synthetic": (4.5, 8),
        "256 x 4096, 57 active": (10, 12),
    },
}
"""Most encoder passes, and least ratio to spams, by the kind of processor."""


def float64_gaps(X: np.ndarray, D: np.ndarray, lam: float, Z: sp.csr_array) -> np.ndarray:
    """Relative duality gaps by dense float64 arithmetic: independent of what any method says."""
    R = X - Z @ D
    top, square = (R @ D.T).max(1), (R**2).sum(1)
    scale = np.minimum((X * R).sum(1) / np.maximum(square, 1e-300), lam / np.maximum(top, 1e-300)).clip(0)
    work = np.asarray((Z.multiply(R @ D.T)).sum(1)).ravel()
    mass = np.asarray(Z.sum(1)).ravel()
    gap = 0.5 * (1 - scale) ** 2 * square + lam * mass - scale * work
    return gap / np.maximum(0.5 * square + lam * mass, 1e-300)


def spams_lasso(D: np.ndarray, lam: float) -> Method:
    """LARS on the Gram matrix, in float32, with as many threads as torch has."""
    import spams

    D32 = np.asfortranarray(D.T, dtype=np.float32)
    gram = np.asfortranarray(D32.T @ D32)

    def call(x: np.ndarray) -> sp.csr_array:
        x32 = np.asfortranarray(x.T, dtype=np.float32)
        q = np.asfortranarray(D32.T @ x32)
        z = spams.lasso(x32, D=D32, Q=gram, q=q, lambda1=lam, mode=2, pos=True, numThreads=torch.get_num_threads())
        return sp.csr_array(z.T).astype(np.float64)

    return call


def one_by_one(make: Callable[..., Any], D: np.ndarray, lam: float) -> Method:
    """A model with scikit-learn's interface, fitted to one datapoint after another."""
    options = {"alpha": lam / D.shape[1], "positive": True, "fit_intercept": False, "tol": 1e-6}
    return lambda x: sp.csr_array(np.stack([make(**options).fit(D.T, row).coef_ for row in x]))


def sklearn_lasso(D: np.ndarray, lam: float) -> Method:
    from sklearn.linear_model import Lasso

    return one_by_one(partial(Lasso, max_iter=10_000), D, lam)


def celer_lasso(D: np.ndarray, lam: float) -> Method:
    import celer

    return one_by_one(celer.Lasso, D, lam)


def skglm_lasso(D: np.ndarray, lam: float) -> Method:
    import skglm

    return one_by_one(skglm.Lasso, D, lam)


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


PEERS: dict[str, tuple[int, Callable[[np.ndarray, float], Method]]] = {
    SPAMS: (1, spams_lasso),
    "scikit-learn Lasso": (50, sklearn_lasso),
    "celer": (50, celer_lasso),
    "skglm": (50, skglm_lasso),
    "FISTA, gap 1e-3": (10, lambda D, lam: lambda x: fista(x, D, lam)),
}
"""By which number the peers' points are divided, and how the method is made; those not installed are left out."""


def peers(D: np.ndarray, lam: float, n: int, wanted: Sequence[str]) -> dict[str, tuple[int, Method]]:
    """The peers that are installed, with the number of points each is given."""
    found = {}
    for name, (share, make) in PEERS.items():
        if any(text in name for text in wanted):
            try:
                found[name] = max(4, n // share) if share > 1 else n, make(D, lam)
            except ImportError:
                print(f"{name} is not installed")
    return found


def measure(problem: Problem, repeats: int, wanted: Sequence[str]) -> dict[str, Any]:
    """All methods on one problem, in turns; microseconds per point."""
    X, D, lam = problem.make()
    chosen = peers(D, lam, problem.n_peer, wanted)
    slow = {}
    for name, (n, call) in chosen.items():
        call(X[:2])  # compilation and first touches are not timed
        slow[name] = timed(partial(call, X[:n]))
    x32, d32 = torch.from_numpy(X).float(), torch.from_numpy(D).float()
    product = torch.empty(len(X), len(D))

    def encoder_pass() -> None:
        torch.mm(x32, d32.T, out=product)

    def fresh_pass() -> None:
        x32 @ d32.T

    ours = partial(encode, X, D, lam, tol=1e-6)
    loose = partial(encode, X, D, lam, tol=1e-4)
    calls: dict[str, Callable[[], Any]] = {"pass": encoder_pass, "fresh": fresh_pass, OURS: ours, LOOSE: loose}
    if SPAMS in chosen:
        calls[SPAMS] = lambda: chosen[SPAMS][1](X[: problem.n_peer])
    turns = interleaved(calls, repeats)
    exact = turns[OURS].last
    methods = {
        name: {
            "us": statistics.median(codes.seconds for codes in turns[name].results) / len(X) * 1e6,
            "gap": float(float64_gaps(X, D, lam, turns[name].last.codes).max()),
            "points": len(X),
        }
        for name in (OURS, LOOSE)
    }
    for name, (codes, seconds) in slow.items():
        n = chosen[name][0]
        taken = turns[name].seconds if name in turns else seconds.wall
        gap = float(float64_gaps(X[:n], D, lam, codes).max())
        methods[name] = {"us": taken / n * 1e6, "gap": gap, "points": n}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = interleaved({"pass": encoder_pass, OURS: ours}, repeats)  # CPU time: other work moves it least
    torch.set_num_threads(threads)
    return {
        "lam": lam,
        "l0": exact.l0,
        "correlation_passes": exact.passes_mean,
        "pass_us": turns["pass"].seconds / len(X) * 1e6,
        "fresh_pass_us": turns["fresh"].seconds / len(X) * 1e6,
        "whole_call_us": turns[OURS].seconds / len(X) * 1e6,
        "one_thread_passes": alone[OURS].cpu_seconds / alone["pass"].cpu_seconds,
        "methods": methods,
    }


def at_size(K: int, n: int) -> dict[str, Any]:
    """The whole call on many points, once, in a process of its own: token embeddings again and again, with noise."""
    X, D, lam = wordllama(K, min(n, 4000), 30)
    rng = np.random.default_rng(0)
    rows = np.resize(X, (n, X.shape[1])).astype(np.float32)
    rows += 0.02 / np.sqrt(X.shape[1]) * rng.standard_normal(rows.shape, dtype=np.float32)
    d32, out = torch.from_numpy(D).float(), torch.empty(len(X), K)
    encode(X[:200], D, lam, tol=1e-6)  # compilation is not timed
    turns = interleaved({"pass": lambda: torch.mm(torch.from_numpy(rows[: len(X)]), d32.T, out=out)[0, 0].item()}, 9)
    codes, seconds = timed(partial(encode, rows, D, lam, tol=1e-6))
    passes = seconds.wall / n / (turns["pass"].seconds / len(X))
    found = {"points": n, "l0": codes.l0, "passes": passes, "seconds": seconds.wall, "gigabytes": peak_gigabytes()}
    return found | {"gap": float(float64_gaps(rows[:1000].astype(np.float64), D, lam, codes.codes[:1000]).max())}


SIZE, FEW = ("at size, 256 x 16384", 16384, 100_000), ("at size, 256 x 64", 64, 500)


def size_table(cells: Mapping[str, Any]) -> dict[str, Table]:
    """Seconds and memory of the whole call."""
    columns = ["problem", "points", "active", "s", "encoder passes", "GB", "largest gap of 1,000"]
    rows = []
    for name, cell in cells.items():
        if "methods" not in cell:
            numbers = [f"{cell[key]:.1f}" for key in ("l0", "seconds", "passes", "gigabytes")]
            rows.append([name, f"{cell['points']:,}", *numbers, f"{cell['gap']:.1e}"])
    return {"size": table(columns, rows)} if rows else {}


def tables(cells: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Table]:
    """Targets beside what was measured; the calls; every method; and what lies between the problems."""
    problems, calls, methods, passes, ratios = [], [], [], [], []
    sized, cells = size_table(cells), {name: cell for name, cell in cells.items() if "methods" in cell}
    if not cells:
        return sized
    for name, cell in cells.items():
        ours, unit = cell["methods"][OURS]["us"], cell["pass_us"]
        spams = cell["methods"].get(SPAMS, {}).get("us")
        most, least = TARGETS.get(machine["kind"], {}).get(name, (None, None))
        passes.append(ours / unit)
        ratios += [spams / ours] if spams else []
        wanted = [None if most is None else f"≤ {most:g}", None if least is None else f"≥ {least:g}"]
        shown, ratio = f"{passes[-1]:.1f}", f"{ratios[-1]:.1f}" if spams else None
        problems.append([name, shown, wanted[0], ratio, wanted[1], f"{cell['one_thread_passes']:.1f}"])
        calls.append(
            [name, f"{cell['lam']:.4g}", f"{cell['l0']:.1f}", f"{cell['correlation_passes']:.2f}", f"{unit:.1f}"]
            + [f"{cell[key]:.1f}" for key in ("fresh_pass_us", "whole_call_us")]
        )
        fastest = min((m["us"] for key, m in cell["methods"].items() if key in PEERS), default=float("nan"))
        methods += [
            [name, key, f"{m['us']:.1f}", f"{m['us'] / unit:.1f}", f"{fastest / m['us']:.2f}", f"{m['gap']:.1e}"]
            for key, m in cell["methods"].items()
        ]
    ranges = [[f"codes, {len(cells)} problems", between(passes), between(ratios)]]
    once = ["encoder passes", "target", "spams / cvxsae", "target for it", "one thread, CPU, whole call"]
    pass_columns = ["µs an encoder pass", "µs into fresh memory", "µs the whole call"]
    return sized | {
        "problems": table(["problem", *once], problems),
        "calls": table(["problem", "λ", "active", "correlation passes", *pass_columns], calls),
        "methods": table(
            ["problem", "method", "µs a point", "encoder passes", "fastest peer / this", "largest gap"], methods
        ),
        "ranges": table(["work", "encoder passes", "spams / cvxsae"], ranges),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure the problems that were asked for."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=9)
    options.add_argument("--peers", nargs="*", metavar="TEXT", default=[""], help="peers whose name contains a text")
    given = options.parse_args(arguments)
    chosen, repeats = (QUICK, 1) if given.quick else (PROBLEMS, given.repeats)
    cells: dict[str, Callable[[], Any]] = {
        name: partial(measure, problem, repeats, given.peers) for name, problem in chosen.items()
    }
    name, K, n = FEW if given.quick else SIZE
    cells[name] = partial(by_itself, at_size, K, n)
    return run("codes", cells, tables, given)


if __name__ == "__main__":
    sys.exit(main())
