"""Dictionary learning: known answers, certificates, monotone history, moves, growth, interruption."""

from functools import partial

import numpy as np
import pytest
import torch

import cvxsae
from cvxsae import InputError, JointProblem, Status, WideLimit, certify, encode, grow, learn_dictionary, solve
from cvxsae.data.synthetic import dense_signed_feature
from cvxsae.solvers.dictionary import learn
from cvxsae.solvers.dictionary.spheres import unit
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps


def planted(*, seed: int = 0, n: int = 600, d: int = 10, k: int = 12, active: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = unit(rng.standard_normal((k, d)))
    return (rng.uniform(0.5, 1.5, (n, k)) * (rng.random((n, k)) < active)) @ truth + 0.02 * rng.standard_normal((n, d))


def starts(k: int, d: int, count: int = 4) -> list[np.ndarray]:
    return [np.random.default_rng(seed).standard_normal((k, d)) for seed in range(count)]


# ---------------------------------------------------------------- known answers (theory.md §8)


@pytest.mark.slow
@pytest.mark.parametrize("start", starts(2, 2))
def test_c1_nested_pair_is_absorbed(start):
    X = np.repeat([[1.0, 0.0], [1.0, 1.0]], 10, axis=0)
    fit = learn_dictionary(X, 2, 0.1, bias=None, init=start, stationarity=1e-8)
    assert fit.value == pytest.approx(0.11571068, abs=1e-8)
    w = np.sqrt(0.5)
    found = fit.dictionary[np.argsort(fit.dictionary[:, 1])]
    np.testing.assert_allclose(found, [[1, 0], [w, w]], atol=1e-4)
    assert fit.status is Status.CERTIFIED  # the floor of every width is reached: a global optimum


@pytest.mark.slow
@pytest.mark.parametrize("start", starts(2, 5))
def test_c1_at_another_angle_and_dimension(start):
    v1, v2 = np.eye(5)[0], np.array([0.5, np.sqrt(0.75), 0, 0, 0])
    X = np.concatenate([np.tile(v1, (7, 1)), np.tile(v1 + v2, (3, 1))])
    lam, rho = 0.2, np.linalg.norm(v1 + v2)
    fit = learn_dictionary(X, 2, lam, bias=None, init=start, stationarity=1e-8)
    assert fit.value == pytest.approx(0.7 * (lam - lam**2 / 2) + 0.3 * (rho * lam - lam**2 / 2), abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("start", starts(2, 2))
def test_c2_features_that_also_fire_alone_are_found(start):
    truth = np.array([[1.0, 0.0], [0.3, np.sqrt(0.91)]])
    X = np.repeat(np.concatenate([truth, truth.sum(axis=0, keepdims=True)]), 4, axis=0)
    fit = learn_dictionary(X, 2, 1e-5, bias=None, init=start, stationarity=1e-6)
    found = fit.dictionary[np.argsort(fit.dictionary[:, 1])]
    np.testing.assert_allclose(found, truth, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("start", starts(2, 2, 3))
def test_c3_all_on(start):
    """As λ → 0 the cost over λ tends to √5 and the atoms to the edges of the data's cone."""
    a, b = np.meshgrid(np.linspace(1, 2, 21), np.linspace(1, 2, 21))
    X = np.stack([a.ravel(), b.ravel()], axis=1)
    fit = learn_dictionary(X, 2, 1e-4, bias=None, init=start, stationarity=1e-5)
    found = fit.dictionary[np.argsort(fit.dictionary[:, 1])]
    np.testing.assert_allclose(found, np.array([[2, 1], [1, 2]]) / np.sqrt(5), atol=0.02)
    axes = encode(X, np.eye(2), 1e-4).value
    assert fit.value / 1e-4 == pytest.approx(np.sqrt(5), rel=5e-3)
    assert axes / 1e-4 == pytest.approx(3, rel=1e-3)


@pytest.mark.slow
def test_c4_absorbed_direction_beats_orthogonal_features():
    """p01 = 0: the second atom leans on the first as far as it can; cost p10 + p11 √2 as λ → 0."""
    X = np.concatenate([np.tile([1.0, 0.0], (6, 1)), np.tile([1.0, 1.0], (4, 1))])
    fit = learn_dictionary(X, 2, 1e-6, bias=None, init=np.eye(2) + 0.1, stationarity=1e-6)
    assert fit.value / 1e-6 == pytest.approx(0.6 + 0.4 * np.sqrt(2), rel=1e-5)
    costs = [encode(X, np.array([[1.0, 0.0], [delta, 1.0]]), 1e-6).value for delta in (0, 0.25, 0.5, 0.75, 1)]
    assert (np.diff(costs) < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("start", starts(2, 2, 3))
def test_c8_antipodal_pair(start):
    u = np.array([0.6, 0.8])
    X = np.array([-1.0, 0.0, 1.0])[:, None] * u
    pair = learn_dictionary(X, 2, 0.1, bias=None, init=start, stationarity=1e-8)
    assert 3 * pair.value == pytest.approx(0.19, abs=1e-8)
    single = learn_dictionary(X, 1, 0.1, init=start[:1], stationarity=1e-8)
    assert 3 * single.value == pytest.approx(0.27, abs=1e-8)
    np.testing.assert_allclose(np.abs(single.bias), 0.8 * u, atol=1e-6)


@pytest.mark.parametrize("bias", [None, "free"])
def test_c9_one_atom_per_direction_attains_the_wide_limit(bias):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((25, 4))
    if bias is None:
        X = np.concatenate([X, 2 * X[:10]])
    fit = learn_dictionary(X, 25, 0.3, bias=bias)
    assert fit.value == pytest.approx(solve(WideLimit(X, 0.3, bias=bias)).value, rel=1e-8)
    assert fit.status is Status.CERTIFIED


def test_above_lambda_max_all_atoms_are_dead():
    X = planted(n=50)
    lam = 1.01 * JointProblem(X, 3, 1.0, bias=None).lambda_max()
    fit = learn_dictionary(X, 3, lam, bias=None)
    assert fit.dead_atoms == 3
    assert fit.codes.nnz == 0
    assert fit.value == pytest.approx((X**2).sum() / 2 / len(X), rel=1e-12)


# ---------------------------------------------------------------- certificates


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free", "fixed"])
def test_stationary_certified_monotone(bias):
    X = planted() + 0.3
    given = X.mean(axis=0) if bias == "fixed" else bias
    fit = learn_dictionary(X, 14, 0.1, bias=given, stationarity=1e-6, seed=1)
    assert fit.status is Status.STATIONARY
    assert fit.worst_stationarity <= 1e-6
    D, Z, b = fit.dictionary, fit.codes.toarray(), fit.bias
    R = X - b - Z @ D
    written = (0.5 * (R**2).sum() + 0.1 * Z.sum()) / len(X)
    assert fit.value == pytest.approx(written, rel=1e-12)
    # T3, with nothing but the arrays
    live = Z.sum(axis=0) > 0
    means = (Z.T @ R)[live] / Z.sum(axis=0)[live, None]
    assert np.linalg.norm(means / 0.1 - D[live], axis=1).max() <= 1.1e-6
    if bias == "free":
        assert np.linalg.norm(R.mean(axis=0)) / 0.1 <= 1.1e-6
    # T4, for all pairs
    np.testing.assert_allclose(D[live] @ means.T / 0.1, D[live] @ D[live].T, atol=1e-5)
    values = [record.value for record in fit.history]
    assert (np.diff(values) <= 1e-12 * values[0]).all()
    assert fit.encoding.gaps.max() <= 1e-9
    assert fit.lower_bound <= fit.value
    referee = certify(JointProblem(X, 14, 0.1, bias=given), fit.candidate(), tol=1.0)
    assert referee.is_certified
    assert referee.value == pytest.approx(fit.value, rel=1e-12)


@pytest.mark.slow
def test_no_dead_atoms_while_a_residual_is_longer_than_lam():
    X = planted(seed=3)
    start = np.concatenate([np.tile(unit(X[:1]), (6, 1)), -unit(X[:1] + 1e-3 * np.arange(10)), unit(X[1:6])])
    for moves in (True, False):
        fit = learn_dictionary(X, 12, 0.1, bias=None, init=start, stationarity=1e-4, moves=moves)
        residuals = X - fit.codes @ fit.dictionary
        assert np.linalg.norm(residuals, axis=1).max() > 0.1
        assert fit.dead_atoms == 0


@pytest.mark.slow
def test_moves_lower_the_objective_that_descent_reaches():
    X = planted(seed=4)
    start = np.concatenate([np.tile(unit(X[:1]), (6, 1)) + 1e-3 * np.eye(6, 10), unit(X[1:7])])
    stuck = learn_dictionary(X, 12, 0.1, bias=None, init=start, stationarity=1e-5, moves=False)
    moved = learn_dictionary(X, 12, 0.1, bias=None, init=start, stationarity=1e-5)
    assert moved.value <= stuck.value * (1 + 1e-9)


@pytest.mark.slow
def test_same_seed_same_answer_and_inputs_untouched():
    X = planted()
    before = X.copy()
    first, second = (learn_dictionary(X, 8, 0.1, seed=5, stationarity=1e-4) for _ in range(2))
    np.testing.assert_array_equal(first.dictionary, second.dictionary)
    np.testing.assert_array_equal(X, before)


@pytest.mark.slow
def test_minibatches_then_polish_agree_with_full_batch():
    """Not from every seed to the same local optimum, but to the same best one; and F never rises in a history."""
    X = planted(n=2500, seed=6)
    best = {}
    for epochs in (None, 3, 0):
        fits = [
            learn_dictionary(X, 12, 0.1, bias=None, stationarity=1e-5, epochs=epochs, seed=seed) for seed in range(3)
        ]
        for fit in fits:
            assert fit.status is Status.STATIONARY
            if epochs is not None:  # by default 55, less what was undone
                assert fit.info.get("epochs", 0) == epochs
            values = [record.value for record in fit.history]
            assert (np.diff(values) <= 1e-12 * values[0]).all()
        best[epochs] = min(fit.value for fit in fits)
    assert best[None] == pytest.approx(best[0], rel=1e-6)
    assert best[3] == pytest.approx(best[0], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, 10, 20, 40])
def test_ended_among_stochastic_steps_it_is_no_worse_than_where_they_began(steps):
    """Four minibatches: 16 steps and an exact pass of two, 44 and two."""
    X = planted(n=2048, seed=6)
    start = unit(np.random.default_rng(0).standard_normal((12, 10)))
    fit = learn_dictionary(X, 12, 0.1, bias=None, max_steps=steps, init=start, epochs=17)
    assert fit.status is Status.MAX_ITER
    assert fit.value <= encode(X, start, 0.1).value
    assert fit.value <= fit.history[-1].value * (1 + 1e-9)


@pytest.mark.slow
def test_stochastic_steps_that_lead_up_are_undone(monkeypatch):
    X = planted(n=2048, seed=6)
    monkeypatch.setattr(learn, "StochasticSteps", partial(StochasticSteps, first_round=2, growth=2))
    plain = learn_dictionary(X, 12, 0.1, bias=None, stationarity=1e-3, epochs=3)
    assert learn_dictionary(X, 12, 0.1, bias=None, stationarity=1e-3, epochs=8).info["epochs"] == 8
    monkeypatch.setattr(StochasticSteps, "rate_at", lambda *_: -1.0)  # uphill
    spoiled = learn_dictionary(X, 12, 0.1, bias=None, stationarity=1e-3, init=plain, epochs=8)
    assert spoiled.info["epochs"] == 7  # 2 and one exact, then 4 that were undone, and straight to polishing
    assert spoiled.value == pytest.approx(plain.value, rel=1e-6)


@pytest.mark.slow
def test_scaling():
    """Data and λ times s: the same dictionary, s² times the value."""
    X = planted(n=300)
    small = learn_dictionary(X, 6, 0.1, bias=None, stationarity=1e-6)
    large = learn_dictionary(1e3 * X, 6, 1e2, bias=None, stationarity=1e-6)
    assert large.value == pytest.approx(1e6 * small.value, rel=1e-6)


@pytest.mark.slow
def test_large_offset_costs_nothing_with_a_free_bias():
    X = planted(n=300)
    near, far = (learn_dictionary(X + shift, 8, 0.1, stationarity=1e-5) for shift in (0.0, 1e4))
    assert far.value == pytest.approx(near.value, rel=1e-4)
    assert far.status is Status.STATIONARY


@pytest.mark.slow
def test_float32_data_and_zero_rows():
    X = np.concatenate([planted(n=300), np.zeros((20, 10))]).astype(np.float32)
    fit = learn_dictionary(torch.from_numpy(X), 8, 0.1, bias=None, stationarity=1e-4)
    assert fit.status is Status.STATIONARY


# ---------------------------------------------------------------- curvature and growth


def test_a_saddle_is_left():
    """One atom between two orthogonal features and one on the second: symmetric, stationary, not a minimum."""
    X = np.repeat([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 10, axis=0)
    start = np.array([[1.0, 1.0, 0.0]])
    saddle = learn_dictionary(X, 1, 0.1, bias=None, init=start, stationarity=1e-7, moves=False)
    np.testing.assert_allclose(saddle.dictionary, unit(start), atol=1e-9)
    left = learn_dictionary(X, 1, 0.1, bias=None, init=start, stationarity=1e-7, moves=False, second_order=True)
    assert left.value < saddle.value - 1e-3
    assert left.info["escapes"] == 1
    assert left.least_curvature is not None
    assert left.least_curvature > 0
    assert saddle.least_curvature is None


@pytest.mark.slow
def test_growing_never_costs_and_fills_every_width():
    X = planted(n=800, seed=7)
    fit = learn_dictionary(X, 4, 0.1, bias=None, stationarity=1e-3)
    for width in (8, 16, 40):
        wider = grow(fit, width, stationarity=1e-3)
        assert wider.n_atoms == width
        assert wider.value < fit.value
        assert wider.dead_atoms == 0
        fit = wider
    assert fit.value >= fit.lower_bound


def test_growth_beyond_need_leaves_atoms_dead_but_optimal():
    X = np.repeat(np.eye(3), 4, axis=0)
    fit = grow(learn_dictionary(X, 2, 0.1, bias=None), 6)
    assert fit.value == pytest.approx(0.1 - 0.005, rel=1e-9)
    assert fit.status is Status.CERTIFIED


def test_dense_signed_feature_from_the_package():
    found = dense_signed_feature(400, dim=6, seed=0)
    fit = learn_dictionary(found.X, 2, 0.1, bias=None, stationarity=1e-6)
    assert fit.dictionary[0] @ fit.dictionary[1] == pytest.approx(-1, abs=1e-2)


# ---------------------------------------------------------------- limits, interruption, bad input


def test_time_limit_returns_what_is_certain():
    fit = learn_dictionary(planted(n=3000), 64, 0.05, stationarity=1e-12, max_seconds=0.5)
    assert fit.status is Status.TIME_LIMIT
    assert fit.encoding.gaps.max() <= 1e-9
    assert np.isfinite(fit.value)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 4, 30])
def test_interrupted_at_any_point_it_resumes_to_the_same_objective(stop_at, tmp_path, monkeypatch):
    from cvxsae.solvers.dictionary import checkpoint

    X = planted(n=2200, seed=8)
    whole = learn_dictionary(X, 10, 0.1, stationarity=1e-5)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    path = tmp_path / "fit"

    def interrupt(record):
        if record.iteration == stop_at:
            raise KeyboardInterrupt

    cut = learn_dictionary(X, 10, 0.1, stationarity=1e-5, folder=path, callback=interrupt)
    assert cut.status is Status.INTERRUPTED
    assert path.exists()
    resumed = learn_dictionary(X, 10, 0.1, stationarity=1e-5, folder=path)
    assert resumed.status is whole.status
    assert resumed.value == pytest.approx(whole.value, rel=1e-6)
    assert resumed.seconds > 0
    again = learn_dictionary(X, 10, 0.1, stationarity=1e-5, folder=path)  # finished: nothing is left to do
    assert again.value == pytest.approx(resumed.value, rel=1e-12)
    assert len(again.history) == 1


def test_a_folder_of_other_arguments_is_refused(tmp_path):
    X = planted(n=200)
    path = tmp_path / "fit"
    learn_dictionary(X, 4, 0.1, folder=path, stationarity=1e-3)
    with pytest.raises(InputError, match="another call, which differs in lam"):
        learn_dictionary(X, 4, 0.2, folder=path, stationarity=1e-3)
    with pytest.raises(InputError, match="another call, which differs in X"):
        learn_dictionary(X[:150], 4, 0.1, folder=path, stationarity=1e-3)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(InputError, match="is a file"):
        learn_dictionary(X, 4, 0.1, folder=tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"lam": 0.0}, "lam is 0"),
        ({"stationarity": 0.0}, "stationarity is 0"),
        ({"init": np.ones((3, 9))}, "init"),
        ({"init": np.ones((5, 10))}, "init has 5 atoms but n_atoms is 4"),
        ({"init": (np.ones((4, 10)), "free")}, "bias that is not an array"),
        ({"max_seconds": -1.0}, "max_seconds"),
        ({"epochs": -1}, "epochs"),
        ({"tol": 1e-4}, "'tol' is not an option"),
        ({"bias": np.ones(9)}, "bias"),
    ],
)
def test_bad_input(arguments, message):
    settings = {"n_atoms": 4, "lam": 0.1, **arguments}
    with pytest.raises(InputError, match=message):
        learn_dictionary(planted(n=30), settings.pop("n_atoms"), settings.pop("lam"), **settings)


def test_grow_refuses_what_it_cannot_grow():
    fit = learn_dictionary(planted(n=50), 3, 0.3, stationarity=1e-2)
    with pytest.raises(InputError, match="larger width"):
        grow(fit, 3)


@pytest.mark.slow
def test_summary_is_json_and_arrays_can_be_written(tmp_path):
    import json

    fit = learn_dictionary(planted(n=80), 3, 0.3, stationarity=1e-2)
    summary = json.loads(json.dumps(fit.to_dict()))
    assert summary["status"] == fit.status.name
    path = cvxsae.data.write_arrays(tmp_path / "fit.npz", fit.arrays())
    np.testing.assert_array_equal(cvxsae.data.read_arrays(path)["dictionary"], fit.dictionary)
    assert "3 atoms" in repr(fit)
