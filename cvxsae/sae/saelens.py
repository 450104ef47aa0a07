"""sae-lens's own trainer on the same data, scale, λ, schedule and starting dictionary as ours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cvxsae.errors import InputError, reason

if TYPE_CHECKING:
    from cvxsae.parallel.context import Run
    from cvxsae.sae.train import History, Plan, Weights

_SMALLEST_NORM = 1e-12
"""Divisors are at least this, so that an atom of norm zero stays finite."""


def require(run: Run) -> None:
    """Refuse before any work is done if sae-lens cannot be imported, or is asked for what it cannot do."""
    if math.isfinite(run.deadline):
        raise InputError("trainer 'saelens' has no time limit; leave max_seconds out, or use trainer='adam'.")
    try:
        import sae_lens  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"trainer 'saelens' needs sae-lens ({reason(error)}); `pip install cvxsae[saelens]`."
        ) from None


def train(plan: Plan) -> tuple[Weights, History]:
    """sae-lens's own trainer on the same data, scale, λ, schedule and starting dictionary."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    recipe, device = plan.recipe, str(plan.run.device)
    with torch.random.fork_rng(devices=[]):  # its initial weights come from torch's global generator
        torch.manual_seed(plan.run.seed)
        sae: Any = StandardTrainingSAE(
            StandardTrainingSAEConfig(
                d_in=plan.data.shape[1],
                d_sae=plan.n_atoms,
                dtype="float32",
                device=device,
                apply_b_dec_to_input=True,
                normalize_activations="none",
                decoder_init_norm=recipe.encoder_norm,
                l1_coefficient=2 * plan.lam,
                l1_warm_up_steps=round(recipe.lam_warm_up * recipe.steps),
            )
        )
        with torch.no_grad():
            sae.W_dec.copy_(recipe.encoder_norm * plan.start)
            sae.W_enc.copy_(recipe.encoder_norm * plan.start.T)
            sae.b_dec.copy_(plan.bias)
        sae.b_dec.requires_grad_(plan.bias_is_free)
        batch = min(recipe.batch_size, len(plan.data))
        config = SAETrainerConfig(
            total_training_samples=recipe.steps * batch,
            train_batch_size_samples=batch,
            lr=recipe.lr,
            lr_end=0.0,
            lr_warm_up_steps=round(recipe.lr_warm_up * recipe.steps),
            lr_decay_steps=round(recipe.lr_decay * recipe.steps),
            device=device,
        )
        trained: Any = SAETrainer(cfg=config, sae=sae, data_provider=plan.batches()).fit()
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = {name: getattr(trained, name).detach().clone() for name in names}
    norms = torch.linalg.vector_norm(weights["W_dec"], dim=1).clamp(min=_SMALLEST_NORM)
    weights["W_dec"] = weights["W_dec"] / norms[:, None]
    weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
    return weights, ()
