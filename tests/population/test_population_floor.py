"""Floors of the distribution: inequality on populations enumerated, records, sources, limits, and every refusal."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t

from cvxsae import Status, encode, width_floor
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import Bias
from cvxsae.data.storage import Folder, strict_json
from cvxsae.parallel.context import Run
from cvxsae.population import batches as engine
from cvxsae.population import cells, population_floor
from cvxsae.population.cells import Question
from cvxsae.population.draws import Batch, RandomDraws
from cvxsae.statistics.means import bounded_mean
from cvxsae.validation.certify import certify
from tests.helpers.sentences import rejects

LAM = 0.3
BIASES = {"free": Bias(is_free=True), "zero": Bias()}


@pytest.fixture(scope="module", name="X")
def made() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 3))[rng.integers(0, 8, 210)] * rng.uniform(0.5, 2, (210, 1)) + 0.1


def floor_of(rows: np.ndarray, n_atoms: int | None, bias: Bias) -> float:
    found = Question(n_atoms, LAM, bias).floor_of(Batch(0, torch.from_numpy(rows)), Run(is_outermost=False))
    assert found is not None and not found[0].objections
    return found[0].value


# ---------------------------------------------------------------------- the theorem (T17 a, d)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_atoms", "bias", "seed"),
    [(None, "free", 0), (None, "zero", 1), (1, "zero", 2), (1, "free", 3), (2, "free", 4)],
)
def test_the_mean_over_all_batches_is_below_every_dictionary_on_the_population(n_atoms, seed, bias):
    rng = np.random.default_rng(seed)
    population = rng.standard_normal((4, 2)) + (0 if bias == "zero" else rng.standard_normal(2))
    for draws in (itertools.combinations(range(4), 3), itertools.combinations_with_replacement(range(4), 2)):
        batches = list(draws)
        weights = [
            1 if len(set(rows)) == 1 or len(rows) == 3 else 2 for rows in batches
        ]  # orders of two different rows
        floors = [floor_of(population[list(rows)], n_atoms, BIASES[bias]) for rows in batches]
        mean = float(np.average(floors, weights=weights))
        for _ in range(5):
            atoms = rng.standard_normal((n_atoms or 5, 2))
            b = None if bias == "zero" else population.mean(axis=0) + 0.3 * rng.standard_normal(2)
            value = encode(population, atoms / np.linalg.norm(atoms, axis=1, keepdims=True), LAM, bias=b).value
            assert mean <= value
        own = population / np.linalg.norm(population, axis=1, keepdims=True)
        if n_atoms is None and bias == "zero":  # attained by an atom per row, so that the mean is the value itself
            assert mean == pytest.approx(encode(population, own, LAM, tol=1e-10).value, rel=1e-8)


def test_bigger_batches_have_higher_means_over_all_batches():
    population, means = np.random.default_rng(4).standard_normal((4, 2)), []
    for n in (2, 3, 4):
        batches = itertools.combinations(range(4), n)
        means.append(np.mean([floor_of(population[list(rows)], None, BIASES["free"]) for rows in batches]))
    assert np.all(np.diff(means) > 0)


@pytest.mark.slow
def test_documents_are_weighed_by_their_rows():
    """Long documents of small loss: the ratio is the loss of a row, the plain mean of floors is far above it."""
    rng = np.random.default_rng(5)
    sizes = np.tile([1, 9], 20)
    lengths = np.repeat(np.tile([3.0, 0.5], 20), sizes)
    X = np.eye(2)[rng.integers(0, 2, len(lengths))] * lengths[:, None]
    found = population_floor(X, None, LAM, bias=None, batch=5, groups=np.repeat(np.arange(40), sizes))
    truth = float(encode(X, np.eye(2), LAM, tol=1e-10).value)
    assert found.for_rows == pytest.approx(truth, rel=1e-9)
    assert found.values.mean() > 2 * truth
    assert (found.unit, found.estimate.unit, found.sizes.sum()) == ("document", "batch", len(X))
    assert "linearized" in found.estimate.method


# ---------------------------------------------------------------------- numbers


@pytest.mark.slow
@pytest.mark.parametrize("n_atoms", [None, 3])
def test_batches_are_certified_floors_of_disjoint_rows_and_the_limit_is_students(X, n_atoms):
    found = population_floor(X, n_atoms, LAM, batch=50, seed=3)
    order = np.random.default_rng(3).permutation(len(X))
    for index, batch in enumerate(found.batches):
        rows = X[np.sort(order[index * 50 : (index + 1) * 50])]
        own = width_floor(rows, len(rows) if n_atoms is None else n_atoms, LAM, seed=3)
        assert certify(own).is_certified
        assert batch.value == pytest.approx(own.value, rel=1e-8)
    v = found.values
    assert found.for_rows == pytest.approx(v.mean(), rel=1e-14)
    assert found.lower_limit == pytest.approx(v.mean() - t.ppf(0.95, 3) * v.std(ddof=1) / 2, rel=1e-12)
    assert (found.left_over, found.sizes.tolist(), found.order, found.status) == (10, [50] * 4, "random", None)
    assert found.is_certified
    assert found.limit(0.5).low > found.lower_limit


def test_a_known_range_gives_the_bernstein_limit(X):
    R = 10.0
    found = population_floor(X, None, LAM, bias=None, batch=10, largest_norm=R)
    top = LAM * R - LAM**2 / 2
    assert found.range == pytest.approx((0, top))
    assert found.lower_limit == bounded_mean(found.values, (0.0, top), 0.95, side="lower").low
    assert Question(3, LAM, Bias(), R).range == pytest.approx((0, R**2 / 2))
    b = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert Question(3, LAM, Bias(b), R).range == pytest.approx((0, 15**2 / 2))
    assert Question(None, LAM, Bias(b), 0.1).range == pytest.approx((0, LAM * 5.1 - LAM**2 / 2))
    assert Question(None, 20.0, Bias(), R).range == pytest.approx((0, R**2 / 2))
    assert "no row of the distribution is longer than 10" in str(found)


def test_what_it_says(X):
    many, one = population_floor(X, 3, LAM, batch=50), population_floor(X[:60], 3, LAM, batch=50)
    said = str(many)
    assert said.startswith(
        "For the distribution of these rows no dictionary of 3 atoms and any bias has an expected loss"
    )
    assert "confidence 0.95" in said and "4 independent batches of 50 rows" in said
    assert "Bigger batches have higher floors" in said and "10 rows are in no batch" in said
    said = str(one)
    assert said.startswith("For these 60 rows alone") and "no confidence exists" in said
    assert np.isnan(one.lower_limit) and one.estimate.method == "none" and one.for_rows > 0
    report = json.loads(json.dumps(strict_json(many.to_dict()), allow_nan=False))
    assert report["lower_limit"] == many.lower_limit and report["n_batches"] == 4 and report["unit"] == "row"
    assert strict_json(one.to_dict())["lower_limit"] is None


@pytest.mark.slow
def test_by_default_there_are_eight_batches(X):
    assert population_floor(X, None, LAM).sizes.tolist() == [26] * 8
    assert population_floor(X, None, LAM, n_batches=20).sizes.tolist() == [10] * 20


# ---------------------------------------------------------------------- sources


def test_a_source_gives_what_the_rows_in_its_order_give(X):
    in_memory = [floor_of(X[start : start + 40], None, BIASES["free"]) for start in range(0, 200, 40)]
    for source in ((X[start : start + 33] for start in range(0, 210, 33)), lambda: iter([X[:7], X[7:]])):
        found = population_floor(source, None, LAM, batch=40)
        np.testing.assert_allclose(found.values, in_memory, rtol=1e-12)
        assert (found.order, found.left_over) == ("source", 10)
        assert "independent of each other" in str(found) and "in the order of the source" in str(found)


def endless(seed: int = 0):
    rng = np.random.default_rng(seed)
    while True:
        yield rng.standard_normal((16, 3))


def test_a_source_without_end(X):
    found = population_floor(endless, None, LAM, batch=20, n_batches=5)
    again = population_floor(endless(), None, LAM, batch=20, n_batches=5, bias="free")
    np.testing.assert_array_equal(found.values, again.values)
    assert len(found.batches) == 5
    short = population_floor(iter([X]), None, LAM, batch=100, n_batches=5)
    assert len(short.batches) == 2 and "ended after 2 of 5 batches" in str(short)


# ---------------------------------------------------------------------- the referee


def test_objections_are_shown_and_the_batch_counts_nothing(X, monkeypatch):
    honest = vars(cells)["find_floors"]
    monkeypatch.setattr(
        cells, "find_floors", lambda *given: tuple(replace(one, value=2 * one.value) for one in honest(*given))
    )
    found = population_floor(X, 3, LAM, batch=100)
    assert found.values.tolist() == [0.0, 0.0] and not found.is_certified
    assert len(found.objections) >= 2 and found.objections[0].startswith("Batch 0: ")
    assert found.objections[0] in str(found)


# ---------------------------------------------------------------------- records


def counted(monkeypatch) -> list[int]:
    """The batches that are searched from now on."""
    seen: list[int] = []
    honest = Question.floor_of

    def floor_of(self, batch, run):
        seen.append(batch.index)
        return honest(self, batch, run)

    monkeypatch.setattr(Question, "floor_of", floor_of)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("n_atoms", [None, 3])
def test_a_folder_goes_on_also_with_more_batches(X, n_atoms, tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    ask = {"batch": 50, "folder": tmp_path}
    first = population_floor(X, n_atoms, LAM, n_batches=2, **ask)
    more = population_floor(X, n_atoms, LAM, **ask)
    assert seen == [0, 1, 2, 3]
    np.testing.assert_array_equal(more.values[:2], first.values)
    again = population_floor(X, n_atoms, LAM, **ask)
    assert seen == [0, 1, 2, 3]
    np.testing.assert_allclose(again.values, more.values, rtol=1e-12)
    assert again.theorems == more.theorems


@pytest.mark.slow
def test_sizes_of_floors_are_those_of_width_floor_and_are_kept(X, tmp_path, monkeypatch):
    """With few directions, what is kept has to know which; other sizes are another folder."""
    wide = np.hstack([X, 0.01 * X[::-1]])
    seen = counted(monkeypatch)
    ask: dict[str, Any] = {"bias": None, "batch": 70, "max_dim": 3, "max_points": 40, "folder": tmp_path}
    found = population_floor(wide, 3, LAM, **ask)
    for rows, value in zip(np.random.default_rng(0).permutation(210).reshape(3, 70), found.values, strict=True):
        own = width_floor(wide[np.sort(rows)], 3, LAM, bias=None, max_dim=3, max_points=40)
        assert value == pytest.approx(own.value, rel=1e-8)
    again = population_floor(wide, 3, LAM, **ask)
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(again.values, found.values, rtol=1e-12)
    assert (found.values < population_floor(wide, 3, LAM, bias=None, batch=70).values).all()
    for name in ("max_dim", "max_points"):
        with rejects(f"folder .* differs in {name}"):
            population_floor(wide, 3, LAM, **{**ask, name: None})


def test_another_call_is_refused_the_folder(X, tmp_path):
    population_floor(X, None, LAM, batch=100, folder=tmp_path)
    others: dict[str, dict[str, Any]] = {
        "lam": {"lam": 1.0},
        "bias": {"bias": None},
        "seed": {"seed": 1},
        "n_atoms": {"n_atoms": 2},
    }
    for name, other in others.items():
        ask: dict[str, Any] = {"n_atoms": None, "lam": LAM, "batch": 100, "folder": tmp_path} | other
        with rejects(f"folder .* differs in {name}"):
            population_floor(X, **ask)


@pytest.mark.slow
@pytest.mark.parametrize("n_atoms", [None, 3])
@pytest.mark.parametrize("how", ["value", "rows", "proof", "bytes"])
def test_a_forged_or_foreign_record_is_not_believed(X, n_atoms, how, tmp_path, monkeypatch):
    honest = population_floor(X, n_atoms, LAM, batch=100, folder=tmp_path)
    folder = Folder(tmp_path, engine.KIND, json.loads((tmp_path / "manifest.json").read_text())["asked"])
    kept, other = folder.read("batch-00000000"), folder.read("batch-00000001")
    assert kept is not None and other is not None
    record, arrays = dict(kept.record), dict(kept.arrays)
    if how == "value":
        record["value"] *= 1.01
    if how == "rows":
        record, arrays = dict(other.record), dict(other.arrays)
    if how == "proof":
        record["value"] *= 1.01
        record["parts"] = [[value * 1.01, theorem] for value, theorem in record["parts"]]
        arrays = {name: array * (1 + 1e-3) if name == "bias" else array for name, array in arrays.items()}
    if how == "bytes":
        file = tmp_path / "batch-00000000.npz"
        file.write_bytes(file.read_bytes()[:-40])
    else:
        folder.write("batch-00000000", record, arrays)
    seen = counted(monkeypatch)
    again = population_floor(X, n_atoms, LAM, batch=100, folder=tmp_path)
    assert seen == [0]
    np.testing.assert_allclose(again.values, honest.values, rtol=1e-9)


def _until_killed(X: np.ndarray, folder: str) -> None:
    honest = Question.floor_of

    def floor_of(self, batch, run):
        if batch.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, batch, run)

    Question.floor_of = floor_of  # type: ignore[method-assign]
    torch.set_num_threads(1)
    population_floor(X, None, LAM, batch=50, folder=folder)


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_batch(X, tmp_path, monkeypatch):
    process = multiprocessing.get_context("spawn").Process(target=_until_killed, args=(X, str(tmp_path)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    seen = counted(monkeypatch)
    found = population_floor(X, None, LAM, batch=50, folder=tmp_path)
    assert seen == [2, 3]
    np.testing.assert_allclose(found.values, population_floor(X, None, LAM, batch=50).values, rtol=1e-12)


def test_a_batch_that_another_process_has_is_left_to_it_and_done_if_it_gives_up(X, tmp_path, monkeypatch):
    from filelock import FileLock

    lock = FileLock(tmp_path / ".batch-00000001.lock")
    lock.acquire()
    seen, honest = counted(monkeypatch), engine.run_cell

    def run_cell(task, **options):
        if options.get("wait"):  # the other one has died
            lock.release()
        return honest(task, **options)

    monkeypatch.setattr(engine, "run_cell", run_cell)
    found = population_floor(X, None, LAM, batch=50, folder=tmp_path)
    assert seen == [0, 2, 3, 1]
    np.testing.assert_array_equal(found.values, population_floor(X, None, LAM, batch=50).values)


def test_several_at_a_time_give_the_same(X, tmp_path):
    import joblib

    alone = population_floor(X, None, LAM, batch=50)
    with joblib.parallel_config("threading"):  # processes would take longer to start than all else here
        together = population_floor(X, None, LAM, batch=50, jobs=2, folder=tmp_path)
        late = population_floor(X, None, LAM, batch=2, jobs=2, max_seconds=1e-9)
    np.testing.assert_allclose(together.values, alone.values, rtol=1e-12)
    assert len(list(tmp_path.glob("batch-*.npz"))) == 4
    assert late.status is Status.TIME_LIMIT and len(late.batches) == 1


def test_a_batch_travels_to_another_process(X, tmp_path):
    question, folder = Question(None, LAM, Bias(is_free=True)), Folder(tmp_path, "work")
    task = engine.Task(Batch(0, torch.from_numpy(X[:50])), question, folder, 0, torch.device("cpu"), np.inf)
    there = engine.run_on_threads(pickle.loads(pickle.dumps(task)), 1)
    assert isinstance(there, cells.BatchFloor)
    assert there.value == pytest.approx(floor_of(X[:50], None, BIASES["free"]), rel=1e-12)
    assert folder.read("batch-00000000") is not None


# ---------------------------------------------------------------------- limits


def late_after(monkeypatch, batches: int) -> None:
    """Let the time be over once so many batches have been searched."""
    honest, done = Question.floor_of, []

    def floor_of(self, batch, run):
        done.append(honest(self, batch, run))
        return done[-1]

    monkeypatch.setattr(Question, "floor_of", floor_of)
    monkeypatch.setattr(Run, "is_late", property(lambda self: len(done) >= batches))


def test_what_is_done_in_time_counts(X, monkeypatch, tmp_path):
    whole = population_floor(X, None, LAM, batch=50)
    late_after(monkeypatch, 2)
    found = population_floor(X, None, LAM, batch=50, max_seconds=1e3, folder=tmp_path)
    assert found.status is Status.TIME_LIMIT
    np.testing.assert_array_equal(found.values, whole.values[:2])
    assert "the time was over after 2 of 4 batches in their fixed order" in str(found).lower()
    assert found.limit().n_units == 2


def test_the_first_batch_counts_however_short_the_time(X):
    found = population_floor(X, 3, LAM, batch=50, max_seconds=1e-9)
    assert found.status is Status.TIME_LIMIT and len(found.batches) == 1 and found.for_rows > 0
    assert np.isnan(found.lower_limit) and found.is_certified


def test_an_interrupt_keeps_what_is_done(X, monkeypatch):
    honest = Question.floor_of

    def interrupted_at(index):
        def floor_of(self, batch, run):
            if batch.index == index:
                raise KeyboardInterrupt
            return honest(self, batch, run)

        return floor_of

    monkeypatch.setattr(Question, "floor_of", interrupted_at(3))
    found = population_floor(X, None, LAM, batch=50)
    assert found.status is Status.INTERRUPTED and len(found.batches) == 3
    assert "interrupted after 3 of 4 batches" in str(found)
    monkeypatch.setattr(Question, "floor_of", interrupted_at(0))
    with pytest.raises(KeyboardInterrupt):
        population_floor(X, None, LAM, batch=50)


# ---------------------------------------------------------------------- refusals


def test_bad_arguments(X):
    groups = np.arange(210) // 5
    cases: dict[str, dict[str, Any]] = {
        "n_atoms is 0": {"n_atoms": 0},
        "lam is -1": {"lam": -1},
        "batch is 0": {"batch": 0},
        "n_batches is 5 but X has 4 of 50 rows each": {"n_batches": 5},
        "n_batches is 7 but X has 4 of 10 documents": {"n_batches": 7, "groups": groups},
        r"groups has shape \(3,\)": {"groups": [1, 2, 3]},
        "confidence is 2": {"confidence": 2},
        "jobs is 0": {"jobs": 0},
        "jobs is": {"jobs": np.ones(2)},
        "largest_norm is 1 but batch 0 has a row of norm": {"largest_norm": 1},
        "largest_norm is for independent rows": {"largest_norm": 100, "groups": groups},
        "bias has shape": {"bias": np.zeros(2)},
        "'tol' is not an option": {"tol": 1},
        "max_dim is for the floor of a width": {"n_atoms": None, "max_dim": 2},
        "max_points is 0": {"max_points": 0},
    }
    for message, wrong in cases.items():
        with rejects(message):
            population_floor(X, **{"n_atoms": 3, "lam": LAM, "batch": 50, **wrong})
    with rejects(r"X has shape \(3,\)"):
        population_floor(np.zeros(3), 3, LAM)
    with rejects("groups says which document"):
        population_floor(iter([X]), 3, LAM, groups=groups)
    with rejects("X ended after 210 rows, before one batch of 1000"):
        population_floor(iter([X]), 3, LAM, batch=1000)
    with rejects("bias has shape"):
        population_floor(iter([X]), None, LAM, batch=50, bias=np.zeros(2))
    with rejects("bias is 'mean'"):
        population_floor(iter([X]), None, LAM, batch=50, bias="mean")


@pytest.mark.slow
def test_nothing_that_was_passed_is_changed(X):
    before = X.copy()
    population_floor(X, 3, LAM, batch=100, bias=np.zeros(3))
    np.testing.assert_array_equal(X, before)


def test_documents_stay_together():
    groups = np.random.default_rng(0).integers(0, 12, 100)
    draws = RandomDraws.of(Activations(np.arange(200.0).reshape(100, 2)), 25, None, groups, 1)
    rows = [(batch.rows[:, 0] / 2).long().numpy() for batch in draws]
    assert [batch.n_documents for batch in draws] == [3] * 4
    for own in rows:
        others = np.setdiff1d(np.arange(100), own)
        assert not set(groups[own]) & set(groups[others])
    assert sum(map(len, rows)) + draws.left_over() == 100
