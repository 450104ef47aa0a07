"""Kept work: whole or not at all, and never believed unless it verifies."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import time
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from cvxsae import Activations
from cvxsae.data.archive import RECORD, write_npz
from cvxsae.data.files import read_arrays
from cvxsae.data.storage import MANIFEST, Folder, fingerprint, json_text, strict_json, write_atomically
from tests.helpers.sentences import rejects

ASKED = {"data": "ab" * 32, "lam": 0.1, "tol": 1e-4, "widths": [2, 4]}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(name="arrays")
def some_arrays(rng):
    codes = sparse.random_array((20, 9), density=0.3, rng=rng, format="csr")
    return {"dictionary": rng.normal(size=(9, 4)), "empty": np.zeros((0, 3), np.float32), "flag": np.bool_(True),
            "codes": codes, "columns": np.asfortranarray(rng.normal(size=(5, 3)))}  # fmt: skip


@pytest.fixture(name="folder")
def a_folder(tmp_path, arrays):
    folder = Folder(tmp_path / "kept", "codes", ASKED)
    folder.write("codes-000", {"value": 0.1 + 0.2, "gap": float("nan"), "status": "CERTIFIED"}, arrays)
    return folder


def again(folder, **changes):
    return Folder(folder.path, folder.kind, {**folder.asked, **changes})


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("content", [b"new", "new", lambda stream: stream.write(b"new")])
def test_a_file_is_replaced_as_a_whole(tmp_path, content):
    file = tmp_path / "file.txt"
    file.write_bytes(b"old and longer")
    assert write_atomically(str(file), content) == file
    assert file.read_bytes() == b"new" and names(tmp_path) == ["file.txt"]


def test_what_fails_while_it_writes_changes_nothing(tmp_path):
    file = tmp_path / "file.txt"
    file.write_bytes(b"old")

    def broken(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, broken)
    assert file.read_bytes() == b"old" and names(tmp_path) == ["file.txt"]


def test_paths_that_cannot_be_written_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "gone" / "a", "create it first"),
        (tmp_path / "file" / "a", "leads through a file"),
        (tmp_path / "folder", "is a directory"),
        (tmp_path / ("n" * 300), "cannot be written"),
        (str(tmp_path / "a\0b"), "cannot be the name of a file"),
        (str(tmp_path / "a\ud800"), "cannot be the name of a file"),
        ("/proc/nothing", "cannot be written|does not exist"),
        ("/dev/null", "not a regular file"),
    ):
        with rejects(f"target .*(?:{said})"):
            write_atomically(path, b"x", "target")
    assert names(tmp_path) == ["file", "folder"]


def test_folders_that_cannot_be_made_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path, said in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below" / "it", "is a file"),
        (tmp_path / ("n" * 300), "cannot be written"),
        (str(tmp_path / "a\0b"), "cannot be the name of a file"),
        (str(tmp_path / "a\ud800"), "cannot be the name of a file"),
        ("/proc/nothing", "cannot be written"),
    ):
        with rejects(f"target .*(?:{said})"):
            Folder(path, "codes", ASKED, name="target")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "mine").mkdir(mode=0o555)
    with rejects("folder .*cannot be written"):
        Folder(tmp_path / "mine", "codes", ASKED)


FULL = """
    import resource, sys
    import numpy as np
    from cvxsae.data.arguments import InputError
    from cvxsae.data.files import write_arrays
    from cvxsae.data.storage import Folder, write_atomically
    folder = Folder(sys.argv[1] + "/kept", "codes", {"lam": 0.1})
    folder.write("small", {"n": 1}, {"x": np.arange(3)})
    large = {"x": np.arange(10_000.0), "y": np.arange(10_000.0)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for attempt in (
        lambda: folder.write("small", {}, large),
        lambda: folder.write("large", {}, large),
        lambda: folder.write("text", {"long": "x" * 100_000}),
        lambda: write_atomically(sys.argv[1] + "/file", b"x" * 100_000),
        lambda: write_arrays(sys.argv[1] + "/a.npz", large),
        lambda: write_arrays(sys.argv[1] + "/a.safetensors", large),
        lambda: Folder(sys.argv[1] + "/other", "codes", {"lam": "x" * 10_000}),
    ):
        try:
            attempt()
        except InputError as error:
            assert "cannot be written" in str(error) and str(error).count(".") <= 3, error
        else:
            raise AssertionError("nothing was refused")
    assert folder.read("small").record == {"n": 1} and folder.keys() == ["small"]
    for attempt in (lambda: Folder(None, "codes"), lambda: Folder(3.5, "codes"), lambda: write_atomically(3, b"")):
        try:
            attempt()
        except InputError as error:
            assert "; pass a path." in str(error), error
        else:
            raise AssertionError("nothing was refused")
"""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path):
    subprocess.run([sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)], check=True)
    assert names(tmp_path) == ["kept", "other"] and names(tmp_path / "other") == []
    assert names(tmp_path / "kept") == [MANIFEST, "small.npz"]


# ---------------------------------------------------------------------- fingerprints and texts


def test_a_fingerprint_is_of_the_values_and_the_shape_alone(rng, tmp_path):
    X = rng.normal(size=(70, 6)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    expected = fingerprint(X)
    threads = torch.get_num_threads()
    for same in (
        X.astype(np.float64), np.asfortranarray(X), X.astype(">f8"), torch.from_numpy(X), Activations(X),
        Activations(tmp_path / "X.npy"), Activations(str(tmp_path / "X.npy"))[np.arange(70)], X.tolist(),
        np.repeat(X, 2, axis=0)[::2], torch.from_numpy(X).requires_grad_(),
    ):  # fmt: skip
        assert fingerprint(same) == expected
    try:
        torch.set_num_threads(1)
        assert fingerprint(X) == expected
    finally:
        torch.set_num_threads(threads)
    changed = X.copy()
    changed[69, 5] = np.nextafter(changed[69, 5], 9)
    for other in (changed, X[::-1], X[:69], X.reshape(60, 7), X.reshape(-1), X[:, ::-1]):
        assert fingerprint(other) != expected
    assert fingerprint(np.zeros((0, 3))) != fingerprint(np.zeros((3, 0)))
    assert fingerprint(np.arange(4)) == fingerprint(np.arange(4.0)) and fingerprint(np.float32(2)) == fingerprint(2)


def test_a_fingerprint_does_not_depend_on_the_size_of_blocks(rng, monkeypatch):
    X = rng.normal(size=(70, 6))
    expected = fingerprint(X)
    monkeypatch.setattr("cvxsae.data.storage.BLOCK_BYTES", 100)
    monkeypatch.setattr("cvxsae.data.activations.BATCH_BYTES", 100)
    assert fingerprint(X) == expected == fingerprint(Activations(X))


def test_data_changed_in_place_have_another_fingerprint(rng):
    X = rng.normal(size=(5, 2))
    data, before = Activations(X), fingerprint(X)
    X[3, 1] += 1
    assert fingerprint(X) != before
    with rejects("X was changed in place since it was passed"):
        fingerprint(data)


def test_texts_bring_floats_back_exactly():
    value = {"a": [0.1 + 0.2, 5e-324, float("inf")], "b": np.float64(1 / 3), "c": np.int64(2**62), "d": (True, None)}
    known = json.loads(json_text(value))
    assert known == {"a": [0.1 + 0.2, 5e-324, float("inf")], "b": 1 / 3, "c": 2**62, "d": [True, None]}
    with pytest.raises(TypeError, match="put it into the arrays"):
        json_text({"x": np.zeros(3)})
    json.loads(json_text(strict_json(value)), parse_constant=pytest.fail)


# ---------------------------------------------------------------------- folders


def test_a_record_comes_back_exactly(folder: Any, arrays: Any) -> None:
    for kept in (folder.read("codes-000"), again(folder).read("codes-000")):
        assert kept.record["value"] == 0.1 + 0.2 and np.isnan(kept.record["gap"])
        assert set(kept.arrays) == set(arrays)
        for name, array in arrays.items():
            found: Any = kept.arrays[name]
            assert found.dtype == array.dtype and found.shape == np.shape(array)
            dense = [getattr(one, "toarray", lambda one=one: one)() for one in (found, array)]
            np.testing.assert_array_equal(*dense)
    assert folder.keys() == ["codes-000"] and folder.read("codes-001") is None and folder.notes == []
    folder.remove("codes-000")
    folder.remove("codes-000")
    assert folder.keys() == [] and folder.read("codes-000") is None


def test_a_record_can_be_read_by_numpy_and_by_eye(folder, arrays):
    with np.load(folder.file("codes-000")) as archive:
        np.testing.assert_array_equal(archive["dictionary"], arrays["dictionary"])
    assert set(read_arrays(folder.file("codes-000"))) == set(arrays)
    with zipfile.ZipFile(folder.file("codes-000")) as archive:
        assert json.loads(archive.read(RECORD))["record"]["status"] == "CERTIFIED"


def test_a_folder_with_other_work_says_what_differs(folder):
    for changes, said in (
        ({"lam": 0.2}, r".*of another call, which differs in lam \(0.1 there, 0.2 here\)"),
        ({"data": "cd" * 32}, "which differs in data; pass"),
        ({"data": "cd" * 32, "widths": [2]}, r"in data, widths \(\[2, 4\] there, \[2\] here\)"),
        ({"seed": 1}, r"seed \(null there, 1 here\)"),
    ):
        with rejects(f"folder .*{said}"):
            again(folder, **changes)
    with rejects("folder .*holds codes, not a comparison"):
        Folder(folder.path, "a comparison", folder.asked)
    for text in ('{"version": 3}', "[1]", '{"format": 1, "kind": "codes", "asked": 3}'):
        (folder.path / MANIFEST).write_text(text)
        with rejects("folder .*did not write"):
            again(folder)
    (folder.path / MANIFEST).write_text(json.dumps({"format": 99, "kind": "codes", "asked": folder.asked}))
    with rejects("folder .*another version"):
        again(folder)
    assert folder.read("codes-000") is not None


def test_asked_is_compared_as_json(tmp_path):
    asked = {"widths": (1, 2), "lam": np.float64(0.1), "nan": float("nan"), "none": None}
    Folder(tmp_path, "codes", asked)
    Folder(tmp_path, "codes", {"none": None, "nan": float("nan"), "lam": 0.1, "widths": [1, 2]})


@pytest.mark.parametrize("lost", ["gone", "empty", "half", "directory", "noise"])
def test_a_lost_manifest_does_not_make_other_work_believed(folder, lost):
    file = folder.path / MANIFEST
    text = file.read_bytes()
    file.unlink()
    if lost == "directory":
        file.mkdir()
    elif lost != "gone":
        file.write_bytes({"empty": b"", "half": text[: len(text) // 2], "noise": b"\x80\x04\xff"}[lost])
    other = again(folder, data="cd" * 32)
    assert other.read("codes-000") is None and "belongs to another call" in other.notes[-1]
    other.write("codes-000", {"mine": 1})
    assert other.read("codes-000").record == {"mine": 1}
    assert (folder.path / "codes-000.npz.unverified").is_file(), "the other's work is lost"
    with rejects("folder .*which differs in data"):
        again(folder)
    (folder.path / MANIFEST).unlink()
    (folder.path / "codes-000.npz.unverified").replace(folder.file("codes-000"))
    assert again(folder).read("codes-000").record["status"] == "CERTIFIED"


def damages(folder, arrays, rng):
    """Ways in which a record can be something else, as functions of its path."""
    other = Folder(folder.path.parent / "other", "codes", {**folder.asked, "data": "cd" * 32})
    other.write("codes-000", {"value": 0.0}, arrays)
    folder.write("codes-001", {"value": 0.0}, arrays)
    with zipfile.ZipFile(folder.file("codes-000")) as archive:
        head = archive.read(RECORD).decode()
    dense = {"dictionary": arrays["dictionary"]}

    def rewrite(path, arrays, text):
        with path.open("wb") as stream:
            write_npz(stream, arrays, {} if text is None else {RECORD: text})

    def flip(path):
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)

    def directory(path):
        path.unlink()
        path.mkdir()

    def link(path):
        path.unlink()
        path.symlink_to(path)

    def fifo(path):
        path.unlink()
        os.mkfifo(path)

    return {
        "empty": lambda path: path.write_bytes(b""),
        "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "one byte more": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        "foreign": lambda path: path.write_bytes(other.file("codes-000").read_bytes()),
        "another key": lambda path: path.write_bytes(folder.file("codes-001").read_bytes()),
        "pickle": lambda path: path.write_bytes(pickle.dumps({"record": 1})),
        "noise": lambda path: path.write_bytes(rng.bytes(1000)),
        "an array tripled": lambda path: rewrite(path, {"dictionary": 3 * arrays["dictionary"]}, head),
        "an array of NaN": lambda path: rewrite(path, {"dictionary": np.nan * arrays["dictionary"]}, head),
        "arrays missing": lambda path: rewrite(path, {}, head),
        "no record": lambda path: rewrite(path, dense, None),
        "a record of numpy": lambda path: np.savez(path, dictionary=np.eye(2)),
        "a value edited": lambda path: rewrite(path, dense, head.replace("CERTIFIED", "PERFECT")),
        "not JSON": lambda path: rewrite(path, dense, "{"),
        "a list": lambda path: rewrite(path, dense, "[]"),
        "deep": lambda path: rewrite(path, dense, "[" * 100_000),
        "another version": lambda path: rewrite(path, dense, head.replace('"format": 1', '"format": 0')),
        "directory": directory,
        "link to itself": link,
        "pipe": fifo,
        **{f"bit {number}": flip for number in range(40)},
    }


def test_no_damaged_record_is_believed_and_each_can_be_computed_again(folder, arrays, rng):
    whole = folder.file("codes-000").read_bytes()
    kept = json_text(folder.read("codes-000").record)
    for name, damage in damages(folder, arrays, rng).items():
        damage(folder.file("codes-000"))
        fresh = again(folder)
        found = fresh.read("codes-000")
        if name.startswith("bit") and found is not None:  # a bit that says nothing, as of the time of a member
            assert json_text(found.record) == kept
            np.testing.assert_array_equal(found.arrays["dictionary"], arrays["dictionary"])
        else:
            assert found is None, name
            assert "is not used and what it held is computed again" in fresh.notes[-1]
        fresh.write("codes-000", {"value": 1.5})
        assert again(folder).read("codes-000").record == {"value": 1.5}, name
        for aside in folder.path.glob("*.unverified"):
            aside.rmdir() if aside.is_dir() else aside.unlink()
        folder.file("codes-000").write_bytes(whole)
    assert again(folder).read("codes-000").record["status"] == "CERTIFIED"


def test_what_is_written_over_is_never_lost_twice(folder):
    for number in range(3):
        folder.file("codes-000").write_bytes(b"precious %d" % number)
        again(folder).write("codes-000", {"value": number})
    kept = {file.read_bytes() for file in folder.path.glob("*.unverified")}
    assert kept == {b"precious 0", b"precious 1", b"precious 2"}


def test_notes_are_logged(folder, caplog):
    folder.file("codes-000").write_bytes(b"")
    assert again(folder).read("codes-000") is None
    assert "is not used" in caplog.text


def test_a_folder_that_is_only_looked_at_is_not_made(tmp_path):
    folder = Folder(tmp_path / "new", "codes", ASKED, create=False)
    assert folder.keys() == [] and folder.read("a") is None and names(tmp_path) == []
    folder.write("a", {"x": 1})
    assert names(tmp_path / "new") == ["a.npz", MANIFEST]


def test_a_folder_deleted_meanwhile_is_made_again(folder, tmp_path):
    import shutil

    shutil.rmtree(folder.path)
    assert folder.read("codes-000") is None
    folder.write("codes-001", {"x": 1})
    assert again(folder).read("codes-001").record == {"x": 1}


def test_folders_travel_between_processes(folder):
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.read("codes-000").record["status"] == "CERTIFIED"


@pytest.mark.parametrize("key", ["", ".hidden", "../up", "a/b", "a b", "ä", "a\0"])
def test_keys_are_names(folder, key):
    with pytest.raises(ValueError, match="cannot be the key"):
        folder.write(key, {})


# ---------------------------------------------------------------------- several processes


def write_forever(path, seed):
    folder, number = Folder(path, "codes", ASKED), 0
    while True:
        folder.write(f"block-{number % 4}", {"number": number, "seed": seed}, {"x": np.full(100_000, number)})
        number += 1


@pytest.mark.slow
def test_kill_9_at_random_moments_leaves_whole_records(tmp_path):
    """Two processes write the same records; both are killed, five times over."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cvxsae.data.storage"])
    rng = np.random.default_rng()  # random moments are the point
    for _ in range(5):
        writers = [context.Process(target=write_forever, args=(tmp_path / "kept", seed)) for seed in (1, 2)]
        for writer in writers:
            writer.start()
        folder, deadline = Folder(tmp_path / "kept", "codes", ASKED), time.monotonic() + 60
        while len(folder.keys()) < 4 and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        for writer in writers:
            writer.kill()
            writer.join()
        folder = Folder(tmp_path / "kept", "codes", ASKED)
        assert folder.keys() == [f"block-{number}" for number in range(4)]
        for key in folder.keys():  # noqa: SIM118
            kept = folder.read(key)
            assert kept is not None
            assert (kept.arrays["x"] == kept.record["number"]).all()
        assert folder.notes == []
    with folder.lock():  # alone, whatever is unfinished is of the dead
        assert not list(folder.path.glob(".*.partial"))


def hold(path, held, release):
    with Folder(path, "codes", ASKED).lock():
        held.set()
        release.wait()


def test_one_process_at_a_time_and_a_lock_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("forkserver")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "kept", held, release))
    process.start()
    assert held.wait(60)
    folder = Folder(tmp_path / "kept", "codes", ASKED)
    with rejects(rf"folder .*in use by process {process.pid} on .* since .*; wait for it or stop it"), folder.lock():
        pass
    process.kill()
    process.join()
    with folder.lock() as token:
        assert folder.is_held_with(token) and not folder.is_held_with("other")
        with rejects("folder .*in use"), again(folder).lock():
            pass


def test_what_a_killed_process_left_is_removed_once_it_is_old(folder):
    left = folder.path / ".0123456789abcdef.partial"
    left.write_bytes(b"half")
    again(folder)
    assert left.exists(), "another process may be writing it"
    os.utime(left, (1e9, 1e9))
    again(folder)
    assert not left.exists()
