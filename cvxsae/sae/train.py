"""The reference: a sparse autoencoder trained the way practitioners train one, so that comparisons are fair."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from tqdm.auto import tqdm

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.record import TrainingRecord
from cvxsae.solvers.dictionary.sample import stretches
from cvxsae.solvers.floors.search import solved_wide_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike

TRAINERS = ("adam", "saelens")

History = tuple[TrainingRecord, ...]

Weights = dict[str, torch.Tensor]
"""``W_enc``, ``b_enc``, ``W_dec`` and ``b_dec`` in the units of training."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an SAE is trained: what practitioners do (dictionary_learning's standard trainer, SAELens).

    Attributes
    ----------
    steps, batch_size, lr
        Adam steps, datapoints in each, and the learning rate (for data of mean norm √d, whatever the data's own).
        On wordllama (K = 512) 1e-2 ends a little lower, 1e-3 and below higher, and 3e-2 loses most features.
    resample
        Start features again that did not fire for a while, three times. ``trainer="adam"`` only; SAELens has none.
    encoder_norm
        Norm of the encoder's columns at the start, as in SAELens and dictionary_learning: most features fire weakly.
    lam_warm_up, lr_warm_up, lr_decay
        Fractions of the steps: λ from 0 to full, learning rate from 0 to full, and from full to 0 at the end.
    clip
        Norm at which gradients are clipped, as in SAELens.
    resample_at
        When dead features are resampled, in fractions of the steps; after the last there is time to settle.
    resample_norm
        Norm of a resampled feature's encoder, in mean norms of the live ones: it fires weakly at first.
    median_points
        Most datapoints that the bias's start is computed from.
    median_lam
        λ of the wide limit whose bias is the start, in units of λ: near zero it is the geometric median.
    records
        Lines of the history, at most about.
    """

    steps: int = 5000
    batch_size: int = 1024
    lr: float = 5e-3
    resample: bool = True
    encoder_norm: float = 0.1
    lam_warm_up: float = 0.05
    lr_warm_up: float = 0.02
    lr_decay: float = 0.2
    clip: float = 1.0
    resample_at: tuple[float, ...] = (0.2, 0.35, 0.5)
    resample_norm: float = 0.2
    median_points: int = 2**15
    median_lam: float = 1e-3
    records: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", arguments.count(self.steps, "steps"))
        object.__setattr__(self, "batch_size", arguments.count(self.batch_size, "batch_size"))
        object.__setattr__(self, "lr", arguments.positive(self.lr, "lr"))
        if self.lr > LARGEST_SINGLE:
            raise InputError(f"lr is {self.lr:g}, which float32 cannot square; pass a smaller one.")

    def lr_factor(self, step: int) -> float:
        """Linear warm-up, then constant, then linearly to zero."""
        rising = (step + 1) / max(1.0, self.lr_warm_up * self.steps)
        falling = (self.steps - step) / max(1.0, self.lr_decay * self.steps)
        return min(1.0, rising, max(0.0, falling))


class TrainOptions(Compute, Seeded, total=False):
    """How :func:`train_sae` runs, and the part of :class:`Recipe` that is often changed."""

    steps: int
    batch_size: int
    lr: float
    resample: bool


_CHOSEN = {field.name: field.default for field in fields(Recipe) if field.name in TrainOptions.__annotations__}
"""Defaults of the options that are a recipe's."""

LARGEST_SINGLE = 1e18
"""What training in float32 may meet, and the inverse of the least: squares of it still fit."""

_MEDIAN_TOL = 1e-3
"""Relative gap of the wide limit whose bias training starts from."""

_SMALLEST_NORM = 1e-12
"""Divisors are at least this, so that an atom of norm zero stays finite."""


@dataclass(frozen=True)
class Plan:
    """What is trained on what, checked; data and λ in units where the mean norm is √d, as SAELens normalizes."""

    data: Activations
    lam: float
    scale: float
    bias: torch.Tensor
    bias_is_free: bool
    start: torch.Tensor
    recipe: Recipe
    trainer: str
    run: Run

    @property
    def n_atoms(self) -> int:
        """Width K."""
        return len(self.start)

    def batches(self) -> Iterator[torch.Tensor]:
        """Endless minibatches: every epoch is a fresh permutation, of data read forward one of each stretch."""
        rng = np.random.default_rng(self.run.seed)
        size = min(self.recipe.batch_size, len(self.data))
        ends = stretches(self.data, len(self.data) // size)
        while True:
            for first, last in itertools.pairwise(ends):
                held = self.data[first:last].tensor if self.data.is_forward_only else None
                order = rng.permutation(last - first)
                for begin in range(0, last - first - size + 1, size):
                    chosen = np.sort(order[begin : begin + size])
                    rows = self.data[chosen].tensor if held is None else held[torch.from_numpy(chosen)]
                    yield rows.to(device=self.run.device, dtype=torch.float32) * self.scale


@keywords(TrainOptions, **_CHOSEN)
def train_sae(
    X: ActivationsLike,
    n_atoms: int,
    lam: float,
    *,
    bias: BiasLike = "free",
    init: ArrayLike | torch.Tensor | None = None,
    trainer: str = "adam",
    **options: Unpack[TrainOptions],
) -> SparseAutoencoder:
    """Train a vanilla SAE: ReLU encoder, linear decoder, L1 penalty, Adam on minibatches.

    Minimizes ``(1/N) Σ_n [ ½‖x_n − b − z_n D‖² + λ Σ_k z_nk ]`` over encoder, decoder and bias, with
    ``z_n = ReLU((x_n − b) W_enc + b_enc)`` and unit-norm D: half of SAELens's loss with ``l1_coefficient = 2λ``.

    Settings are those of practitioners (dictionary_learning's standard trainer, SAELens): data scaled to mean norm √d
    inside, encoder started as 0.1 times the decoder transposed, bias at the geometric median (the wide limit at
    λ → 0), λ and learning rate warmed up, learning rate decayed at the end, gradient norm clipped at 1, decoder kept at
    unit norm (gradients projected, rows renormalized), dead features started again on datapoints with large loss.

    Nothing certifies the answer: :func:`cvxsae.audit` says how far it is from optimal, and why.

    Parameters
    ----------
    X
        Datapoints, (N, d): anything :class:`~cvxsae.Activations` accepts; read in minibatches, never modified.
        Minibatches are drawn from all rows; of data that can only be read forward (functions, Parquet, compressed
        Arrow) within stretches of 64 MB, as from a shuffle buffer, so that an epoch costs one pass.
    n_atoms
        Width K.
    lam
        Penalty λ > 0, in the units of (P).
    bias
        ``"free"`` (trained), None (zero) or an array (d,) (fixed).
    init
        Dictionary (K, d) to start from; by default random directions.
    trainer
        ``"adam"``: the one here. ``"saelens"``: sae-lens's own trainer (``pip install cvxsae[saelens]``), which has no
        time limit.
    options
        ``device`` (float32 throughout), ``max_seconds``, ``progress``, ``seed`` (of initial atoms, order of the data
        and resampling), and those of :class:`Recipe`: ``steps``, ``batch_size``, ``lr``, ``resample``. Where time runs
        out, the SAE is that of the last step made, and ``metadata["stopped_at_step"]`` says which.

    Returns
    -------
    SparseAutoencoder
        In the units of X, with unit-norm decoder rows.

    Raises
    ------
    InputError
        For arguments that cannot be used, a trainer that is not installed, or a learning rate at which it diverges.
    KeyboardInterrupt
        On Ctrl-C.
    """
    run = Run.start(options, TrainOptions)
    recipe = Recipe(**{name: value for name, value in options.items() if name in _CHOSEN})  # type: ignore[arg-type]
    return train(plan_of(all_rows(X), n_atoms, lam, bias, init, recipe, trainer, run))


def train(plan: Plan) -> SparseAutoencoder:
    """:func:`train_sae` for arguments that have been checked. An interrupt passes through."""
    if plan.trainer == "adam":
        return trained(plan, _adam)
    from cvxsae.sae import saelens

    return trained(plan, saelens.train)


def trained(plan: Plan, fit: Callable[[Plan], tuple[Weights, History]]) -> SparseAutoencoder:
    """Train, and bring the weights back to the units of the data."""
    begun, recipe = time.perf_counter(), plan.recipe
    with torch.enable_grad(), threads_for_cost(recipe.batch_size * plan.n_atoms * plan.data.shape[1]):
        weights, history = fit(plan)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise InputError(f"lr is {recipe.lr:g}, at which training diverged; pass a smaller one.")
    seconds = time.perf_counter() - begun
    stopped = history and history[-1].step < recipe.steps
    return SparseAutoencoder(
        W_enc=weights["W_enc"].cpu().numpy(),
        b_enc=(weights["b_enc"].cpu() / plan.scale).numpy(),
        W_dec=weights["W_dec"].cpu().numpy(),
        b_dec=(weights["b_dec"].cpu() / plan.scale).numpy(),
        lam=plan.lam / plan.scale,
        history=history,
        seconds=seconds,
        trainer=plan.trainer,
        metadata={"stopped_at_step": history[-1].step} if stopped else {},
    )


def plan_of(
    data: Activations,
    n_atoms: int,
    lam: float,
    bias: BiasLike,
    init: ArrayLike | torch.Tensor | None,
    recipe: Recipe,
    trainer: str,
    run: Run,
) -> Plan:
    """Check the arguments and fix scale, bias and starting dictionary."""
    if arguments.choice(trainer, "trainer", TRAINERS) == "saelens":
        from cvxsae.sae import saelens

        saelens.require(run)
    K, lam = arguments.count(n_atoms, "n_atoms"), arguments.penalty(lam, "lam")
    asked = arguments.Bias.of(bias, data.shape[1])
    if init is None:
        generator = torch.Generator().manual_seed(run.seed)
        start = torch.nn.functional.normalize(
            torch.randn(K, data.shape[1], generator=generator, dtype=torch.float32), dim=1
        )
    else:
        start = tensors.unit_rows(init, "init", data.shape[1])[0].cpu().float()
        if len(start) != K:
            raise InputError(f"init has {len(start)} atoms but n_atoms is {K}; pass as many rows as atoms.")
    b = geometric_median(data, lam, recipe, run) if asked.is_free else asked.vector_or_zeros(data.shape[1])
    total = sum(float(torch.linalg.vector_norm(x.cpu() - b, dim=1).sum()) for x in data.batches())
    mean_norm = total / len(data)
    if mean_norm > 0 and not 1 / LARGEST_SINGLE <= mean_norm <= LARGEST_SINGLE:
        raise InputError(f"X has mean norm {mean_norm:.1e}, too far from 1 to be trained on in float32; rescale it.")
    scale = data.shape[1] ** 0.5 / mean_norm if mean_norm > 0 else 1.0
    if lam * scale > LARGEST_SINGLE:
        raise InputError(f"lam is {lam:g} for data of mean norm {mean_norm:.1e}, which leaves no code; pass a smaller.")
    return Plan(data, lam * scale, scale, (b * scale).float(), asked.is_free, start, recipe, trainer, run)


def geometric_median(data: Activations, lam: float, recipe: Recipe, run: Run) -> torch.Tensor:
    """The usual start of a decoder bias: the wide limit's bias as λ → 0 (T9), from at most 32,768 datapoints."""
    problem = WideLimit(data.spread(recipe.median_points), recipe.median_lam * lam)
    return torch.from_numpy(solved_wide_limit(problem, _MEDIAN_TOL, run).bias)


def _adam(plan: Plan) -> tuple[Weights, History]:
    """The training loop, in the plan's units."""
    recipe, device = plan.recipe, plan.run.device
    start = {
        "W_enc": recipe.encoder_norm * plan.start.T,
        "b_enc": torch.zeros(plan.n_atoms, dtype=torch.float32),
        "W_dec": plan.start,
        "b_dec": plan.bias,
    }
    w = {name: tensor.contiguous().clone().to(device, torch.float32) for name, tensor in start.items()}
    trained = [name for name in w if name != "b_dec" or plan.bias_is_free]
    for name in trained:
        w[name].requires_grad_(True)
    adam = torch.optim.Adam([w[name] for name in trained], lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, recipe.lr_factor)
    generator = torch.Generator().manual_seed(plan.run.seed + 1)
    marks = {round(fraction * recipe.steps) for fraction in recipe.resample_at} if recipe.resample else set()
    log = _Log(plan)
    fired = torch.zeros(plan.n_atoms, dtype=torch.bool, device=device)
    batches = plan.batches()
    for step in tqdm(range(recipe.steps), desc="train_sae", disable=not plan.run.progress):
        if plan.run.is_late and step > 0:
            log.close(step)
            break
        x = next(batches)
        share = min(1.0, (step + 1) / max(1.0, recipe.lam_warm_up * recipe.steps))
        z = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        error = (x - w["b_dec"] - z @ w["W_dec"]).square().sum(dim=1) / 2
        mass = plan.lam * z.sum(dim=1)
        adam.zero_grad(set_to_none=True)
        (error + share * mass).mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            _tangent(w["W_dec"])
            torch.nn.utils.clip_grad_norm_([w[name] for name in trained], recipe.clip)
            adam.step()
            schedule.step()
            w["W_dec"].div_(torch.linalg.vector_norm(w["W_dec"], dim=1, keepdim=True).clamp(min=_SMALLEST_NORM))
            active = z > 0
            fired |= active.any(dim=0)
            log.add(step + 1, error + mass, active)
            if step + 1 in marks:
                _resample(Resampling(w, adam, recipe, generator), ~fired, x, error + mass)
                fired.zero_()
    return {name: tensor.detach() for name, tensor in w.items()}, log.records


def _tangent(decoder: torch.Tensor) -> None:
    """Remove from the gradient what would only change the atoms' norms."""
    if decoder.grad is not None:
        decoder.grad -= (decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder


@dataclass(frozen=True)
class Resampling:
    """What resampling changes, and how."""

    weights: Weights
    adam: torch.optim.Adam
    recipe: Recipe
    generator: torch.Generator


def _resample(what: Resampling, dead: torch.Tensor, x: torch.Tensor, losses: torch.Tensor) -> None:
    """Point dead features at datapoints drawn by their squared loss, with a weak encoder and fresh moments."""
    w, adam, recipe = what.weights, what.adam, what.recipe
    index = dead.nonzero().ravel()[: len(x)]
    if len(index) == 0 or not bool((losses > 0).any()):
        return
    drawn = torch.multinomial(losses.square().cpu().double(), len(index), replacement=True, generator=what.generator)
    rows = torch.nn.functional.normalize((x - w["b_dec"])[drawn.to(x.device)], dim=1)
    rows = torch.where(rows.any(dim=1, keepdim=True), rows, w["W_dec"][index])
    alive = w["W_enc"][:, ~dead]
    norm = float(torch.linalg.vector_norm(alive, dim=0).mean()) if alive.shape[1] else recipe.encoder_norm
    w["W_dec"][index], w["W_enc"][:, index], w["b_enc"][index] = rows, recipe.resample_norm * norm * rows.T, 0.0
    for name, where in (("W_dec", (index,)), ("W_enc", (slice(None), index)), ("b_enc", (index,))):
        for moment in ("exp_avg", "exp_avg_sq"):
            adam.state[w[name]][moment][where] = 0.0


class _Log:
    """Sums between two records."""

    def __init__(self, plan: Plan) -> None:
        steps = plan.recipe.steps
        self.units, self.stride, self.steps = plan.scale**2, max(1, steps // plan.recipe.records), steps
        self.begun = time.perf_counter()
        self.records: History = ()
        self.loss, self.active, self.count, self.fired = 0.0, 0.0, 0, torch.zeros(1, dtype=torch.bool)

    def add(self, step: int, losses: torch.Tensor, active: torch.Tensor) -> None:
        self.loss += float(losses.mean()) / self.units
        self.active += float(active.sum()) / len(active)
        fired = active.any(dim=0)
        self.fired = fired if self.count == 0 else self.fired | fired
        self.count += 1
        if step % self.stride == 0 or step == self.steps:
            self.close(step)

    def close(self, step: int) -> None:
        """Add the line of the steps since the last one, if there are any."""
        if self.count:
            dead = int((~self.fired).sum())
            seconds = time.perf_counter() - self.begun
            self.records += (TrainingRecord(step, seconds, self.loss / self.count, self.active / self.count, dead),)
            self.loss, self.active, self.count = 0.0, 0.0, 0
