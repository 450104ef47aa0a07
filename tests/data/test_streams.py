"""Functions that give batches: one pass to accept them, none held, and an error where a later pass differs."""

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from cvxsae import Activations, WideLimit, certify, encode, solve
from cvxsae.data import find_outliers, row_batches, streams, without_outliers
from cvxsae.errors import InputError
from tests.helpers.sentences import rejects

N, DIM = 600, 4


@pytest.fixture(name="X")
def some_data(rng):
    return rng.standard_normal((N, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 16 rows, of which eight are kept."""
    monkeypatch.setattr(streams, "CHUNK_BYTES", 16 * DIM * 4)
    monkeypatch.setattr(streams, "KEPT_BYTES", 8 * 16 * DIM * 4)


class Counted:
    """A function that gives batches of uneven sizes and counts its calls and rows; the buffer is used again."""

    def __init__(self, X: np.ndarray, size: int = 7) -> None:
        self.X, self.size, self.calls, self.rows = X, size, 0, 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.calls += 1
        buffer = np.empty((self.size, self.X.shape[1]), self.X.dtype)
        for start in range(0, len(self.X), self.size):
            part = self.X[start : start + self.size]
            self.rows += len(part)
            buffer[: len(part)] = part
            yield buffer[: len(part)]


def test_a_function_is_read_like_an_array(X):
    source = Counted(X)
    data = Activations(source)
    assert (source.calls, data.shape, data.dtype, data.is_forward_only) == (1, (N, DIM), torch.float32, True)
    for rows in (1, 100, None):
        np.testing.assert_array_equal(torch.cat(list(data.batches(rows=rows, dtype=None))), X)
    assert source.calls == 4
    np.testing.assert_array_equal(data[17:99].tensor, X[17:99])
    chosen = np.array([599, 3, 3, 200])
    before = source.calls
    np.testing.assert_array_equal(data[chosen].tensor, X[chosen])
    np.testing.assert_array_equal(data[40:][chosen[:0:-1]].tensor, X[40:][chosen[:0:-1]])
    assert source.calls <= before + 2  # one pass each
    np.testing.assert_array_equal(data[torch.arange(N) % 50 == 0].tensor, X[::50])


def test_blocks_in_order_cost_one_pass(X):
    source = Counted(X)
    data = Activations(source)
    source.rows = 0
    for start in range(0, N, 33):
        np.testing.assert_array_equal(data[start : start + 33].tensor, X[start : start + 33])
    assert (source.calls, source.rows) == (2, N)


def test_threads_that_ask_a_little_out_of_order_cost_one_pass(X):
    source = Counted(X)
    data = Activations(source)
    source.calls = 0
    starts = np.arange(0, N, 20)
    order = np.concatenate([part[::-1] for part in np.split(starts, len(starts) // 3)])  # three at a time, backwards
    turn = threading.Barrier(3)

    def read(start):
        turn.wait()
        return data[int(start) : int(start) + 20].tensor

    with ThreadPoolExecutor(3) as pool:
        for start, block in zip(order, pool.map(read, order), strict=True):
            np.testing.assert_array_equal(block, X[start : start + 20])
    assert source.calls == 1


def test_encode_costs_the_passes_of_its_blocks(X):
    source, D = Counted(X), np.eye(DIM)[:3]
    data = Activations(source)
    before = source.calls
    codes = encode(data, D, 0.2, engine="fused")
    assert source.calls - before <= 3  # of the norms, the codes, and what is said of them
    same = encode(X, D, 0.2, engine="fused")
    np.testing.assert_allclose(codes.value, same.value, rtol=1e-12)
    np.testing.assert_allclose(codes.codes.toarray(), same.codes.toarray(), atol=1e-9)
    assert certify(codes).is_certified


def test_answers_are_those_of_the_array(X):
    one, other = solve(WideLimit(Counted(X), 0.3)), solve(WideLimit(X, 0.3))
    assert one.value == pytest.approx(other.value, rel=1e-9)
    assert certify(one).is_certified
    assert find_outliers(Counted(X), 1.5).rows.tolist() == find_outliers(X, 1.5).rows.tolist()


def test_outliers_are_filtered_and_not_held(X):
    X[[0, 9, 300]] *= 1000
    source = Counted(X)
    rest, gone = without_outliers(source)
    assert gone.rows.tolist() == [0, 9, 300]
    assert rest.is_forward_only
    np.testing.assert_array_equal(rest.tensor, np.delete(X, gone.rows, axis=0))
    np.testing.assert_array_equal(rest[np.array([596, 0])].tensor, X[[599, 1]])


CHANGES = {
    "one number": lambda X: X.__setitem__((333, 2), X[333, 2] + 1),
    "rows in another order": lambda X: X.__setitem__(slice(320, 352), X[320:352][::-1].copy()),
}


@pytest.mark.parametrize("change", ["one number", "rows in another order", "shorter", "longer", "a shuffle"])
def test_a_later_pass_that_differs_is_refused(X, change):
    source = Counted(X)
    data = Activations(source)
    solution = solve(WideLimit(data, 0.3))
    known = data[100:120].tensor
    changed = X.copy()
    if change in CHANGES:
        CHANGES[change](changed)
    source.X = {
        "shorter": X[:-1],
        "longer": np.concatenate([X, X[:1]]),
        "a shuffle": np.random.default_rng(0).permutation(X),
    }.get(change, changed)
    sentence = "X comes from a function that gave other rows in a later pass than in the first"
    for use in (data.to_numpy, lambda: certify(solution), lambda: data[np.array([599, 340])].tensor):
        with rejects(sentence):
            use()
            pytest.fail("nothing was noticed")
    source.X = X  # what was wrong is not held
    np.testing.assert_array_equal(data[100:120].tensor, known)
    np.testing.assert_array_equal(data.tensor, X)


def test_a_later_pass_of_another_width_is_refused(X):
    passes = iter([[X], [X[:, :3]]])
    data = Activations(lambda: next(passes))
    with rejects(r"X \(batch 0\) has dimension 3 but batch 0 has 4"):
        data.to_numpy()


def test_a_function_that_fails_can_be_read_again(X):
    source = Counted(X)
    data = Activations(source)
    broken = partial(next, iter([iter([X[:50], "no array"]), Counted(X)()]))
    data._held.stream.segments = (streams.Segment(broken, "X"),)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"X \(batch 1\) is a str"):
        data.to_numpy()
    np.testing.assert_array_equal(data.tensor, X)

    def interrupted():
        yield X[:50]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Activations(interrupted)


def batches_of(seed):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((50, DIM)) for _ in range(5))


def test_pickled_as_the_function():
    data = Activations(partial(batches_of, 3))
    list(data.batches(rows=20))
    text = pickle.dumps(data[10:60])
    assert len(text) < 3000
    expected = np.concatenate(list(batches_of(3)))
    np.testing.assert_array_equal(pickle.loads(text).tensor, expected[10:60])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).tensor, expected)


def test_row_batches_of_accepted_data_read_one_pass(X):
    source = Counted(X)
    data = Activations(source)
    source.calls = 0
    found = list(row_batches(data, 64, skip=30))
    np.testing.assert_array_equal(np.concatenate(found), X[30:][: len(found) * 64])
    assert source.calls == 1


def test_functions_that_cannot_be_data(X):
    with rejects("X is a function that returned a NoneType; return an iterable of"):
        Activations(lambda: None)  # type: ignore[arg-type, return-value]
    with rejects("X yields no rows"):
        Activations(lambda: iter([]))
    with rejects("X is a function that needs arguments; pass one that needs none"):
        Activations(lambda seed: X)  # type: ignore[arg-type, misc]
    with rejects(r"X \(batch 1\) has dimension 3 but batch 0 has 4"):
        Activations(lambda: iter([X, X[:, :3]]))
    with rejects(r"X \(batch 1\) is float64 but batch 0 is float32"):
        Activations(lambda: iter([X, X.astype(np.float64)]))
    X[333, 1] = np.inf
    with rejects(r"X holds 1 NaN or infinite value\(s\), the first in row 333"):
        Activations(Counted(X))
