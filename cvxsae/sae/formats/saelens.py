"""SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``, of every version and architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments, tensors
from cvxsae.data.atomic import make_folder, write_atomically
from cvxsae.data.files import READERS, read_arrays, write_arrays
from cvxsae.errors import InputError
from cvxsae.sae.architecture import ActivationFunction, Gated, JumpReLU, ReLU, TanhReLU, TopK
from cvxsae.sae.formats.config import CONFIG, LAYOUT, OWN_NORM, SCALED, WEIGHTS, Config, understood
from cvxsae.sae.formats.penalty import is_scaled, lambda_of_file
from cvxsae.sae.formats.stored import Format, StoredAutoencoder, read_config, require_sizes
from cvxsae.sae.normalization import LayerNorm, Normalization, TokenNorm, Whitening

if TYPE_CHECKING:
    from cvxsae.sae.autoencoder import SparseAutoencoder

SCALING = ("scaling_factor", "finetuning_scaling_factor")
"""Arrays of older files that scale the codes before they are decoded; all ones unless they were finetuned."""

SCALERS = (
    ("activation_scaler.json", "scaling_factor"),
    ("activations_store_state.safetensors", "estimated_norm_scaling_factor"),
)
"""Files of checkpoints that hold the scale of the data, and their names for it, since version 6 and before."""

RUNNER = "runner_cfg.json"
"""The file of checkpoints that says how the SAE was trained."""

WHITENING = "activation_whitening.safetensors"
"""The file of checkpoints that holds the whitening of the data."""

_WHITENING_PARTS = {"mean": "mean", "matrix": "matrix", "inverse": "inverse_matrix"}
"""What it consists of, by our names and by theirs."""

_EXTRA: Mapping[str, tuple[str, ...]] = {
    "jumprelu": ("threshold",),
    "gated": ("b_gate", "r_mag", "b_mag"),
    "batchtopk": ("topk_threshold",),
}
"""Arrays beside encoder and decoder, by architecture."""

LAYOUT_VERSION = "6.0.0"
"""The version of SAELens whose layout is written; without one, newer versions take it for a flat layout."""

_OWN = {"cvxsae_lam": None, "cvxsae_lam_source": "", "cvxsae_trainer": ""}
"""What we keep in the metadata, and what it is where it is missing."""


def recognizes(path: Path) -> bool:
    """Whether it has a file of weights by SAELens's name, or is one of a folder's two files."""
    return (_folder(path) / WEIGHTS).is_file()


def read(folder: Path) -> StoredAutoencoder:
    """Read a folder of SAELens, or that of one of its files.

    Raises
    ------
    InputError
        If a file is missing or says what is not understood.
    """
    folder = _folder(folder)
    if not folder.is_dir():
        raise InputError(f"sae {str(folder)!r} {_instead_of_a_folder(folder)}.")
    held = sorted(entry.name for entry in folder.iterdir())
    if not {CONFIG, WEIGHTS} & set(held):
        what = f"holds {', '.join(held[:5])}, which is no SAE in a known format" if held else "is empty"
        raise InputError(f"sae {str(folder)!r} {what}; {LAYOUT} (docs/formats.md lists the formats).")
    for name, others in ((CONFIG, ()), (WEIGHTS, (CONFIG,))):
        if not (folder / name).is_file():
            found = [entry for entry in held if entry not in others][:5]
            raise InputError(f"sae {str(folder)!r} has no {name} but {', '.join(found) or 'nothing'}; {LAYOUT}.")
    config = understood(read_config(folder / CONFIG), f"the SAE in {str(folder)!r}")
    return interpret(config, read_arrays(folder / WEIGHTS, "sae"), folder)


def _folder(path: Path) -> Path:
    """The folder whose weights or config this is: arrays alone do not say what SAE they are."""
    return path.parent if path.name in (WEIGHTS, CONFIG) and path.is_file() else path


def interpret(config: Config, arrays: Mapping[str, Any], folder: Path | None) -> StoredAutoencoder:
    """Make an SAE of a config and its arrays by name, in a folder or in memory.

    Raises
    ------
    InputError
        If arrays are missing or left over, or the folder lacks what the config needs.
    """
    held, where = dict(arrays), "the SAE" if folder is None else f"the SAE in {str(folder)!r}"
    factors = [_factor(held.pop(name), name, config, where) for name in SCALING if name in held]
    if "log_threshold" in held and config.kind == "jumprelu":
        held["threshold"] = torch.exp(tensors.vector(held.pop("log_threshold"), "log_threshold"))
    expected = (
        "W_enc",
        *(() if config.kind == "gated" else ("b_enc",)),
        "W_dec",
        "b_dec",
        *_EXTRA.get(config.kind, ()),
    )
    if set(held) != set(expected):
        raise InputError(
            f"the arrays of {where} are {', '.join(map(str, held)) or 'none'}; its architecture {config.name!r} has "
            f"exactly {', '.join(expected)}."
        )
    decoder = tensors.matrix(held["W_dec"], "W_dec", rows="atom")
    require_sizes(where, config.sizes, {"d_in": decoder.shape[1], "d_sae": decoder.shape[0]})
    for factor in factors:
        if factor is not None:
            decoder = decoder.to(torch.float64) * factor[:, None]
    metadata = {**config.metadata}
    is_ours = _OWN.keys() <= metadata.keys()
    own = {name: metadata.pop(name, default) for name, default in _OWN.items()}
    lam, lam_source = (own["cvxsae_lam"], str(own["cvxsae_lam_source"])) if is_ours else _penalty(config, folder)
    return StoredAutoencoder(
        W_enc=held["W_enc"],
        b_enc=held.get("b_enc"),
        W_dec=decoder,
        b_dec=held["b_dec"],
        activation=_activation(config, held, decoder),
        subtract_bias=config.subtract_bias,
        normalization=_normalization(config, folder, where),
        input_scale=_scale(folder) if config.normalize == SCALED else 1.0,
        lam=lam,
        lam_source=lam_source,
        metadata=metadata,
        source=str(own["cvxsae_trainer"]) or f"SAELens, {config.name}",
    )


def _factor(value: Any, name: str, config: Config, where: str) -> torch.Tensor | None:
    """What the codes are multiplied by before they are decoded, None for one."""
    factor = tensors.vector(value, name)
    if bool((factor == 1).all()):
        return None
    if not config.finetuned:
        raise InputError(
            f"{where} has a {name} that is not 1 but its {CONFIG} does not say finetuning_scaling_factor: true; set it "
            f"to true if codes are to be multiplied by it, or remove the array."
        )
    return factor


def _activation(config: Config, held: Mapping[str, Any], decoder: torch.Tensor) -> ActivationFunction:
    if config.kind == "topk":
        return TopK(arguments.count(config.k, "k"), by_norm=config.by_norm)
    if config.kind == "jumprelu":
        return JumpReLU(held["threshold"])
    if config.kind == "gated":
        return Gated(held["b_gate"], held["r_mag"], held["b_mag"])
    if config.kind == "batchtopk":  # not saved for inference yet, where one threshold is that of every atom
        threshold = tensors.float_tensor(held["topk_threshold"], "topk_threshold").to(torch.float64).reshape(1)
        norms = torch.linalg.vector_norm(decoder.to(torch.float64), dim=1)
        scale = torch.where(norms > 0, norms, 1.0) if config.by_norm else torch.ones_like(norms)
        return JumpReLU((threshold / scale).numpy())
    return TanhReLU() if config.kind == "tanh-relu" else ReLU()


def _normalization(config: Config, folder: Path | None, where: str) -> Normalization | None:
    if config.normalize == "layer_norm":
        return LayerNorm()
    if config.normalize == OWN_NORM:
        if not isinstance(config.settings, Mapping) or set(config.settings) != {"eps", "ddof"}:
            raise InputError(f"{where} has normalization_settings {config.settings!r}; they must be eps and ddof.")
        return LayerNorm(**config.settings)
    if config.normalize == "constant_norm_rescale":
        return TokenNorm()
    if config.normalize != "covariance_whitening":
        return None
    if folder is None or not (folder / WHITENING).is_file():
        raise InputError(
            f"{where} is for whitened activations but has no {WHITENING}, and without it nothing whitens them; add "
            "that file of its checkpoint."
        )
    held = read_arrays(folder / WHITENING, "sae")
    missing = set(_WHITENING_PARTS.values()) - set(held)
    if missing:
        raise InputError(
            f"{str(folder / WHITENING)!r} has no {', '.join(sorted(missing))}; it must be of a checkpoint."
        )
    parts: dict[str, Any] = {ours: held[theirs] for ours, theirs in _WHITENING_PARTS.items()}
    return Whitening(**parts)


def _scale(folder: Path | None) -> float | None:
    """What data were multiplied by in training, from a file of a checkpoint that has not been folded; None if none."""
    for name, key in SCALERS:
        file = Path() if folder is None else folder / name
        if folder is None or not file.is_file():
            continue
        value = (read_config(file) if file.suffix == ".json" else read_arrays(file, "sae")).get(key)
        if value is not None:
            return float(np.asarray(value).reshape(()))
    return None


def _penalty(config: Config, folder: Path | None) -> tuple[float | None, str]:
    """λ for data as the encoder sees them, and where it is from; None and why where files do not tell."""
    runner = {} if folder is None or not (folder / RUNNER).is_file() else read_config(folder / RUNNER)
    told = {**config.raw, **({"sae": runner["sae"]} if isinstance(runner.get("sae"), dict) else {})}
    scaled = config.normalize == SCALED
    lam, source = lambda_of_file(told, "saelens", is_scaled=scaled)
    if lam is not None and is_scaled(told) and not scaled:
        return None, f"{source}, over a scale of the data that was folded into the weights and that no file keeps"
    return lam, source


def _instead_of_a_folder(path: Path) -> str:
    """What is there, with the names of its arrays if it is a file of arrays, and what to pass instead."""
    if not path.exists():
        return f"does not exist; {LAYOUT}"
    if path.suffix not in READERS:
        return f"has the file type {path.suffix or 'none'!r}; {LAYOUT}"
    try:
        names = list(READERS[path.suffix](path))
    except Exception:
        return f"is a file; {LAYOUT}"
    lacking = [name for name in ("W_enc", "b_enc") if name not in names]
    if "W_dec" in names and "W_enc" in lacking:
        return (
            f"lacks {' and '.join(lacking)}; pass a file of a whole SAE, or test its dictionary alone: "
            f"cvxsae check DATA --dictionary {path}::W_dec --lam-ratio 0.1"
        )
    return f"is a file with the arrays {', '.join(names) or 'of no name'}; {LAYOUT}"


def write(sae: SparseAutoencoder, folder: str | Path) -> Path:
    """Write an SAE as a folder of SAELens, version 6 and later; :meth:`SparseAutoencoder.save` says what holds.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """
    folder = make_folder(folder, "folder")
    weights: dict[str, np.ndarray] = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    weights |= sae.activation.arrays()
    if isinstance(sae.activation, Gated):  # SAELens has no b_enc there
        b_enc = weights.pop("b_enc").astype(np.float64)
        weights["b_gate"] = sae.activation.b_gate + b_enc
        weights["b_mag"] = sae.activation.b_mag + np.exp(sae.activation.r_mag) * b_enc
    exact = all((array.astype(np.float32) == array).all() for array in weights.values())
    dtype = np.dtype(np.float32 if exact else np.float64)
    normalize, settings, files = _written_normalization(sae.normalization)
    metadata = {**sae.metadata}
    config = {
        "architecture": _written_architecture(sae.activation),
        "d_in": sae.dim,
        "d_sae": sae.n_atoms,
        "dtype": dtype.name,
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_bias,
        "normalize_activations": normalize,
        "reshape_activations": metadata.pop("reshape_activations", "none"),
        **({"normalization_settings": settings} if settings else {}),
        **_written_settings(sae.activation),
        "sae_lens_version": LAYOUT_VERSION,
        "metadata": metadata
        | {"cvxsae_lam": sae.lam, "cvxsae_lam_source": sae.lam_source, "cvxsae_trainer": sae.trainer},
    }
    for name, arrays in files.items():
        write_arrays(folder / name, arrays, "folder")
    write_arrays(
        folder / WEIGHTS, {name: np.ascontiguousarray(array, dtype) for name, array in weights.items()}, "folder"
    )
    write_atomically(folder / CONFIG, json.dumps(config, indent=1))
    return folder


def _written_architecture(activation: ActivationFunction) -> str:
    return "standard" if isinstance(activation, ReLU) else activation.name


def _written_settings(activation: ActivationFunction) -> dict[str, Any]:
    if isinstance(activation, TopK):
        return {"k": activation.k, "rescale_acts_by_decoder_norm": activation.by_norm}
    return {}


def _written_normalization(
    normalization: Normalization | None,
) -> tuple[str, dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """SAELens's name, settings it has no name for, and files beside the weights."""
    if normalization is None:
        return "none", {}, {}
    if isinstance(normalization, LayerNorm) and normalization != LayerNorm():
        return OWN_NORM, {"eps": normalization.eps, "ddof": normalization.ddof}, {}
    if isinstance(normalization, Whitening):
        parts = {theirs: getattr(normalization, ours) for ours, theirs in _WHITENING_PARTS.items()}
        return normalization.name, {}, {WHITENING: parts}
    return normalization.name, {}, {}


FORMAT = Format("saelens", f"a folder with {CONFIG} and {WEIGHTS}", recognizes, read)
