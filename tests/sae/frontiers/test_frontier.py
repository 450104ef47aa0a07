"""The frontier of an SAE: each curve against codes computed apart, and what it says of the encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cvxsae import SparseAutoencoder, encode, lambda_for_l0
from cvxsae.sae import LayerNorm, ReLU, TopK, frontier, lambda_matching_l0
from cvxsae.solvers import k_sparse_codes
from tests.helpers.problems import unit
from tests.helpers.sentences import rejects

RNG = np.random.default_rng(0)
N, D, K, LAM = 80, 6, 12, 0.3
ATOMS = unit(RNG.normal(size=(K, D)))
X = np.maximum(RNG.normal(size=(N, K)) - 0.8, 0) @ ATOMS + 0.05 * RNG.normal(size=(N, D))
SAE = SparseAutoencoder(
    W_enc=ATOMS.T, b_enc=np.full(K, -0.1), W_dec=2 * ATOMS, b_dec=X.mean(axis=0) / 2, activation=TopK(3)
)


def fvu(codes: Any, sae: SparseAutoencoder = SAE) -> float:
    R = codes @ sae.dictionary + sae.b_dec
    return float(np.sum((X - R) ** 2) / np.sum((X - X.mean(axis=0)) ** 2))


@pytest.mark.slow
def test_every_curve_is_what_its_codes_are_worth():
    found = frontier(X, SAE, lams=[0.2, 0.4], ks=[2, 3], learned=(ATOMS[:5], np.zeros(D)))
    (encoder,) = found.curve("encoder")
    assert (encoder.k, encoder.lam, encoder.gap) == (3, None, None)
    np.testing.assert_allclose(encoder.fvu, fvu(SAE.encode(X)))
    np.testing.assert_allclose(encoder.l0, SAE.encode(X).nnz / N)
    for exact, refitted in zip(found.curve("exact"), found.curve("exact, refitted"), strict=True):
        codes = encode(X, ATOMS, exact.lam, bias=SAE.b_dec, tol=1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose([exact.fvu, exact.value], [fvu(codes.codes), codes.value], rtol=1e-4)
        np.testing.assert_allclose(refitted.fvu, fvu(codes.refit().codes), rtol=1e-4)
        assert exact.gap is not None and exact.gap < 1e-6 and refitted.gap is None
        assert exact.fvu_low < exact.fvu < exact.fvu_high
    by_k = {point.k: point for point in found.curve("k-sparse")}
    start = SAE.encode(X)
    sparse = k_sparse_codes(X, ATOMS, 2, bias=SAE.b_dec, start=start)
    np.testing.assert_allclose([by_k[2].fvu, by_k[2].value], [fvu(sparse.codes), sparse.value], rtol=1e-9)
    assert by_k[3].fvu <= encoder.fvu
    assert [point.lam for point in found.curve("learned")] == [0.4, 0.2]
    table = found.table()
    assert list(table.columns) == ["curve", "lam", "k", "l0", "fvu", "fvu_low", "fvu_high", "value", "gap"]
    assert len(table) == len(found.points)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["points"][0]["curve"] == "encoder"
    assert "less squared error" in str(found) and "k-sparse" in repr(found)
    assert "Codes of at most k atoms are the best found, not proved to be the best" in str(found)


def test_what_k_sparse_codes_gain_bounds_what_the_encoder_lacks():
    """Least suboptimality against the best of all supports: never above what is really lacking."""
    from itertools import combinations

    import scipy.optimize

    found = frontier(X[:20], SAE, lams=[0.3], ks=[1])
    own = SAE.encode(X[:20])
    least, truth = found.least_suboptimality, []
    for row, x in enumerate(X[:20] - SAE.b_dec):
        most = int(np.diff(own.indptr)[row])
        errors = [np.sum(x**2)]
        for some in combinations(range(K), most):
            if some:
                result: Any = scipy.optimize.nnls(ATOMS[list(some)].T, x)
                errors.append(result[1] ** 2)
        truth.append(min(errors))
    error = np.sum((X[:20] - own @ ATOMS - SAE.b_dec) ** 2)
    assert least is not None and 0 < least <= 1 - sum(truth) / error + 1e-9


@pytest.mark.slow
def test_by_default_the_path_goes_through_the_lambda_of_the_same_l0():
    found = frontier(X, SAE, ks=[2], max_points=60, seed=1)
    assert found.n_points == 60 and found.lam.source == "match-l0" and found.lam.lam is not None
    exact = found.curve("exact")
    assert len(exact) == 9 and any(point.lam == found.lam.lam for point in exact)
    assert exact[0].l0 < found.curve("encoder")[0].l0 < exact[-1].l0


def test_normalized_data_are_coded_where_the_sae_codes_them():
    sae = replace(SAE, normalization=LayerNorm())
    found = frontier(X, sae, lams=[0.2], ks=[2])
    inner = sae.normalized(X).to_numpy()
    np.testing.assert_allclose(
        found.curve("exact")[0].value, encode(inner, ATOMS, 0.2, bias=SAE.b_dec).value, rtol=1e-3
    )
    expected = np.sum((X - sae.reconstruct(X)) ** 2) / np.sum((X - X.mean(axis=0)) ** 2)
    np.testing.assert_allclose(found.curve("encoder")[0].fvu, expected)
    assert any("normalized" in note for note in found.notes)


@pytest.mark.slow
def test_dead_atoms_are_left_out_and_the_figure_has_a_line_a_curve():
    decoder = SAE.W_dec.copy()
    decoder[3] = 0
    found = frontier(X, replace(SAE, W_dec=decoder), lams=[0.2], ks=[1, 2])
    assert found.n_atoms == K
    axes = found.figure().axes[0]
    assert [str(line.get_label()).split(":")[0] for line in axes.lines] == [
        "encoder",
        "exact",
        "exact, refitted",
        "k-sparse",
    ]
    with rejects("W_dec has only rows of norm 0"):
        frontier(X, replace(SAE, W_dec=0 * decoder))


@pytest.mark.slow
def test_a_dictionary_is_learned_where_it_is_asked_for():
    found = frontier(X, SAE, lams=[0.3], ks=[2], learned=True)
    (learned,), (exact,) = found.curve("learned"), found.curve("exact")
    assert learned.value < exact.value
    assert any(note.startswith("A dictionary was learned at λ") for note in found.notes)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cvxsae.parallel.context.SHORTEST", 100.0)  # a part of no time is no time, however fast it is
    found = frontier(X, SAE, ks=[2], max_seconds=1e-9, learned=True)
    assert [point.curve for point in found.points] == ["encoder"]
    assert found.least_suboptimality is None
    assert sum("out of time" in note for note in found.notes) == 3 + 1
    found.table(), found.figure()


def test_the_lambda_of_the_same_l0_says_where_it_came_from():
    found: Any = lambda_matching_l0(X, SAE)
    target = SAE.encode(X).nnz / N
    assert found.lam is not None and found.is_matched and abs(found.l0 - target) <= 0.02 * target
    np.testing.assert_allclose(found.lam, lambda_for_l0(X, ATOMS, target, bias=SAE.b_dec))
    assert "have the SAE's L0 there" in found.sentence and f"{target:.4g}" in found.sentence
    codes = encode(X, ATOMS, found.lam, bias=SAE.b_dec, tol=1e-9)
    np.testing.assert_allclose(codes.l0, found.l0, rtol=1e-2)
    np.testing.assert_allclose(found.lambda_max, codes.lambda_max)


@pytest.mark.slow
def test_where_no_lambda_has_the_l0_it_says_so():
    dense = replace(SAE, activation=TopK(K), b_enc=np.full(K, 5.0))  # all features of every row: more than d
    found = lambda_matching_l0(X, dense)
    assert found.lam is None and not found.is_matched
    assert found.sentence.startswith("No λ matches the SAE's L0: l0 is 12 active atoms but")
    silent = replace(SAE, b_enc=np.full(K, -1e3))
    assert "it is 0 on the 80 rows" in lambda_matching_l0(X, silent).sentence
    jumps = lambda_matching_l0(X[:1], SAE, rtol=0)  # of one row L0 is whole
    assert jumps.lam is not None and jumps.n_points == 1
    late = lambda_matching_l0(X, SAE, max_seconds=1e-9)
    assert late.lam is None and "before time ran out" in late.sentence


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lams": [0.0]}, "lams is 0; it must be above zero"),
        ({"lams": []}, "lams is empty; pass at least one"),
        ({"ks": [0]}, "ks is 0; it must be a whole number of at least 1"),
        ({"learned": ATOMS[:, :2]}, r"learned has shape \(12, 2\) but the data has dimension 6"),
        ({"max_points": 0}, "max_points is 0"),
        ({"tol": 2}, "tol is 2; it is a relative gap"),
        ({"folder": "x"}, "'folder' is not an option here"),
    ],
)
def test_bad_arguments_are_one_sentence(options: dict[str, Any], message: str):
    with rejects(message):
        frontier(X, SAE, **options)


def test_codes_with_more_atoms_than_the_encoder_has_on_some_row_say_nothing_of_it():
    """A TopK encoder may have fewer than k active atoms on a row: then codes of k atoms on every row are no match."""
    few = replace(SAE, b_enc=np.full(K, -0.4), activation=TopK(4))
    counts = np.diff(few.encode(X).indptr)
    assert counts.min() < counts.max() <= 4
    found = frontier(X, few, lams=[0.3], ks=[4])
    each, four = (next(point for point in found.curve("k-sparse") if point.k == k) for k in (None, 4))
    (encoder,) = found.curve("encoder")
    assert four.value < each.value
    assert found.least_suboptimality == pytest.approx(1 - each.value / encoder.value)


def test_an_encoder_of_another_architecture_that_is_as_sparse_everywhere_is_compared_too():
    one = frontier(X[:1], replace(SAE, activation=ReLU()), lams=[0.3], ks=[1])
    (encoder,), sparse = one.curve("encoder"), one.curve("k-sparse")
    (same,) = (point for point in sparse if point.k == encoder.l0)
    assert encoder.k is None
    assert one.least_suboptimality == pytest.approx(1 - same.value / encoder.value)
