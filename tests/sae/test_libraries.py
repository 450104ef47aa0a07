"""Real SAEs: trained by sae-lens and by dictionary_learning, saved by their own functions, read as they lie.

What is read encodes as the library does; the levels of the ledger equal an independent numpy computation; what is
written loads in the libraries and encodes the same there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import SparseAutoencoder, audit, encode, learn_dictionary
from cvxsae.data import sparse_features
from cvxsae.results import DictionaryFit
from cvxsae.sae import Gated, JumpReLU, ReLU, TopK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what other libraries warn of is not ours to mend
]

D, K, N = 8, 16, 128

HAS_SAELENS = importlib.util.find_spec("sae_lens") is not None
HAS_DICTIONARY_LEARNING = importlib.util.find_spec("dictionary_learning") is not None
needs_saelens = pytest.mark.skipif(not HAS_SAELENS, reason="sae-lens is not installed")
needs_dictionary_learning = pytest.mark.skipif(
    not HAS_DICTIONARY_LEARNING, reason="dictionary-learning is not installed"
)

SAELENS = ("standard", "topk", "batchtopk", "jumprelu", "gated")
NORMS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
DICTIONARY_LEARNING = ("standard", "april", "topk", "batchtopk", "jumprelu", "gated", "matryoshka")


@pytest.fixture(scope="module", name="X")
def activations() -> np.ndarray:
    """Activations of mean norm about 5, off the origin."""
    made = sparse_features(N, D, 12, seed=3, noise=0.05)
    return (5 * np.asarray(made.X) + np.linspace(-1, 1, D)).astype(np.float32)


def batches(X: np.ndarray, size: int = 64) -> Iterator[torch.Tensor]:
    """Random datapoints, forever."""
    rng = np.random.default_rng(0)
    while True:
        yield torch.from_numpy(X[rng.integers(len(X), size=size)])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars and prints of other libraries go nowhere, and their random numbers are their own."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def trained_by_saelens(kind: str, normalize: str, X: np.ndarray, folder: Path) -> tuple[Path, float | None]:
    """An SAE of sae-lens on disk, and what the data were multiplied by in training."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sizes = {"d_in": D, "d_sae": K, "normalize_activations": normalize}
    made = {
        "standard": lambda: sae_lens.StandardTrainingSAE(
            sae_lens.StandardTrainingSAEConfig(**sizes, l1_coefficient=0.5)
        ),
        "topk": lambda: sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(**sizes, k=3)),
        "batchtopk": lambda: sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**sizes, k=3)),
        "jumprelu": lambda: sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**sizes)),
        "gated": lambda: sae_lens.GatedTrainingSAE(sae_lens.GatedTrainingSAEConfig(**sizes, l1_coefficient=0.5)),
    }
    scale: list[float] = []
    with quiet():
        sae: Any = made[kind]()
        config = SAETrainerConfig(
            total_training_samples=64 * 150,
            train_batch_size_samples=64,
            lr=0.01,
            lr_end=0.001,
            lr_warm_up_steps=0,
            lr_decay_steps=0,
            n_batches_for_norm_estimate=20,
            device="cpu",
        )
        trainer = SAETrainer(cfg=config, sae=sae, data_provider=batches(X))
        fold = sae.fold_activation_norm_scaling_factor

        def noted(factor: float) -> None:
            scale.append(factor)
            fold(factor)

        sae.fold_activation_norm_scaling_factor = noted
        trainer.fit().save_inference_model(folder)
    return folder, scale[0] if scale else None


def trained_by_dictionary_learning(kind: str, normalize: bool, X: np.ndarray, folder: Path) -> Path:
    """The folder of an SAE of dictionary_learning's ``trainSAE``."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE

    common = {
        "steps": 150,
        "activation_dim": D,
        "dict_size": K,
        "layer": 0,
        "lm_name": "toy",
        "lr": 0.01,
        "warmup_steps": 5,
        "device": "cpu",
    }
    l1 = {"l1_penalty": 0.3, "sparsity_warmup_steps": 5}
    top = {"k": 3, "threshold_start_step": 20}
    trainers: dict[str, dict[str, Any]] = {
        "standard": {"trainer": StandardTrainer, **l1},
        "april": {"trainer": StandardTrainerAprilUpdate, **l1},
        "topk": {"trainer": TopKTrainer, **top},
        "batchtopk": {"trainer": BatchTopKTrainer, **top},
        "jumprelu": {"trainer": JumpReluTrainer, "target_l0": 3.0, "sparsity_warmup_steps": 5},
        "gated": {"trainer": GatedSAETrainer, **l1},
        "matryoshka": {"trainer": MatryoshkaBatchTopKTrainer, **top, "group_fractions": [0.25, 0.75]},
    }
    with quiet():
        trainSAE(
            batches(X),
            [{**common, **trainers[kind]}],
            steps=150,
            save_dir=str(folder),
            normalize_activations=normalize,
            device="cpu",
        )
    return folder / "trainer_0"


def loaded_by_dictionary_learning(folder: Path) -> Any:
    """The SAE in a folder, by the ``from_pretrained`` of the class that its config names."""
    import json

    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    others = {one.__name__: one for one in (BatchTopKSAE, MatryoshkaBatchTopKSAE, AutoEncoderTopK)}
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    kind = others.get(name) or getattr(dictionary, name)
    options = {"normalize_decoder": False} if name == "AutoEncoder" else {}
    with quiet():
        return kind.from_pretrained(str(folder / "ae.pt"), **options)


def same_codes(ours: np.ndarray, theirs: np.ndarray, tol: float = 1e-5) -> None:
    """Equal to single precision; some active, some not."""
    assert 0 < np.count_nonzero(theirs) < theirs.size
    np.testing.assert_allclose(ours, theirs, atol=tol * np.abs(theirs).max())


def objective(X: np.ndarray, D: np.ndarray, b: np.ndarray, Z: np.ndarray, lam: float) -> float:
    """F of (P) in plain numpy."""
    errors = X - b - Z @ D
    return float(0.5 * (errors**2).sum(axis=1).mean() + lam * Z.sum(axis=1).mean())


def exact_codes(X: np.ndarray, atoms: np.ndarray, b: np.ndarray, lam: float) -> np.ndarray:
    """Exact codes, proved in numpy by their dual points: from any start, here our own, which is not believed."""
    Z = encode(X, atoms, lam, bias=b, tol=1e-9).codes.toarray()
    r = X - b - Z @ atoms
    for _ in range(40):
        for _ in range(20):
            for k, d in enumerate(atoms):
                new = np.maximum(Z[:, k] + r @ d - lam, 0)
                r = r - np.outer(new - Z[:, k], d)
                Z[:, k] = new
        solved = Z.copy()
        for n, x in enumerate(X - b):
            on = np.flatnonzero(Z[n] > 1e-9)
            z = np.linalg.lstsq(atoms[on] @ atoms[on].T, atoms[on] @ x - lam, rcond=None)[0]
            if (z >= 0).all():
                solved[n] = 0
                solved[n, on] = z
        left = X - b - solved @ atoms
        y = left * np.minimum(1, lam / np.maximum((left @ atoms.T).max(axis=1), 1e-300))[:, None]
        dual = (y * (X - b)).sum(axis=1) - 0.5 * (y**2).sum(axis=1)
        value = 0.5 * (left**2).sum(axis=1) + lam * solved.sum(axis=1)
        if (value - dual).mean() < 1e-11 * value.mean():
            return solved
    raise AssertionError("coordinate descent has not converged")


def levels_agree(sae: SparseAutoencoder, X: np.ndarray, library_codes: np.ndarray) -> None:
    """The attained levels of the ledger are those of numpy, to 1e-10; the codes of the first are the library's."""
    tol = 0.1  # of codes and of the search for a better dictionary: what is attained is compared, whatever it is
    answer = audit(X, sae, stationarity=tol, held_out=None)
    ledger, lam, data = answer.ledger, answer.ledger.lam, sae.normalized(X).to_numpy().astype(np.float64)
    decoder, b = sae.W_dec.astype(np.float64), sae.b_dec.astype(np.float64)
    norms = np.linalg.norm(decoder, axis=1)
    unit = decoder / norms[:, None]
    loss = objective(data, unit, b, sae.encode(X).toarray(), lam)
    assert ledger.loss == pytest.approx(loss, rel=1e-10)
    assert objective(data, unit, b, library_codes.astype(np.float64) * norms, lam) == pytest.approx(loss, rel=1e-5)
    assert ledger.exact == pytest.approx(objective(data, unit, b, answer.accounts.exact.toarray(), lam), rel=1e-10)
    best = objective(data, unit, b, exact_codes(data, unit, b, lam), lam)  # of all codes
    assert best * (1 - 1e-10) <= ledger.exact <= best * (1 + tol)
    D, c = np.asarray(ledger.dictionary), np.asarray(ledger.decoder_bias)
    best = objective(data, D, c, exact_codes(data, D, c, lam), lam)
    assert best * (1 - 1e-10) <= ledger.local <= best * (1 + tol)
    assert ledger.wide <= ledger.floor <= ledger.local <= ledger.exact <= ledger.loss


@needs_saelens
@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("kind", SAELENS)
def test_saelens(kind, normalize, X, tmp_path):
    from sae_lens import SAE

    folder, scale = trained_by_saelens(kind, normalize, X, tmp_path / "sae")
    with quiet():
        theirs = SAE.load_from_disk(folder)
    codes = theirs.encode(torch.from_numpy(X)).detach().numpy()
    sae = SparseAutoencoder.load(folder)
    same_codes(sae.encode(X, unit_norm=False).toarray(), codes)
    with torch.no_grad():
        made = theirs(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(sae.reconstruct(X), made, atol=1e-4 * np.abs(made).max())
    if kind in ("standard", "gated"):
        assert sae.lam == 0.25
        assert "half of SAELens's l1_coefficient 0.5" in sae.lam_source
        assert "if data were not scaled in training" in sae.lam_source
    else:
        assert sae.lam is None
    assert (scale is not None) == (normalize == "expected_average_only_in")
    if normalize in ("none", "expected_average_only_in"):
        levels_agree(sae, X, codes)


@needs_dictionary_learning
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "normalized"])
@pytest.mark.parametrize("kind", DICTIONARY_LEARNING)
def test_dictionary_learning(kind, normalize, X, tmp_path):
    folder = trained_by_dictionary_learning(kind, normalize, X, tmp_path / "run")
    theirs = loaded_by_dictionary_learning(folder)
    codes = theirs.encode(torch.from_numpy(X)).detach().numpy()
    for path in (folder, tmp_path / "run", folder / "ae.pt"):
        sae = SparseAutoencoder.load(path)
        same_codes(sae.encode(X, unit_norm=False).toarray(), codes)
    with torch.no_grad():
        made = theirs(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(sae.reconstruct(X), made, atol=1e-4 * np.abs(made).max())
    assert sae.lam == (0.15 if kind in ("standard", "april", "gated") else None)
    if not normalize:
        levels_agree(sae, X, codes)


@pytest.fixture(scope="module")
def learned(X: np.ndarray) -> DictionaryFit:
    """A dictionary that was learned here."""
    return learn_dictionary(X, 10, 0.3, seed=0, stationarity=1e-2)


@needs_saelens
@pytest.mark.parametrize("encoder", ["one-step", "regressed"])
def test_a_learned_dictionary_goes_to_saelens(encoder, learned, X, tmp_path):
    from sae_lens import SAE

    sae = SparseAutoencoder.from_fit(learned, encoder)
    with quiet():
        theirs = SAE.load_from_disk(sae.save(tmp_path / "sae"))
    codes = theirs.encode(torch.from_numpy(X)).detach().numpy()
    same_codes(sae.encode(X).toarray(), codes)
    assert theirs.cfg.metadata["cvxsae_lam"] == 0.3
    if encoder == "regressed":
        assert theirs.cfg.metadata["cvxsae_encoder"]["amortization_gap"] > 0


@needs_dictionary_learning
@pytest.mark.parametrize("encoder", ["one-step", "regressed"])
def test_a_learned_dictionary_goes_to_dictionary_learning(encoder, learned, X, tmp_path):
    sae = SparseAutoencoder.from_fit(learned, encoder)
    theirs = loaded_by_dictionary_learning(sae.save(tmp_path / "sae", "dictionary-learning"))
    same_codes(sae.encode(X).toarray(), theirs.encode(torch.from_numpy(X)).detach().numpy())


@needs_dictionary_learning
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "gated"])
def test_every_class_that_is_written_is_read_by_dictionary_learning(kind, subtract, X, tmp_path):
    rng = np.random.default_rng(1)
    activation = {
        "relu": ReLU(),
        "topk": TopK(3, by_norm=True),
        "jumprelu": JumpReLU(rng.uniform(0, 3, K)),
        "gated": Gated(rng.normal(size=K), rng.normal(size=K) / 3, rng.normal(size=K)),
    }[kind]
    sae = SparseAutoencoder(
        W_enc=rng.normal(size=(D, K)),
        b_enc=rng.normal(size=K),
        W_dec=rng.normal(size=(K, D)),
        b_dec=rng.normal(size=D),
        subtract_bias=subtract,
        activation=activation,
    )
    theirs = loaded_by_dictionary_learning(sae.save(tmp_path / "sae", "dictionary-learning"))
    codes, made = theirs(torch.from_numpy(X), output_features=True)[::-1]
    same_codes(
        SparseAutoencoder.load(tmp_path / "sae").encode(X, unit_norm=False).toarray(),
        theirs.encode(torch.from_numpy(X)).detach().numpy(),
    )
    assert codes.shape == (N, K)
    np.testing.assert_allclose(sae.reconstruct(X), made.detach().numpy(), atol=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("sparsify") is None, reason="eai-sparsify is not installed")
@pytest.mark.parametrize("sizes", [{"expansion_factor": 2}, {"num_latents": K, "multi_topk": True}], ids=str)
def test_sparsify(sizes, X, tmp_path):
    from sparsify import SparseCoder, SparseCoderConfig

    with quiet():
        theirs = SparseCoder(D, SparseCoderConfig(k=3, **sizes))
        theirs.b_dec.data = torch.from_numpy(X.mean(axis=0))
        theirs.save_to_disk(tmp_path / "sae")
    top = theirs.encode(torch.from_numpy(X))
    codes = torch.zeros(N, K).scatter_(1, top.top_indices, top.top_acts).detach().numpy()
    sae = SparseAutoencoder.load(tmp_path / "sae")
    same_codes(sae.encode(X, unit_norm=False).toarray(), codes)
    made = theirs.decode(top.top_acts, top.top_indices).detach().numpy()
    np.testing.assert_allclose(sae.reconstruct(X), made, atol=1e-4)
