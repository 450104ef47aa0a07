"""OpenAI's sparse_autoencoder: a ``.pt`` file with ``pre_bias`` and ``latent_bias``.

Its TopK SAEs are read behind a layer norm, and the others are not: that is how its own reader tells which were trained
so, since the file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvxsae.data import arguments
from cvxsae.data.files import READERS, read_saved
from cvxsae.errors import InputError
from cvxsae.sae.architecture import ActivationFunction, ReLU, TopK
from cvxsae.sae.formats.penalty import lambda_of_file
from cvxsae.sae.formats.stored import Format, StoredAutoencoder
from cvxsae.sae.normalization import LayerNorm

_ARRAYS = ("pre_bias", "encoder.weight", "latent_bias")

_DECODERS = ("decoder.weight", "decoder.linear.weight")
"""A decoder of its own, columns as atoms; or the encoder's weight again, where they are tied."""

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
"""Counts of training, which change no code; they are not kept."""

_SETTINGS = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")
"""What says which activation function it has."""


def recognizes(path: Path) -> bool:
    """Whether it is a ``.pt`` file with its biases."""
    try:
        return path.suffix == ".pt" and {"pre_bias", "latent_bias"} <= set(READERS[path.suffix](path))
    except Exception:  # whatever it is, it is not recognized
        return False


def read(path: Path) -> StoredAutoencoder:
    """Read the file.

    Raises
    ------
    InputError
        If it holds what is not understood.
    """
    return interpret(read_saved(path, "sae"), f"the SAE in {str(path)!r}")


def interpret(held: Mapping[str, Any], where: str, normalize: bool | None = None) -> StoredAutoencoder:
    """Make an SAE of a state_dict; where it is in memory, ``normalize`` is known.

    Raises
    ------
    InputError
        If it holds what is not understood.
    """
    decoders = [name for name in _DECODERS if name in held]
    missing = [name for name in _ARRAYS if name not in held]
    unknown = [name for name in held if name not in (*_ARRAYS, *_DECODERS, *_STATISTICS, *_SETTINGS)]
    if missing or unknown or len(decoders) != 1:
        raise InputError(
            f"{where} holds {', '.join(held)}; one of OpenAI's has {', '.join(_ARRAYS)}, {' or '.join(_DECODERS)}, and "
            "perhaps its statistics and activation."
        )
    activation = _activation(held, where)
    lam, source = lambda_of_file({}, "openai")
    encoder, decoder = held["encoder.weight"], held[decoders[0]]
    is_topk = isinstance(activation, TopK)
    return StoredAutoencoder(
        W_enc=encoder.mT,
        b_enc=held["latent_bias"],
        W_dec=decoder.mT if decoders[0] == "decoder.weight" else decoder,
        b_dec=held["pre_bias"],
        activation=activation,
        normalization=LayerNorm() if (is_topk if normalize is None else normalize) else None,
        lam=lam,
        lam_source=source,
        source=f"OpenAI, {activation.name}",
    )


def _activation(held: Mapping[str, Any], where: str) -> ActivationFunction:
    name = held.get("activation", "ReLU")
    if name == "ReLU":
        return ReLU()
    settings = {key: held[f"activation.{key}"] for key in ("k", "postact_fn") if f"activation.{key}" in held}
    state = held.get("activation_state_dict", {})
    settings |= dict(state) if isinstance(state, Mapping) else {}
    if name != "TopK" or set(settings) != {"k", "postact_fn"} or settings["postact_fn"] != "ReLU":
        raise InputError(
            f"{where} has the activation {name!r} with {settings or 'no settings'}; what can be read is ReLU, and TopK "
            "with k and postact_fn ReLU."
        )
    return TopK(arguments.count(settings["k"], "k"))


FORMAT = Format("openai", "a .pt file with pre_bias, encoder.weight, latent_bias, decoder.weight", recognizes, read)
