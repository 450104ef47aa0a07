"""The report: what holds at a converged dictionary, and that it points at what is wrong with others."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

import cvxsae
from cvxsae import InputError, check_optimality, encode
from cvxsae.data import sparse_features
from cvxsae.diagnostics import feature_statistics
from tests.helpers import problems
from tests.helpers.interrupts import interrupt_codes, interrupt_newton

LAM = 0.2


@pytest.fixture(scope="module")
def fit():
    """A dictionary learned to stationarity 1e-6, narrower than the truth so that features share atoms."""
    synthetic = sparse_features(300, 8, 20, seed=0, probability=0.15)
    return cvxsae.learn_dictionary(synthetic.X, 12, LAM, bias="free", stationarity=1e-6, seed=0)


@pytest.fixture(scope="module")
def learned(fit):
    """Its data, atoms and bias."""
    return fit.problem.X.to_numpy(), np.asarray(fit.dictionary), np.asarray(fit.bias)


@pytest.mark.slow
def test_a_converged_dictionary_satisfies_every_condition(learned):
    """Stationarity ≤ 1e-6 implies the identity (2) to 1e-4 for all pairs of live atoms."""
    X, D, b = learned
    report = check_optimality(X, D, LAM, bias=b, trained_bias=True, second_order=True, tol=1e-5)
    assert report.stationarity <= 2e-6
    assert report.bias_residual <= 2e-6
    assert report.identity_deficit <= 1e-4
    assert abs(report.dual_excess) < 1e-5
    assert report.is_stationary
    assert report.second_order is not None
    assert report.second_order.is_positive
    assert report.objections == ()
    # The identity was tested on pairs that co-fire and pairs that do not, not on nothing.
    Z = report.statistics.codes.codes.toarray()
    together = (Z.T > 0).astype(float) @ (Z > 0)
    assert (together[np.triu_indices(12, 1)] > 0).any()
    assert report.wide_lower_bound <= report.wide_value <= report.lower_bound <= report.value
    assert not report.is_optimal_at_every_width
    assert report.new_atom_gains[0] > 0


@pytest.mark.slow
def test_a_random_dictionary_satisfies_none(learned, rng):
    X, D, b = learned
    report = check_optimality(X, rng.normal(size=D.shape), LAM, bias=b)
    assert report.stationarity > 0.5
    assert report.identity_deficit > 0.1
    assert not report.is_stationary
    text = " ".join(report.objections)
    assert "not stationary (T3)" in text
    assert "(T4)" in text


@pytest.mark.slow
@pytest.mark.parametrize("atom", [0, 3, 7])
def test_a_bad_atom_is_named(learned, rng, atom):
    """Planted in a converged dictionary: an atom turned 30° away is the first in every ranking."""
    X, D, b = learned
    spoiled = D.copy()
    turn = rng.normal(size=D.shape[1])
    turn -= (turn @ D[atom]) * D[atom]
    spoiled[atom] = np.cos(np.pi / 6) * D[atom] + np.sin(np.pi / 6) * turn / np.linalg.norm(turn)
    report = check_optimality(X, spoiled, LAM, bias=b)
    assert report.worst_features(1).index[0] == atom
    assert report.features["identity_deficit"].idxmax() == atom
    assert report.pairs.iloc[0]["feature"] == atom
    assert f"feature {atom} " in report.objections[0]


@pytest.mark.slow
def test_a_shifted_bias_is_named(learned):
    X, D, b = learned
    shifted = check_optimality(X, D, LAM, bias=b + 0.05, trained_bias=True)
    assert shifted.bias_is_free
    assert any("bias" in sentence for sentence in shifted.objections)
    fixed = check_optimality(X, D, LAM, bias=b + 0.05)  # an array means fixed, as everywhere
    assert not fixed.bias_is_free
    assert not any("bias" in sentence for sentence in fixed.objections)
    assert fixed.wide_value > shifted.wide_value  # F_wide at this bias, not at the best
    none = check_optimality(X, D, LAM)
    assert not none.bias_is_free


@pytest.mark.slow
def test_a_fit_is_checked_as_it_was_learned(fit, learned):
    """Its bias was free, so the bias residual counts; other data can be passed too."""
    X, D, b = learned
    report = check_optimality(fit.problem.X, fit, tol=1e-5, splits=False, new_atoms=0)
    assert report.bias_is_free
    assert report.is_stationary
    assert report.value == pytest.approx(fit.value, rel=1e-9)
    half = check_optimality(X[:150], fit, splits=False, new_atoms=0)
    assert half.bias_is_free
    assert not half.is_stationary
    assert "bias is not stationary" in " ".join(half.objections)
    fixed = dataclasses.replace(fit, problem=cvxsae.JointProblem(X, 12, LAM, bias=b))
    assert not check_optimality(X, fixed, splits=False, new_atoms=0).bias_is_free
    with pytest.raises(InputError, match="leave out lam"):
        check_optimality(X, fit, LAM)
    with pytest.raises(InputError, match="lam is None"):
        check_optimality(X, D)


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [interrupt_codes, interrupt_newton])
def test_an_interrupt_is_not_a_report(learned, monkeypatch, interrupt):
    """Zero codes of an interrupted encoding, or an unfinished wide limit, must not be measured as if exact."""
    X, D, b = learned
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        check_optimality(X, D, LAM, bias=b, trained_bias=True, splits=False, new_atoms=0)


@pytest.mark.slow
def test_no_time_is_said(learned, monkeypatch):
    """The sums have as long as they need: where another process has the cores, their grace could pass too."""
    monkeypatch.setattr("cvxsae.parallel.context.GRACE", 3600.0)
    X, D, b = learned
    report = check_optimality(X, D, LAM, bias=b, max_seconds=1e-6, second_order=True, noiseless=True)
    assert {"split scores", "new atoms", "the second-order test", "the cone condition"} <= set(report.unfinished)
    assert "max_seconds passed" in " ".join(report.objections)
    assert report.second_order is None
    if "codes" in report.unfinished:
        assert not report.is_stationary
    assert check_optimality(X, D, LAM, bias=b, splits=False, new_atoms=0).unfinished == ()


def test_c1_both_dictionaries():
    """The global minimizer of the nested pair satisfies everything; the true dictionary is told to absorb."""
    v1, v2 = np.eye(3)[:2]
    X = np.vstack([v1, v1 + v2])
    best = check_optimality(X, np.vstack([v1, v1 + v2]), 0.1, second_order=True, noiseless=True)
    assert best.value == pytest.approx(0.11571068, abs=1e-8)
    assert best.objections == ()
    assert best.is_optimal_at_every_width
    assert best.wide_value == pytest.approx(best.value)
    assert len(best.new_atoms) == 0
    assert best.noiseless is not None
    assert best.noiseless.all_hold
    truth = check_optimality(X, np.vstack([v1, v2]), 0.1, noiseless=True)
    assert truth.value == pytest.approx(0.5 * (0.1 - 0.005) + 0.5 * (0.2 - 0.01))
    assert len(truth.objections) == 3
    pair = truth.pairs.iloc[0]
    assert (pair["feature"], pair["other"]) == (1, 0)  # the child turns towards the parent
    assert pair["cofiring"] == 1
    assert pair["deficit"] == pytest.approx(-1)
    assert pair["mixing_rate"] == pytest.approx(0.1 * 0.9 / 2)
    assert truth.noiseless is not None
    assert truth.noiseless.holds.tolist() == [False, True]
    assert truth.noiseless_error < 1e-20


def test_splits_new_atoms_and_their_tokens(rng):
    """A feature that is two: its atom is the mean, the split finds the halves, the new atom one of them."""
    halves = problems.unit(np.array([[1.0, 0.5, 0], [1, -0.5, 0]]))
    X = np.repeat(halves, 10, axis=0) * rng.uniform(1, 2, (20, 1))
    D = np.array([[1.0, 0, 0], [0, 0, 1]])
    report = check_optimality(X, D, 0.05)
    assert report.predicted_splits(1).index[0] == 0
    assert abs(report.split_directions[0]) == pytest.approx([0, 1, 0], abs=1e-9)
    ahead, behind = (set(side.tolist()) for side in report.split_tokens(0, 20))
    assert {frozenset(ahead), frozenset(behind)} == {frozenset(range(10)), frozenset(range(10, 20))}
    first, _ = report.split_tokens(0, 1)
    assert len(first) == 1
    assert np.isnan(report.features["split_score"][1])  # dead
    assert "dead" in " ".join(report.objections)
    wider = encode(X, np.vstack([D, report.new_atoms[:1]]), 0.05).value
    assert wider <= report.value - report.new_atom_gains[0]
    assert (np.diff(report.new_atom_gains) <= 0).all()
    assert (report.new_atoms @ report.new_atoms.T)[np.triu_indices(len(report.new_atoms), 1)].max() < 0.999
    without = check_optimality(X, D, 0.05, splits=False, new_atoms=0)
    assert without.features["split_score"].isna().all()
    assert len(without.new_atoms) == 0


@pytest.mark.slow
def test_duplicates_are_named(learned):
    X, D, _ = learned
    report = check_optimality(X, np.vstack([D, D[:1] + 1e-4]), LAM)
    assert len(report.duplicates) == 1
    assert "duplicates" in " ".join(report.objections)


@pytest.mark.slow
def test_text_json_tables_and_figure(learned):
    X, D, b = learned
    report = check_optimality(X, D, LAM, bias=b, second_order=True, pairs=7)
    text = str(report)
    for theorem in ("T2", "T3", "T4", "T5", "T7", "T8", "T9"):
        assert theorem in text
    numbers = report.to_dict(count=5)
    assert numbers["value"] == report.value
    assert len(numbers["pairs"]) == 5
    assert len(report.pairs) == 7
    assert {"feature", "stationarity", "split_score"} <= set(numbers["worst_features"][0])
    assert len(numbers["predicted_splits"][0]["tokens"]) == 2
    json.dumps(numbers, default=float)
    assert report.features.index.tolist() == list(range(12))
    figure = report.figure()
    assert len(figure.axes) == 6
    figure.canvas.draw()


def test_all_features_dead():
    report = check_optimality(np.eye(3), -np.eye(3), 0.1)
    assert report.stationarity == 0
    assert "3 features are dead" in report.objections[0]
    assert str(report)
    json.dumps(report.to_dict(), default=float)
    report.figure()


@pytest.mark.slow
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("case", ["line", "one point", "zeros", "repeated", "overcomplete", "integers", "tiny", "huge"])
def test_awkward_data(case, biased, rng):
    """Nothing fails or warns, and the value is that of the codes."""
    X = rng.normal(size=(20, 3))
    D, lam = rng.normal(size=(4, 3)), 0.3
    if case == "line":
        X, D = X[:, :1], np.array([[1.0], [-1]])
    elif case == "one point":
        X = X[:1]
    elif case == "zeros":
        X = np.zeros((5, 3))
    elif case == "repeated":
        X, D = np.repeat(X[:4], 3, axis=0), np.vstack([D, D])
    elif case == "overcomplete":
        D = rng.normal(size=(40, 3))
    elif case == "integers":
        X, D = np.rint(2 * X).astype(int), np.rint(2 * D).astype(int) + 5
    elif case in ("tiny", "huge"):
        scale = {"tiny": 1e-100, "huge": 1e100}[case]
        X, lam = scale * X, scale * lam
    bias = np.zeros(X.shape[1]) if biased else None
    report = check_optimality(X, D, lam, bias=bias, second_order=True)
    assert report.value == pytest.approx(encode(X, D, lam, tol=1e-12).value, rel=1e-9)
    assert report.wide_lower_bound <= report.value
    assert str(report)
    json.dumps(report.to_dict(), default=float)
    report.figure().canvas.draw()


@pytest.mark.slow
def test_no_array_of_all_pairs_is_made(rng):
    """Width 3000: one K × K array would take 72 MB; all that is allocated at once stays well below two."""
    X = rng.normal(size=(200, 4))
    D = rng.normal(size=(3000, 4))
    codes = encode(X, D, 1.0, tol=1e-12)
    check_optimality(X, D[:10], 1.0)  # imports and compiles
    tracemalloc.start()
    try:
        check_optimality(X, D, 1.0, codes=codes, splits=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * 3000**2 * 8


def test_what_it_refuses():
    with pytest.raises(InputError, match="tol"):
        check_optimality(np.eye(3), np.eye(3), 0.1, tol=0)
    with pytest.raises(InputError, match="'free'"):
        check_optimality(np.eye(3), np.eye(3), 0.1, bias="free")
    with pytest.raises(InputError, match="dependent"):
        check_optimality(np.eye(3), np.vstack([np.eye(3), np.ones((1, 3))]), 0.1, noiseless=True)


def test_a_feature_of_one_datapoint_heads_no_ranking(rng):
    """Its residual is as far from its atom as can be, and says nothing: the frequent one that is off comes first."""
    X = np.zeros((61, 4))
    X[:60, 0], X[:60, 1] = rng.uniform(1, 2, 60), 0.3 + 0.02 * rng.normal(size=60)
    X[60] = [0, 0, 2, -1.5]  # all that fires the third atom, which is far off
    D = np.eye(4)[:3]
    report = check_optimality(X, D, 0.1, splits=False, new_atoms=0)
    features = report.features
    assert features["stationarity"].idxmax() == 2
    assert list(features["count"]) == [60, 60, 1]
    assert np.isnan(features["at_least"].to_numpy()[2])
    assert report.worst_features(1).index[0] != 2
    assert "feature 2 " not in report.objections[0]
    assert (report.pairs["feature"] != 2).all()


def test_the_largest_residual_is_named_where_none_is_certain(rng):
    """Seen: a feature at 0.93 λ with a standard error of 0.8 λ was called the worst where another one had 2.31."""
    X = np.abs(rng.normal(size=(60, 3))) + 0.5
    report = check_optimality(X, np.eye(3), 0.1, splits=False, new_atoms=0)
    errors = {"stationarity": [0.9, 2.3, 1.2], "standard_error": [0.8, 3.0, 2.0]}
    unsure = dataclasses.replace(report, features=report.features.assign(**errors, at_least=[-0.1, -3.0, -2.0]))
    assert list(unsure.worst_features().index) == [1, 2, 0]
    assert list(unsure.worst_features().columns) == list(unsure.features.columns)
    said = unsure.objections[0]
    assert said.startswith("3 of 3 live features are not stationary (T3) on these rows; of the distribution that is ")
    assert "certain for 0, each with 95% confidence. The largest residual is that of feature 1 over its 60" in said
    one = dataclasses.replace(report, features=report.features.assign(**errors, at_least=[0.2, -3.0, -2.0]))
    assert list(one.worst_features().index) == [0, 1, 2]
    assert "certain for 1, each" in one.objections[0]
    assert "The residual that is certainly farthest off is that of feature 0" in one.objections[0]
    rare = dataclasses.replace(report, features=report.features.assign(**errors, at_least=[-0.1, np.nan, -2.0]))
    assert list(rare.worst_features().index) == [2, 0, 1]
    assert (
        "Of those that fire on ten datapoints or more, the largest residual is that of feature 2"
        in (rare.objections[0])
    )


@pytest.mark.slow
def test_standard_errors_are_those_of_other_samples(rng):
    """Of the mean residual of a feature, over many draws of the same datapoints."""
    D, draws = problems.unit(rng.normal(size=(6, 4))), []
    for _ in range(40):
        X = np.maximum(rng.normal(size=(200, 6)), 0) @ D + 0.2 * rng.normal(size=(200, 4))
        draws.append(feature_statistics(X, D, 0.3, code_tol=1e-6))
    spread = np.std([found.mean_residual / 0.3 for found in draws], axis=0, ddof=1)
    told = np.mean([found.standard_error for found in draws], axis=0)
    np.testing.assert_allclose(told, np.linalg.norm(spread, axis=1), rtol=0.3)
