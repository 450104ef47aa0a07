"""SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cvxsae.data import tensors
from cvxsae.data.files import read_arrays
from cvxsae.errors import InputError
from cvxsae.sae.architecture import ReLU
from cvxsae.sae.config import CONFIG, WEIGHTS, read_config
from cvxsae.sae.formats.stored import Format, StoredAutoencoder, require_sizes

SCALING = ("scaling_factor", "finetuning_scaling_factor")
"""Arrays of older files that scale the codes; all ones unless they were finetuned."""

ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec")


def recognizes(path: Path) -> bool:
    """Whether it has a file of weights by SAELens's name."""
    return (path / WEIGHTS).is_file()


def read(folder: Path) -> StoredAutoencoder:
    """Read a folder of SAELens."""
    config = read_config(folder)
    held = read_arrays(folder / WEIGHTS, "sae")
    for name in set(SCALING) & set(held):
        if not (np.asarray(held.pop(name)) == 1).all():
            raise InputError(f"sae {str(folder)!r} has a {name} that is not 1; multiply W_dec's rows by it first.")
    if set(held) != set(ARRAYS):
        raise InputError(
            f"the arrays of the SAE are {', '.join(map(str, held))}; a ReLU SAE has exactly {', '.join(ARRAYS)}."
        )
    decoder = tensors.matrix(held["W_dec"], "W_dec", rows="atom")
    require_sizes(folder, config.sizes, {"d_in": decoder.shape[1], "d_sae": decoder.shape[0]})
    metadata = dict(config.metadata)
    lam = metadata.pop("cvxsae_lam", None)
    return StoredAutoencoder(
        W_enc=held["W_enc"],
        b_enc=held["b_enc"],
        W_dec=decoder,
        b_dec=held["b_dec"],
        activation=ReLU(),
        subtract_bias=config.subtract_bias,
        lam=lam,
        lam_source=metadata.pop("cvxsae_lam_source", ""),
        metadata=metadata,
        source=metadata.pop("cvxsae_trainer", "") or "SAELens, standard",
    )


FORMAT = Format("saelens", f"a folder with {CONFIG} and {WEIGHTS}", recognizes, read)
