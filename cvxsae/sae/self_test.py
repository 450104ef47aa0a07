"""Whether an SAE reconstructs the data it is given at all, and if not, which of the usual mistakes explains it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.sae.normalization import LayerNorm, TokenNorm, as_it_is

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.sae.autoencoder import SparseAutoencoder

ROWS = 512
"""Datapoints it is tried on, evenly spaced: enough to tell an FVU above 1 from one below, and quick at any width."""

CONVINCING = 0.9
"""An alternative explains a failure if its FVU is below this; a change that means nothing leaves it at 1 or above."""


@dataclass(frozen=True)
class Trial:
    """How well an SAE reconstructs the data, as it is or with one thing changed.

    Attributes
    ----------
    change
        What is changed, in words; empty for the SAE as it is.
    fvu
        ``Σ‖x − x̂‖² / Σ‖x − mean x‖²`` on the rows tried; NaN if they do not vary.
    l0
        Active codes per datapoint.
    n_atoms
        K.
    """

    change: str
    fvu: float
    l0: float
    n_atoms: int

    @property
    def is_sane(self) -> bool:
        """Whether it is better than the mean of the data, and some codes are active but not all."""
        return not self.fvu > 1 and 0 < self.l0 < self.n_atoms


@dataclass(frozen=True)
class SelfTest:
    """The result of :meth:`SparseAutoencoder.self_test`; it is about the rows tried, and is not a proof.

    Attributes
    ----------
    as_it_is
        The SAE itself.
    cause
        The change that explains a failure, if one was found: what is likely wrong.
    trials
        Everything that was tried after a failure.
    n_points
        Rows tried.
    """

    as_it_is: Trial
    cause: Trial | None
    trials: tuple[Trial, ...]
    n_points: int

    @property
    def passed(self) -> bool:
        """Whether the SAE reconstructs these data better than their mean, with some active codes and not all."""
        return self.as_it_is.is_sane

    def __str__(self) -> str:
        found = self.as_it_is
        numbers = f"FVU {found.fvu:.3g}, L0 {found.l0:.4g} of {found.n_atoms}, on {self.n_points} datapoints"
        if self.passed and np.isnan(found.fvu):
            return f"whether the SAE reconstructs these data cannot be told, since they do not vary ({numbers})"
        if self.passed:
            return f"the SAE reconstructs these data ({numbers})"
        if self.cause is None:
            return (
                f"the SAE does not reconstruct these data ({numbers}), and no usual cause explains it: are they the "
                "activations that it was trained on?"
            )
        cause = self.cause
        return (
            f"the SAE does not reconstruct these data ({numbers}); the likely cause: {cause.change} "
            f"(with that changed, FVU {cause.fvu:.3g}, L0 {cause.l0:.4g})"
        )


def self_test(sae: SparseAutoencoder, X: ActivationsLike) -> SelfTest:
    """:meth:`SparseAutoencoder.self_test`, which says what it does."""
    data = Activations(X)
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), ROWS)).astype(np.int64))
    x = data[rows].to_numpy().astype(np.float64)
    own = _tried(sae, "", x)
    if own.is_sane:
        return SelfTest(own, None, (), len(x))
    trials: list[Trial] = []
    for several in (False, True):
        trials += [_tried(changed, words, x) for words, changed in _changes(sae, x, several=several)]
        convincing = [trial for trial in trials if trial.is_sane and not trial.fvu >= CONVINCING]
        if convincing:
            return SelfTest(
                own, min(convincing, key=lambda trial: (not trial.fvu >= 0, trial.fvu)), tuple(trials), len(x)
            )
    return SelfTest(own, None, tuple(trials), len(x))


def _tried(sae: SparseAutoencoder, change: str, x: np.ndarray) -> Trial:
    rows = torch.from_numpy(x)
    seen, undo = (rows, as_it_is) if sae.normalization is None else sae.normalization.forward(rows)
    codes = replace(sae, normalization=None).encode(seen.numpy(), unit_norm=False)
    error = float(((x - undo(torch.from_numpy(codes @ sae.W_dec + sae.b_dec)).numpy()) ** 2).sum())
    variance = float(((x - x.mean(axis=0)) ** 2).sum())
    return Trial(change, error / variance if variance > 0 else float("nan"), codes.nnz / len(x), sae.n_atoms)


def _changes(sae: SparseAutoencoder, x: np.ndarray, *, several: bool) -> Iterator[tuple[str, SparseAutoencoder]]:
    """The SAE with one of the usual mistakes undone, or with several."""
    for biases, turns, scales in product(_biases(sae), _turns(sae), _scales(sae, x)):
        words = [change[0] for change in (biases, turns, scales) if change[0]]
        if (len(words) > 1) == several and words:
            changed = sae
            for _, arguments in (turns, biases, scales):
                changed = replace(changed, **{name: make(changed) for name, make in arguments.items()})
            yield " and ".join(words), changed


def _nothing() -> tuple[str, dict]:
    return "", {}


def _biases(sae: SparseAutoencoder) -> Iterator[tuple[str, dict]]:
    yield _nothing()
    if not sae.b_dec.any():
        return
    if sae.subtract_bias:
        yield (
            "b_dec is applied twice (it is subtracted at the input, which this encoder does not expect)",
            {"subtract_bias": lambda _: False},
        )
    else:
        yield "b_dec is not subtracted at the input, which this encoder expects", {"subtract_bias": lambda _: True}
    yield (
        "b_dec is applied twice (it has been subtracted from these data already)",
        {"subtract_bias": lambda _: False, "b_dec": lambda one: np.zeros_like(one.b_dec)},
    )


def _turns(sae: SparseAutoencoder) -> Iterator[tuple[str, dict]]:
    yield _nothing()
    if sae.n_atoms != sae.dim:
        return
    turned = {name: (lambda one, name=name: np.ascontiguousarray(getattr(one, name).T)) for name in ("W_enc", "W_dec")}
    yield "the decoder is transposed (its columns are atoms)", {"W_dec": turned["W_dec"]}
    yield "the encoder is transposed", {"W_enc": turned["W_enc"]}
    yield "encoder and decoder are transposed", turned


def _scales(sae: SparseAutoencoder, x: np.ndarray) -> Iterator[tuple[str, dict]]:
    yield _nothing()
    if sae.normalization is not None:
        return
    norms = np.linalg.norm(x, axis=1)
    if not norms.any():
        return
    root = float(np.sqrt(sae.dim))
    for words, scale in (
        ("data must be scaled to mean norm √d first, as SAELens trains", root / float(norms.mean())),
        (
            "data must be scaled to mean squared norm 1 first, as dictionary_learning trains",
            1 / float(np.sqrt((norms**2).mean())),
        ),
        ("data must be multiplied by √d first", root),
        ("data must be divided by √d first", 1 / root),
    ):
        yield (
            f"a scale is missing: {words}",
            {
                "W_enc": lambda one, scale=scale: one.W_enc * scale,
                "W_dec": lambda one, scale=scale: one.W_dec / scale,
                "b_dec": lambda one, scale=scale: one.b_dec / scale,
            },
        )
    for normalization in (LayerNorm(), TokenNorm()):
        if sae.dim > 1:
            yield (
                f"a normalization is missing ({normalization.name})",
                {"normalization": lambda _, normalization=normalization: normalization},
            )
