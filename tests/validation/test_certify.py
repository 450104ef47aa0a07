"""The referee: it certifies what is true, objects to everything else, and cannot be talked round."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cvxsae
from cvxsae import CandidateDictionary, InputError, LargeDictionary, SparseCodes, WideLimit
from cvxsae.errors import CertificateError
from cvxsae.relaxations import Problem
from cvxsae.relaxations.candidate import candidate_from
from cvxsae.results import Candidate, NonnegativeProof, SliceProof
from cvxsae.validation import violation as violation_module
from cvxsae.validation.copositive import DualCheck
from tests.helpers import problems
from tests.helpers.problems import certify, solve


def without_claims(solution):
    """The arrays of a solution and nothing it says about them."""
    return candidate_from(solution.arrays(), "the solution")


LAM = 0.3
NAMES = ("wide", "codes", "candidates", "large")
TOL = {"wide": 1e-9, "codes": 1e-6, "candidates": 1e-6, "large": 1e-3}


def build(name, bias="free", scale=1.0, lam=LAM):
    rng = np.random.default_rng(11)
    X, atoms = scale * problems.clustered(rng, 14, 3), rng.normal(size=(6, 3))
    return {
        "wide": lambda: WideLimit(X, lam * scale, bias=bias),
        "codes": lambda: SparseCodes(X, atoms, lam * scale, bias=bias),
        "candidates": lambda: CandidateDictionary(X, atoms, lam * scale, 2.0, bias=bias),
        "large": lambda: LargeDictionary(X, lam * scale, 2.0, bias=bias),
    }[name]()


SOLVED: dict[tuple, tuple[Any, Any]] = {}


def solved(name, bias="free", scale=1.0):
    """A problem and its certified solution, with dense codes that are the caller's own."""
    key = name, str(bias), scale
    if key not in SOLVED:
        problem = build(name, bias, scale)
        SOLVED[key] = problem, solve(problem, tol=TOL[name])
    problem, solution = SOLVED[key]
    codes = solution.codes.toarray() if isinstance(solution.codes, scipy.sparse.csr_array) else solution.codes.copy()
    arrays = {"bias": solution.bias.copy(), "dictionary": solution.dictionary.copy(), "codes": codes}
    return problem, dataclasses.replace(solution, **arrays, dual=solution.dual.copy())


def change(solution, claims, **arrays):
    """The solution with other arrays: keeping its claims, or as arrays alone."""
    other = dataclasses.replace(solution, **arrays)
    return other if claims else without_claims(other)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["with claims", "arrays alone"])
def claims(request):
    return request.param


def objections(problem, candidate, tol=None):
    certificate = certify(problem, candidate, tol=tol)
    assert certificate.is_certified == (not certificate.objections)
    return " | ".join(certificate.objections)


# ---------------------------------------------------------------- it certifies what is true


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_positive_control(name, bias, claims):
    problem, solution = solved(name, bias)
    certificate = certify(problem, change(solution, claims), tol=TOL[name])
    assert certificate.is_certified, str(certificate)
    assert certificate.value == pytest.approx(solution.value, rel=1e-12)
    assert certificate.lower_bound == pytest.approx(solution.lower_bound, rel=1e-9)
    assert certificate.gap <= TOL[name]
    assert certificate.bound == "optimum"  # also of the large dictionary: in three dimensions its polar is exact
    assert certificate.smallest_code >= 0
    assert certificate.atom_norm_error < 1e-12
    assert certificate.dual_violation < 1e-9
    assert (certificate.bias_residual is None) == (bias is None)
    assert certificate.lam == LAM
    assert certificate.lambda_max == problem.lambda_max()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_positive_control_in_other_units(name, scale):
    problem, solution = solved(name, "free", scale)
    assert not objections(problem, solution)


@pytest.mark.slow
def test_sparse_codes_are_read(name):
    problem, solution = solved(name)
    sparse = dataclasses.replace(solution, codes=scipy.sparse.csr_array(solution.codes))
    assert certify(problem, sparse).value == pytest.approx(solution.value, rel=1e-12)
    assert not objections(problem, sparse)


def test_the_value_is_recomputed_from_the_written_formula(name):
    problem, solution = solved(name)
    expected = problems.primal(
        problem.X.to_numpy(),
        solution.bias,
        solution.dictionary,
        solution.codes,
        LAM,
        getattr(problem, "atom_cost", 0.0),
    )
    assert certify(problem, solution).value == pytest.approx(expected, rel=1e-12)
    bound = certify(problem, solution).lower_bound
    assert bound == pytest.approx(problems.dual(problem.X.to_numpy(), solution.bias, solution.dual), rel=1e-9)


@pytest.mark.slow
def test_a_missing_dual_is_built_from_the_residual():
    for name in ("wide", "codes", "candidates"):
        problem, _ = solved(name)
        tight = without_claims(solve(problem, tol=1e-9))
        certificate = certify(problem, dataclasses.replace(tight, dual=None), tol=1e-4)
        assert certificate.is_certified, str(certificate)
        assert certificate.dual_violation is None


def test_certificate_speaks(name):
    problem, solution = solved(name)
    certificate = certify(problem, solution)
    text = str(certificate)
    assert f"{name}: certified" in text
    assert "lambda_max" in text
    assert json.loads(json.dumps(certificate.to_dict()))["certified"] is True
    solution.codes[0, 0] += 1
    worse = certify(problem, solution)
    assert "NOT certified" in str(worse)
    assert "objection: " in str(worse)
    assert worse.to_dict()["objections"]


# ---------------------------------------------------------------- it objects to the rest


@pytest.mark.slow
def test_a_perturbed_code(name, claims):
    problem, solution = solved(name)
    codes = solution.codes.copy()
    codes[np.unravel_index(codes.argmax(), codes.shape)] *= 1.5
    text = objections(problem, change(solution, claims, codes=codes), tol=TOL[name])
    assert "relative gap" in text
    assert ("claims the value" in text) == claims


def test_a_negative_code(name, claims):
    problem, solution = solved(name)
    codes = solution.codes.copy()
    codes[np.unravel_index(codes.argmin(), codes.shape)] = -1e-13
    assert "code is negative" in objections(problem, change(solution, claims, codes=codes))
    sparse = scipy.sparse.csr_array(codes)
    assert "code is negative" in objections(problem, change(solution, claims, codes=sparse))


def test_a_negative_code_cannot_buy_a_lower_value():
    """With a negative code the value falls below the bound: an objection, and no error that hides it."""
    X = np.array([[-2.0], [-2.0]])
    problem = SparseCodes(X, np.ones((1, 1)), LAM)
    cheat = Candidate(bias=np.zeros(1), dictionary=np.ones((1, 1)), codes=X.copy())
    certificate = certify(problem, cheat)
    assert certificate.value < certificate.lower_bound
    assert "code is negative" in " ".join(certificate.objections)


def test_a_bias_off_its_optimum(name, claims):
    problem, solution = solved(name)
    text = objections(problem, change(solution, claims, bias=solution.bias + 0.1), tol=1e-3)
    assert "bias is off its optimum" in text
    good = certify(problem, solution)
    assert good.bias_residual < 1e-4


def test_the_saving_of_the_bias_is_a_promise_kept():
    """Moving the bias alone by the mean residual lowers the value by exactly what the referee says."""
    problem, solution = solved("codes")
    bias = solution.bias + 0.1
    moved = without_claims(dataclasses.replace(solution, bias=bias))
    mean = problem.residual(moved).mean(dim=0).numpy()
    better = dataclasses.replace(moved, bias=bias + mean)
    saved = problem.primal_value(moved) - problem.primal_value(better)
    certificate = certify(problem, moved)
    assert saved == pytest.approx((certificate.bias_residual * LAM) ** 2 / 2, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_another_bias_than_the_fixed_one(name, claims, scale):
    problem, solution = solved(name, 0.2 * scale * np.ones(3), scale)
    assert not objections(problem, solution)
    text = objections(problem, change(solution, claims, bias=solution.bias * (1 + 1e-6)))
    assert "differs from the problem's fixed bias" in text
    problem, solution = solved(name, None, scale)
    text = objections(problem, change(solution, claims, bias=np.full(3, 1e-9 * scale)))
    assert "differs from the problem's fixed bias" in text


@pytest.mark.parametrize("given", ["codes", "candidates"])
def test_another_dictionary_of_unit_norm(given, claims):
    """Atoms that are given may not be tilted, however little and at whatever norm."""
    problem, solution = solved(given)
    tilted = solution.dictionary + 1e-9 * np.roll(solution.dictionary, 1, axis=1)
    tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
    text = objections(problem, change(solution, claims, dictionary=tilted), tol=1e-3)
    assert "dictionary differs from the problem's atoms" in text


def test_a_bias_is_told_from_the_fixed_one_in_every_coordinate(claims):
    """A coordinate of size 1e8 must not hide a change in one where the data is 1e-6 long."""
    X = np.hstack([np.full((5, 1), 1e8), 1e-6 * np.arange(1.0, 6.0)[:, None]])
    problem = SparseCodes(X, [[0, 1]], 1e-7, bias=[1e8, 0])
    solution = solve(problem)
    cheat = change(solution, claims, bias=solution.bias + np.array([0, 5e-7]))
    assert "differs from the problem's fixed bias" in objections(problem, cheat)


@pytest.mark.slow
def test_a_dual_that_ignores_the_bias_constraint(name, claims):
    """It is feasible for a bias of zero, and its written value can exceed the optimum."""
    problem, solution = solved(name)
    fixed, other = solved(name, None)
    assert max(fixed.dual_violations(torch.from_numpy(other.dual), other.proof)) <= 1e-9
    cheat = change(solution, claims, dual=other.dual, proof=other.proof)
    text = objections(problem, cheat, tol=10.0)
    assert "ignores the bias constraint" in text
    certificate = certify(problem, cheat, tol=10.0)
    assert certificate.lower_bound <= solution.value
    written = problems.dual(problem.X.to_numpy(), np.zeros(3), other.dual)
    assert written > solution.value  # what it would have proved


@pytest.mark.slow
@pytest.mark.parametrize("bias", [None, "free"])
def test_an_infeasible_dual(name, claims, bias):
    problem, solution = solved(name, bias)
    text = objections(problem, change(solution, claims, dual=1.5 * solution.dual))
    assert "exceeds its limit" in text
    certificate = certify(problem, change(solution, False, dual=1.5 * solution.dual))
    assert certificate.lower_bound <= solution.value  # the bound printed is that of the repaired point


def test_an_atom_of_norm_1_01(name, claims):
    problem, solution = solved(name)
    atoms = solution.dictionary.copy()
    atoms[0] *= 1.01
    assert "norm is off 1 by 1.00e-02" in objections(problem, change(solution, claims, dictionary=atoms))


def test_an_atom_of_norm_1_01_that_pays_no_more():
    """Codes shrunk by the same factor give the same reconstruction: the charge and the norm rule see it."""
    problem, solution = solved("large")
    cheat = change(solution, False, dictionary=1.01 * solution.dictionary, codes=solution.codes / 1.01)
    assert certify(problem, cheat, tol=1e-2).value == pytest.approx(solution.value, rel=1e-12)
    assert "norm is off 1" in objections(problem, cheat, tol=1e-2)


def test_a_swapped_penalty(name, claims):
    _, solution = solved(name)
    other = build(name, lam=2 * LAM)
    text = objections(other, change(solution, claims), tol=1e-3)
    assert "relative gap" in text or "exceeds" in text
    assert ("for λ = 0.3, the problem has λ = 0.6" in text) == claims
    half = build(name, lam=LAM / 2)
    text = objections(half, change(solution, claims), tol=1e-3)
    assert "exceeds its limit" in text


def test_a_swapped_surcharge():
    for name in ("candidates", "large"):
        problem, solution = solved(name)
        with_other = dict(vars(problem), atom_cost=5.0)
        other = object.__new__(type(problem))
        for key, value in with_other.items():
            object.__setattr__(other, key, value)
        assert "for τ = 2, the problem has τ = 5" in objections(other, solution)


def test_other_data(name, claims):
    problem, solution = solved(name)
    rng = np.random.default_rng(3)
    X = problem.X.to_numpy() + 0.1 * rng.normal(size=(14, 3))
    other = object.__new__(type(problem))
    for key, value in dict(vars(problem), X=type(problem.X)(X)).items():
        object.__setattr__(other, key, value)
    assert objections(other, change(solution, claims), tol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.99, 1.01, 1 + 1e-6])
def test_a_wrong_value_or_bound_is_not_believed(name, factor):
    problem, solution = solved(name)
    assert "claims the value" in objections(problem, dataclasses.replace(solution, value=factor * solution.value))
    text = objections(problem, dataclasses.replace(solution, lower_bound=factor * solution.lower_bound))
    assert ("claims the lower bound" in text) == (factor > 1)  # a modest claim is no lie


@pytest.mark.parametrize("claim", ["value", "lower_bound"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_claims_that_are_no_numbers(name, claim, number):
    problem, solution = solved(name)
    assert "claims" in objections(problem, dataclasses.replace(solution, **{claim: number}))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["bias", "dictionary", "codes", "dual"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity(name, claims, field, bad):
    problem, solution = solved(name)
    array = getattr(solution, field).copy()
    array.flat[0] = bad
    certificate = certify(problem, change(solution, claims, **{field: array}))
    assert f"{field} holds NaN or infinite" in " ".join(certificate.objections)
    assert np.isnan(certificate.value)
    sparse = scipy.sparse.csr_array(np.full((14, solution.codes.shape[1]), bad))
    assert "codes holds NaN" in objections(problem, change(solution, claims, codes=sparse))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["bias", "dictionary", "codes", "dual", "similarity", "proof"])
def test_wrong_shapes(name, claims, field):
    problem, solution = solved(name)
    shapes = {"bias": (3, 1), "dictionary": (5, 2), "dual": (3, 14), "similarity": (14, 3), "proof": (3, 3)}
    wrong = np.ones(shapes.get(field, (13, solution.codes.shape[1])))
    made = NonnegativeProof if field == "proof" else np.asarray
    name = {"proof": "proof.P"}.get(field, field)
    assert f"{name} has shape" in objections(problem, change(solution, claims, **{field: made(wrong)}))
    assert objections(problem, change(solution, claims, **{field: made(np.ones(()))}))


@pytest.mark.parametrize("field", ["dictionary", "codes"])
def test_half_an_answer(name, claims, field):
    problem, solution = solved(name)
    assert "they come together" in objections(problem, change(solution, claims, **{field: None}))


def test_a_foreign_dictionary(claims):
    for name in ("codes", "candidates"):
        problem, solution = solved(name)
        rng = np.random.default_rng(0)
        foreign = problems.unit(rng.normal(size=solution.dictionary.shape))
        assert "differs from the problem's" in objections(problem, change(solution, claims, dictionary=foreign))
        rolled = np.roll(solution.dictionary, 1, axis=0), np.roll(solution.codes, 1, axis=1)
        text = objections(problem, change(solution, claims, dictionary=rolled[0], codes=rolled[1]))
        assert "differs from the problem's" in text  # the same model, but not this problem's
        more = np.vstack([solution.dictionary, foreign]), np.hstack([solution.codes, 0 * solution.codes])
        assert "has shape" in objections(problem, change(solution, claims, dictionary=more[0], codes=more[1]))
        nothing = change(solution, claims, dictionary=None, codes=None)
        assert "no dictionary" in objections(problem, nothing)


def test_false_proofs_prove_nothing(claims):
    problem, solution = solved("large")
    for P in (-1e9 * np.ones((14, 14)), 1e9 * np.ones((14, 14)), np.triu(np.ones((14, 14)))):
        cheat = change(solution, claims, dual=1.2 * solution.dual, proof=NonnegativeProof(P))
        certificate = certify(problem, cheat, tol=10.0)
        assert certificate.lower_bound <= solution.value
        assert "exceeds its limit" in " ".join(certificate.objections)


def test_a_proof_of_someone_else_s_making_is_not_asked():
    """Its methods would be the forger's own: only the kinds the referee knows may speak."""

    class Forged(NonnegativeProof):
        def polar_bound(self, gram, tau, dim, target=None):
            return 0.0

    problem, solution = solved("large")
    X = problem.X.to_numpy()
    forged = dataclasses.replace(solution, dual=X - X.mean(axis=0), proof=Forged(np.zeros((14, 14))))
    assert problem.lower_bound(forged) > solution.value  # what it would prove
    certificate = certify(problem, forged, tol=10.0)
    assert certificate.objections == ("proof is a Forged; it must be a NonnegativeProof or a SliceProof.",)
    assert np.isnan(certificate.lower_bound)


# ---------------------------------------------------------------- what cannot be computed with


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "kind"),
    [("codes", "list"), ("codes", "tensor")]  # typed fields are refused while tests check types
    + [(f, k) for f in ("bias", "dictionary", "codes", "dual") for k in ("complex", "object", "bool", "text")],
)
def test_arrays_that_are_none(name, field, kind):
    problem, solution = solved(name)
    array = getattr(solution, field)
    wrong = {
        "list": lambda: array.tolist(),
        "tensor": lambda: torch.from_numpy(array.copy()),
        "complex": lambda: array + 0j,
        "object": lambda: array.astype(object),
        "bool": lambda: array > 0,
        "text": lambda: array.astype(str),
    }[kind]()
    text = objections(problem, change(solution, False, **{field: wrong}))
    assert f"{field} is a" in text or f"{field} has dtype" in text


def test_broken_sparse_codes(name):
    problem, solution = solved(name)
    good = scipy.sparse.csr_array(solution.codes)
    for index in (-1, 10_000):
        broken = good.copy()
        broken.indices[0] = index
        assert "broken sparse array" in objections(problem, change(solution, False, codes=broken))
    assert "codes is a coo_array" in objections(problem, change(solution, False, codes=good.tocoo()))


def test_entries_given_twice_count_together(name):
    """The sum of repeated entries is what the matrix means; a negative part of it is still objected to."""
    problem, solution = solved(name)
    good = scipy.sparse.csr_array(solution.codes)
    halves = scipy.sparse.csr_array(
        (np.repeat(good.data / 2, 2), np.repeat(good.indices, 2), 2 * good.indptr), shape=good.shape
    )
    twice = change(solution, False, codes=halves)
    assert certify(problem, twice, tol=TOL[name]).is_certified
    assert halves.nnz == 2 * good.nnz  # and it was left as it came


def test_a_float16_candidate_is_evaluated_in_float64(name):
    """A lossy copy is a worse candidate, not a better one."""
    problem, solution = solved(name)
    for dtype in (np.float16, np.float32):
        lossy = {k: v.astype(dtype) for k, v in solution.arrays().items()}
        certificate = certify(problem, candidate_from(lossy, "the test"), tol=0.5)
        assert certificate.lower_bound <= solution.value
        assert certificate.value >= solution.lower_bound * (1 - 2 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("atom_cost", [0.0, 1.0])
def test_float32_codes_are_summed_in_float64(atom_cost):
    """Many small codes: a sum in the precision of the entries would put the value below the optimum."""
    X, codes = np.full((50_000, 1), 1.1), np.full((50_000, 1), 1.0, np.float32)
    problem = CandidateDictionary(X, np.eye(1), 0.1, atom_cost, bias=None)
    dense = Candidate(bias=np.zeros(1), dictionary=np.eye(1), codes=codes)
    sparse = dataclasses.replace(dense, codes=scipy.sparse.csr_array(codes + np.float32(1e-6)))
    exact = dataclasses.replace(dense, codes=(codes + np.float32(1e-6)).astype(np.float64))
    assert certify(problem, sparse).value == pytest.approx(certify(problem, exact).value, rel=1e-14)


@pytest.mark.parametrize("field", ["codes", "dual"])
def test_huge_arrays_are_objected_to_before_their_squares_overflow(field):
    problem, solution = solved("large")
    huge = np.full(getattr(solution, field).shape, 1e200)
    assert f"{field} holds" in objections(problem, change(solution, False, **{field: huge}))
    proof = SliceProof(np.full((14, 14, 14), 1e200))
    assert "proof.slices holds" in objections(problem, change(solution, False, proof=proof))


def test_what_is_no_problem_or_no_candidate_is_named():
    """Without the type checks that only the tests switch on."""
    problem, solution = solved("wide")
    unchecked: Any = inspect.unwrap(cvxsae.certify)
    with pytest.raises(InputError, match="answer is a Solution; pass the Problem"):
        unchecked(solution, problem)
    with pytest.raises(InputError, match="candidate is a ndarray; pass a Candidate or a Floor"):
        unchecked(problem, solution.bias)
    with pytest.raises(InputError, match="answer is a WideLimit; pass the candidate too"):
        unchecked(problem)
    with pytest.raises(InputError, match="answer is a ndarray; pass a Solution or a Floor"):
        unchecked(solution.bias)


def test_a_solution_is_checked_against_its_own_problem(name):
    problem, solution = solved(name)
    one, two = cvxsae.certify(solution), cvxsae.certify(problem, solution)
    assert one.to_dict() == two.to_dict()
    assert one.violation is None


# ---------------------------------------------------------------- what violates


def test_the_violation_of_a_wrong_code_names_it():
    problem, solution = solved("codes", None)
    codes = solution.codes.copy()
    n, k = (int(i) for i in np.unravel_index(codes.argmax(), codes.shape))
    codes[n, k] *= 1.5
    found = certify(problem, change(solution, False, codes=codes)).violation
    assert found is not None
    assert (found.datapoint, found.atom) == (n, k)
    np.testing.assert_allclose(found.direction, solution.dictionary[k])
    assert f"datapoint {n}, atom {k}" in str(certify(problem, change(solution, False, codes=codes)))
    codes[n, k] = 0  # too small: the correlation is above λ
    found = certify(problem, change(solution, False, codes=codes)).violation
    assert (found.datapoint, found.atom) == (n, k)
    residual = problem.residual(change(solution, False, codes=codes)).numpy()
    assert found.excess == pytest.approx(residual[n] @ solution.dictionary[k] / LAM - 1)


def test_the_violation_of_a_missing_atom_is_one_worth_adding():
    """As in SE-Sync: a failed certificate returns where to go next, here an atom that lowers the value."""
    for name in ("wide", "candidates", "large"):
        problem, solution = solved(name)
        zeros = dataclasses.replace(without_claims(solution), codes=np.zeros_like(solution.codes))
        certificate = certify(problem, dataclasses.replace(zeros, dual=None, proof=None, similarity=None))
        found = certificate.violation
        assert found is not None
        assert found.excess > 0
        direction = found.direction
        assert np.linalg.norm(direction) == pytest.approx(1)
        residual = problem.residual(zeros).numpy()
        if found.condition != "mean_n r_n = 0":
            gauge = problem.penalty.polar(torch.from_numpy(residual @ direction)[:, None])
            assert float(gauge) / LAM - 1 == pytest.approx(found.excess, rel=1e-6)


def test_the_violation_of_a_bias_points_to_the_better_one():
    problem, solution = solved("codes")
    off = change(solution, False, bias=solution.bias + 3.0)
    certificate = certify(problem, off)
    found = certificate.violation
    assert json.dumps(certificate.to_dict())
    (bias,) = violation_module._of_bias(problem, off)
    assert bias.excess == pytest.approx(certificate.bias_residual)
    step = bias.excess * LAM * bias.direction
    better = dataclasses.replace(off, bias=off.bias + step)
    assert problem.primal_value(better) < problem.primal_value(off)
    assert found.excess >= bias.excess


@pytest.mark.parametrize("tol", [-1.0, float("nan"), float("inf")])
def test_bad_tol_is_named(tol):
    problem, solution = solved("wide")
    with pytest.raises(InputError, match="tol is"):
        certify(problem, solution, tol=tol)


def test_the_tolerance_of_the_caller_counts():
    problem, solution = solved("large")
    assert certify(problem, solution, tol=0.5).is_certified
    assert "exceeds tol" in objections(problem, solution, tol=1e-15)


def test_a_bound_above_the_value_is_an_error(name, monkeypatch):
    problem, solution = solved(name)
    bounds = type(problem).bounds
    monkeypatch.setattr(type(problem), "bounds", lambda self, c: (bounds(self, c)[0], bounds(self, c)[0] * (1 + 1e-10)))
    forged = DualCheck(problem.primal_value(solution) * (1 + 1e-10), 0.0, 0.0)
    monkeypatch.setattr(
        importlib.import_module("cvxsae.validation.certify"),
        "own_check",
        lambda *_: forged if name == "large" else None,
    )
    with pytest.raises(CertificateError, match="lies above its value"):
        certify(problem, without_claims(solution))


def test_nothing_is_modified(name):
    problem, solution = solved(name)
    before = {key: np.copy(value) for key, value in solution.arrays().items() if isinstance(value, np.ndarray)}
    for array in solution.arrays().values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    assert certify(problem, solution).is_certified
    for key, value in before.items():
        np.testing.assert_array_equal(getattr(solution, key), value)


# ---------------------------------------------------------------- random attacks


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_no_random_forgery_is_certified(name, seed):
    """Whatever is certified has a value within tol of the true optimum."""
    rng = np.random.default_rng(seed)
    problem, solution = solved(name, (None, "free")[seed % 2])
    for _ in range(10):
        arrays = {}
        for field in rng.choice(["bias", "dictionary", "codes", "dual", "proof"], size=rng.integers(1, 4)):
            if field == "proof":
                size = 10.0 ** rng.uniform(-3, 3)
                kind, axes = (NonnegativeProof, 2) if rng.random() < 0.5 else (SliceProof, 3)
                arrays[field] = kind(size * rng.normal(size=(14,) * axes))
                continue
            array = getattr(solution, field)
            if array is None:
                continue
            noise = 10.0 ** rng.uniform(-9, 1) * rng.normal(size=array.shape)
            arrays[field] = array + noise if rng.random() < 0.5 else array * (1 + noise)
        try:
            certificate = certify(problem, change(solution, bool(rng.random() < 0.5), **arrays), tol=1e-3)
        except CertificateError:  # pragma: no cover
            pytest.fail("a forgery was mistaken for an error of the mathematics")
        low, high = solution.lower_bound, solution.value
        if certificate.is_certified:
            assert low * (1 - 1e-12) <= certificate.value <= high * (1 + 1e-3 + 1e-2)
        assert not certificate.lower_bound > high * (1 + 1e-12)


def test_the_referee_uses_no_solver_state(monkeypatch):
    """Only data and arrays: with the claims, history and info gone the verdict is the same."""
    problem, solution = solved("candidates")
    one, two = certify(problem, solution), certify(problem, without_claims(solution), tol=solution.tol)
    assert dataclasses.asdict(one) == dataclasses.asdict(two)
    assert isinstance(problem, Problem)


def test_the_bound_says_when_it_is_of_a_relaxation(rng):
    """In more than three dimensions the polar is only bounded, and the certificate must not claim the optimum."""
    problem = LargeDictionary(problems.gaussian(rng, 10, 4), 0.3, 2.0, bias=None)
    certificate = certify(problem, solve(problem, tol=1e-1, raise_on_failure=False))
    assert certificate.bound == "relaxation"
    assert "of the relaxation" in str(certificate)


# ---------------------------------------------------------------- codes and learned dictionaries


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return cvxsae.encode(rng.normal(size=(30, 4)), rng.normal(size=(6, 4)), 0.3, bias=0.1 * np.ones(4), tol=1e-8)


def test_codes_are_an_answer(codes):
    certificate = cvxsae.certify(codes)
    assert certificate.is_certified, str(certificate)
    assert certificate.value == pytest.approx(codes.value, rel=1e-12)
    assert certificate.lower_bound == pytest.approx(codes.lower_bound, rel=1e-9)


def test_codes_that_claim_too_much(codes):
    off = codes.codes.copy()
    off.data[0] *= 1.1
    said = " ".join(cvxsae.certify(dataclasses.replace(codes, codes=off)).objections)
    assert "1 datapoints claim another value than they attain, first" in said
    values = codes.values.copy()
    values[[2, 3]] *= [0.9, 1.1]  # the mean may be right where the rows are not
    said = " ".join(cvxsae.certify(dataclasses.replace(codes, values=values)).objections)
    assert "2 datapoints claim another value" in said
    loose = cvxsae.encode(codes.problem.X, codes.dictionary, 0.3, bias=0.1 * np.ones(4), tol=0.5)
    boast = dataclasses.replace(loose, gaps=np.zeros(30))
    assert "claim a smaller gap than their codes prove" in " ".join(cvxsae.certify(boast).objections)


def test_codes_that_were_stopped_are_true_about_it(codes):
    stopped = cvxsae.encode(codes.problem.X, codes.dictionary, 0.3, max_seconds=1e-9)
    if not stopped.done.all():
        said = cvxsae.certify(stopped).objections
        assert len(said) == 1
        assert "exceeds tol" in said[0]


@pytest.fixture(scope="module", params=["free", None])
def fit(request):
    rng = np.random.default_rng(1)
    X = problems.clustered(rng, 60, 4) + (2.0 if request.param == "free" else 0.0)
    return cvxsae.learn_dictionary(X, 3, 0.2, bias=request.param, stationarity=1e-6)


def test_a_learned_dictionary_is_an_answer(fit):
    certificate = cvxsae.certify(fit)
    assert certificate.is_certified, str(certificate)
    assert certificate.value == pytest.approx(fit.value, rel=1e-12)
    assert certificate.lower_bound == pytest.approx(fit.lower_bound, rel=1e-6)
    assert certificate.stationarity is not None
    assert certificate.stationarity < 1e-5
    assert certificate.codes_gap is not None
    assert certificate.codes_gap < 1e-8
    assert certificate.bound == "relaxation"
    assert certificate.gap > 0.01  # it does not claim to be a global optimum: asking for one is refused
    certificate = cvxsae.certify(fit, tol=1e-6)
    assert "exceeds tol" in " ".join(certificate.objections)
    violation = certificate.violation
    assert violation is not None
    assert violation.condition == "‖r_n‖ ≤ λ at every width"
    wider = np.vstack([fit.dictionary, violation.direction])  # the atom to grow by
    X, lam, bias = fit.problem.X, fit.problem.lam, fit.problem.bias
    begun = cvxsae.encode(X, wider, lam, bias=fit.bias).value
    assert begun < fit.value * (1 - 1e-6)
    assert cvxsae.learn_dictionary(X, len(wider), lam, bias=bias, init=wider, max_steps=5).value < begun


def test_a_learned_dictionary_that_claims_too_much(fit):
    def said(**changes):
        return " ".join(cvxsae.certify(dataclasses.replace(fit, **changes)).objections)

    turned = fit.dictionary.copy()
    turned[0] = (turned[0] + 0.01 * turned[1]) / np.linalg.norm(turned[0] + 0.01 * turned[1])
    text = said(dictionary=turned)
    assert "claims the value" in text
    assert "from stationary (T3); the fit claims" in text
    assert "claims to be stationary to" in text or fit.status is not cvxsae.Status.STATIONARY
    fewer = fit.codes.copy()
    fewer.data *= 0.99
    assert "The codes have a relative gap of" in said(codes=fewer)
    assert "claims the lower bound" in said(lower_bound=fit.lower_bound * 1.001)
    assert "exceeds tol" in said(status=cvxsae.Status.CERTIFIED)
    assert "off 1 by" in said(dictionary=1.01 * fit.dictionary)
    if fit.problem.bias_is_free:
        assert "The bias is" in said(bias=fit.bias + 0.01)
    other = cvxsae.JointProblem(fit.problem.X, 4, fit.problem.lam, bias=fit.problem.bias)
    assert "width is 4" in " ".join(cvxsae.certify(other, fit).objections)
