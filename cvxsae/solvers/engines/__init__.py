"""The arithmetic of the rounds: one interface, several engines, chosen by device and by what is installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from cvxsae.data.arguments import InputError

if TYPE_CHECKING:
    from cvxsae.solvers.engines.screening import PreparedDictionary
    from cvxsae.solvers.engines.state import Engine, Tuning

ENGINES = ("auto", "fused", "torch")
"""Names that :func:`make_engine` knows."""


def engine_name(name: str, device_type: str) -> str:
    """Resolve ``auto``: the fused kernels on a CPU with numba, torch otherwise.

    Raises
    ------
    InputError
        If the engine cannot run on that device, or what it needs is not installed.
    """
    if name == "auto":
        return "fused" if device_type == "cpu" and importlib.util.find_spec("numba") else "torch"
    if name == "fused" and device_type != "cpu":
        raise InputError(f"engine is 'fused' but device is {device_type!r}; use engine='torch' or device='cpu'.")
    if name == "fused" and not importlib.util.find_spec("numba"):
        raise InputError("engine is 'fused' but numba is not installed; install numba or use engine='torch'.")
    return name


def make_engine(name: str, dictionary: PreparedDictionary, tuning: Tuning) -> Engine:
    """Build an engine by its resolved name. Its module is imported only now."""
    if name == "fused":
        from cvxsae.solvers.engines.fused import FusedEngine

        return FusedEngine(dictionary, tuning)
    from cvxsae.solvers.engines.batched import BatchedEngine

    return BatchedEngine(dictionary, tuning)
