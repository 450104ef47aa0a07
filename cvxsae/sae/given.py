"""An SAE as a caller gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvxsae.errors import InputError
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.formats.config import LAYOUT
from cvxsae.sae.formats.objects import is_one

SAELike = SparseAutoencoder | Mapping[str, Any] | str | Path | Any
"""A :class:`SparseAutoencoder`, arrays by name, a folder or file, or an SAE of another library."""


def as_autoencoder(sae: Any, verb: str = "audit") -> SparseAutoencoder:
    """An SAE as it was passed, as arrays by name, as another library has it, or from where it lies."""
    if isinstance(sae, SparseAutoencoder):
        return sae
    if isinstance(sae, str | Path):
        return SparseAutoencoder.load(sae)
    if is_one(sae):
        return SparseAutoencoder.from_object(sae)
    if not isinstance(sae, Mapping):
        raise InputError(f"sae is a {type(sae).__name__}; the data come first, {verb}(X, sae), and for sae {LAYOUT}.")
    return SparseAutoencoder.from_arrays(sae)
