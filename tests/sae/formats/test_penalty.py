"""λ of (P) from the configs of libraries: their losses, written out in numpy, are multiples of ours with that λ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from cvxsae.sae import lambda_from
from cvxsae.sae.formats.penalty import lambda_of_file
from tests.helpers.sentences import rejects

N, D, K = 12, 5, 7


class Point(NamedTuple):
    """Data, unit-norm atoms, a bias and nonnegative codes."""

    X: np.ndarray
    atoms: np.ndarray
    b: np.ndarray
    Z: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """x − x̂."""
        return self.X - self.b - self.Z @ self.atoms


def points(n: int) -> list[Point]:
    """Random points, all with the same data."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(N, D)) + 0.5
    made = []
    for _ in range(n):
        atoms = rng.normal(size=(K, D))
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        made.append(Point(X, atoms, rng.normal(size=D), np.maximum(rng.normal(size=(N, K)), 0)))
    return made


def ours(point: Point, lam: float) -> float:
    """(P): ½ mean‖x − b − zD‖² + λ mean Σz."""
    return 0.5 * (point.errors**2).sum(axis=1).mean() + lam * point.Z.sum(axis=1).mean()


def saelens(point: Point, l1: float) -> float:
    """With decoders of any norm: z‖d‖ is what is penalized."""
    norms = np.linspace(0.2, 3, K)
    Z, decoder = point.Z / norms, point.atoms * norms[:, None]
    errors = point.X - point.b - Z @ decoder
    return (errors**2).sum(axis=1).mean() + l1 * (Z * np.linalg.norm(decoder, axis=1)).sum(axis=1).mean()


def unit_decoder(point: Point, l1: float) -> float:
    return (point.errors**2).sum(axis=1).mean() + l1 * np.abs(point.Z).sum(axis=1).mean()


LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, int], Callable[[Point], float]]] = {
    "saelens, as it trains": (
        "saelens",
        {"architecture": "standard", "l1_coefficient": 0.7, "lp_norm": 1.0},
        {},
        lambda p: saelens(p, 0.7),
    ),
    "saelens, as it saves": (
        "saelens",
        {
            "architecture": "standard",
            "normalize_activations": "none",
            "metadata": {
                "training_architecture": "standard",
                "training_architecture_details": {"l1_coefficient": 0.7, "lp_norm": 1.0, "l1_warm_up_steps": 9},
            },
        },
        {},
        lambda p: saelens(p, 0.7),
    ),
    "saelens, flat": (
        "saelens",
        {"activation_fn_str": "relu", "l1_coefficient": 0.7, "scale_sparsity_penalty_by_decoder_norm": True},
        {},
        lambda p: saelens(p, 0.7),
    ),
    "dictionary-learning": (
        "dictionary-learning",
        {"trainer": {"trainer_class": "StandardTrainer", "l1_penalty": 0.3, "sparsity_warmup_steps": None}},
        {},
        lambda p: unit_decoder(p, 0.3),
    ),
    "dictionary-learning, april": (
        "dictionary-learning",
        {"trainer": {"trainer_class": "StandardTrainerAprilUpdate", "l1_penalty": 0.3, "sparsity_warmup_steps": 5}},
        {},
        lambda p: saelens(p, 0.3),
    ),
    "1l-sparse-autoencoder": (
        "1l-sparse-autoencoder",
        {"l1_coeff": 0.02, "batch_size": N},
        {},
        lambda p: (p.errors**2).sum(-1).mean() + 0.02 * np.abs(p.Z).sum(),
    ),
    "batchtopk": (
        "batchtopk",
        {"l1_coeff": 0.2, "act_size": D, "sae_type": "vanilla"},
        {},
        lambda p: (p.errors**2).mean() + 0.2 * np.abs(p.Z).sum(-1).mean(),
    ),
    "sparse-coding": (
        "sparse-coding",
        {"l1_alpha": 0.2},
        {"dim": D},
        lambda p: (p.errors**2).mean() + 0.2 * np.abs(p.Z).sum(-1).mean(),
    ),
    "overcomplete": (
        "overcomplete",
        {"penalty": 0.05},
        {"batch": N, "dim": D},
        lambda p: (p.errors**2).mean() + 0.05 * np.abs(p.Z).sum(),
    ),
    "sklearn": (
        "sklearn",
        {"alpha": 0.4, "positive_code": True},
        {},
        lambda p: 0.5 * (p.errors**2).sum() + 0.4 * np.abs(p.Z).sum(),
    ),
    "spams": (
        "spams",
        {"lambda1": 0.4, "posAlpha": True},
        {},
        lambda p: np.mean(0.5 * (p.errors**2).sum(1) + 0.4 * p.Z.sum(1)),
    ),
}


def spread(loss: Callable[[Point], float], lam: float) -> float:
    """By how much the ratio of a loss and ours differs between points, relative."""
    ratios = [loss(point) / ours(point, lam) for point in points(6)]
    return max(ratios) / min(ratios) - 1


@pytest.mark.parametrize("case", LOSSES)
def test_the_library_s_loss_is_a_multiple_of_ours_with_that_penalty(case):
    library, config, sizes, loss = LOSSES[case]
    found = lambda_from(config, library, **sizes)
    assert spread(loss, found.lam) < 1e-12
    assert spread(loss, 1.01 * found.lam) > 1e-5  # and of no other
    assert any(f"{number:g}" in found.source for number in (0.7, 0.3, 0.02, 0.2, 0.05, 0.4))


def test_a_scale_that_was_folded_is_undone_exactly():
    """SAELens trains on s·x and then divides decoder and bias by s; λ of its loss is for s·x."""
    s, l1 = 3.7, 0.7
    config = {"architecture": "standard", "l1_coefficient": l1, "normalize_activations": "expected_average_only_in"}
    raw = lambda_from(config, "saelens", scale=s)
    assert raw.lam == pytest.approx(l1 / 2 / s, rel=1e-15)
    assert "3.7" in raw.source

    def in_training(point: Point) -> float:  # of the SAE that, folded, is the point: codes of unit atoms are s times
        return saelens(Point(s * point.X, point.atoms, s * point.b, s * point.Z), l1)

    assert spread(in_training, raw.lam) < 1e-12
    assert spread(in_training, l1 / 2) > 1e-2
    with rejects("scale is None but the SAE was trained on scaled data"):
        lambda_from(config, "saelens")
    with rejects("scale is None"):
        lambda_from({"sae": config, "model_name": "toy"}, "saelens")  # runner_cfg.json
    with rejects("scale is -1"):
        lambda_from(config, "saelens", scale=-1)


@pytest.mark.parametrize(
    ("library", "config", "message"),
    [
        ("1l-sparse-autoencoder", {"l1_coeff": 1.0}, "batch is None but λ of 1l-sparse-autoencoder is proportional"),
        ("batchtopk", {"l1_coeff": 1.0}, "dim is None but λ of batchtopk is proportional"),
        ("overcomplete", {"penalty": 1.0}, "batch is None"),
        ("sparsify", {"k": 32}, "config of sparsify tells no λ"),
        ("openai", {}, "config of openai tells no λ"),
        ("saelens", {}, "config has no l1_coefficient"),
        ("saelens", {"l1_coefficient": 0}, "l1_coefficient is 0"),
        ("saelens", {"l1_coefficient": "big"}, "l1_coefficient is 'big'"),
        ("saelens", {"architecture": "topk", "l1_coefficient": 1}, "config has the architecture 'topk'"),
        (
            "saelens",
            {"architecture": "jumprelu", "metadata": {"training_architecture": "batchtopk", "l1_coefficient": 1}},
            "config has the architecture 'batchtopk'",
        ),
        ("saelens", {"l1_coefficient": 1, "lp_norm": 0.5}, "config has lp_norm 0.5"),
        (
            "saelens",
            {"l1_coefficient": 1, "mse_loss_normalization": "dense_batch"},
            "config has mse_loss_normalization",
        ),
        (
            "saelens",
            {"l1_coefficient": 8e-5, "hook_point": "blocks.0.hook_resid_pre"},
            "config is of a version of SAELens",
        ),
        ("dictionary-learning", {"trainer": 3}, "config has the trainer 3"),
        (
            "dictionary-learning",
            {"trainer": {"trainer_class": "PAnnealTrainer"}},
            "config has the trainer_class 'PAnneal",
        ),
        (
            "dictionary-learning",
            {"trainer": {"trainer_class": "StandardTrainer", "l1_penalty": 1}},
            "config is of a version of dictionary_learning whose loss has",
        ),
        ("batchtopk", {"l1_coeff": 1.0, "sae_type": "topk"}, "config has the sae_type 'topk'"),
        ("sklearn", {"alpha": 1, "positive_code": False}, "config has positive_code = False"),
        ("elsewhere", {}, "library is 'elsewhere'; choose one of"),
    ],
)
def test_what_has_no_penalty_of_ours_is_refused(library, config, message):
    with rejects(message):
        lambda_from(config, library)


def test_sizes_that_change_nothing_are_refused():
    with rejects("batch is 4 but λ of saelens does not depend on it; leave it out"):
        lambda_from({"l1_coefficient": 1}, "saelens", batch=4)
    with rejects("dim is 3 but λ of 1l-sparse-autoencoder does not depend on it"):
        lambda_from({"l1_coeff": 1, "batch_size": 8}, "1l-sparse-autoencoder", dim=3)


def test_a_file_s_reader_gets_the_penalty_or_the_reason():
    lam, why = lambda_of_file({"l1_coefficient": 5}, "saelens")
    assert lam == 2.5
    assert "not scaled" in why
    assert "not scaled" not in lambda_of_file({"l1_coefficient": 5}, "saelens", is_scaled=True)[1]
    assert lambda_of_file({"architecture": "topk"}, "saelens") == (
        None,
        "config has the architecture 'topk', which SAELens trains without an L1 penalty; pass lam, or lam='match-l0'",
    )


def test_gates_and_normalized_data_are_named():
    config = {"metadata": {"training_architecture": "gated", "training_architecture_details": {"l1_coefficient": 3}}}
    assert "codes of its gate" in lambda_from(config, "saelens").source
    gated = {"trainer": {"trainer_class": "GatedSAETrainer", "l1_penalty": 3, "sparsity_warmup_steps": 1}}
    assert "codes of its gate" in lambda_from(gated, "dictionary-learning").source
    found = lambda_from({"l1_coeff": 0.1, "act_size": 10, "input_unit_norm": True}, "batchtopk")
    assert found.lam == pytest.approx(0.5)
    assert "normalized" in found.source or "variance 1" in found.source
