"""The arithmetic of the rounds: one interface, several engines, chosen by device and by what is installed."""

from __future__ import annotations

import importlib.util
import os

from cvxsae.errors import InputError
from cvxsae.solvers.codes.engines.compiled import why_not_compiled
from cvxsae.solvers.codes.engines.screening import PreparedDictionary
from cvxsae.solvers.codes.engines.state import Engine, Tuning

ENGINES = ("auto", "fused", "torch", "triton")
"""Names that :func:`make_engine` knows."""


def engine_name(name: str, device_type: str, *, has_prices: bool = False) -> str:
    """Resolve ``auto``: the fused kernels on a CPU where numba works, torch otherwise.

    ``has_prices`` says whether the penalty has weights or a ridge.

    Triton is taken only by name: its kernels have run in Triton's interpreter, but on no GPU yet.

    Raises
    ------
    InputError
        If the engine cannot run on that device, or what it needs is not installed.
    """
    if has_prices and name == "triton":
        raise InputError("engine is 'triton', which knows no weights and no ridge; use engine='auto'.")
    if name == "auto":
        return "fused" if device_type == "cpu" and why_not_compiled() is None else "torch"
    if name == "fused" and device_type != "cpu":
        raise InputError(f"engine is 'fused' but device is {device_type!r}; use engine='torch' or device='cpu'.")
    if name == "fused" and why_not_compiled() is not None:
        raise InputError(f"engine is 'fused' but {why_not_compiled()}; install numba or use engine='torch'.")
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
