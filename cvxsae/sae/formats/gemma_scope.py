"""Gemma Scope: ``params.npz`` (or ``params.safetensors``), JumpReLU SAEs that do not subtract ``b_dec``."""

from __future__ import annotations

from pathlib import Path

from cvxsae.data import tensors
from cvxsae.data.files import READERS, read_arrays
from cvxsae.errors import InputError
from cvxsae.sae.architecture import JumpReLU
from cvxsae.sae.formats.stored import Format, StoredAutoencoder

FILES = ("params.npz", "params.safetensors")
"""By version."""

_ARRAYS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
"""As they are named, in lower or upper case."""


def recognizes(path: Path) -> bool:
    """Whether it is such a file, or a folder with one."""
    try:
        return (path.name in FILES and "threshold" in set(READERS[path.suffix](path))) or bool(_within(path))
    except Exception:  # whatever it is, it is not recognized
        return False


def read(path: Path) -> StoredAutoencoder:
    """Read the file, or the one in the folder.

    Raises
    ------
    InputError
        If it is none, or holds more than an SAE, as a transcoder does.
    """
    within = _within(path)
    if not path.is_file() and len(within) != 1:
        raise InputError(f"sae {str(path)!r} has {len(within)} of {' and '.join(FILES)}; pass one of these files.")
    file = path if path.is_file() else within[0]
    held = read_arrays(file, "sae")
    by_name = {str(name).lower(): array for name, array in held.items()}
    if set(by_name) != set(_ARRAYS) or len(by_name) != len(held):
        raise InputError(
            f"the arrays in {str(file)!r} are {', '.join(held)}; an SAE of Gemma Scope has exactly "
            f"{', '.join(_ARRAYS)}, and what has more (a transcoder) cannot be read."
        )
    return StoredAutoencoder(
        W_enc=by_name["w_enc"],
        b_enc=by_name["b_enc"],
        W_dec=by_name["w_dec"],
        b_dec=by_name["b_dec"],
        activation=JumpReLU(tensors.vector(by_name["threshold"], "threshold").numpy()),
        subtract_bias=False,
        lam_source="Gemma Scope penalizes the number of active features, which no λ goes with",
        source="Gemma Scope, jumprelu",
    )


def _within(path: Path) -> list[Path]:
    return [path / name for name in FILES if (path / name).is_file()]


FORMAT = Format("gemma-scope", f"{' or '.join(FILES)}, or a folder with it", recognizes, read)
