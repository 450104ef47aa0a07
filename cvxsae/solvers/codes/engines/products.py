"""Products of residuals with all atoms in each precision, and the numbers that a row is shortened to.

On CUDA the settings of torch decide whether inputs of float32 products are shortened and where sums are kept. They
belong to the whole process, and torch has none for one call: one product at a time is launched with its settings, and
none of ours with those of another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Num

PRECISIONS = ("int8", "bfloat16", "tf32", "float32")
"""Precisions of screening products, the coarsest first."""

NARROWEST_INT8 = 32
"""Rows and multiples of eight that integer products of CUDA ask for: fewer rows are filled up with zeros."""

_PROBES, _MANY_PROBES = 64, 1024
"""Rows and atoms of the product that is tried: large enough that libraries do not treat it as a small one."""

_SETTINGS = threading.RLock()
"""Held by the thread that sets torch's settings of products, or relies on them."""


def product(
    precision: str, rows: Num[torch.Tensor, "b d"], atoms: Num[torch.Tensor, "K d"], out: torch.Tensor | None = None
) -> Num[torch.Tensor, "b K"]:
    """Rows times atoms, both in a precision: float32 and tf32 to float32, bfloat16 to bfloat16, int8 to int32."""
    if precision == "int8":
        return _int8_product(rows, atoms, out)
    if rows.device.type != "cuda":
        return torch.mm(rows, atoms.T, out=out)
    with _settings_of(precision):
        return torch.mm(rows, atoms.T, out=out)


def float32_is_shortened(device_type: str = "cpu") -> bool:
    """Whether the inputs of float32 products may be shortened: as torch's user has set it, or as a product shows."""
    with _SETTINGS:  # what another thread sets for a product of its own does not count
        try:
            if torch.get_float32_matmul_precision() != "highest":
                return True
        except RuntimeError:  # set through several interfaces at once: assume the worst
            return True
        return not _keeps_all_digits(device_type)


@cache
def _keeps_all_digits(device_type: str) -> bool:
    """Whether float32 products keep the last digit of both inputs: libraries have settings that torch does not know.

    All other terms of every sum are zero, so that no order of adding them rounds.
    """
    ones = torch.eye(_PROBES, device=device_type)
    last = ones * (1 + torch.finfo(torch.float32).eps)
    many = _MANY_PROBES // _PROBES
    return all(
        bool((product("float32", rows, atoms.repeat(many, 1)) == last.repeat(1, many)).all())
        for rows, atoms in ((ones, last), (last, ones))
    )


def _int8_product(rows: torch.Tensor, atoms: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    if rows.device.type != "cuda":
        return torch._int_mm(rows, atoms.T) if out is None else torch._int_mm(rows, atoms.T, out=out)
    n = len(rows)
    missing = max(NARROWEST_INT8 - n, -n % 8)
    if missing:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    return torch._int_mm(rows, atoms.T)[:n]


@contextmanager
def _settings_of(precision: str) -> Iterator[None]:
    """Settings of CUDA's products for as long as it takes to launch one; those before come back whatever happens.

    Products of bfloat16 are not summed in bfloat16, since the error bound assumes float32 accumulators; inputs of tf32
    products are shortened; float32 products are as the user has set them.
    """
    with _SETTINGS, ExitStack() as before:
        matmul: Any = torch.backends.cuda.matmul
        if precision == "bfloat16":
            name = "allow_bf16_reduced_precision_reduction"
            splits = getattr(matmul, f"{name}_split_k", True)  # since torch 2.10; alone, the first would reset it
            before.callback(setattr, matmul, name, _with_splits(getattr(matmul, name), splits))
            setattr(matmul, name, _with_splits(False, splits))
        elif precision == "tf32":
            name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
            if (held := getattr(matmul, name)) != value:  # setting it would end that it follows torch.backends
                before.callback(setattr, matmul, name, held)
                setattr(matmul, name, value)
        yield


def _with_splits(allowed: bool, splits: bool) -> bool | tuple[bool, bool]:
    return allowed if splits else (allowed, False)
