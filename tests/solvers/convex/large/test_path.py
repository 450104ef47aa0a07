"""Paths: planted width found, resumed where they stopped, files whole, bad input refused."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest

from cvxsae import InputError, LargeDictionary, Status
from cvxsae.relaxations.convex.tidy import factor_of, live_atoms, tidy
from cvxsae.solvers.convex.large.path import default_values, large_path
from tests.helpers import problems
from tests.helpers.figures import faults
from tests.helpers.forged import forge


def planted(rng, n=80, d=12, features=4):
    truth = problems.unit(rng.normal(size=(features, d)))
    X = truth[rng.integers(features, size=n)] * rng.uniform(0.5, 1.5, (n, 1))
    return X + 0.2 / np.sqrt(d) * rng.normal(size=(n, d)), truth


@pytest.mark.slow
def test_a_planted_width_is_found_without_being_told(rng):
    X, truth = planted(rng)
    path: Any = large_path(LargeDictionary(X, 0.1, 1.0, bias=None), [15, 30, 60], tol=5e-3)
    chosen = path.widest_plateau()
    assert path.points[chosen].live_atoms == len(truth)
    assert (truth @ path.candidates[chosen].dictionary.T).max(axis=1).min() >= 0.98
    table = path.table()
    assert (table["lower_bound"] <= table["value"]).all()
    assert table["value"].is_monotonic_increasing
    assert len(path.figure().axes) == 4 and not faults(path.figure())


@pytest.mark.slow
def test_a_path_along_lambda_and_default_values(rng):
    X = problems.clustered(rng, 12, 4)
    problem = LargeDictionary(X, 0.3, 1.0, bias=None)
    path = large_path(problem, lams=[0.2, 0.4], tol=1e-3)
    assert [point.lam for point in path.points] == [0.2, 0.4]
    assert path.points[0].fvu < path.points[1].fvu
    for along in ("atom_cost", "lam"):
        values = default_values(problem, along)
        assert values == sorted(values)
        assert len(values) == 16


@pytest.mark.slow
def test_an_interrupted_path_goes_on_and_other_paths_are_refused(rng, tmp_path):
    problem = LargeDictionary(problems.clustered(rng, 12, 4), 0.3, 1.0, bias=None)

    def stop(point):
        if point.atom_cost == 1.0:
            raise KeyboardInterrupt

    cut = large_path(problem, [0.5, 1.0, 2.0], folder=tmp_path, callback=stop)
    assert cut.status is Status.INTERRUPTED
    assert len(cut.points) == 2
    seen: list[Any] = []
    path = large_path(problem, [0.5, 1.0, 2.0], folder=tmp_path, callback=seen.append)
    assert [point.atom_cost for point in seen] == [2.0]
    assert len(path.points) == len(path.candidates) == 3
    assert path.points[:2] == cut.points
    assert path.status is None
    with pytest.raises(InputError, match="another call, which differs in atom_cost"):
        large_path(problem, [0.5, 1.0], folder=tmp_path)
    with pytest.raises(InputError, match="another call"):
        large_path(LargeDictionary(problem.X, 0.4, 1.0, bias=None), [0.5, 1.0, 2.0], folder=tmp_path)
    kept = sorted(tmp_path.glob("point-*.npz"))
    assert len(kept) == 3
    kept[1].write_bytes(b"no")
    again = large_path(problem, [0.5, 1.0, 2.0], folder=tmp_path)
    assert [point.value for point in again.points] == pytest.approx([point.value for point in path.points], rel=1e-9)


FORGED: dict[str, Any] = {
    "a dual that proves little": lambda arrays: arrays["dual"].__imul__(1e-3),
    "codes tripled": lambda arrays: arrays["codes"].__imul__(3),
    "codes that are no numbers": lambda arrays: arrays["codes"].__setitem__((0, 0), np.nan),
    "negative codes": lambda arrays: arrays["codes"].__imul__(-1),
    "another dictionary": lambda arrays: arrays.update(dictionary=arrays["dictionary"][:, :-1]),
    "no dictionary": lambda arrays: arrays.pop("dictionary"),
}


def _altered(change: Any, _: Any, arrays: Any) -> None:
    change(arrays)


@pytest.mark.slow
def test_a_point_is_what_its_arrays_are_worth(rng, tmp_path):
    problem = LargeDictionary(problems.clustered(rng, 8, 4), 0.3, 1.0, bias=None)
    honest = large_path(problem, [2.0], folder=tmp_path, tol=5e-2)
    again = large_path(problem, [2.0], folder=tmp_path, tol=5e-2)
    assert again.points == honest.points
    for change in FORGED.values():
        forge(tmp_path / "point-000.npz", partial(_altered, change))
        (point,) = large_path(problem, [2.0], folder=tmp_path, tol=5e-2).points
        assert dataclasses.replace(point, seconds=honest.points[0].seconds) == honest.points[0]


def test_the_time_limit_is_that_of_the_whole_path(rng, tmp_path):
    problem = LargeDictionary(problems.clustered(rng, 12, 4), 0.3, 1.0, bias=None)
    path = large_path(problem, [0.5, 1.0, 2.0], folder=tmp_path, max_seconds=1e-9)
    assert path.status is Status.TIME_LIMIT
    assert [point.status for point in path.points] == ["TIME_LIMIT"]
    assert not list(tmp_path.glob("point-*")), "a point that was cut short is not kept as finished"


def test_a_path_varies_one_thing(rng):
    problem = LargeDictionary(np.eye(3), 0.3, 1.0, bias=None)
    with pytest.raises(InputError, match="pass one"):
        large_path(problem, [1.0], lams=[0.1])
    with pytest.raises(InputError, match="not an option"):
        large_path(problem, [1.0], seed=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("values", [[], [1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [1.0, float("nan")]])
def test_values_that_are_no_path(values, rng):
    with pytest.raises(InputError):
        large_path(LargeDictionary(np.eye(3), 0.3, 1.0, bias=None), values)


def test_parallel_atoms_are_merged_and_dead_ones_dropped(rng):
    problem = LargeDictionary(problems.clustered(rng, 12, 4), 0.3, 1.0, bias=None)
    B = rng.uniform(size=(12, 3))
    point: Any = problem.from_factor(B)
    codes = np.hstack([point.codes / 2, point.codes / 2, np.zeros((12, 1))])
    doubled: Any = dataclasses.replace(
        point, codes=codes, dictionary=np.vstack([point.dictionary, point.dictionary, np.eye(4)[:1]])
    )
    assert live_atoms(doubled) == 6
    tidied: Any = tidy(problem, doubled)
    assert live_atoms(tidied) == tidied.dictionary.shape[0] <= 3
    assert problem.primal_value(tidied) <= problem.primal_value(doubled) * (1 + 1e-9)
    Q = factor_of(problem, doubled) @ factor_of(problem, doubled).T
    np.testing.assert_allclose(Q, problem.similarity(doubled))


def test_merging_stops_where_it_costs(rng):
    problem = LargeDictionary(2 * np.eye(4), 0.3, 1.0, bias=None)
    best = problem.atom_per_datapoint()
    assert live_atoms(tidy(problem, best, slack=1e-3)) == 4


def test_matrices_that_do_not_fit_are_refused(rng, monkeypatch):
    """Before the first point; in few dimensions there are none."""
    monkeypatch.setattr("cvxsae.solvers.convex.large.rounding.memory_gib", lambda: 1e-6)
    with pytest.raises(
        InputError, match=r"pass fewer rows \(a path has no other solver; solve one price at a time with"
    ):
        large_path(LargeDictionary(problems.gaussian(rng, 20, 4), 0.3, 1.0, bias=None), (0.5,))
    few = large_path(LargeDictionary(problems.gaussian(rng, 8, 2), 0.3, 1.0, bias=None), (0.5,), tol=1e-2)
    assert len(few.points) == 1
