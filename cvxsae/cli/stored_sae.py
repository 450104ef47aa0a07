"""Options for an SAE on disk, and what is said if it cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvxsae.errors import InputError, in_short

if TYPE_CHECKING:
    from cvxsae.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, kw_only=True)
class StoredSAE:
    """An SAE on disk."""

    sae: Annotated[Path, typer.Option("--sae", help="Folder or file of an SAE, from any supported library.")]
    layout: Annotated[
        str | None, typer.Option("--layout", help="Layout of the SAE's files, if they do not determine it.")
    ] = None
    sae_scale: Annotated[
        float | None,
        typer.Option(
            "--sae-scale", help="Factor that multiplies activations first, if the SAE's file does not state it."
        ),
    ] = None

    def load(self) -> SparseAutoencoder:
        """Read it."""
        return load_sae(str(self.sae), self.layout, self.sae_scale)


def load_sae(text: str, layout: str | None = None, scale: float | None = None) -> SparseAutoencoder:
    """The SAE at the path in ``--sae``; messages call it by this option."""
    from cvxsae.sae.autoencoder import SparseAutoencoder

    file, colons, key = text.partition("::")
    if colons and not Path(text).exists():
        raise InputError(
            f"--sae is {in_short(text)}, but it takes a whole SAE; drop ::{key}, or test a dictionary alone: "
            f"cvxsae check DATA --dictionary {file}::{key} --lam-ratio 0.1."
        )
    try:
        return SparseAutoencoder.load(text, layout, scale=scale)
    except InputError as error:
        raise InputError(re.sub(r"^(?:sae|path) ", "--sae ", str(error))) from None
