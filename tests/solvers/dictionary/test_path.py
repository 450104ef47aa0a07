"""A path that keeps its work: it goes on where it was, bit for bit, and believes nothing that it cannot compute."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import Status, certify, dictionary_path
from cvxsae.data import sparse_features
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.dictionary.result import _offset
from tests.helpers.forged import forge
from tests.helpers.sentences import rejects

LAMS = (0.4, 0.2)
module: Any = sys.modules[dictionary_path.__module__]


def points() -> np.ndarray:
    return np.asarray(sparse_features(40, 4, 6, seed=3, noise=0.05).X)


def path(folder: Path | None, **options: Any) -> tuple[Any, ...]:
    return dictionary_path(points(), 3, LAMS, **{"stationarity": 1e-2, "folder": folder, **options})


def same(ours: Any, theirs: Any) -> None:
    """The arrays bit for bit, the numbers up to the tolerance of the codes."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.dictionary, other.dictionary)
        np.testing.assert_array_equal(one.bias, other.bias)
        assert one.value == pytest.approx(other.value, rel=1e-8)
        assert one.status is other.status


@pytest.fixture(scope="module", name="whole")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("whole")
    return path(folder), folder


def learned(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[tuple[int, float]]:
    """Width and penalty of what is learned from here on; ``stop`` is the call in which someone presses Ctrl-C."""
    calls: list[tuple[int, float]] = []
    honest = module.learn

    def counted(problem: Any, settings: Any, run: Any) -> Any:
        calls.append((problem.n_atoms, problem.lam))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return honest(problem, settings, run)

    monkeypatch.setattr(module, "learn", counted)
    return calls


@pytest.mark.slow
def test_a_folder_changes_no_answer_and_a_second_call_learns_nothing(whole, monkeypatch):
    fits, folder = whole
    same(fits, path(None))
    calls = learned(monkeypatch)
    again = path(folder)
    assert calls == []
    same(again, fits)
    for one, other in zip(again, fits, strict=True):
        assert one.seconds == other.seconds
        assert not certify(one).objections
    assert sorted(file.name for file in folder.glob("*.npz")) == [
        "fit-000.npz", "last.npz", "shrunk.npz",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_path_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, stop):
    with monkeypatch.context() as patch:
        learned(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            path(tmp_path)
    calls = learned(monkeypatch)
    same(path(tmp_path), whole[0])
    assert len(calls) == 3 - (stop - 1)


@pytest.mark.slow
def test_rounds_of_reseeding_are_kept_too(tmp_path, monkeypatch):
    fits = dictionary_path(points(), 3, (0.2,), reseeds=2, stationarity=1e-2, folder=tmp_path)
    calls = learned(monkeypatch)
    same(dictionary_path(points(), 3, (0.2,), reseeds=2, stationarity=1e-2, folder=tmp_path), fits)
    assert calls == []
    (tmp_path / "last.npz").unlink()
    same(dictionary_path(points(), 3, (0.2,), reseeds=2, stationarity=1e-2, folder=tmp_path), fits)
    assert len(calls) == 1


FORGED: dict[str, Any] = {
    "a bias tripled": lambda record, arrays: arrays["bias"].__imul__(3),
    "a dictionary that is no numbers": lambda record, arrays: arrays["dictionary"].__setitem__((0, 0), np.nan),
    "another atom": lambda record, arrays: arrays["dictionary"].__setitem__(0, np.eye(4)[0]),
    "an atom less": lambda record, arrays: arrays.update(dictionary=arrays["dictionary"][1:]),
    "no dictionary": lambda record, arrays: arrays.pop("dictionary"),
    "a value that is not attained": lambda record, arrays: record.update(value=record["value"] / 2),
    "a status that there is not": lambda record, arrays: record.update(status="WONDERFUL"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGED)
def test_what_does_not_bear_out_its_claims_is_learned_again(whole, tmp_path, monkeypatch, name):
    fits, folder = whole
    there = tmp_path / "copy"
    shutil.copytree(folder, there)
    forge(there / "last.npz", partial(_altered, FORGED[name]))
    calls = learned(monkeypatch)
    same(path(there), fits)
    assert calls == [(3, 0.2)]


def _altered(change: Any, record: Any, arrays: Any) -> None:
    change(record, arrays)


def _claimed(status: str, record: Any, arrays: Any) -> None:
    record.update(status=status)


@pytest.mark.slow
def test_a_status_is_believed_only_as_far_as_numbers_go(whole, tmp_path):
    fits, folder = whole
    there = tmp_path / "copy"
    shutil.copytree(folder, there)
    for status, becomes in (("CERTIFIED", Status.STALLED), ("STATIONARY", Status.STATIONARY)):
        forge(there / "last.npz", partial(_altered, partial(_claimed, status)))
        assert path(there)[-1].status is becomes
    forge(there / "last.npz", lambda record, arrays: record.update(status="STATIONARY", target=1e-12))
    assert path(there)[-1].status is Status.STALLED
    assert fits[-1].worst_stationarity > 1e-12


def test_codes_in_a_record_are_only_where_coding_starts(whole, tmp_path):
    fits, folder = whole
    there = tmp_path / "copy"
    shutil.copytree(folder, there)
    for file in there.glob("*.npz"):
        forge(file, lambda record, arrays: arrays["codes.data"].__imul__(3))
    again = path(there)
    same(again, fits)
    np.testing.assert_allclose(again[-1].codes.toarray(), fits[-1].codes.toarray(), atol=1e-4)


def test_another_path_is_refused(whole):
    folder = whole[1]
    for differs, options in (("seed", {"seed": 1}), ("surplus", {"surplus": 1.0}), ("reseeds", {"reseeds": 1})):
        with rejects(f"folder .* holds a path of dictionaries of another call, which differs in {differs}"):
            path(folder, **options)
    with rejects(".*differs in data"):
        dictionary_path(points()[:30], 3, LAMS, stationarity=1e-2, folder=folder)


def test_what_time_cut_short_is_not_kept_as_finished(tmp_path):
    fits = path(tmp_path, max_seconds=1e-3)
    assert fits[0].status is Status.TIME_LIMIT
    assert list(tmp_path.glob("*.npz")) == []
    assert {fit.status for fit in path(tmp_path)} <= {Status.STATIONARY, Status.STALLED}


def test_a_bias_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    for _ in range(200):
        origin, moved = (torch.from_numpy(rng.normal(size=50) * 10.0 ** rng.integers(-6, 6, size=50)) for _ in range(2))
        bias = origin + moved
        assert bool((origin + _offset(bias, origin) == bias).all())


def test_a_fit_is_judged_at_its_own_bits(whole, tmp_path):
    fit = whole[0][-1]
    saved = fit.save(tmp_path / "fit.npz")
    again = type(fit).load(saved, replace(fit.problem))
    assert isinstance(again.problem, JointProblem)
    same([again], [fit])
