"""Values to pass: the valid one in another guise, and everything that is not valid."""

from __future__ import annotations

import decimal
import fractions
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from tests.fuzz.calls import folder

NUMERIC = ("array", "number", "whole", "numbers")
"""Roles in which text, objects and the like are never right."""


def role_of(value: Any) -> str:
    """What an argument stands for, judged by a valid value."""
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int):
        return "whole"
    if isinstance(value, float):
        return "number"
    if isinstance(value, tuple | list) and value and all(isinstance(entry, int | float) for entry in value):
        return "numbers"
    if isinstance(value, str):
        return "word"
    return "path" if isinstance(value, Path) else "other"


# ---------------------------------------------------------------------- the same in another guise


def _read_only(value: np.ndarray) -> np.ndarray:
    copy = value.copy()
    copy.flags.writeable = False
    return copy


def _strided(value: np.ndarray) -> np.ndarray:
    wide = np.zeros((*value.shape[:-1], 2 * value.shape[-1]), dtype=value.dtype)
    wide[..., ::2] = value
    return wide[..., ::2]


def _mapped(value: np.ndarray) -> np.ndarray:
    path = folder() / "mapped.npy"
    np.save(path, value)
    return np.load(path, mmap_mode="r")


def _pandas(value: np.ndarray, kind: str) -> Any:
    return (pd.DataFrame if value.ndim == 2 else pd.Series)(value).astype(kind)


class _ArrayLike:
    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.value if dtype is None else self.value.astype(dtype)


class _Subclass(np.ndarray):
    pass


class _TensorSubclass(torch.Tensor):
    pass


SAME: dict[str, dict[str, Callable[[Any], Any]]] = {
    "array": {
        "lists": lambda v: v.tolist(),
        "tuples": lambda v: tuple(tuple(row) if v.ndim > 1 else row for row in v.tolist()),
        "list of arrays": list,
        "float16": lambda v: v.astype(np.float16),
        "float32": lambda v: v.astype(np.float32),
        "longdouble": lambda v: v.astype(np.longdouble),
        "foreign bytes": lambda v: v.astype(v.dtype.newbyteorder("S")),
        "Fortran order": np.asfortranarray,
        "read-only": _read_only,
        "strided": _strided,
        "reversed twice": lambda v: np.ascontiguousarray(v[::-1])[::-1],
        "memory map": _mapped,
        "subclass": lambda v: v.view(_Subclass),
        "array-like": _ArrayLike,
        "data frame": lambda v: _pandas(v, "float64"),
        "nullable data frame": lambda v: _pandas(v, "Float64"),
        "nullable float32": lambda v: _pandas(v, "Float32"),
        "tensor": lambda v: torch.tensor(v),
        "float tensor": lambda v: torch.tensor(v, dtype=torch.float32),
        "bfloat16 tensor": lambda v: torch.tensor(v, dtype=torch.bfloat16),
        "half tensor": lambda v: torch.tensor(v, dtype=torch.float16),
        "tensor with gradient": lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True),
        "result with gradient": lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True) * 1,
        "parameter": lambda v: torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)),
        "transposed tensor": lambda v: torch.tensor(v.T.copy()).T if v.ndim == 2 else torch.tensor(v),
        "negative view": lambda v: torch._neg_view(torch.tensor(-v)) if v.dtype.kind == "f" else torch.tensor(v),
        "inference tensor": lambda v: _inference(v),
        "tensor subclass": lambda v: torch.tensor(v).as_subclass(_TensorSubclass),
    },
    "number": {
        "float64": np.float64,
        "float32": np.float32,
        "float16": np.float16,
        "longdouble": np.longdouble,
        "zero-dimensional": np.array,
        "zero-dimensional tensor": torch.tensor,
        "tensor with gradient": lambda v: torch.tensor(v, requires_grad=True),
        "fraction": fractions.Fraction,
        "decimal": decimal.Decimal,
    },
    "whole": {
        "int64": np.int64,
        "uint32": np.uint32,
        "float": float,
        "zero-dimensional": np.array,
        "zero-dimensional tensor": torch.tensor,
        "fraction": fractions.Fraction,
    },
    "numbers": {
        "list": list,
        "array": np.array,
        "series": pd.Series,
        "tensor": torch.tensor,
        "generator": lambda v: (entry for entry in v),
        "float32": lambda v: np.array(v, dtype=np.float32),
    },
    "flag": {"numpy": np.bool_, "whole number": int},
    "path": {"text": str},
}  # fmt: skip
"""By role: the same value in another guise, so that the answer is the same or a sentence says why not."""


def same_as(value: Any) -> dict[str, Callable[[Any], Any]]:
    """The guises that leave a value what it is: some numbers would be rounded."""
    guises = SAME.get(role_of(value), {})
    if isinstance(value, float) and float(np.float16(value)) != value:
        return {word: make for word, make in guises.items() if word not in _ROUNDING}
    return guises


_ROUNDING = {"float32", "float16", "zero-dimensional tensor", "tensor with gradient"}
"""Guises of a number that round one that float16 does not hold."""


def _inference(value: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return torch.tensor(value)


# ---------------------------------------------------------------------- what is not valid


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _fake(shape: tuple[int, ...]) -> torch.Tensor:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(shape, dtype=torch.float64)


class _Hostile:
    """Raises whatever is asked of it."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array. It never was")

    def __float__(self) -> float:
        raise OverflowError("no float")

    def __bool__(self) -> bool:
        raise KeyError("no truth")


def _array(**how: Any) -> np.ndarray:
    return np.full((12, 3), **how)


WRONG: dict[str, Callable[[], Any]] = {
    "text": lambda: "abc",
    "many lines": lambda: "a\nb. C\n",
    "number as text": lambda: "0.25",
    "long text": lambda: "x" * 5000,
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\udcff",
    "empty text": lambda: "",
    "bytes": lambda: b"abc",
    "bytes path": lambda: b"/tmp/x",
    "path": lambda: Path("/nowhere/at/all"),
    "path under a file": lambda: Path("/etc/passwd/x"),
    "proc": lambda: "/proc/version/x.npz",
    "object": object,
    "hostile": _Hostile,
    "class": lambda: int,
    "function": lambda: len,
    "dict": dict,
    "dict of text": lambda: {"a": "b"},
    "set": lambda: {1, 2},
    "empty list": list,
    "ragged": lambda: [[1.0, 2.0], [3.0]],
    "nested": lambda: [[[1.0]], [[2.0]]],
    "cyclic": lambda: _cyclic(),
    "deep": lambda: _deep(),
    "list of text": lambda: [["a", "b"]],
    "list of None": lambda: [[None, 1.0, 2.0]],
    "generator": lambda: (one for one in ["a", "b"]),
    "failing generator": lambda: _failing(),
    "iterator of arrays of text": lambda: iter([np.array([["a"]])]),
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "negative": lambda: -0.25,
    "half": lambda: 1.5,
    "NaN": lambda: math.nan,
    "infinity": lambda: math.inf,
    "minus infinity": lambda: -math.inf,
    "huge": lambda: 10**400,
    "minus huge": lambda: -(10**400),
    "2**64": lambda: 2**64,
    "2**63": lambda: 2**63,
    "1e300": lambda: 1e300,
    "1e-300": lambda: 1e-300,
    "complex": lambda: 1 + 2j,
    "numpy NaN": lambda: np.float32("nan"),
    "datetime": lambda: np.datetime64("2020-01-01"),
    "timedelta": lambda: np.timedelta64(3, "s"),
    "NA": lambda: pd.NA,
    "NaT": lambda: pd.NaT,
    "decimal NaN": lambda: decimal.Decimal("NaN"),
    "signaling NaN": lambda: decimal.Decimal("sNaN"),
    "one entry": lambda: np.array([0.25]),
    "one entry tensor": lambda: torch.tensor([0.25]),
    "two entries": lambda: np.array([1, 2]),
    "zero-dimensional": lambda: np.array(0.25),
    "zero-dimensional text": lambda: np.array("abc"),
    "text array": lambda: _array(fill_value="a"),
    "bytes array": lambda: _array(fill_value=b"a"),
    "object array": lambda: _array(fill_value=None),
    "array of numbers as objects": lambda: _array(fill_value=1.5).astype(object),
    "complex array": lambda: _array(fill_value=1j),
    "structured": lambda: np.zeros((12,), dtype=[("a", float), ("b", int)]),
    "record array": lambda: np.zeros((12, 3), dtype=[("a", float)]).view(np.recarray),
    "dates": lambda: np.zeros((12, 3), dtype="datetime64[s]"),
    "void": lambda: np.zeros((12, 3), dtype="V8"),
    "boolean array": lambda: _array(fill_value=True),
    "masked": lambda: np.ma.masked_array(np.ones((12, 3)), mask=np.eye(12, 3, dtype=bool)),
    "masked constant": lambda: np.ma.masked,
    "matrix": lambda: _quietly(lambda: np.matrix(np.ones((2, 2)))),
    "empty array": lambda: np.zeros((0, 3)),
    "empty axis": lambda: np.zeros((12, 0)),
    "empty vector": lambda: np.zeros(0),
    "three axes": lambda: np.ones((2, 3, 4)),
    "zeros": lambda: np.zeros((12, 3)),
    "NaN entry": lambda: np.where(np.eye(12, 3) > 0, np.nan, 1.0),
    "infinite entry": lambda: np.where(np.eye(12, 3) > 0, np.inf, 1.0),
    "large entries": lambda: _array(fill_value=1e200),
    "long entries": lambda: np.full((12, 3), np.longdouble("1e400")),
    "tiny entries": lambda: _array(fill_value=1e-310),
    "integers": lambda: np.arange(36).reshape(12, 3),
    "unsigned": lambda: np.full((12, 3), 2**64 - 1, dtype=np.uint64),
    "sparse": lambda: sp.csr_array(np.eye(12, 3)),
    "sparse matrix": lambda: sp.csr_matrix(np.eye(12, 3)),
    "sparse coordinates": lambda: sp.coo_array(np.eye(12, 3)),
    "sparse vector": lambda: sp.coo_array(np.ones(3)),
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "compressed tensor": lambda: _quietly(lambda: torch.eye(3).to_sparse_csr()),
    "meta tensor": lambda: torch.zeros(12, 3, device="meta"),
    "fake tensor": lambda: _fake((12, 3)),
    "nested tensor": lambda: _quietly(lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)])),
    "jagged tensor": lambda: _quietly(
        lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged)
    ),
    "complex tensor": lambda: torch.zeros(12, 3, dtype=torch.complex64),
    "quantized": lambda: _quietly(lambda: torch.quantize_per_tensor(torch.ones(12, 3), 0.1, 0, torch.qint8)),
    "float8": lambda: torch.zeros(12, 3).to(torch.float8_e5m2),
    "boolean tensor": lambda: torch.zeros(12, 3, dtype=torch.bool),
    "uint16 tensor": lambda: torch.ones(12, 3, dtype=torch.uint16),
    "freed tensor": lambda: _freed(),
    "conjugate": lambda: torch.zeros(12, 3, dtype=torch.complex64).conj(),
    "data frame of text": lambda: pd.DataFrame({"a": ["x", "y"]}),
    "data frame with NA": lambda: pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    "data frame of categories": lambda: pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
    "mixed data frame": lambda: pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
    "data frame of dates": lambda: pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}),
    "series": lambda: pd.Series([1.0, 2.0]),
    "index": lambda: pd.Index([1.0, 2.0]),
    "range": lambda: range(3),
    "memory": lambda: memoryview(b"abc"),
    "device": lambda: torch.device("meta"),
    "numpy generator": lambda: np.random.default_rng(0),
    "exception": lambda: ValueError("x"),
    "ellipsis": lambda: ...,
    "slice": lambda: slice(2),
}
"""What nobody should pass, by a word for it."""

NEVER = {
    "array": {
        "text", "many lines", "number as text", "long text", "NUL", "surrogate", "empty text", "bytes", "object",
        "hostile", "class", "function", "ragged", "list of text", "list of None", "cyclic", "deep", "generator",
        "failing generator",
        "text array", "bytes array", "object array", "complex array", "structured", "record array", "dates", "void",
        "masked", "NaN entry", "infinite entry", "large entries", "long entries", "empty array", "empty axis",
        "meta tensor", "fake tensor", "nested tensor", "jagged tensor", "complex tensor", "quantized", "NaN",
        "infinity", "huge", "data frame of text", "data frame with NA", "mixed data frame",
    },
    "number": {
        "text", "bytes", "object", "hostile", "class", "function", "dict", "NaN", "infinity", "minus infinity", "huge",
        "minus huge", "complex", "numpy NaN", "NA", "NaT", "decimal NaN", "signaling NaN", "two entries", "NaN entry",
        "sparse", "ragged", "datetime", "masked constant", "zero-dimensional text",
    },
}  # fmt: skip
"""By role: what may never be taken for an answer's worth."""
NEVER["whole"] = NEVER["number"] | {"half", "negative", "zero-dimensional", "1e-300"}
NEVER["numbers"] = {"text", "bytes", "object", "hostile", "class", "function", "list of text", "NaN", "ragged", "huge"}


def _cyclic() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


def _deep() -> Any:
    value: Any = 1.0
    for _ in range(3000):
        value = [value]
    return value


def _failing() -> Any:
    yield np.ones((2, 3))
    yield np.ones((2, 4))


def _freed() -> torch.Tensor:
    tensor = torch.ones(12, 3)
    tensor.untyped_storage().resize_(0)
    return tensor
