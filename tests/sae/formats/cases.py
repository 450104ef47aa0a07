"""Every layout, architecture, normalization and precision that is read: small files, and what they must do.

The table in docs/formats.md is made of this list (``python -m tests.sae.formats.cases``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tests.sae.formats.reference import SCALE, Arrays, D, K, Spec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALF_ONLY = ("float32", "float16")
"""What numpy's files hold."""

Write = Callable[[Path, Arrays, torch.dtype], Path]


@dataclass(frozen=True)
class Case:
    """An SAE as it lies on disk.

    Attributes
    ----------
    layout
        The library, and which of its versions.
    architecture, normalization
        By the library's names.
    spec
        What it does.
    write
        Writes its files to a folder, and returns what is loaded.
    source
        What the SAE says it was read from.
    dtypes
        The precisions it comes in.
    """

    layout: str
    architecture: str
    normalization: str
    spec: Spec
    write: Write
    source: str
    dtypes: tuple[str, ...] = tuple(DTYPES)

    @property
    def name(self) -> str:
        """For test reports."""
        return f"{self.layout}-{self.architecture}-{self.normalization}".replace(" ", "_")


def as_tensors(a: Arrays, names: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Arrays by the names of a library: each ours, or ours and then transposed."""
    found = {}
    for theirs, ours in names.items():
        array = a[ours.removesuffix(".T")]
        found[theirs] = torch.tensor(array.T if ours.endswith(".T") else array).to(dtype).contiguous()
    return found


# ------------------------------------------------------------------------------------------------------- SAELens

SAELENS: dict[str, tuple[Spec, tuple[str, ...], dict[str, Any]]] = {
    "standard": (Spec("relu"), ("b_enc",), {}),
    "topk": (Spec("topk"), ("b_enc",), {"k": 3, "rescale_acts_by_decoder_norm": False}),
    "topk, rescaled": (Spec("topk", by_norm=True), ("b_enc",), {"k": 3, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (Spec("jumprelu"), ("b_enc", "threshold"), {}),
    "gated": (Spec("gated"), ("b_gate", "r_mag", "b_mag"), {}),
    "batchtopk": (
        Spec("batchtopk", by_norm=True),
        ("b_enc", "topk_threshold"),
        {"k": 2.5, "rescale_acts_by_decoder_norm": True},
    ),
    "matryoshka_batchtopk": (
        Spec("batchtopk"),
        ("b_enc", "topk_threshold"),
        {"k": 3.0, "rescale_acts_by_decoder_norm": False, "matryoshka_widths": [3, K]},
    ),
}
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale", "covariance_whitening")


def saelens(architecture: str, normalize: str, **changes: Any) -> Write:
    """A folder as version 6 and later leave it, or, unless it is normalized by none, its checkpoint."""
    _, names, settings = SAELENS[architecture]

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        stored = as_tensors(a, {name: name for name in ("W_enc", "W_dec", "b_dec", *names)}, dtype)
        safetensors.torch.save_file(stored, folder / "sae_weights.safetensors")
        config = {
            "d_in": D,
            "d_sae": K,
            "dtype": str(dtype).removeprefix("torch."),
            "device": "cuda",
            "apply_b_dec_to_input": True,
            "normalize_activations": normalize,
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.0.hook_resid_pre", "prepend_bos": True},
            "architecture": architecture.partition(",")[0],
            **settings,
            **changes,
        }
        (folder / "cfg.json").write_text(json.dumps(config))
        scaled = normalize == "expected_average_only_in"
        whitened = normalize == "covariance_whitening"
        scaler = {"scaling_factor": SCALE if scaled else None, "has_whitening": whitened}
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
        if whitened:
            parts = as_tensors(a, {name: name for name in ("mean", "matrix", "inverse_matrix")}, torch.float64)
            safetensors.torch.save_file(parts, folder / "activation_whitening.safetensors")
        return folder

    return write


def flat(architecture: str | None, names: tuple[str, ...] = ("b_enc",), **changes: Any) -> Write:
    """A folder as versions before 6 left it: one level, hook_point, activation_fn_str, finetuning_scaling_factor."""

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        a = {**a, "ones": np.ones(K)}
        given = {name: name for name in ("W_enc", "W_dec", "b_dec", *names)}
        if "scaling_factor" not in names:
            given["scaling_factor"] = "ones"
        safetensors.torch.save_file(as_tensors(a, given, dtype), folder / "sae_weights.safetensors")
        config = {
            **({} if architecture is None else {"architecture": architecture}),
            "d_in": D,
            "d_sae": K,
            "hook_point": "blocks.0.hook_resid_pre",
            "hook_point_head_index": None,
            "hook_point_layer": 0,
            "activation_fn_str": "relu",
            "finetuning_scaling_factor": False,
            "normalize_activations": "none",
            "lr": 4e-4,
            **changes,
        }
        (folder / "cfg.json").write_text(json.dumps(config))
        if config["normalize_activations"] in (True, "expected_average_only_in"):
            state = {
                "n_dataset_processed": torch.tensor(7),
                "estimated_norm_scaling_factor": torch.tensor(SCALE, dtype=torch.float64),
            }
            safetensors.torch.save_file(state, folder / "activations_store_state.safetensors")
        return folder

    return write


_TOPK: dict[str, Any] = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
_V6, _FLAT = "SAELens 6", "SAELens 1 to 5"
_GATES = ("b_gate", "r_mag", "b_mag")

CASES: list[Case] = [
    *(
        Case(
            _V6,
            architecture,
            normalize,
            Spec(**{**vars(spec), "normalize": normalize}),
            saelens(architecture, normalize),
            f"SAELens, {architecture.partition(',')[0]}",
        )
        for architecture, (spec, _, _) in SAELENS.items()
        for normalize in NORMALIZATIONS
    ),
    Case(
        _V6,
        "standard, hook_z",
        "none",
        Spec("relu"),
        saelens("standard", "none", reshape_activations="hook_z"),
        "SAELens, standard",
    ),
    Case(
        _V6,
        "standard, b_dec added only",
        "none",
        Spec("relu", subtract=False),
        saelens("standard", "none", apply_b_dec_to_input=False),
        "SAELens, standard",
    ),
    Case(_FLAT, "standard", "none", Spec("relu"), flat("standard"), "SAELens, standard"),
    Case(_FLAT, "no architecture", "false", Spec("relu"), flat(None, normalize_activations=False), "SAELens, standard"),
    Case(
        _FLAT,
        "standard",
        "true",
        Spec("relu", normalize="expected_average_only_in"),
        flat("standard", normalize_activations=True),
        "SAELens, standard",
    ),
    Case(
        _FLAT,
        "standard",
        "layer_norm",
        Spec("relu", normalize="layer_norm"),
        flat("standard", normalize_activations="layer_norm"),
        "SAELens, standard",
    ),
    Case(_FLAT, "standard, topk", "none", Spec("topk"), flat("standard", **_TOPK), "SAELens, standard"),
    Case(
        _FLAT,
        "standard, tanh-relu",
        "none",
        Spec("tanh-relu"),
        flat("standard", activation_fn_str="tanh-relu"),
        "SAELens, standard",
    ),
    Case(
        _FLAT,
        "standard, finetuned",
        "none",
        Spec("relu", factor=True),
        flat("standard", ("b_enc", "scaling_factor"), finetuning_scaling_factor=True),
        "SAELens, standard",
    ),
    Case(_FLAT, "gated", "none", Spec("gated"), flat("gated", _GATES), "SAELens, gated"),
    Case(_FLAT, "jumprelu", "none", Spec("jumprelu"), flat("jumprelu", ("b_enc", "threshold")), "SAELens, jumprelu"),
]

# ------------------------------------------------------------------------------------------- one file for an SAE


def npz(name: str, names: dict[str, str]) -> Write:
    """A file of numpy."""

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        held: dict[str, Any] = {key: value.numpy() for key, value in as_tensors(a, names, dtype).items()}
        np.savez(folder / name, **held)
        return folder / name

    return write


def safe(name: str, names: dict[str, str]) -> Write:
    """A file of safetensors."""

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        safetensors.torch.save_file(as_tensors(a, names, dtype), folder / name)
        return folder / name

    return write


def pt(name: str, names: dict[str, str], **settings: Any) -> Write:
    """A file of torch."""

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        torch.save({**as_tensors(a, names, dtype), **settings}, folder / name)
        return folder / name

    return write


PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
JUMP = {**PLAIN, "threshold": "threshold"}
LOWER = {name.lower(): name for name in JUMP}
TRANSPOSED = {**PLAIN, "W_enc": "W_enc.T", "W_dec": "W_dec.T"}
OPENAI = {"pre_bias": "b_dec", "encoder.weight": "W_enc.T", "latent_bias": "b_enc", "decoder.weight": "W_dec.T"}
TIED = {
    **{name: ours for name, ours in OPENAI.items() if "weight" not in name},
    "encoder.weight": "W_dec",
    "decoder.linear.weight": "W_dec",
}
LINEAR = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T"}
_K3: dict[str, Any] = {"activation": "TopK", "activation_state_dict": {"k": 3, "postact_fn": "ReLU"}}
_GEMMA, _OPENAI, _PLAIN = "Gemma Scope", "OpenAI", "plain arrays"


def folder_of(write: Write) -> Write:
    """The folder is loaded, not the file."""
    return lambda folder, a, dtype: write(folder, a, dtype).parent


CASES += [
    Case(
        _GEMMA,
        "params.npz",
        "none",
        Spec("jumprelu", subtract=False),
        npz("params.npz", LOWER),
        "Gemma Scope, jumprelu",
        HALF_ONLY,
    ),
    Case(
        _GEMMA,
        "params.npz, upper case",
        "none",
        Spec("jumprelu", subtract=False),
        folder_of(npz("params.npz", JUMP)),
        "Gemma Scope, jumprelu",
        HALF_ONLY,
    ),
    Case(
        _GEMMA,
        "params.safetensors",
        "none",
        Spec("jumprelu", subtract=False),
        folder_of(safe("params.safetensors", LOWER)),
        "Gemma Scope, jumprelu",
    ),
    Case(
        _OPENAI, "TopK", "layer_norm", Spec("topk", normalize="layer_norm"), pt("5.pt", OPENAI, **_K3), "OpenAI, topk"
    ),
    Case(_OPENAI, "ReLU", "none", Spec("relu"), pt("5.pt", OPENAI, activation="ReLU"), "OpenAI, relu"),
    Case(_OPENAI, "ReLU, tied", "none", Spec("relu", tied=True), pt("5.pt", TIED), "OpenAI, relu"),
    Case(
        _PLAIN,
        "W_enc, b_enc, W_dec, b_dec (.npz)",
        "none",
        Spec("relu"),
        npz("sae.npz", PLAIN),
        "plain arrays, relu",
        HALF_ONLY,
    ),
    Case(
        _PLAIN,
        "W_enc, b_enc, W_dec, b_dec (.safetensors)",
        "none",
        Spec("relu"),
        safe("weights.safetensors", PLAIN),
        "plain arrays, relu",
    ),
    Case(_PLAIN, "W_enc, b_enc, W_dec, b_dec (.pt)", "none", Spec("relu"), pt("7.pt", PLAIN), "plain arrays, relu"),
    Case(
        _PLAIN,
        "the same, transposed",
        "none",
        Spec("relu"),
        safe("weights.safetensors", TRANSPOSED),
        "plain arrays, relu",
    ),
    Case(
        _PLAIN,
        "with b_gate, r_mag, b_mag",
        "none",
        Spec("gated"),
        safe("gated.safetensors", {**{n: n for n in ("W_enc", "W_dec", "b_dec", *_GATES)}}),
        "plain arrays, gated",
    ),
    Case(_PLAIN, "with k", "none", Spec("topk"), pt("topk.pt", PLAIN, k=3), "plain arrays, topk"),
    Case(
        _PLAIN,
        "w_enc, ..., threshold",
        "none",
        Spec("jumprelu", subtract=False),
        safe("gemma.safetensors", LOWER),
        "plain arrays, jumprelu",
    ),
    Case(
        _PLAIN,
        "linear layers and bias",
        "none",
        Spec("relu"),
        safe("linear.safetensors", {**LINEAR, "bias": "b_dec"}),
        "plain arrays, relu",
    ),
]

# ------------------------------------------------------------------------------- dictionary_learning and sparsify


def trainer(name: str, names: dict[str, str], **buffers: torch.Tensor) -> Write:
    """A folder of dictionary_learning."""

    def write(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
        torch.save({**as_tensors(a, names, dtype), **buffers}, folder / "ae.pt")
        config = {"trainer": {"dict_class": name, "activation_dim": D, "dict_size": K}, "buffer": {"ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


def sparsify(folder: Path, a: Arrays, dtype: torch.dtype) -> Path:
    """A folder of sparsify with its defaults."""
    names = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    safetensors.torch.save_file(as_tensors(a, names, dtype), folder / "sae.safetensors")
    config = {"activation": "topk", "num_latents": K, "expansion_factor": 32, "k": 3, "d_in": D, "multi_topk": False}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


_GATED = {
    "encoder.weight": "W_enc.T",
    "decoder.weight": "W_dec.T",
    "decoder_bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
    "r_mag": "r_mag",
}
_K = {"k": torch.tensor(3, dtype=torch.int)}
_WITH_B = {**LINEAR, "b_dec": "b_dec"}
_BATCH = {**_K, "threshold": torch.tensor(0.75)}
_GROUPS = {**_BATCH, "group_sizes": torch.tensor([3, K - 3])}
CLASSES: dict[str, tuple[Spec, Write]] = {
    "AutoEncoder": (Spec("relu"), trainer("AutoEncoder", {**LINEAR, "bias": "b_dec"})),
    "AutoEncoderNew": (Spec("relu", subtract=False), trainer("AutoEncoderNew", {**LINEAR, "decoder.bias": "b_dec"})),
    "GatedAutoEncoder": (Spec("gated"), trainer("GatedAutoEncoder", _GATED)),
    "JumpReluAutoEncoder": (Spec("jumprelu", subtract=False), trainer("JumpReluAutoEncoder", JUMP)),
    "AutoEncoderTopK": (Spec("topk"), trainer("AutoEncoderTopK", _WITH_B, **_K)),
    "BatchTopKSAE": (Spec("batchtopk", extra={"topk_threshold": 0.75}), trainer("BatchTopKSAE", _WITH_B, **_BATCH)),
    "MatryoshkaBatchTopKSAE": (
        Spec("batchtopk", extra={"topk_threshold": 0.75}),
        trainer("MatryoshkaBatchTopKSAE", PLAIN, **_GROUPS),
    ),
}

CASES += [
    Case("dictionary_learning", name, "none", spec, write, f"dictionary_learning, {name}")
    for name, (spec, write) in CLASSES.items()
]
CASES.append(Case("sparsify", "topk", "none", Spec("topk"), sparsify, "sparsify, topk"))

# ---------------------------------------------------------------------------------------------------- the table

REFUSED = (
    ("SAELens", "abstopk", "its codes have both signs"),
    ("SAELens", "matching_pursuit", "it has no encoder but a greedy search"),
    ("SAELens", "temporal", "its codes depend on earlier tokens"),
    (
        "SAELens",
        "transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder",
        "a transcoder is no autoencoder",
    ),
    ("SAELens", "`expected_average_only_in`, scale in no file", "pass `scale=` to `SparseAutoencoder.load`"),
    ("SAELens", "`covariance_whitening`, whitening in no file", "it can only be read with its checkpoint's file"),
    ("dictionary_learning", "BatchTopK without a trained threshold", "its codes depend on the batch"),
    ("sparsify", "groupmax, transcoders, skip connections", "no TopK SAE"),
    ("OpenAI", "TopK followed by Identity", "its codes have both signs"),
    ("Gemma Scope", "transcoders", "a transcoder is no autoencoder"),
    ("plain arrays", "K = d", 'pass `layout="rows"` or `layout="columns"`'),
    ("plain arrays", "arrays without a name in the table", "what is not understood is never ignored"),
)
"""What is refused, in one sentence each."""


def table() -> str:
    """The table of docs/formats.md, in Markdown."""
    lines = ["| layout | architecture | normalization | precision | read as |", "|---|---|---|---|---|"]
    merged: dict[tuple[str, str, tuple[str, ...], str], list[str]] = {}
    for case in CASES:
        merged.setdefault((case.layout, case.architecture, case.dtypes, _read_as(case.spec)), []).append(
            case.normalization
        )
    for (layout, architecture, dtypes, read_as), normalizations in merged.items():
        lines.append(f"| {layout} | {architecture} | {', '.join(normalizations)} | {', '.join(dtypes)} | {read_as} |")
    lines += ["", "| layout | what | why it is refused, or what to do |", "|---|---|---|"]
    lines += [f"| {layout} | {what} | {why} |" for layout, what, why in REFUSED]
    return "\n".join(lines) + "\n"


def _read_as(spec: Spec) -> str:
    kind = {"batchtopk": "jumprelu"}.get(spec.kind, spec.kind)
    if spec.kind == "topk" and spec.by_norm:
        kind += " by pre-activation times norm"
    if spec.kind == "batchtopk":
        kind += ", its threshold for all" + (" over the norms" if spec.by_norm else "")
    return kind + ("" if spec.subtract else ", b_dec not subtracted")


BEGIN, END = "<!-- made by tests/sae/formats/cases.py -->\n", "<!-- end -->"

if __name__ == "__main__":
    page = Path(__file__).parents[3] / "docs" / "formats.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + table() + END + rest.split(END)[1])
