"""Limits and interrupts: what a search returns when it is cut off, and that it is cut off in time."""

import sys
import time

import numpy as np
import pytest

from cvxsae import InputError, JointProblem, Status, certify, dictionary_path, encode, grow, learn_dictionary, shrink
from cvxsae.data import write_arrays
from cvxsae.data.deadline import OutOfTime, go_on, until
from cvxsae.parallel.context import Run
from cvxsae.relaxations.joint.curvature import Curvature
from cvxsae.results import DictionaryFit
from cvxsae.solvers.dictionary import evaluator, start
from cvxsae.solvers.dictionary.learn import Settings, learn
from cvxsae.solvers.dictionary.learner import Learner
from cvxsae.solvers.dictionary.move_table import MoveTable, NewAtom
from cvxsae.solvers.dictionary.moves import DEFAULT_MOVES
from cvxsae.solvers.dictionary.rough import RoughCodes
from cvxsae.solvers.dictionary.stages.quasi_newton import QuasiNewton
from tests.solvers.dictionary.test_learn import planted
from tests.solvers.dictionary.test_robustness import assert_sound

LAM = 0.1
MODULE = sys.modules["cvxsae.solvers.dictionary.learn"]
LEARNER = sys.modules["cvxsae.solvers.dictionary.learner"]


class SlowClock:
    """A clock on which every coding that is finished takes ten seconds, and nothing else takes any time."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.codings = time.perf_counter(), []  # type: ignore[var-annotated]
        encode_rows = evaluator.encode_rows  # type: ignore[attr-defined]

        def slow(problem, run, **options):
            found = encode_rows(problem, run, **options)
            if found.status is not Status.TIME_LIMIT:
                self.codings.append(self.now)
                self.now += 10
            return found

        for module in (evaluator, start):
            monkeypatch.setattr(module, "encode_rows", slow)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("max_seconds", [15, 35, 95])
def test_a_search_takes_no_step_past_its_limit(max_seconds, epochs, monkeypatch):
    """An audit with a limit of 2 s ran past 100 s: a line search asked for no time between its tries."""
    clock = SlowClock(monkeypatch)
    began = clock.now

    def never_enough(self, evaluator, here, direction, slope, code_tol):
        for _ in range(1000):
            evaluator.evaluate(here.dictionary, here.offset, here.codes.codes, code_tol)

    monkeypatch.setattr(QuasiNewton, "_search", never_enough)
    fit = learn_dictionary(
        planted(n=1100), 6, LAM, bias=None, max_seconds=max_seconds, epochs=epochs, stationarity=0.01
    )
    assert fit.status is Status.TIME_LIMIT
    late = [at for at in clock.codings if at >= began + max_seconds]
    assert len(late) <= 1  # the codes that are returned, for which time was set aside
    assert_sound(fit)


@pytest.mark.slow
@pytest.mark.parametrize("max_seconds", [15, 35])
def test_a_start_with_atoms_missing_takes_no_step_past_its_limit(max_seconds, monkeypatch):
    X = planted(n=400)
    fit = learn_dictionary(X, 4, LAM, stationarity=1e-2)
    clock = SlowClock(monkeypatch)
    began = clock.now
    wider = grow(fit, 400, max_seconds=max_seconds)
    assert wider.dictionary.shape == (400, 10)
    assert len([at for at in clock.codings if at >= began + max_seconds]) <= 2
    assert_sound(wider)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_while_curvature_is_computed_it_returns_the_stationary_point(monkeypatch):
    monkeypatch.setattr(Curvature, "least", interrupt)
    fit = learn_dictionary(planted(n=200), 6, LAM, bias=None, second_order=True, moves=False, stationarity=1e-3)
    assert fit.status is Status.INTERRUPTED
    assert fit.worst_stationarity <= 1e-3
    assert_sound(fit)


@pytest.mark.parametrize(("max_steps", "is_known"), [(8, True), (0, False)])
def test_interrupted_while_the_end_is_coded(max_steps, is_known, monkeypatch):
    """The codes of the search are true ones; where there are none, there is nothing to return."""

    def ending(learner, outcome, run, judged=MODULE._fit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluator.Evaluator, "encode_what_can_be", interrupt)
            return judged(learner, outcome, run)

    monkeypatch.setattr(MODULE, "_fit", ending)
    options = {"bias": None, "epochs": 0, "max_steps": max_steps}
    if not is_known:
        with pytest.raises(KeyboardInterrupt):
            learn_dictionary(planted(n=200), 6, LAM, **options)
        return
    fit = learn_dictionary(planted(n=200), 6, LAM, **options)
    assert fit.status is Status.INTERRUPTED
    assert_sound(fit)


def test_an_interrupt_passes_through_an_inner_search():
    problem = JointProblem(planted(n=100), 4, LAM)
    with pytest.raises(KeyboardInterrupt):
        learn(problem, Settings(), Run(callback=interrupt, is_outermost=False))
    assert learn(problem, Settings(), Run(callback=interrupt)).status is Status.INTERRUPTED


def test_interrupted_at_its_last_penalty_a_path_is_returned(monkeypatch):
    seen = []

    def record(self, problem, state, bounds=Learner.bounds):
        if problem.lam == 0.2:
            seen.append(state.step)
            if len(seen) == 3:
                raise KeyboardInterrupt
        return bounds(self, problem, state)

    monkeypatch.setattr(Learner, "bounds", record)
    fits = dictionary_path(planted(n=60), 4, (0.4, 0.2), surplus=1.0)
    assert [fit.lam for fit in fits] == [0.4, 0.2]
    assert fits[-1].status is Status.INTERRUPTED
    assert_sound(fits[-1])


@pytest.mark.parametrize("epochs", [0, 3])
def test_what_cannot_be_coded_in_time_has_zero_codes_and_says_so(epochs, monkeypatch):
    monkeypatch.setattr(LEARNER, "GRACE", 0.0)
    fit = learn_dictionary(planted(n=1100), 6, LAM, max_seconds=1e-9, epochs=epochs)
    assert fit.status is Status.TIME_LIMIT
    assert not fit.encoding.done.any()
    assert fit.codes.nnz == 0
    assert_sound(fit)


def test_after_an_interrupt_no_time_is_left_for_codes(monkeypatch):
    clock = SlowClock(monkeypatch)

    def interrupt_third(record):
        if record.iteration == 2:
            clock.codings.clear()
            raise KeyboardInterrupt

    fit = learn_dictionary(planted(n=1100), 6, LAM, epochs=3, callback=interrupt_third)
    assert fit.status is Status.INTERRUPTED
    assert len(clock.codings) <= 2  # one end of the stochastic steps, and the point returned, each begun in time
    assert_sound(fit)


@pytest.mark.parametrize("max_steps", [1, 7, 15, 20, 24])
def test_stochastic_steps_that_ended_early_are_swept_or_undone(max_steps, monkeypatch):
    """Steps have not grown short by then: what is returned is no worse than where they began, and than their end."""
    ends = []

    def kept(self, state, last, better_end=Learner.better_end):
        found = better_end(self, state, last)
        ends.append((self, state, found[0]))
        return found

    monkeypatch.setattr(Learner, "better_end", kept)
    X = planted(n=1100) + 0.1
    fit = learn_dictionary(X, 6, LAM, epochs=18, max_steps=max_steps)
    ((learner, state, returned),) = ends
    assert type(state).__name__ == "Stochastic"
    began = learner.start if state.start is None else (state.start.dictionary, state.start.offset)
    values = [
        encode(X, dictionary.numpy(), LAM, bias=learner.evaluator.bias(offset).numpy()).value
        for dictionary, offset in (began, (state.dictionary, state.offset))
    ]
    assert fit.value <= min(values) * (1 + 1e-9)
    assert fit.value < values[1] * 0.999  # the noise is gone, or all of the steps
    assert returned.dictionary is not state.dictionary
    assert_sound(fit)


@pytest.mark.parametrize("max_steps", [1, 6])
def test_a_last_coding_without_time_costs_no_codes_that_were_known(max_steps, monkeypatch):
    """Half of the rows had zero codes, where all had been coded for a comparison a moment before."""
    X, plain = planted(n=2000), evaluator.Evaluator.encode_what_can_be

    def cut_off(self, dictionary, offset, warm, tol):
        late = self.until(time.perf_counter() - 1) if tol == MODULE.FINAL_TOL else self
        return plain(late, dictionary, offset, warm, tol)

    whole = learn_dictionary(X, 12, LAM, max_steps=max_steps)
    monkeypatch.setattr(evaluator.Evaluator, "encode_what_can_be", cut_off)
    fit = learn_dictionary(X, 12, LAM, max_steps=max_steps)
    assert_sound(fit)
    assert fit.encoding.done.all()
    assert fit.value < 1.5 * whole.value


def test_all_codings_at_the_end_share_one_grace(monkeypatch):
    """Each had a second of its own past the limit."""
    clock = SlowClock(monkeypatch)
    began, encode_rows = clock.now, evaluator.encode_rows  # type: ignore[attr-defined]

    def stuck(problem, run, **options):
        clock.now = max(clock.now, run.deadline)
        return encode_rows(problem, run, **options)

    def a_second(self, *args, minibatch=RoughCodes.minibatch):
        clock.now += 1
        return minibatch(self, *args)

    monkeypatch.setattr(evaluator, "encode_rows", stuck)
    monkeypatch.setattr(RoughCodes, "minibatch", a_second)
    monkeypatch.setattr(evaluator, "EXACT_PER_ROUGH", 1e-3)
    compared = []
    monkeypatch.setattr(Learner, "_known_codes", lambda *_: compared.append(clock.now))
    fit = learn_dictionary(planted(n=1100), 6, LAM, epochs=18, max_seconds=5)
    assert fit.status is Status.TIME_LIMIT
    assert fit.history[-1].iteration > 3  # among the steps of the first round
    assert compared
    assert not fit.encoding.done.any()
    assert clock.now == began + 5 + LEARNER.GRACE
    assert_sound(fit)


# ---------------------------------------------------------------- options are honored or refused


@pytest.mark.slow
def test_growing_and_shrinking_take_the_options_of_learning(tmp_path):
    X = planted(n=200)
    fit = learn_dictionary(X, 6, LAM, stationarity=1e-2, seed=3)
    for verb, width in ((grow, 8), (shrink, 4)):
        seen = []  # type: ignore[var-annotated]
        folder = tmp_path / verb.__name__
        found = verb(fit, width, max_steps=2, callback=seen.append, folder=folder, stationarity=1e-9)
        assert found.status is Status.MAX_ITER
        assert found.seed == 3
        assert len(seen) == 3
        assert list(folder.glob("*.npz"))
        assert verb(fit, width, max_steps=1, folder=folder, stationarity=1e-9).history[0].value == pytest.approx(
            seen[-1].value, rel=1e-9
        )
        with pytest.raises(InputError, match="'tol' is not an option"):
            verb(fit, width, tol=1e-3)  # type: ignore[call-arg]


# ---------------------------------------------------------------- a fit is a solution


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_a_saved_fit_is_judged_again(bias, tmp_path):
    X = planted(n=200) + 0.2
    problem = JointProblem(X, 6, LAM, bias=bias)
    fit = learn_dictionary(X, 6, LAM, bias=bias, stationarity=1e-5)
    again = DictionaryFit.load(fit.save(tmp_path / "fit.npz"), problem)
    assert again.status is fit.status
    assert again.value == pytest.approx(fit.value, rel=1e-9)
    assert again.lower_bound == pytest.approx(fit.lower_bound, rel=1e-9)
    assert again.stationarity_target == fit.stationarity_target
    assert not certify(again).objections
    arrays = {**fit.arrays(), "stationarity_target": 1e-5, "codes": 3 * fit.codes}
    arrays["dictionary"] = np.roll(fit.dictionary, 1, axis=1)
    path = write_arrays(tmp_path / "edited.npz", arrays)
    edited = DictionaryFit.load(path, problem)
    assert edited.status is Status.STALLED
    assert_sound(edited)
    with pytest.raises(InputError, match="does not fit the problem"):
        DictionaryFit.load(path, JointProblem(X, 5, LAM, bias=bias))


def test_words_of_a_fit():
    fit = learn_dictionary(planted(n=80), 3, 0.3, stationarity=1e-2)
    assert repr(fit).startswith("DictionaryFit(3 atoms")
    assert "\n" not in repr(fit)
    assert "lower bound" in str(fit)
    assert fit.codes.shape == (80, 3)
    assert fit.encoding.codes is fit.codes
    assert fit.gap == pytest.approx((fit.value - fit.lower_bound) / fit.value)
    assert not fit.objections


def test_one_coding_that_was_held_up_does_not_end_a_search(monkeypatch):
    """Kernels compiled for the first minibatch made it seem that nothing more could be coded in 76 seconds."""
    clock = SlowClock(monkeypatch)
    held_up = iter([1000.0])
    encode_rows = evaluator.encode_rows  # type: ignore[attr-defined]

    def held(problem, run, **options):
        clock.now += next(held_up, -9.0)  # one second each, but the first
        return encode_rows(problem, run, **options)

    monkeypatch.setattr(evaluator, "encode_rows", held)
    fit = learn_dictionary(planted(n=600), 4, LAM, bias=None, max_seconds=5000, epochs=3, stationarity=0.1)
    assert fit.status is Status.STATIONARY
    assert_sound(fit)


def test_growth_that_runs_out_of_time_is_filled_at_random(monkeypatch):
    """Moves that fill up a grown dictionary went on for 24 s past a limit of 2 s: nothing told them of it."""
    clock = SlowClock(monkeypatch)
    asked = []

    def out_of_time(*_, **__):
        clock.now += 1000
        asked.append(True)
        go_on()
        raise AssertionError("the deadline was not heard of")

    fit = learn_dictionary(planted(n=400), 4, LAM, bias=None, max_seconds=500, stationarity=0.1)
    monkeypatch.setattr(start, "replace_atoms", out_of_time)
    wider = grow(fit, 9, max_seconds=500)
    assert asked
    assert wider.dictionary.shape == (9, fit.dictionary.shape[1])
    assert_sound(wider)


def test_moves_ask_for_the_time_before_each_proposal(monkeypatch):
    monkeypatch.setattr(MoveTable, "removal_cost", lambda *_: 0.0)
    proposals = [(0.0, 0, NewAtom(np.ones(2)))]
    with until(time.perf_counter() - 1), pytest.raises(OutOfTime):
        DEFAULT_MOVES.replace_atom(object.__new__(MoveTable), 0, proposals)  # type: ignore[arg-type]
