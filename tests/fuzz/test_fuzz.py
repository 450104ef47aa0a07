"""A sample of the fuzzing, that nothing public is left out of it, and that it sees what it is there to see."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import InputError
from tests.fuzz import attempts, command, settings
from tests.fuzz.attempts import Attempt, judge, sentence_complaint
from tests.fuzz.calls import NOT_CALLED, Call, calls, public_names
from tests.fuzz.values import SAME, WRONG, role_of

ROOT = Path(__file__).parents[2]


def sample(*options: str) -> subprocess.CompletedProcess[str]:
    """The large run, shorter: in a process of its own, without the run-time checks of shapes that tests have."""
    line = [sys.executable, "-m", "tests.fuzz", *options]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--calls 60 --limit 120", "--calls 30 --command --limit 120", "--settings"])
def test_a_sample_ends_well(options):
    done = sample(*options.split())
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_every_public_name_is_called_or_excused():
    called = {name.rpartition(".")[2] for name in calls()}
    assert public_names() - called == set(NOT_CALLED)


@pytest.mark.slow
def test_calls_name_parameters_that_there_are():
    for call in calls().values():
        inspect.signature(call.function).bind(**call.arguments)


def test_every_verb_is_tried():
    assert command.verbs() - {"demo", "doctor", "example"} == set(command.VERBS)


# ---------------------------------------------------------------------- what it must see


def doubled(x: object) -> float:
    """What a good function does: a number or one sentence."""
    if not isinstance(x, int | float | np.number) or x != x:
        raise InputError("x is no number; pass one.")
    return 2.0 * float(x)


def two_sentences(x: object) -> float:
    raise InputError("x is wrong. It is.")


def another_argument(x: object) -> float:
    raise InputError("lambda is wrong; pass another.")


def dragged(x: object) -> float:
    try:
        return float(x)  # type: ignore[arg-type]
    except ValueError:
        raise InputError("x is no number; pass one.")  # noqa: B904 (the context must show)


def warned(x: object) -> float:
    warnings.warn("careful", stacklevel=1)
    return 0.0


def set_threads(x: object) -> float:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return 0.0


def squared(x: float) -> float:
    return float(torch.tensor([x]) @ torch.tensor([x]))


def drawn(x: object) -> float:
    return float(np.random.random())  # noqa: NPY002 (the caller's generator, which is the point)


def written_to(x: object) -> float:
    if isinstance(x, np.ndarray):
        x[...] = 1
    return 0.0


BAD = [
    ("raw error", lambda x: float(x), "text"),
    ("bad sentence", two_sentences, "text"),
    ("bad sentence", another_argument, "text"),
    ("bad sentence", dragged, "text"),
    ("warned", warned, "zero"),
    ("state changed", set_threads, "zero"),
    ("state changed", drawn, "zero"),
    ("argument changed", written_to, "zeros"),
    ("accepted what never is", lambda x: float(x or 0), "NaN"),
]


@pytest.mark.parametrize("outcome, function, word", BAD)
def test_what_is_bad_is_seen(outcome, function, word, monkeypatch):
    threads, numbers = torch.get_num_threads(), np.random.get_state()  # noqa: NPY002
    monkeypatch.setattr(attempts, "calls", lambda: {"f": Call("f", function, {"x": 0.25})})
    found = judge(Attempt("f", (("x", word, False),)))
    torch.set_num_threads(threads)
    np.random.set_state(numbers)  # noqa: NPY002
    assert found.outcome == outcome, found
    assert not found.is_good


def test_a_wrong_answer_and_a_right_one_are_told_apart(monkeypatch):
    def rounded(x: object) -> float:
        return 2.0 * float(np.float16(x)) if isinstance(x, np.generic) else doubled(x)

    cases: list[tuple[Any, str]] = [(doubled, "right"), (rounded, "wrong answer")]
    for function, outcome in cases:
        attempts._expected.cache_clear()
        monkeypatch.setattr(attempts, "calls", partial(dict, f=Call("f", function, {"x": 0.1})))
        assert judge(Attempt("f", (("x", "float64", True),))).outcome == outcome
    attempts._expected.cache_clear()


def test_what_is_good_is_good(monkeypatch):
    monkeypatch.setattr(attempts, "calls", lambda: {"f": Call("f", doubled, {"x": 0.25})})
    assert judge(Attempt("f", (("x", "text", False),))).outcome == "refused"
    assert judge(Attempt("f", (("x", "zero", False),))).outcome == "accepted"


@pytest.mark.parametrize("said", ["x is\nwrong.", "x is wrong", "x is wrong. Pass another.", f"x is {'long ' * 200}."])
def test_complaints_about_sentences(said):
    assert sentence_complaint(InputError(said), ["x"])
    assert not sentence_complaint(InputError("x is 'a. B' (no. 2), and that is wrong; pass 1.5."), ["x"])


@pytest.mark.parametrize("err", ["", "cvxsae: a\nb", "cvxsae: no stop", "Usage: cvxsae", "oops."])
def test_complaints_about_what_the_command_says(err):
    assert command.command_complaint(err)
    assert not command.command_complaint("cvxsae: --lam is 0; it must be above zero.\n")


def test_every_value_can_be_made():
    for make in WRONG.values():
        make()
    for value in (np.array([[0.5, 1.0], [2.0, 0.25]]), np.array([1.0, 2.0]), 0.25, 3, (1.0, 2.0), True, Path("x")):
        for disguise in SAME[role_of(value)].values():
            disguise(value)


def test_what_a_setting_changes_is_seen():
    product = Call("product", squared, {"x": 1.01})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "product" in settings.complaint(product, 1.01**2)
    with settings.set_to(torch.set_num_threads, 1, torch.get_num_threads()):
        assert "torch threads" in settings.complaint(Call("f", set_threads, {"x": 0}), 0.0)
