"""The self-test names what was done to an SAE that works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cvxsae import SparseAutoencoder
from cvxsae.data.activations import Activations
from cvxsae.sae import LayerNorm, TopK
from cvxsae.sae.audits.audit import _notes as notes_on
from tests.helpers.sentences import rejects

RNG = np.random.default_rng(0)
D, N = 8, 600
B = RNG.normal(size=D) * 2
ATOMS = np.linalg.qr(RNG.normal(size=(D, D)))[0]


def data(scale: float = 1.0) -> np.ndarray:
    codes = RNG.exponential(size=(N, D)) * (RNG.random((N, D)) < 0.3)
    return scale * (codes @ ATOMS + B)


def working(**changes: Any) -> SparseAutoencoder:
    """An SAE of orthonormal atoms that reconstructs :func:`data`, with something changed."""
    arrays: dict[str, Any] = {
        "W_enc": ATOMS.T.copy(),
        "b_enc": np.full(D, -0.02),
        "W_dec": ATOMS.copy(),
        "b_dec": B.copy(),
    }
    return replace(SparseAutoencoder(**arrays), **changes)


def test_what_works_passes_without_trials():
    found = working().self_test(data())
    assert found.passed
    assert found.trials == ()
    assert found.as_it_is.fvu < 0.01
    assert 0 < found.as_it_is.l0 < D
    assert found.n_points == 512
    assert "reconstructs these data (FVU" in str(found)


ROOT = np.sqrt(D)
CAUSES: dict[str, tuple[SparseAutoencoder, np.ndarray, str]] = {
    "subtracted and folded into b_enc": (working(b_enc=-0.02 - 1 * (B @ ATOMS.T)), data(), "b_dec is applied twice"),
    "not subtracted": (working(subtract_bias=False), data(), "b_dec is not subtracted"),
    "centered data": (working(), data() - B, "has been subtracted from these data already"),
    "decoder": (working(W_dec=ATOMS.T.copy()), data(), "the decoder is transposed"),
    "encoder": (working(W_enc=ATOMS.copy()), data(), "the encoder is transposed"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_named(name: str):
    sae, X, words = CAUSES[name]
    found = sae.self_test(X)
    assert not found.passed
    assert found.cause is not None
    assert words in found.cause.change
    assert found.cause.fvu < 0.1
    assert found.cause in found.trials
    assert f"the likely cause: {found.cause.change}" in str(found)


@pytest.mark.parametrize("unit", [0.01, 1.0])
def test_a_missing_scale_is_named(unit: float):
    X = data(unit)
    norms = np.linalg.norm(X, axis=1)
    small = [(ROOT / norms.mean(), "mean norm √d"), (1 / np.sqrt((norms**2).mean()), "mean squared norm 1")]
    for scale, words in small if unit < 1 else [(ROOT, "multiplied by √d")]:
        factor = unit * scale  # of the data that it works for
        sae = working(W_dec=factor * ATOMS, W_enc=ATOMS.T / factor, b_dec=factor * B)
        assert sae.self_test(scale * X).passed
        found = sae.self_test(X)
        assert found.cause is not None
        assert words in found.cause.change
        assert found.cause.fvu < 0.01


@pytest.mark.slow
def test_a_missing_normalization_and_two_causes_at_once_are_named():
    X = data() * RNG.uniform(0.2, 40, (N, 1))
    behind = LayerNorm()
    normal = SparseAutoencoder.normalized(working(normalization=behind), X).to_numpy()
    mean = normal.mean(axis=0)
    sae = working(
        W_dec=np.vstack([np.eye(D), -np.eye(D)]),
        W_enc=np.hstack([np.eye(D), -np.eye(D)]),
        b_dec=mean,
        b_enc=np.full(2 * D, -0.01),
    )
    assert replace(sae, normalization=behind).self_test(X).passed
    two = working(W_dec=ATOMS.T.copy(), subtract_bias=False).self_test(data())
    assert two.cause is not None
    assert " and " in two.cause.change
    assert "transposed" in two.cause.change


@pytest.mark.slow
def test_where_nothing_explains_it_none_is_named():
    other = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    wide: dict[str, Any] = {"W_enc": np.hstack([ATOMS.T, -ATOMS.T]), "W_dec": 5 * np.vstack([other, -other])}
    found = working(**wide, b_enc=np.zeros(2 * D), b_dec=RNG.normal(size=D) * 9).self_test(data())
    assert found.cause is None
    assert len(found.trials) == 3 * 7 - 1
    assert "no usual cause" in str(found)
    dead = working(b_enc=np.full(D, -1e6)).self_test(data())
    assert (dead.passed, dead.cause, dead.as_it_is.l0) == (False, None, 0)


def test_single_datapoints_have_no_variance_and_only_their_codes_are_judged():
    X = (ATOMS[0] + B)[None]
    assert working().self_test(X).passed
    assert np.isnan(working().self_test(X).as_it_is.fvu)
    assert not working(b_enc=np.full(D, -1e6)).self_test(X).passed
    with rejects(r"X has 5 columns, but the SAE reads"):
        working().self_test(np.ones((3, 5)))


def notes_of(sae, X):
    return notes_on(sae, sae.self_test(X))


def test_an_audit_notes_it_first():
    X = Activations(data())
    failed = notes_of(working(W_dec=ATOMS.T.copy(), activation=TopK(3)), X)
    assert "the likely cause: the decoder is transposed" in failed[0]
    assert "another objective" in failed[1]
    assert notes_of(working(), X) == ()


def test_data_that_do_not_vary_tell_nothing():
    found = working().self_test((B + ATOMS[0])[None])
    assert found.passed
    assert np.isnan(found.as_it_is.fvu)
    assert "cannot be told, since they do not vary" in str(found)
