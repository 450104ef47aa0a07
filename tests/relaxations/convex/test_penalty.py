"""θ_τ: value, prox and polar against brute force, axioms and duality."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cvxsae import InputError
from cvxsae.relaxations import AtomPenalty
from cvxsae.results import NonnegativeProof
from tests.helpers.problems import minimize, penalties

TAUS = (0.0, 1e-3, 0.5, 5.0, 1e3)
entries = st.floats(-4, 4, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=entries)
taus = st.sampled_from(TAUS)
steps = st.floats(0.01, 3)
quick = settings(deadline=None, max_examples=60)


def prox_objective(Z, V, step, tau):
    return 0.5 * np.sum((Z - V) ** 2) + step * penalties(Z, tau).sum()


def prox(V, step, tau):
    return AtomPenalty(tau).prox(torch.from_numpy(V), step).numpy()


def brute_prox(v, step, tau):
    """The best of many bounded quasi-Newton runs on one column."""
    n = len(v)

    def value(z):
        return prox_objective(z[:, None], v[:, None], step, tau)

    def gradient(z):
        theta = max(np.sqrt(z.sum() ** 2 + tau * (z**2).sum()), 1e-300)
        return z - v + step * (z.sum() + tau * z) / theta

    starts = [np.clip(v, 0.01, None), np.full(n, 0.5), np.clip(v - step, 1e-3, None)]
    options = {"ftol": 1e-16, "gtol": 1e-12}
    runs = [
        minimize(value, z, jac=gradient, bounds=[(0, None)] * n, method="L-BFGS-B", options=options).x for z in starts
    ]
    return min([*runs, np.zeros(n)], key=value)


def brute_polar(v, tau):
    """``max v·z/θ_τ(z)``: the maximizer has equal slack on its support, so all supports of a small vector will do."""
    best = 0.0
    for size in range(1, len(v) + 1):
        for support in itertools.combinations(range(len(v)), size):
            part = v[list(support)]
            # Unconstrained maximum on the support: (11ᵀ + τI)⁻¹ v; kept if it is in the orthant.
            z = np.linalg.solve(np.ones((size, size)) + tau * np.eye(size), part) if tau or size == 1 else None
            if z is not None and (z >= 0).all() and z.any():
                best = max(best, part @ z / penalties(z[:, None], tau)[0])
    return best


# ---------------------------------------------------------------- value


@quick
@given(matrices, taus)
def test_value_is_the_formula(Z, tau):
    np.testing.assert_allclose(
        AtomPenalty(tau).value(torch.from_numpy(np.abs(Z))), penalties(np.abs(Z), tau), atol=1e-13
    )


def test_equal_use_by_s_points_pays_the_root_of_one_plus_tau_over_s():
    for s in (1, 2, 7):
        z = torch.zeros(10, 1, dtype=torch.float64)
        z[:s] = 0.3
        assert float(AtomPenalty(4.0).value(z)) == pytest.approx(0.3 * s * np.sqrt(1 + 4 / s), rel=1e-15)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_atom_cost_is_named(bad):
    with pytest.raises(InputError, match="atom_cost is"):
        AtomPenalty(bad)


# ---------------------------------------------------------------- prox


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float64, st.integers(1, 5), elements=entries), taus, steps)
def test_prox_is_the_argmin(v, tau, step):
    z = prox(v[:, None], step, tau)
    assert (z >= 0).all()
    ours = prox_objective(z, v[:, None], step, tau)
    theirs = prox_objective(brute_prox(v, step, tau)[:, None], v[:, None], step, tau)
    assert ours <= theirs + 1e-12 * (1 + abs(theirs))
    # By strong convexity, closeness of the points follows from closeness of the values.
    assert theirs <= ours + 1e-6 * (1 + ours)


@quick
@given(matrices, taus, steps, st.integers(0, 2**32 - 1))
def test_no_perturbation_improves_the_prox(V, tau, step, seed):
    z, rng = prox(V, step, tau), np.random.default_rng(seed)
    value = prox_objective(z, V, step, tau)
    for size in (1e-4, 1e-2, 1.0):
        other = np.clip(z + size * rng.normal(size=z.shape), 0, None)
        # The objective is 1-strongly convex.
        assert prox_objective(other, V, step, tau) >= value + 0.5 * np.sum((other - z) ** 2) - 1e-11 * (1 + value)


@quick
@given(matrices, taus, steps, st.integers(0, 2**32 - 1))
def test_prox_is_firmly_nonexpansive(V, tau, step, seed):
    W = V + np.random.default_rng(seed).normal(size=V.shape)
    p, q = prox(V, step, tau), prox(W, step, tau)
    assert np.sum((p - q) ** 2) <= np.sum((p - q) * (V - W)) + 1e-11


@quick
@given(matrices, taus, steps, st.sampled_from([1e-6, 0.1, 7.0, 1e6]))
def test_prox_scales(V, tau, step, factor):
    np.testing.assert_allclose(
        prox(factor * V, factor * step, tau), factor * prox(V, step, tau), rtol=1e-9, atol=1e-11 * factor
    )


@quick
@given(matrices, taus)
def test_zero_step_projects_on_the_orthant(V, tau):
    np.testing.assert_array_equal(prox(V, 0.0, tau), np.clip(V, 0, None))


@quick
@given(matrices, steps)
def test_no_surcharge_is_the_soft_threshold(V, step):
    np.testing.assert_array_equal(prox(V, step, 0.0), np.clip(V - step, 0, None))


@quick
@given(matrices, taus, steps)
def test_moreau_the_remainder_has_polar_at_most_the_step(V, tau, step):
    # v − prox(v) lies in step·{polar ≤ 1}, and pairs with prox(v) to the full price.
    z = prox(V, step, tau)
    rest = torch.from_numpy(V - z)
    assert float(AtomPenalty(tau).polar(rest).max()) <= step * (1 + 1e-9) + 1e-12
    np.testing.assert_allclose(np.sum((V - z) * z, axis=0), step * penalties(z, tau), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("case", ["huge", "tiny", "ties", "duplicates", "negative", "zeros", "one"])
def test_prox_of_awkward_columns(tau, case, rng):
    V = {
        "huge": 1e12 * rng.normal(size=(5, 2)),
        "tiny": 1e-12 * rng.normal(size=(5, 2)),
        "ties": np.full((5, 2), 0.7),
        "duplicates": np.repeat(rng.normal(size=(3, 2)), 2, axis=0),
        "negative": -rng.random((5, 2)),
        "zeros": np.zeros((5, 2)),
        "one": np.array([[0.9, 0.1]]),
    }[case]
    z = prox(V, 0.4, tau)
    value = prox_objective(z, V, 0.4, tau)
    assert np.isfinite(z).all() and (z >= 0).all()
    for other in (np.zeros_like(V), np.clip(V, 0, None), np.clip(V - 0.4, 0, None), 1.01 * z, 0.99 * z):
        assert value <= prox_objective(other, V, 0.4, tau) * (1 + 1e-12)
    if case in ("negative", "zeros"):
        assert not z.any()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squares_stay_in_the_range_of_the_dtype(size, dtype, rng):
    penalty, V = AtomPenalty(2.0), torch.from_numpy(rng.normal(size=(6, 4))).to(dtype)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(penalty.prox(size * V, 0.4 * size) / size, penalty.prox(V, 0.4), atol=20 * eps)
    assert torch.allclose(penalty.polar(size * V) / size, penalty.polar(V), rtol=20 * eps)


@pytest.mark.parametrize("tau", TAUS)
def test_float32_prox_and_polar_are_those_of_float64(tau, rng):
    V = torch.from_numpy(rng.normal(size=(40, 6)))
    penalty = AtomPenalty(tau)
    assert penalty.prox(V.float(), 0.3).dtype == torch.float32
    assert torch.allclose(penalty.prox(V.float(), 0.3).double(), penalty.prox(V, 0.3), atol=2e-6)
    assert torch.allclose(penalty.polar(V.float()).double(), penalty.polar(V), rtol=2e-6)


def test_prox_leaves_its_argument_alone(rng):
    V = torch.from_numpy(rng.normal(size=(5, 3)))
    for tau in TAUS:
        before = V.clone()
        AtomPenalty(tau).prox(V, 0.3)
        AtomPenalty(tau).polar(V)
        AtomPenalty(tau).polar_maximizer(V)
        assert torch.equal(V, before)


def test_negative_step_is_refused():
    with pytest.raises(InputError, match="step is -1"):
        AtomPenalty(1.0).prox(torch.zeros(2, 2), -1.0)


def test_columns_do_not_know_each_other(rng):
    V = rng.normal(size=(7, 5)) * 10.0 ** np.arange(-3, 2)
    together = prox(V, 0.2, 3.0)
    np.testing.assert_allclose(together, np.hstack([prox(V[:, [k]], 0.2, 3.0) for k in range(5)]), atol=1e-12)


# ---------------------------------------------------------------- polar of a vector


@quick
@given(hnp.arrays(np.float64, st.integers(1, 6), elements=entries), taus)
def test_polar_is_brute_force(v, tau):
    assert float(AtomPenalty(tau).polar(torch.from_numpy(v[:, None]))) == pytest.approx(
        brute_polar(v, tau), rel=1e-10, abs=1e-12
    )


@quick
@given(matrices, taus, st.integers(0, 2**32 - 1))
def test_polar_inequality_with_equality_at_the_maximizer(V, tau, seed):
    penalty, v = AtomPenalty(tau), torch.from_numpy(V)
    polar = penalty.polar(v).numpy()
    Z = np.abs(np.random.default_rng(seed).normal(size=V.shape))
    assert (np.sum(V * Z, axis=0) <= polar * penalties(Z, tau) * (1 + 1e-12) + 1e-14).all()
    best = penalty.polar_maximizer(v).numpy()
    assert (best >= 0).all()
    np.testing.assert_allclose(np.sum(V * best, axis=0), polar * penalties(best, tau), rtol=1e-9, atol=1e-12)
    assert ((V.max(axis=0) > 0) == best.any(axis=0)).all()


@quick
@given(hnp.arrays(np.float64, st.integers(1, 6), elements=entries), st.sampled_from(TAUS[1:]))
def test_equation_nine_by_minimization(v, tau):
    def squared(a):
        return a**2 + np.sum(np.clip(v - a, 0, None) ** 2) / tau

    best = scipy.optimize.minimize_scalar(squared, bounds=(0, 5), method="bounded", options={"xatol": 1e-12}).fun
    ours = float(AtomPenalty(tau).polar(torch.from_numpy(v[:, None]))) ** 2
    assert ours <= best * (1 + 1e-12) + 1e-12  # it is the minimum
    assert ours >= best * (1 - 1e-6) - 1e-9


@pytest.mark.parametrize("tau", [1e-300, 1e-30, 1e-17, 1e-12])
def test_a_surcharge_below_rounding_has_the_polar_of_none(tau):
    v = torch.tensor([[1.0], [2.0], [2.0]], dtype=torch.float64)
    assert float(AtomPenalty(tau).polar(v)) == pytest.approx(2, rel=1e-11)
    assert float(AtomPenalty(tau).polar(v)) <= 2
    maximizer = AtomPenalty(tau).polar_maximizer(v)
    assert float(maximizer.sum()) > 0
    assert float(maximizer[0, 0]) == 0


# ---------------------------------------------------------------- polar of a matrix


def sphere(d, count):
    """Directions that cover the sphere in one to three dimensions."""
    if d == 1:
        return np.array([[1.0], [-1.0]])
    if d == 2:
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return np.column_stack([np.cos(angle), np.sin(angle)])
    index = np.arange(count) + 0.5
    height, angle = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    return np.column_stack([ring * np.cos(angle), ring * np.sin(angle), height])


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.3, 2.0, 50.0])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (4, 1), (3, 2), (7, 2), (5, 3)])
def test_matrix_polar_contains_brute_force(tau, n, d, rng):
    Y = rng.normal(size=(n, d))
    directions = sphere(d, 4000)
    brute = max(float(x) for x in AtomPenalty(tau).polar(torch.from_numpy(Y @ directions.T)))
    bounds = AtomPenalty(tau).matrix_polar(torch.from_numpy(Y), iterations=200)
    assert brute <= bounds.upper * (1 + 1e-12)
    assert brute == pytest.approx(bounds.lower, rel=5e-3)  # the grid is coarse, the search was global here
    assert brute <= bounds.lower * (1 + 1e-9)
    assert float(torch.linalg.vector_norm(bounds.direction)) == pytest.approx(1)
    attained = AtomPenalty(tau).polar(torch.from_numpy(Y) @ bounds.direction[:, None])
    assert float(attained) == pytest.approx(bounds.lower, rel=1e-12)
    if tau == 0:
        longest = np.linalg.norm(Y, axis=1).max()
        assert bounds.lower == bounds.upper == pytest.approx(longest, rel=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1e-12, 1e-6, 1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("d", [1, 3, 5, 20])
def test_the_proof_of_the_upper_end_is_a_proof(tau, d, rng):
    Y = rng.normal(size=(12, d)) + 0.5
    for iterations in (0, 100):
        bounds = AtomPenalty(tau).matrix_polar(torch.from_numpy(Y), iterations=iterations)
        P = np.zeros((12, 12)) if bounds.proof is None else bounds.proof.arrays()["P"]
        assert (P >= 0).all()
        ceiling = np.linalg.norm(Y, axis=1).max()
        assert bounds.upper <= ceiling * (1 + 1e-12)
        if d > 3 and bounds.upper < ceiling * (1 - 1e-12):  # otherwise a search or θ° ≤ max ‖y_n‖ is the proof
            proof = bounds.upper**2 * (1 + tau * np.eye(12)) - Y @ Y.T - P
            assert np.linalg.eigvalsh(proof)[0] >= -1e-13 * np.abs(proof).sum()
        Z = np.abs(rng.normal(size=(12, 200)))
        assert (np.linalg.norm(Y.T @ Z, axis=0) <= bounds.upper * penalties(Z, tau) * (1 + 1e-12)).all()


@pytest.mark.slow
def test_improving_the_proof_improves_the_bound(rng):
    Y = torch.from_numpy(rng.normal(size=(20, 4)))
    penalty = AtomPenalty(3.0)
    once, improved = penalty.matrix_polar(Y), penalty.matrix_polar(Y, iterations=300)
    assert improved.lower <= improved.upper < once.upper
    # The improved proof can be handed back in, and a false one does no harm.
    again = penalty.matrix_polar(Y, proof=improved.proof)
    assert again.upper <= improved.upper * (1 + 1e-12)
    false = penalty.matrix_polar(Y, proof=NonnegativeProof(-1e6 * np.ones((20, 20))))
    assert again.lower <= false.upper


def test_matrix_polar_of_nothing():
    for tau in (0.0, 2.0):
        bounds = AtomPenalty(tau).matrix_polar(torch.zeros(3, 2, dtype=torch.float64), iterations=5)
        assert bounds.lower == bounds.upper == 0


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
def test_polar_lies_between_its_limits(tau, rng):
    Y = torch.from_numpy(rng.normal(size=(15, 3)))
    bounds, longest = AtomPenalty(tau).matrix_polar(Y), float(torch.linalg.vector_norm(Y, dim=1).max())
    assert longest / (1 + tau) ** 0.5 <= bounds.lower * (1 + 1e-12)
    assert bounds.upper <= longest * (1 + 1e-12)
