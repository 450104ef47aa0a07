"""Data that change between a call and the next use of its result: an error that names them, never other numbers."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash

from cvxsae import Activations, WideLimit, certify, encode, grow, learn_dictionary, solve
from cvxsae.data import activations
from cvxsae.errors import InputError
from tests.helpers.sentences import rejects

WRITERS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    ".npy": np.save,
    ".npz": lambda path, X: np.savez(path, X=X),
    ".safetensors": lambda path, X: safetensors.torch.save_file({"X": torch.from_numpy(X)}, path),
    ".pt": lambda path, X: torch.save({"X": torch.from_numpy(X)}, path),
}


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((90, 4))


def file_of(folder: Path, suffix: str, X: np.ndarray) -> Path:
    path = folder / f"X{suffix}"
    WRITERS[suffix](path, X)
    return path


def uses(data: Any) -> dict[str, Callable[[], Any]]:
    """Results of the data, each to be used again later."""
    accepted = Activations(data)
    solution = solve(WideLimit(data, 0.3))
    codes = encode(data, np.eye(4)[:3], 0.2, engine="torch")
    return {
        "a pass": lambda: list(accepted.batches(rows=7)),
        "all rows": accepted.to_numpy,
        "the same data again": lambda: WideLimit(accepted, 0.3),
        "codes again": lambda: encode(codes.problem.X, np.eye(4), 0.2, engine="torch"),
        "the referee": lambda: certify(solution),
        "the numbers": solution.to_dict,
        "another solve": lambda: solve(solution.problem),
        "lambda_max": lambda: codes.lambda_max,
        "refit": codes.refit,
        "referee of codes": lambda: certify(codes),
    }


def all_refuse(results: dict[str, Callable[[], Any]], sentence: str) -> None:
    for what, use in results.items():
        with pytest.raises(InputError, match=sentence):
            use()
            pytest.fail(f"{what}: nothing was noticed")


def all_work(results: dict[str, Callable[[], Any]]) -> None:
    for use in results.values():
        use()


@pytest.mark.parametrize("kind", [".npy", ".safetensors", ".pt", "float16", "map", "slice of a map", "map as tensor"])
@pytest.mark.parametrize("change", ["longer", "of the same size", "removed", "replaced"])
def test_a_file_that_changes(tmp_path, X, kind, change):
    suffix = kind if kind.startswith(".") else ".npy"
    X = X.astype(np.float16 if kind == "float16" else np.float64)
    path = file_of(tmp_path, suffix, X)
    mapped = np.load(path, mmap_mode="r") if suffix == ".npy" else None
    data = {"map": mapped, "slice of a map": None if mapped is None else mapped[3:], "float16": path}.get(kind, path)
    if kind == "map as tensor":
        data = torch.from_numpy(np.load(path, mmap_mode="r+"))
    results = uses(data)
    if change == "removed":
        path.unlink()
    elif change == "replaced":
        (tmp_path / "other").mkdir()
        file_of(tmp_path / "other", suffix, 3 * X).replace(path)
    else:
        file_of(tmp_path, suffix, np.concatenate([-X, X]) if change == "longer" else X[::-1].copy())
    all_refuse(results, rf"X was read from '{path}', which (has changed since|cannot be read now)")


def test_a_file_in_memory_may_change(tmp_path, X):
    """An archive is read whole."""
    path = file_of(tmp_path, ".npz", X)
    results = uses(path)
    file_of(tmp_path, ".npz", 3 * X)
    all_work(results)


def test_a_file_that_is_written_again_with_the_same_content_is_the_same(tmp_path, X):
    results = uses(file_of(tmp_path, ".npy", X))
    file_of(tmp_path, ".npy", X)
    os.utime(tmp_path / "X.npy", (1, 1))
    all_work(results)
    file_of(tmp_path, ".npy", X + 1)
    os.utime(tmp_path / "X.npy", (1, 1))  # as old as before, and as long: its content says so
    with rejects(".*which has changed since"):
        results["a pass"]()


def test_only_what_looks_changed_or_fresh_is_read_to_be_compared(tmp_path, monkeypatch, X):
    path = file_of(tmp_path, ".npy", X)
    for age, blocks in ((0.0, 1), (-9.0, 1), (60.0, 0)):
        os.utime(path, ns=(0, time.time_ns() - int(age * 1e9)))
        data, seen = Activations(path), list[int]()
        monkeypatch.setattr(activations, "_add", lambda _, block, seen=seen: seen.append(len(block)))
        data._checksum = xxhash.xxh3_128().digest()  # of nothing, as nothing is added
        data.require_unchanged()
        monkeypatch.undo()
        assert len(seen) == blocks


IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "scaled": lambda a: a.__imul__(3),
    "negated": lambda a: a.__imul__(-1),
    "one entry": lambda a: a.__setitem__((5, 1), 1e-300),
    "two signs": lambda a: a.__setitem__((slice(4, 6), slice(1, 3)), -a[4:6, 1:3]),
    "rows in another order": lambda a: a.__setitem__(slice(None), a[list(range(len(a)))[::-1]]),
    "columns in another order": lambda a: a.__setitem__(slice(None), a[:, [1, 0, 3, 2]]),
    "the bits of two entries": lambda a: a.__setitem__((3, slice(0, 2)), a[3, [1, 0]]),
}


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("kind", ["numpy", "torch", "bfloat16", "view", "copy-on-write", "its own map"])
def test_an_array_that_is_changed_in_place(tmp_path, X, kind, change):
    np.save(tmp_path / "X.npy", X)
    given: Any = {
        "numpy": lambda: X,
        "torch": lambda: torch.from_numpy(X.copy()),
        "bfloat16": lambda: torch.from_numpy(X.copy()).to(torch.bfloat16),
        "view": lambda: X[10:, ::-1].T[::-1].T[::2],
        "copy-on-write": lambda: np.load(tmp_path / "X.npy", mmap_mode="c"),
        "its own map": lambda: np.load(tmp_path / "X.npy", mmap_mode="r+"),
    }[kind]()
    data, solution = Activations(given), solve(WideLimit(given, 0.3))
    known = data.to_numpy().copy()
    change(given)
    results = {"a pass": data.to_numpy, "the referee": lambda: certify(solution), "again": lambda: Activations(data)}
    if kind == "copy-on-write":  # its file has not changed
        np.testing.assert_array_equal(data.to_numpy(), known)
        all_work(results)
    elif kind == "its own map":
        all_refuse(results, "X was read from .*, which has changed since")
    else:
        all_refuse(results, "X was changed in place since it was passed")


def test_rows_of_data_that_change(X):
    """A slice is a view; rows chosen one by one are copies."""
    data = Activations(X)
    view, accepted, copied = data[10:50], Activations(data[10:50]), data[np.arange(10, 50)]
    X[20] += 1
    for rows in (accepted.to_numpy, lambda: Activations(view), lambda: Activations(data[:5])):
        with rejects("X was changed in place"):
            rows()
    Activations(copied)
    assert not np.array_equal(copied.to_numpy(), X[10:50])


def test_dictionary_bias_and_start_are_copied(X):
    dictionary, bias = np.eye(4), np.zeros(4)
    codes = encode(X, dictionary, 0.2, bias=bias, engine="torch")
    known = codes.lambda_max
    dictionary *= np.arange(1.0, 5.0)
    dictionary[0] = 1.0
    bias += 1
    again = encode(X, np.eye(4), 0.2, engine="torch")
    assert known == again.lambda_max
    assert certify(codes).is_certified
    np.testing.assert_array_equal(codes.refit().codes.toarray(), again.refit().codes.toarray())


def test_a_file_that_changes_during_a_pass_over_some_of_its_rows(tmp_path, X):
    """Rows chosen from a file have no checksum: what notices is the state of the file after each read."""
    path = file_of(tmp_path, ".npy", X)
    blocks = Activations(path)[10:50].batches(rows=20)
    next(blocks)
    np.save(path, 2 * X)
    os.utime(path, ns=(1, 1))
    with rejects("X was read from '.*X.npy', which has changed since; compute again"):
        next(blocks)


@pytest.mark.slow
def test_a_dictionary_of_data_that_changed_does_not_grow(tmp_path, X):
    np.save(tmp_path / "X.npy", X)
    fits = [learn_dictionary(data, 2, 0.3, max_steps=5) for data in (tmp_path / "X.npy", X)]
    np.save(tmp_path / "X.npy", 3 * X)
    X *= 3
    for fit, sentence in zip(fits, (".*which has changed since", ".*was changed in place"), strict=True):
        with rejects(sentence):
            grow(fit, 3)
        with rejects(sentence):
            certify(fit)


SHORTENED = """
    import sys
    import numpy as np
    from cvxsae import Activations, WideLimit, certify, solve
    from cvxsae.errors import InputError
    path = sys.argv[1]
    X = np.random.default_rng(0).normal(size=(3000, 16))
    for given in (lambda: path, lambda: np.load(path, mmap_mode="r"), lambda: np.load(path, mmap_mode="c"),
                  lambda: np.load(path, mmap_mode="r").T[:, ::2].T):
        np.save(path, X)
        data, solution = Activations(given()), solve(WideLimit(given(), 0.3))
        passing = data.batches(rows=100)
        next(passing)
        open(path, "r+b").truncate(4096)
        for use in (lambda: list(passing), lambda: list(data.batches()), data.to_numpy, lambda: data[5:9].to_numpy(),
                    lambda: data[np.array([1200, 3])], lambda: data.spread(5), lambda: certify(solution),
                    lambda: Activations(data), lambda: solve(solution.problem), solution.to_dict):
            try:
                use()
                print("not noticed")
            except InputError as error:
                assert "changed since" in str(error), error
"""


@pytest.mark.slow
def test_a_file_that_becomes_shorter_kills_nobody(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(SHORTENED), str(tmp_path / "X.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_pickled_data_know_themselves(tmp_path, X):
    path = file_of(tmp_path, ".npy", X)
    as_path, as_array = (pickle.dumps(Activations(data)) for data in (path, X))
    as_map = pickle.dumps(Activations(np.load(path, mmap_mode="r")[5:, 1:]))
    part = pickle.dumps(Activations(path)[7:20])
    assert len(as_path) < 2000 < len(as_array)
    moved = shutil.copy(path, tmp_path / "copy.npy")
    for text in (as_path, as_array):
        np.testing.assert_array_equal(pickle.loads(text).to_numpy(), X)
    np.testing.assert_array_equal(pickle.loads(part).to_numpy(), X[7:20])
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(as_map).to_numpy(), X[5:, 1:])
    for text in (as_path, part):
        data = pickle.loads(text)  # what was computed of them is of use without them
        with rejects(rf"X was read from '{path}', which cannot be read now \(No such file"):
            data.to_numpy()
        shutil.copy(moved, path)  # on another machine, with another time
        assert len(data.to_numpy()) in (90, 13)
        path.unlink()
    file_of(tmp_path, ".npy", X + 1)
    with rejects(".*which has changed since"):
        pickle.loads(as_path).to_numpy()


def test_a_copy_has_data_of_its_own(X):
    data = copy.deepcopy(Activations(X[::2, 1:]))
    part = pickle.dumps(Activations(X)[3:5])
    assert len(part) < X.nbytes
    known = X[::2, 1:].copy()
    X += 1
    np.testing.assert_array_equal(data.to_numpy(), known)
    Activations(data)
