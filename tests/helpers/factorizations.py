"""Failing factorizations: what LAPACK does on another processor, forced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

FIRST = (
    (torch.linalg, ("eigh", "eigvalsh", "svd", "cholesky", "cholesky_ex", "solve", "solve_ex", "pinv")),
    (np.linalg, ("eigh", "eigvalsh", "svd", "lstsq", "solve")),
)
SECOND = ((scipy.linalg, ("eigh", "svd", "lstsq")),)


def fail(monkeypatch: pytest.MonkeyPatch, *, second: bool = False, after: int = 0) -> None:
    """Let every factorization fail from the call ``after`` on: the first choices, or those that follow them too."""
    calls = [0]

    def failing(real: Any, error: type[Exception]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] <= after:
                return real(*arguments, **options)
            raise error("the algorithm failed to converge")

        return call

    for module, names in (*FIRST, *SECOND) if second else FIRST:
        error = torch.linalg.LinAlgError if module is torch.linalg else np.linalg.LinAlgError  # type: ignore[attr-defined]
        for name in names:
            monkeypatch.setattr(module, name, failing(getattr(module, name), error))
