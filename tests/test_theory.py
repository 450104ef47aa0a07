"""Theorems on random instances, with negative controls: those that no other test states as a whole.

docs/theory.md names, for each theorem, the function that executes it and the test that verifies it; the last test here
checks that both exist.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvxsae
from cvxsae import check_optimality, encode
from cvxsae.data import sparse_features
from cvxsae.diagnostics import feature_statistics
from cvxsae.floors import spectral_floor
from cvxsae.relaxations import AtomPenalty
from cvxsae.relaxations.convex.polar_search import sphere_polar
from cvxsae.relaxations.floors import kernels
from tests.helpers import problems

ROOT = Path(__file__).parent.parent
SEEDS = st.integers(0, 10_000)
seeds = settings(max_examples=8, deadline=None)


def instance(seed, *, n=30, d=5, K=8, lam=0.25):
    """Random data, unit-norm dictionary and bias, and exact codes with their residuals."""
    rng = np.random.default_rng(seed)
    X, D, b = problems.gaussian(rng, n, d), problems.unit(rng.normal(size=(K, d))), 0.3 * rng.normal(size=d)
    codes = encode(X, D, lam, bias=b, tol=1e-13)
    Z = codes.codes.toarray()
    return rng, X, D, b, lam, codes, Z, X - b - Z @ D


@pytest.mark.slow
@seeds
@given(seed=SEEDS)
def test_t1_the_residual_is_a_projection_and_the_dual_is_equation_one(seed):
    rng, X, D, b, lam, codes, Z, R = instance(seed)
    assert (R @ D.T).max() <= lam * (1 + 1e-6)
    assert np.abs((R @ D.T)[Z > 0] - lam).max(initial=0) < 1e-6
    phi = 0.5 * ((X - b) ** 2).sum(axis=1) - 0.5 * ((Z @ D) ** 2).sum(axis=1)
    assert np.allclose(codes.values, phi, rtol=1e-6)
    # Any point of the polyhedron is at least as far from x − b, and its dual value is below φ.
    points = rng.normal(size=(200, 5))
    points *= np.minimum(1, lam / (points @ D.T).max(axis=1).clip(1e-12))[:, None]
    for x, r, value in zip(X - b, R, phi, strict=True):
        assert (np.linalg.norm(points - x, axis=1) >= np.linalg.norm(r - x) - 1e-9).all()
        assert (points @ x - 0.5 * (points**2).sum(axis=1) <= value + 1e-9).all()
    # Negative control: points outside can do better.
    outside = 1.2 * R
    assert ((outside * (X - b)).sum(axis=1) - 0.5 * (outside**2).sum(axis=1) > phi + 1e-6).any()


@pytest.mark.parametrize(
    ("omega", "g"),
    [
        (lambda z: 0.3 * z.sum(axis=1), lambda t: 0.3 * t),
        (lambda z: 0.3 * (z > 0).sum(axis=1), lambda t: 0.3 * (t > 0)),
        (lambda z: 0.3 * np.sqrt(z).sum(axis=1), lambda t: 0.3 * np.sqrt(t)),
        (lambda z: 0.3 * np.log1p(z / 0.1).sum(axis=1), lambda t: 0.3 * np.log1p(t / 0.1)),
        (lambda z: 0.3 * z.sum(axis=1) ** 2, lambda t: 0.3 * t**2),
    ],
    ids=["L1", "L0", "square root", "log", "squared sum"],
)
def test_t16_no_codes_are_below_the_radial_bound(omega, g):
    """And one atom towards the point attains it; a ridge, which is superadditive, goes below."""
    rng = np.random.default_rng(0)
    D, x = problems.unit(rng.normal(size=(4, 3))), rng.normal(size=3)
    r = float(np.linalg.norm(x))
    masses = np.linspace(0, r, 20_001)
    bound = (0.5 * (r - masses) ** 2 + g(masses)).min()
    Z = rng.exponential(0.5, size=(20_000, 4)) * (rng.random((20_000, 4)) < 0.5)
    assert (0.5 * ((x - Z @ D) ** 2).sum(axis=1) + omega(Z)).min() >= bound - 1e-9
    alone = masses[:, None] * np.eye(4)[0]
    towards = np.concatenate([x[None] / r, D[1:]])
    attained = 0.5 * ((x - alone @ towards) ** 2).sum(axis=1) + omega(alone)
    assert attained.min() == pytest.approx(bound, abs=1e-12)


def test_t16_a_ridge_is_no_such_penalty():
    """The negative control: two copies of an atom share a ridge, and pay less than one."""
    x, D = np.array([1.0, 0.0]), np.array([[1.0, 0.0], [1.0, 0.0]])
    masses = np.linspace(0, 1, 2001)
    bound = (0.5 * (1 - masses) ** 2 + 0.3 * masses**2).min()
    shared = np.outer(masses, [0.5, 0.5])
    assert (0.5 * ((x - shared @ D) ** 2).sum(axis=1) + 0.3 * (shared**2).sum(axis=1)).min() < bound - 0.01


@pytest.mark.slow
def test_t1_with_a_free_bias_the_dual_has_one_more_constraint():
    """A gap that ignores Σ_n y_n = 0 is negative: the residual's dual value at a poor bias exceeds the optimum."""
    _, X, D, b, lam, codes, _, R = instance(1)
    best = problems.solve(cvxsae.SparseCodes(X, D, lam, bias="free")).value
    ignored = problems.dual(X, b, R * np.minimum(1, lam / (R @ D.T).max(axis=1))[:, None])
    assert ignored == pytest.approx(codes.value, rel=1e-6)
    assert best < ignored * 0.99


@seeds
@given(seed=SEEDS)
def test_t2_the_residual_is_shrinkage_and_what_the_active_atoms_do_not_span(seed):
    _, X, D, b, lam, _, Z, R = instance(seed)
    for x, z, r in zip(X - b, Z, R, strict=True):
        A = D[z > 0]
        if len(A) == 0 or np.linalg.cond(A @ A.T) > 1e4:
            continue
        shrinkage = lam * A.T @ np.linalg.solve(A @ A.T, np.ones(len(A)))
        rest = x - A.T @ np.linalg.solve(A @ A.T, A @ x)
        assert np.allclose(r, shrinkage + rest, atol=1e-5)
        assert shrinkage @ shrinkage == pytest.approx(lam**2 * np.linalg.inv(A @ A.T).sum())
        if len(A) < 5:
            assert np.allclose(A @ rest, 0, atol=1e-9)


@seeds
@given(seed=SEEDS)
def test_t3_away_from_stationarity_f_falls_at_the_predicted_rate(seed):
    """Turning d_k towards E_k[r] lowers F at (λ S_k/N)‖E_k[r]/λ − d_k‖; shifting b along mean r at ‖mean r‖."""
    _, X, D, b, lam, _, Z, R = instance(seed)
    k = int(np.argmax(Z.sum(axis=0)))
    gap: Any = Z[:, k] @ R / Z[:, k].sum() / lam - D[k]
    assert abs(gap @ D[k]) < 1e-5  # E_k[d_k·r] = λ: the gap is tangent
    length = float(np.linalg.norm(gap))

    def value(atom_angle, shift):
        moved = D.copy()
        moved[k] = np.cos(atom_angle) * D[k] + np.sin(atom_angle) * gap / length
        drift = R.mean(axis=0)
        return encode(X, moved, lam, bias=b + shift * drift / np.linalg.norm(drift), tol=1e-13).value

    h = 1e-5
    slope = lam * Z[:, k].mean() * length
    assert (value(-h, 0) - value(h, 0)) / (2 * h) == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert (value(0, -h) - value(0, h)) / (2 * h) == pytest.approx(np.linalg.norm(R.mean(axis=0)), rel=1e-3)


@pytest.fixture(scope="module")
def stationary():
    """A dictionary learned to stationarity 1e-6, with its exact codes."""
    X = sparse_features(250, 7, 16, seed=4, probability=0.2).X
    fit = cvxsae.learn_dictionary(X, 10, 0.2, bias="free", stationarity=1e-6, seed=0)
    D, b = np.asarray(fit.dictionary), np.asarray(fit.bias)
    Z = encode(X, D, 0.2, bias=b, tol=1e-13).codes.toarray()
    return X, D, b, Z, X - b - Z @ D


@pytest.mark.slow
def test_t3_and_t4_at_a_stationary_dictionary(stationary):
    _, D, _, Z, R = stationary
    live = Z.any(axis=0)
    Z, D = Z[:, live], D[live]
    weights = Z / Z.sum(axis=0)
    assert np.abs(weights.T @ R - 0.2 * D).max() < 1e-6
    assert np.abs(R.mean(axis=0)).max() < 1e-6
    rho = R @ D.T / 0.2
    expected = weights.T @ rho  # [k, j] = E_k[ρ_j]
    assert np.abs(expected - D @ D.T).max() < 1e-5  # (2)
    assert np.abs(expected - expected.T).max() < 1e-5  # consequence (b)
    together = weights.T @ (Z > 0)
    silent = np.einsum("nk,nj->kj", weights, rho * (Z == 0))
    assert np.abs(expected - together - silent).max() < 1e-5
    assert (rho <= 1 + 1e-6).all()
    # Negative control: the same sums at another dictionary of the same data are far off.
    _, _, other, _, _, _, Z0, R0 = instance(0)
    used = Z0.any(axis=0)
    w0 = Z0[:, used] / Z0[:, used].sum(axis=0)
    assert np.abs(w0.T @ (R0 @ other[used].T / 0.25) - other[used] @ other[used].T).max() > 0.1


def test_t4_a_parent_that_always_fires_with_its_child_is_not_stationary(rng):
    """Consequence (a): P_k(j) = 1 asks for cosine 1. Consequence (d): antipodes satisfy (2) at any dictionary."""
    D = problems.unit(np.array([[1.0, 0, 0], [0.3, 1, 0], [-1, 0, 0]]))
    Z = np.column_stack([rng.uniform(1, 2, 40), rng.uniform(1, 2, 40) * (rng.random(40) < 0.5), np.zeros(40)])
    X = np.vstack([Z @ D, -rng.uniform(1, 2, (20, 1)) * D[:1]])
    report = check_optimality(X, D, 0.1)
    pair = report.pairs[(report.pairs["feature"] == 1) & (report.pairs["other"] == 0)].iloc[0]
    assert pair["cofiring"] == pytest.approx(1)
    assert pair["deficit"] == pytest.approx(D[0] @ D[1] - 1)
    assert not report.is_stationary
    opposite = report.pairs[(report.pairs["feature"] == 0) & (report.pairs["other"] == 2)]
    assert (opposite["cofiring"] == 0).all()
    assert opposite["deficit"].abs().max() < 1e-6


@seeds
@given(seed=SEEDS)
def test_t7_two_active_atoms_leave_a_residual_longer_than_lambda(seed):
    _, _, D, _, lam, _, Z, R = instance(seed)
    active, lengths = (Z > 0).sum(axis=1), np.linalg.norm(R, axis=1)
    assert (lengths[active >= 2] > lam).all()
    assert (lengths[active == 1] >= lam * (1 - 1e-9)).all()
    for z, length in zip(Z, lengths, strict=True):  # §6: co-firing atoms bound the residual
        for j in np.flatnonzero(z):
            for k in np.flatnonzero(z[:j]):
                assert length >= 2 * lam / np.linalg.norm(D[j] + D[k]) * (1 - 1e-6)


def test_t7_short_residuals_mean_the_wide_limit_is_attained(rng):
    """``max ‖r_n‖ ≤ λ`` iff F is the wide limit at this bias: nothing any width could gain."""
    orthogonal = np.eye(4)[rng.integers(4, size=50)] * rng.uniform(0, 2, (50, 1))
    report = check_optimality(orthogonal, np.eye(4), 0.3)
    assert report.is_optimal_at_every_width
    assert report.value == pytest.approx(report.wide_value, rel=1e-9)
    mixed = check_optimality(orthogonal + 0.5 * np.eye(4)[rng.integers(4, size=50)], np.eye(4), 0.3)
    assert not mixed.is_optimal_at_every_width
    assert mixed.value > mixed.wide_value * 1.001


@pytest.mark.slow
@seeds
@given(seed=SEEDS)
def test_t8_duplicates_and_dead_atoms_are_never_optimal(seed):
    """A duplicate can separate, a dead atom can be moved next to a live one: F falls at first order, ε s_k."""
    _, X, D, b, lam, codes, _, _ = instance(seed)
    report = check_optimality(X, D, lam, bias=b)
    k = int(report.predicted_splits(1).index[0])
    score, v = report.features["split_score"][k], report.split_directions[k]
    pair = problems.unit(np.array([D[k] + 1e-4 * v, D[k] - 1e-4 * v]))
    others = np.delete(D, k, axis=0)
    duplicated = encode(X, np.vstack([D, D[k]]), lam, bias=b, tol=1e-13).value
    assert duplicated == pytest.approx(codes.value, rel=1e-9)  # a duplicate alone is worth nothing
    apart = encode(X, np.vstack([others, pair]), lam, bias=b, tol=1e-13).value
    assert (duplicated - apart) / 1e-4 == pytest.approx(score, rel=2e-2)


@seeds
@given(seed=SEEDS)
def test_t9_the_radial_bound(seed):
    _, X, _, b, lam, codes, _, _ = instance(seed)
    bound = problems.huber(np.linalg.norm(X - b, axis=1), lam)
    assert (codes.values >= bound - 1e-9).all()
    own = encode(X, problems.unit(X - b), lam, bias=b, tol=1e-13)
    assert own.values == pytest.approx(bound, rel=1e-9)
    turned = problems.unit(problems.unit(X - b) + 0.05)  # no longer parallel: strictly above
    assert encode(X, turned, lam, bias=b, tol=1e-13).value > bound.mean() * (1 + 1e-6)


@pytest.mark.slow
@seeds
@given(seed=SEEDS, width=st.integers(1, 4))
def test_t10_the_spectral_floor_is_for_its_width(seed, width):
    rng, X, _, b, lam, _, _, _ = instance(seed)
    floor = spectral_floor(X, width, lam, bias=b).value
    axes = np.linalg.svd(X - b)[2]
    for D in (axes[:width], problems.unit(rng.normal(size=(width, 5))), problems.unit((X - b)[:width])):
        assert encode(X, D, lam, bias=b).value >= floor
    # Negative control: more atoms than it is for go below it.
    assert encode(X, problems.unit(X - b), lam, bias=b).value < floor


@seeds
@given(seed=SEEDS, tau=st.floats(0.2, 8))
def test_t13_the_polar_of_a_vector_is_equation_nine(seed, tau):
    """The minimum over a is attained at a root, by z ∝ (v − a)_+; no other z ≥ 0 does better."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=12)
    penalty = AtomPenalty(tau)
    polar = float(penalty.polar(torch.from_numpy(v[:, None])))
    levels = np.linspace(0, max(v.max(), 0), 20_001)
    excess = np.clip(v - levels[:, None], 0, None)
    assert polar**2 == pytest.approx((levels**2 + (excess**2).sum(axis=1) / tau).min(), rel=1e-6)
    root = levels[np.argmin(np.abs(tau * levels - excess.sum(axis=1)))]
    best = np.clip(v - root, 0, None)
    assert v @ best / problems.penalties(best[:, None], tau)[0] == pytest.approx(polar, rel=1e-3)
    others = np.abs(rng.normal(size=(500, 12))) * (rng.random((500, 12)) < 0.5)
    others = others[others.any(axis=1)]
    assert (others @ v / problems.penalties(others.T, tau) <= polar * (1 + 1e-9)).all()


def test_t13_the_polar_of_a_matrix_is_a_search_on_the_sphere(rng):
    """In the plane a fine grid of directions finds it, and the iteration u ← normalize(Yᵀ(Yu − a)_+) never falls."""
    Y, penalty = rng.normal(size=(15, 2)), AtomPenalty(2.0)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    grid = penalty.polar(torch.from_numpy(Y @ np.array([np.cos(angles), np.sin(angles)]))).numpy()
    exact = sphere_polar(penalty.polar, torch.from_numpy(Y), (0.0, torch.tensor([1.0, 0.0], dtype=torch.float64)))
    assert exact.lower <= grid.max() * (1 + 1e-6)
    assert grid.max() <= exact.upper
    assert exact.upper <= exact.lower * (1 + 1e-5)

    u, values = problems.unit(rng.normal(size=(1, 2)))[0], []
    for _ in range(50):
        v = Y @ u
        values.append(float(penalty.polar(torch.from_numpy(v[:, None]))))
        level = scipy.optimize.brentq(lambda a, v=v: 2.0 * a - np.clip(v - a, 0, None).sum(), 0, np.abs(v).max() + 1)
        u = problems.unit((Y.T @ np.clip(v - level, 0, None))[None])[0]
    assert (np.diff(values) >= -1e-12).all()
    assert values[-1] <= exact.upper


@pytest.mark.slow
@seeds
@given(seed=SEEDS, power=st.sampled_from([2, 3]))
def test_t14_and_t15_what_a_datapoint_costs_at_its_share(seed, power):
    """``Σ w q ≤ Λ_K``, and φ(x_n) is at least the least cost of the cell its share lies in (T14; T15 for t²)."""
    rng, X, D, b, lam, codes, _, _ = instance(seed, d=3, K=4)
    chosen, points = kernels.kernel(power), X - b
    lengths = np.linalg.norm(points, axis=1)
    v = points / lengths[:, None]
    gram, cross = (D @ D.T) ** power, (v @ D.T) ** power
    share = np.einsum("nk,kn->n", cross, np.linalg.lstsq(gram, cross.T, rcond=1e-12)[0])
    w = rng.uniform(0, 1, len(X))
    limit = kernels.share_limit(torch.from_numpy(v), torch.from_numpy(w), chosen, len(D))
    assert w @ share <= limit * (1 + 1e-9)
    assert (cross.max(axis=1) ** 2 <= share * (1 + 1e-6) + 1e-9).all()  # Lemma 2: the nearest atom
    costs = kernels.least_costs(torch.from_numpy(lengths), lam, chosen).numpy()
    cells = np.searchsorted(kernels.shares(chosen).numpy(), np.clip(share - 1e-9, 0, 1), side="right") - 1
    assert (codes.values >= costs[np.arange(len(X)), cells] * (1 - 1e-9)).all()
    # Negative control: at the cost of a smaller share the claim would be wrong for some datapoint.
    assert (codes.values < costs[:, 0]).any()


def test_t15_the_form_that_vanishes_on_every_atom(rng):
    """``E = (I − Π)vvᵀ``: ``d_kᵀEd_k = 0`` and ``vᵀEv = ‖E‖_F² = 1 − q``; atoms obey (6d)."""
    D, v = problems.unit(rng.normal(size=(5, 4))), problems.unit(rng.normal(size=(1, 4)))[0]
    lifted = np.stack([np.outer(d, d).ravel() for d in D])
    target = np.outer(v, v).ravel()
    E = (target - lifted.T @ np.linalg.lstsq(lifted.T, target, rcond=None)[0]).reshape(4, 4)
    q = 1 - v @ E @ v
    assert np.abs(np.einsum("kd,de,ke->k", D, E, D)).max() < 1e-9
    assert (E**2).sum() == pytest.approx(1 - q)
    across = E @ v - v * (v @ E @ v)
    gamma = np.linalg.norm(across)
    rho = np.sqrt(max(q * (1 - q) - 2 * gamma**2, 0))
    for d in D:
        c, p = d @ v, d @ across / gamma
        assert (1 - q) * c**2 + 2 * gamma * c * p <= rho * (1 - c**2) + 1e-9
        assert c**4 <= q + 1e-9
    u = problems.unit(rng.normal(size=(200, 4)))  # negative control: vectors that are no atoms need not
    c, p = u @ v, u @ across / gamma
    assert ((1 - q) * c**2 + 2 * gamma * c * p > rho * (1 - c**2) + 1e-9).any()


@seeds
@given(seed=SEEDS)
def test_exact_codes_shrink_by_a_known_ratio(seed):
    """§6: ``E‖x̂‖²/E[x·x̂] = 1/(1 + λ E[Σz]/E‖x̂‖²) < 1`` with b = 0; scaled codes violate it."""
    _, X, D, _, lam, _, _, _ = instance(seed)
    found = feature_statistics(X, D, lam)
    Z = found.codes.codes.toarray()
    for factor, exact in ((1.0, True), (1.1, False)):
        fitted = factor * Z @ D
        ratio = (fitted**2).sum() / (X * fitted).sum()
        due = 1 / (1 + lam * factor * Z.sum() / (fitted**2).sum())
        assert (abs(ratio - due) < 1e-6) == exact


# ------------------------------------------------------------------------------------------- the document


def sections():
    """Each theorem's paragraph in docs/theory.md."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    found = re.split(r"^\*\*(T\d+)\.\*\*", text, flags=re.MULTILINE)
    return {
        name: body.split("\n\n**")[0].split("\n## ")[0] for name, body in zip(found[1::2], found[2::2], strict=True)
    }


@functools.cache
def modules():
    """Every module of the package that imports here (some engines need a GPU or a C compiler)."""
    names = [m.name for m in pkgutil.walk_packages(cvxsae.__path__, "cvxsae.") if "triton" not in m.name]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def resolvable(name):
    """Whether some module of the package has this function, class or attribute."""
    head, *rest = name.split(".")
    for module in modules():
        found = getattr(module, head, None)
        for part in rest:
            found = None if found is None else getattr(found, part, getattr(found, "__annotations__", {}).get(part))
        if found is not None:
            return True
    return False


@pytest.mark.parametrize("theorem", [f"T{i}" for i in range(1, 19)])
def test_every_theorem_names_its_function_and_its_test(theorem):
    body = sections()[theorem]
    where = re.search(r"Where: (.*?)\.\s+Tested: (.*?)\.(\s|$)", body, flags=re.DOTALL)
    assert where, f"{theorem} has no 'Where: ... Tested: ...' line"
    functions, tests = re.findall(r"`([^`]+)`", where[1]), re.findall(r"`([^`]+)`", where[2])
    assert functions
    assert tests
    for function in functions:
        assert resolvable(function), f"{theorem}: no {function} in cvxsae"
    for test in tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"), f"{theorem}: no {test}"


def test_names_that_do_not_exist_would_be_found():
    assert resolvable("check_optimality")
    assert not resolvable("check_optimallity")
    assert not resolvable("WideLimit.scam")
