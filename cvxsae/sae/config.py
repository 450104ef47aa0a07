"""What the ``cfg.json`` of an SAE says: only a plain ReLU SAE on the data as it is can be read as one.

SAELens has changed its keys over the years. What is known to change nothing is read, what is known to change the codes
is refused by name, and the rest (hook, model, how it was trained) is kept as metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cvxsae.data.files import READERS
from cvxsae.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

LAYOUT = (
    f"pass a folder in the layout of SAELens ({CONFIG}, {WEIGHTS}) or the arrays by name: W_enc (d, K), b_enc (K,), "
    "W_dec (K, d), b_dec (d,)"
)
"""What to do about anything else."""

ACTIVATIONS = ("activation_fn_str", "activation_fn", "activation")
"""Keys that name the activation function, in the order of SAELens's versions; the last is sparsify's."""

WRITTEN = (
    "architecture",
    "d_in",
    "d_sae",
    "dtype",
    "device",
    "apply_b_dec_to_input",
    "normalize_activations",
    "reshape_activations",
    "metadata",
)
"""Keys that are written anew when an SAE is saved."""


@dataclass(frozen=True)
class Config:
    """What is understood of a ``cfg.json``.

    Attributes
    ----------
    subtract_bias
        Whether ``b_dec`` is subtracted at the input.
    sizes
        ``d_in`` and ``d_sae`` where they are given.
    metadata
        Whatever else there is.
    """

    subtract_bias: bool
    sizes: Mapping[str, Any]
    metadata: dict[str, Any]


def read_config(folder: Path) -> Config:
    """Read the ``cfg.json`` of a folder.

    Raises
    ------
    InputError
        If there is none, or it describes anything but a ReLU SAE on activations as they are.
    """
    if not folder.is_dir():
        raise InputError(f"sae {str(folder)!r} {_instead_of_a_folder(folder)}; {LAYOUT}.")
    if not (folder / CONFIG).is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise InputError(f"sae {str(folder)!r} has no {CONFIG} but {found}; {LAYOUT}.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{str(folder / CONFIG)!r} is not a JSON object; pass the folder of an SAE.")
    for objection in _objections(config):
        raise InputError(f"the SAE in {str(folder)!r} {objection}.")
    if not (folder / WEIGHTS).is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.name != CONFIG)[:5]) or "nothing"
        raise InputError(f"sae {str(folder)!r} has no {WEIGHTS} but {found}; {LAYOUT}.")
    kept = {name: value for name, value in config.items() if name not in WRITTEN}
    metadata = config.get("metadata") or {}
    kept.update(metadata if isinstance(metadata, dict) else {"metadata": metadata})
    sizes = {name: config[name] for name in ("d_in", "d_sae") if config.get(name) is not None}
    return Config(config.get("apply_b_dec_to_input", True), sizes, kept)


def _objections(config: Mapping[str, Any]) -> list[str]:
    """Why it is no plain ReLU SAE, each the end of a sentence."""
    objections = []
    only = "only ReLU SAEs can be read"
    if config.get("architecture") not in (None, "standard"):
        objections.append(f"has the architecture {config['architecture']!r}; {only} ('standard')")
    for name in ACTIVATIONS:
        if config.get(name) not in (None, "relu", "ReLU"):
            objections.append(f"has the {name} {config[name]!r}; {only}")
    for name in ("k", "activation_fn_kwargs"):
        if config.get(name) not in (None, {}):
            objections.append(f"has {name} = {config[name]!r}, which a ReLU has no use for; {only}")
    if config.get("d_out") not in (None, config.get("d_in")):
        objections.append(f"maps {config.get('d_in')} dimensions to {config['d_out']}: a transcoder; {only}")
    if config.get("hook_name_out") not in (None, config.get("hook_name")):
        objections.append(f"predicts {config['hook_name_out']!r}: a transcoder; {only}")
    if config.get("normalize_activations") not in (None, False, "none"):
        objections.append(f"normalizes activations ({config['normalize_activations']!r}); fold that in first")
    for name in ("apply_b_dec_to_input", "finetuning_scaling_factor"):
        if not isinstance(config.get(name, False), bool):
            objections.append(f"has {name} = {config[name]!r}, which is neither true nor false; correct {CONFIG}")
    return objections


def _instead_of_a_folder(path: Path) -> str:
    """What is there, with the names of its arrays if it is a file of arrays."""
    if not path.exists():
        return "does not exist"
    try:
        return f"is a file with the arrays {', '.join(READERS[path.suffix](path)) or 'of no name'}"
    except Exception:
        return "is a file"
