"""Codes are a Solution: of their problem, saved and read again, believed only as far as the arrays prove."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.errors import InputError
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.solution import Solution, Status
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.result import Codes
from cvxsae.validation.certify import certify
from tests.solvers.codes.test_encode import check, unit


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    X, D, b = rng.standard_normal((200, 12)), unit(rng, 40, 12), rng.standard_normal(12)
    return X, D, b, encode(X, D * 2, 0.3, bias=b, tol=1e-8)


def test_codes_are_a_solution_of_their_problem(made):
    _, D, b, codes = made
    assert isinstance(codes, Solution)
    assert isinstance(codes.problem, SparseCodes)
    assert (codes.lam, codes.is_certified, codes.objections) == (0.3, True, ())  # type: ignore[attr-defined]
    np.testing.assert_allclose(codes.dictionary, D, atol=1e-15)  # type: ignore[arg-type]
    np.testing.assert_array_equal(codes.bias, b)
    np.testing.assert_allclose(codes.atom_norms, 2.0)  # type: ignore[attr-defined]
    assert codes.value == pytest.approx(codes.problem.primal_value(codes), rel=1e-12)
    assert certify(codes.problem, codes, tol=1e-7).is_certified
    assert codes.to_dict()["l0"] == codes.l0  # type: ignore[attr-defined]
    assert "\n" not in repr(codes)
    assert "lower bound" in str(codes)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saved_codes_are_certified_again(made, tmp_path, suffix):
    X, D, b, codes = made
    read = Codes.load(codes.save(tmp_path / f"codes{suffix}"), codes.problem)
    np.testing.assert_array_equal(read.codes.toarray(), codes.codes.toarray())
    np.testing.assert_allclose(read.values, codes.values, rtol=1e-13)
    assert read.status is Status.CERTIFIED
    assert read.tol == 1e-8
    check(X, D, 0.3, read, 1e-8, b)


def test_no_number_in_a_file_is_believed(made, tmp_path):
    *_, codes = made
    path = codes.save(tmp_path / "codes.npz")
    held = dict(read_arrays(path))
    changed = held["codes"].copy()  # type: ignore[union-attr]
    changed.data *= 1.5  # type: ignore[misc, operator]
    read = Codes.load(write_arrays(path, held | {"codes": changed}), codes.problem)
    assert read.status is Status.STALLED
    assert read.value > codes.value
    assert read.lower_bound <= codes.value
    assert not read.done.all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"codes": sp.csr_array(-np.ones((200, 40)))}, "negative"),
        ({"codes": sp.csr_array(np.full((200, 40), np.nan))}, "not fit"),
        ({"codes": sp.csr_array(np.ones((200, 39)))}, "shape"),
        ({"bias": np.zeros(12)}, "another bias"),
        ({"dictionary": np.ones((40, 12))}, "not fit"),
    ],
)
def test_files_that_do_not_fit_are_refused(made, tmp_path, change, words):
    *_, codes = made
    path = codes.save(tmp_path / "codes.npz")
    with pytest.raises(InputError, match=words):
        Codes.load(write_arrays(path, dict(read_arrays(path)) | change), codes.problem)


def test_other_problems_are_refused(made, tmp_path):
    X, D, _, codes = made
    path = codes.save(tmp_path / "codes.npz")
    for problem in (WideLimit(X, 0.3), SparseCodes(X, D, 0.3, bias="free")):
        with pytest.raises(InputError, match="fixed bias"):
            Codes.load(path, problem)


def test_a_changed_copy_keeps_the_rest(made):
    *_, codes = made
    other = replace(codes, status=Status.INTERRUPTED)
    assert (other.status, other.value) == (Status.INTERRUPTED, codes.value)


@pytest.mark.parametrize("options", [{"out": "here"}, {"group": None}, {"max_steps": 3}, {"seed": 1}])
def test_options_are_honored_or_refused(options):
    with pytest.raises(InputError, match="not an option here"):
        encode(np.ones((3, 2)), np.eye(2), 0.1, **options)
