"""The λ of (P) that a library's sparsity coefficient stands for: one rule per training loss, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cvxsae.data import arguments
from cvxsae.errors import InputError, in_short

OTHERWISE = "pass lam, or lam='match-l0'"
"""What to do where a config tells no λ."""

SCALED = "expected_average_only_in"
"""SAELens's name for data multiplied by √d / mean‖x‖, the same number for all, while an SAE is trained."""


@dataclass(frozen=True)
class Penalty:
    """A λ of (P) and where it came from.

    Attributes
    ----------
    lam
        ``½ mean‖x − b − zD‖² + λ mean Σz`` at unit-norm atoms is the library's loss up to a factor.
    source
        A sentence: the coefficient, the loss it belongs to, and for which data λ holds.
    """

    lam: float
    source: str


@dataclass(frozen=True)
class _Asked:
    """A config and the sizes that some losses depend on; asks for what is missing in one sentence."""

    config: Mapping[str, Any]
    library: str
    batch: int | None
    dim: int | None

    def number(self, *names: str) -> tuple[str, float]:
        """The first of these settings that is there, above zero."""
        for name, value in self._held(names):
            if arguments.real(value, name) <= 0:
                raise InputError(
                    f"{name} is {in_short(value)}: codes were not penalized, and no λ goes with that; {OTHERWISE}."
                )
            return name, arguments.penalty(value, name)
        raise InputError(f"config has no {' or '.join(names)}; {OTHERWISE}.")

    def size(self, what: str, given: int | None, *names: str) -> int:
        """A size that λ is proportional to: as passed, or as the config has it."""
        if given is not None:
            return arguments.count(given, what)
        for name, value in self._held(names):
            return arguments.count(value, name)
        raise InputError(f"{what} is None but λ of {self.library} is proportional to it; pass {what}.")

    def _held(self, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        return ((name, self.config[name]) for name in names if self.config.get(name) is not None)


def lambda_from(
    config: Mapping[str, Any],
    library: str,
    *,
    batch: int | None = None,
    dim: int | None = None,
    scale: float | None = None,
) -> Penalty:
    """Say which λ of (P) an SAE was trained with, from the config that its library saved.

    (P) is ``½ mean‖x − b − zD‖² + λ mean Σz`` with unit-norm atoms: at such atoms the library's loss is a multiple of
    it. Atoms of other norms are covered where the library penalizes ``z‖d‖``; where it does not, the config is refused.

    Parameters
    ----------
    config
        What the library saved, as a dictionary: ``cfg.json`` or ``runner_cfg.json`` of SAELens, ``config.json`` of
        dictionary_learning, settings of the others by their own names.
    library
        ``"saelens"``, ``"dictionary-learning"``, ``"1l-sparse-autoencoder"``, ``"batchtopk"`` (its vanilla SAE),
        ``"sparse-coding"``, ``"overcomplete"`` (its ``mse_l1``), ``"sklearn"``, ``"spams"``, ``"openai"`` or
        ``"sparsify"``.
    batch
        Datapoints per training step; for losses that sum over them and configs that do not say.
    dim
        Dimension d of the data; for losses that average over it and configs that do not say.
    scale
        What the data were multiplied by while it was trained, where that was folded into the weights afterwards: then
        λ for the data as they are is λ of training over ``scale``, exactly. ``√d / mean‖x‖`` for SAELens's
        ``expected_average_only_in``, ``1 / √mean‖x‖²`` for dictionary_learning's ``normalize_activations``; neither
        library records it.

    Returns
    -------
    Penalty
        λ and a sentence that says where it came from.

    Raises
    ------
    InputError
        Where no λ of (P) goes with the loss, or it depends on what neither the config nor the arguments say.
    """
    found = trained_penalty(config, library, batch=batch, dim=dim)
    if scale is not None:
        factor = arguments.positive(scale, "scale")
        return Penalty(
            arguments.penalty(found.lam / factor, "lam"),
            f"{found.source}, over the scale {factor:.6g} of the data in training",
        )
    if is_scaled(config):
        raise InputError(
            f"scale is None but the SAE was trained on scaled data ({SCALED}); pass scale=√d / mean‖x‖ of those data."
        )
    return found


def trained_penalty(
    config: Mapping[str, Any], library: str, *, batch: int | None = None, dim: int | None = None
) -> Penalty:
    """:func:`lambda_from` in the units of the data that the loss saw, scaled or not.

    Raises
    ------
    InputError
        As there.
    """
    arguments.instance(config, "config", Mapping, "the config as a dictionary")
    arguments.choice(library, "library", tuple(_RULES))
    for name, value in (("batch", batch), ("dim", dim)):
        if value is not None and name not in _SIZES.get(library, ()):
            raise InputError(f"{name} is {in_short(value)} but λ of {library} does not depend on it; leave it out.")
    return _RULES[library](_Asked(config, library, batch, dim))


def lambda_of_file(config: Mapping[str, Any], library: str, *, is_scaled: bool = False) -> tuple[float | None, str]:
    """:func:`trained_penalty` for a reader of files: λ and where it came from, or None and why it is not known.

    Where the file says no scale (``is_scaled`` False), the sentence says that there may have been one: libraries that
    fold it do not record it.
    """
    try:
        found = trained_penalty(config, library)
    except InputError as error:
        return None, str(error).rstrip(".")
    silent = library in ("saelens", "dictionary-learning") and not is_scaled
    return found.lam, found.source + (
        ", if data were not scaled in training (the file does not tell)" if silent else ""
    )


def is_scaled(config: Mapping[str, Any]) -> bool:
    """Whether the config says that data were multiplied by a number while the SAE was trained."""
    return any(_is_one_of(part.get("normalize_activations"), SCALED) for part in _parts_of_saelens(config))


def _is_one_of(value: Any, *names: str) -> bool:
    """Whether a setting, of whatever type, is one of these words."""
    return isinstance(value, str) and value in names


def _parts_of_saelens(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where SAELens keeps what it trained with, by version and file, the most telling first."""
    metadata = config.get("metadata")
    for holder in (metadata, config):
        if isinstance(holder, Mapping) and isinstance(holder.get("training_architecture_details"), Mapping):
            yield holder["training_architecture_details"]
    for part in (config.get("sae"), metadata, config):
        if isinstance(part, Mapping):
            yield part


def _saelens(asked: _Asked) -> Penalty:
    parts = tuple(_parts_of_saelens(asked.config))
    merged = {name: value for part in reversed(parts) for name, value in part.items()}
    named = (merged.get(key) for key in ("training_architecture", "architecture"))
    kind = next((one for one in named if one is not None), "standard")
    if not _is_one_of(kind, "standard", "gated"):
        raise InputError(
            f"config has the architecture {in_short(kind)}, which SAELens trains without an L1 penalty; {OTHERWISE}."
        )
    name, coefficient = _Asked(merged, asked.library, None, None).number("l1_coefficient")
    if arguments.real(merged.get("lp_norm", 1), "lp_norm") != 1:
        raise InputError(f"config has lp_norm {in_short(merged['lp_norm'])}, which is no L1 penalty; {OTHERWISE}.")
    if merged.get("mse_loss_normalization") is not None:
        raise InputError(f"config has mse_loss_normalization, so that errors are weighted by datapoint; {OTHERWISE}.")
    is_old = any(key in merged for key in _FLAT)
    if is_old and not any(merged.get(key) is True for key in _UNIT):
        raise InputError(
            "config is of a version of SAELens that neither kept atoms at norm 1 nor penalized z‖d‖, or divided errors "
            f"by norms; {OTHERWISE}."
        )
    whose = "" if kind == "standard" else " (for the codes of its gate)"
    return Penalty(coefficient / 2, f"half of SAELens's {name} {coefficient:g}{whose}")


_SIZES = {
    "1l-sparse-autoencoder": ("batch",),
    "batchtopk": ("dim",),
    "sparse-coding": ("dim",),
    "overcomplete": ("batch", "dim"),
}
"""The sizes that λ is proportional to, by library."""

_FLAT = ("hook_point", "activation_fn", "activation_fn_str", "mse_loss_normalization", "l1_warm_up_steps_fraction")
"""Keys that only flat configs of SAELens before version 6 have."""

_UNIT = ("scale_sparsity_penalty_by_decoder_norm", "normalize_sae_decoder")
"""Settings of theirs, one of which makes the penalty one of unit-norm atoms."""

_SQUARED = ("StandardTrainer", "StandardTrainerAprilUpdate", "GatedSAETrainer")
"""Trainers of dictionary_learning whose loss is ``mean‖x − x̂‖²`` and an L1 penalty."""


def _dictionary_learning(asked: _Asked) -> Penalty:
    trainer = asked.config.get("trainer", asked.config)
    if not isinstance(trainer, Mapping):
        raise InputError(f"config has the trainer {in_short(trainer)}; pass the config.json of dictionary_learning.")
    kind = trainer.get("trainer_class")
    if not _is_one_of(kind, *_SQUARED):
        raise InputError(
            f"config has the trainer_class {in_short(kind)}, no known trainer with an L1 penalty; {OTHERWISE}."
        )
    if "sparsity_warmup_steps" not in trainer:
        raise InputError(
            "config is of a version of dictionary_learning whose loss has ‖x − x̂‖ without the square; "
            f"no λ goes with it: {OTHERWISE}."
        )
    name, coefficient = _Asked(trainer, asked.library, None, None).number("l1_penalty")
    whose = " (for the codes of its gate)" if kind == "GatedSAETrainer" else ""
    return Penalty(coefficient / 2, f"half of dictionary_learning's {name} {coefficient:g}{whose}")


def _one_layer(asked: _Asked) -> Penalty:
    name, coefficient = asked.number("l1_coeff")
    batch = asked.size("batch", asked.batch, "batch_size")
    return Penalty(
        coefficient * batch / 2, f"{name} {coefficient:g} times half the batch of {batch}, over which it sums"
    )


def _mean_over_dimensions(*names: str) -> Callable[[_Asked], Penalty]:
    def rule(asked: _Asked) -> Penalty:
        name, coefficient = asked.number(*names)
        dim = asked.size("dim", asked.dim, "act_size", "activation_dim", "activation_width", "d_in")
        return Penalty(
            coefficient * dim / 2, f"{name} {coefficient:g} times half of d = {dim}, over which errors average"
        )

    return rule


def _batchtopk(asked: _Asked) -> Penalty:
    kind = asked.config.get("sae_type")
    if kind is not None and not _is_one_of(kind, "vanilla"):
        raise InputError(f"config has the sae_type {in_short(kind)}, without an L1 penalty; {OTHERWISE}.")
    found = _mean_over_dimensions("l1_coeff")(asked)
    if asked.config.get("input_unit_norm") is True:
        return Penalty(found.lam, f"{found.source}, for its data of mean 0 and variance 1 per datapoint")
    return found


def _overcomplete(asked: _Asked) -> Penalty:
    name, coefficient = asked.number("penalty")
    batch, dim = asked.size("batch", asked.batch), asked.size("dim", asked.dim)
    return Penalty(
        coefficient * batch * dim / 2,
        f"{name} {coefficient:g} of overcomplete's mse_l1 times half of batch {batch} times d = {dim}",
    )


def _as_it_is(name: str, *positive: str) -> Callable[[_Asked], Penalty]:
    def rule(asked: _Asked) -> Penalty:
        for key in positive:
            if asked.config.get(key) is False:
                raise InputError(
                    f"config has {key} = False: its codes have signs, and those of (P) are never negative."
                )
        found, coefficient = asked.number(name)
        return Penalty(coefficient, f"{asked.library}'s {found} {coefficient:g} as it is")

    return rule


def _refused(why: str) -> Callable[[_Asked], Penalty]:
    def rule(asked: _Asked) -> Penalty:
        raise InputError(f"config of {asked.library} tells no λ: {why}; {OTHERWISE}.")

    return rule


_RULES: Mapping[str, Callable[[_Asked], Penalty]] = {
    "saelens": _saelens,
    "dictionary-learning": _dictionary_learning,
    "1l-sparse-autoencoder": _one_layer,
    "batchtopk": _batchtopk,
    "sparse-coding": _mean_over_dimensions("l1_alpha"),
    "overcomplete": _overcomplete,
    "sklearn": _as_it_is("alpha", "positive_code", "positive"),
    "spams": _as_it_is("lambda1", "posAlpha", "pos"),
    "openai": _refused("errors and codes are divided by the norm of each datapoint"),
    "sparsify": _refused("sparsify trains TopK SAEs without an L1 penalty"),
}
"""By library, how its coefficient becomes λ."""
