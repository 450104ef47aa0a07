"""The reference: a sparse autoencoder trained the way practitioners train one, so that comparisons are fair."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.errors import reason
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.sae.autoencoder import SparseAutoencoder, TrainingRecord
from cvxsae.solvers.convex.solve import solve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike

TRAINERS = ("adam", "saelens")
DEFAULT_STEPS, DEFAULT_BATCH, DEFAULT_LR = 5000, 1024, 5e-3
ENCODER_NORM = 0.1
"""Norm of the encoder's columns at the start, as in SAELens and dictionary_learning: most features fire weakly."""
LAM_WARM_UP, LR_WARM_UP, LR_DECAY = 0.05, 0.02, 0.2
"""Fractions of the steps: λ from 0 to full, learning rate from 0 to full, and from full to 0 at the end."""
CLIP = 1.0
RESAMPLE_AT = (0.2, 0.35, 0.5)
"""When dead features are resampled, in fractions of the steps; after the last there is time to settle."""
MEDIAN_POINTS = 2**15
RECORDS = 100


@dataclass(frozen=True)
class _Plan:
    """What the caller asked for, checked; data and λ in units where the mean norm is √d, as SAELens normalises."""

    data: Activations
    n_atoms: int
    lam: float
    scale: float
    bias: torch.Tensor
    bias_is_free: bool
    start: torch.Tensor
    steps: int
    batch: int
    lr: float
    seed: int
    resample: bool
    device: torch.device
    progress: bool

    def batches(self) -> Iterator[torch.Tensor]:
        """Endless minibatches: every epoch is a fresh permutation; rows in order within a batch, to read forwards."""
        rng = np.random.default_rng(self.seed)
        n, size = len(self.data), min(self.batch, len(self.data))
        while True:
            order = rng.permutation(n)
            for begin in range(0, n - size + 1, size):
                rows = self.data[np.sort(order[begin : begin + size])].tensor
                yield rows.to(device=self.device, dtype=torch.float32) * self.scale


def train_sae(
    X: ActivationsLike,
    n_atoms: int,
    lam: float,
    *,
    bias: BiasLike = "free",
    steps: int = DEFAULT_STEPS,
    batch_size: int = DEFAULT_BATCH,
    lr: float = DEFAULT_LR,
    resample: bool = True,
    seed: int = 0,
    init: ArrayLike | torch.Tensor | None = None,
    trainer: str = "adam",
    device: str | torch.device | None = None,
    progress: bool = False,
) -> SparseAutoencoder:
    """Train a vanilla SAE: ReLU encoder, linear decoder, L1 penalty, Adam on minibatches.

    Minimises ``(1/N) Σ_n [ ½‖x_n − b − z_n D‖² + λ Σ_k z_nk ]`` over encoder, decoder and bias, with
    ``z_n = ReLU((x_n − b) W_enc + b_enc)`` and unit-norm D: half of SAELens's loss with ``l1_coefficient = 2λ``.

    Settings are those of practitioners (dictionary_learning's standard trainer, SAELens): data scaled to mean norm √d
    inside, encoder started as 0.1 times the decoder transposed, bias at the geometric median (the wide limit at
    λ → 0), λ and learning rate warmed up, learning rate decayed at the end, gradient norm clipped at 1, decoder kept at
    unit norm (gradients projected, rows renormalised), dead features started again on datapoints with large loss.

    Nothing certifies the answer: :func:`cvxsae.audit` says how far it is from optimal, and why.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.data.Activations` accepts; read in minibatches, never modified.
    n_atoms
        Width K.
    lam
        Penalty λ > 0, in the units of (P).
    bias
        ``"free"`` (trained), None (zero) or an array (d,) (fixed).
    steps, batch_size, lr
        Adam steps, datapoints in each, and the learning rate (for data of mean norm √d, whatever the data's own).
        On wordllama (K = 512) 1e-2 ends a little lower, 1e-3 and below higher, and 3e-2 loses most features.
    resample
        Re-start features that did not fire for a while, three times. ``trainer="adam"`` only; SAELens has none.
    seed
        Of everything random: initial atoms, order of the data, resampling.
    init
        Dictionary (K, d) to start from; by default random directions.
    trainer
        ``"adam"``: the one here. ``"saelens"``: sae-lens's own trainer (``pip install cvxsae[saelens]``).
    device
        Where to train; the CPU by default. float32 throughout.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    SparseAutoencoder
        In the units of X, with unit-norm decoder rows.

    Raises
    ------
    InputError
        For arguments that cannot be used, a trainer that is not installed, or a learning rate at which it diverges.
    """
    arguments.choice(trainer, "trainer", TRAINERS)
    if trainer == "saelens":
        _require_saelens()
    plan = _plan(X, n_atoms, lam, bias, steps, batch_size, lr, resample, seed, init, device, progress)
    begun = time.perf_counter()
    with torch.enable_grad(), threads_for_cost(plan.batch * plan.n_atoms * plan.data.shape[1]):
        weights, history = _adam(plan) if trainer == "adam" else _saelens(plan)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise InputError(f"lr is {plan.lr:g}, at which training diverged; pass a smaller one.")
    return _in_units_of_data(plan, weights, history, time.perf_counter() - begun, trainer)


def _plan(
    X: ActivationsLike, n_atoms: int, lam: float, bias: BiasLike, steps: int, batch_size: int, lr: float,
    resample: bool, seed: int, init: ArrayLike | torch.Tensor | None, device: str | torch.device | None, progress: bool,
) -> _Plan:  # fmt: skip
    """Check the arguments and fix scale, bias and starting dictionary."""
    data = Activations(X)
    K, lam = arguments.count(n_atoms, "n_atoms"), arguments.penalty(lam, "lam")
    steps, batch = arguments.count(steps, "steps"), arguments.count(batch_size, "batch_size")
    lr, seed = arguments.positive(lr, "lr"), arguments.count(seed, "seed", least=0)
    vector = arguments.bias_vector(bias, data.shape[1])
    chosen = arguments.compute_device(device)
    if init is None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.nn.functional.normalize(torch.randn(K, data.shape[1], generator=generator), dim=1)
    else:
        start = tensors.unit_rows(init, "init", data.shape[1])[0].cpu().float()
        if len(start) != K:
            raise InputError(f"init has {len(start)} atoms but n_atoms is {K}; pass as many rows as atoms.")
    free = isinstance(vector, str)
    if isinstance(vector, torch.Tensor):
        b = vector
    else:
        b = geometric_median(data, lam) if free else torch.zeros(data.shape[1], dtype=torch.float64)
    total = sum(float(torch.linalg.vector_norm(x.cpu() - b, dim=1).sum()) for x in data.batches())
    mean_norm = total / len(data)
    scale = data.shape[1] ** 0.5 / mean_norm if mean_norm > 0 else 1.0
    return _Plan(
        data, K, lam * scale, scale, (b * scale).float(), free, start, steps, batch, lr, seed, bool(resample), chosen,
        progress,
    )  # fmt: skip


def geometric_median(data: Activations, lam: float) -> torch.Tensor:
    """The usual start of a decoder bias: the wide limit's bias as λ → 0 (T9), from at most 32,768 datapoints."""
    problem = WideLimit(data.spread(MEDIAN_POINTS), 1e-3 * lam)
    return torch.from_numpy(solve(problem, tol=1e-3, raise_on_failure=False).bias)


def _adam(plan: _Plan) -> tuple[dict[str, torch.Tensor], tuple[TrainingRecord, ...]]:
    """The training loop, in the plan's units."""
    start = {"W_enc": ENCODER_NORM * plan.start.T, "b_enc": torch.zeros(plan.n_atoms), "W_dec": plan.start,
             "b_dec": plan.bias}  # fmt: skip
    w = {name: tensor.contiguous().clone().to(plan.device, torch.float32) for name, tensor in start.items()}
    trained = [name for name in w if name != "b_dec" or plan.bias_is_free]
    for name in trained:
        w[name].requires_grad_(True)
    adam = torch.optim.Adam([w[name] for name in trained], lr=plan.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _lr_factor(step, plan.steps))
    generator = torch.Generator().manual_seed(plan.seed + 1)
    marks = {round(fraction * plan.steps) for fraction in RESAMPLE_AT} if plan.resample else set()
    log = _Log(plan)
    fired = torch.zeros(plan.n_atoms, dtype=torch.bool, device=plan.device)
    batches = plan.batches()
    for step in tqdm(range(plan.steps), desc="train_sae", disable=not plan.progress):
        x = next(batches)
        share = min(1.0, (step + 1) / max(1.0, LAM_WARM_UP * plan.steps))
        z = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        error = (x - w["b_dec"] - z @ w["W_dec"]).square().sum(dim=1) / 2
        mass = plan.lam * z.sum(dim=1)
        adam.zero_grad(set_to_none=True)
        (error + share * mass).mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            _tangent(w["W_dec"])
            torch.nn.utils.clip_grad_norm_([w[name] for name in trained], CLIP)
            adam.step()
            schedule.step()
            w["W_dec"].div_(torch.linalg.vector_norm(w["W_dec"], dim=1, keepdim=True).clamp(min=1e-12))
            active = z > 0
            fired |= active.any(dim=0)
            log.add(step + 1, error + mass, active)
            if step + 1 in marks:
                _resample(w, adam, ~fired, x, error + mass, generator)
                fired.zero_()
    return {name: tensor.detach() for name, tensor in w.items()}, log.records


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up, then constant, then linearly to zero."""
    return min(1.0, (step + 1) / max(1.0, LR_WARM_UP * steps), max(0.0, (steps - step) / max(1.0, LR_DECAY * steps)))


def _tangent(decoder: torch.Tensor) -> None:
    """Remove from the gradient what would only change the atoms' norms."""
    if decoder.grad is not None:
        decoder.grad -= (decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder


def _resample(
    w: dict[str, torch.Tensor], adam: torch.optim.Adam, dead: torch.Tensor, x: torch.Tensor, losses: torch.Tensor,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Point dead features at datapoints drawn by their squared loss, with a weak encoder and fresh moments."""
    index = dead.nonzero().ravel()[: len(x)]
    if len(index) == 0 or not bool((losses > 0).any()):
        return
    drawn = torch.multinomial(losses.square().cpu().double(), len(index), replacement=True, generator=generator)
    rows = torch.nn.functional.normalize((x - w["b_dec"])[drawn.to(x.device)], dim=1)
    rows = torch.where(rows.any(dim=1, keepdim=True), rows, w["W_dec"][index])
    alive = w["W_enc"][:, ~dead]
    norm = float(torch.linalg.vector_norm(alive, dim=0).mean()) if alive.shape[1] else ENCODER_NORM
    w["W_dec"][index], w["W_enc"][:, index], w["b_enc"][index] = rows, 0.2 * norm * rows.T, 0.0
    for name, where in (("W_dec", (index,)), ("W_enc", (slice(None), index)), ("b_enc", (index,))):
        for moment in ("exp_avg", "exp_avg_sq"):
            adam.state[w[name]][moment][where] = 0.0


class _Log:
    """Sums between two records."""

    def __init__(self, plan: _Plan) -> None:
        self.units, self.stride, self.steps = plan.scale**2, max(1, plan.steps // RECORDS), plan.steps
        self.begun = time.perf_counter()
        self.records: tuple[TrainingRecord, ...] = ()
        self.loss, self.active, self.count, self.fired = 0.0, 0.0, 0, torch.zeros(1, dtype=torch.bool)

    def add(self, step: int, losses: torch.Tensor, active: torch.Tensor) -> None:
        self.loss += float(losses.mean()) / self.units
        self.active += float(active.sum()) / len(active)
        fired = active.any(dim=0)
        self.fired = fired if self.count == 0 else self.fired | fired
        self.count += 1
        if step % self.stride == 0 or step == self.steps:
            dead = int((~self.fired).sum())
            seconds = time.perf_counter() - self.begun
            self.records += (TrainingRecord(step, seconds, self.loss / self.count, self.active / self.count, dead),)
            self.loss, self.active, self.count = 0.0, 0.0, 0


def _require_saelens() -> None:
    """Refuse before any work is done if sae-lens cannot be imported."""
    try:
        import sae_lens  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"trainer 'saelens' needs sae-lens ({reason(error)}); `pip install cvxsae[saelens]`."
        ) from None


def _saelens(plan: _Plan) -> tuple[dict[str, torch.Tensor], tuple[TrainingRecord, ...]]:
    """sae-lens's own trainer on the same data, scale, λ, schedule and starting dictionary."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    with torch.random.fork_rng(devices=[]):  # its initial weights come from torch's global generator
        torch.manual_seed(plan.seed)
        sae: Any = StandardTrainingSAE(
            StandardTrainingSAEConfig(
                d_in=plan.data.shape[1],
                d_sae=plan.n_atoms,
                dtype="float32",
                device=str(plan.device),
                apply_b_dec_to_input=True,
                normalize_activations="none",
                decoder_init_norm=ENCODER_NORM,
                l1_coefficient=2 * plan.lam,
                l1_warm_up_steps=round(LAM_WARM_UP * plan.steps),
            )
        )
        with torch.no_grad():
            sae.W_dec.copy_(ENCODER_NORM * plan.start)
            sae.W_enc.copy_(ENCODER_NORM * plan.start.T)
            sae.b_dec.copy_(plan.bias)
        sae.b_dec.requires_grad_(plan.bias_is_free)
        batch = min(plan.batch, len(plan.data))
        config = SAETrainerConfig(
            total_training_samples=plan.steps * batch,
            train_batch_size_samples=batch,
            lr=plan.lr,
            lr_end=0.0,
            lr_warm_up_steps=round(LR_WARM_UP * plan.steps),
            lr_decay_steps=round(LR_DECAY * plan.steps),
            device=str(plan.device),
        )
        trained: Any = SAETrainer(cfg=config, sae=sae, data_provider=plan.batches()).fit()
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = {name: getattr(trained, name).detach().clone() for name in names}
    norms = torch.linalg.vector_norm(weights["W_dec"], dim=1).clamp(min=1e-12)
    weights["W_dec"] = weights["W_dec"] / norms[:, None]
    weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
    return weights, ()


def _in_units_of_data(
    plan: _Plan, weights: dict[str, torch.Tensor], history: tuple[TrainingRecord, ...], seconds: float, trainer: str
) -> SparseAutoencoder:
    """Undo the scaling: directions stay, what has the units of the data is divided by the scale."""
    host = {name: tensor.cpu() for name, tensor in weights.items()}
    return SparseAutoencoder(
        W_enc=host["W_enc"].numpy(),
        b_enc=(host["b_enc"] / plan.scale).numpy(),
        W_dec=host["W_dec"].numpy(),
        b_dec=(host["b_dec"] / plan.scale).numpy(),
        lam=plan.lam / plan.scale,
        history=history,
        seconds=seconds,
        trainer=trainer,
    )
