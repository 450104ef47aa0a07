"""SAEs in memory: of classes that nobody knows, and of libraries where they are installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder
from cvxsae.sae.given import as_autoencoder
from tests.helpers.sentences import rejects
from tests.sae.formats.cases import OPENAI, as_tensors
from tests.sae.formats.reference import D, K, Spec, data, forward, weights

A, X = weights(), data()


class Own(torch.nn.Module):
    """Somebody's SAE."""

    def __init__(self, spec: Spec, dtype: torch.dtype = torch.float64, *, sign: float = 1.0) -> None:
        super().__init__()
        self.spec, self.sign = spec, sign
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (
            torch.nn.Parameter(torch.tensor(A[name]).to(dtype)) for name in ("W_enc", "b_enc", "W_dec", "b_dec")
        )
        if spec.kind == "jumprelu":
            self.threshold = torch.nn.Parameter(torch.tensor(A["threshold"]).to(dtype))
        if spec.kind == "topk":
            self.k = spec.k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.sign * torch.tensor(forward(A, self.spec, x.double().numpy())[0]).to(x.dtype)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec + self.b_dec


SPECS = [Spec("relu"), Spec("relu", subtract=False), Spec("jumprelu"), Spec("jumprelu", subtract=False)]
SPECS += [Spec("topk"), Spec("topk", by_norm=True), Spec("topk", subtract=False), Spec("tanh-relu")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.subtract}-{spec.by_norm}")
def test_an_unknown_class_is_read_by_what_its_encoder_does(spec: Spec, dtype: torch.dtype):
    live = Own(spec, dtype)
    before = {name: part.clone() for name, part in live.state_dict().items()}
    sae = as_autoencoder(live)
    codes, back = forward(A, spec, X)
    if dtype == torch.float64:
        np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), codes, atol=1e-10)
        np.testing.assert_allclose(sae.reconstruct(X), back, atol=1e-10)
    assert (sae.activation.name, sae.subtract_bias) == (spec.kind, spec.subtract)
    assert getattr(sae.activation, "by_norm", False) == spec.by_norm
    assert all(torch.equal(part, before[name]) for name, part in live.state_dict().items())


def test_what_no_known_architecture_does_is_refused():
    with rejects("the Own encodes as no known architecture does, on random"):
        SparseAutoencoder.from_object(Own(Spec("relu"), sign=-1.0))
    wrong: Any = Own(Spec("relu"))
    wrong.decode = lambda codes: codes @ wrong.W_dec
    with rejects("the Own decodes other than codes times W_dec plus b_dec"):
        SparseAutoencoder.from_object(wrong)
    wrong.decode = lambda codes: codes.nonexistent
    with rejects("the Own cannot encode and decode"):
        SparseAutoencoder.from_object(wrong)
    wrong.decode = lambda codes: codes
    with rejects(r"the Own encodes \(64, 6\)"):
        SparseAutoencoder.from_object(wrong)
    for value in (np.eye(3), [1], 3.0, None):
        with rejects("value is a "):
            SparseAutoencoder.from_object(value)


def test_an_sae_without_biases_and_without_an_encoder_of_its_own_is_read():
    class Tied:
        W_dec = torch.tensor(A["W_dec"])

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ self.W_dec.T)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes @ self.W_dec

    sae = SparseAutoencoder.from_object(Tied())
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), np.maximum(X @ A["W_dec"].T, 0), atol=1e-12)


def test_an_autoencoder_of_openai_s_package_is_read_by_its_own_flag():
    def state_dict(self: Any) -> dict[str, Any]:
        state = {"k": 3, "postact_fn": "ReLU"}
        return {**as_tensors(A, OPENAI, torch.float64), "activation": "TopK", "activation_state_dict": state}

    members = {"__module__": "sparse_autoencoder.model", "encode": lambda self, x: None, "state_dict": state_dict}
    for normalize, spec in ((True, Spec("topk", normalize="layer_norm")), (False, Spec("topk"))):
        live = type("Autoencoder", (), {**members, "normalize": normalize})()
        np.testing.assert_allclose(
            SparseAutoencoder.from_object(live).reconstruct(X), forward(A, spec, X)[1], atol=1e-10
        )


# ------------------------------------------------------------------------------------------------------ libraries


def imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def filled(module: Any, **buffers: Any) -> Any:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(torch.randn(part.shape, generator=rng))
        for name, value in buffers.items():
            getattr(module, name).fill_(value)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, arguments, buffers",
    [
        ("AutoEncoder", (D, K), {}),
        ("AutoEncoderNew", (D, K), {}),
        ("GatedAutoEncoder", (D, K), {}),
        ("JumpReluAutoEncoder", (D, K), {}),
        ("top_k.AutoEncoderTopK", (D, K, 3), {}),
        ("batch_top_k.BatchTopKSAE", (D, K, 3), {"threshold": 0.8}),
        ("matryoshka_batch_top_k.MatryoshkaBatchTopKSAE", (D, K, 3, [4, K - 4]), {"threshold": 0.8}),
    ],
)
def test_modules_of_dictionary_learning_are_read_as_they_encode(name: str, arguments: Any, buffers: dict[str, float]):
    imported("dictionary_learning")
    room, _, kind = name.rpartition(".")
    library = imported(f"dictionary_learning.trainers.{room}" if room else "dictionary_learning.dictionary")
    live = filled(getattr(library, kind)(*arguments), **buffers)
    with torch.no_grad():
        x = torch.from_numpy(X).float()
        codes = live.encode(x, use_threshold=True) if "Batch" in kind else live.encode(x)
        back = live.decode(codes)
    sae = SparseAutoencoder.from_object(live)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), codes.numpy(), atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(X), back.numpy(), atol=1e-4)
    assert sae.trainer == f"dictionary_learning, {kind}"


@pytest.mark.filterwarnings("ignore")
def test_sparse_coders_of_sparsify_are_read_as_they_encode(tmp_path: Path):
    sparsify = imported("sparsify")
    live = filled(sparsify.SparseCoder(D, sparsify.SparseCoderConfig(num_latents=K, k=3)))
    sae = SparseAutoencoder.from_object(live)
    with torch.no_grad():
        found = live.encode(torch.from_numpy(X).float())
    codes = torch.zeros(len(X), K).scatter_(1, found.top_indices.long(), found.top_acts)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), codes.numpy(), atol=1e-4)
    live.save_to_disk(tmp_path)
    np.testing.assert_array_equal(SparseAutoencoder.load(tmp_path).reconstruct(X), sae.reconstruct(X))
