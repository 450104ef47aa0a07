"""Products of residuals with all atoms in each precision, and the numbers that a row is shortened to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Num

PRECISIONS = ("int8", "bfloat16", "tf32", "float32")
"""Precisions of screening products, the coarsest first."""

NARROWEST_INT8 = 32
"""Rows and multiples of eight that integer products of CUDA ask for: fewer rows are filled up with zeros."""


def product(
    precision: str, rows: Num[torch.Tensor, "b d"], atoms: Num[torch.Tensor, "K d"], out: torch.Tensor | None = None
) -> Num[torch.Tensor, "b K"]:
    """Rows times atoms, both in a precision: float32 and tf32 to float32, bfloat16 to bfloat16, int8 to int32."""
    if precision == "int8":
        return _int8_product(rows, atoms, out)
    if precision == "bfloat16":
        with _full_accumulation(rows.device):
            return torch.mm(rows, atoms.T, out=out)
    if precision == "tf32":
        with _shortened(rows.device):
            return torch.mm(rows, atoms.T, out=out)
    return torch.mm(rows, atoms.T, out=out)


def _int8_product(rows: torch.Tensor, atoms: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    if rows.device.type != "cuda":
        return torch._int_mm(rows, atoms.T) if out is None else torch._int_mm(rows, atoms.T, out=out)
    n = len(rows)
    missing = max(NARROWEST_INT8 - n, -n % 8)
    if missing:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    return torch._int_mm(rows, atoms.T)[:n]


@contextmanager
def _full_accumulation(device: torch.device) -> Iterator[None]:
    """Keep CUDA from reducing bfloat16 products in bfloat16: the error bound assumes float32 accumulators."""
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


@contextmanager
def _shortened(device: torch.device) -> Iterator[None]:
    """Let CUDA shorten the inputs of float32 products to tf32."""
    if device.type != "cuda":
        yield
        return
    settings: Any = torch.backends.cuda.matmul
    before = settings.allow_tf32
    settings.allow_tf32 = True
    try:
        yield
    finally:
        settings.allow_tf32 = before
