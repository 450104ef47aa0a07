"""The one loop: every way a solve can end, what it keeps and what it tells."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import CandidateDictionary, InputError, SparseCodes, Status, WideLimit, solve
from cvxsae.data.deadline import go_on
from cvxsae.errors import CertificateError, NotCertifiedError
from cvxsae.parallel.context import Run, Steps
from cvxsae.relaxations import Problem
from cvxsae.relaxations.solution import Record, Solution, judge, relative_gap
from cvxsae.solvers.convex.candidates.proximal_gradient import ProximalGradient
from cvxsae.solvers.convex.driver import iterate
from tests.helpers.interrupts import InterruptOnce

CPU = torch.device("cpu")


class Script:
    """An algorithm that reads its values and bounds from a list; its state is the position in it."""

    name = "script"
    default_iterations = 100
    first_check = 1
    patience = 3

    def __init__(self, problem, lines) -> None:
        self.problem, self.lines = problem, lines
        self.finished: list[int] = []

    def init(self, _problem, _device):
        return 0

    def step(self, _problem, state):
        return state + 1

    def bounds(self, _problem, state):
        return self.lines[min(state, len(self.lines) - 1)]

    def finish(self, _problem, state):
        self.finished.append(state)
        return self.problem.zero_candidate()

    def info(self, state):
        return {"position": state}


@pytest.fixture
def problem(rng):
    """λ = λ_max/2: zero codes are not optimal, their gap is some number."""
    X, atoms = rng.normal(size=(10, 4)), rng.normal(size=(5, 4))
    problem = SparseCodes(X, atoms, 1.0)
    return replace(problem, lam=problem.lambda_max() / 2)


def run(problem, lines, *, tol=1e-6, **options):
    script = Script(problem, lines)
    return script, iterate(script, problem, tol, Run.start(options, Steps))


def test_certified(problem):
    easy = replace(problem, lam=2 * problem.lambda_max())
    _, solution = run(easy, [(2.0, 1.0), (1.0, 1.0)])
    assert solution.status is Status.CERTIFIED
    assert solution.is_certified
    assert solution.info["iterations"] == 1
    assert solution.solver == "script"


def test_a_claim_of_the_loop_is_not_believed(problem):
    """The loop saw gap 0, but the arrays that came back have another: it is not certified."""
    _, solution = run(problem, [(1.0, 1.0)])
    assert solution.status is Status.STALLED
    assert solution.gap > 1e-6


def test_stalled_after_patience_evaluations_without_progress(problem):
    script, solution = run(problem, [(2.0, 1.0)])
    assert solution.status is Status.STALLED
    assert len(solution.history) == 1 + script.patience
    assert "stopped shrinking" in solution.status.message


def test_iteration_limit(problem):
    lines = [(2.0 - 0.01 * i, 1.0) for i in range(200)]
    _, solution = run(problem, lines, max_steps=7)
    assert solution.status is Status.MAX_ITER
    assert solution.info["iterations"] == 7
    assert solution.history[-1].iteration == 7
    _, solution = run(problem, lines, max_steps=0)
    assert solution.info["iterations"] == 0
    assert len(solution.history) == 1
    _, solution = run(problem, lines)
    assert solution.info["iterations"] == Script.default_iterations


def ticking(monkeypatch, tick=0.1):
    """A clock that every look at it moves on."""
    clock = iter(np.arange(0, 10_000) * tick)
    monkeypatch.setattr("cvxsae.solvers.convex.driver.time.perf_counter", lambda: float(next(clock)))


def test_time_limit(problem, monkeypatch):
    ticking(monkeypatch)
    _, solution = run(problem, [(3.0 - 0.01 * i, 1.0) for i in range(200)], max_seconds=3.05)
    assert solution.status is Status.TIME_LIMIT
    assert 3 <= solution.info["iterations"] <= 10
    assert solution.history[-1].seconds >= 2.0  # the last point was evaluated; the clock ran before the loop too


def test_a_step_that_the_deadline_finds_unfinished_is_given_up(problem, monkeypatch):
    class Slow(Script):
        def step(self, problem, state):
            for _ in range(state * 20):
                go_on()
            return super().step(problem, state)

    ticking(monkeypatch)
    script = Slow(problem, [(3.0, 1.0), (2.5, 1.2), (2.0, 1.0)])
    solution = iterate(script, problem, 1e-6, Run.start({"max_seconds": 2.5}, Steps))
    assert solution.status is Status.TIME_LIMIT
    assert solution.info["iterations"] == 1  # the second step would take two seconds more
    assert script.finished == [1]
    unlimited = Slow(problem, script.lines)
    assert iterate(unlimited, problem, 1e-6, Run()).status is Status.STALLED


def test_without_time_for_one_evaluation_it_returns_zero_codes(problem, monkeypatch):
    class Slow(Script):
        def bounds(self, problem, state):
            for _ in range(1000):
                go_on()
            return super().bounds(problem, state)

    ticking(monkeypatch)
    solution = iterate(Slow(problem, [(3.0, 1.0)]), problem, 1e-6, Run.start({"max_seconds": 1.0}, Steps))
    assert solution.status is Status.TIME_LIMIT
    assert solution.lower_bound == 0
    assert solution.value == problem.primal_value(problem.zero_candidate())


def test_a_bound_that_stands_is_not_proved_again(problem, monkeypatch):
    class Standing(Script):
        bound_stands = True

    def stop(record):
        raise KeyboardInterrupt

    for kind, bound in ((Standing, 1e-3), (Script, problem.lower_bound(problem.zero_candidate()))):
        solution = iterate(kind(problem, [(3.0, 1e-3)]), problem, 1e-6, Run(callback=stop))
        assert solution.status is Status.INTERRUPTED
        assert solution.lower_bound == bound


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (2.0, -math.inf)])
def test_nonfinite(problem, bad):
    script, solution = run(problem, [(3.0, 1.0), (2.0, 1.0), bad])
    assert solution.status is Status.NONFINITE
    assert script.finished == [1]  # the last finite point
    assert np.isfinite(solution.value)


def test_interrupted_by_the_keyboard(problem):
    def stop(record):
        if record.iteration == 2:
            raise KeyboardInterrupt

    script, solution = run(problem, [(3.0 - 0.1 * i, 1.0) for i in range(50)], callback=stop)
    assert solution.status is Status.INTERRUPTED
    assert script.finished == [2]  # what the callback saw
    assert solution.history[-1].iteration == 2


def test_interrupted_before_there_is_a_point_it_returns_zero_codes(problem):
    def interrupt(*_):
        raise KeyboardInterrupt

    for method in ("init", "bounds"):
        script = Script(problem, [(3.0, 1.0)])
        setattr(script, method, interrupt)
        solution = iterate(script, problem, 1e-6, Run(max_steps=2))
        assert solution.status is Status.INTERRUPTED
        assert solution.lower_bound <= solution.value == problem.primal_value(problem.zero_candidate())
        with pytest.raises(KeyboardInterrupt):
            iterate(script, problem, 1e-6, Run(is_outermost=False))


def test_interrupted_while_the_answer_is_read_it_is_read_again(problem):
    script = Script(problem, [(3.0, 1.0), (2.0, 1.0)])
    script.finish = interrupted = InterruptOnce(script.finish)  # type: ignore[method-assign]
    solution = iterate(script, problem, 1e-6, Run(max_steps=1))
    assert solution.status is Status.INTERRUPTED
    assert script.finished == [1]
    assert interrupted.calls == 2
    again = Script(problem, [(3.0, 1.0)])
    again.finish = InterruptOnce(again.finish)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        iterate(again, problem, 1e-6, Run(max_steps=1, is_outermost=False))


def test_other_errors_pass_through(problem):
    def fail(record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(problem, [(3.0, 1.0)], callback=fail)


def test_the_lowest_value_and_the_highest_bound_are_kept_each_with_its_point(problem):
    lines = [(5.0, 0.0), (2.0, 0.5), (4.0, 1.5), (3.0, 1.0), (4.0, 1.0), (4.0, 1.0), (4.0, 1.0)]
    script: Any = Script(problem, lines)
    finish = script.finish
    dual = problem.residual(problem.zero_candidate()).numpy() / 10

    def with_dual(problem, state):
        return dataclasses.replace(finish(problem, state), dual=dual * (state + 1))

    script.finish = with_dual
    solution = iterate(script, problem, 1e-6, Run())
    assert script.finished == [1, 2]
    np.testing.assert_array_equal(solution.dual, 3 * dual)  # from the point of the highest bound


def test_history_and_callback(problem):
    seen: list[Record] = []
    _, solution = run(problem, [(3.0 - 0.01 * i, 1.0) for i in range(101)], callback=seen.append)
    assert tuple(seen) == solution.history
    iterations = [record.iteration for record in seen]
    assert iterations[0] == 0
    assert iterations[-1] == 100
    assert (np.diff(iterations) >= 1).all()
    assert (np.diff([record.seconds for record in seen]) >= 0).all()
    assert len(seen) < 40  # the schedule thins out
    assert seen[0].gap == pytest.approx(2 / 3)
    assert solution.seconds >= seen[-1].seconds


@pytest.mark.slow
def test_history_of_a_real_solve_encloses_the_optimum(rng):
    problem = CandidateDictionary(rng.normal(size=(20, 4)), rng.normal(size=(9, 4)), 0.2, 2.0, bias="free")
    solution = iterate(ProximalGradient(), problem, 1e-9, Run())
    for record in solution.history:
        assert record.lower_bound <= solution.value
        assert record.value >= solution.lower_bound
    assert solution.value <= min(record.value for record in solution.history) * (1 + 1e-12)
    assert solution.lower_bound >= max(record.lower_bound for record in solution.history) * (1 - 1e-12)


def test_progress_is_shown_on_request(problem, capsys):
    iterate(Script(problem, [(2.0, 1.0)]), problem, 1e-6, Run())
    assert capsys.readouterr().err == ""
    iterate(Script(problem, [(2.0, 1.0)]), problem, 1e-6, Run(progress=True))
    assert "codes (script)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"tol": -1e-6}, "tol is -1e-06"),
        ({"tol": math.nan}, "tol is nan"),
        ({"max_seconds": 0.0}, "max_seconds is 0"),
        ({"max_seconds": -1.0}, "max_seconds is -1"),
        ({"max_steps": -1}, "max_steps is -1"),
    ],
)
def test_bad_limits_are_named(problem, limits, message):
    with pytest.raises(InputError, match=message):
        solve(problem, **limits)


def test_each_status_has_a_message_and_all_but_one_a_remedy():
    for status in Status:
        assert status.message
        assert bool(status.remedy) == (status is not Status.CERTIFIED)
    assert len({status.message for status in Status}) == len(Status)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.CERTIFIED])
def test_the_error_of_an_uncertified_solve_says_why_and_what_to_do(status, problem):
    solution = judge(problem, problem.zero_candidate(), status, tol=1e-6)
    assert solution.status is status
    error = NotCertifiedError(solution)
    assert error.solution is solution
    for part in ("codes is not certified", status.message, status.remedy, "tol 1.00e-06"):
        assert part in str(error)


# ---------------------------------------------------------------- judging


def test_judge_certifies_by_the_gap_alone(problem):
    easy = replace(problem, lam=2 * problem.lambda_max())
    for status in (Status.MAX_ITER, Status.TIME_LIMIT, Status.STALLED, Status.CERTIFIED):
        assert judge(easy, easy.zero_candidate(), status, tol=1e-9).status is Status.CERTIFIED
    assert judge(problem, problem.zero_candidate(), Status.CERTIFIED, tol=1e-9).status is Status.STALLED


@pytest.mark.parametrize("where", ["bias", "codes", "dual"])
def test_judge_calls_nan_nonfinite(where, problem):
    point = problem.zero_candidate()
    shapes: dict[str, Any] = {"bias": 4, "codes": (10, 5), "dual": (10, 4)}
    array = np.full(shapes[where], np.nan)
    solution = judge(problem, dataclasses.replace(point, **{where: array}), Status.STALLED, tol=1e-6)
    assert solution.status is Status.NONFINITE
    assert not solution.is_certified


def test_a_bound_above_the_value_is_an_error_and_never_clipped(problem, monkeypatch):
    monkeypatch.setattr(Problem, "lower_bound", lambda self, candidate: self.primal_value(candidate) * (1 + 1e-11))
    with pytest.raises(CertificateError, match="lies above its value"):
        judge(problem, problem.zero_candidate(), Status.STALLED, tol=1e-6)
    monkeypatch.setattr(Problem, "lower_bound", lambda self, candidate: self.primal_value(candidate) * (1 + 1e-14))
    solution = judge(problem, problem.zero_candidate(), Status.STALLED, tol=1e-6)
    assert solution.gap < 0  # rounding is shown as it is
    assert solution.is_certified


def test_relative_gap():
    assert relative_gap(2.0, 1.0) == 0.5
    assert relative_gap(0.0, 0.0) == 0
    assert relative_gap(0.0, -1.0) == 1
    assert math.isnan(relative_gap(math.nan, 1.0))
    assert Record(0, 0.0, 2.0, 1.5).gap == 0.25


def test_solution_speaks(problem):
    solution = judge(problem, problem.zero_candidate(), Status.STALLED, tol=1e-6, solver="script", info={"passes": 3})
    summary = solution.to_dict()
    assert summary["lam_over_lambda_max"] == pytest.approx(0.5)
    assert summary["certified"] is False
    assert summary["passes"] == 3
    assert summary["gap"] == solution.gap
    assert set(solution.arrays()) == {"bias", "dictionary", "codes"}
    assert "status=STALLED" in repr(solution)
    zero = WideLimit(np.zeros((2, 2)), 1.0)
    assert judge(zero, zero.zero_candidate(), Status.STALLED, tol=0.0).to_dict()["lam_over_lambda_max"] is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.value = 0.0  # type: ignore[misc]
    assert isinstance(solution, Solution)
