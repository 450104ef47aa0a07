"""An SAE as a caller gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvxsae.errors import InputError
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.config import LAYOUT

SAELike = SparseAutoencoder | Mapping[str, Any] | str | Path


def as_autoencoder(sae: Any, verb: str = "audit") -> SparseAutoencoder:
    """An SAE as it was passed, as arrays by name, or from a folder."""
    if isinstance(sae, SparseAutoencoder):
        return sae
    if isinstance(sae, str | Path):
        return SparseAutoencoder.load(sae)
    if not isinstance(sae, Mapping):
        raise InputError(f"sae is a {type(sae).__name__}; the data come first, {verb}(X, sae), and for sae {LAYOUT}.")
    return SparseAutoencoder.from_arrays(sae)
