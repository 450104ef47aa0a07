"""Files of dictionary_learning, written here as its classes write them, read as those classes encode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder
from tests.helpers.sentences import rejects

D, K = 4, 6


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def linear() -> dict[str, torch.Tensor]:
    return {"encoder.weight": tensor(K, D), "encoder.bias": tensor(K, seed=1), "decoder.weight": tensor(D, K, seed=2)}


def plain() -> dict[str, torch.Tensor]:
    return {
        "W_enc": tensor(D, K),
        "b_enc": tensor(K, seed=1),
        "W_dec": tensor(K, D, seed=2),
        "b_dec": tensor(D, seed=3),
    }


b = tensor(D, seed=3)
X = tensor(40, D, seed=9).numpy()

STATES: dict[str, dict[str, torch.Tensor]] = {
    "AutoEncoder": {**linear(), "bias": b},
    "AutoEncoderNew": {**linear(), "decoder.bias": b},
    "GatedAutoEncoder": {
        "encoder.weight": tensor(K, D),
        "decoder.weight": tensor(D, K, seed=2),
        "decoder_bias": b,
        "r_mag": tensor(K, seed=4) / 3,
        "gate_bias": tensor(K, seed=5),
        "mag_bias": tensor(K, seed=6),
    },
    "JumpReluAutoEncoder": {**plain(), "threshold": tensor(K, seed=7).abs()},
    "AutoEncoderTopK": {**linear(), "b_dec": b, "k": torch.tensor(2, dtype=torch.int), "threshold": torch.tensor(-1.0)},
    "BatchTopKSAE": {**linear(), "b_dec": b, "k": torch.tensor(2, dtype=torch.int), "threshold": torch.tensor(0.7)},
    "MatryoshkaBatchTopKSAE": {
        **plain(),
        "k": torch.tensor(2, dtype=torch.int),
        "threshold": torch.tensor(0.7),
        "group_sizes": torch.tensor([2, 4]),
    },
}


def encoded(name: str, state: dict[str, torch.Tensor]) -> np.ndarray:
    """What the class does with X, in numpy."""
    held = {key: value.double().numpy() for key, value in state.items()}
    encoder = held["W_enc"] if "W_enc" in held else held["encoder.weight"].T
    shift = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}.get(name, "b_dec")
    x = X - (0 if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else held[shift])
    pre = x @ encoder
    if name == "GatedAutoEncoder":
        return (pre + held["gate_bias"] > 0) * np.maximum(np.exp(held["r_mag"]) * pre + held["mag_bias"], 0)
    pre = np.maximum(pre + (held["b_enc"] if "b_enc" in held else held["encoder.bias"]), 0)
    if name == "AutoEncoderTopK":
        return np.where(pre >= np.sort(pre, axis=1)[:, [-2]], pre, 0)
    return pre * (pre > held["threshold"]) if "threshold" in held else pre


def write(folder: Path, state: dict[str, Any], **trainer: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if trainer:
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", STATES)
def test_every_class_is_read_as_it_encodes(name, dtype, tmp_path):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATES[name].items()}
    folder = write(tmp_path / "trainer_0", state, dict_class=name, k=2, activation_dim=D, dict_size=K, layer=3)
    want = encoded(name, state)
    assert 0 < np.count_nonzero(want) < want.size
    for path in (folder, tmp_path, folder / "ae.pt"):
        sae = SparseAutoencoder.load(path)
        np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), want, atol=1e-12)
        assert sae.metadata["dictionary_learning"]["buffer"] == {"ctx_len": 128}
        assert sae.trainer == f"dictionary_learning, {name}"
    decoder = state["W_dec"].T if "W_dec" in state else state["decoder.weight"]
    np.testing.assert_array_equal(sae.W_dec.T, decoder.float().numpy())


def test_checkpoints_use_the_config_above_them(tmp_path):
    write(tmp_path, STATES["BatchTopKSAE"], dict_class="BatchTopKSAE", k=2)
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "ae_100.pt"
    torch.save(STATES["BatchTopKSAE"], file)
    assert SparseAutoencoder.load(file).activation.name == "jumprelu"


def test_without_a_config_only_what_is_plain_from_the_arrays_is_read(tmp_path):
    for name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "MatryoshkaBatchTopKSAE"):
        sae = SparseAutoencoder.load(write(tmp_path / name, STATES[name]))
        np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), encoded(name, STATES[name]), atol=1e-12)
        assert sae.lam is None
    with rejects("sae '.*' may be of class AutoEncoderTopK or BatchTopKSAE, whose arrays are alike; put its config"):
        SparseAutoencoder.load(write(tmp_path / "TopK", STATES["AutoEncoderTopK"]))


def test_the_penalty_is_half_of_the_config_s(tmp_path):
    trainer = {"dict_class": "AutoEncoder", "trainer_class": "StandardTrainer", "l1_penalty": 0.4}
    sae = SparseAutoencoder.load(write(tmp_path / "a", STATES["AutoEncoder"], **trainer, sparsity_warmup_steps=9))
    assert sae.lam == 0.2
    assert "not scaled" in sae.lam_source
    sae = SparseAutoencoder.load(
        write(tmp_path / "b", STATES["AutoEncoder"], **trainer, sparsity_warmup_steps=9, norm_factor=5.0)
    )
    assert sae.lam == pytest.approx(1.0)
    assert "norm factor 5" in sae.lam_source
    sae = SparseAutoencoder.load(write(tmp_path / "c", STATES["AutoEncoder"], **trainer))
    assert sae.lam is None
    assert "without the square" in sae.lam_source


def test_what_is_not_understood_is_refused(tmp_path):
    def load(state: Any, **trainer: Any) -> SparseAutoencoder:
        return SparseAutoencoder.load(write(tmp_path / "sae", state, **trainer), layout="dictionary-learning")

    batch = STATES["BatchTopKSAE"]
    with rejects("sae '.*' is a BatchTopK SAE without a trained threshold"):
        load({**batch, "threshold": torch.tensor(-1.0)}, dict_class="BatchTopKSAE")
    with rejects("sae '.*' is a BatchTopK SAE without a trained threshold"):
        load({key: value for key, value in batch.items() if key != "threshold"}, dict_class="BatchTopKSAE")
    with rejects("sae '.*' has k = 2 and 3 in ae.pt and config.json"):
        load(STATES["AutoEncoderTopK"], dict_class="AutoEncoderTopK", k=3)
    without = {key: value for key, value in STATES["AutoEncoderTopK"].items() if key != "k"}
    with rejects("sae '.*' has no k; a TopK SAE needs one"):
        load(without, dict_class="AutoEncoderTopK")
    with rejects("sae '.*' is a 'IdentityDict'; only AutoEncoder"):
        load(STATES["AutoEncoder"], dict_class="IdentityDict")
    with rejects("the arrays of the AutoEncoder in '.*' are .*; it has exactly"):
        load({**STATES["AutoEncoder"], "W_skip": b}, dict_class="AutoEncoder")
    with rejects("the arrays in '.*' are mystery; no class of dictionary_learning has these"):
        load({"mystery": b}, layer=1)
    with rejects("sae '.*' holds step, a int"):
        load({**STATES["AutoEncoder"], "step": 3}, dict_class="AutoEncoder")
    with rejects("sae '.*' has dict_size = 7 but its arrays say 6"):
        load(STATES["AutoEncoder"], dict_class="AutoEncoder", dict_size=7)
    with rejects("W_enc has shape"):
        load({**STATES["AutoEncoder"], "encoder.weight": tensor(K, D + 1)}, dict_class="AutoEncoder")
    (tmp_path / "sae" / "config.json").write_text('{"trainer": 3}')
    with rejects("config.json of '.*' has the trainer 3"):
        SparseAutoencoder.load(tmp_path / "sae")
    write(tmp_path / "trainer_0", batch)
    write(tmp_path / "trainer_1", batch)
    with rejects("sae '.*' holds the SAEs trainer_0, trainer_1; pass the folder of one of them"):
        SparseAutoencoder.load(tmp_path)
