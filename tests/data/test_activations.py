"""Everything that is accepted, and what is shared, streamed or left alone."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from cvxsae import Activations
from cvxsae.data import files
from cvxsae.data.stored import StoredRows

NUMPY_DTYPES = ["f2", "f4", "f8", ">f2", ">f4", ">f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "g"]
TORCH_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


def values(n_points: int = 7, dim: int = 3) -> np.ndarray:
    return np.arange(n_points * dim, dtype=np.float64).reshape(n_points, dim) % 5


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_numpy_dtypes(dtype):
    given = values().astype(dtype)
    before = given.copy()
    np.testing.assert_array_equal(Activations(given).to_numpy(), before.astype(np.float64))
    np.testing.assert_array_equal(given, before)
    assert given.dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_torch_dtypes(dtype, device):
    given = torch.from_numpy(values()).to(dtype=dtype, device=device)
    data = Activations(given)
    assert data.tensor.dtype == (dtype if dtype.is_floating_point else torch.float64)
    np.testing.assert_array_equal(data.to_numpy(), given.cpu().double().numpy())


def test_tensor_that_requires_grad_is_shared_and_detached():
    given = torch.ones(2, 3, requires_grad=True)
    data = Activations(given)
    assert not data.tensor.requires_grad
    assert given.requires_grad
    assert data.tensor.data_ptr() == given.data_ptr()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a.T.copy().T,
        lambda a: a[::2],
        lambda a: a[:, 1:],
        lambda a: a[1:2],
        np.asfortranarray,
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("writeable", [True, False])
def test_float_arrays_are_shared(view, dtype, writeable):
    given = view(values().astype(dtype))
    given.flags.writeable = writeable and given.flags.writeable
    data = Activations(given)
    assert np.shares_memory(data.tensor.numpy(), given)
    np.testing.assert_array_equal(data.to_numpy(), given)


def test_float64_is_shared_to_the_end():
    given = values()
    assert np.shares_memory(Activations(given).to_numpy(), given)


def test_shared_read_only_memory_outlives_its_owner():
    given = values(1000, 50)
    expected = given.copy()
    given.flags.writeable = False
    data = Activations(given)
    del given
    junk = [np.full((1000, 50), np.nan) for _ in range(10)]
    np.testing.assert_array_equal(data.to_numpy(), expected)
    del junk


@pytest.mark.parametrize("view", [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.astype(">f4")[::-1]])
def test_what_torch_cannot_address_is_converted(view):
    given = view(values().astype(np.float32))
    np.testing.assert_array_equal(Activations(given).to_numpy(), given)


def test_fields_of_a_packed_record():
    given = np.zeros((4, 3), dtype=[("a", "u1"), ("b", "f4")])
    given["b"] = values(4, 3)
    np.testing.assert_array_equal(Activations(given["b"]).to_numpy(), values(4, 3))


def test_python_rows_and_frames():
    import pandas as pd

    np.testing.assert_array_equal(Activations([[1, 2], [3, 4]]).to_numpy(), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(Activations([np.ones(2), np.zeros(2)]).to_numpy(), [[1, 1], [0, 0]])
    frame = pd.DataFrame(values(), columns=["a", "b", "c"])
    np.testing.assert_array_equal(Activations(frame).to_numpy(), values())  # type: ignore[arg-type]


def test_batches_come_as_list_tuple_or_iterator():
    batches = [values()[:3], values()[3:4], values()[4:]]
    for given in (batches, tuple(batches), iter(batches), (torch.from_numpy(b) for b in batches)):
        np.testing.assert_array_equal(Activations(given).to_numpy(), values())


def test_activations_pass_through():
    data = Activations(values())
    assert Activations(data).tensor.data_ptr() == data.tensor.data_ptr()


def test_rows_are_chosen():
    data = Activations(values())
    np.testing.assert_array_equal(data[1:3].to_numpy(), values()[1:3])
    np.testing.assert_array_equal(data[np.array([4, 0])].to_numpy(), values()[[4, 0]])
    np.testing.assert_array_equal(data[torch.tensor([True] + 6 * [False])].to_numpy(), values()[:1])
    assert len(data) == 7
    assert repr(data) == "Activations(7 x 3, float64, cpu)"


@pytest.mark.parametrize("rows", [1, 2, 7, 100, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_one_iteration_is_one_pass(rows, dtype, device):
    data = Activations(values().astype(np.float32))
    blocks = list(data.batches(rows=rows, dtype=dtype, device=device))
    assert all(block.dtype == (dtype or torch.float32) for block in blocks)
    assert all(block.device.type == device.type for block in blocks)
    np.testing.assert_array_equal(torch.cat(blocks).cpu(), values())


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_map_is_read_as_it_is(tmp_path, mode):
    np.save(tmp_path / "X.npy", values())
    given = np.load(tmp_path / "X.npy", mmap_mode=mode)
    if mode != "r":
        given[0, 0] = 9.0  # of a copy-on-write map the file does not know
    data = Activations(given)
    for _ in range(3):
        blocks = torch.cat(list(data.batches(rows=2)))
    np.testing.assert_array_equal(blocks, given)
    assert blocks[0, 0] == (0.0 if mode == "r" else 9.0)


VIEWS = [
    lambda a: a[7:501],
    lambda a: a[:, 5:9],
    lambda a: a[:, ::7],
    lambda a: np.asarray(a)[::3],
    lambda a: a[::-1],
    lambda a: a[5:80, ::-2],
    lambda a: a.T,
    lambda a: a.T[::2, 3:50],
    lambda a: a[4:5],
    lambda a: a[:, 2:3],
]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "i2"])
def test_views_of_memory_maps(tmp_path, rng, view, order, dtype):
    stored = np.asarray(rng.integers(-99, 99, (700, 40)), dtype=dtype, order=order)
    np.save(tmp_path / "X.npy", stored)
    given = view(np.load(tmp_path / "X.npy", mmap_mode="r"))
    expected = np.array(given, dtype=np.float64)
    data = Activations(given)
    for _ in range(2):
        np.testing.assert_array_equal(torch.cat(list(data.batches(rows=64))), expected)
    some = np.arange(len(expected))[:: max(1, len(expected) // 7)][::-1]
    np.testing.assert_array_equal(data[some.copy()].to_numpy(), expected[some])
    np.testing.assert_array_equal(data[: len(expected) // 2 + 1].to_numpy(), expected[: len(expected) // 2 + 1])
    np.testing.assert_array_equal(data[torch.arange(len(expected)) % 3 == 0].to_numpy(), expected[::3])
    np.testing.assert_array_equal(data.spread(5).to_numpy()[[0, -1]], expected[[0, -1]])


MEASURED = """
    import resource, sys
    import numpy as np
    from cvxsae import Activations
    from cvxsae.data import files
    source, kind = sys.argv[1:]
    X = source if kind == "path" else np.load(source, mmap_mode="r")
    if kind == "slice":
        X = X[1:, :-1]
    if kind == "batches":
        X = (block.astype("f8") for block in np.split(X, len(X) // 64))
    files.MEMORY_LIMIT = 2**26
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = Activations(X)
    assert sum(float(batch.sum()) for batch in data.batches()) == 0
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind, dtype", [("path", "f4"), ("slice", "f8"), ("integers", "i1"), ("batches", "i1")])
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory the way Linux reports it")
def test_long_data_is_streamed(tmp_path, kind, dtype):
    """Peak resident memory, mapped file pages included, stays far below the data's size."""
    bytes_wanted = {"path": 3 * 2**28, "slice": 2**29, "integers": 2**26, "batches": 2**25}[kind]
    n_points = bytes_wanted // (np.dtype(dtype).itemsize * 2**13)
    stored = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=dtype, shape=(n_points, 2**13))
    del stored  # a sparse file: zeros that take no disk
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path / "X.npy"), kind]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(printed) < 250


def test_conversion_beyond_the_limit_is_spooled(monkeypatch, rng):
    monkeypatch.setattr(files, "MEMORY_LIMIT", 1000)
    given = rng.integers(-9, 9, (5000, 8))
    data = Activations(given)
    assert isinstance(data._held, StoredRows)
    for _ in range(2):
        np.testing.assert_array_equal(torch.cat(list(data.batches(rows=700))), given)
