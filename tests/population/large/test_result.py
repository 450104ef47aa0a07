"""What a population fit says: of rows, of the distribution, and to files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cvxsae.data.activations import Activations
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.parallel.context import Run
from cvxsae.population import PopulationDictionary, PopulationDictionaryFit, large_floor, solve_population
from cvxsae.population.large import result as module
from tests.helpers.problems import primal
from tests.helpers.sentences import rejects
from tests.population.large.test_solve import PROBLEM, clusters


@pytest.fixture(scope="module")
def parts():
    X = clusters(n=120)
    floor = large_floor(X, PROBLEM, batch=10, n_batches=4, tol=0.05)
    return X, floor, solve_population(X, PROBLEM, held_out=clusters(n=120, seed=1), floor=floor, tol=1e-3)


@pytest.mark.slow
def test_groups_are_as_written(parts):
    _, _, fit = parts
    H = clusters(n=120)
    found = module.held_out_of(Activations(H), fit.priced, fit.attained, PROBLEM, Run())
    Z, eta = fit.encode(H).toarray(), PROBLEM.prices(fit.attained.mass, fit.attained.squares)
    loss = 0.5 * ((H - fit.bias - Z @ fit.dictionary) ** 2).sum(axis=1)
    count = len(found.groups)
    of = np.arange(120) * count // 120
    for g in range(count):
        z = Z[of == g]
        m = len(z)
        products = sum(z[i] * z[j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        squared = products + PROBLEM.atom_price * (z**2).mean(axis=0)
        expected = loss[of == g].mean() + 0.3 * 0.5 * (squared / eta + eta).sum()
        assert found.groups[g] == pytest.approx(expected)
    assert found.value == pytest.approx(primal(H, fit.bias, fit.dictionary, Z, 0.3, PROBLEM.atom_cost(120)))


def test_upper_limits_hold_as_often_as_they_say(parts, monkeypatch):
    """Rows drawn from a finite population on which the dictionary's value is known; and a negative control."""
    X, _, fit = parts
    rng, held, naive, repetitions = np.random.default_rng(0), 0, 0, 300
    codes = fit.encode(X)
    residual, drawn = X - fit.bias - codes @ fit.dictionary, np.arange(0)
    monkeypatch.setattr(module, "coded_blocks", lambda *_: [(X[drawn], codes[drawn], residual[drawn])])
    for _ in range(repetitions):
        drawn = rng.integers(len(X), size=1000)
        out = module.held_out_of(Activations(X[drawn]), fit.priced, fit.attained, PROBLEM, Run())
        held += out.limit(0.95).high >= fit.value
        naive += out.value >= fit.value
    assert held >= 0.93 * repetitions
    assert naive < 0.93 * repetitions  # the plain value of the sample is no limit


def test_what_it_says_together(parts):
    _, floor, fit = parts
    assert fit.of == "distribution" and fit.lower < fit.upper and fit.objections == ()
    assert fit.upper == fit.held_out.limit(0.975).high and fit.lower == floor.limit_at(0.975).low
    assert fit.gap == pytest.approx((fit.upper - fit.lower) / fit.upper)
    assert "no other can gain more than" in fit.verdict and "on the distribution" in fit.verdict
    for word in (f"atoms        {fit.n_atoms}", "attained on the 120 rows given", "held out", "floor", "together"):
        assert word in str(fit)
    on_rows = replace(fit, floor=replace(floor, of="rows"), held_out=None)
    assert on_rows.upper == fit.value and on_rows.lower == floor.limit_at(0.95).low and "these 120 rows" in str(on_rows)
    assert "no floor was given" in replace(fit, floor=None).verdict
    assert "hold rows out" in replace(fit, held_out=None).verdict
    assert replace(fit, floor=None).gap is None and replace(fit, floor=None, held_out=None).upper == fit.value
    told = fit.to_dict()
    assert told["n_atoms"] == fit.n_atoms and told["gap"] == fit.gap and told["floor"]["n_batches"] == 4


def test_a_floor_above_the_value_is_objected_to(parts):
    _, floor, fit = parts
    wrong = replace(fit, floor=replace(floor, bounds=floor.bounds * 0 + 2 * fit.upper))
    assert len(wrong.objections) == 1 and "above the value" in str(wrong)


def test_a_file_is_evaluated_again(parts, tmp_path):
    X, floor, fit = parts
    path = fit.save(tmp_path / "fit.npz")
    read = PopulationDictionaryFit.load(path, X, PROBLEM, floor=floor)
    assert read.value == pytest.approx(fit.value, rel=1e-12) and read.floor is floor
    held = {name: np.asarray(array) for name, array in read_arrays(path).items()}
    forged = write_arrays(tmp_path / "forged.npz", {**held, "value": 0.1 * fit.value})
    assert PopulationDictionaryFit.load(forged, X, PROBLEM).value == read.value
    worse = write_arrays(tmp_path / "worse.npz", {**held, "weights": held["weights"] * 1.5})
    assert PopulationDictionaryFit.load(worse, X, PROBLEM).value > read.value
    dearer = PopulationDictionaryFit.load(path, X, PopulationDictionary(0.3, 0.5), held_out=X)
    assert dearer.value > read.value and dearer.held_out is not None
    for name, change, word in (
        ("a", {"ridge": held["ridge"][1:]}, "does not fit"),
        ("b", {"dictionary": 2 * held["dictionary"]}, "norm 1"),
        ("c", {"bias": held["bias"] * np.nan}, "finite"),
    ):
        file = write_arrays(tmp_path / f"{name}.npz", {**held, **change})
        with rejects(f"path.*{word}"):
            PopulationDictionaryFit.load(file, X, PROBLEM)
    with rejects("path.*weights"):
        PopulationDictionaryFit.load(
            write_arrays(tmp_path / "d.npz", {k: v for k, v in held.items() if k != "weights"}), X, PROBLEM
        )
    with rejects("path.*bias"):
        PopulationDictionaryFit.load(path, X, PopulationDictionary(0.3, 0.05, bias=None))
