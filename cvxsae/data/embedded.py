"""Built-in real data sets, which come with a wheel; reading them downloads nothing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cvxsae.data import arguments
from cvxsae.data.files import read_array
from cvxsae.errors import InputError


def wordllama() -> Float[np.ndarray, "32000 256"]:
    """Return the token embeddings of WordLlama: 32,000 tokens of a language model, 256 dimensions, float16.

    The weights are memory-mapped from the installed ``wordllama`` wheel; the package itself is not imported.

    Raises
    ------
    InputError
        If the wheel is not installed.
    """
    return np.asarray(read_array(_wheel_file("wordllama", "weights/*256.safetensors"), "wordllama"))


def wordllama_tokens() -> tuple[str, ...]:
    """Return the 32,000 tokens of :func:`wordllama` by row; a leading ``▁`` marks the start of a word.

    Raises
    ------
    InputError
        If the wheel is not installed.
    """
    tokenizer = _wheel_file("wordllama", "tokenizers/*.json").read_text(encoding="utf-8")
    rows: dict[str, int] = json.loads(tokenizer)["model"]["vocab"]
    return tuple(sorted(rows, key=rows.__getitem__))


def digits() -> Float[np.ndarray, "1797 64"]:
    """Return scikit-learn's handwritten digits: 1,797 images of 8 × 8 pixels, intensities 0 to 16.

    Raises
    ------
    InputError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise _missing("digits") from None
    return np.asarray(load_digits().data, dtype=np.float64)


_SETS: dict[str, Callable[[], np.ndarray]] = {"wordllama": wordllama, "digits": digits}

EMBEDDED_NAMES: tuple[str, ...] = tuple(_SETS)
"""The names that :func:`embedded` knows."""


def embedded(name: str) -> Float[np.ndarray, "N d"]:
    """Return the built-in data set of that name, one datapoint per row. See :data:`EMBEDDED_NAMES`."""
    return _SETS[arguments.choice(name, "name", EMBEDDED_NAMES)]()


def _wheel_file(package: str, pattern: str) -> Path:
    """Return the first file of an installed wheel that matches, without importing the package."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).glob(pattern))]
    if not files:
        raise _missing(package)
    return files[0]


def _missing(name: str) -> InputError:
    return InputError(f"the data set {name!r} is not installed; `pip install cvxsae[data]` brings it.")
