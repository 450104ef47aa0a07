"""sparsify: a folder with ``cfg.json`` and ``sae.safetensors``; TopK SAEs whose rows of ``W_dec`` are atoms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvxsae.data import arguments
from cvxsae.data.files import read_arrays
from cvxsae.errors import InputError
from cvxsae.sae.architecture import TopK
from cvxsae.sae.formats.penalty import lambda_of_file
from cvxsae.sae.formats.stored import Format, StoredAutoencoder, read_config, require_sizes

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"

METADATA = "sparsify"
"""Where the whole config is kept among the metadata."""

_ARRAYS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")

_DEFAULTS = {"k": 32, "expansion_factor": 32, "num_latents": 0, "activation": "topk"}
"""Of settings that a config may leave out, in the library's own words."""


def recognizes(path: Path) -> bool:
    """Whether it has weights by sparsify's name."""
    return (_folder(path) / WEIGHTS).is_file()


def _folder(path: Path) -> Path:
    """The folder whose weights or config this is."""
    return path.parent if path.name in (WEIGHTS, CONFIG) and path.is_file() else path


def read(folder: Path) -> StoredAutoencoder:
    """Read the folder of one hookpoint, or that of one of its files."""
    folder = _folder(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"sae {str(folder)!r} has no {name}; pass the folder of a hookpoint of sparsify.")
    return interpret(read_config(folder / CONFIG), read_arrays(folder / WEIGHTS, "sae"), folder)


def interpret(config: dict[str, Any], held: Mapping[str, Any], folder: Path) -> StoredAutoencoder:
    """Make an SAE of a config and its arrays; ``folder`` is what messages call it.

    Raises
    ------
    InputError
        If it is no TopK SAE.
    """
    for objection in _objections(config):
        raise InputError(f"sae {str(folder)!r} {objection}.")
    if set(held) != set(_ARRAYS):
        raise InputError(
            f"the arrays in {str(folder)!r} are {', '.join(held)}; an SAE of sparsify has exactly {', '.join(_ARRAYS)}."
        )
    decoder, encoder = held["W_dec"], held["encoder.weight"]
    if decoder.ndim == 2:
        K, d = decoder.shape
        require_sizes(folder, config, {"d_in": d})
        expected = _setting(config, "num_latents", 0) or d * _setting(config, "expansion_factor", 1)
        if expected != K:
            raise InputError(f"sae {str(folder)!r} has num_latents {expected} by its {CONFIG} but its arrays say {K}.")
    lam, source = lambda_of_file(config, "sparsify")
    return StoredAutoencoder(
        W_enc=encoder.T if encoder.ndim == 2 else encoder,
        b_enc=held["encoder.bias"],
        W_dec=decoder,
        b_dec=held["b_dec"],
        activation=TopK(_setting(config, "k", 1)),
        lam=lam,
        lam_source=source,
        metadata={METADATA: config},
        source="sparsify, topk",
    )


def _setting(config: dict[str, Any], name: str, least: int) -> int:
    return arguments.count(config.get(name, _DEFAULTS[name]), name, least=least)


def _objections(config: dict[str, Any]) -> list[str]:
    """Why it is no SAE with a TopK encoder, each the end of a sentence."""
    objections = []
    kind = config.get("activation", _DEFAULTS["activation"])
    if kind != "topk":
        objections.append(f"has the activation {kind!r}; of sparsify only TopK SAEs can be read")
    if config.get("transcode"):
        objections.append("is a transcoder (transcode is true); only SAEs, which reconstruct their input, can be read")
    if config.get("skip_connection"):
        objections.append("has a skip connection; only SAEs without one can be read")
    return objections


FORMAT = Format("sparsify", f"a folder with {CONFIG} and {WEIGHTS}", recognizes, read)
