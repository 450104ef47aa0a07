"""Arrays by name without a config, and files that hold them: what they tell, and what has to be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder
from cvxsae.data import write_arrays
from cvxsae.sae import Gated, JumpReLU, ReLU, TopK
from tests.helpers.sentences import rejects
from tests.sae.formats.cases import LINEAR, OPENAI, PLAIN, TRANSPOSED, as_tensors
from tests.sae.formats.reference import D, K, Spec, data, forward, weights

A, X = weights(), data()


def arrays(names: dict[str, str] = PLAIN, **more: Any) -> dict[str, Any]:
    return {**as_tensors(A, names, torch.float64), **more}


def assert_is(sae: SparseAutoencoder, spec: Spec) -> None:
    codes, back = forward(A, spec, X)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), codes, atol=1e-10)
    np.testing.assert_allclose(sae.reconstruct(X), back, atol=1e-10)


def test_what_the_arrays_do_not_tell_can_be_said():
    read = SparseAutoencoder.from_arrays
    threshold = A["threshold"]
    for subtract in (True, False):
        assert_is(read(arrays(), subtract_bias=subtract), Spec("relu", subtract=subtract))
        assert_is(read(arrays(threshold=threshold), subtract_bias=subtract), Spec("jumprelu", subtract=subtract))
    assert_is(read(arrays(k=torch.tensor(3))), Spec("topk"))
    assert_is(read(arrays({**LINEAR, "b_dec": "b_dec"}), activation=TopK(3)), Spec("topk"))
    assert_is(read(arrays(), activation=JumpReLU(threshold), subtract_bias=False), Spec("jumprelu", subtract=False))
    goodfire = {name.replace("coder.", "coder_linear."): ours for name, ours in LINEAR.items()}
    added_only = read(arrays({**goodfire, "decoder_linear.bias": "b_dec"}), activation=ReLU())
    assert_is(added_only, Spec("relu", subtract=False))
    assert_is(read(arrays(), lam=0.3), Spec("relu"))
    assert read(arrays(), lam=0.3).lam == 0.3


def test_one_threshold_may_be_that_of_all():
    sae = SparseAutoencoder.from_arrays(arrays(threshold=np.array(0.7)), subtract_bias=True)
    assert isinstance(sae.activation, JumpReLU)
    np.testing.assert_array_equal(sae.activation.threshold, np.full(K, 0.7))


def test_a_bias_of_zero_need_not_be_told():
    held = arrays(threshold=A["threshold"], b_dec=np.zeros(D))
    assert SparseAutoencoder.from_arrays(held).n_atoms == K


def test_shapes_tell_transposed_arrays_unless_both_sizes_are_the_same(tmp_path: Path):
    assert_is(SparseAutoencoder.from_arrays(arrays(TRANSPOSED)), Spec("relu"))
    rng = np.random.default_rng(0)
    square = {
        "W_enc": rng.normal(size=(D, D)),
        "b_enc": np.zeros(D),
        "W_dec": rng.normal(size=(D, D)),
        "b_dec": np.zeros(D),
    }
    write_arrays(tmp_path / "sae.npz", square)
    with rejects(r"W_dec has shape \(6, 6\), so that shapes do not tell"):
        SparseAutoencoder.from_arrays(square)
    with rejects(r"W_dec has shape \(6, 6\), so that shapes do not tell"):
        SparseAutoencoder.load(tmp_path / "sae.npz")
    for layout, W_enc, W_dec in (
        ("rows", square["W_enc"], square["W_dec"]),
        ("columns", square["W_enc"].T, square["W_dec"].T),
    ):
        for sae in (
            SparseAutoencoder.from_arrays(square, layout=layout),
            SparseAutoencoder.load(tmp_path / "sae.npz", layout=layout),
        ):
            np.testing.assert_array_equal(sae.W_dec, W_dec)
            np.testing.assert_array_equal(sae.W_enc, W_enc)
    linear = {"encoder.weight": square["W_enc"], "encoder.bias": np.zeros(D), "decoder.weight": square["W_dec"]}
    sae = SparseAutoencoder.from_arrays({**linear, "bias": np.zeros(D)})  # linear layers have one layout
    np.testing.assert_array_equal(sae.W_dec, square["W_dec"].T)


@pytest.mark.parametrize(
    "change, options, sentence",
    [
        ({"extra": np.ones(3)}, {}, "the arrays of the SAE are .*what else is there is not understood"),
        ({"bias": np.ones(D)}, {}, "the arrays of the SAE are .*b_dec and bias would both be b_dec"),
        ({"b_gate": np.ones(K)}, {}, "the arrays of the SAE are .*b_gate, r_mag, b_mag"),
        ({"threshold": np.ones(K)}, {}, "the arrays of the SAE do not tell whether b_dec is subtracted"),
        ({"threshold": np.ones(K), "k": 3}, {}, "the arrays of the SAE do not tell its activation function"),
        ({"threshold": np.ones(K - 1)}, {"subtract_bias": True}, r"threshold has shape \(10,\) but there are 11 atoms"),
        ({"k": 0}, {}, "k is 0"),
        ({}, {"layout": "diagonal"}, "layout is 'diagonal'"),
        ({}, {"layout": "columns"}, r"W_enc has shape \(11, 6\)|b_enc has shape"),
        ({}, {"activation": JumpReLU(np.ones(K))}, "the arrays of the SAE do not tell whether b_dec is subtracted"),
        ({"threshold": np.ones(K)}, {"activation": ReLU()}, "activation is relu but there is an array threshold"),
        ({}, {"activation": Gated(*np.ones((3, K - 1)))}, "b_gate has shape"),
    ],
)
def test_what_is_not_clear_is_asked_for(change: dict[str, Any], options: dict[str, Any], sentence: str):
    with rejects(sentence):
        SparseAutoencoder.from_arrays(arrays(**change), **options)


def test_names_of_layers_alone_tell_no_activation_function():
    for names in ({**LINEAR, "b_dec": "b_dec"}, {**LINEAR, "decoder.bias": "b_dec"}, {n.lower(): n for n in PLAIN}):
        with rejects("the arrays of the SAE do not tell its activation function"):
            SparseAutoencoder.from_arrays(arrays(names))


def test_an_openai_file_with_what_is_not_understood_is_refused(tmp_path: Path):
    def load(**settings: Any) -> SparseAutoencoder:
        torch.save({**arrays(OPENAI), **settings}, tmp_path / "5.pt")
        return SparseAutoencoder.load(tmp_path / "5.pt")

    assert_is(load(stats_last_nonzero=torch.zeros(K), activation="ReLU"), Spec("relu"))
    identity = {"k": 3, "postact_fn": "Identity"}
    for settings, sentence in (
        ({"activation": "TopK", "activation_state_dict": identity}, "the SAE in .* has the activation 'TopK' with"),
        ({"activation": "TopK"}, "the SAE in .* has the activation 'TopK' with no settings"),
        ({"activation": "Identity"}, "the SAE in .* has the activation 'Identity'"),
        ({"threshold": torch.ones(K)}, "the SAE in .* holds .*threshold"),
        ({"decoder.linear.weight": torch.ones(K, D)}, "the SAE in .* holds .*decoder.linear.weight"),
    ):
        with rejects(sentence):
            load(**settings)


def test_gemma_scope_transcoders_are_refused(tmp_path: Path):
    held = {**arrays({name.lower(): name for name in PLAIN}), "threshold": A["threshold"]}
    write_arrays(tmp_path / "params.npz", {**held, "affine_skip_connection": np.eye(D)})
    with rejects("the arrays in .* an SAE of Gemma Scope has exactly"):
        SparseAutoencoder.load(tmp_path)
    write_arrays(tmp_path / "params.safetensors", held)
    with rejects("sae .* has 2 of params.npz and params.safetensors"):
        SparseAutoencoder.load(tmp_path)
    assert_is(SparseAutoencoder.load(tmp_path / "params.safetensors"), Spec("jumprelu", subtract=False))


def test_layouts_can_be_named_and_scales_only_where_one_is_missing(tmp_path: Path):
    write_arrays(tmp_path / "params.npz", arrays(PLAIN, threshold=A["threshold"]))
    sae = SparseAutoencoder.load(tmp_path / "params.npz", layout="gemma-scope")
    assert_is(sae, Spec("jumprelu", subtract=False))
    with rejects("layout is 'pytorch'"):
        SparseAutoencoder.load(tmp_path / "params.npz", layout="pytorch")
    with rejects("scale is 2.0 but the file of the SAE leaves nothing to be scaled"):
        SparseAutoencoder.load(tmp_path / "params.npz", scale=2.0)


def test_weights_are_never_read_without_the_config_beside_them(tmp_path: Path):
    write_arrays(tmp_path / "sae_weights.safetensors", arrays())
    assert_is(SparseAutoencoder.load(tmp_path / "sae_weights.safetensors", layout="arrays"), Spec("relu"))
    (tmp_path / "cfg.json").write_text('{"architecture": "topk", "k": 3}')
    for name in ("", "sae_weights.safetensors", "cfg.json"):
        assert_is(SparseAutoencoder.load(tmp_path / name), Spec("topk"))
    write_arrays(tmp_path / "renamed.safetensors", arrays())
    for name in ("renamed.safetensors", "sae_weights.safetensors"):
        with rejects("sae .* has a cfg.json beside it"):
            SparseAutoencoder.load(tmp_path / name, layout="arrays")


def test_paths_that_cannot_be_are_one_sentence():
    for path in ("x" * 5000, "a\0b"):
        with rejects("path .* cannot be opened|sae .* does not exist"):
            SparseAutoencoder.load(path)
