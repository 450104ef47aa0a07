"""Files of sparsify, written here as the library writes them, read as it encodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cvxsae import SparseAutoencoder
from tests.helpers.sentences import rejects

D, FACTOR = 4, 3
K = D * FACTOR

CONFIG: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": FACTOR,
    "normalize_decoder": True,
    "num_latents": 0,
    "k": 3,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


def arrays(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (K, D), "encoder.bias": (K,), "W_dec": (K, D), "b_dec": (D,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def write(folder: Path, held: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(held, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", [{}, {"num_latents": K, "expansion_factor": 99}, {"multi_topk": True}], ids=str)
def test_it_is_read_as_it_encodes(changes, dtype, tmp_path, rng):
    held, X = arrays(dtype), rng.normal(size=(30, D))
    sae = SparseAutoencoder.load(write(tmp_path / "layers.3", held, **changes))
    numbers = {name: value.double().numpy() for name, value in held.items()}
    pre = np.maximum((X - numbers["b_dec"]) @ numbers["encoder.weight"].T + numbers["encoder.bias"], 0)
    want = np.where(pre >= np.sort(pre, axis=1)[:, [-3]], pre, 0)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), want, atol=1e-12)
    np.testing.assert_allclose(sae.reconstruct(X), want @ numbers["W_dec"] + numbers["b_dec"], atol=1e-12)
    assert sae.lam is None
    assert sae.metadata["sparsify"]["normalize_decoder"] is True


def test_what_encodes_otherwise_is_refused_by_name(tmp_path):
    def load(held: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
        SparseAutoencoder.load(write(tmp_path / "sae", arrays() if held is None else held, **changes))

    with rejects("sae '.*' has the activation 'groupmax'; of sparsify only TopK"):
        load(activation="groupmax")
    with rejects("sae '.*' is a transcoder"):
        load(transcode=True)
    with rejects("sae '.*' has a skip connection"):
        load(skip_connection=True)
    with rejects("sae '.*' has num_latents 16 by its cfg.json but its arrays say 12"):
        load(expansion_factor=4)
    with rejects("sae '.*' has d_in = 5"):
        load(d_in=5)
    with rejects("the arrays in '.*' are .*; an SAE of sparsify has exactly"):
        load({**arrays(), "W_skip": torch.eye(D)})
    (tmp_path / "sae" / "cfg.json").unlink()
    with rejects("sae '.*' has no cfg.json"):
        SparseAutoencoder.load(tmp_path / "sae")
