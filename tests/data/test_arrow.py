"""Arrow and Parquet: columns of vectors and of contexts as rows, as pyarrow and datasets write them."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cvxsae import Activations, WideLimit, solve
from tests.helpers.sentences import rejects

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((120, 4)).astype(np.float32)


def column(X, kind):
    """Vectors as pyarrow has them: lists of some kind, or contexts of several."""
    numbers = pa.array(X.reshape(-1))
    ends = np.arange(len(X) + 1, dtype=np.int32) * X.shape[1]
    lists = pa.ListArray.from_arrays(ends, numbers)
    fixed = pa.FixedSizeListArray.from_arrays(numbers, X.shape[1])
    if kind in ("list", "fixed"):
        return lists if kind == "list" else fixed
    if kind == "large":
        return pa.LargeListArray.from_arrays(ends.astype(np.int64), numbers)
    if kind == "contexts":
        return pa.FixedSizeListArray.from_arrays(fixed, 6)
    cuts = np.array([0, 3, 3, 20, 100, len(X)], np.int32)  # contexts of different lengths, one without tokens
    return pa.ListArray.from_arrays(cuts, lists)


KINDS = ["list", "fixed", "large", "contexts", "ragged contexts"]


def table(X, kind, name=HOOK):
    vectors = column(X, kind)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * len(vectors), np.int32)), 3)
    return pa.table({"token_ids": tokens, name: vectors, "text": pa.array(["a"] * len(vectors))})


def write(path, data, form="stream", **options):
    if form == "parquet":
        pq.write_table(data, path, row_group_size=2, **options)
        return path
    made = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    compression = pa.ipc.IpcWriteOptions(compression="lz4") if form == "compressed" else None
    made = pa.ipc.new_stream if form == "compressed" else made
    with pa.OSFile(str(path), "wb") as sink, made(sink, data.schema, options=compression) as writer:
        writer.write_table(data, max_chunksize=7)
    return path


def saved_to_disk(folder, X, kind="contexts"):
    """What ``datasets`` leaves in a folder."""
    folder.mkdir()
    names = [f"data-{number:05}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (X[:48], X[48:]), strict=True):
        write(folder / name, table(part, kind))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["stream", "file", "compressed", "parquet"])
def test_every_kind_of_column_and_file(tmp_path, X, kind, form):
    path = write(tmp_path / f"X.{'parquet' if form == 'parquet' else 'arrow'}", table(X, kind), form)
    data = Activations(path)
    assert (data.shape, data.dtype) == ((120, 4), torch.float32)
    assert data.is_forward_only == (form in ("compressed", "parquet"))
    for rows in (1, 50, None):
        np.testing.assert_array_equal(torch.cat(list(data.batches(rows=rows, dtype=None))), X)
    np.testing.assert_array_equal(data[17:99].tensor, X[17:99])
    np.testing.assert_array_equal(data[np.array([119, 5, 40])].tensor, X[[119, 5, 40]])
    np.testing.assert_array_equal(Activations(f"{path}::{HOOK}").tensor, X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).tensor, X)
    assert len(pickle.dumps(data)) < 16_000


def test_a_saved_data_set_is_read_in_its_order(tmp_path, X):
    folder = saved_to_disk(tmp_path / "cached", X)
    data = Activations(folder)
    np.testing.assert_array_equal(data.tensor, X)
    np.testing.assert_array_equal(Activations(f"{folder}::{HOOK}").tensor, X)
    assert solve(WideLimit(folder, 0.3)).value == solve(WideLimit(X, 0.3)).value
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    np.testing.assert_array_equal(Activations(folder).tensor, np.concatenate([X[48:], X[:48]]))


@pytest.mark.parametrize("form", ["stream", "parquet"])
def test_several_files(tmp_path, X, form):
    suffix = "parquet" if form == "parquet" else "arrow"
    paths = [write(tmp_path / f"{n}.{suffix}", table(X[40 * n :][:40], "list"), form) for n in range(3)]
    for given in (paths, tmp_path, str(tmp_path / f"*.{suffix}")):
        np.testing.assert_array_equal(Activations(given).tensor, X)
    data = Activations(paths)
    write(paths[1], table(X[:40], "list"), form)
    for use in (data.to_numpy, lambda: data[np.array([50])], lambda: Activations(data)):
        with rejects(rf"X was read from '{paths[1]}', which has changed since"):
            use()
    paths[1].unlink()
    with rejects(rf"X was read from '{paths[1]}', which cannot be read now"):
        data.to_numpy()
    with rejects(rf"X '{paths[1]}' does not exist"):
        Activations(paths)


@pytest.mark.parametrize("form", ["stream", "parquet"])
def test_shards_that_do_not_fit(tmp_path, X, form):
    suffix = "parquet" if form == "parquet" else "arrow"
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write(first, table(X, "list"), form)
    write(second, table(X[:, :3], "fixed"), form)
    with rejects(rf"X '{second}'.* (has dimension 3|holds float32 vectors of length 3)"):
        Activations([first, second])
    write(second, table(X.astype(np.float64), "list"), form)
    with rejects(rf"X '{second}', column '{HOOK}', holds vectors of double but '{first}' of float"):
        Activations([first, second])
    write(second, table(X, "list", "other"), form)
    with rejects(rf"X '{second}' has no column '{HOOK}'; those that hold vectors: token_ids, other"):
        Activations([first, second])
    np.testing.assert_array_equal(Activations([f"{first}::{HOOK}", f"{second}::other"]).tensor, [*X, *X])


def test_columns_that_cannot_be_chosen_or_read(tmp_path, X):
    two = write(tmp_path / "a.arrow", table(X, "list").append_column("more", column(X, "fixed")))
    with rejects(rf"X '{two}' has 2 columns of vectors \({HOOK}, more\); choose one with '{two}::COLUMN'"):
        Activations(two)
    np.testing.assert_array_equal(Activations(f"{two}::more").tensor, X)
    np.testing.assert_array_equal(Activations(f"{two}::token_ids").to_numpy(), np.zeros((120, 3)))
    with rejects(rf"X '{two}' has no vectors in column 'text'; those that do: token_ids, {HOOK}, more"):
        Activations(f"{two}::text")
    with rejects(rf"X '{two}' has no column 'none'"):
        Activations(f"{two}::none")
    scalars = write(tmp_path / "b.arrow", pa.table({"text": ["a"], "number": [1.0]}))
    with rejects(rf"X '{scalars}' has 0 columns of vectors \(none\)"):
        Activations(scalars)
    for number, (vectors, message) in enumerate(
        [
            ([[1.0, 2.0], [1.0]], "holds vectors of length 1 and 2; all must be alike"),
            ([[1.0, 2.0], None], r"holds 1 missing value\(s\); drop those rows"),
            ([[1.0, 2.0], [1.0, None]], r"holds 1 missing number\(s\); drop those rows"),
        ]
    ):
        for form in ("stream", "parquet"):
            suffix = "parquet" if form == "parquet" else "arrow"
            path = write(tmp_path / f"{number}.{suffix}", pa.table({"v": vectors}), form)
            with rejects(rf"X '{path}', column 'v', {message}"):
                Activations(path)
    empty = write(tmp_path / "c.arrow", table(X[:0], "list"))
    with rejects(rf"X '{empty}', column '{HOOK}', holds no vectors"):
        Activations(empty)


@pytest.mark.parametrize("form", ["stream", "file", "parquet"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
def test_truncated_files(tmp_path, X, form, kept):
    path = write(tmp_path / f"X.{'parquet' if form == 'parquet' else 'arrow'}", table(X, "list"), form)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with rejects(rf"X '{path}' cannot be read as \.(arrow|parquet)"):
        Activations(path)


def test_a_stream_that_ends_between_two_batches(tmp_path, X):
    path = write(tmp_path / "X.arrow", table(X, "list"))
    path.write_bytes(path.read_bytes()[:-8])
    with rejects(rf"X '{path}' cannot be read as \.arrow \(its end is missing\)"):
        Activations(path)


def test_folders_that_are_no_data_set(tmp_path, X):
    (tmp_path / "all").mkdir()
    folder = saved_to_disk(tmp_path / "all" / "train", X)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with rejects("X '.*all' holds the splits train; pass the folder of one of them"):
        Activations(tmp_path / "all")
    missing = folder / "data-00001-of-00002.arrow"
    missing.unlink()
    with rejects(rf"X '{missing}' does not exist"):
        Activations(folder)
    (folder / "state.json").write_text("[]")
    with rejects("X '.*train' has a state.json that does not list the data's files"):
        Activations(folder)


def test_what_datasets_writes(tmp_path, X):
    datasets = pytest.importorskip("datasets", reason="datasets is not a dependency")
    features = datasets.Features(
        {HOOK: datasets.Array2D((6, 4), "float32"), "token_ids": datasets.Sequence(datasets.Value("int32"), length=6)}
    )
    rows = {HOOK: list(X.reshape(-1, 6, 4)), "token_ids": np.zeros((20, 6), np.int32)}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "X", num_shards=3)
    np.testing.assert_array_equal(Activations(tmp_path / "X").tensor, X)
    made.to_parquet(tmp_path / "X.parquet")
    np.testing.assert_array_equal(Activations(tmp_path / "X.parquet").tensor, X)
