"""The arithmetic of the rounds: one interface, several engines, chosen by device and by what is installed."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import TYPE_CHECKING

from cvxsae.data.arguments import InputError

if TYPE_CHECKING:
    from cvxsae.solvers.codes.engines.screening import PreparedDictionary
    from cvxsae.solvers.codes.engines.state import Engine, Tuning

ENGINES = ("auto", "fused", "torch", "triton")
"""Names that :func:`make_engine` knows."""


def engine_name(name: str, device_type: str) -> str:
    """Resolve ``auto``: the fused kernels on a CPU with numba, Triton on CUDA where it works, torch otherwise.

    Raises
    ------
    InputError
        If the engine cannot run on that device, or what it needs is not installed.
    """
    if name == "auto":
        if device_type == "cuda":
            return "triton" if _triton_works() else "torch"
        return "fused" if device_type == "cpu" and importlib.util.find_spec("numba") else "torch"
    if name == "fused" and device_type != "cpu":
        raise InputError(f"engine is 'fused' but device is {device_type!r}; use engine='torch' or device='cpu'.")
    if name == "fused" and not importlib.util.find_spec("numba"):
        raise InputError("engine is 'fused' but numba is not installed; install numba or use engine='torch'.")
    if name == "triton" and not importlib.util.find_spec("triton"):
        raise InputError("engine is 'triton' but triton is not installed; install triton or use engine='torch'.")
    if name == "triton" and device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"engine is 'triton' but device is {device_type!r}; use engine='torch' or device='cuda'.")
    return name


def make_engine(name: str, dictionary: PreparedDictionary, tuning: Tuning) -> Engine:
    """Build an engine by its resolved name. Its module is imported only now."""
    if name == "fused":
        from cvxsae.solvers.codes.engines.fused import FusedEngine

        return FusedEngine(dictionary, tuning)
    if name == "triton":
        from cvxsae.solvers.codes.engines.triton_engine import TritonEngine

        return TritonEngine(dictionary, tuning)
    from cvxsae.solvers.codes.engines.batched import BatchedEngine

    return BatchedEngine(dictionary, tuning)


def _triton_works() -> bool:
    """Whether Triton kernels compile and run on the current CUDA device; warns if it is there but they do not."""
    if not importlib.util.find_spec("triton"):
        return False
    import torch

    if torch.cuda.get_device_capability()[0] < 8:  # no bfloat16 in hardware
        return False
    try:
        from cvxsae.solvers.codes.engines.triton_engine import failure
    except ImportError as error:
        reason: str | None = f"{type(error).__name__}: {error}"
    else:
        reason = failure(torch.device("cuda"))
    if reason is not None:
        warnings.warn(f"Triton does not work here ({reason}); using engine='torch'.", RuntimeWarning, stacklevel=3)
    return reason is None
