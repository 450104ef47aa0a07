"""What the ``cfg.json`` of SAELens says, of every version: what decides the codes, and what is kept beside it.

SAELens has changed its keys over the years. What decides the codes is read; what is not understood is refused by name;
the rest (hook, model, how it was trained) is kept as metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cvxsae.errors import InputError, in_short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

LAYOUT = (
    f"pass a folder in the layout of SAELens ({CONFIG}, {WEIGHTS}) or of another library, a file of arrays, or the "
    "arrays by name: W_enc (d, K), b_enc (K,), W_dec (K, d), b_dec (d,)"
)
"""What to do about anything else."""

ACTIVATIONS = ("activation_fn_str", "activation_fn", "activation")
"""Keys that name the activation function, in the order of SAELens's versions; the last is sparsify's."""

_RELU = ("relu", "ReLU")
"""How configs spell it."""

ARCHITECTURES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "standard": ("relu", ()),
    "tanh-relu": ("tanh-relu", ("tanh-relu",)),
    "topk": ("topk", ("topk",)),
    "jumprelu": ("jumprelu", ()),
    "gated": ("gated", ()),
    "batchtopk": ("batchtopk", ()),
    "matryoshka_batchtopk": ("batchtopk", ()),
}
"""SAELens's architectures that can be read: what they are here, and which activation functions go with their names."""

_OLD = {"topk": "topk", "tanh-relu": "tanh-relu"}
"""Activation functions that made a ``standard`` SAE of SAELens before version 4 another one."""

_OTHERS = {
    "abstopk": "keeps codes of both signs, and here codes are never negative",
    "matching_pursuit": "has no encoder but a greedy search, one atom after another",
    "temporal": "predicts activations from those of earlier tokens, and here every datapoint stands alone",
    "transcoder": "is a transcoder, which predicts other activations than it reads",
    "skip_transcoder": "is a transcoder, which predicts other activations than it reads",
    "jumprelu_transcoder": "is a transcoder, which predicts other activations than it reads",
    "jumprelu_skip_transcoder": "is a transcoder, which predicts other activations than it reads",
}
"""SAELens's architectures that cannot be represented, and why."""

OWN_NORM = "cvxsae_layer_norm"
"""As ``normalize_activations``: layer norm with settings of its own, which SAELens has no name for."""

SCALED = "expected_average_only_in"
"""As ``normalize_activations``: data times √d over their mean norm, a number that is in another file or in none."""

NORMALIZATIONS = ("none", SCALED, "layer_norm", "constant_norm_rescale", "covariance_whitening", OWN_NORM)

READ = (
    "architecture",
    *ACTIVATIONS,
    "activation_fn_kwargs",
    "k",
    "rescale_acts_by_decoder_norm",
    "d_in",
    "d_sae",
    "d_out",
    "dtype",
    "device",
    "apply_b_dec_to_input",
    "normalize_activations",
    "normalization_settings",
    "finetuning_scaling_factor",
    "metadata",
)
"""Keys that are understood, and written anew when an SAE is saved; all others are metadata."""

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
"""Keys of old versions, and what SAELens calls them now."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is understood of a ``cfg.json``.

    Attributes
    ----------
    kind
        ``relu``, ``tanh-relu``, ``topk``, ``jumprelu``, ``gated`` or ``batchtopk``.
    name
        The architecture as SAELens calls it.
    k
        Of TopK, else None.
    by_norm
        Whether what is ranked, or compared with a threshold for all, is the product with the norm of the atom.
    subtract_bias
        Whether ``b_dec`` is subtracted at the input.
    normalize
        One of :data:`NORMALIZATIONS`.
    settings
        Of :data:`OWN_NORM`.
    finetuned
        Whether the file's factors of the codes are to be used.
    sizes
        ``d_in`` and ``d_sae`` where they are given.
    metadata
        Whatever else there is.
    raw
        All of it, as it is.
    """

    kind: str
    name: str
    k: float | None
    by_norm: bool
    subtract_bias: bool
    normalize: str
    settings: Any
    finetuned: bool
    sizes: Mapping[str, Any]
    metadata: dict[str, Any]
    raw: Mapping[str, Any]


def understood(config: Mapping[str, Any], where: str) -> Config:
    """Say what a config means; ``where`` is what messages call its SAE.

    Raises
    ------
    InputError
        If it describes an SAE that cannot be represented, or holds what is not understood.
    """
    for objection in _objections(config):
        raise InputError(f"{where} {objection}.")
    name, function = config.get("architecture") or "standard", _function(config)
    old = name == "standard" and function in _OLD
    normalize = config.get("normalize_activations")
    return Config(
        kind=_OLD[function] if old and function else ARCHITECTURES[name][0],
        name=name,
        k=next(iter(_counts(config)), None),
        by_norm=config.get("rescale_acts_by_decoder_norm", False),
        subtract_bias=config.get("apply_b_dec_to_input", True),
        normalize=SCALED if normalize is True else normalize or "none",
        settings=config.get("normalization_settings") or {},
        finetuned=bool(config.get("finetuning_scaling_factor")),
        sizes={size: config[size] for size in ("d_in", "d_sae") if config.get(size) is not None},
        metadata=_metadata(config),
        raw=config,
    )


def _function(config: Mapping[str, Any]) -> Any:
    """The activation function that is named, None for ReLU."""
    named = [config[key] for key in ACTIVATIONS if config.get(key) not in (None, *_RELU)]
    return named[0] if named else None


def _counts(config: Mapping[str, Any]) -> list[Any]:
    """Every k that is given."""
    kwargs = config.get("activation_fn_kwargs")
    return [part["k"] for part in (config, kwargs) if isinstance(part, dict) and part.get("k") is not None]


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata") or {}
    nested = metadata if isinstance(metadata, dict) else {"metadata": metadata}
    outside = set(READ) | (
        {"sae_lens_version"} if "sae_lens_version" in nested or "cvxsae_trainer" in nested else set()
    )
    kept = {name: value for name, value in config.items() if name not in outside}
    for old, new in _RENAMED.items():
        if old in kept:
            kept.setdefault(new, kept.pop(old))
    if kept.get("reshape_activations") == "none":
        del kept["reshape_activations"]
    return {**kept, **nested}


def _objections(config: Mapping[str, Any]) -> Iterator[str]:
    """Why it cannot be read, each the end of a sentence."""
    for key in ("architecture", *ACTIVATIONS):
        if not isinstance(config.get(key), str | None):
            yield f"has the {key} {in_short(config[key])}, which is no name; correct {CONFIG}"
            return
    name = config.get("architecture") or "standard"
    if name in _OTHERS:
        yield f"{_OTHERS[name]} ({name!r}); it cannot be read"
    elif name not in ARCHITECTURES:
        yield f"has the architecture {name!r}; those that can be read are {', '.join(ARCHITECTURES)}"
    else:
        yield from _activation_objections(config, name)
    if config.get("d_out") not in (None, config.get("d_in")):
        yield f"maps {config.get('d_in')} dimensions to {config['d_out']}: a transcoder, which cannot be read"
    if config.get("hook_name_out") not in (None, config.get("hook_name")):
        yield f"predicts {config['hook_name_out']!r}: a transcoder, which cannot be read"
    normalize = config.get("normalize_activations")
    if not isinstance(normalize, bool | None) and normalize not in NORMALIZATIONS:
        yield f"has normalize_activations {normalize!r}; what can be read is {', '.join(NORMALIZATIONS[:-1])}"
    if config.get("reshape_activations") not in (None, "none", "hook_z"):
        yield f"has reshape_activations {config['reshape_activations']!r}; what can be read is none and hook_z"
    for flag in ("apply_b_dec_to_input", "finetuning_scaling_factor", "rescale_acts_by_decoder_norm"):
        if not isinstance(config.get(flag, False), bool):
            yield f"has {flag} = {config[flag]!r}, which is neither true nor false; correct {CONFIG}"


def _activation_objections(config: Mapping[str, Any], name: str) -> Iterator[str]:
    kind = ARCHITECTURES[name][0]
    for key in ACTIVATIONS:
        if (function := config.get(key)) in (None, *_RELU, *ARCHITECTURES[name][1]):
            continue
        if name != "standard" or function not in _OLD:
            yield f"has the {key} {function!r} with the architecture {name!r}; that combination cannot be read"
        else:
            kind = _OLD[function]
    kwargs = config.get("activation_fn_kwargs")
    if not isinstance(kwargs, dict | None) or set(kwargs or ()) - {"k"}:
        yield f"has activation_fn_kwargs {kwargs!r}; only k is understood"
    counts = _counts(config)
    if kind == "topk" and len(set(map(str, counts))) != 1:
        yield f"is a TopK SAE with {'no k' if not counts else f'k = {counts}'}; correct k in {CONFIG}"
    if kind == "topk" and any(isinstance(k, bool) or not isinstance(k, int | float) for k in counts):
        yield f"has k = {counts[0]!r}; correct it in {CONFIG}, to a whole number of at least 1"
    if kind not in ("topk", "batchtopk") and counts:
        yield f"has k = {counts[0]!r}, which its activation function has no use for; correct {CONFIG}"
