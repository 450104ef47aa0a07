"""dictionary_learning: a folder with ``ae.pt`` and ``config.json``, as its ``trainSAE`` leaves one per trainer.

Linear layers are stored as torch has them, so encoders are (K, d) and the columns of decoders are atoms; the classes
with arrays of their own (JumpReLU, Matryoshka) have both the other way around.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.atomic import make_folder, write_atomically
from cvxsae.data.files import READERS, read_saved
from cvxsae.errors import InputError
from cvxsae.sae.architecture import ActivationFunction, Gated, JumpReLU, ReLU, TopK
from cvxsae.sae.formats.penalty import lambda_of_file
from cvxsae.sae.formats.stored import Format, StoredAutoencoder, read_config, require_sizes

if TYPE_CHECKING:
    from cvxsae.sae.autoencoder import SparseAutoencoder

WEIGHTS, CONFIG = "ae.pt", "config.json"

METADATA = "dictionary_learning"
"""Where the whole config is kept among the metadata."""

OWN = "cvxsae"
"""What we keep in a config that we write."""

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class _Class:
    """One class of dictionary_learning.

    Attributes
    ----------
    keys
        Arrays that it must have.
    optional
        Arrays that some versions leave out.
    bias
        The array that is ``b_dec``.
    subtracts
        Whether it is subtracted at the input.
    activation
        The activation function, from its arrays and the trainer's settings.
    """

    keys: tuple[str, ...]
    bias: str
    activation: Callable[[_Stored], ActivationFunction]
    subtracts: bool = True
    optional: tuple[str, ...] = ()

    def fits(self, names: set[str]) -> bool:
        """Whether these are its arrays."""
        return set(self.keys) <= names <= {*self.keys, *self.optional}


@dataclass(frozen=True)
class _Stored:
    """The arrays of a file by name, and the settings of its trainer."""

    file: Path
    held: Mapping[str, torch.Tensor]
    trainer: Mapping[str, Any]

    @property
    def width(self) -> int:
        """K."""
        return self.held["W_enc"].shape[1] if "W_enc" in self.held else self.held["encoder.weight"].shape[0]

    def vector(self, name: str) -> np.ndarray:
        """One of the arrays as a vector in float64."""
        return tensors.vector(self.held[name], name).numpy()

    def k(self) -> int:
        """Active features, of the file and of the config, which must agree."""
        found = {
            arguments.count(value, "k") for value in (self.held.get("k"), self.trainer.get("k")) if value is not None
        }
        if len(found) != 1:
            said = "no k" if not found else f"k = {' and '.join(map(str, sorted(found)))} in {WEIGHTS} and {CONFIG}"
            raise InputError(f"sae {str(self.file)!r} has {said}; a TopK SAE needs one.")
        return found.pop()

    def batch_threshold(self) -> JumpReLU:
        """The one threshold that BatchTopK encodes with once it is trained."""
        held = self.held.get("threshold")
        threshold = -1.0 if held is None else arguments.real(held, "threshold")
        if threshold < 0:
            raise InputError(
                f"sae {str(self.file)!r} is a BatchTopK SAE without a trained threshold, so that its codes depend on "
                "the batch; train it past threshold_start_step."
            )
        return JumpReLU(np.full(self.width, threshold))


def _gated(stored: _Stored) -> Gated:
    vector = stored.vector
    return Gated(b_gate=vector("gate_bias"), r_mag=vector("r_mag"), b_mag=vector("mag_bias"))


CLASSES: Mapping[str, _Class] = {
    "AutoEncoder": _Class((*_LINEAR, "bias"), "bias", lambda stored: ReLU()),
    "AutoEncoderNew": _Class((*_LINEAR, "decoder.bias"), "decoder.bias", lambda stored: ReLU(), subtracts=False),
    "GatedAutoEncoder": _Class(
        ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"), "decoder_bias", _gated
    ),
    "JumpReluAutoEncoder": _Class(
        (*_ARRAYS, "threshold"), "b_dec", lambda stored: JumpReLU(stored.vector("threshold")), subtracts=False
    ),
    "AutoEncoderTopK": _Class(
        (*_LINEAR, "b_dec"), "b_dec", lambda stored: TopK(stored.k()), optional=("k", "threshold")
    ),
    "BatchTopKSAE": _Class((*_LINEAR, "b_dec"), "b_dec", _Stored.batch_threshold, optional=("k", "threshold")),
    "MatryoshkaBatchTopKSAE": _Class(
        (*_ARRAYS, "group_sizes"), "b_dec", _Stored.batch_threshold, optional=("k", "threshold")
    ),
}
"""The classes that can be read."""


def recognizes(path: Path) -> bool:
    """Whether it is a folder with ``ae.pt`` (or one trainer's folder), or a file with arrays of one of the classes."""
    try:
        if path.is_dir():
            return bool(_weights(path))
        if path.suffix != ".pt":
            return False
        names = set(READERS[path.suffix](path))
        is_its_own = "encoder.weight" in names or "group_sizes" in names or _config(path) is not None
        return is_its_own and any(known.fits(names) for known in CLASSES.values())
    except Exception:  # whatever it is, it is not recognized
        return False


def read(path: Path) -> StoredAutoencoder:
    """Read a folder of one SAE, a folder with the folder of one trainer, or a ``.pt`` file."""
    file = _file(path)
    return interpret(file, read_saved(file, "sae"), _config(file) or {})


def interpret(
    file: Path, held: Mapping[str, Any], config: Mapping[str, Any], said: str | None = None
) -> StoredAutoencoder:
    """Make an SAE of a state_dict and its config; ``said`` is its class where it is in memory.

    Raises
    ------
    InputError
        If it is of no class that can be read, or what it holds does not fit its class.
    """
    trainer = config.get("trainer", {})
    if not isinstance(trainer, Mapping):
        raise InputError(f"{CONFIG} of {str(file)!r} has the trainer {trainer!r}; it must be an object.")
    for name, value in held.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"sae {str(file)!r} holds {name}, a {type(value).__name__}; a state_dict has tensors only."
            )
    name = _class(file, held, trainer if said is None else {"dict_class": said})
    known, stored = CLASSES[name], _Stored(file, held, trainer)
    if not known.fits(set(held)):
        raise InputError(
            f"the arrays of the {name} in {str(file)!r} are {', '.join(held)}; it has exactly {', '.join(known.keys)}"
            f"{' and perhaps ' if known.optional else ''}{', '.join(known.optional)}."
        )
    parts = _arrays(held)
    if parts["W_dec"].ndim == 2:
        require_sizes(file, trainer, {"dict_size": parts["W_dec"].shape[0], "activation_dim": parts["W_dec"].shape[1]})
    own = _own(config)
    lam, source = (
        (own["lam"], str(own["lam_source"])) if {"lam", "lam_source"} <= set(own) else _lambda(config, trainer)
    )
    return StoredAutoencoder(
        **parts,
        b_dec=held[known.bias],
        activation=known.activation(stored),
        subtract_bias=known.subtracts,
        lam=lam,
        lam_source=source,
        metadata=_metadata(config),
        source=str(own.get("trainer", "")) or f"dictionary_learning, {name}",
    )


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, under one name, and what was metadata of an SAE that we wrote."""
    theirs = {name: value for name, value in config.items() if name != OWN}
    own = _own(config).get("metadata")
    return {**(own if isinstance(own, Mapping) else {}), **({METADATA: theirs} if theirs else {})}


def _own(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What we kept in a config that we wrote; nothing in others."""
    own = config.get(OWN)
    return own if isinstance(own, Mapping) else {}


def _arrays(held: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """``W_enc``, ``b_enc`` and ``W_dec`` in our layout."""
    if "W_enc" in held:
        return {name: held[name] for name in ("W_enc", "b_enc", "W_dec")}
    return {
        "W_enc": held["encoder.weight"].mT,
        "b_enc": held.get("encoder.bias"),
        "W_dec": held["decoder.weight"].mT,
    }


def _lambda(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> tuple[float | None, str]:
    """λ for the data as they are: a norm factor, where one is recorded, was folded into the biases."""
    factor = trainer.get("norm_factor")
    lam, source = lambda_of_file(config, "dictionary-learning", is_scaled=factor is not None)
    if lam is None or factor is None:
        return lam, source
    factor = arguments.positive(factor, "norm_factor")
    return lam * factor, f"{source}, times the norm factor {factor:.6g} that data were divided by in training"


def _class(file: Path, held: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    """The name of its class: as the config says, or the only one with these arrays."""
    said = trainer.get("dict_class")
    if said is not None:
        name = (re.findall(r"\w+", str(said)) or [""])[-1]
        if name not in CLASSES:
            raise InputError(f"sae {str(file)!r} is a {said!r}; only {', '.join(CLASSES)} can be read.")
        return name
    fitting = [name for name, known in CLASSES.items() if known.fits(set(held))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(
            f"the arrays in {str(file)!r} are {', '.join(held)}; no class of dictionary_learning has these."
        )
    raise InputError(
        f"sae {str(file)!r} may be of class {' or '.join(fitting)}, whose arrays are alike; "
        f"put its {CONFIG} beside it, with dict_class."
    )


def _config(file: Path) -> dict[str, Any] | None:
    """The config beside a file, or above its folder of checkpoints; None where there is none."""
    beside = file.parent / CONFIG
    above = file.parent.parent / CONFIG
    for place in (beside, above) if file.parent.name == "checkpoints" else (beside,):
        if place.is_file():
            return read_config(place)
    return None


def _weights(folder: Path) -> list[Path]:
    """``ae.pt`` of a folder, or of the folders of its trainers."""
    own = folder / WEIGHTS
    return [own] if own.is_file() else sorted(folder.glob(f"trainer_*/{WEIGHTS}"))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = _weights(path)
    if len(found) > 1:
        names = ", ".join(file.parent.name for file in found)
        raise InputError(f"sae {str(path)!r} holds the SAEs {names}; pass the folder of one of them.")
    if not found:
        raise InputError(f"sae {str(path)!r} has no {WEIGHTS}; pass the folder of an SAE of dictionary_learning.")
    return found[0]


def write(sae: SparseAutoencoder, folder: str | Path) -> Path:
    """Write an SAE as ``ae.pt`` and ``config.json``; :meth:`SparseAutoencoder.save` says what holds.

    Raises
    ------
    InputError
        If no class of the library encodes like it, or the folder cannot be made.
    """
    if sae.normalization is not None:
        raise InputError(
            f"the SAE normalizes datapoints ({sae.normalization.name}), for which dictionary_learning has no class; "
            "use format='saelens'."
        )
    name, state = _state(sae)
    folder = make_folder(folder, "folder")
    tensors_held = {key: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for key, array in state.items()}
    metadata = {**sae.metadata}
    held = metadata.pop(METADATA, {})
    sizes = {"dict_class": name, "activation_dim": sae.dim, "dict_size": sae.n_atoms}
    config = {
        **held,
        "trainer": {"layer": None, "lm_name": None, **held.get("trainer", {}), **sizes},
        OWN: {"lam": sae.lam, "lam_source": sae.lam_source, "trainer": sae.trainer, "metadata": metadata},
    }
    if isinstance(sae.activation, TopK):
        config["trainer"]["k"] = sae.activation.k
        tensors_held |= {"k": torch.tensor(sae.activation.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    write_atomically(folder / WEIGHTS, lambda stream: torch.save(tensors_held, stream), "folder")
    write_atomically(folder / CONFIG, json.dumps(config, indent=1), "folder")
    return folder


def _state(sae: SparseAutoencoder) -> tuple[str, dict[str, np.ndarray]]:
    """The class whose forward pass is that of an SAE, and its arrays, float64."""
    W, c, decoder, b = (part.astype(np.float64) for part in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    kind, norms = sae.activation, sae.atom_norms
    if isinstance(kind, ReLU) or (isinstance(kind, TopK) and kind.by_norm):  # the library makes atoms unit-norm itself
        W, c, decoder = W * norms, c * norms, sae.dictionary
        decoder[norms == 0, 0] = 1.0  # atoms that never decode are never active now, and can be anything
    after = c if sae.subtract_bias else c + b @ W  # where the class subtracts b_dec, as all do but two
    linear = {"encoder.weight": W.T, "decoder.weight": decoder.T}
    if isinstance(kind, Gated):
        gates = {"gate_bias": kind.b_gate + after, "mag_bias": kind.b_mag + np.exp(kind.r_mag) * after}
        return "GatedAutoEncoder", {**linear, "decoder_bias": b, "r_mag": kind.r_mag, **gates}
    if isinstance(kind, JumpReLU):
        before = c - b @ W if sae.subtract_bias else c
        arrays = {"W_enc": W, "b_enc": before, "W_dec": decoder, "b_dec": b}
        return "JumpReluAutoEncoder", {**arrays, "threshold": kind.threshold}
    if isinstance(kind, TopK):
        return "AutoEncoderTopK", {**linear, "encoder.bias": after, "b_dec": b}
    if isinstance(kind, ReLU) and sae.subtract_bias:
        return "AutoEncoder", {**linear, "encoder.bias": c, "bias": b}
    if isinstance(kind, ReLU):
        return "AutoEncoderNew", {**linear, "encoder.bias": c, "decoder.bias": b}
    raise InputError(f"the SAE is {kind.name}, for which dictionary_learning has no class; use format='saelens'.")


FORMAT = Format("dictionary-learning", f"a folder with {WEIGHTS} and {CONFIG}, or such a .pt file", recognizes, read)
