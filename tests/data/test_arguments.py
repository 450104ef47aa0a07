"""Bad input: one sentence that names the argument."""

import numpy as np
import pytest
import torch

from cvxsae import Activations, InputError
from cvxsae.data import arguments, tensors
from tests.helpers.sentences import rejects

BAD_DATA = {
    "nan": (np.array([[0.0, 1.0], [np.nan, 2.0]]), r"X holds 1 NaN or infinite value\(s\), the first in row 1"),
    "inf": (np.array([[np.inf, 1.0], [-np.inf, 2.0]]), r"X holds 2 NaN or infinite value\(s\), the first in row 0"),
    "nan beside inf": (
        np.array([[1.0, np.nan], [np.inf, 1.0]]),
        r"X holds 2 NaN or infinite value\(s\), the first in row 0",
    ),
    "nan half": (torch.full((2, 2), torch.nan, dtype=torch.bfloat16), "X holds 4 NaN"),
    "overflow": (np.full((1, 4), 1e308), "X holds values so large"),
    "empty rows": (np.zeros((0, 3)), r"X has shape \(0, 3\) and so is empty"),
    "empty columns": (np.zeros((3, 0)), r"X has shape \(3, 0\) and so is empty"),
    "empty list": ([], r"X has shape \(0,\)"),
    "1-D": (np.arange(3.0), r"X has shape \(3,\); it must be two-dimensional.*reshape it to \(1, 3\)"),
    "1-D integers": (np.arange(3), r"X has shape \(3,\)"),
    "0-D": (np.array(1.0), r"X has shape \(\)"),
    "3-D": (np.zeros((2, 2, 2)), r"X has shape \(2, 2, 2\)"),
    "complex": (np.zeros((2, 2), dtype=complex), "X has dtype complex128"),
    "complex tensor": (torch.zeros(2, 2, dtype=torch.complex64), "X has dtype complex64"),
    "float8": (torch.zeros(2, 2).to(torch.float8_e4m3fn), "X has dtype float8_e4m3fn"),
    "strings": (np.array([["a"]]), "X has dtype <U1"),
    "objects": (np.array([[object()]], dtype=object), "X has dtype object"),
    "dates": (np.zeros((1, 1), dtype="datetime64[s]"), "X has dtype datetime64"),
    "ragged": ([[1.0, 2.0], [3.0]], "X cannot be read as an array .*rows of equal length"),
    "masked": (np.ma.masked_invalid([[np.nan, 1.0]]), "X is a masked array"),
    "masked integers": (np.ma.masked_equal([[2, 1]], 1), "X is a masked array"),
    "sparse tensor": (torch.eye(2).to_sparse(), "X is a sparse, quantized"),
    "meta tensor": (torch.zeros(2, 2, device="meta"), "X is a sparse, quantized, nested or empty-shell"),
    "dict": (iter({"a": 1}), r"X \(batch 0\) is a str"),
    "no batches": (iter([]), "X yields no rows"),
}


@pytest.mark.parametrize("value, message", BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_is_rejected(value, message):
    with rejects(message):
        Activations(value)


def test_scipy_sparse_is_rejected():
    from scipy import sparse

    with rejects("X is a sparse csr_array; pass a dense array"):
        tensors.matrix(sparse.csr_array(np.eye(2)), "X")


def test_zero_rows_and_duplicates_are_legal():
    assert Activations(np.zeros((3, 2))).shape == (3, 2)


@pytest.mark.parametrize(
    "value, message",
    [
        (0, "lam is 0; it must be above zero"),
        (-1.5, "lam is -1.5; it must be above zero"),
        (np.nan, "lam is nan; it must be finite"),
        (np.inf, "lam is inf; it must be finite"),
        ("much", "lam is 'much'; it must be a number"),
        (None, "lam is None; it must be a number"),
        ([1, 2], "lam is .*; it must be a number"),
    ],
)
def test_penalty_must_be_positive(value, message):
    with rejects(message):
        arguments.positive(value, "lam")


@pytest.mark.parametrize("value", [1e-170, 1e-320, 1e170])
def test_penalty_must_have_a_square(value):
    """Values of (P) have the size of λ²: one that vanishes would certify anything with a gap of zero."""
    with rejects("lam is .*; rescale the data and lam alike"):
        arguments.penalty(value, "lam")
    assert arguments.penalty(1e-130, "lam") == 1e-130


def test_numbers_pass():
    assert arguments.positive(np.float32(0.5), "lam") == 0.5
    assert arguments.positive(torch.tensor(0.5), "lam") == 0.5
    assert arguments.nonnegative(0, "atom_cost") == 0
    assert arguments.count(np.int64(3), "n_atoms") == 3
    with rejects("atom_cost is -1; it must be zero or more"):
        arguments.nonnegative(-1, "atom_cost")
    with rejects("n_atoms is 0; it must be a whole number of at least 1"):
        arguments.count(0, "n_atoms")
    with rejects("n_atoms is 2.5; it must be a whole number"):
        arguments.count(2.5, "n_atoms")


def test_atoms_are_scaled_to_norm_one(rng):
    given = rng.standard_normal((5, 3)) * np.array([[1e-200], [1e130], [1.0], [3.0], [1e-3]])
    before = given.copy()
    unit, norms = tensors.unit_rows(given, "dictionary", 3)
    np.testing.assert_allclose(torch.linalg.vector_norm(unit, dim=1), 1, rtol=1e-14)
    np.testing.assert_allclose(unit * norms[:, None], given, rtol=1e-14)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "atoms, message",
    [
        (np.array([[1.0, 0.0], [0.0, 0.0]]), r"dictionary has a zero atom \(row 1\)"),
        (np.ones((4, 3)), r"dictionary has shape \(4, 3\) but the data has dimension 2"),
        (np.ones((2, 3)), ".*its second axis must be 2 .transpose it"),
        (np.ones(2), r"dictionary has shape \(2,\); it must be two-dimensional, one atom a row"),
        (np.array([[np.nan, 1.0]]), "dictionary holds 1 NaN"),
        (np.zeros((0, 2)), "dictionary has shape .* is empty; pass at least one atom"),
    ],
)
def test_bad_dictionary_is_rejected(atoms, message):
    with rejects(message):
        tensors.unit_rows(atoms, "dictionary", 2)


def test_a_path_is_not_a_matrix():
    with rejects("dictionary is the text 'sae.safetensors::W_dec'; pass numbers .cvxsae.data.read_array opens a file"):
        tensors.unit_rows("sae.safetensors::W_dec", "dictionary", 3)


def test_bias():
    assert arguments.bias_vector(None, 2) is None
    assert arguments.bias_vector("free", 2) == "free"
    given = np.array([1, 2])
    fixed = arguments.bias_vector(given, 2)
    assert isinstance(fixed, torch.Tensor)
    assert fixed.dtype == torch.float64
    fixed += 1
    np.testing.assert_array_equal(given, [1, 2])
    with rejects("bias is 'fre'; pass None"):
        arguments.bias_vector("fre", 2)
    with rejects(r"bias has shape \(3,\) but the data has dimension 2"):
        arguments.bias_vector(np.zeros(3), 2)
    with rejects("bias holds 1 NaN"):
        arguments.bias_vector([np.nan, 1.0], 2)


def test_choice():
    assert arguments.choice("a", "solver", ("a", "b")) == "a"
    with rejects("solver is 'c'; choose one of a, b"):
        arguments.choice("c", "solver", ("a", "b"))


def test_device():
    assert arguments.compute_device(None) == torch.device("cpu")
    assert arguments.compute_device("cpu") == torch.device("cpu")
    with rejects("device is 'gpu'; pass 'cpu'"):
        arguments.compute_device("gpu")
    with rejects("device is 'meta', which has no float64"):
        arguments.compute_device("meta")
    with rejects("device is 'cuda:99'"):
        arguments.compute_device("cuda:99")


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
