"""What the problems share: the written objective and dual, feasibility, freezing, arguments."""

from __future__ import annotations

import dataclasses
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from cvxsae import CandidateDictionary, InputError, LargeDictionary, SparseCodes, WideLimit
from cvxsae.relaxations.exact_sums import sum_slack, without_sum
from cvxsae.results import Candidate
from tests.helpers import problems

N, D, K = 9, 4, 5
LAM = 0.35
NAMES = ("wide", "codes", "candidates", "large")
BIASES = ("none", "fixed", "free")


def build(name, X, atoms, bias, tau=2.0, lam=LAM):
    """One problem of each kind."""
    return {
        "wide": lambda: WideLimit(X, lam, bias=bias),
        "codes": lambda: SparseCodes(X, atoms, lam, bias=bias),
        "candidates": lambda: CandidateDictionary(X, atoms, lam, tau, bias=bias),
        "large": lambda: LargeDictionary(X, lam, tau, bias=bias),
    }[name]()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=BIASES)
def bias(request, rng):
    return {"none": None, "fixed": rng.normal(size=D), "free": "free"}[request.param]


@pytest.fixture
def setup(name, bias, rng):
    """A problem, its data, and a random feasible candidate."""
    X, atoms = problems.gaussian(rng, N, D), problems.unit(rng.normal(size=(K, D)))
    problem = build(name, X, atoms, bias)
    where = rng.normal(size=D) if problem.bias_is_free else problem.fixed_bias().numpy()
    codes = rng.random((N, K)) * (rng.random((N, K)) < 0.5)
    return problem, X, Candidate(bias=where, dictionary=atoms, codes=codes)


def tau_of(problem):
    return getattr(problem, "atom_cost", 0.0)


def feasible(problem, rng):
    """A dual point that keeps every constraint by a wide margin: θ°_τ(Y) ≤ max ‖y_n‖."""
    Y = rng.normal(size=(N, D))
    if problem.bias_is_free:
        Y -= Y.mean(axis=0)
    return Y * problem.lam / np.linalg.norm(Y, axis=1).max()


def test_primal_value_is_the_written_formula(setup):
    problem, X, point = setup
    tau = tau_of(problem)
    expected = problems.primal(X, point.bias, point.dictionary, point.codes, LAM, tau)
    assert problem.primal_value(point) == pytest.approx(expected, rel=1e-13)
    sparse = dataclasses.replace(point, codes=scipy.sparse.csr_array(point.codes))
    assert problem.primal_value(sparse) == pytest.approx(expected, rel=1e-13)
    longer = dataclasses.replace(point, dictionary=1.3 * point.dictionary)  # norms are charged for
    expected = problems.primal(X, point.bias, 1.3 * point.dictionary, point.codes, LAM, tau)
    assert problem.primal_value(longer) == pytest.approx(expected, rel=1e-13)
    nothing = Candidate(bias=point.bias)
    assert problem.primal_value(nothing) == pytest.approx(0.5 * np.sum((X - point.bias) ** 2) / N, rel=1e-13)


@pytest.mark.slow
def test_dual_value_is_the_written_formula_and_below_every_value(setup, rng):
    problem, X, point = setup
    Y = feasible(problem, rng)
    reference = np.zeros(D) if problem.bias_is_free else point.bias
    value = problem.dual_value(torch.from_numpy(Y))
    assert value == pytest.approx(problems.dual(X, reference, Y), rel=1e-11, abs=1e-13)
    assert max(problem.dual_violations(torch.from_numpy(Y))) <= 1e-12
    assert value <= problem.primal_value(point)


@pytest.mark.slow
def test_any_dual_point_is_made_feasible(setup, rng):
    problem, _, point = setup
    for size in (1e-3, 1.0, 1e3):
        Y = torch.from_numpy(size * (rng.normal(size=(N, D)) + 1))
        repaired = problem.feasible_dual(Y)
        assert max(problem.dual_violations(repaired)) <= 1e-13
        assert problem.dual_value(repaired) <= problem.primal_value(point)
    assert max(problem.dual_violations(1e3 * Y)) > 1  # and a negative control


def test_dual_violation_sees_each_constraint(setup, rng):
    problem, _, _ = setup
    Y = torch.from_numpy(feasible(problem, rng))
    assert max(problem.dual_violations(100 * Y)) > 0.5
    shifted = max(problem.dual_violations(1e-3 * Y + 1e-2))
    assert (shifted > 1e-3) == problem.bias_is_free


@pytest.mark.slow
def test_lower_bound_without_a_dual_point_comes_from_the_residual(setup):
    problem, X, point = setup
    residual = X - point.bias - point.codes @ point.dictionary
    np.testing.assert_allclose(problem.residual(point).numpy(), residual, atol=1e-14)
    given = dataclasses.replace(point, dual=residual)
    assert problem.lower_bound(point) == pytest.approx(problem.lower_bound(given), rel=1e-13)
    assert problem.lower_bound(point) <= problem.primal_value(point)


@pytest.mark.slow
def test_certificates_are_computed_in_float64_whatever_the_arrays_are(setup):
    """A float32 dual point rescaled in float32 would be feasible to 1e-7 only, and its bound no bound."""
    problem, _, point = setup
    single: Any = Candidate(
        bias=point.bias.astype(np.float32),
        dictionary=point.dictionary.astype(np.float32),
        codes=point.codes.astype(np.float32),
        dual=problem.residual(point).numpy().astype(np.float32),
    )
    double = Candidate(**{k: v.astype(np.float64) for k, v in vars(single).items() if v is not None})
    assert problem.bounds(single) == pytest.approx(problem.bounds(double), rel=1e-15)
    half: Any = dataclasses.replace(single, dual=single.dual.astype(np.float16))
    exact = dataclasses.replace(double, dual=half.dual.astype(np.float64))
    assert problem.lower_bound(half) == pytest.approx(problem.lower_bound(exact), rel=1e-15)


def test_read_only_and_strided_arrays_are_read_and_left_alone(setup, rng):
    problem, _, point = setup
    wide = rng.normal(size=(2 * N, 3 * D))[::2, ::3]
    arrays = {"bias": point.bias, "dictionary": np.asfortranarray(point.dictionary), "codes": point.codes, "dual": wide}
    copies = {k: v.copy() for k, v in arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    frozen = Candidate(**arrays)
    assert problem.bounds(frozen) == pytest.approx(problem.bounds(Candidate(**copies)), rel=1e-13)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, copies[key])


@pytest.mark.slow
def test_lambda_max_is_where_codes_begin(setup):
    """At λ_max zero codes are certified. Where the polar is exact, just below they are beaten."""
    problem, _, _ = setup
    top = problem.lambda_max()
    above = replace(problem, lam=top * (1 + 1e-9))
    assert above.lam == top * (1 + 1e-9)
    value, bound = above.bounds(above.zero_candidate())
    assert value - bound <= 1e-12 * value
    if problem.name != "large":
        below = replace(problem, lam=0.99 * top)
        value, bound = below.bounds(below.zero_candidate())
        assert value - bound > 1e-7 * value


def test_bias_residual(setup):
    problem, X, point = setup
    residual = X - point.bias - point.codes @ point.dictionary
    expected = np.linalg.norm(residual.mean(axis=0)) / LAM
    assert problem.bias_residual(point) == pytest.approx(expected, rel=1e-12)
    if problem.name == "wide":  # a bias alone stands for its own atoms and codes
        offsets = X - point.bias
        residual = offsets * np.minimum(1, LAM / np.linalg.norm(offsets, axis=1, keepdims=True))
        expected = np.linalg.norm(residual.mean(axis=0)) / LAM
        assert problem.bias_residual(Candidate(bias=point.bias)) == pytest.approx(expected, rel=1e-12)


def test_problems_are_frozen(setup):
    problem, _, point = setup
    for attribute in ("X", "lam", "bias", "atom_cost", "atoms", "name", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(problem, attribute, 1)
    start = problem.zero_candidate()
    before = problem.primal_value(point)
    start.bias[:] += 1  # a candidate's bias is its own
    assert problem.primal_value(point) == before
    if not problem.bias_is_free:
        assert not np.array_equal(problem.fixed_bias().numpy(), start.bias)


def test_replace_changes_nothing_else(setup):
    problem, _, _ = setup
    other = replace(problem, lam=2.0)
    assert (problem.lam, other.lam) == (LAM, 2.0)
    for field in fields(problem):
        one, two = getattr(problem, field.name), getattr(other, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, two)
        elif field.name == "X":
            assert one.tensor.data_ptr() == two.tensor.data_ptr()
        elif field.name != "lam":
            assert one == two
    with pytest.raises(InputError, match="lam is 0"):
        replace(problem, lam=0)


def test_repr_names_the_numbers(setup):
    problem, _, _ = setup
    text = repr(problem)
    assert type(problem).__name__ in text
    assert "lam=0.35" in text
    assert "tensor([[" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 0.0}, "lam is 0"),
        ({"lam": -1.0}, "lam is -1"),
        ({"lam": float("nan")}, "lam is nan"),
        ({"lam": float("inf")}, "lam is inf"),
        ({"bias": np.zeros(D + 1)}, "bias has shape"),
        ({"bias": np.full(D, np.nan)}, "bias holds"),
        ({"bias": "best"}, "bias is 'best'"),
        ({"X": np.zeros(3)}, "X has shape"),
        ({"X": np.zeros((0, D))}, "X has shape"),
        ({"X": np.full((2, D), np.inf)}, "X holds"),
    ],
)
def test_bad_arguments_are_named(name, change, message, rng):
    arguments = {"X": problems.gaussian(rng, N, D), "atoms": np.eye(D), "bias": None, **change}
    with pytest.raises(InputError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize("name", ["codes", "candidates"], indirect=False)
@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (np.eye(D + 1), "the data has dimension"),
        (np.vstack([np.eye(D), np.zeros(D)]), "zero atom"),
        (np.full((2, D), np.nan), "NaN"),
        (np.zeros(D), "two-dimensional"),
        (np.zeros((0, D)), "empty"),
    ],
)
def test_bad_atoms_are_named(name, atoms, message, rng):
    with pytest.raises(InputError, match=message):
        build(name, problems.gaussian(rng, N, D), atoms, None)


@pytest.mark.parametrize("name", ["candidates", "large"], indirect=False)
def test_bad_atom_cost_is_named(name, rng):
    with pytest.raises(InputError, match="atom_cost is -1"):
        build(name, problems.gaussian(rng, N, D), np.eye(D), None, tau=-1.0)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_a_penalty_whose_square_is_lost_is_refused(name, scale, rng):
    """Otherwise every value would be zero and every candidate optimal, with a gap of zero."""
    X, atoms = min(scale, 1.0) * problems.gaussian(rng, N, D), np.eye(D)
    with pytest.raises(InputError, match="rescale the data and lam alike"):
        build(name, X, atoms, None, lam=0.1 * scale)
    with pytest.raises(InputError, match="rescale the data and lam alike"):
        replace(build(name, X, atoms, None), lam=0.1 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_rows_of_a_dual_point_sum_to_exactly_zero(scale, rng):
    """A free bias multiplies their sum: one that is only nearly zero proves nothing where λ is small."""
    for n in (1, 7, 2**16 + 3, 300):
        Y = torch.from_numpy(scale * rng.normal(size=(n, 3)))
        Y = Y - Y.mean(dim=0)
        moved = without_sum(Y)
        assert all(sum(map(Fraction, column)) == 0 for column in moved.T.tolist())
        assert float(torch.linalg.vector_norm(moved - Y, dim=1).max()) <= sum_slack(Y)
    assert float(Y.sum(dim=0).abs().max()) > 0  # the control: rounding alone leaves a sum
    X, atoms = rng.normal(size=(9, 3)), rng.normal(size=(5, 3))
    problem = CandidateDictionary(scale * X, atoms, scale * 1e-7, 2.0, bias="free")
    dual = problem.feasible_dual(torch.from_numpy(scale * rng.normal(size=(9, 3))))
    assert all(sum(map(Fraction, column)) == 0 for column in dual.T.tolist())
    assert problem.polar(dual) <= problem.lam
