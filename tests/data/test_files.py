"""Files: what is read, what is never opened, and that saving is all or nothing."""

import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import sparse

from cvxsae import Activations
from cvxsae.data import gather_batches, read_array, read_arrays, write_arrays
from cvxsae.data.files import read_saved
from tests.helpers.sentences import rejects

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("exploded",)


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((6, 4)).astype(np.float32)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(path, array):
    """Write one array in the format of the suffix."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, X=array)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(array), path)
    else:
        safetensors.torch.save_file({"X": torch.from_numpy(array)}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("as_string", [True, False])
def test_each_format_is_read(tmp_path, X, suffix, as_string):
    path = save(tmp_path / f"X{suffix}", X)
    before = path.read_bytes()
    data = Activations(str(path) if as_string else path)
    assert data.tensor.dtype == torch.float32
    np.testing.assert_array_equal(data.to_numpy(), X)
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_dtypes_of_torch_files(tmp_path, X, dtype, suffix):
    stored = torch.from_numpy(X).to(dtype)
    path = tmp_path / f"X{suffix}"
    torch.save({"X": stored}, path) if suffix == ".pt" else safetensors.torch.save_file({"X": stored}, path)
    read = read_array(path, "X")
    assert isinstance(read, torch.Tensor)
    assert read.dtype == dtype
    assert torch.equal(read, stored)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i4"])
def test_npy_is_memory_mapped(tmp_path, X, dtype):
    read = read_array(save(tmp_path / "X.npy", X.astype(dtype)), "X")
    assert isinstance(read, np.memmap)
    assert read.mode == "r"
    np.testing.assert_array_equal(Activations(read).to_numpy(), X.astype(dtype))


def mapped_files():
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux for the open maps")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_torch_files_are_memory_mapped(tmp_path, X, suffix):
    path = save(tmp_path / f"X{suffix}", X)
    array = read_array(path, "X")
    assert str(path) in mapped_files()
    del array
    data = Activations(path)
    assert str(path) not in mapped_files()  # nothing can die of a page that is gone
    np.testing.assert_array_equal(data.to_numpy(), X)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_keys(tmp_path, X, suffix):
    path = tmp_path / f"two{suffix}"
    if suffix == ".npz":
        np.savez(path, a=X, b=2 * X)
    elif suffix == ".pt":
        torch.save({"a": torch.from_numpy(X), "b": torch.from_numpy(2 * X), "step": 3}, path)
    else:
        safetensors.torch.save_file({"a": torch.from_numpy(X), "b": torch.from_numpy(2 * X)}, path)
    np.testing.assert_array_equal(np.asarray(read_array(path, "X", key="b")), 2 * X)
    np.testing.assert_array_equal(Activations(f"{path}::a").to_numpy(), X)
    with rejects(r"X '.*' holds 2 arrays \(a, b\); choose one with '.*::KEY'"):
        read_array(path, "X")
    with rejects(r"X '.*' has no array 'c'; it holds a, b"):
        read_array(f"{path}::c", "X")


def test_key_of_npy(tmp_path, X):
    with rejects("X '.*' is one array and has no key 'a'"):
        read_array(f"{save(tmp_path / 'X.npy', X)}::a", "X")


def test_colons_in_a_file_name(tmp_path, X):
    np.testing.assert_array_equal(read_array(save(tmp_path / "a::b.npy", X), "X"), X)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_no_arrays(tmp_path, suffix):
    path = tmp_path / f"none{suffix}"
    if suffix == ".npz":
        np.savez(path)
    elif suffix == ".pt":
        torch.save({"step": 3}, path)
    else:
        safetensors.torch.save_file({}, path)
    with rejects("X '.*' holds no arrays"):
        read_array(path, "X")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_pickle_in_disguise(tmp_path, monkeypatch, suffix, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"X{suffix}"
    path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    with rejects("X '.*' (is a pickle|cannot be read as)"):
        Activations(path)
    assert not (tmp_path / "exploded").exists()


def zipped(entries):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return archive.getvalue()


def object_npy():
    stream = io.BytesIO()
    np.save(stream, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    return stream.getvalue()


def npy_header(text):
    return b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n"


def torch_bomb():
    stream = io.BytesIO()
    torch.save({"X": Bomb()}, stream)
    return stream.getvalue()


def legacy_torch():
    stream = io.BytesIO()
    torch.save(torch.ones(2, 2), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


HOSTILE = {
    "object npy": ("X.npy", object_npy, "X '.*' cannot be read as .npy .*objects"),
    "object npz": ("X.npz", lambda: zipped({"X.npy": object_npy()}), "X '.*' cannot be read as .npz .*[Oo]bject"),
    "pickle in npz": ("X.npz", lambda: zipped({"X.npy": pickle.dumps(Bomb())}), "X '.*' cannot be read as .npz"),
    "text in npz": ("X.npz", lambda: zipped({"X": b"hello"}), "X '.*' cannot be read as .npz"),
    "code in pt": ("X.pt", torch_bomb, "X '.*' cannot be read as .pt"),
    "legacy pt": ("X.pt", legacy_torch, "X '.*' is a pickle"),
    "zip named npy": ("X.npy", lambda: zipped({"X.npy": b""}), "X '.*' cannot be read as .npy .*magic"),
    "zip named pt": ("X.pt", lambda: zipped({"X": b""}), "X '.*' cannot be read as .pt"),
    "list in pt": ("X.pt", lambda: buffer_of([torch.ones(2, 2)]), "X '.*' cannot be read as .pt .it holds a list"),
    "empty file npy": ("X.npy", lambda: b"", "X '.*' cannot be read as .npy"),
    "empty file npz": ("X.npz", lambda: b"", "X '.*' cannot be read as .npz"),
    "empty file pt": ("X.pt", lambda: b"", "X '.*' cannot be read as .pt"),
    "empty file safetensors": ("X.safetensors", lambda: b"", "X '.*' cannot be read as .safetensors"),
    "text": ("X.npz", lambda: b"hello", "X '.*' cannot be read as .npz .it is not a zip archive"),
    "huge header": ("X.safetensors", lambda: b"\xff" * 64, "X '.*' cannot be read as .safetensors"),
    "huge shape": (
        "X.npy",
        lambda: (
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr':'<f8','fortran_order':False,'shape':(9999999999,9999)}".ljust(117)
            + b"\n"
        ),
        "X '.*' cannot be read as .npy",
    ),
}


def buffer_of(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("file_name, content, message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(tmp_path, monkeypatch, file_name, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file_name
    path.write_bytes(content())
    with rejects(message):
        Activations(path)
    assert names(tmp_path) == [file_name]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.99])
def test_truncated_files(tmp_path, rng, suffix, kept):
    path = save(tmp_path / f"X{suffix}", rng.standard_normal((50, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with rejects("X '.*' cannot be read as"):
        Activations(path)


def test_missing_and_unknown(tmp_path):
    with rejects("X '.*none.npy' does not exist; pass the path of a file"):
        Activations(tmp_path / "none.npy")
    with rejects("X '.*' holds no .npy"):
        Activations(tmp_path)
    with rejects("X '.*' cannot be opened"):
        Activations("x" * 5000 + ".npy")
    with rejects("X '/dev/null' is not a file"):
        Activations("/dev/null")
    for name in ("X.csv", "X.pkl", "X"):
        (tmp_path / name).write_text("1,2")
        with rejects(
            "X '.*' has the file type '(.csv|.pkl|none)'; pass a .npy, .npz, .safetensors, .pt, .arrow or .parquet"
        ):
            Activations(tmp_path / name)


# Batches


@pytest.mark.parametrize("memory_limit", [0, 100, 10**9])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32], ids=str)
def test_batches_are_gathered(rng, memory_limit, dtype):
    batches = [torch.from_numpy(rng.integers(0, 9, (n, 3))).to(dtype) for n in (4, 0, 1, 7)]
    gathered = gather_batches(iter(batches), "X", memory_limit=memory_limit)
    assert gathered.dtype == (dtype if dtype.is_floating_point else torch.float64)
    assert torch.equal(gathered, torch.cat(batches).to(gathered.dtype))


@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_a_reused_buffer_is_copied(memory_limit):
    def batches():
        buffer = np.empty((2, 3))
        for index in range(4):
            buffer[:] = index
            yield buffer

    gathered = gather_batches(batches(), "X", memory_limit=memory_limit)
    np.testing.assert_array_equal(gathered[:, 0], [0, 0, 1, 1, 2, 2, 3, 3])


def test_views_and_narrower_batches(rng):
    base = rng.standard_normal((6, 6))
    batches = [base[::2, ::-1], base.T, base.astype(np.float32), torch.ones(1, 6, dtype=torch.bfloat16)]
    expected = np.concatenate([np.asarray(b, dtype=np.float64) for b in batches[:3]] + [np.ones((1, 6))])
    np.testing.assert_array_equal(gather_batches(batches, "X"), expected)


def test_the_temporary_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gathered = gather_batches([np.ones((3, 2))] * 4, "X", memory_limit=50)
    assert names(tmp_path) == []
    assert float(gathered.sum()) == 24


@pytest.mark.parametrize(
    "batches, message",
    [
        ([np.ones((2, 3)), np.ones((2, 4))], r"X \(batch 1\) has dimension 4 but batch 0 has 3"),
        ([np.ones((2, 3)), np.ones(3)], r"X \(batch 1\) has shape \(3,\)"),
        ([np.ones((2, 3), "f4"), np.ones((2, 3))], r"X \(batch 1\) is float64 but batch 0 is float32"),
        ([torch.ones(2, 3).half(), torch.ones(2, 3).bfloat16()], r"X \(batch 1\) is bfloat16 but batch 0 is float16"),
        ([np.ones((2, 3)), "text"], r"X \(batch 1\) is a str"),
        ([np.ones((2, 3)), None], r"X \(batch 1\) is a NoneType"),
        ([np.ones((2, 3)), np.ones((2, 3), dtype=complex)], r"X \(batch 1\) has dtype complex128"),
        ([np.ones((0, 3))], "X yields no rows"),
        ([], "X yields no rows"),
    ],
)
@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_batches_that_do_not_fit(batches, message, memory_limit):
    with rejects(message):
        gather_batches(iter(batches), "X", memory_limit=memory_limit)


def test_not_finite_in_a_later_batch():
    with rejects(r"X holds 1 NaN or infinite value\(s\), the first in row 3"):
        Activations(iter([np.ones((2, 2)), np.array([[0, 0], [0, np.nan]])]))


@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_the_iterators_own_error_passes(memory_limit):
    def batches():
        yield np.ones((2, 2))
        raise FileNotFoundError(2, "gone", "shard-1")

    with pytest.raises(FileNotFoundError, match="gone"):
        gather_batches(batches(), "X", memory_limit=memory_limit)


def test_full_disk(monkeypatch):
    class Full(io.RawIOBase):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with rejects("X does not fit in '.*' .No space left on device.; point TMPDIR to a larger disk"):
        gather_batches([np.ones((2, 2))], "X", memory_limit=0)


# Saving


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saved_arrays_come_back(tmp_path, rng, suffix):
    dense = rng.standard_normal((4, 3))
    read_only = dense.astype(np.float32)
    read_only.flags.writeable = False
    codes: Any = sparse.random_array((50, 7), density=0.1, rng=rng, format="csr")
    mapping: dict[str, Any] = {
        "codes": codes,
        "transposed": sparse.coo_array(codes.transpose()),
        "dictionary": dense,
        "file": dense.T,
        "half": torch.from_numpy(dense).half(),
        "read_only": read_only,
        "reversed": dense[::-1],
        "counts": np.arange(3),
        "value": 0.25,
        "none": np.zeros((0, 3)),
        "empty": sparse.csr_array((3, 4)),
    }
    path = write_arrays(tmp_path / f"saved{suffix}", mapping)
    back = read_arrays(path)
    assert back.keys() == mapping.keys()
    for name, value in mapping.items():
        found: Any = back[name]
        if name in ("codes", "transposed", "empty"):
            assert isinstance(found, sparse.csr_array)
            assert found.shape == value.shape
            np.testing.assert_array_equal(found.toarray(), value.toarray())
        else:
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, np.asarray(value))
            assert found.dtype == np.asarray(value).dtype
    np.testing.assert_array_equal(np.asarray(read_array(path, "D", key="dictionary")), dense)
    assert names(tmp_path) == [path.name]


def test_bfloat16_is_saved_to_safetensors_only(tmp_path):
    mapping = {"X": torch.ones(2, 2).bfloat16()}
    back = read_arrays(write_arrays(tmp_path / "X.safetensors", mapping))["X"]
    assert isinstance(back, torch.Tensor)
    assert back.dtype == torch.bfloat16
    with rejects("'X' is bfloat16, which .npz cannot hold; save to .safetensors"):
        write_arrays(tmp_path / "X.npz", mapping)
    assert names(tmp_path) == ["X.safetensors"]


def test_parts_that_share_memory_are_saved(tmp_path):
    both = torch.arange(6.0).reshape(2, 3)
    back = read_arrays(write_arrays(tmp_path / "X.safetensors", {"a": both, "b": both[1], "c": both[0, 1:]}))
    np.testing.assert_array_equal(back["b"], [3, 4, 5])
    np.testing.assert_array_equal(back["c"], [1, 2])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saving_is_all_or_nothing(tmp_path, monkeypatch, suffix):
    path = write_arrays(tmp_path / f"X{suffix}", {"X": np.ones(3)})
    before = path.read_bytes()
    unsavable: list[tuple[dict[str, Any], str]] = [
        ({"X": np.zeros(3), "name": "text"}, "mapping has 'name' of dtype <U4; only arrays of real numbers"),
        ({"X": None}, "mapping has 'X' of dtype object"),
        ({"c": sparse.eye_array(2), "c.data": np.ones(2)}, "two arrays would be saved as 'c.data'"),
    ]
    for bad, message in unsavable:
        with rejects(message):
            write_arrays(path, bad)

    def fails(_, __):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", fails)
    with rejects("path '.*' cannot be written .No space left on device"):
        write_arrays(path, {"X": np.zeros(3)})
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


def test_where_nothing_can_be_saved(tmp_path):
    for name in ("X.npy", "X"):
        with rejects("path '.*' has the file type '.*'; use .npz or .safetensors"):
            write_arrays(tmp_path / name, {"X": np.ones(2)})
    with rejects("out '.*' is in a folder that does not exist; create"):
        write_arrays(tmp_path / "none" / "X.npz", {"X": np.ones(2)}, name="out")
    (tmp_path / "folder.npz").mkdir()
    with rejects("path '.*' is a directory"):
        write_arrays(tmp_path / "folder.npz", {"X": np.ones(2)})


def test_saved_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    path = write_arrays(tmp_path / "X.npz", {"X": np.ones(2)})
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_codes_whose_parts_contradict_each_other(tmp_path, suffix):
    parts = {
        "c.data": np.ones(1),
        "c.indices": np.array([9]),
        "c.indptr": np.array([0, 1]),
        "c.shape": np.array([1, 2]),
    }
    path = write_arrays(tmp_path / f"c{suffix}", parts)
    with rejects("path '.*' cannot be read as"):
        read_arrays(path)


def test_reading_back_what_is_not_there(tmp_path):
    with rejects("certificate '.*' does not exist"):
        read_arrays(tmp_path / "none.npz", name="certificate")
    np.save(tmp_path / "X.npy", np.ones(2))
    with rejects("path '.*' has the file type '.npy'; use .npz or .safetensors"):
        read_arrays(tmp_path / "X.npy")


def test_what_torch_saved_is_read_whole(tmp_path):
    path = tmp_path / "X.pt"
    torch.save({"weight": torch.ones(2, 3, dtype=torch.bfloat16), "name": "TopK", "nested": {"k": 3}}, path)
    held = read_saved(path, "X")
    assert held["weight"].dtype == torch.bfloat16
    assert (held["name"], held["nested"]) == ("TopK", {"k": 3})
    torch.save(torch.ones(2), path)
    with rejects("X '.*' cannot be read as .pt .*not a dict of tensors"):
        read_saved(path, "X")
    torch.save({"weight": torch.ones(2), "bomb": Bomb()}, path)
    with rejects("X '.*' cannot be read as .pt"):
        read_saved(path, "X")


def test_a_long_name_without_a_suffix_is_shown_in_short():
    with rejects(r"path 'x+\.\.\.x+' has the file type 'none'; use .npz or .safetensors"):
        write_arrays("x" * 5000, {"a": np.ones(1)})
