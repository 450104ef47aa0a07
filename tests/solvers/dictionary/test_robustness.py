"""Dictionary learning on what people get wrong, and on data that rounding spoils."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import InputError, JointProblem, Status, certify, grow, learn_dictionary
from cvxsae.data.storage import Folder
from cvxsae.solvers.dictionary.checkpoint import KIND, SLOTS
from cvxsae.solvers.dictionary.move_table import MoveTable, Split
from cvxsae.solvers.dictionary.sample import ResidualSample
from cvxsae.solvers.dictionary.spheres import unit
from tests.solvers.dictionary.test_learn import planted


def assert_sound(fit):
    """Unit atoms, a value that the referee agrees with, and a verdict that the numbers bear out."""
    np.testing.assert_allclose(np.linalg.norm(fit.dictionary, axis=1), 1, atol=1e-12)
    referee = certify(
        JointProblem(fit.problem.X, fit.n_atoms, fit.lam, bias=fit.problem.bias), fit.candidate(), tol=1.0
    )
    assert referee.is_certified
    assert referee.value == pytest.approx(fit.value, rel=1e-9)
    if fit.status is Status.CERTIFIED:
        assert fit.gap <= 1e-9
    if fit.status is Status.STATIONARY:
        assert fit.worst_stationarity <= fit.stationarity_target


def test_a_split_with_an_empty_half_is_none():
    """All codes of the atom lie on one side, so that the other half would have no direction: it was NaN once."""
    residuals = np.tile(np.array([[0.5, 0.0]], dtype=np.float32), (4, 1))
    codes = sp.csr_array(np.ones((4, 1)))
    table = MoveTable(ResidualSample(residuals), codes, np.array([[1.0, 0.0]]), 0.1)
    assert Split(0, np.array([1.0, 0.0]), 6).gain(table) == (0.0, [])


@pytest.mark.slow
def test_growing_beyond_the_datapoints():
    X = planted(n=120, d=8, k=10)
    fit = learn_dictionary(X, 5, 0.3)
    assert_sound(grow(fit, 200, max_seconds=1.0))


@pytest.mark.parametrize("seed", [-1, -(2**70)])
def test_a_seed_that_is_none(seed):
    with pytest.raises(InputError, match="seed is"):
        learn_dictionary(planted(n=20), 3, 0.1, seed=seed)


@pytest.mark.slow
def test_certified_means_that_the_returned_value_is_at_the_floor():
    """Far from the bias the sums cancel, and the loop's value was once believed."""
    X = np.repeat(np.eye(3), 1000, axis=0) + 1e6
    assert_sound(learn_dictionary(X, 6, 0.1, bias=None, max_seconds=1.0))


@pytest.mark.slow
def test_words_about_the_end_are_about_stationarity():
    fit = learn_dictionary(planted(n=200), 6, 0.1, bias=None, stationarity=1e-15)
    assert fit.status is Status.STALLED
    assert "stationarity" in fit.message
    assert "gap" not in fit.message + fit.remedy
    assert fit.to_dict()["message"] == fit.message


def test_interruption_before_the_search_is_not_swallowed(monkeypatch):
    from cvxsae.solvers.convex.wide_newton import WideLimitNewton

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WideLimitNewton, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        learn_dictionary(planted(n=100) + 0.5, 3, 0.1)


@pytest.mark.parametrize("call", [2, 9, 30])
def test_interruption_while_codes_are_computed_ends_the_search(call, monkeypatch):
    """In a step of the stochastic stage, of the exact pass or of polishing. Codes were taken for finished once."""
    calls = []
    from concurrent.futures import wait

    from cvxsae.solvers.codes import plan as module

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return wait(*args, **kwargs)

    monkeypatch.setattr(module, "wait", interrupted)
    fit = learn_dictionary(planted(n=1100), 6, 0.1, bias=None, epochs=3)
    assert fit.status is Status.INTERRUPTED
    assert len(fit.history) < 30
    assert_sound(fit)


@pytest.mark.parametrize("bias", [None, "free"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 3), (40, 1, 1), (40, 1, 5), (10, 8, 30)])
def test_smallest_shapes(shape, bias):
    n, d, k = shape
    fit = learn_dictionary(planted(n=40, d=8)[:n, :d], k, 0.1, bias=bias, second_order=True)
    assert fit.dictionary.shape == (k, d)
    assert_sound(fit)


@pytest.mark.slow
def test_threads_and_data_are_left_alone():
    X = torch.from_numpy(planted(n=150)).to(torch.float16)
    before, threads = X.clone(), torch.get_num_threads()
    fit = learn_dictionary(X, 6, 0.1)
    assert torch.equal(X, before)
    assert torch.get_num_threads() == threads
    assert_sound(fit)


@pytest.mark.slow
@pytest.mark.parametrize("moves", [True, False])
def test_dead_and_duplicate_atoms_with_curvature(moves):
    X = planted(n=200)
    start = np.concatenate([np.tile(unit(X[:1]), (3, 1)), -np.ones((3, 10))])
    fit = learn_dictionary(X, 6, 0.1, bias=None, init=start, second_order=True, moves=moves)
    assert fit.least_curvature is not None
    assert_sound(fit)


def kept_fit(tmp_path):
    X, path = planted(n=100), tmp_path / "fit"
    return X, path, learn_dictionary(X, 5, 0.3, folder=path)


def again(X, path):
    """The records that are there."""
    return learn_dictionary(X, 5, 0.3, folder=path)


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 10, 0.5, -1])
def test_a_truncated_state_is_not_used(length, tmp_path):
    X, path, fit = kept_fit(tmp_path)
    (file,) = path.glob("*.npz")
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    resumed = again(X, path)
    assert_sound(resumed)
    assert resumed.value == pytest.approx(fit.value, rel=1e-12)
    assert len(resumed.history) == len(fit.history)


def edit_record(path, change):
    """Write another record, with a checksum that is right: what another program, or an edited file, could hold."""
    folder = Folder(path, KIND, json.loads((path / "manifest.json").read_text())["asked"])
    for slot in SLOTS:
        kept = folder.read(slot)
        if kept is not None:
            record, arrays = change(dict(kept.record), dict(kept.arrays))
            folder.write(slot, record, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dictionary", "codes", "bias"])
def test_an_edited_state_cannot_end_as_stationary_that_is_not(name, tmp_path):
    """It was believed that the search had ended: the status was STATIONARY, its own residual 2.6."""
    X, path, _ = kept_fit(tmp_path)
    rng = np.random.default_rng(0)

    def edited(record, arrays):
        assert record["is_settled"]
        if name == "codes":
            arrays[name] = arrays[name] * 3
        else:
            arrays[name] = arrays[name] + rng.standard_normal(arrays[name].shape)
        if name == "dictionary":
            arrays[name] = unit(arrays[name])
        return record, arrays

    edit_record(path, edited)
    fit = again(X, path)
    assert_sound(fit)
    assert fit.status in (Status.STATIONARY, Status.CERTIFIED)
    assert len(fit.history) > 1 or name == "codes"  # it was gone on from, not believed


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda record, arrays: (record, {**arrays, "dictionary": np.full((5, 10), np.nan)}),
        lambda record, arrays: (record, {**arrays, "dictionary": np.ones((5, 10))}),
        lambda record, arrays: (record, {**arrays, "dictionary": np.eye(3, 10)}),
        lambda record, arrays: (record, {name: array for name, array in arrays.items() if name != "offset"}),
        lambda record, arrays: ({name: entry for name, entry in record.items() if name != "idle"}, arrays),
        lambda record, arrays: (record, {**arrays, "codes": sp.csr_array((3, 5))}),
    ],
)
def test_a_state_that_no_search_wrote_is_refused_in_a_sentence(damage, tmp_path):
    """A dictionary of NaN was once called stationary."""
    X, path, _ = kept_fit(tmp_path)
    edit_record(path, damage)
    with pytest.raises(InputError, match="holds a state that cannot be gone on from"):
        again(X, path)


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_a_callback_that_interrupts_loses_nothing(stop_at):
    """The point of the record that the callback saw is the one that is returned."""

    def interrupt(record):
        if record.iteration == stop_at:
            raise KeyboardInterrupt

    fit = learn_dictionary(planted(n=200), 6, 0.1, bias=None, callback=interrupt)
    assert fit.status is Status.INTERRUPTED
    assert fit.value <= fit.history[-1].value * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1100])
@pytest.mark.parametrize("power", [-200, 200])
def test_powers_of_two_change_nothing_but_the_scale(power, n):
    """Data and λ times 2^p: the same steps to the last bit, moves and minibatches in float32 included."""
    X, scale = planted(n=n), 2.0**power
    plain = learn_dictionary(X, 6, 0.1, bias=None, stationarity=1e-3)
    scaled = learn_dictionary(scale * X, 6, scale * 0.1, bias=None, stationarity=1e-3)
    assert scaled.status is plain.status
    assert scaled.value == pytest.approx(scale**2 * plain.value, rel=1e-6)
    assert len(scaled.history) == len(plain.history)


def test_a_datapoint_far_out_does_not_carry_the_bias_away():
    """In the first minibatches the others had no codes yet, and the bias went to their mean: F was 1e9 after that."""
    X = np.concatenate([planted(n=1500), np.full((1, 10), 1e6)])
    fit = learn_dictionary(X, 6, 0.1, max_steps=4)
    single = learn_dictionary(X, 6, 0.1, max_steps=1)
    assert np.linalg.norm(single.bias) < 10
    assert fit.value < 1e4


def test_moves_where_residuals_are_tiny_beside_the_data():
    X = planted(n=1100) + 1e12
    assert_sound(learn_dictionary(X, 6, 0.1, bias=None, max_steps=5))
