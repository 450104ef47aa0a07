"""Arithmetic that does not depend on the caller's settings."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = TypeVar("Kind", bound=type)

_MADE_BY = ("__init__", "__post_init__", "__getitem__")
"""Methods without a public name that compute nonetheless."""


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute in the precision and on the device that the code names; the caller's settings are back at the end.

    Autocast would turn float64 products into bfloat16 ones, and with them every certificate into a guess; a default
    device would put scratch memory elsewhere than the data; tensors made in inference mode cannot be used outside it;
    numpy may be told to raise where an overflow is expected.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.empty(0).device.type != "cpu":  # torch.get_default_device() of torch 2.6 does not see a `with` block
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


def computes(kind: Kind) -> Kind:
    """Give the public methods of a class :func:`own_arithmetic`; those that yield have that of whoever asks."""
    for name, member in list(vars(kind).items()):
        of_class = isinstance(member, classmethod)
        function = member.__func__ if of_class else member
        is_shown = name in _MADE_BY or not name.startswith("_")
        if is_shown and inspect.isfunction(function) and not inspect.isgeneratorfunction(function):
            shielded = own_arithmetic()(function)
            setattr(kind, name, classmethod(shielded) if of_class else shielded)
    return kind
