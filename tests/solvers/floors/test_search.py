"""The width floor: below every dictionary, and what breaks it is noticed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from cvxsae import InputError, WideLimit, certify, learn_dictionary, width_floor
from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors.spectral import spectral_floor
from cvxsae.relaxations.floors.square_features import SquareFeatures
from cvxsae.solvers.codes.engines import calibration
from cvxsae.solvers.floors import shares
from cvxsae.solvers.floors.ascent import FrankWolfe
from tests.helpers import problems
from tests.helpers.interrupts import interrupt_newton
from tests.helpers.problems import primal, solve, unit


def codes(X, D, lam, Z, sweeps=30):
    """Coordinate descent on nonnegative codes; any codes give an upper bound of F(D)."""
    gram, b = D @ D.T, X @ D.T - lam
    for _ in range(sweeps):
        for k in range(len(D)):
            Z[:, k] = np.maximum(0, Z[:, k] + b[:, k] - Z @ gram[:, k])
    return Z


def improved(X, D, lam, rounds=10, free=False):
    """The value that alternating over codes, atoms and bias gets to: above F*_K, whatever it does."""
    D, b, Z = D.copy(), np.zeros(X.shape[1]), np.zeros((len(X), len(D)))
    values = []
    for _ in range(rounds):
        Z = codes(X - b, D, lam, Z)
        values.append(primal(X, b, D, Z, lam))
        for k in range(len(D)):
            moved = Z[:, k] @ (X - b - Z @ D) + (Z[:, k] @ Z[:, k]) * D[k]
            if np.linalg.norm(moved) > 0:
                D[k] = moved / np.linalg.norm(moved)
        if free:
            b = (X - Z @ D).mean(axis=0)
    return min(values)


def data(kind, rng, n, d):
    """Small data sets of every sort."""
    if kind == "gaussian":
        return problems.gaussian(rng, n, d)
    if kind == "clustered":
        return problems.clustered(rng, n, d)
    if kind == "duplicates":
        return rng.normal(size=(max(1, n // 3), d))[np.arange(n) % max(1, n // 3)]
    if kind == "zero rows":
        return rng.normal(size=(n, d)) * (rng.random((n, 1)) < 0.6)
    return rng.normal(size=(n, d)) * np.exp(2 * rng.normal(size=(n, 1)))  # long and short


KINDS = ("gaussian", "clustered", "duplicates", "zero rows", "heavy tails")


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
    st.integers(2, 14),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from([0.02, 0.2, 1.0]),
    st.sampled_from(["zero", "vector", "free"]),
)
def test_never_above_a_dictionary_that_was_found(kind, seed, n, d, width, lam, bias):
    rng = np.random.default_rng(seed)
    X = data(kind, rng, n, d)
    b = {"zero": None, "free": "free", "vector": rng.normal(size=d)}[bias]
    floor = width_floor(X, width, lam, bias=b, kernels=(1, 2, 3) if bias == "free" else (1, 2, {2: 1.0, 3: 1.0}))
    assert certify(floor).is_certified
    points = X - b if bias == "vector" else X
    rows = points[np.arange(width) % n] + 1e-3 * rng.normal(size=(width, d))
    starts = [rng.normal(size=(width, d)), rows]
    for atoms in starts:
        assert floor.value <= improved(points, unit(atoms), lam, free=bias == "free") * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("lam", [0.05, 0.5])
def test_below_the_global_optimum_in_the_plane(width, lam, rng):
    X = rng.normal(size=(7, 2))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    grid = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chosen = np.array(np.meshgrid(*[np.arange(24)] * width)).reshape(width, -1).T
    chosen = np.unique(np.sort(chosen, axis=1), axis=0)
    starts = sorted(
        chosen, key=lambda ids: primal(X, 0, grid[ids], codes(X, grid[ids], lam, np.zeros((7, width)), 8), lam)
    )
    best = min(improved(X, grid[ids], lam, rounds=40) for ids in starts[:5])
    floor = width_floor(X, width, lam, bias=None).value
    assert 0.4 * best < floor <= best
    assert floor >= max(spectral_floor(X, width, lam).value, solve(WideLimit(X, lam, bias=None)).value) * (1 - 1e-12)


def test_enough_atoms_reach_the_wide_limit(rng):
    X = rng.normal(size=(12, 3))
    for bias in (None, rng.normal(size=3), "free"):
        wide = solve(WideLimit(X, 0.3, bias=bias), tol=1e-9).value
        for width in (12, 40):
            floor = width_floor(X, width, 0.3, bias=bias)
            assert wide * (1 - 1e-8) <= floor.value <= wide
            assert floor.theorem == "T9"


@pytest.mark.slow
def test_wider_dictionaries_have_lower_floors(rng):
    X = problems.clustered(rng, 40, 5)
    floors = width_floor(X, (1, 2, 4, 8, 16, 32, 64), 0.1, bias=None)
    values = np.array([floor.value for floor in floors])
    assert (np.diff(values) <= 0).all()
    assert values[0] > 1.5 * values[-1]
    assert [floor.n_atoms for floor in floors] == [1, 2, 4, 8, 16, 32, 64]
    back = width_floor(X, (64, 4), 0.1, bias=None)
    assert [floor.n_atoms for floor in back] == [64, 4]


@pytest.mark.slow
def test_kernels_beat_the_other_bounds_beyond_the_dimension(rng):
    X = unit(rng.normal(size=(60, 6)))
    floor = width_floor(X, 8, 0.05, bias=None)
    assert floor.theorem == "T15"
    assert floor.value > 1.15 * solve(WideLimit(X, 0.05, bias=None)).value
    assert certify(floor).is_certified


@pytest.mark.slow
def test_the_weights_are_the_best_there_are(rng):
    X = rng.normal(size=(40, 4))
    floor = width_floor(X, 6, 0.05, bias=None, kernels=(2,), tol=1e-4)
    part: Any = floor.parts[0]
    k, lengths = part.kernel, torch.linalg.vector_norm(torch.from_numpy(X), dim=1)
    costs, ends = bound.least_costs(lengths, 0.05, k), bound.shares(k)
    V = torch.from_numpy(unit(X))
    for _ in range(30):  # concave: no weights nearby are better by more than what the search allows
        w = torch.from_numpy(part.weights * np.exp(rng.choice([0.02, 0.2]) * rng.normal(size=40)))
        value = float(bound.inner_minimum(costs, ends, w).values.sum()) - bound.share_limit(V, w, k, 6)
        assert value / 40 <= floor.value * (1 + 2e-3)
    plain = [
        float(bound.inner_minimum(costs, ends, torch.full((40,), m, dtype=torch.float64)).values.sum())
        - bound.share_limit(V, torch.full((40,), m, dtype=torch.float64), k, 6)
        for m in np.geomspace(1e-3, 10, 80)
    ]
    assert floor.value > max(plain) / 40


@pytest.mark.slow
def test_scale_and_order_do_not_matter(rng):
    X = problems.clustered(rng, 30, 4)
    value = width_floor(X, 6, 0.1, bias=None).value
    for scale in (4.0, 3.7, 1e-9, 1e9):
        assert width_floor(scale * X, 6, scale * 0.1, bias=None).value == pytest.approx(scale**2 * value, rel=3e-3)
    assert width_floor(X[rng.permutation(30)], 6, 0.1, bias=None).value == pytest.approx(value, rel=3e-3)


@pytest.mark.slow
def test_parts_bound_the_whole(rng):
    X = problems.gaussian(rng, 60, 5)
    whole = width_floor(X, 8, 0.05, bias=None)
    parted = width_floor(X, 8, 0.05, bias=None, max_points=25, seed=3)
    assert len(parted.parts) == 3
    assert sorted(np.concatenate([part.rows for part in parted.parts])) == list(range(60))
    assert parted.value <= whole.value
    assert parted.value == pytest.approx(sum(len(p.rows) * p.value for p in parted.parts) / 60)
    assert certify(parted).is_certified


def test_a_free_bias_is_a_harder_question(rng):
    X = problems.gaussian(rng, 41, 4) + 5
    free = width_floor(X, 3, 0.1, bias="free")
    assert free.value <= width_floor(X, 3, 0.1, bias=X.mean(axis=0)).value
    assert certify(free).is_certified
    part: Any = free.parts[0]
    assert len(part.rows) == len(part.partners) == 20


@pytest.mark.parametrize("X", [np.zeros((5, 3)), np.ones((1, 2)), 1e-3 * np.ones((6, 2))])
@pytest.mark.parametrize("bias", [None, "free"])
def test_data_with_nothing_to_say(X, bias):
    floor = width_floor(X, 2, 0.5, bias=bias)
    assert floor.value == pytest.approx(solve(WideLimit(X, 0.5, bias=bias)).value, rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_the_defaults_bound_what_the_defaults_find(rng):
    """Off-center data: both are about every bias, so the floor is below the dictionary."""
    X = rng.normal(size=(60, 4)) + 5
    fit = learn_dictionary(X, 3, 0.3, max_steps=30)
    assert width_floor(X, 3, 0.3).value <= fit.value
    assert width_floor(X, 3, 0.3, bias=None).value > fit.value  # the floor of another problem


def test_one_width_is_a_floor_and_several_are_a_tuple(rng):
    X = rng.normal(size=(20, 3))
    single, several = width_floor(X, 2, 0.1), width_floor(X, [2], 0.1)
    assert isinstance(several, tuple)
    assert several[0].value == single.value
    assert single.to_dict()["n_atoms"] == 2
    assert "every bias" in repr(single)


def test_an_interrupt_is_no_floor(rng, monkeypatch):
    """Inside a search the wide limit must not take Ctrl-C for its own and return a point as if it were done."""
    X = rng.normal(size=(40, 5))
    interrupt_newton(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        width_floor(X, 3, 0.3)


def test_no_time_still_gives_a_floor(rng):
    X = problems.gaussian(rng, 40, 4)
    floor = width_floor(X, 6, 0.1, bias=None, max_seconds=1e-6)
    assert floor.value >= solve(WideLimit(X, 0.1, bias=None)).value * (1 - 1e-12)
    assert certify(floor).is_certified


@pytest.mark.slow
def test_without_time_datapoints_are_paired_as_they_come(rng):
    """Partners that lie far apart make a better floor; any make a true one."""
    X = problems.gaussian(rng, 60, 4)
    floors = [width_floor(X, 6, 0.1, max_seconds=limit) for limit in (None, 1e-6)]
    assert floors[1].value <= floors[0].value
    assert all(certify(floor).is_certified for floor in floors)


@pytest.mark.slow
def test_many_points_take_the_subspace_iteration(rng, monkeypatch):
    X = unit(rng.normal(size=(200, 6)))
    dense = width_floor(X, 20, 0.05, bias=None)

    @dataclass(frozen=True, kw_only=True)
    class Few(FrankWolfe):
        dense: int = 10

    monkeypatch.setattr("cvxsae.solvers.floors.search.FrankWolfe", Few)
    assert width_floor(X, 20, 0.05, bias=None).value == pytest.approx(dense.value, rel=5e-3)


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize("in_blocks", [False, True])
def test_devices_agree(in_blocks, device, rng, monkeypatch):
    if in_blocks:
        monkeypatch.setattr("cvxsae.solvers.floors.search.FrankWolfe", Blocks)
    X = unit(rng.normal(size=(100, 6)))
    on_cpu, there = (width_floor(X, 9, 0.05, bias=None, device=where).value for where in ("cpu", device))
    assert there == pytest.approx(on_cpu, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 0}, "lam is 0"),
        ({"widths": 0}, "widths is 0"),
        ({"steps": 3}, "'steps' is not an option"),
        ({"bias": np.zeros(3)}, "bias has shape"),
        ({"kernels": ()}, "kernels is empty"),
        ({"kernels": 2}, "kernels is 2"),
        ({"kernels": (0,)}, "is 0"),
        ({"kernels": ({1: 1.0, 2: 1.0},), "bias": "free"}, "all even or all odd"),
        ({"max_points": 0}, "max_points is 0"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"tol": 0}, "tol is 0"),
        ({"max_dim": 0}, "max_dim is 0"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        # without run-time types
        inspect.unwrap(width_floor)(**{"X": np.ones((4, 2)), "lam": 0.5, "widths": 1, "bias": None, **arguments})


@pytest.mark.parametrize("widths", [(), (2, 0)])
def test_bad_widths_are_named(widths):
    with pytest.raises(InputError, match="widths"):
        width_floor(np.ones((4, 2)), widths, 0.5)


@dataclass(frozen=True, kw_only=True)
class Blocks(FrankWolfe):
    """A search that believes its datapoints to be too many for their kernel matrix."""

    dense: int = 20
    matrix: int = 30
    most_features: int = 0


@dataclass(frozen=True, kw_only=True)
class Features(FrankWolfe):
    """A search that uses features as soon as there are fewer of them than datapoints."""

    dense: int = 20


@pytest.mark.slow
@pytest.mark.parametrize("way", [Blocks, Features])
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("bias", [None, "free"])
def test_many_datapoints_give_the_floor_of_the_whole_matrix(way, width, bias, rng, monkeypatch):
    X = unit(rng.normal(size=(160, 4)))
    whole = width_floor(X, width, 0.05, bias=bias, kernels=(2,))
    assert whole.theorem == "T15"
    assert whole.failure_probability == 0
    monkeypatch.setattr("cvxsae.solvers.floors.search.FrankWolfe", way)
    found = width_floor(X, width, 0.05, bias=bias, kernels=(2,))
    assert found.value == pytest.approx(whole.value, rel=5e-3)
    assert (found.failure_probability > 0) == (way is Blocks)
    assert found.to_dict()["failure_probability"] == found.failure_probability <= 1e-11
    assert ("wrong with probability" in repr(found)) == (found.failure_probability > 0)
    assert certify(found).is_certified


def test_costs_in_blocks_are_the_same(rng, monkeypatch):
    lengths, weights = torch.from_numpy(0.2 + rng.random(50)), torch.from_numpy(rng.random(50))
    whole = bound.DatapointCosts(lengths, 0.1, bound.kernel(2))
    monkeypatch.setattr(bound, "KEPT_POINTS", 7)
    blocks = bound.DatapointCosts(lengths, 0.1, bound.kernel(2))
    torch.testing.assert_close(blocks.minima(weights), whole.minima(weights))
    assert blocks.sums(weights, [0.5, 2.0]) == pytest.approx(whole.sums(weights, [0.5, 2.0]))
    assert whole.sums(weights, [1.0])[0] == pytest.approx(float(whole.minima(weights).sum()))


def test_few_dimensions_are_one_part(rng, monkeypatch):
    monkeypatch.setattr("cvxsae.solvers.floors.search.MAX_POINTS", 30)
    X = unit(rng.normal(size=(100, 4)))
    assert len(width_floor(X, 6, 0.05, bias=None).parts) == 1
    assert len(width_floor(X, 6, 0.05, bias=None, max_points=30).parts) == 4
    assert len(width_floor(X, 6, 0.05, bias=None, kernels=(3,)).parts) == 4


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_a_floor_of_projected_data_is_a_floor(bias, rng):
    """512 dimensions, of which six hold most of the data: below the floor of all of them, and above that of none."""
    X = np.concatenate([unit(rng.normal(size=(40, 6))), 0.02 * rng.normal(size=(40, 506)) / np.sqrt(506)], axis=1)
    turn = np.linalg.qr(rng.normal(size=(512, 512)))[0]
    projected = width_floor(X @ turn, 8, 0.05, bias=bias, kernels=(2,), max_dim=6)
    part: Any = projected.parts[0]
    assert part.projection.shape == (512, 6)
    whole = width_floor(X, 8, 0.05, bias=bias, kernels=(2,))
    assert projected.value <= whole.value * (1 + 2e-3)
    alone = width_floor(X[:, :6], 8, 0.05, bias=bias, kernels=(2,))
    assert projected.value == pytest.approx(alone.value, rel=0.01)
    assert certify(projected).is_certified
    longer = replace(projected, parts=(replace(part, projection=1.01 * part.projection),))
    assert any("lengthens" in said for said in certify(longer).objections)
    for forged in (part.projection[:, :0], part.projection[:-1], part.projection + 0j, np.nan * part.projection):
        broken = replace(projected, parts=(replace(part, projection=forged),))
        assert any("a finite row for each dimension" in said for said in certify(broken).objections)
    fit = learn_dictionary(X @ turn, 8, 0.05, bias=bias, max_steps=5)
    assert projected.value <= fit.value


def test_a_filter_keeps_what_is_near_the_last_eigenvector(rng):
    """One direction is shared by all points: its eigenvalue is far above the K-th, and must not drown it."""
    V = torch.from_numpy(unit(rng.normal(size=(400, 12)) + 3 * np.eye(12)[0]))
    w = torch.ones(400, dtype=torch.float64)
    search = Blocks(tol=1e-3, deadline=np.inf, seed=0)
    oracle = shares.BlockIteration(V, bound.kernel(2), 30, search)
    oracle.precision = torch.bfloat16
    for _ in range(3):
        oracle(w)
    exact = float(torch.linalg.eigvalsh(bound.kernel_matrix(V, w, bound.kernel(2)))[-30:].sum())
    assert exact <= oracle.limit(w) <= 1.02 * exact


def test_the_precision_of_a_search_is_that_of_the_kept_measurement(rng, monkeypatch):
    """A stopwatch of its own made floors differ from run to run."""
    V = torch.from_numpy(unit(rng.normal(size=(40, 6))))
    found = set()
    for seconds, precision in (
        ({"bfloat16": 1.0, "float32": 2.0}, torch.bfloat16),
        ({"bfloat16": 1.7, "float32": 2.0}, torch.float32),
        ({"float32": 2.0}, torch.float32),
    ):
        monkeypatch.setattr(calibration, "measured", lambda *key, kept=seconds: kept)
        oracle = shares.BlockIteration(V, bound.kernel(2), 3, Blocks(tol=1e-3, deadline=np.inf, seed=0))
        assert oracle.precision is precision
        seen: list[torch.dtype] = []
        monkeypatch.setattr(SquareFeatures, "product", lambda self, w, c, p, seen=seen: seen.append(p) or c)
        oracle._product(torch.ones(40), oracle.basis)
        assert seen == [precision]
        found.add(precision)
    assert len(found) == 2
