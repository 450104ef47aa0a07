"""Problems drawn to break a solver: small, of every kind, many of them degenerate, each from a seed and an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.referee.mathematics import Case

KINDS = ("wide", "codes", "candidates", "large", "encode", "floor", "learned")
_SHARES = (0.2, 0.15, 0.2, 0.05, 0.27, 0.1, 0.03)

_ROWS = (
    "plain",
    "equal",
    "zero",
    "long",
    "flat",
    "whole",
    "planted",
    "near",
    "line",
    "antipodal",
    "constant",
    "spread",
)
_ATOMS = ("plain", "equal", "near", "antipodal", "line", "axes", "data", "norms")


@dataclass(frozen=True)
class Drawn:
    """A problem, how to ask for it, and what it is made of.

    ``width`` is the number of atoms of floors and learned dictionaries; ``tol`` the gap asked for; ``choice`` in [0, 1)
    picks among the ways there are to ask (solver, engine, floor); ``given`` is the data as passed, perhaps float32.
    """

    kind: str
    case: Case
    width: int
    tol: float
    choice: float
    given: np.ndarray
    story: str


def draw(seed: int, index: int) -> Drawn:
    """The problem of a seed and an index."""
    rng = np.random.default_rng([seed, index])
    kind = str(rng.choice(KINDS, p=_SHARES))
    n, d, k = int(rng.integers(1, 13)), int(rng.integers(1, 6)), int(rng.integers(1, 11))
    if rng.random() < 0.1:
        n, k = int(rng.choice([1, 2, n])), int(rng.choice([1, 40, k]))
    d = 1 if rng.random() < 0.07 else d
    if kind == "floor" and rng.random() < 0.7:  # enough datapoints for kernels to say more than the wide limit
        n, d, k = int(rng.integers(16, 40)), int(rng.integers(3, 9)), int(rng.integers(1, 5))
    rows, atoms_are = str(rng.choice(_ROWS)), str(rng.choice(_ATOMS))
    A = _atoms(rng, atoms_are, k, d)
    X = _rows(rng, rows, n, A)
    if atoms_are == "data":
        A = np.where(np.any(X, axis=1, keepdims=True), X, 1.0)[rng.integers(n, size=k)]
    single = bool(rng.random() < 0.2)
    exponent = int(rng.choice([0, 0, 0, -100, 100, -30, 30])) if not single else int(rng.choice([0, 0, -15, 15]))
    X = X * 10.0**exponent
    given = X.astype(np.float32) if single else X
    X = given.astype(np.float64)
    rule = int(rng.integers(3))
    bias = None if rule == 0 else X.mean(axis=0) + 0.1 * X.std(axis=0) * rng.normal(size=d) if rule == 1 else "free"
    if kind == "encode" and rule == 2:
        bias = None
    center = X.mean(axis=0) if rule == 2 else np.zeros(d) if bias is None else np.asarray(bias)
    top = float(np.linalg.norm(X - center, axis=1).max())
    ratio = 1.0 if rng.random() < 0.05 else 10 ** rng.uniform(-3 if kind == "floor" else -8, 0.1)
    lam = (top if top > 0 else 10.0**exponent) * ratio
    tau = float(rng.choice([0.0, 0.0, 0.3, 2.0, 10.0, 1e-6, 1e6])) if kind in ("candidates", "large") else 0.0
    case = Case(kind, X, lam, tau, A if kind in ("codes", "candidates", "encode") else None, bias)
    story = (
        f"{n}x{d} {rows} rows, {k} {atoms_are} atoms, 1e{exponent}{' float32' * single}, ratio {ratio:.1e}, tau {tau}"
    )
    return Drawn(kind, case, k, float(rng.choice([1e-3, 1e-6, 1e-9])), float(rng.random()), given, story)


def _atoms(rng: np.random.Generator, which: str, k: int, d: int) -> np.ndarray:
    A = rng.normal(size=(k, d))
    half = k // 2
    if which == "equal":
        A[half:] = A[: k - half]
    if which == "near":
        A[half:] = A[: k - half] + 1e-7 * rng.normal(size=(k - half, d))
    if which == "antipodal":
        A[half:] = -A[: k - half]
    if which == "line":
        A = np.outer(rng.choice([-1.0, 1.0, 2.0], size=k), A[0])
    if which == "axes":
        A = np.eye(d)[rng.integers(d, size=k)] * rng.choice([-1.0, 1.0], size=(k, 1))
    if which == "norms":
        A *= 10 ** rng.uniform(-6, 6, size=(k, 1))
    return A


def _rows(rng: np.random.Generator, which: str, n: int, A: np.ndarray) -> np.ndarray:
    d = A.shape[1]
    X = rng.normal(size=(n, d))
    if which == "equal":
        X[n // 2 :] = X[: n - n // 2]
    if which == "zero":
        X[rng.random(n) < 0.5] = 0
    if which == "long":
        X[rng.integers(n)] *= 1e5
    if which == "flat":
        X = np.outer(rng.normal(size=n), rng.normal(size=d)) + (np.outer(rng.normal(size=n), np.eye(d)[0]))
    if which == "whole":
        X = np.round(2 * X)
    if which == "planted":
        unit = A / np.linalg.norm(A, axis=1, keepdims=True)
        X = (rng.random((n, len(A))) * (rng.random((n, len(A))) < 0.4)) @ unit
    if which == "near":
        X = X[:1] + 1e-9 * X
    if which == "line":
        X = np.outer(rng.normal(size=n), X[0])
    if which == "antipodal":
        X[n // 2 :] = -X[: n - n // 2]
    if which == "constant":
        X[:] = X[0]
    if which == "spread":
        X *= 10 ** rng.uniform(-4, 4, size=(n, 1))
    return X
