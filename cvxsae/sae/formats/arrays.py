"""Plain arrays by the names that libraries give them, in memory or in a file, without a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.files import READERS, read_arrays, read_saved
from cvxsae.errors import InputError
from cvxsae.sae.architecture import ActivationFunction, Gated, JumpReLU, ReLU, TopK
from cvxsae.sae.formats.stored import Format, StoredAutoencoder

NAMES: Mapping[str, tuple[str, ...]] = {
    "W_enc": ("W_enc", "w_enc", "encoder.weight", "encoder_linear.weight"),
    "b_enc": ("b_enc", "encoder.bias", "encoder_linear.bias", "latent_bias"),
    "W_dec": ("W_dec", "w_dec", "decoder.weight", "decoder_linear.weight"),
    "b_dec": ("b_dec", "bias", "pre_bias", "decoder_bias", "decoder.bias", "decoder_linear.bias"),
    "threshold": ("threshold",),
    "b_gate": ("b_gate", "gate_bias"),
    "r_mag": ("r_mag",),
    "b_mag": ("b_mag", "mag_bias"),
    "k": ("k",),
}
"""What an array is, by any of these names."""

LAYOUTS = ("rows", "columns")
"""Encoder (d, K) and decoder (K, d), whose rows are atoms; or the transposes of both, as torch's linear layers have."""

_OF_ALL = ("W_enc", "W_dec", "b_dec")
_GATES = ("b_gate", "r_mag", "b_mag")
_CONFIGS = ("cfg.json", "config.json")
"""Files that say what the arrays beside them are."""

_SUFFIXES = (".npz", ".safetensors", ".pt")

_ADDED_ONLY_LATER = ("decoder.bias", "decoder_linear.bias")
"""Names of a decoder's bias that belong to linear layers, whose encoder knows nothing of it."""

_SUBTRACTED = ("bias", "pre_bias", "decoder_bias")
"""Names of a bias that is subtracted at the input wherever they are used."""

_TELLING = ("W_enc", "bias")
"""Names that are those of a ReLU SAE where no array says otherwise."""


@dataclass(frozen=True)
class Asked:
    """What a caller says about arrays that do not tell.

    Attributes
    ----------
    layout
        One of :data:`LAYOUTS`, or None.
    activation
        The activation function, or None.
    subtract_bias
        Whether ``b_dec`` is subtracted at the input, or None.
    """

    layout: str | None = None
    activation: ActivationFunction | None = None
    subtract_bias: bool | None = None


def named(arrays: Mapping[str, Any], asked: Asked, where: str = "the SAE") -> StoredAutoencoder:
    """Make an SAE of its arrays by name; what they do not tell has to be said.

    Raises
    ------
    InputError
        If an array is missing, unknown or there twice, or something is neither told nor said.
    """
    found: dict[str, tuple[str, Any]] = {}
    whose = f"the arrays of {where} are {', '.join(map(str, arrays)) or 'none'}"
    for part, names in NAMES.items():
        given = [name for name in names if name in arrays]
        if len(given) > 1:
            raise InputError(f"{whose}; {' and '.join(given)} would both be {part}, so pass one of them.")
        if given:
            found[part] = (given[0], arrays[given[0]])
    unknown = [str(name) for name in arrays if name not in {name for name, _ in found.values()}]
    has_gates = any(gate in found for gate in _GATES)
    missing = [part for part in (*_OF_ALL, *(_GATES if has_gates else ("b_enc",))) if part not in found]
    if missing or unknown:
        raise InputError(
            f"{whose}; a ReLU SAE has exactly W_enc, b_enc, W_dec, b_dec, others have threshold, k or b_gate, r_mag, "
            f"b_mag beside them{', and what else is there is not understood' if unknown else ''}."
        )
    parts = {part: array for part, (_, array) in found.items()}
    origin = {part: name for part, (name, _) in found.items()}
    encoder, decoder = _oriented(parts, origin, asked.layout)
    said = asked.activation
    activation = _activation(parts, origin, decoder.shape[0], where) if said is None else _accepted(said, parts)
    return StoredAutoencoder(
        W_enc=encoder,
        b_enc=parts.get("b_enc"),
        W_dec=decoder,
        b_dec=parts["b_dec"],
        activation=activation,
        subtract_bias=_subtracts(parts, origin, activation, asked.subtract_bias, where),
        source=f"plain arrays, {activation.name}",
    )


def _activation(parts: Mapping[str, Any], origin: Mapping[str, str], width: int, where: str) -> ActivationFunction:
    if "b_gate" in parts:
        return Gated(parts["b_gate"], parts["r_mag"], parts["b_mag"])
    if "k" in parts and "threshold" not in parts:
        return TopK(arguments.count(parts["k"], "k"))
    if "threshold" in parts and "k" not in parts:
        return JumpReLU(_threshold(parts["threshold"], width))
    told = origin["W_enc"] in _TELLING or origin["b_dec"] in _TELLING
    if told and "k" not in parts:
        return ReLU()
    raise InputError(
        f"the arrays of {where} do not tell its activation function; read it with its config, or pass "
        "activation=ReLU(), TopK(k) or JumpReLU(threshold) of cvxsae.sae to SparseAutoencoder.from_arrays."
    )


def _threshold(value: Any, width: int) -> Any:
    """One threshold per atom, where there is one for all, too."""
    tensor = tensors.float_tensor(value, "threshold")
    return (tensor.reshape(1).expand(width) if tensor.numel() == 1 else tensor).contiguous()


def _accepted(activation: Any, parts: Mapping[str, Any]) -> ActivationFunction:
    """The activation function that was passed, unless arrays are there that it has no use for."""
    found = arguments.instance(activation, "activation", ActivationFunction, "one of cvxsae.sae, as TopK(k)")
    used = {"threshold", "k"} if isinstance(found, JumpReLU | TopK) else set(found.arrays())
    left = [name for name in ("threshold", "k", *_GATES) if name in parts and name not in used]
    if left:
        raise InputError(
            f"activation is {found.name} but there is an array {left[0]}, which it has no use for; leave one "
            "of them out."
        )
    return found


def _subtracts(
    parts: Mapping[str, Any], origin: Mapping[str, str], activation: ActivationFunction, asked: Any, where: str
) -> bool:
    if asked is not None:
        return arguments.flag(asked, "subtract_bias")
    name = origin["b_dec"]
    if name in _ADDED_ONLY_LATER or origin["W_enc"] == "w_enc":  # the latter is Gemma Scope's
        return False
    is_named = origin["W_enc"] == "W_enc"
    if name in _SUBTRACTED or not (is_named and isinstance(activation, JumpReLU)):
        return True
    if not bool(torch.any(tensors.vector(parts["b_dec"], "b_dec"))):
        return True
    raise InputError(
        f"the arrays of {where} do not tell whether b_dec is subtracted at the input, as SAELens does and Gemma Scope "
        "and dictionary_learning do not; pass subtract_bias=True or False to SparseAutoencoder.from_arrays."
    )


def _oriented(
    parts: Mapping[str, Any], origin: Mapping[str, str], layout: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder (d, K) and decoder (K, d), by what was said, by the names of linear layers, or by their shapes."""
    encoder = tensors.matrix(parts["W_enc"], origin["W_enc"], rows="dimension")
    decoder = tensors.matrix(parts["W_dec"], origin["W_dec"], rows="atom")
    if layout is not None:
        turned = arguments.choice(layout, "layout", LAYOUTS) == "columns"
        return (encoder.T, decoder.T) if turned else (encoder, decoder)
    linear = {part: origin[part].endswith(".weight") for part in ("W_enc", "W_dec")}
    encoder = encoder.T if linear["W_enc"] else encoder
    decoder = decoder.T if linear["W_dec"] else decoder
    if all(linear.values()):
        return encoder, decoder
    biases = [parts[name] for name in ("b_enc", "b_gate") if name in parts]
    K, d = (tensors.float_tensor(bias, "b").numel() for bias in (biases[0], parts["b_dec"]))
    if d == K and encoder.shape == decoder.shape == (K, d):
        raise InputError(
            f"W_dec has shape {(K, d)}, so that shapes do not tell atoms from dimensions; pass "
            "layout='rows' to SparseAutoencoder.from_arrays or load (--layout rows) if rows of W_dec are atoms, as in "
            "SAELens, else 'columns'."
        )
    is_turned = decoder.shape == (d, K) and encoder.shape == (K, d) and not any(linear.values())
    return (encoder.T, decoder.T) if is_turned else (encoder, decoder)


def recognizes(path: Path) -> bool:
    """Whether it is a file of arrays, each of which has a known name, encoder and decoder among them."""
    try:
        if path.suffix not in _SUFFIXES or not path.is_file():
            return False
        names = set(READERS[path.suffix](path))
    except Exception:  # whatever it is, it is not recognized
        return False
    known = {name for names in NAMES.values() for name in names}
    return names <= known and all(names & set(NAMES[part]) for part in _OF_ALL)


def read(path: Path, layout: str | None = None) -> StoredAutoencoder:
    """Read a file of arrays.

    Raises
    ------
    InputError
        As :func:`named`.
    """
    for name in _CONFIGS:
        if (path.parent / name).is_file():
            raise InputError(
                f"sae {str(path)!r} has a {name} beside it, which may say what SAE it is; pass the folder, or its "
                "arrays to SparseAutoencoder.from_arrays with activation and subtract_bias."
            )
    held = read_saved(path, "sae") if path.suffix == ".pt" else read_arrays(path, "sae")
    return named(held, Asked(layout), f"the SAE in {str(path)!r}")


_FILES = f"a {', '.join(_SUFFIXES)} file of arrays by name"

FORMAT = Format("arrays", _FILES, recognizes, read)
BY_LAYOUT = tuple(
    Format(layout, f"{_FILES}, {what}", lambda path: False, partial(read, layout=layout))
    for layout, what in zip(LAYOUTS, ("with rows of the decoder as atoms", "with its columns as atoms"), strict=True)
)
"""The same where shapes do not tell atoms from dimensions."""
