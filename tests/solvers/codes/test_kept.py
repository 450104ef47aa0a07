"""Kept blocks: used again whatever cuts the datapoints up, never believed where they do not verify."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import certify
from cvxsae.errors import InputError
from cvxsae.parallel.threads import torch_threads
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes import plan
from cvxsae.solvers.codes.encode import encode
from tests.helpers.forged import forge
from tests.solvers.codes.test_encode_results import interrupt_after, problem

SMALL: dict[str, Any] = {"tol": 1e-8, "memory_limit": 2**20}


@pytest.fixture
def kept(tmp_path):
    X, D = problem(9, n=300)
    return X, D, encode(X, D, 0.4, folder=tmp_path, **SMALL), sorted(tmp_path.glob("rows-*.npz"))


def forbid(monkeypatch):
    def solving(*args, **kwargs):
        raise AssertionError("a block was solved")

    monkeypatch.setattr(plan, "solve_block", solving)


def test_what_is_missing_is_computed_and_the_rest_left_alone(kept, tmp_path):
    X, D, first, blocks = kept
    assert len(blocks) > 2
    assert not list(tmp_path.glob("*.tmp"))
    blocks[1].unlink()
    stamps = {path: path.stat().st_mtime_ns for path in blocks if path.exists()}
    again = encode(X, D, 0.4, folder=tmp_path, **SMALL)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    np.testing.assert_allclose(again.codes.toarray(), first.codes.toarray(), atol=1e-10)
    assert again.status is Status.CERTIFIED


@pytest.mark.parametrize("threads, change", [(1, {}), (2, {"memory_limit": 2**25}), (2, {"engine": "torch"})])
def test_threads_memory_and_engine_do_not_matter(kept, tmp_path, monkeypatch, threads, change):
    X, D, first, _ = kept
    forbid(monkeypatch)
    with torch_threads(threads):
        again = encode(X, D, 0.4, folder=tmp_path, **SMALL | change)
    np.testing.assert_array_equal(again.codes.toarray(), first.codes.toarray())
    np.testing.assert_allclose(again.values, first.values, rtol=1e-14)
    assert again.gaps.max() <= SMALL["tol"]


def test_a_hole_is_filled_by_blocks_of_any_size(kept, tmp_path):
    X, D, first, blocks = kept
    for path in blocks[1:-1]:
        path.unlink()
    again = encode(X, D, 0.4, folder=tmp_path, tol=1e-8, memory_limit=2**26)
    np.testing.assert_allclose(again.codes.toarray(), first.codes.toarray(), atol=1e-8)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"X": 1.0}, "data"),
        ({"D": 1.0}, "dictionary"),
        ({"lam": 0.5}, "lam"),
        ({"tol": 1e-6}, "tol"),
        ({"bias": np.ones(16)}, "bias"),
    ],
)
def test_other_questions_are_refused(kept, tmp_path, change, words):
    X, D, _, blocks = kept
    X, D = X + change.pop("X", 0.0), D + change.pop("D", 0.0)
    with pytest.raises(InputError, match=f"differs in.*{words}"):
        encode(X, D, change.pop("lam", 0.4), folder=tmp_path, **SMALL | change)
    with pytest.raises(InputError, match="is a file"):
        encode(X, D, 0.4, folder=blocks[0])


def damage(path, how, other):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "another":
        shutil.copy(other, path)
    else:
        arrays = dict(np.load(path))
        arrays["codes.data"] = arrays["codes.data"] * (3 if how == "tripled" else np.nan)
        np.savez(path, **arrays)


@pytest.mark.parametrize("how", ["cut", "emptied", "another", "tripled", "nan"])
def test_damaged_blocks_are_computed_again(kept, tmp_path, how):
    X, D, first, blocks = kept
    damage(blocks[1], how, blocks[0])
    again = encode(X, D, 0.4, folder=tmp_path, **SMALL)
    assert again.status is Status.CERTIFIED
    np.testing.assert_allclose(again.codes.toarray(), first.codes.toarray(), atol=1e-10)


FORGED: dict[str, Any] = {
    "tripled": lambda arrays: arrays.update({"codes.data": 3 * arrays["codes.data"]}),
    "a little larger": lambda arrays: arrays["codes.data"].__imul__(1 + 1e-3),
    "nan": lambda arrays: arrays["codes.data"].__setitem__(0, np.nan),
    "infinite": lambda arrays: arrays["codes.data"].__setitem__(-1, np.inf),
    "negative": lambda arrays: arrays["codes.data"].__setitem__(3, -1.0),
    "another atom": lambda arrays: arrays["codes.indices"].__setitem__(slice(None), arrays["codes.indices"][::-1] % 16),
    "an atom too many": lambda arrays: arrays["codes.indices"].__setitem__(0, 10**6),
    "rows that run backwards": lambda arrays: arrays["codes.indptr"].__setitem__(1, -1),
    "other rows": lambda arrays: arrays.update({"codes.shape": np.array([3, 16])}),
    "texts": lambda arrays: arrays.clear(),
    "nothing": lambda arrays: arrays["codes.data"].__setitem__(slice(None), 1e-300),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_codes_are_judged_again_whatever_their_checksum_says(kept, tmp_path, change):
    X, D, first, blocks = kept
    forge(blocks[1], lambda _, arrays: change(arrays))
    again = encode(X, D, 0.4, folder=tmp_path, **SMALL)
    assert again.status is Status.CERTIFIED
    np.testing.assert_allclose(again.codes.toarray(), first.codes.toarray(), atol=1e-8)
    np.testing.assert_allclose(again.values, first.values, rtol=1e-8)
    assert certify(again).is_certified


def test_without_its_manifest_no_block_is_taken_for_one_of_other_data(kept, tmp_path):
    X, D, _, _ = kept
    (tmp_path / "manifest.json").unlink()
    other = encode(X[::-1].copy(), D, 0.4, folder=tmp_path, **SMALL)
    np.testing.assert_allclose(other.values, encode(X[::-1].copy(), D, 0.4, tol=1e-8).values, rtol=2e-8)


def test_an_interrupted_call_is_taken_up(tmp_path, monkeypatch):
    X, D = problem(10, n=400)
    interrupt_after(monkeypatch, 4)
    part = encode(X, D, 0.4, folder=tmp_path, **SMALL)
    assert part.status is Status.INTERRUPTED
    monkeypatch.undo()
    kept_before = set(tmp_path.glob("rows-*.npz"))
    whole = encode(X, D, 0.4, folder=tmp_path, **SMALL)
    assert whole.status is Status.CERTIFIED
    assert kept_before < set(tmp_path.glob("rows-*.npz"))
    np.testing.assert_allclose(whole.values[part.done], part.values[part.done], rtol=1e-14)


def test_float32_and_float64_of_the_same_data_share_a_folder(tmp_path, monkeypatch):
    X, D = problem(9, n=100)
    encode(torch.from_numpy(X).float(), D, 0.4, folder=tmp_path, **SMALL)
    forbid(monkeypatch)
    encode(X.astype(np.float32).astype(np.float64), D, 0.4, folder=tmp_path, **SMALL)
