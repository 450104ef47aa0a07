"""Calls that would run for far longer than any limit asked of them here: every public verb that takes ``max_seconds``.

Each is prepared (data made, fits learned) once, and run on a small problem first, so that nothing is compiled later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[..., Any]


@dataclass(frozen=True)
class LongCall:
    """A verb at a size.

    Attributes
    ----------
    name
        The verb, and what is special about the call.
    size
        What is large.
    prepare
        Called with ``True`` for the large problem and ``False`` for one that is done at once; gives a function of
        ``max_seconds`` (and, where the verb has it, nothing else).
    """

    name: str
    size: str
    prepare: Callable[[bool], Call]


def data(n_points: int, dim: int, n_features: int = 0, seed: int = 0) -> np.ndarray:
    """Sparse combinations of random directions, with noise and an offset; unit mean square norm."""
    rng = np.random.default_rng(seed)
    n_features = n_features or 2 * dim
    directions = rng.normal(size=(n_features, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    X = np.empty((n_points, dim))
    for first in range(0, n_points, 4096):
        rows = min(4096, n_points - first)
        active = rng.random((rows, n_features)) < min(0.5, 5 / n_features)
        X[first : first + rows] = (active * rng.exponential(size=active.shape)) @ directions
    X += 0.05 * rng.normal(size=X.shape) + 0.1
    return X / np.sqrt((X**2).sum(axis=1).mean())


def atoms(n_atoms: int, dim: int, seed: int = 1) -> np.ndarray:
    """Random directions."""
    D = np.random.default_rng(seed).normal(size=(n_atoms, dim))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def _encode(engine: str, n: int, dim: int, K: int, lam: float, tol: float) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae import encode

        X, D = data(n if large else 300, dim), atoms(K, dim)
        return lambda **options: encode(X, D, lam, tol=tol, engine=engine, **options)

    return prepare


def _code_path(large: bool) -> Call:
    from cvxsae import code_path

    X, D = data(400_000 if large else 300, 64), atoms(1024, 64)
    return lambda **options: code_path(X, D, 12, tol=1e-10, **options)


def _lambda_for_l0(large: bool) -> Call:
    from cvxsae import lambda_for_l0

    X, D = data(400_000 if large else 300, 64), atoms(1024, 64)
    return lambda **options: lambda_for_l0(X, D, 7.3, rtol=1e-6 if large else 0.5, max_points=None, **options)


def _solve(make: Callable[[bool], Any], **fixed: Any) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae import solve

        problem = make(large)
        return lambda **options: solve(problem, raise_on_failure=False, **(fixed | options))

    return prepare


def _wide(n: int, dim: int, bias: Any = "free", lam: float = 1e-3) -> Callable[[bool], Any]:
    def make(large: bool) -> Any:
        from cvxsae import WideLimit

        return WideLimit(data(n if large else 200, dim), lam, bias=bias)

    return make


def _codes(n: int, dim: int, K: int, bias: Any, lam: float = 1e-2) -> Callable[[bool], Any]:
    def make(large: bool) -> Any:
        from cvxsae import SparseCodes

        return SparseCodes(data(n if large else 60, dim), atoms(K, dim), lam, bias=bias)

    return make


def _candidates(n: int, dim: int, K: int, lam: float = 0.05) -> Callable[[bool], Any]:
    def make(large: bool) -> Any:
        from cvxsae import CandidateDictionary

        return CandidateDictionary(
            data(n if large else 60, dim), atoms(K if large else 20, dim), lam, 0.02, bias="free"
        )

    return make


def _large(n: int, dim: int, lam: float = 0.1, tau: float = 0.05) -> Callable[[bool], Any]:
    def make(large: bool) -> Any:
        from cvxsae import LargeDictionary

        return LargeDictionary(data(n if large else 12, dim), lam, tau)

    return make


def _large_path(n: int, dim: int) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae import large_path

        problem = _large(n, dim)(large)
        return lambda **options: large_path(problem, [0.01, 0.02, 0.05, 0.1, 0.2], tol=1e-7, **options)

    return prepare


def _crosscheck(make: Callable[[bool], Any]) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae.validation import crosscheck

        problem = make(large)
        return lambda **options: crosscheck(problem, **options)

    return prepare


def _learn(n: int, dim: int, K: int, lam: float = 0.05, **fixed: Any) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae import learn_dictionary

        X = data(n if large else 200, dim)
        return lambda **options: learn_dictionary(X, K, lam, **(fixed | options))

    return prepare


def _polish(n: int, dim: int, K: int, lam: float = 0.05, **fixed: Any) -> Callable[[bool], Call]:
    """Goes on from a fit that few steps are missing of: polishing and moves."""

    def prepare(large: bool) -> Call:
        from cvxsae import learn_dictionary

        X = data(n if large else 200, dim)
        fit = learn_dictionary(X, K, lam, stationarity=1e-2, max_seconds=10 if large else 1, moves=False)
        return lambda **options: learn_dictionary(X, K, lam, init=fit, stationarity=1e-9, **(fixed | options))

    return prepare


def _resized(verb: str) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        import cvxsae

        X = data(60_000 if large else 200, 64)
        K = 128 if large else 8
        fit = cvxsae.learn_dictionary(X, K, 0.05, max_seconds=4 if large else 1, moves=False)
        new = K * 2 if verb == "grow" else K // 2
        return lambda **options: getattr(cvxsae, verb)(fit, new, stationarity=1e-8, **options)

    return prepare


def _dictionary_path(large: bool) -> Call:
    from cvxsae import dictionary_path

    X = data(60_000 if large else 200, 64)
    lams = [0.2, 0.1, 0.05, 0.02] if large else [0.2]
    return lambda **options: dictionary_path(X, 128 if large else 4, lams, stationarity=1e-7, **options)


def _width_floor(large: bool) -> Call:
    from cvxsae import width_floor

    X = data(60_000 if large else 200, 64)
    return lambda **options: width_floor(X, [16, 64], 0.02, tol=1e-9 if large else 1e-2, **options)


def _check(n: int, dim: int, K: int, **fixed: Any) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae import check_optimality

        X, D = data(n if large else 200, dim), atoms(K if large else 8, dim)
        return lambda **options: check_optimality(X, D, 0.05, **(fixed | options))

    return prepare


def _second_order(large: bool) -> Call:
    from cvxsae.diagnostics import second_order

    X, D = data(20_000 if large else 200, 32), atoms(64 if large else 4, 32)
    return lambda **options: second_order(X, D, 0.05, tol=1e-12, **({"max_steps": 100_000} | options))


def _feature_statistics(n: int, dim: int, K: int) -> Callable[[bool], Call]:
    def prepare(large: bool) -> Call:
        from cvxsae.diagnostics import feature_statistics

        X, D = data(n if large else 200, dim), atoms(K if large else 8, dim)
        return lambda **options: feature_statistics(X, D, 0.05, **options)

    return prepare


def _given_statistics(large: bool) -> Call:
    """With codes that are given: everything the call does is the statistics themselves."""
    from cvxsae import encode
    from cvxsae.diagnostics import feature_statistics

    X, D = data(60_000 if large else 200, 128), atoms(2048 if large else 8, 128)
    codes = encode(X, D, 0.05, tol=1e-4)
    return lambda **options: feature_statistics(X, D, 0.05, codes=codes, **options)


def _audit(large: bool) -> Call:
    from cvxsae import SparseAutoencoder, audit

    dim, K = (128, 512) if large else (4, 6)
    X, D = data(60_000 if large else 200, dim), atoms(K, dim)
    sae = SparseAutoencoder.from_arrays(
        {"W_enc": D.T.copy(), "b_enc": np.full(K, -0.05), "W_dec": D, "b_dec": np.zeros(dim)}, lam=0.05
    )
    return lambda **options: audit(X, sae, lam=0.05, **options)


def _train(large: bool) -> Call:
    from cvxsae import train_sae

    X = data(60_000 if large else 200, 128)
    return lambda **options: train_sae(X, 512 if large else 8, 0.05, **({"steps": 10**6 if large else 20} | options))


def _compare(large: bool) -> Call:
    from cvxsae import compare

    X = data(60_000 if large else 100, 64)
    training = {"steps": 100_000 if large else 20}
    return lambda **options: compare(X, [16, 64, 256] if large else [2], 0.05, training=training, **options)


def _population_floor(large: bool) -> Call:
    from cvxsae.population import population_floor

    X, K, batch = (data(60_000, 64), 128, 4_000) if large else (data(200, 8), 4, 50)
    return lambda **options: population_floor(X, K, 0.05, batch=batch, **options)


def _population_gap(large: bool) -> Call:
    from cvxsae.population import population_gap

    (n, dim), K, batch = ((60_000, 64), 512, 4_000) if large else ((200, 8), 4, 50)
    X, D = data(n, dim), atoms(K, dim)
    return lambda **options: population_gap(X, (D, None), 0.05, batch=batch, **options)


CALLS = (
    LongCall("encode", "400,000 × 64, K = 1024", _encode("fused", 400_000, 64, 1024, 0.02, 1e-8)),
    LongCall("encode, small λ", "20,000 × 256, K = 1500, tol 1e-12", _encode("fused", 20_000, 256, 1500, 1e-3, 1e-12)),
    LongCall("encode, torch", "20,000 × 128, K = 1500, tol 1e-10", _encode("torch", 20_000, 128, 1500, 5e-3, 1e-10)),
    LongCall("code_path", "400,000 × 64, K = 1024", _code_path),
    LongCall("lambda_for_l0", "400,000 × 64, K = 1024", _lambda_for_l0),
    LongCall("solve wide", "400,000 × 128", _solve(_wide(400_000, 128, lam=2e-2), tol=1e-14)),
    LongCall("solve wide, wide rows", "20,000 × 1024", _solve(_wide(20_000, 1024), tol=1e-14)),
    LongCall("solve codes", "200,000 × 64, K = 1024", _solve(_codes(200_000, 64, 1024, None), tol=1e-9)),
    LongCall("solve codes, free bias", "20,000 × 64, K = 512", _solve(_codes(20_000, 64, 512, "free"), tol=1e-12)),
    LongCall("solve candidates", "20,000 × 64, K = 1000", _solve(_candidates(20_000, 64, 1000), tol=1e-12)),
    LongCall(
        "solve candidates, gradient",
        "20,000 × 64, K = 1000",
        _solve(_candidates(20_000, 64, 1000), tol=1e-12, solver="proximal-gradient"),
    ),
    LongCall(
        "solve candidates, interior",
        "600 × 20, K = 60",
        _solve(_candidates(600, 20, 60, lam=1e-5), tol=1e-12, solver="interior-point"),
    ),
    LongCall("solve large", "600 × 16", _solve(_large(600, 16), tol=1e-9)),
    LongCall("solve large, large", "1500 × 64", _solve(_large(1500, 64), tol=1e-9)),
    LongCall("solve large, plane", "3000 × 3", _solve(_large(3000, 3), tol=1e-12)),
    LongCall("solve large, copositive", "60 × 5", _solve(_large(60, 5), tol=1e-9, solver="copositive")),
    LongCall("solve large, copositive 100", "100 × 5", _solve(_large(100, 5), tol=1e-9, solver="copositive")),
    LongCall("solve large, factorized", "2000 × 64", _solve(_large(2000, 64), tol=1e-9, solver="factorized")),
    LongCall("solve large, reference", "40 × 5", _solve(_large(40, 5), tol=1e-9, solver="reference")),
    LongCall("large_path", "400 × 8", _large_path(400, 8)),
    LongCall("crosscheck wide", "2,000 × 16", _crosscheck(_wide(2_000, 16))),
    LongCall("crosscheck large", "40 × 5", _crosscheck(_large(40, 5))),
    LongCall("crosscheck candidates", "300 × 16", _crosscheck(_candidates(300, 16, 40))),
    LongCall("learn_dictionary", "100,000 × 128, K = 512", _learn(100_000, 128, 512)),
    LongCall("learn_dictionary, middle", "5,000 × 32, K = 64", _learn(5_000, 32, 64, stationarity=1e-9)),
    LongCall("learn_dictionary, K = 2", "2,000 × 8, K = 2", _learn(2_000, 8, 2, stationarity=1e-12)),
    LongCall("learn_dictionary, polish", "60,000 × 64, K = 128", _polish(60_000, 64, 128)),
    LongCall("learn_dictionary, curved", "20,000 × 32, K = 64", _polish(20_000, 32, 64, second_order=True)),
    LongCall("grow", "60,000 × 64, K = 128 to 256", _resized("grow")),
    LongCall("shrink", "60,000 × 64, K = 128 to 64", _resized("shrink")),
    LongCall("dictionary_path", "60,000 × 64, K = 128", _dictionary_path),
    LongCall("width_floor", "60,000 × 64, K = 16, 64", _width_floor),
    LongCall("check_optimality", "60,000 × 128, K = 1024", _check(60_000, 128, 1024)),
    LongCall("check_optimality, curved", "20,000 × 32, K = 64", _check(20_000, 32, 64, second_order=True)),
    LongCall("second_order", "20,000 × 32, K = 64", _second_order),
    LongCall("feature_statistics", "60,000 × 128, K = 2048", _feature_statistics(60_000, 128, 2048)),
    LongCall("feature_statistics, given codes", "60,000 × 128, K = 2048", _given_statistics),
    LongCall("audit", "60,000 × 128, K = 512", _audit),
    LongCall("learn_dictionary, validation", "100,000 × 128, K = 512", _learn(100_000, 128, 512, validation=0.2)),
    LongCall("population_floor", "60,000 × 64, K = 128", _population_floor),
    LongCall("population_gap", "60,000 × 64, K = 512", _population_gap),
    LongCall("train_sae", "60,000 × 128, K = 512", _train),
    LongCall("compare", "60,000 × 64, K = 16, 64, 256", _compare),
)
"""Every verb with ``max_seconds``, at sizes where it runs for minutes."""
