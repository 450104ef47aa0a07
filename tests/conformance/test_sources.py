"""Verbs on data that are not in memory: the answers of the array, from few passes, and few rows at a time."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import cvxsae
from cvxsae import (
    Activations,
    WideLimit,
    audit,
    certify,
    check_optimality,
    encode,
    learn_dictionary,
    solve,
    width_floor,
)
from cvxsae.data import activations, pieces, sources, sparse_features, streams
from cvxsae.diagnostics import sums
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex import wide_limit
from cvxsae.sae import autoencoder, metrics, self_test, train
from cvxsae.sae.measures import measuring
from cvxsae.solvers.codes import activity, plan, rounds
from cvxsae.solvers.codes.plan import Plan
from cvxsae.solvers.convex import wide_newton
from cvxsae.solvers.dictionary import learn, sample
from cvxsae.solvers.dictionary.stages.exact import ExactPasses
from cvxsae.solvers.dictionary.stages.stochastic import StochasticSteps, minibatch_at

N, DIM, K, LAM = 1000, 6, 8, 0.1
AT_ONCE = 256
"""Rows that are read together, at most."""

MADE = sparse_features(N, DIM, K, seed=0, noise=0.02)
X, D = MADE.X.astype(np.float32), MADE.dictionary
SAE = cvxsae.SparseAutoencoder.from_arrays(
    {"W_dec": D, "W_enc": D.T.copy(), "b_enc": -0.05 * np.ones(K), "b_dec": np.zeros(DIM)}
)


class Batches:
    """A function that gives the data in batches, and counts how often it is called."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.calls = X, 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.calls += 1
        yield from np.array_split(self.X, 37)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """All that is held at a time is a small part of the data."""
    limits = {
        (activations, "BATCH_BYTES"): 8 * DIM * AT_ONCE,
        (streams, "CHUNK_BYTES"): 64 * 4 * DIM,
        (streams, "KEPT_BYTES"): 4 * DIM * 512,
        (sources, "GATHERED_BYTES"): 4 * DIM * AT_ONCE,
        (sample, "SHUFFLED_BYTES"): 4 * DIM * 256,
        (sample, "SAMPLE_ENTRIES"): DIM * AT_ONCE,
        (wide_limit, "RECOVERY_BYTES"): 8 * DIM * AT_ONCE,
        (wide_newton, "_SAMPLE_POINTS"): AT_ONCE,
        (activity, "BLOCK_ENTRIES"): K * AT_ONCE,
        (measuring, "_BLOCK_ENTRIES"): DIM * AT_ONCE,
        (autoencoder, "_BLOCK_ENTRIES"): K * AT_ONCE,
        (self_test, "ROWS"): AT_ONCE,
        (sums, "_ROWS"): AT_ONCE,
        (Plan, "MOST_POINTS_FUSED"): AT_ONCE,
        (learn, "StochasticSteps"): partial(StochasticSteps, minibatch=64),
        (ExactPasses, "minibatch"): lambda *_: 64,
    }
    for (place, name), value in limits.items():
        monkeypatch.setattr(place, name, value)


@pytest.fixture(name="reads")
def counted_reads(monkeypatch):
    """How many rows each read from a file or function gave."""
    found: list[int] = []
    for kind, method in ((streams.StreamedRows, "take"), (pieces.PiecedRows, "tensor"), (pieces.PiecedRows, "take")):
        plain = getattr(kind, method)

        def counting(*given: Any, plain: Callable[..., torch.Tensor] = plain) -> torch.Tensor:
            rows = plain(*given)
            found.append(len(rows))
            return rows

        monkeypatch.setattr(kind, method, counting)
    return found


def learned(data: Any) -> Any:
    return learn_dictionary(data, K, LAM, epochs=3, max_steps=25, seed=1)


VERBS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], list[float]], int, int]] = {
    "encode": (lambda X: encode(X, D, LAM), lambda codes: [codes.value, *codes.values[:3]], N, 2),
    "wide limit": (lambda X: solve(WideLimit(X, LAM)), lambda found: [found.value, found.lower_bound], N, 30),
    "learn": (learned, lambda fit: [fit.value], N, 90),
    "floor": (
        lambda X: width_floor(X, 2, LAM, kernels=(1,), max_points=100, seed=2),
        lambda floor: [floor.value, certify(floor).value],
        400,
        60,
    ),
    "check": (lambda X: check_optimality(X, D, LAM), lambda report: [report.value, report.wide_value], 300, 60),
    "metrics": (
        lambda X: metrics(X, SAE, lam=LAM),
        lambda found: [found[kind].numbers["fvu"].value for kind in found.kinds],
        300,
        30,
    ),
    "audit": (lambda X: audit(X, SAE, lam=LAM).ledger, lambda ledger: [ledger.loss, ledger.exact], 300, 150),
}
"""What is asked, the numbers that say whether the answer is the same, of how many rows, and passes at most."""


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_answers_passes_and_rows_at_a_time(tmp_path, reads, verb):
    ask, numbers, count, most = VERBS[verb]
    for number, part in enumerate(np.array_split(X[:count], 5)):
        np.save(tmp_path / f"{number}.npy", part)
    whole = numbers(ask(X[:count]))
    function = Batches(X[:count])
    for data in (Activations(tmp_path), Activations(function)):
        reads.clear()
        function.calls = 0
        found = numbers(ask(data))
        assert max(reads) <= AT_ONCE
        assert function.calls <= most
        if not data.is_forward_only:
            assert found == whole
        elif verb != "learn":  # which draws its minibatches otherwise
            np.testing.assert_allclose(found, whole, rtol=1e-9)


def test_minibatches_of_data_that_are_read_forward():
    dealt = sample.windows(1000, 4 * DIM, 16)  # 63 rows a minibatch, 256 in a window
    assert dealt == [range(first, first + 4) for first in range(0, 16, 4)]
    minibatches = sample.deal_forward(1000, dealt, seed=3)
    assert sorted(np.concatenate(minibatches)) == list(range(1000))
    assert max(map(len, minibatches)) - min(map(len, minibatches)) <= 1
    for window in dealt:
        rows = np.concatenate([minibatches[part] for part in window])
        assert sorted(rows) == list(range(250 * window.start // 4, 250 * window.stop // 4))
        assert all(np.diff(minibatches[part]).max() > 1 for part in window)  # shuffled
    orders = [[minibatch_at(16 * turn + step, 16, 4, dealt) for step in range(16)] for turn in range(3)]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert all([part // 4 for part in order] == sorted(part // 4 for part in order) for order in orders)
    assert orders[0] != orders[1]


def test_training_costs_a_pass_an_epoch_of_data_that_are_read_forward():
    function = Batches(X)
    recipe = train.Recipe(batch_size=100)
    asked = train.plan_of(Activations(function), K, LAM, None, None, recipe, "adam", Run())
    function.calls = 0
    batches = asked.batches()
    epochs = [torch.cat([next(batches) for _ in range(10)]) / asked.scale for _ in range(3)]
    assert function.calls <= 4  # 30 steps
    for epoch in epochs:  # two minibatches from each 200 rows, as these come, and at random within them
        for part, rows in enumerate(torch.split(epoch, 200)):
            found = np.abs(rows.numpy()[:, None] - X[None, 200 * part : 200 * (part + 1)]).max(axis=2) < 1e-5
            assert (found.sum(axis=1) == 1).all() and (found.sum(axis=0) == 1).all()
            assert not np.array_equal(found.argmax(axis=1), np.arange(200))
    assert not torch.equal(epochs[0], epochs[1])


def test_selections_are_read_together_where_they_cost_a_pass():
    function = Batches(X)
    data = Activations(function)
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(N)[:size] for size in (100, 100, 100, 300, 1)]
    function.calls = 0
    for found, rows in zip(sources.rows_in_turn(data, chosen), chosen, strict=True):
        np.testing.assert_array_equal(found, X[rows])
    assert function.calls <= 4
    for found, rows in zip(sources.rows_in_turn(Activations(X), chosen), chosen, strict=True):
        np.testing.assert_array_equal(found, X[rows])


KILLED = """
    import os, signal, sys
    import numpy as np
    from cvxsae import Activations, encode
    X, D = np.load(sys.argv[1]), np.load(sys.argv[2])
    passes = 0
    def batches():
        global passes
        passes += 1
        for start in range(0, len(X), 100):
            if passes == 3 and start == 600:  # after acceptance and fingerprint
                os.kill(os.getpid(), signal.SIGKILL)
            yield X[start : start + 100]
    from cvxsae.data import streams
    streams.CHUNK_BYTES, streams.KEPT_BYTES = 100 * X[0].nbytes, 200 * X[0].nbytes
    encode(batches, D, 0.1, engine="torch", memory_limit=2**20, folder=sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills a process")
def test_encode_of_a_function_goes_on_at_the_block_where_it_was_killed(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "D.npy", D)
    folder = tmp_path / "kept"
    paths = [str(tmp_path / name) for name in ("X.npy", "D.npy", "kept")]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *paths], check=False)
    assert done.returncode == -signal.SIGKILL
    solved: list[int] = []
    solve_block = rounds.solve_block

    def counting(engine: Any, data: torch.Tensor, *more: Any, **options: Any) -> Any:
        solved.append(len(data))
        return solve_block(engine, data, *more, **options)

    monkeypatch.setattr(plan, "solve_block", counting)
    codes = encode(Batches(X), D, LAM, engine="torch", memory_limit=2**20, folder=folder)
    assert 0 < sum(solved) < N
    plain = encode(X, D, LAM, engine="torch", memory_limit=2**20)
    np.testing.assert_allclose(codes.values, plain.values, rtol=1e-12)
    np.testing.assert_allclose(codes.codes.toarray(), plain.codes.toarray(), atol=1e-12)
    assert certify(codes).is_certified
