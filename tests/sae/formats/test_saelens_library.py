"""Files that sae-lens itself wrote, and SAEs that it has in memory, against its own forward pass."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder
from tests.sae.formats.cases import CASES, DTYPES, NORMALIZATIONS, Case
from tests.sae.formats.reference import SCALE, D, K, data, weights

pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library, and of what it imports
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (pip install cvxsae[saelens])")

X = torch.from_numpy(data())
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("Standard", {}),
    "standard, b_dec added only": ("Standard", {"apply_b_dec_to_input": False}),
    "topk": ("TopK", {"k": 3}),
    "topk, rescaled": ("TopK", {"k": 3, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLU", {}),
    "gated": ("Gated", {}),
}
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("StandardTraining", {"l1_coefficient": 3.0}),
    "topk": ("TopKTraining", {"k": 3}),
    "jumprelu": ("JumpReLUTraining", {}),
    "gated": ("GatedTraining", {"l1_coefficient": 3.0}),
    "batchtopk": ("BatchTopKTraining", {"k": 2.5}),
    "batchtopk, not rescaled": ("BatchTopKTraining", {"k": 2.5, "rescale_acts_by_decoder_norm": False}),
    "matryoshka_batchtopk": ("MatryoshkaBatchTopKTraining", {"k": 3, "matryoshka_widths": [4, K]}),
}


def made(kind: str, dtype: str, settings: dict[str, Any]) -> Any:
    """An SAE of the library with the arrays of the tests."""
    config = getattr(sae_lens, f"{kind}SAEConfig")(d_in=D, d_sae=K, dtype=dtype, **settings)
    sae, a = getattr(sae_lens, f"{kind}SAE")(config), weights(DTYPES.get(dtype, torch.float64))
    with torch.no_grad():
        for name, part in [*sae.named_parameters(), *sae.named_buffers()]:
            part.copy_(torch.tensor(a[name]))
    return sae


def scaler(normalize: str, folder: Path) -> Any:
    """What the library's trainer does to data, written as its checkpoints have it."""
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    found, a = ActivationScaler(), weights()
    if normalize == "expected_average_only_in":
        found.scaling_factor = SCALE
    if normalize == "covariance_whitening":
        found.whitening = ActivationWhitening(*(torch.tensor(a[n]) for n in ("mean", "matrix", "inverse_matrix")))
    found.save(str(folder / "activation_scaler.json"))
    return found


def theirs(sae: Any, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes for unit-norm atoms, and reconstructions, by the library."""
    with torch.no_grad():
        codes = sae.encode(x)
        back = sae.decode(codes)
        if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            codes = codes * sae.W_dec.norm(dim=1)
    return codes.double().numpy(), back.double().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("name", SETTINGS)
def test_its_files_are_read_as_it_encodes(name: str, normalize: str, dtype: str, tmp_path: Path):
    kind, settings = SETTINGS[name]
    made(kind, dtype, {**settings, "normalize_activations": normalize}).save_model(tmp_path)
    scale = scaler(normalize, tmp_path)
    sae = SparseAutoencoder.load(tmp_path)
    in_float64 = sae_lens.SAE.load_from_disk(tmp_path, dtype="float64")  # the same numbers, without rounding
    codes, back = theirs(in_float64, scale(X))
    units = SCALE if normalize == "expected_average_only_in" else 1.0  # ours are for the data as they are
    np.testing.assert_allclose(units * sae.encode(X.numpy()).toarray(), codes, atol=1e-10)
    np.testing.assert_allclose(sae.reconstruct(X.numpy()), scale.unscale(torch.tensor(back)).numpy(), atol=1e-10)
    assert_within_precision(sae, sae_lens.SAE.load_from_disk(tmp_path), scale(X), codes)


def assert_within_precision(sae: SparseAutoencoder, library: Any, x: torch.Tensor, ours: np.ndarray) -> None:
    """In its own precision it says the same, but for codes within rounding of their threshold or rank."""
    eps = torch.finfo(library.dtype).eps
    codes, _ = theirs(library, x.to(library.dtype))
    off = np.abs(codes - ours) > 20 * eps * np.abs(ours).max()
    assert off.mean() <= (0 if eps < 1e-6 else 0.02), (off.mean(), sae)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRAINED)
def test_what_its_training_classes_save_is_read_as_they_encode_after_training(name: str, dtype: str, tmp_path: Path):
    kind, settings = TRAINED[name]
    training = made(kind, dtype, settings)
    training.save_model(tmp_path / "checkpoint")
    checkpoint = SparseAutoencoder.load(tmp_path / "checkpoint")
    made(kind, "float64", settings).save_inference_model(tmp_path / "exact")  # folds norms without rounding
    inference = SparseAutoencoder.load(tmp_path / "exact")
    codes, back = theirs(sae_lens.SAE.load_from_disk(tmp_path / "exact"), X)
    np.testing.assert_allclose(inference.encode(X.numpy()).toarray(), codes, atol=1e-10)
    np.testing.assert_allclose(inference.reconstruct(X.numpy()), back, atol=1e-10)
    if dtype == "float32":  # a checkpoint is the same SAE, before the library folds norms into it
        np.testing.assert_allclose(checkpoint.reconstruct(X.numpy()), back, atol=1e-4)
    training.save_inference_model(tmp_path / "final")
    SparseAutoencoder.load(tmp_path / "final")


@pytest.mark.parametrize("name", [*SETTINGS, *TRAINED])
def test_an_sae_in_memory_is_read_as_its_file_and_not_changed(name: str, tmp_path: Path):
    kind, settings = {**TRAINED, **SETTINGS}[name]
    live = made(kind, "float32", settings)
    before = copy.deepcopy(live.state_dict())
    live.save_model(tmp_path)
    from_file, from_memory = SparseAutoencoder.load(tmp_path), SparseAutoencoder.from_object(live)
    np.testing.assert_array_equal(from_memory.encode(X.numpy()).toarray(), from_file.encode(X.numpy()).toarray())
    assert from_memory.trainer == from_file.trainer
    for key, value in live.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_we_save_encodes_the_same_there(name: str, normalize: str, tmp_path: Path):
    kind, settings = SETTINGS[name]
    made(kind, "float32", {**settings, "normalize_activations": normalize}).save_model(tmp_path / "theirs")
    sae = SparseAutoencoder.load(tmp_path / "theirs")
    back = sae_lens.SAE.load_from_disk(sae.save(tmp_path / "ours"))
    assert back.cfg.architecture() == sae_lens.SAE.load_from_disk(tmp_path / "theirs").cfg.architecture()
    codes, decoded = theirs(back, X.float())
    np.testing.assert_allclose(codes, sae.encode(X.numpy()).toarray(), atol=1e-5)
    np.testing.assert_allclose(decoded, sae.reconstruct(X.numpy()), atol=1e-5)


def test_metadata_and_hook_z_survive_there(tmp_path: Path):
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name="blocks.0.attn.hook_z", custom={"a": [1]})
    made("Standard", "float32", {"metadata": metadata, "reshape_activations": "hook_z"}).save_model(tmp_path / "theirs")
    back = sae_lens.SAE.load_from_disk(SparseAutoencoder.load(tmp_path / "theirs").save(tmp_path / "ours"))
    assert back.cfg.reshape_activations == "hook_z"
    assert back.cfg.metadata.custom == {"a": [1]}
    assert back.cfg.metadata.hook_name == "blocks.0.attn.hook_z"


def test_what_it_has_no_name_for_it_refuses(tmp_path: Path):
    from cvxsae.sae import LayerNorm, TanhReLU

    a = weights()
    arrays: dict[str, Any] = {name: a[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for index, sae in enumerate(
        (
            SparseAutoencoder(**arrays, activation=TanhReLU()),
            SparseAutoencoder(**arrays, normalization=LayerNorm(ddof=0)),
        )
    ):
        with pytest.raises((KeyError, ValueError)):
            sae_lens.SAE.load_from_disk(sae.save(tmp_path / str(index)))
        assert np.array_equal(
            SparseAutoencoder.load(tmp_path / str(index)).reconstruct(X.numpy()), sae.reconstruct(X.numpy())
        )


@pytest.mark.parametrize("kind", ["AbsTopK", "MatchingPursuit", "Temporal", "Transcoder", "JumpReLUSkipTranscoder"])
def test_what_cannot_be_represented_is_refused_by_name(kind: str, tmp_path: Path):
    from tests.helpers.sentences import rejects

    more: dict[str, Any] = {"d_out": D, "apply_b_dec_to_input": False} if "Transcoder" in kind else {}
    if kind == "Temporal":
        more = {"n_heads": 1, "bottleneck_factor": 1, "kval_topk": 2}
    name = kind if "Transcoder" in kind else f"{kind}SAE"
    config = getattr(sae_lens, f"{name}Config")(d_in=D, d_sae=K, **more)
    sae = getattr(sae_lens, name)(config)
    sae.save_model(tmp_path)
    with rejects("the SAE in .* cannot be read"):
        SparseAutoencoder.load(tmp_path)
    with rejects("the .* cannot be read"):
        SparseAutoencoder.from_object(sae)


FLAT = [
    case for case in CASES if case.layout == "SAELens 1 to 5" and case.spec.kind != "tanh-relu" and not case.spec.factor
]


@pytest.mark.parametrize("case", FLAT, ids=lambda case: case.name)
def test_folders_of_old_versions_are_read_as_it_reads_them(case: Case, tmp_path: Path):
    path = case.write(tmp_path, weights(torch.float32), torch.float32)
    config = json.loads((path / "cfg.json").read_text())  # it needs a precision, which old files always have
    (path / "cfg.json").write_text(json.dumps({**config, "dtype": "float32"}))
    scale = SCALE if case.spec.normalize == "expected_average_only_in" else 1.0
    codes, back = theirs(sae_lens.SAE.load_from_disk(path, dtype="float64"), scale * X)
    sae = SparseAutoencoder.load(path)
    np.testing.assert_allclose(scale * sae.encode(X.numpy()).toarray(), codes, atol=1e-10)
    np.testing.assert_allclose(sae.reconstruct(X.numpy()), back / scale, atol=1e-10)


@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in", "covariance_whitening"])
@pytest.mark.parametrize("name", TRAINED)
def test_what_its_trainer_leaves_is_read_before_and_after_it_is_folded(name: str, normalize: str, tmp_path: Path):
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kind, settings = TRAINED[name]
    X = np.random.default_rng(0).normal(size=(512, D)) * 3 + 1
    training = made(kind, "float32", {**settings, "normalize_activations": normalize})

    def batches() -> Iterator[torch.Tensor]:
        rng = np.random.default_rng(1)
        while True:
            yield torch.tensor(X[rng.integers(0, len(X), 64)], dtype=torch.float32)

    config = SAETrainerConfig(
        total_training_samples=64 * 6,
        train_batch_size_samples=64,
        lr_end=3e-5,
        n_checkpoints=1,
        checkpoint_path=str(tmp_path),
        save_final_checkpoint=True,
        n_batches_for_norm_estimate=8,
    )
    trainer = SAETrainer(cfg=config, sae=training, data_provider=batches())
    trained = trainer.fit()
    trained.save_inference_model(tmp_path / "inference")
    (final,) = tmp_path.glob("final_*")
    (checkpoint,) = (path for path in tmp_path.glob("[0-9]*") if path.is_dir())
    read = {path: SparseAutoencoder.load(path) for path in (tmp_path / "inference", final, checkpoint)}
    back = theirs(sae_lens.SAE.load_from_disk(tmp_path / "inference", dtype="float64"), torch.from_numpy(X))[1]
    np.testing.assert_allclose(read[tmp_path / "inference"].reconstruct(X), back, atol=1e-9)
    np.testing.assert_allclose(np.median(np.abs(read[final].reconstruct(X) - back)), 0, atol=1e-4)
    assert (read[final].normalization, read[tmp_path / "inference"].normalization) == (None, None)
    assert (read[checkpoint].normalization is not None) == (normalize == "covariance_whitening")
    if normalize == "expected_average_only_in":  # between the checkpoint and the end are a few small steps
        norms = np.linalg.norm(read[checkpoint].W_enc) / np.linalg.norm(read[final].W_enc)
        assert 0.9 < norms < 1.1
    for sae in read.values():
        assert (sae.lam is not None) <= ("l1_coefficient" in settings)
