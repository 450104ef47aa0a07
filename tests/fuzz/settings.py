"""Settings of the caller's torch, numpy and warnings: the same answers, and nothing changed afterwards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
import torch

from tests.fuzz.attempts import agree, ambient, difference, numbers_of
from tests.fuzz.calls import Call, calls, folder

LONG = (
    "audit",
    "check_optimality",
    "compare",
    "crosscheck",
    "dictionary_path",
    "large_path",
    "second_order",
    "write_example",
)
"""Calls that take long, and are made of others; of an example, hundreds of steps in single precision."""


@contextmanager
def set_to(setter, value, before) -> Iterator[None]:
    """A global setting of torch, back at the end."""
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def all_of(*settings: AbstractContextManager[object]) -> Iterator[None]:
    """Several settings at once."""
    with ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting)
        yield


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "warnings as errors": warnings_as_errors,
    "the rest": lambda: all_of(
        torch.no_grad(),
        set_to(torch.set_default_dtype, torch.float64, torch.float32),
        set_to(torch.set_float32_matmul_precision, "medium", "highest"),
        set_to(torch.use_deterministic_algorithms, True, False),
        torch.autograd.set_detect_anomaly(True, check_nan=True),
        np.errstate(all="raise"),
        set_to(torch.set_num_threads, 1, torch.get_num_threads()),
    ),
}


def complaint(call: Call, expected: object) -> str:
    """What differs from the expected answer, or in the caller's state; empty if nothing does."""
    before = ambient()
    found = numbers_of(call.function(**call.fresh()))
    after = ambient()
    changed = [key for key in after if after[key] != before[key]]
    if changed:
        return f"{call.name} changes {', '.join(changed)}"
    return "" if agree(found, expected) else f"{call.name}: {difference(found, expected)}"


def settings_complaints() -> list[str]:
    """Every call in every setting: what differs; empty if nothing does."""
    os.chdir(folder())
    chosen = [call for name, call in calls().items() if name not in LONG]
    expected = {call.name: numbers_of(call.function(**call.fresh())) for call in chosen}
    found = []
    for name, setting in SETTINGS.items():
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", UserWarning)  # that of anomaly detection itself
            stack.enter_context(setting())  # type: ignore[operator]
            found += [f"{name} | {said}" for call in chosen if (said := complaint(call, expected[call.name]))]
    return found
