"""One attempt: a valid call with one or two arguments spoiled, made, and judged."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import random
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from cvxsae.errors import InputError, NotCertifiedError
from tests.fuzz.calls import Call, calls
from tests.fuzz.values import NEVER, NUMERIC, SAME, WRONG, role_of, same_as

_TIMES = re.compile(r"(.*_)?seconds|history|ended|created|stages")
"""What differs from one call to the next, whatever is passed."""


@dataclass(frozen=True)
class Attempt:
    """What is called, and what each spoiled argument is: a word of :data:`SAME` or :data:`WRONG`."""

    call: str
    spoiled: tuple[tuple[str, str, bool], ...]
    unknown: bool = False

    def __str__(self) -> str:
        said = [f"{name}={'same as ' if same else ''}<{word}>" for name, word, same in self.spoiled]
        return f"{self.call}({', '.join(said + ['no_such_option=1'] * self.unknown)})"


def draw(choose: Callable[[Sequence[Any]], Any]) -> Attempt:
    """An attempt; ``choose`` takes one of several things."""
    call = calls()[choose(sorted(calls()))]
    parameters = call.parameters()
    if not parameters or (_takes_more(call) and choose(range(40)) == 0):
        return Attempt(call.name, (), unknown=_takes_more(call))
    spoiled = {}
    if call.name not in ("embedded", "ScaleStudy"):
        parameters.pop("name", None)  # what messages call the argument
    for _ in range(choose((1, 1, 1, 2))):
        name = choose(sorted(parameters))
        guises = same_as(parameters[name])
        same = bool(guises) and choose((True, False, False))
        spoiled[name] = (choose(sorted(guises if same else WRONG)), same)
    return Attempt(call.name, tuple((name, word, same) for name, (word, same) in spoiled.items()))


def _takes_more(call: Call) -> bool:
    """Whether keywords that are not parameters reach the function."""
    made: Any = call.function
    target = inspect.unwrap(getattr(made, "__init__") if isinstance(made, type) else made)  # noqa: B009 (for mypy)
    return bool(inspect.getfullargspec(target).varkw)


# ---------------------------------------------------------------------- making and judging


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended: ``refused`` and ``right`` are good, everything else is an offense."""

    outcome: str
    detail: str = ""

    @property
    def is_good(self) -> bool:
        """Whether that is as it should be."""
        return self.outcome in ("refused", "right", "accepted")


@functools.cache
def _expected(name: str) -> Any:
    call = calls()[name]
    return numbers_of(call.function(**call.fresh()))


def prepare() -> None:
    """Make every valid call once, so that what is compiled is compiled."""
    for name in calls():
        _expected(name)


def judge(attempt: Attempt) -> Verdict:
    """Make an attempt and say how it ended."""
    call = calls()[attempt.call]
    expected = _expected(call.name) if attempt.spoiled and all(same for *_, same in attempt.spoiled) else None
    given, before = call.fresh(), {}
    parameters = call.parameters()
    for name, word, same in attempt.spoiled:
        given[name] = SAME[role_of(parameters[name])][word](parameters[name]) if same else WRONG[word]()
    before = {name: _snapshot(value) for name, value in given.items()}
    state = ambient()
    options = {**given, "no_such_option": 1} if attempt.unknown else given
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        verdict = _made(call, options, attempt, expected)
    if not verdict.is_good:
        return verdict
    if heard:
        return Verdict("warned", f"{heard[0].category.__name__}: {heard[0].message} ({heard[0].filename})")
    changed = [name for name, value in given.items() if _snapshot(value) != before[name]]
    if changed:
        return Verdict("argument changed", ", ".join(changed))
    after = ambient()
    if after != state:
        return Verdict("state changed", str([key for key in after if after[key] != state[key]]))
    return verdict


def _made(call: Call, options: Mapping[str, Any], attempt: Attempt, expected: Any) -> Verdict:
    try:
        answer = call.function(**options)
        found = numbers_of(answer)
    except InputError as error:
        complaint = sentence_complaint(error, [] if attempt.unknown else sorted(call.parameters()))
        return Verdict("bad sentence", f"{complaint}: {error}") if complaint else Verdict("refused", str(error))
    except NotCertifiedError as error:  # what solve says where it was given too little time
        return Verdict("accepted", str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Verdict("raw error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{_where(error)}")
    if attempt.unknown:
        return Verdict("ignored", "an option that does not exist")
    if expected is not None:
        return Verdict("right") if agree(found, expected) else Verdict("wrong answer", difference(found, expected))
    parameters = call.parameters()
    for name, word, same in attempt.spoiled:
        role = role_of(parameters[name])
        if not same and role in NUMERIC and word in NEVER[role]:
            return Verdict("accepted what never is", f"{name} = {word}: {str(answer)[:80]}")
    return Verdict("accepted")


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    places = []
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "cvxsae" in Path(file).parts:
            places.append(f"{Path(file).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" [{' > '.join(places[-4:])}]"


def sentence_complaint(error: InputError, names: Sequence[str]) -> str:
    """What is wrong with a message, which must speak of one of these arguments; empty if nothing is."""
    said = str(error)
    if "\n" in said:
        return "more than a line"
    if not said.endswith("."):
        return "no full stop"
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|\([^()]*\)", "", said)
    if re.search(r"[.!?] [A-Z]", bare):
        return "more than a sentence"
    if len(said) > 600:
        return "too long"
    if error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        return "drags another error along"
    silent = names and not any(re.search(rf"(?i)\b{name}\b", said) for name in names)
    return f"names none of {', '.join(names)}" if silent else ""


# ---------------------------------------------------------------------- what to compare


def numbers_of(answer: Any) -> Any:
    """What an answer says, as nested lists, dicts and arrays."""
    if hasattr(answer, "to_numpy") and hasattr(answer, "batches"):
        return np.asarray(answer.to_numpy())
    if isinstance(answer, torch.Tensor):
        return answer.detach().cpu().double().numpy()
    if isinstance(answer, sp.csr_array):
        return np.asarray(answer.todense())
    if isinstance(answer, pd.DataFrame):
        return {str(name): numbers_of(answer[name].to_numpy()) for name in answer if not _TIMES.fullmatch(str(name))}
    if isinstance(answer, Mapping):
        return {str(key): numbers_of(value) for key, value in answer.items() if not _TIMES.fullmatch(str(key))}
    if isinstance(answer, list | tuple):
        return [numbers_of(entry) for entry in answer]
    if hasattr(answer, "to_dict") and not isinstance(answer, type):
        return numbers_of(answer.to_dict())
    if is_dataclass(answer) and not isinstance(answer, type):
        names = [field.name for field in fields(answer) if not field.name.startswith("_")]
        return {name: numbers_of(getattr(answer, name)) for name in names if not _TIMES.fullmatch(name)}
    if isinstance(answer, np.ndarray | float | int | str | np.generic | None):
        return answer
    return type(answer).__name__


def agree(found: Any, expected: Any) -> bool:
    """Whether two answers say the same, up to rounding."""
    if isinstance(expected, Mapping):
        return (
            isinstance(found, Mapping)
            and set(found) == set(expected)
            and all(agree(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(agree, found, expected))
    if isinstance(expected, np.ndarray) and expected.dtype.kind in "fiub":
        if np.shape(found) != expected.shape:
            return False
        return bool(np.allclose(found, expected, rtol=1e-6, atol=1e-9, equal_nan=True))
    if isinstance(expected, np.ndarray):
        return np.shape(found) == expected.shape and list(map(str, found)) == list(map(str, expected))
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9) or (found != found and expected != expected)
    return bool(found == expected)


def difference(found: Any, expected: Any) -> str:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        keys = [key for key in {**found, **expected} if not agree(found.get(key), expected.get(key))]
        return "; ".join(f"{key}: {difference(found.get(key), expected.get(key))}" for key in keys)[:300]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return next(difference(one, other) for one, other in pairs if not agree(one, other))
    return f"{str(found)[:120]} against {str(expected)[:120]}".replace("\n", " ")


def _snapshot(value: Any) -> Any:
    """What must not change in an argument."""
    try:
        if isinstance(value, np.ndarray) and value.dtype.kind != "O":
            return (value.shape, value.strides, value.tobytes())
        if isinstance(value, torch.Tensor):
            if value.is_complex() or value.untyped_storage().nbytes() == 0:
                return None
            head = (value.shape, value.dtype, value.requires_grad, str(value.device))
            return (*head, value.detach().cpu().double().numpy().tobytes())
        if isinstance(value, sp.csr_array):
            return value.todense().tobytes()
        if isinstance(value, pd.DataFrame | pd.Series):
            return value.to_json()
        if isinstance(value, dict | list):
            return repr(value)
    except Exception:  # a tensor without numbers, a cyclic list: nothing to compare
        return None
    return None


def ambient() -> dict[str, Any]:
    """What belongs to the caller."""
    return {
        "torch threads": torch.get_num_threads(),
        "torch dtype": torch.get_default_dtype(),
        "torch device": str(torch.get_default_device()),
        "torch gradients": torch.is_grad_enabled(),
        "torch random numbers": torch.get_rng_state().numpy().tobytes(),
        "numpy random numbers": str(np.random.get_state()),  # noqa: NPY002 (the caller's)
        "random numbers": random.getstate(),
        "numpy errors": copy.copy(np.geterr()),
        "numpy printing": str(np.get_printoptions()),
        "pandas printing": pd.get_option("display.max_rows"),
    }
