"""The same problem written in another way has exactly the value that theory says.

Data rotated, padded with zero columns, scaled, permuted or repeated; atoms repeated; rows of zeros added. Every answer
encloses its optimum, [lower bound, value], so two encodings of one problem must give intervals that meet once theory's
factor is applied. Repeating every row keeps the mean; with an atom cost it asks for twice the cost, since
θ_{2τ}((z, z)) = 2 θ_τ(z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cvxsae import CandidateDictionary, JointProblem, LargeDictionary, SparseCodes, WideLimit, encode, solve
from cvxsae.floors import spectral_floor
from cvxsae.results import Candidate
from tests.helpers import problems

N, DIM, ATOMS, LAM = 24, 5, 9, 0.4
TOL = 1e-9


@dataclass(frozen=True)
class Encoding:
    """One way to write a problem down: what it does to rows, atoms and vectors, and to λ, τ and the value."""

    rows: Callable[[np.ndarray], np.ndarray]
    atoms: Callable[[np.ndarray], np.ndarray]
    vector: Callable[[np.ndarray], np.ndarray]
    lam: float = 1.0
    atom_cost: float = 1.0
    value: float = 1.0
    only_zero_bias: bool = False


def same(array):
    """Nothing changes."""
    return array


def encodings():
    """Every encoding, by name."""
    rng = np.random.default_rng(7)
    rotation, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    order = rng.permutation(N)

    def rotate(array):
        return array @ rotation

    def pad(array):
        return np.concatenate([array, np.zeros((*array.shape[:-1], 3))], axis=-1)

    def triple(array):
        return 3.0 * array

    def shrink(array):
        return 1e-6 * array

    return {
        "rotated": Encoding(rotate, rotate, rotate),
        "padded": Encoding(pad, pad, pad),
        "scaled up": Encoding(triple, triple, triple, lam=3.0, value=9.0),
        "scaled down": Encoding(shrink, same, shrink, lam=1e-6, value=1e-12),
        "permuted": Encoding(lambda X: X[order], same, same),
        "atoms permuted": Encoding(same, lambda D: D[::-1], same),
        "atoms repeated": Encoding(same, lambda D: np.repeat(D, 2, axis=0), same),
        "atoms of other norms": Encoding(same, lambda D: D * np.linspace(0.1, 10, len(D))[:, None], same),
        "rows repeated": Encoding(lambda X: np.repeat(X, 2, axis=0), same, same, atom_cost=2.0),
        "rows of zeros": Encoding(
            lambda X: np.concatenate([X, np.zeros_like(X)]), same, same, value=0.5, only_zero_bias=True
        ),
    }


def data():
    """Rows with an offset, atoms, and a bias."""
    rng = np.random.default_rng(11)
    return rng.normal(size=(N, DIM)) + 0.3, rng.normal(size=(ATOMS, DIM)), rng.normal(size=DIM) / 3


BIASES: dict[str, Callable[[np.ndarray], Any]] = {
    "zero": lambda _: None,
    "fixed": lambda vector: vector,
    "free": lambda _: "free",
}
NAMES = sorted(encodings())


def bias_of(kind, encoding, b):
    """The bias to pass, written in the encoding."""
    if encoding.only_zero_bias and kind != "zero":
        pytest.skip("rows of zeros are the bias itself only where it is zero")
    return BIASES[kind](encoding.vector(b))


def agree(plain, other, factor, slack=2 * TOL):
    """Both enclose the same optimum: the intervals meet, up to the rounding of two sums."""
    room = slack * abs(plain.value) * factor
    assert other.lower_bound <= plain.value * factor + room
    assert plain.lower_bound * factor <= other.value + room


@pytest.mark.slow
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("name", NAMES)
def test_wide_limit(name, kind):
    (X, _, b), encoding = data(), encodings()[name]
    plain = solve(WideLimit(X, LAM, bias=BIASES[kind](b)), tol=TOL)
    other = solve(WideLimit(encoding.rows(X), LAM * encoding.lam, bias=bias_of(kind, encoding, b)), tol=TOL)
    agree(plain, other, encoding.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("name", NAMES)
def test_sparse_codes(name, kind):
    (X, D, b), encoding = data(), encodings()[name]
    plain = solve(SparseCodes(X, D, LAM, bias=BIASES[kind](b)), tol=1e-8)
    written = SparseCodes(encoding.rows(X), encoding.atoms(D), LAM * encoding.lam, bias=bias_of(kind, encoding, b))
    agree(plain, solve(written, tol=1e-8), encoding.value)


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "rows of zeros"])
def test_codes_of_every_datapoint(name, engine):
    """The objective of every single row, through each engine; rows are matched to the plain ones."""
    (X, D, b), encoding = data(), encodings()[name]
    plain = encode(X, D, LAM, bias=b, tol=1e-10, engine=engine).values
    other = encode(
        encoding.rows(X), encoding.atoms(D), LAM * encoding.lam, bias=encoding.vector(b), tol=1e-10, engine=engine
    )
    moved = {"permuted": lambda v: encoding.rows(v[:, None])[:, 0], "rows repeated": lambda v: np.repeat(v, 2)}
    expected = moved.get(name, same)(plain) * encoding.value
    np.testing.assert_allclose(other.values, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 2.0])
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("name", NAMES)
def test_candidate_dictionary(name, kind, tau):
    (X, D, b), encoding = data(), encodings()[name]
    plain = solve(CandidateDictionary(X, D, LAM, tau, bias=BIASES[kind](b)), tol=1e-7)
    written = CandidateDictionary(
        encoding.rows(X),
        encoding.atoms(D),
        LAM * encoding.lam,
        tau * encoding.atom_cost,
        bias=bias_of(kind, encoding, b),
    )
    agree(plain, solve(written, tol=1e-7), encoding.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero", "free"])
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("atoms")])
def test_large_dictionary(name, kind):
    """Its bound and the dictionary found enclose the optimum; where the relaxation is loose they still must meet."""
    (X, _, b), encoding = data(), encodings()[name]
    X, tau = X[:10], 1.5
    encoding_rows = (lambda rows: rows[::-1]) if name == "permuted" else encoding.rows
    plain = solve(LargeDictionary(X, LAM, tau, bias=BIASES[kind](b)), tol=1e-4, raise_on_failure=False)
    written = LargeDictionary(
        encoding_rows(X), LAM * encoding.lam, tau * encoding.atom_cost, bias=bias_of(kind, encoding, b)
    )
    other = solve(written, tol=1e-4, raise_on_failure=False)
    agree(plain, other, encoding.value)
    assert other.lower_bound == pytest.approx(plain.lower_bound * encoding.value, rel=2e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("atoms repeated", "rows of zeros")])
def test_joint_problem_and_spectral_floor(name):
    """F of one dictionary and code matrix, and the floor of T10, move as the problem does."""
    (X, D, b), encoding = data(), encodings()[name]
    codes = encode(X, D, LAM, bias=b, tol=1e-12)
    written = JointProblem(encoding.rows(X), ATOMS, LAM * encoding.lam, bias=encoding.vector(b))
    again = encode(written.X, encoding.atoms(D), written.lam, bias=encoding.vector(b), tol=1e-12)
    atoms = problems.unit(encoding.atoms(D))
    found = written.primal_value(Candidate(dictionary=atoms, codes=again.codes, bias=encoding.vector(b)))
    assert found == pytest.approx(codes.value * encoding.value, rel=1e-9)
    plain = spectral_floor(X, 2, LAM, bias=b).value
    floor = spectral_floor(written.X, 2, written.lam, bias=encoding.vector(b)).value
    assert floor == pytest.approx(plain * encoding.value, rel=1e-9)


def test_a_wrong_factor_is_seen():
    """Negative control: the intervals of two problems that are not the same do not meet."""
    X, _, _ = data()
    plain, other = (solve(WideLimit(X, lam), tol=TOL) for lam in (LAM, 1.01 * LAM))
    with pytest.raises(AssertionError):
        agree(plain, other, 1.0)
