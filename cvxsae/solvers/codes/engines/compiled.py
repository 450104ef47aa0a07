"""Compiling kernels: with numba where it can be imported, as plain Python (right, but slow) where it cannot."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

U = np.uint64
"""Index type of the inner loops: a signed index carries a branch for Python's negative ones."""

REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do to sums so that they use vector instructions; infinities and NaN keep their meaning."""


@cache
def why_not_compiled() -> str | None:
    """Why kernels cannot be compiled here; ``None`` if they can."""
    try:
        import llvmlite  # noqa: F401
        from numba import config
    except ImportError as error:
        return f"numba cannot be imported ({error})"
    return "numba is switched off by NUMBA_DISABLE_JIT" if getattr(config, "DISABLE_JIT", 0) else None


def jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for the CPU, keeping the machine code on disk wherever a directory can be written."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        function = inspect.unwrap(function)  # run-time type checkers wrap every function of a package
        reason = why_not_compiled()
        if reason is not None:
            _warn_once(reason)
            return function
        import numba

        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no writable place for its cache (a read-only installation)
            return numba.njit(nogil=True, **options)(function)

    return wrap


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"{reason}: kernels run as plain Python, which is slow.", RuntimeWarning, stacklevel=4)
