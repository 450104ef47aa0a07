"""Two dictionaries of which it is known what they are to each other."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cvxsae import SparseAutoencoder, encode, learn_dictionary, match
from cvxsae.data import sparse_features
from cvxsae.diagnostics.matching.between import _estimate
from cvxsae.diagnostics.matching.way import Aligned, GreatCircles
from cvxsae.sae.normalization import LayerNorm
from tests.helpers.interrupts import interrupt_codes
from tests.helpers.sentences import rejects

LAM = 0.1


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ring(count, turn):
    angles = turn + np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def interval(sample):
    return stats.t.interval(0.95, len(sample) - 1, loc=sample.mean(), scale=stats.sem(sample))


THREE = np.vstack([np.eye(3)] * 4)
"""Three orthogonal features, each alone."""


def test_a_permuted_copy_is_the_same(rng):
    X, D = rng.normal(size=(30, 6)), rng.normal(size=(9, 6))
    order = rng.permutation(9)
    found = match(D, 3.0 * D[order], X, LAM)
    assert found.mean_cosine == pytest.approx(1)
    assert found.mean_nearest == pytest.approx((1, 1))
    np.testing.assert_array_equal(found.pairs[:, 0], np.arange(9))
    np.testing.assert_array_equal(order[found.pairs[:, 1]], np.arange(9))
    assert found.A.counts == found.B.counts == {"shared": 9, "split": 0, "merged": 0, "new": 0}
    assert found.between is not None
    assert found.between.verdict == "same"
    assert found.between.rows.low <= 0 <= found.between.rows.high
    assert found.between.way.change[1] <= 1e-5 * found.between.rows.value_a
    assert "the same point" in str(found)


def test_a_turned_ring_is_a_flat_direction():
    """Points all around a circle: turning all atoms together changes nothing (but by what the points are discrete)."""
    found = match(ring(5, 0.0), ring(5, 0.3), ring(720, 0.0), LAM, tol=1e-9)
    assert found.between is not None
    assert found.between.verdict == "flat"
    assert found.mean_cosine == pytest.approx(math.cos(0.3))
    assert found.between.way.largest_angle == pytest.approx(0.3)
    for bend in (found.between.way.curvature_a, found.between.way.curvature_b):
        assert bend is not None
        assert abs(bend) < 0.1
    assert found.between.way.change[1] < 1e-5 * found.between.way.move
    assert "flat direction" in str(found)


def test_one_atom_turned_alone_is_no_flat_direction():
    turned = ring(5, 0.0)
    turned[0] = ring(5, 0.3)[0]
    found = match(ring(5, 0.0), turned, ring(720, 0.0), LAM)
    assert found.between is not None
    assert found.between.verdict == "basin"
    assert found.between.rows.high < 0
    assert "so B is no optimum of this width" in str(found)


def test_two_optima_with_a_barrier():
    """Two atoms for three features of equal strength: which is left out makes different optima of the same value."""
    found = match(np.eye(3)[:2], np.eye(3)[[2, 0]], THREE, LAM)
    assert found.between is not None
    assert found.between.verdict == "different"
    way = found.between.way
    middle = unit(np.array([[1.0, 0, 0], [0, 1.0, 1.0]]))
    expected = encode(THREE, middle, LAM, tol=1e-9).value
    step = min(way.steps, key=lambda one: abs(one.share - 0.5))
    assert step.share == 0.5
    assert step.value == pytest.approx(expected, rel=1e-6)
    rise = expected - encode(THREE, np.eye(3)[:2], LAM, tol=1e-9).value
    assert way.barrier[0] == pytest.approx(rise, rel=1e-4)
    assert way.move == pytest.approx(0.5 * LAM * 0.5 * (np.pi / 2) ** 2 * 0.9 * 2 / 3)
    assert way.curvature_a == pytest.approx(way.curvature_b)
    assert found.between.rows.low <= 0 <= found.between.rows.high
    assert found.A.counts == {"shared": 1, "split": 0, "merged": 0, "new": 1}
    assert "different optima" in str(found)


def test_the_curvature_is_the_second_difference_of_f(rng):
    X, D = rng.normal(size=(12, 4)), unit(rng.normal(size=(5, 4)))
    other = unit(D + 0.05 * rng.normal(size=D.shape))
    b = 0.05 * rng.normal(size=4)
    found = match((D, np.zeros(4)), (other, b), X, 0.3, points=1)
    assert found.between is not None
    circles, h = GreatCircles(D, other), 1e-4

    def value(share):
        return encode(X, circles.at(share), 0.3, bias=share * b, tol=1e-13).value

    bent = (value(h) - 2 * value(0.0) + value(-h)) / h**2
    mass = np.asarray(encode(X, D, 0.3, tol=1e-13).codes.mean(axis=0)).ravel()
    size = 0.3 * mass @ circles.angles**2 + b @ b
    assert found.between.way.curvature_a == pytest.approx(bent / size, rel=1e-3)


def test_a_split_atom_and_a_wider_dictionary():
    """One atom for a pair of children at 60 degrees; the wider dictionary has both and is reached without a barrier."""
    children = np.array([[math.cos(0.5), math.sin(0.5), 0.0], [math.cos(0.5), -math.sin(0.5), 0.0]])
    X = np.vstack([children, children, np.eye(3)[2:]])
    parent, both = np.eye(3)[[0, 2]], np.vstack([children[1:], np.eye(3)[2:], children[:1]])
    found = match(parent, both, X, LAM)
    assert found.A.kinds.tolist() == ["split", "shared"]
    assert found.B.kinds.tolist() == ["merged", "shared", "merged"]
    assert found.A.children == {0: (0, 2)}
    table = found.table()
    assert table.index.name == "feature"
    assert table.loc[0, "kind"] == "split"
    assert table.loc[0, "children"] == (0, 2)
    assert found.table("B")["partner"].isna().sum() == 1
    assert found.between is not None
    assert found.between.verdict == "basin"
    assert found.between.rows.low > 0
    assert "no optimum of this width" not in str(found)  # A is one of its own width
    assert found.between.way.curvature_a is None  # it starts as two copies
    back = match(both, parent, X, LAM)
    assert back.A.kinds.tolist() == ["merged", "shared", "merged"]
    assert back.between is not None
    ours, theirs = found.between.way.steps, back.between.way.steps
    assert [step.value for step in ours] == pytest.approx([step.value for step in theirs[::-1]], rel=1e-5)


def test_values_are_those_of_encode_and_the_interval_is_students(rng):
    X = sparse_features(60, 6, 8, seed=2, noise=0.05).X
    A, B, b = rng.normal(size=(7, 6)), rng.normal(size=(8, 6)), 0.1 * rng.normal(size=6)
    found = match(A, (B, b), X[:30], 0.2, held_out=X[30:], tol=1e-9)
    assert found.between is not None
    at = [encode(rows, D, 0.2, bias=shift, tol=1e-12) for rows in (X[:30], X[30:]) for D, shift in ((A, None), (B, b))]
    rows, there, law = found.between.rows, found.between.held_out, found.between.distribution
    assert (rows.value_a, rows.value_b) == pytest.approx((at[0].value, at[1].value), rel=1e-8)
    assert rows.low <= at[0].value - at[1].value <= rows.high
    assert rows.high - rows.low <= 1e-8
    assert there is not None
    assert law is not None
    differences = at[2].values - at[3].values
    assert law.mean == pytest.approx(differences.mean())
    assert (law.low, law.high) == pytest.approx(interval(differences), rel=1e-6)
    assert (law.unit, law.n_units) == ("row", 30)

    owners = np.arange(30) // 5  # documents of equal size: their means are the sample
    grouped = match(A, (B, b), X[:30], 0.2, held_out=X[30:], units=[f"text {k}" for k in owners], tol=1e-9)
    assert grouped.between is not None
    law = grouped.between.distribution
    assert law is not None
    assert (law.low, law.high) == pytest.approx(interval(differences.reshape(6, 5).mean(axis=1)), rel=1e-6)
    assert (law.unit, law.n_units) == ("unit", 6)
    one = match(A, (B, b), held_out=X[30:], lam=0.2, units=np.zeros(30, int))
    assert one.between is not None
    assert one.between.distribution is not None
    assert math.isinf(one.between.distribution.high)
    assert one.between.rows == one.between.held_out


def test_nothing_is_said_of_the_distribution_without_held_out_rows(rng):
    X, D = rng.normal(size=(20, 4)), rng.normal(size=(5, 4))
    found = match(D, D[:4], X, LAM, points=0)
    assert found.between is not None
    assert found.between.distribution is None
    assert found.between.verdict == "undecided"
    assert "nothing is said" in str(found)


def test_an_interval_covers_as_often_as_it_says(rng):
    """Of 400 samples of one distribution, in units of different sizes, about 5 % of the intervals miss its mean."""
    made: Any = SimpleNamespace
    missed = apart = 0
    for _ in range(400):
        sizes = rng.integers(1, 6, size=40)
        owner = np.repeat(np.arange(40), sizes)
        values = 0.5 + rng.normal(size=40)[owner] + 0.3 * rng.normal(size=len(owner))
        a, b = (made(values=part, value=0.0, lower_bound=0.0) for part in (values, 0 * values))
        law, naive = (_estimate(a, b, units) for units in (owner, None))
        missed += not law.low <= 0.5 <= law.high
        apart += not naive.low <= 0.5 <= naive.high
    assert missed <= 36  # 20 expected, and a little more as 40 units are few; more than 36 has probability 1e-3
    assert apart > 60  # rows of a unit are not independent


def test_fits_saes_and_arrays_by_name(tmp_path):
    X = sparse_features(60, 5, 6, seed=5, noise=0.05).X
    fit = learn_dictionary(X, 4, 0.2, max_steps=20)
    sae = SparseAutoencoder.from_fit(fit)
    found = match(fit, sae, X)  # both know λ
    assert found.between is not None
    assert found.between.lam == 0.2
    assert found.between.verdict == "same"
    assert found.between.rows.value_a == pytest.approx(fit.value, rel=1e-6)
    assert match(sae.save(tmp_path / "sae"), fit).mean_cosine == pytest.approx(1)
    arrays = {name: np.array(getattr(sae, name)) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    arrays["W_dec"][1] = 0
    part = match(arrays, fit)
    assert part.A.features.tolist() == [0, 2, 3]
    assert part.A.no_atom == 1
    assert part.pairs.tolist() == [[0, 0], [2, 2], [3, 3]]
    assert part.table().index.tolist() == [0, 2, 3]
    assert part.B.partner.tolist() == [0, -1, 2, 3]
    assert "1 of norm zero" in str(part)


def test_normalized_data_are_what_values_are_about(rng):
    from dataclasses import replace

    X = rng.normal(size=(20, 4)) + 3
    sae = SparseAutoencoder.from_arrays(
        {"W_enc": rng.normal(size=(4, 5)), "b_enc": np.zeros(5), "W_dec": rng.normal(size=(5, 4)), "b_dec": np.ones(4)}
    )
    one, two = (replace(sae, normalization=LayerNorm(eps=eps)) for eps in (1e-5, 1e-5))
    found = match(one, two, X, LAM)
    assert found.between is not None
    expected = encode(one.normalized(X), sae.W_dec, LAM, bias=sae.b_dec, tol=1e-9).value
    assert found.between.rows.value_a == pytest.approx(expected, rel=1e-6)
    with rejects("A and B normalize X differently"):
        match(one, sae, X, LAM)
    with rejects("A and B normalize X differently"):
        match(one, replace(sae, normalization=LayerNorm(eps=1.0)), X, LAM)
    assert match(one, sae).between is None


def test_antipodes_and_copies_on_the_way():
    start, end = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[-1.0, 0, 0], [0, 1, 0]])
    circles = GreatCircles(start, end)
    assert circles.angles == pytest.approx([np.pi, 0])
    np.testing.assert_allclose(circles.at(1.0), end, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(circles.at(0.3), axis=1), 1)
    assert np.isfinite(circles.velocity).all()
    assert Aligned(np.array([0, 0]), np.array([False, True])).order.tolist() == [0, 0]


def test_all_atoms_dead(rng):
    X, D = rng.normal(size=(10, 3)), rng.normal(size=(4, 3))
    found = match(D, D[::-1], X, 100.0)
    assert found.between is not None
    assert found.between.stationarity_a == 0
    assert json.dumps(found.to_dict()["between"]["verdict"])
    str(found)


def test_time_limit_and_interrupt(rng, monkeypatch):
    X, A, B = rng.normal(size=(40, 4)), rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    short = match(A, B, X, 0.2, max_seconds=1e-6)
    full = match(A, B, X, 0.2, tol=1e-12)
    assert short.between is not None
    assert full.between is not None
    assert not short.between.is_complete
    assert full.between.is_complete
    assert len(short.between.way.steps) == 2
    assert short.between.verdict == "undecided"
    truth = full.between.rows.value_a - full.between.rows.value_b
    assert short.between.rows.low <= truth <= short.between.rows.high
    assert "time ran out" in str(short)
    interrupt_codes(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        match(A, B, X, 0.2)


def test_seed_and_draws(rng):
    A, B = rng.normal(size=(10, 6)), rng.normal(size=(12, 6))
    one, same, other = match(A, B), match(A, B, seed=0), match(A, B, seed=1)
    assert one.baselines == same.baselines
    assert one.baselines != other.baselines
    assert [base.kind for base in one.baselines] == ["isotropic", "alike"]
    assert [base.draws for base in match(A, B, draws=2).baselines] == [2, 2]
    assert json.loads(json.dumps(one.to_dict()))["dim"] == 6
    assert "10 and 12 atoms" in repr(one)


def test_what_is_refused(rng):
    X, D = rng.normal(size=(8, 3)), rng.normal(size=(4, 3))
    unknown: Any = {"steps": 3}
    for message, call in (
        ("A has atoms of dimension 3 and B of 2", lambda: match(D, D[:, :2])),
        ("A has a zero atom", lambda: match(np.zeros((2, 3)), D)),
        ("B holds 1 NaN", lambda: match(D, np.where(np.eye(4, 3) > 0, np.nan, D)[:1])),
        ("B has shape", lambda: match(D, D[0])),
        ("X has shape", lambda: match(D, D, X[:, :2], 0.1)),
        ("held_out has shape", lambda: match(D, D, X, 0.1, held_out=X[:, :2])),
        ("lam is None and not both", lambda: match(D, D, X)),
        ("lam is -1", lambda: match(D, D, X, -1)),
        ("lam is given but", lambda: match(D, D, lam=0.1)),
        ("units are given but held_out", lambda: match(D, D, X, 0.1, units=range(8))),
        ("units is given but there are no datapoints", lambda: match(D, D, units=range(8))),
        ("units have shape", lambda: match(D, D, X, 0.1, held_out=X, units=range(3))),
        ("units have shape", lambda: match(D, D, X, 0.1, held_out=X, units=np.ones(8))),
        ("similar is 2", lambda: match(D, D, similar=2)),
        ("draws is 0", lambda: match(D, D, draws=0)),
        ("points is -1", lambda: match(D, D, points=-1)),
        ("tol is 0", lambda: match(D, D, tol=0)),
        ("'steps' is not an option", lambda: match(D, D, **unknown)),
        ("which is 'C'", lambda: match(D, D).table("C")),
        ("bias is 'free' but", lambda: match((D, "free"), D)),
    ):
        with rejects(message):
            call()
    fits = [learn_dictionary(X, 2, lam, max_steps=2) for lam in (0.1, 0.2)]
    with rejects("lam is None and A was made at 0.1, B at 0.2"):
        match(fits[0], fits[1], X)


def test_where_no_atom_is_alive_others_are_not_called_the_same():
    D = np.eye(4)
    X = np.zeros((5, 4))
    assert match(D[:2], D[2:], X, LAM).between.verdict == "flat"  # type: ignore[union-attr]
    assert match(D[:2], D[1::-1], X, LAM).between.verdict == "same"  # type: ignore[union-attr]
