"""Several files read as one matrix: the same numbers as in memory, and one sentence that names the shard otherwise."""

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.torch
import torch

from cvxsae import Activations, WideLimit, certify, encode, solve
from cvxsae.data import find_outliers, without_outliers
from cvxsae.parallel.group import ProcessGroup
from tests.helpers.sentences import rejects

ENDS = [5, 6, 40]


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((90, 4)).astype(np.float32)


def written(folder, X, suffix=".npy", key="acts", order="C"):
    folder.mkdir(exist_ok=True)
    paths = []
    for number, part in enumerate(np.split(X, ENDS)):
        path = folder / f"part-{8 + number}{suffix}"  # 8, 9, 10, 11: numbers have to be sorted as numbers
        if suffix == ".npy":
            np.save(path, np.asarray(part, order=order))
        elif suffix == ".safetensors":
            other = torch.zeros(3)
            safetensors.torch.save_file({key: torch.from_numpy(part.copy()), "other": other}, path)
        else:
            torch.save(torch.from_numpy(part.copy()), path)
        paths.append(path)
    return paths


def given(folder, X, kind):
    if kind == "keys":
        return [f"{path}::acts" for path in written(folder, X, ".safetensors")]
    if kind == "folder and key":
        written(folder, X, ".safetensors")
        return f"{folder}::acts"
    paths = written(folder, X, ".pt" if kind == ".pt" else ".npy", order="F" if kind == "columns first" else "C")
    pattern = str(folder / "part-*.npy")
    return {"folder": folder, "pattern": pattern, "several patterns": [pattern[:-4] + "*"]}.get(kind, paths)


KINDS = ["paths", "folder", "pattern", "several patterns", "keys", "folder and key", ".pt", "columns first"]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_one_matrix(tmp_path, X, kind):
    data = Activations(given(tmp_path / "X", X, kind))
    assert (data.shape, data.dtype) == ((90, 4), torch.float32)
    assert not data.is_forward_only
    for rows in (1, 7, 50, None):
        np.testing.assert_array_equal(torch.cat(list(data.batches(rows=rows, dtype=None))), X)
    np.testing.assert_array_equal(data.tensor, X)
    for some in (slice(3, 50), slice(4, 7), slice(5, 6), slice(-3, None), slice(1, 80, 7), slice(6, 7, 9)):
        np.testing.assert_array_equal(data[some].tensor, X[some])
        np.testing.assert_array_equal(data[2:88][some].tensor, X[2:88][some])
    for chosen in ([89, 0, 5, 5, 41, 4], [7], np.arange(90)[::-1]):
        np.testing.assert_array_equal(data[np.array(chosen)].tensor, X[chosen])
    np.testing.assert_array_equal(data[3:60][np.array([50, 0, 2])].tensor, X[[53, 3, 5]])
    mask = torch.arange(90) % 4 == 1
    np.testing.assert_array_equal(data[mask].tensor, X[1::4])
    np.testing.assert_array_equal(data.spread(4).tensor, X[[0, 29, 59, 89]])


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "i2", "?"])
def test_dtypes(tmp_path, X, dtype):
    X = (10 * X).astype(dtype)
    data = Activations(written(tmp_path / "X", X))
    assert data.dtype is {"f2": torch.float16, ">f4": torch.float32}.get(dtype, torch.float64)
    np.testing.assert_array_equal(data.to_numpy(), X)
    np.testing.assert_array_equal(data[np.array([80, 3])].to_numpy(), X[[80, 3]])


def test_bfloat16(tmp_path):
    X = torch.arange(24, dtype=torch.bfloat16).view(8, 3)
    for number, part in enumerate(X.split(3)):
        safetensors.torch.save_file({"X": part.clone()}, tmp_path / f"{number}.safetensors")
    data = Activations(tmp_path)
    assert torch.equal(data.tensor, X)
    assert torch.equal(data[torch.tensor([7, 2])].tensor, X[[7, 2]])


def test_shards_without_rows_count_for_nothing(tmp_path, X):
    paths = written(tmp_path / "X", X)
    np.save(paths[1], X[:0])
    np.testing.assert_array_equal(Activations(paths).tensor, np.delete(X, 5, axis=0))


def test_answers_are_those_of_the_array(tmp_path, X):
    paths = written(tmp_path / "X", X)
    D = np.eye(4)[:3]
    for answer in (
        lambda data: encode(data, D, 0.2, engine="torch").codes.toarray(),
        lambda data: solve(WideLimit(data, 0.3)).value,
        lambda data: encode(data, D, 0.2, engine="torch").values,
    ):
        np.testing.assert_array_equal(answer(paths), answer(X))


def test_pickled_as_paths(tmp_path, X):
    data = Activations(written(tmp_path / "X", np.tile(X, (100, 1))))
    for some, rows in ((data, slice(None)), (data[3:77], slice(3, 77))):
        text = pickle.dumps(some)
        assert len(text) < 4000
        np.testing.assert_array_equal(pickle.loads(text).tensor, np.tile(X, (100, 1))[rows])


@pytest.mark.parametrize("change", ["removed", "shorter", "other numbers", "touched"])
@pytest.mark.parametrize("shard", [0, 2])
def test_a_shard_that_changes(tmp_path, X, change, shard):
    paths = written(tmp_path / "X", X)
    data = Activations(paths)
    solution, codes = solve(WideLimit(data, 0.3)), encode(data, np.eye(4)[:3], 0.2, engine="torch")
    path, part = paths[shard], np.split(X, ENDS)[shard]
    uses = (data.to_numpy, lambda: data[70:80], lambda: Activations(data), lambda: certify(solution), codes.refit)
    if change == "removed":
        path.unlink()
    elif change == "shorter":
        os.truncate(path, path.stat().st_size - 8)
    else:
        np.save(path, part if change == "touched" else part + 1)
        os.utime(path, (1, 1))
    for use in uses:
        if change == "touched":
            use()
            continue
        with rejects(rf"X was read from '{path}', which (has changed since|cannot be read now)"):
            use()


def test_shards_that_cannot_be_read_together(tmp_path, X):
    paths = written(tmp_path / "X", X)

    def refused(message, *more):
        with rejects(message.format(path=paths[2])):
            Activations([*paths, *more])

    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:-8])
    refused("X '{path}' cannot be read as .npy")
    paths[2].write_bytes(b"")
    refused("X '{path}' cannot be read as .npy")
    paths[2].unlink()
    refused("X '{path}' does not exist")
    np.save(paths[2], X[:, :3])
    refused(f"X '{{path}}' has dimension 3 but '{paths[0]}' has 4; all shards must have the same")
    np.save(paths[2], X.astype(np.float64))
    refused(f"X '{{path}}' is float64 but '{paths[0]}' is float32; write one dtype")
    np.save(paths[2], X[0])
    refused(r"X '{path}' has shape \(4,\); each shard has datapoints as rows")
    paths[2].write_bytes(whole)
    np.savez(tmp_path / "a.npz", X=X)
    refused(r"X is made of \.npy and \.npz files; pass shards of one type", tmp_path / "a.npz")
    broken = X[40:].copy()
    broken[3, 1] = np.nan
    np.save(paths[3], broken)
    refused(r"X holds 1 NaN or infinite value\(s\), the first in row 43")
    with rejects(r"X '.*a\.npz' has the file type '\.npz'; shards are .npy, .safetensors, .pt, .arrow or .parquet"):
        Activations([tmp_path / "a.npz", tmp_path / "a.npz"])


def test_folders_and_patterns_without_shards(tmp_path, X):
    with rejects("X '.*' holds no .npy, .safetensors, .pt, .arrow or .parquet file"):
        Activations(tmp_path)
    with rejects(r"X '.*\*\.npy' is a pattern that no file has"):
        Activations(str(tmp_path / "*.npy"))
    written(tmp_path / "X", X, ".safetensors")
    with rejects(r"X '.*part-8\.safetensors' holds 2 arrays \(acts, other\); choose one with"):
        Activations(tmp_path / "X")
    np.save(tmp_path / "empty.npy", X[:0])
    with rejects("X is made of 1 files without rows"):
        Activations([tmp_path / "empty.npy"])


def test_a_file_with_characters_of_patterns_in_its_name(tmp_path, X):
    np.save(tmp_path / "X[0].npy", X)
    np.testing.assert_array_equal(Activations(str(tmp_path / "X[0].npy")).tensor, X)


def test_outliers_leave_a_view(tmp_path, X):
    X[[0, 7, 8, 40, 89]] *= 1000
    data = Activations(written(tmp_path / "X", X))
    rest, gone = without_outliers(data)
    assert gone.rows.tolist() == find_outliers(X).rows.tolist() == [0, 7, 8, 40, 89]
    assert len(pickle.dumps(rest)) < 6000  # nothing was copied
    np.testing.assert_array_equal(rest.tensor, np.delete(X, gone.rows, axis=0))
    np.testing.assert_array_equal(rest[np.array([84, 0])].tensor, X[[88, 1]])
    part, gone = without_outliers(data[8:50])
    np.testing.assert_array_equal(part.tensor, np.delete(X[8:50], gone.rows, axis=0))


MEASURED = """
    import resource, sys
    from cvxsae import Activations
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = Activations(sys.argv[1])
    assert sum(float(batch.sum()) for batch in data.batches()) == 0
    assert float(data.spread(100).tensor.sum()) == 0
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory the way Linux reports it")
def test_shards_are_never_in_memory_together(tmp_path):
    for number in range(4):  # sparse files: zeros that take no disk
        np.lib.format.open_memmap(tmp_path / f"{number}.npy", mode="w+", dtype="f4", shape=(2**13, 2**11))
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(printed) < 150  # of 256 MB


def test_of_shards_a_process_reads_its_share_alone(tmp_path, X):
    paths = written(tmp_path / "X", X)
    np.save(paths[0], np.full_like(X[:5], np.nan))  # that of another process
    second = ProcessGroup(rank=1, size=2).shard(paths)
    np.testing.assert_array_equal(second.tensor, X[45:])


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_folder_we_are_in(path, tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.eye(3))
    monkeypatch.chdir(tmp_path)
    with rejects("X"):
        Activations(path)
