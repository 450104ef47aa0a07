"""The autoencoder as arrays and files."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import InputError, SparseAutoencoder
from cvxsae.data import write_arrays
from cvxsae.sae.given import as_autoencoder
from tests.helpers.sentences import rejects


@pytest.fixture
def arrays(rng):
    """An SAE with atoms of any norm, one of them zero."""
    decoder = rng.normal(size=(7, 4)) * rng.uniform(0.1, 3, (7, 1))
    decoder[3] = 0
    return {"W_enc": rng.normal(size=(4, 7)), "b_enc": rng.normal(size=7), "W_dec": decoder, "b_dec": np.full(4, 0.2)}


@pytest.mark.parametrize("subtract", [True, False])
def test_atoms_of_any_norm_are_the_same_model_as_unit_ones(arrays, rng, subtract):
    sae, X = SparseAutoencoder.from_arrays(arrays, subtract_bias=subtract), rng.normal(size=(30, 4))
    own = np.maximum((X - subtract * arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"], 0)
    np.testing.assert_allclose(sae.encode(X, unit_norm=False).toarray(), own, atol=1e-12)
    np.testing.assert_allclose(sae.encode(X) @ sae.dictionary, own @ arrays["W_dec"], atol=1e-12)
    norms = np.linalg.norm(sae.dictionary, axis=1)
    np.testing.assert_allclose(np.delete(norms, 3), 1)
    assert norms[3] == 0


def test_it_survives_a_file(arrays, rng, tmp_path):
    sae = SparseAutoencoder.from_arrays(arrays, lam=0.3, subtract_bias=False)
    back = SparseAutoencoder.load(sae.save(tmp_path / "sae"))
    X = rng.normal(size=(10, 4))
    np.testing.assert_allclose(back.encode(X).toarray(), sae.encode(X).toarray(), atol=1e-5)
    assert back.lam == 0.3
    assert not back.subtract_bias
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"], config["architecture"]) == (4, 7, "standard")
    config["metadata"]["model_name"] = "something"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    again = SparseAutoencoder.load(SparseAutoencoder.load(tmp_path / "sae").save(tmp_path / "again"))
    assert again.metadata["model_name"] == "something"
    assert "λ 0.3" in repr(again)


def test_float16_and_tensors_will_do(arrays):
    sae = SparseAutoencoder.from_arrays({name: torch.tensor(a, dtype=torch.bfloat16) for name, a in arrays.items()})
    assert sae.W_dec.dtype == np.float32


def test_what_is_no_relu_sae_is_refused(arrays, rng, tmp_path):
    for change, sentence in (
        ({"thresholds": np.zeros(7)}, "exactly W_enc, b_enc, W_dec, b_dec"),
        ({"threshold": np.zeros(7)}, "do not tell whether b_dec is subtracted"),
        ({"threshold": np.zeros(7), "k": 3}, "do not tell its activation function"),
        ({"W_enc": rng.normal(size=(7, 4))}, r"W_enc has shape \(7, 4\)"),
        ({"b_enc": np.full(7, np.inf)}, "b_enc holds"),
        ({"W_dec": np.zeros(3)}, "W_dec has shape"),
    ):
        with pytest.raises(InputError, match=sentence):
            SparseAutoencoder.from_arrays({**arrays, **change})
    with pytest.raises(InputError, match="X has 5 columns, but the SAE reads 4; pass activations"):
        SparseAutoencoder.from_arrays(arrays).encode(np.ones((3, 5)))
    folder = SparseAutoencoder.from_arrays(arrays).save(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object"):
        SparseAutoencoder.load(folder)
    with pytest.raises(InputError, match="does not exist"):
        SparseAutoencoder.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made"):
        SparseAutoencoder.from_arrays(arrays).save(tmp_path / "file" / "sae")
    write_arrays(folder / "sae_weights.safetensors", {"W_dec": np.eye(3)})
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="exactly"):
        SparseAutoencoder.load(folder)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"architecture": "topk"}, "TopK SAE with no k"),
        ({"architecture": "topk", "k": 2, "activation_fn_kwargs": {"k": 3}}, r"TopK SAE with k = \[2, 3\]"),
        ({"architecture": "topk", "k": True}, "k = True"),
        ({"architecture": "topk", "k": 2.5}, "k is 2.5"),
        ({"activation_fn": "topk"}, "TopK SAE with no k"),
        ({"architecture": "gated", "activation_fn": "topk"}, "that combination"),
        ({"activation_fn_kwargs": {"k": 1, "postact_fn": "Identity"}}, "only k is understood"),
        ({"architecture": "abstopk", "k": 2}, "both signs"),
        ({"architecture": "temporal"}, "earlier tokens"),
        ({"architecture": "matching_pursuit"}, "greedy search"),
        ({"architecture": "skip_transcoder"}, "transcoder"),
        ({"architecture": "crosscoder"}, "architecture 'crosscoder'"),
        ({"architecture": "jumprelu"}, "exactly W_enc, b_enc, W_dec, b_dec, threshold"),
        ({"activation": "groupmax"}, "activation 'groupmax'"),
        ({"k": 32}, "k = 32"),
        ({"activation_fn_kwargs": {"k": 1}}, "no use for"),
        ({"normalize_activations": "batch_norm"}, "normalize_activations 'batch_norm'"),
        ({"normalize_activations": True}, "scale is None"),
        ({"normalize_activations": "covariance_whitening"}, "no activation_whitening.safetensors"),
        ({"normalize_activations": "cvxsae_layer_norm", "normalization_settings": {"eps": 1}}, "must be eps and ddof"),
        ({"reshape_activations": "hook_q"}, "reshape_activations 'hook_q'"),
        ({"rescale_acts_by_decoder_norm": 1}, "neither true nor false"),
        ({"apply_b_dec_to_input": "false"}, "neither true nor false"),
        ({"apply_b_dec_to_input": 0}, "neither true nor false"),
        ({"finetuning_scaling_factor": "no"}, "neither true nor false"),
        ({"d_in": 5}, "d_in = 5 but its arrays say 4"),
        ({"d_sae": "7"}, "d_sae = '7' but its arrays say 7"),
        ({"d_out": 9}, "transcoder"),
        ({"hook_name": "a", "hook_name_out": "b"}, "transcoder"),
    ],
)
def test_what_is_not_understood_is_not_read_as_a_relu_sae(arrays, tmp_path, change, sentence):
    folder = SparseAutoencoder.from_arrays(arrays).save(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **change}))
    with rejects(f".*{sentence}"):
        SparseAutoencoder.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_activations": False},
        {"normalize_activations": None},
        {"architecture": None},
        {"activation_fn_str": "relu", "activation_fn_kwargs": {}},
        {"metadata": "a sentence"},
        {"metadata": None},
        {"k": None, "d_out": 4, "hook_name": "a", "hook_name_out": "a"},
        {"d_in": 4.0, "hook_name": "blocks.3.hook_resid_pre", "l1_coefficient": 0.3},
    ],
)
def test_harmless_variants_are_read_and_what_else_they_say_is_kept(arrays, rng, tmp_path, change):
    sae = SparseAutoencoder.from_arrays(arrays)
    folder = sae.save(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **change}), encoding="utf-8-sig")  # and a byte-order mark
    ones = {"scaling_factor": np.ones(7), "finetuning_scaling_factor": torch.ones(7)}
    write_arrays(folder / "sae_weights.safetensors", {**arrays, **ones})
    X = rng.normal(size=(5, 4))
    read = SparseAutoencoder.load(folder)
    np.testing.assert_allclose(read.encode(X).toarray(), sae.encode(X).toarray())
    kept = SparseAutoencoder.load(read.save(tmp_path / "again")).metadata
    for name in ("hook_name", "l1_coefficient"):
        assert kept.get(name) == change.get(name)
    if isinstance(change.get("metadata"), str):
        assert "a sentence" in kept.values()


STRANGE: tuple[Any, ...] = ([1], {"a": 1}, 2.5, -1, "?", True, False, None, [], {}, "", [["topk"]], 1e308, {"k": [1]})
KEYS: tuple[str, ...] = (
    "architecture",
    "activation_fn",
    "activation_fn_kwargs",
    "k",
    "rescale_acts_by_decoder_norm",
    "d_in",
    "d_out",
)
KEYS += ("apply_b_dec_to_input", "normalize_activations", "normalization_settings", "finetuning_scaling_factor")
KEYS += (
    "reshape_activations",
    "hook_name_out",
    "metadata",
    "hook_point",
    "sae_lens_version",
    "dtype",
    "l1_coefficient",
)


@pytest.mark.parametrize("key", KEYS)
def test_configs_may_say_anything_and_are_read_or_refused(arrays, tmp_path, key):
    folder = SparseAutoencoder.from_arrays(arrays).save(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    for base in ({}, {"architecture": "topk", "k": 2}, {"normalize_activations": "cvxsae_layer_norm"}):
        for value in STRANGE:
            (folder / "cfg.json").write_text(json.dumps({**config, **base, key: value}))
            try:
                SparseAutoencoder.load(folder)
            except InputError as error:
                said = str(error)
            else:
                continue
            with rejects("[a-z]"):
                raise InputError(said)


def test_codes_that_are_scaled_are_refused_unless_the_config_says_so(arrays, rng, tmp_path):
    sae, X = SparseAutoencoder.from_arrays(arrays), rng.normal(size=(5, 4))
    folder, factor = sae.save(tmp_path / "sae"), rng.uniform(0.5, 2, 7)
    write_arrays(folder / "sae_weights.safetensors", {**arrays, "scaling_factor": factor})
    with rejects("the SAE in .* has a scaling_factor that is not 1 but its cfg.json does not say"):
        SparseAutoencoder.load(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "finetuning_scaling_factor": True}))
    read = SparseAutoencoder.load(folder)
    codes = sae.encode(X, unit_norm=False).toarray()
    np.testing.assert_allclose(read.encode(X, unit_norm=False).toarray(), codes, atol=1e-12)
    np.testing.assert_allclose(read.reconstruct(X), (codes * factor) @ arrays["W_dec"] + arrays["b_dec"], atol=1e-12)


def test_files_of_other_libraries_are_told_what_they_hold(arrays, tmp_path):
    weights = {"encoder.weight": torch.ones(5, 3), "decoder.weight": torch.ones(3, 5)}
    torch.save(weights, tmp_path / "ae.pt")
    with pytest.raises(InputError, match=r"ae.pt' is a file with the arrays encoder.weight, decoder.weight; pass"):
        SparseAutoencoder.load(tmp_path / "ae.pt")
    (tmp_path / "weights.pt").write_text("nothing")
    (tmp_path / "ae.pt").unlink()
    with pytest.raises(InputError, match=r"holds weights.pt, which is no SAE in a known format; pass a folder"):
        SparseAutoencoder.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' is empty; pass a folder"):
        SparseAutoencoder.load(tmp_path / "empty")
    alone = write_arrays(tmp_path / "alone.safetensors", {"W_dec": arrays["W_dec"]})
    said = r"lacks W_enc and b_enc; .* cvxsae check DATA --dictionary .*alone.safetensors::W_dec --lam-ratio 0\.1\.$"
    with pytest.raises(InputError, match=said):
        SparseAutoencoder.load(alone)
    alone.unlink()
    (tmp_path / "empty").rmdir()
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no sae_weights.safetensors but weights.pt; pass a folder"):
        SparseAutoencoder.load(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"has the file type '\.txt'; pass a folder"):
        SparseAutoencoder.load(tmp_path / "notes.txt")
    wrong: Any
    for wrong, words in ((np.eye(3), "data come first"), ([1], "data come first"), ({"W_dec": [1]}, "exactly W_enc")):
        with pytest.raises(InputError, match=words):
            as_autoencoder(wrong)


@pytest.mark.parametrize("power", [-1000, -520, 520, 1000])
def test_norms_of_atoms_of_any_size_are_those_of_the_same_atoms_scaled(arrays, power):
    """Their squares overflow or vanish; a power of two rounds nothing."""
    sae = SparseAutoencoder.from_arrays(arrays)
    scaled = replace(sae, W_dec=np.ldexp(arrays["W_dec"], power))
    np.testing.assert_array_equal(scaled.atom_norms, np.ldexp(sae.atom_norms, power))
    np.testing.assert_array_equal(scaled.dictionary, sae.dictionary)
    np.testing.assert_array_equal(sae.atom_norms, np.linalg.norm(arrays["W_dec"], axis=1))


def test_a_folder_with_two_layouts_is_not_guessed(arrays, tmp_path):
    sae = SparseAutoencoder.from_arrays(arrays)
    sae.save(tmp_path)
    replace(sae, b_enc=sae.b_enc - 1).save(tmp_path, format="dictionary-learning")
    with rejects(r"sae .* holds an SAE in more than one layout \(saelens, dictionary-learning\); pass layout="):
        SparseAutoencoder.load(tmp_path)
    np.testing.assert_array_equal(SparseAutoencoder.load(tmp_path, "saelens").b_enc, sae.b_enc)
    assert SparseAutoencoder.load(tmp_path, "dictionary-learning").trainer != ""


@pytest.mark.parametrize("layout", ["saelens", "dictionary-learning"])
def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_written(arrays, tmp_path, layout):
    sae = replace(SparseAutoencoder.from_arrays(arrays), metadata={"array": np.zeros(3)})
    with rejects("metadata holds what JSON cannot"):
        sae.save(tmp_path / "sae", layout)
    assert not (tmp_path / "sae").exists()
