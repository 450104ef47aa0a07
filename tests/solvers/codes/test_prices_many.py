"""Weights and ridge on many random and adversarial problems: the referee, cvxpy, the other engine, redundant forms."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseCodes, certify, encode, solve
from cvxsae.errors import CertificateError
from cvxsae.relaxations.convex.code_penalty import CodePenalty
from cvxsae.solvers.codes.engines import make_engine
from cvxsae.solvers.codes.engines.prices import Prices
from cvxsae.solvers.codes.engines.screening import Precision, PreparedDictionary
from cvxsae.solvers.codes.engines.state import Tuning
from cvxsae.solvers.codes.rounds import solve_block
from cvxsae.validation.claims import row_bounds
from tests.helpers.precisions import INT8

KINDS = ("plain", "wide", "duplicates", "zero rows", "near the top", "tiny penalty", "heavy ridge", "light ridge")


def case(kind: str, seed: int, n: int = 10):
    """Datapoints, dictionary, λ, weights and ridge of one kind."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    d, K = int(rng.integers(2, 12)), int(rng.integers(3, 60))
    X, D = 3 * rng.normal(size=(n, d)), rng.normal(size=(K, d))
    weights = np.exp((3.0 if kind == "wide" else 0.7) * rng.normal(size=K))
    ridge = np.where(rng.random(K) < 0.5, 0.0, np.exp(2 * rng.normal(size=K)))
    lam = 0.3
    if kind == "duplicates":
        copies = rng.integers(0, K, size=K)
        D, weights, ridge = D[copies], weights[copies], ridge[rng.integers(0, K, size=K)]
    if kind == "zero rows":
        X[:: int(rng.integers(1, 4))] = 0
    if kind == "near the top":
        units = D / np.linalg.norm(D, axis=1, keepdims=True)
        lam = max(1e-3, (X @ units.T / weights).max()) * (1 - 10.0 ** -int(rng.integers(1, 10)))
    if kind == "tiny penalty":
        lam = 1e-3
    if kind == "heavy ridge":
        ridge *= 1e4
    if kind == "light ridge":
        ridge *= 10.0 ** -rng.integers(3, 20, size=K)
    return X, D, lam, {"weights": weights, "ridge": ridge}


def objective(X, D, lam, Z, weights, ridge):
    units = D / np.linalg.norm(D, axis=1, keepdims=True)
    return 0.5 * ((X - Z @ units) ** 2).sum(axis=1) + lam * (Z @ weights + Z**2 @ ridge / 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_referee_certifies_640_datapoints(kind: str) -> None:
    """Each datapoint is a problem of its own; 8 kinds of 8 dictionaries with 10 datapoints each."""
    for seed in range(8):
        X, D, lam, prices = case(kind, seed)
        codes = encode(X, D, lam, tol=1e-6, engine="fused", **prices)
        certificate = certify(codes)
        assert certificate.is_certified, certificate
        values, bounds = row_bounds(codes.problem, codes)
        assert (values - bounds <= 1e-6 * values * (1 + 1e-6) + 1e-300).all()
        np.testing.assert_allclose(values, objective(X, D, lam, codes.codes.toarray(), **prices), rtol=1e-12)
        np.testing.assert_allclose(codes.values, values, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cvxpy_and_the_other_engine_agree(kind: str) -> None:
    X, D, lam, prices = case(kind, 0)
    fused = encode(X, D, lam, tol=1e-9, engine="fused", **prices)
    other = encode(X, D, lam, tol=1e-9, engine="torch", **prices)
    np.testing.assert_allclose(other.values, fused.values, rtol=2e-9)
    reference = solve(fused.problem, solver="reference", tol=1e-5, raise_on_failure=False)
    assert reference.value == pytest.approx(fused.value, rel=1e-6)
    warm = encode(X, D, lam, tol=1e-9, engine="fused", warm_start=fused, **prices)
    np.testing.assert_allclose(warm.values, fused.values, rtol=2e-9)
    far = encode(X, D, lam, tol=1e-9, warm_start=encode(X, D, 3 * lam, **prices), **prices)
    np.testing.assert_allclose(far.values, fused.values, rtol=2e-9)


def test_copies_of_an_atom_share_its_ridge() -> None:
    X, D, lam, prices = case("plain", 3)
    weights, ridge = prices["weights"], prices["ridge"] + 0.5
    thrice = np.repeat(np.arange(len(D)), 3)
    many = encode(X, D[thrice], lam, tol=1e-10, weights=weights[thrice], ridge=ridge[thrice])
    few = encode(X, D, lam, tol=1e-10, weights=weights, ridge=ridge / 3)
    np.testing.assert_allclose(many.values, few.values, rtol=3e-10)


def test_a_common_weight_belongs_to_the_penalty_and_scaled_data_to_both() -> None:
    X, D, lam, prices = case("plain", 4)
    ridge = prices["ridge"]
    weighted = encode(X, D, lam, tol=1e-11, weights=np.full(len(D), 4.0), ridge=ridge)
    penalized = encode(X, D, 4 * lam, tol=1e-11, ridge=ridge / 4)
    np.testing.assert_allclose(weighted.values, penalized.values, rtol=3e-11)
    once = encode(X, D, lam, tol=1e-11, **prices)
    scaled = encode(100 * X, D, 100 * lam, tol=1e-11, weights=prices["weights"], ridge=ridge / 100)
    np.testing.assert_allclose(scaled.values, 1e4 * once.values, rtol=3e-11)
    longer = encode(X, D * np.linspace(0.1, 9, len(D))[:, None], lam, tol=1e-11, **prices)
    np.testing.assert_allclose(longer.values, once.values, rtol=3e-11)


def test_ones_and_zeros_are_the_plain_penalty_bit_for_bit() -> None:
    X, D, lam, _ = case("plain", 5)
    plain = encode(X, D, lam, tol=1e-8)
    priced = encode(X, D, lam, tol=1e-8, weights=np.ones(len(D)), ridge=np.zeros(len(D)))
    np.testing.assert_array_equal(priced.values, plain.values)
    np.testing.assert_array_equal(priced.codes.toarray(), plain.codes.toarray())


@pytest.mark.slow
def test_value_prox_and_conjugate_belong_together() -> None:
    """Fenchel–Young with equality at the prox, and the conjugate by brute force."""
    rng = np.random.default_rng(0)
    weights, ridge = torch.from_numpy(np.exp(rng.normal(size=7))), torch.from_numpy(np.exp(2 * rng.normal(size=7)))
    ridge[::3] = 0
    penalty = CodePenalty(weights=weights, ridge=ridge)
    for step in (1e-3, 0.3, 20.0):
        V = torch.from_numpy(3 * rng.normal(size=(9, 7)))
        Z = penalty.prox(V, step)
        slope = (V - Z) / step
        young = penalty.value(Z) + penalty.conjugate(torch.minimum(slope, weights + ridge * Z)) - (Z * slope).sum(dim=0)
        assert float(young.abs().max()) <= 1e-9 * float(penalty.value(Z).max() + 1)
        other = torch.from_numpy(rng.random(size=(9, 7)) * 4)
        assert (penalty.value(other) >= penalty.value(Z) + (slope * (other - Z)).sum(dim=0) - 1e-9).all()
    line = torch.linspace(0, 60, 60_001, dtype=torch.float64)[:, None]
    v = weights + 0.8 * (ridge > 0)
    best = (line * v - line * weights - ridge / 2 * line.square()).amax(dim=0)
    torch.testing.assert_close(penalty.conjugate(v[None])[ridge > 0.05], best[ridge > 0.05], rtol=1e-5, atol=1e-7)
    assert torch.isinf(penalty.conjugate(v[None] + 1)[ridge == 0]).all()


def test_a_wrong_conjugate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    X, D, lam, prices = case("plain", 6)
    codes = encode(X, D, lam, tol=1e-9, **prices)
    assert certify(codes).is_certified
    right = CodePenalty.conjugates
    monkeypatch.setattr(CodePenalty, "conjugates", lambda *given: 0.9 * right(*given))
    with pytest.raises(CertificateError, match="lies above its value"):
        certify(codes)


def test_a_forged_gap_and_a_forged_value_are_caught() -> None:
    X, D, lam, prices = case("plain", 7)
    codes = encode(X, D, lam, tol=1e-2, **prices)
    rough = replace(codes, codes=codes.codes * 0.99)
    assert any("another value" in sentence for sentence in certify(rough).objections)
    values, _ = row_bounds(codes.problem, rough)
    forged = replace(rough, values=values, value=values.mean(), gaps=np.zeros(len(X)), lower_bound=values.mean())
    objections = " ".join(certify(forged).objections)
    assert "claim a smaller gap" in objections
    assert "claims the lower bound" in objections


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "fused"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", INT8])
def test_screening_in_low_precision_stays_a_proof(name: str, precision: str) -> None:
    """Weights over eight orders of magnitude: the error of a product with d_k/w_k is that of d_k, over w_k."""
    rng = np.random.default_rng(8)
    X, D = 3 * rng.normal(size=(60, 16)), rng.normal(size=(400, 16))
    prices: dict[str, Any] = {"weights": 10.0 ** rng.uniform(-4, 4, size=400), "ridge": rng.random(400)}
    problem = SparseCodes(X, D, 0.4, **prices)
    found = Prices.of(problem, torch.device("cpu"))
    engine = make_engine(
        name, PreparedDictionary(problem.atoms, prices=found), Tuning(1e-7, precision=precision, widest_margin=np.inf)
    )
    block = solve_block(engine, torch.from_numpy(X / 0.4))
    exact = encode(X, D, 0.4, tol=1e-8, **prices)
    claimed = block.values * 0.16 * (1 - block.gaps)
    assert (claimed <= exact.values * (1 + 1e-12)).all()
    np.testing.assert_allclose(block.values[block.done] * 0.16, exact.values[block.done], rtol=2e-7)
    assert block.done.mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_no_claim_is_above_the_optimum_over_24_orders_of_magnitude(engine: str) -> None:
    """In one dimension the optimum is known in rational numbers: the cheapest atom on the side of the datapoint."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        K, lam = int(rng.integers(5, 80)), 10 ** rng.uniform(-3, 2)
        X, D, weights = rng.normal(size=(8, 1)), rng.normal(size=(K, 1)), 10 ** rng.uniform(-12, 12, K)
        codes = encode(X, D, lam, weights=weights, tol=1e-6, engine=engine)
        for n, x in enumerate(X[:, 0]):
            size, near = abs(Fraction(x)), D[:, 0] * x > 0
            price = Fraction(lam) * Fraction(weights[near].min()) if near.any() else size
            optimum = size**2 / 2 if size <= price else price * size - price**2 / 2
            claimed = Fraction(codes.values[n]) * (1 - Fraction(codes.gaps[n]))
            assert claimed <= optimum * (1 + Fraction(1, 10**12))


@pytest.mark.slow
def test_a_wrong_margin_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without margins the engine certifies what the referee does not."""
    rng = np.random.default_rng(9)
    X, D = 3 * rng.normal(size=(60, 16)), rng.normal(size=(400, 16))
    problem = SparseCodes(X, D, 0.4, weights=np.exp(rng.normal(size=400)), ridge=0.1 * rng.random(400))
    prepared = PreparedDictionary(problem.atoms, prices=Prices.of(problem, torch.device("cpu")))
    prepared.__dict__["half_precision"] = Precision(0.0, 0.0, 0.0)
    no_margin = lambda self, norm, *rest: (0 * norm - 0.02 * prepared.reach, torch.full_like(norm, 1.02))  # noqa: E731
    monkeypatch.setattr(Precision, "margins", no_margin)
    engine = make_engine("torch", prepared, Tuning(1e-9, precision="bfloat16", widest_margin=np.inf))
    block = solve_block(engine, torch.from_numpy(X / 0.4))
    monkeypatch.undo()
    exact = encode(X, D, 0.4, tol=1e-10, weights=problem.weights, ridge=problem.ridge)
    assert (block.values * 0.16 * (1 - block.gaps) > exact.values * (1 + 1e-9)).any()


@pytest.mark.slow
def test_a_bound_holds_for_the_residual_that_is_certified_not_the_one_that_was_multiplied() -> None:
    """Atoms a millionth apart: a residual in float32 that moves when it is settled takes some of them past 1."""
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        first = rng.standard_normal((1, 3))
        D = first + 1e-6 * rng.standard_normal((64, 3))
        D /= np.linalg.norm(D, axis=1, keepdims=True)
        X = 100 * rng.exponential(size=(50, 1)) * D[:1] + 1e-4 * rng.standard_normal((50, 3))
        ridge = np.where(rng.random(64) < 0.5, 0.0, 10 ** rng.uniform(-4, 3, 64))
        codes = encode(X, D, 1.0, tol=1e-2, engine="fused", precision="float32", ridge=ridge)
        best = encode(X, D, 1.0, tol=1e-12, engine="torch", precision="float32", ridge=ridge)
        assert (codes.values * (1 - codes.gaps) <= best.values * (1 + 1e-12)).all()


def test_what_is_certain_is_so() -> None:
    """Codes at a loose gap decide; codes at a tiny one say what is so."""
    for seed in range(6):
        X, D, lam, prices = case("plain", seed)
        exact = encode(X, D, lam, tol=1e-11, **prices).codes.toarray() > 1e-7
        found = encode(X, D, lam, tol=1e-3, **prices).activity
        marks = found.entries.toarray()
        assert exact[marks == 1].all()
        assert not exact[(marks == 0) & ~found.is_open[:, None]].any()
        assert (marks == 1).sum() >= 0.8 * exact.sum()


def test_kept_blocks_belong_to_their_prices(tmp_path) -> None:
    X, D, lam, prices = case("plain", 10)
    first = encode(X, D, lam, tol=1e-8, folder=tmp_path / "kept", **prices)
    again = encode(X, D, lam, tol=1e-8, folder=tmp_path / "kept", **prices)
    np.testing.assert_allclose(again.codes.toarray(), first.codes.toarray(), rtol=1e-12)
    with pytest.raises(ValueError, match="ridge"):
        encode(X, D, lam, tol=1e-8, folder=tmp_path / "kept", weights=prices["weights"], ridge=prices["ridge"] * 2)
    first.save(tmp_path / "codes.npz")
    loaded = type(first).load(tmp_path / "codes.npz", first.problem)
    assert loaded.value == pytest.approx(first.value, rel=1e-12)
    assert loaded.is_certified


def test_refitted_codes_have_neither_weights_nor_ridge() -> None:
    X, D, lam, prices = case("plain", 11)
    codes = encode(X, D, lam, tol=1e-8, **prices)
    refit = codes.refit()
    assert (refit.stationarity < 1e-9).all()
    assert refit.fvu_after <= refit.fvu_before
