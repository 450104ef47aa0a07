"""What every layout is read into: the arrays of an SAE in one layout, and what its file said about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.errors import InputError, in_short
from cvxsae.sae.architecture import ActivationFunction
from cvxsae.sae.normalization import Normalization


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredAutoencoder:
    """An SAE as it was stored, in our layout; :meth:`~cvxsae.SparseAutoencoder.from_stored` checks and folds it.

    Attributes
    ----------
    W_dec
        Decoder, (K, d): rows are atoms, of any norm. Arrays here are numpy arrays or tensors of any float type.
    activation
        The activation function. There is no default: a layout that does not say which one it is must ask.
    W_enc
        Encoder, (d, K); None where it is tied, ``W_dec.T``.
    b_enc, b_dec
        Biases, (K,) and (d,); None where the layout has none, zero.
    subtract_bias
        Whether ``b_dec`` is subtracted at the input.
    normalization
        What is done to each datapoint first, if it differs between datapoints or mixes dimensions.
    input_scale
        What every datapoint is multiplied by first, the same for all, and the reconstruction divided by at the end.
        It is folded into the weights, exactly in float64, and ``lam`` with it. None where the file says that there is
        one, but not which: then whoever loads it has to say.
    lam
        The penalty λ of (P) for data as the encoder sees them (after ``input_scale`` and ``normalization``); None if
        the file does not tell.
    lam_source
        A sentence that says where λ came from, or, where it is None, why it is not known.
    metadata
        Everything else the file says that changes no code; it survives a round trip. JSON values.
    source
        Library and architecture, in words.
    """

    W_dec: Any
    activation: ActivationFunction
    W_enc: Any = None
    b_enc: Any = None
    b_dec: Any = None
    subtract_bias: bool = True
    normalization: Normalization | None = None
    input_scale: float | None = 1.0
    lam: float | None = None
    lam_source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


def checked(stored: StoredAutoencoder, scale: float) -> dict[str, np.ndarray]:
    """``W_enc``, ``b_enc``, ``W_dec``, ``b_dec`` as new arrays, float32 or float64, with a scale of the data folded in.

    Raises
    ------
    InputError
        If one is of the wrong shape or holds what is not finite.
    """
    decoder = tensors.matrix(stored.W_dec, "W_dec", rows="atom")
    K, d = decoder.shape
    given = {
        "W_enc": (decoder.T if stored.W_enc is None else stored.W_enc, (d, K), scale),
        "b_enc": (torch.zeros(K) if stored.b_enc is None else stored.b_enc, (K,), 1.0),
        "W_dec": (decoder, (K, d), 1 / scale),
        "b_dec": (torch.zeros(d) if stored.b_dec is None else stored.b_dec, (d,), 1 / scale),
    }
    parts = {}
    for name, (value, shape, factor) in given.items():
        tensor = tensors.float_tensor(value, name)
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}; with W_dec of shape {(K, d)}, "
                f"atoms as rows, it must be {shape}."
            )
        tensors.require_finite(tensor.reshape(-1, 1), name)
        kept = torch.float64 if factor != 1 else torch.promote_types(tensor.dtype, torch.float32)
        tensor = tensor.to(device="cpu", dtype=kept, copy=True).contiguous()
        parts[name] = (tensor * factor if factor != 1 else tensor).numpy()
    return parts


def scale_of(stored: StoredAutoencoder, scale: float | None) -> float:
    """What the data are multiplied by first: as the file says, or, where it only says that they are, as asked for.

    Raises
    ------
    InputError
        If nobody says, or both do.
    """
    if stored.input_scale is None:
        if scale is None:
            raise InputError(
                "scale is None but the SAE is for activations that are multiplied by a number (of mean norm √d, for "
                "SAELens) which its file does not tell; pass scale, √d over the mean norm of its activations."
            )
        return arguments.positive(scale, "scale")
    if scale is not None:
        raise InputError(
            f"scale is {in_short(scale)} but the file of the SAE leaves nothing to be scaled; leave it out."
        )
    return arguments.positive(stored.input_scale, "input_scale")


def scaled_by(factor: float) -> str:
    """What a sentence on λ adds where a scale of the data was folded."""
    return "" if factor == 1 else f", over the scale {factor:.6g} of the data, which is folded into the weights"


@dataclass(frozen=True)
class Format:
    """A layout on disk.

    Attributes
    ----------
    name
        What ``layout=`` calls it.
    files
        What it consists of, in words, for messages.
    recognizes
        Whether a path, a folder or a file that exists, looks like it. It looks at names of files and arrays and at
        configs only, and never raises.
    read
        Read it. What is there but not understood is an :class:`~cvxsae.errors.InputError` of one sentence.
    """

    name: str
    files: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path], StoredAutoencoder]


def require_sizes(where: str | Path, config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuse an SAE whose config gives other sizes, by the config's own names, than its arrays have.

    ``where`` is its path, or what the message calls the SAE.
    """
    whose = f"sae {str(where)!r}" if isinstance(where, Path) else where
    for name, size in sizes.items():
        if config.get(name) not in (None, size):
            raise InputError(f"{whose} has {name} = {config[name]!r} but its arrays say {size}.")


def require_columns(shape: tuple[int, ...], dim: int, name: str = "X") -> None:
    """Refuse data (N, d) of another d than an SAE reads."""
    if shape[1] != dim:
        raise InputError(
            f"{name} has {shape[1]} columns, but the SAE reads {dim}; pass activations of the layer it was trained on."
        )


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError):
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{str(file)!r} is not a JSON object; pass the folder of an SAE.")
    return config
