"""Arithmetic that the caller's torch settings do not reach."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute in the precision and on the device that the code names; the caller's settings are back at the end.

    Autocast would turn float64 products into bfloat16 ones, and with them every certificate into a guess; a default
    device would put scratch memory elsewhere than the data; tensors made in inference mode cannot be used outside it.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.empty(0).device.type != "cpu":  # torch.get_default_device() of torch 2.6 does not see a `with` block
            stack.enter_context(torch.device("cpu"))
        yield
