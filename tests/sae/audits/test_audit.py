"""The audit around its ledger: any architecture, normalized data, λ and its source, parts, time, progress."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cvxsae
from cvxsae import InputError, SparseAutoencoder, encode
from cvxsae.data.synthetic import sparse_features
from cvxsae.sae import Audit, Gated, JumpReLU, LayerNorm, ReLU, TanhReLU, TopK
from tests.helpers.problems import primal, unit

LAM, K, D = 0.2, 6, 5
QUICK = {"stationarity": 1e-2}

audit: Any = cvxsae.audit


def data(n=60):
    return sparse_features(n, D, 6, seed=5, probability=0.3, bias_norm=0.5, noise=0.02).X


def autoencoder(rng, **more) -> SparseAutoencoder:
    atoms = unit(rng.normal(size=(K, D)))
    W = {"W_enc": (atoms.T + 0.1 * rng.normal(size=(D, K))) / 2, "b_enc": np.full(K, -LAM / 2), "W_dec": 2 * atoms}
    return replace(SparseAutoencoder.from_arrays({**W, "b_dec": 0.1 * rng.normal(size=D)}, lam=LAM), **more)


def by_hand(sae: SparseAutoencoder, X: np.ndarray) -> np.ndarray:
    """Codes for unit-norm atoms, in plain numpy."""
    pre = (X - sae.b_dec) @ sae.W_enc + sae.b_enc
    kind = sae.activation
    codes = {
        "relu": lambda: np.maximum(pre, 0),
        "tanh-relu": lambda: np.tanh(np.maximum(pre, 0)),
        "topk": lambda: np.where(pre >= np.sort(pre, axis=1)[:, [-2]], np.maximum(pre, 0), 0),
        "jumprelu": lambda: np.where(pre > 0.3, pre, 0),
        "gated": lambda: np.where(pre + 0.1 > 0, np.maximum(np.exp(0.2) * pre - 0.05, 0), 0),
    }[kind.name]()
    return codes * np.linalg.norm(sae.W_dec, axis=1)


KINDS = {
    "relu": ReLU(),
    "tanh-relu": TanhReLU(),
    "topk": TopK(2),
    "jumprelu": JumpReLU(np.full(K, 0.3)),
    "gated": Gated(np.full(K, 0.1), np.full(K, 0.2), np.full(K, -0.05)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_encoders_codes_whatever_the_encoder(rng, kind):
    X, sae = data(), autoencoder(rng, activation=KINDS[kind])
    found = audit(X, sae, frontier=False, **QUICK)
    atoms = sae.W_dec / np.linalg.norm(sae.W_dec, axis=1, keepdims=True)
    X = X[found.accounts.numbers]  # the held-out rows
    assert len(X) == 15
    assert found.ledger.loss == pytest.approx(primal(X, sae.b_dec, atoms, by_hand(sae, X), LAM), rel=1e-10)
    assert found.ledger.l0 == pytest.approx((by_hand(sae, X) > 0).sum(axis=1).mean())
    says_so = any("another objective" in note for note in found.ledger.notes)
    assert says_so == (kind in ("topk", "jumprelu"))
    assert isinstance(found, Audit)
    assert any(sentence.startswith("Change") or "change" in sentence for sentence in found.sentences)
    assert "loss ledger" in str(found)


@pytest.mark.slow
def test_the_ledger_of_an_sae_that_normalizes_is_about_normalized_data(rng):
    X, sae = 3 * data(), autoencoder(rng, normalization=LayerNorm())
    found = audit(X, sae, held_out=None, **QUICK)
    normalized = (X - X.mean(axis=1, keepdims=True)) / (X.std(axis=1, ddof=1, keepdims=True) + 1e-5)
    plain = audit(normalized, replace(sae, normalization=None), held_out=None, **QUICK)
    for level in ("loss", "exact", "wide"):
        assert getattr(found.ledger, level) == pytest.approx(getattr(plain.ledger, level), rel=1e-6), level
    exact = encode(normalized, sae.dictionary, LAM, bias=sae.b_dec, tol=1e-9)
    assert found.ledger.exact == pytest.approx(exact.value, rel=1e-2)
    assert any("normalized" in note for note in found.ledger.notes)
    assert not plain.ledger.notes
    assert "note: activations are normalized" in str(found)


@pytest.mark.slow
def test_lambda_and_where_it_came_from(rng):
    X, sae = data(), autoencoder(rng)
    own = audit(X, replace(sae, lam_source="half the l1_coefficient of a config"), **QUICK).ledger
    assert own.lam == LAM
    assert "half the l1_coefficient" in own.lam_source
    given = audit(X, sae, lam=0.3, **QUICK).ledger
    assert (given.lam, given.lam_source) == (0.3, "given")
    matched = audit(X, sae, lam="match-l0", **QUICK).sample  # on the rows that were learned on
    assert matched.exact_l0 == pytest.approx(matched.l0, rel=0.05)
    assert "L0" in matched.lam_source
    assert f"lambda {matched.lam:.6g} ({matched.lam_source})" in str(matched)
    unknown = audit(X, replace(sae, lam=None), **QUICK).sample
    assert unknown.lam == matched.lam
    with pytest.raises(InputError, match="lam is 'match'; choose one of match-l0"):
        audit(X, sae, lam="match")


@pytest.mark.slow
def test_parts_are_there_where_they_were_asked_for(rng):
    X, sae = data(), autoencoder(rng)
    plain = audit(X, sae, **QUICK)
    assert (plain.metrics, plain.frontier, plain.diagnostics, plain.missing) == (None, None, None, ())
    full = audit(X, sae, metrics=True, frontier=True, diagnostics=True, **QUICK)
    assert full.metrics is not None
    assert full.frontier is not None
    assert {"encoder", "exact", "k-sparse", "learned"} <= {point.curve for point in full.frontier.points}
    assert full.diagnostics is not None
    assert full.diagnostics.value == pytest.approx(full.ledger.exact, rel=1e-2)
    report = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert {"metrics", "frontier", "worst_features", "absorbed"} <= set(report["tables"])
    assert not {"metrics", "frontier", "worst_features"} & set(plain.to_dict()["tables"])
    assert {"wide limit", "width floor", "exact codes", "a better dictionary", "metrics", "frontier"} <= set(
        full.seconds
    )


@pytest.mark.slow
def test_an_sae_of_another_objective_is_judged_by_its_frontier(rng):
    found = audit(data(), autoencoder(rng, activation=TopK(2)), **QUICK)
    assert found.frontier is not None
    (encoder,) = found.frontier.curve("encoder")
    best = next(point for point in found.frontier.curve("k-sparse") if point.k is None)  # on every row as many
    short = 1 - best.value / encoder.value
    assert short > 0.01
    assert found.sentences[0].startswith("Change the encoder first: codes of its own dictionary were found")
    assert f"{short:.1%} less squared error" in found.sentences[0]
    assert found.sentences[1].startswith("By the ledger, which charges its codes by (P): change ")


@pytest.mark.slow
def test_an_sae_that_does_not_reconstruct_says_so_first(rng):
    sae = autoencoder(rng)
    lost = audit(data(), replace(sae, b_enc=sae.b_enc - 1e3), **QUICK)
    assert not lost.self_test.passed
    assert lost.sentences[0].startswith("The SAE does not reconstruct these data (FVU")
    assert lost.sentences[1].startswith("Change the ")
    assert not lost.to_dict()["self_test"]["passed"]


@pytest.mark.slow
def test_what_time_did_not_reach_is_said_to_be_missing(rng):
    found = audit(data(), autoencoder(rng), metrics=True, diagnostics=True, held_out=None, max_seconds=1e-3)
    late = ["a better dictionary", "width floor", "metrics", "diagnostics"]
    assert list(found.missing) == found.to_dict()["missing"] == late
    assert found.sentences[-1] == f"max_seconds left no time for some of it; missing: {', '.join(late)}."
    ends = ("what to change first is open", "No better dictionary")  # by whether codes were done in time
    assert any(end in sentence for sentence in found.sentences for end in ends)
    assert found.ledger.floor_theorem == "T9"
    assert found.ledger.exact <= found.ledger.loss
    apart = audit(data(), autoencoder(rng), max_seconds=1e-3)
    assert apart.missing == ("a better dictionary", "width floor", "width floor of the rows learned on")
    assert apart.ledger.exact <= apart.ledger.loss
    assert apart.ledger.dictionary_gap == apart.ledger.memorization == 0


@pytest.mark.slow
def test_every_stage_is_shown_by_its_name(rng, capsys):
    audit(data(), autoencoder(rng), lam="match-l0", diagnostics=True, progress=True, **QUICK)
    said = capsys.readouterr().err
    for stage in ("self-test", "matching L0", "wide limit", "width floor", "the encoder's codes", "exact codes",
                  "a better dictionary", "referee", "diagnostics"):  # fmt: skip
        assert f"audit: {stage}" in said, stage
    audit(data(), autoencoder(rng), **QUICK)
    assert capsys.readouterr().err == ""


def test_bad_input_is_refused_before_any_work(rng, monkeypatch):
    def work(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr("cvxsae.sae.audits.audit.solved_wide_limit", work)
    for options, sentence in (
        ({"frontier": 3}, "frontier is 3"),
        ({"metrics": "yes"}, "metrics is 'yes'"),
        ({"report": "report.txt"}, "type '.txt'"),
        ({"lam": "all"}, "choose one of match-l0"),
        ({"diagnose": True}, "'diagnose' is not an option"),
    ):
        with pytest.raises(InputError, match=sentence):
            audit(data(), autoencoder(rng), **options)
