"""Codes against independent solvers and against the definition, their certificates against float64 arithmetic."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cvxsae.errors import InputError
from cvxsae.relaxations.solution import Status
from cvxsae.solvers.codes.encode import encode
from cvxsae.solvers.codes.engines import screening


def unit(rng, K, d):
    D = rng.standard_normal((K, d))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def referee(X, D, lam, codes, bias=None):
    """Value and lower bound per datapoint, from the definition: (P) and theory.md (1), dense, float64."""
    Z = np.asarray(codes.todense())
    assert (Z >= 0).all()
    X = X if bias is None else X - bias
    R = X - Z @ D
    value = 0.5 * (R**2).sum(1) + lam * Z.sum(1)
    top = (R @ D.T).max(1)
    square = (R**2).sum(1)
    best = np.divide((X * R).sum(1), square, out=np.ones(len(X)), where=square > 0)
    scale = np.clip(np.minimum(best, np.divide(lam, top, out=np.full(len(X), np.inf), where=top > 0)), 0, None)
    Y = R * scale[:, None]
    assert ((Y @ D.T).max(1) <= lam + 1e-14 * np.linalg.norm(Y, axis=1)).all()
    return value, (Y * X).sum(1) - 0.5 * (Y**2).sum(1)


def rational_solution(matrix, right):
    """Gauss–Jordan elimination without rounding; None for a singular matrix."""
    rows = [[*row, entry] for row, entry in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next((k for k in range(i, len(rows)) if rows[k][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def rational_bound(x, D, lam, z):
    """A lower bound of one datapoint's optimum in rational arithmetic: the optimum itself if z has its support."""
    x, z = ([Fraction(float(entry)) for entry in row] for row in (x, z))
    lam, atoms = Fraction(lam), [[Fraction(float(entry)) for entry in row] for row in D]

    def dot(a, b):
        return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))

    held = [k for k in range(len(z)) if z[k] > 0]
    solved = rational_solution(
        [[dot(atoms[i], atoms[j]) for j in held] for i in held], [dot(atoms[i], x) - lam for i in held]
    )
    best = Fraction(0)
    for codes in ([z[k] for k in held], solved or []):
        r = [x[j] - sum(code * atoms[k][j] for code, k in zip(codes, held, strict=False)) for j in range(len(x))]
        top = max(dot(atom, r) for atom in atoms)  # the dual point s·r is feasible for s·top ≤ λ: T1
        if any(r):
            scale = max(Fraction(0), min([dot(x, r) / dot(r, r)] + ([lam / top] if top > 0 else [])))
            best = max(best, scale * dot(x, r) - scale**2 * dot(r, r) / 2)
    return best


def check(X, D, lam, result, tol, bias=None):
    value, bound = referee(X, D, lam, result.codes, bias)
    slack = 1e-13 * value + 1e-14 * (X**2).sum(1)  # the rounding of the referee itself
    np.testing.assert_allclose(result.values, value, rtol=1e-10, atol=1e-300)
    # The certificate is a proof: what it claims is never more than what dense float64 arithmetic finds. At a tiny λ
    # the dense residual is all rounding; where it objects, rational arithmetic decides, and allows nothing.
    claims = result.values * (1 - result.gaps)
    for n in np.flatnonzero(claims > bound + 1e-12 * value + slack):
        z = result.codes[[n]].toarray().ravel()
        exact = rational_bound(X[n] if bias is None else X[n] - bias, D, lam, z)
        assert Fraction(float(result.values[n])) * (1 - Fraction(float(result.gaps[n]))) <= exact
    assert (value - bound <= tol * value + 1e-12 * value).all()
    assert result.status is Status.CERTIFIED
    assert (result.gaps <= tol).all()
    assert result.lower_bound <= result.value


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-9, 1e-12])
def test_every_gap_is_certified(tol):
    rng = np.random.default_rng(0)
    X, D = rng.standard_normal((150, 24)), unit(rng, 200, 24)
    check(X, D, 0.4, encode(X, D, 0.4, tol=tol), tol)


@pytest.mark.slow
def test_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    X, D = rng.standard_normal((12, 20)), unit(rng, 60, 20)
    codes = encode(X, D, 0.3, tol=1e-11).codes.toarray()
    for x, z in zip(X, codes, strict=True):
        lasso = linear_model.Lasso(alpha=0.3 / 20, positive=True, fit_intercept=False, tol=1e-13, max_iter=100_000)
        np.testing.assert_allclose(z, lasso.fit(D.T, x).coef_, atol=1e-6)


def best_by_enumeration(x, D, lam):
    best = 0.5 * x @ x
    for size in range(1, len(x) + 1):
        for support in combinations(range(len(D)), size):
            A = D[list(support)]
            gram = A @ A.T
            if np.linalg.cond(gram) > 1e10:
                continue
            z = np.linalg.solve(gram, A @ x - lam)
            if (z >= 0).all():
                best = min(best, 0.5 * ((x - z @ A) ** 2).sum() + lam * z.sum())
    return best


def test_agrees_with_enumeration_of_supports():
    rng = np.random.default_rng(2)
    X, D = rng.standard_normal((6, 3)), unit(rng, 8, 3)
    result = encode(X, D, 0.2, tol=1e-12)
    np.testing.assert_allclose(result.values, [best_by_enumeration(x, D, 0.2) for x in X], rtol=1e-11)


def test_value_is_the_written_objective():
    rng = np.random.default_rng(3)
    X, D, b = rng.standard_normal((40, 10)), unit(rng, 30, 10), rng.standard_normal(10)
    result = encode(X, D, 0.5, bias=b, tol=1e-8)
    Z = result.codes.toarray()
    written = sum(0.5 * np.linalg.norm(x - b - z @ D) ** 2 + 0.5 * z.sum() for x, z in zip(X, Z, strict=True)) / 40
    assert result.value == pytest.approx(written, rel=1e-12)
    check(X, D, 0.5, result, 1e-8, b)


def test_row_norms_are_folded_exactly():
    rng = np.random.default_rng(4)
    X, D = rng.standard_normal((30, 12)), unit(rng, 40, 12)
    norms = 10.0 ** rng.uniform(-3, 3, 40)
    plain, scaled = encode(X, D, 0.3, tol=1e-10), encode(X, D * norms[:, None], 0.3, tol=1e-10)
    np.testing.assert_allclose(scaled.codes.toarray(), plain.codes.toarray(), atol=1e-9)
    np.testing.assert_allclose(
        scaled.for_own_rows().toarray() @ (D * norms[:, None]), plain.codes.toarray() @ D, atol=1e-9
    )


@pytest.mark.parametrize("d, K", [(8, 3), (8, 8), (4, 300), (1, 1), (1, 2), (70, 33), (5, 4097)])
def test_shapes(d, K):
    rng = np.random.default_rng(d * K)
    X, D = rng.standard_normal((20, d)), unit(rng, K, d)
    check(X, D, 0.2, encode(X, D, 0.2, tol=1e-9), 1e-9)


@pytest.mark.parametrize("ratio", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("K", [10, 40, 150])
def test_small_penalties_and_full_supports(ratio, K):
    rng = np.random.default_rng(5)
    X, D = rng.standard_normal((20, 20)), unit(rng, K, 20)
    check(X, D, ratio, encode(X, D, ratio, tol=1e-7), 1e-7)


def test_penalty_at_and_above_the_largest():
    rng = np.random.default_rng(6)
    X, D = rng.standard_normal((30, 10)), unit(rng, 40, 10)
    top = float((X @ D.T).max())
    for lam in (top, top * (1 + 1e-9), 10 * top):
        result = encode(X, D, lam, tol=1e-10)
        assert result.codes.nnz == 0
        np.testing.assert_allclose(result.values, 0.5 * (X**2).sum(1), rtol=1e-12)
        check(X, D, lam, result, 1e-10)
    below = encode(X, D, top * (1 - 1e-3), tol=1e-10)
    assert below.codes.nnz == 1
    assert below.lambda_ratio == pytest.approx(1 - 1e-3, rel=1e-12)
    assert below.lambda_max == pytest.approx(top, rel=1e-14)


def test_duplicate_near_duplicate_antipodal_and_dead_atoms():
    rng = np.random.default_rng(7)
    base = unit(rng, 60, 24)
    near = base[:20] + 1e-6 * rng.standard_normal((20, 24))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    dead = np.zeros((1, 24))
    dead[0, 0] = 1.0
    D = np.vstack([base, base[:20], near, -base[:10], dead])
    X = np.abs(rng.standard_normal((80, 5))) @ base[:5] + 0.3 * rng.standard_normal((80, 24))
    X[:, 0] = -np.abs(X[:, 0])
    result = encode(X, D, 0.1, tol=1e-6)
    check(X, D, 0.1, result, 1e-6)
    for row in range(len(X)):  # an atom that entered a working set twice would appear twice
        indices = result.codes.indices[result.codes.indptr[row] : result.codes.indptr[row + 1]]
        assert len(set(indices.tolist())) == len(indices)


def test_zero_rows_and_duplicate_rows():
    rng = np.random.default_rng(8)
    X, D = rng.standard_normal((9, 6)), unit(rng, 12, 6)
    X[2], X[5] = 0.0, X[4]
    result = encode(X, D, 0.2, tol=1e-9)
    check(X, D, 0.2, result, 1e-9)
    assert result.values[2] == 0.0
    assert result.gaps[2] == 0.0
    np.testing.assert_array_equal(result.codes[[4]].toarray(), result.codes[[5]].toarray())


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
def test_units_do_not_matter(scale):
    rng = np.random.default_rng(9)
    X, D = rng.standard_normal((20, 8)), unit(rng, 30, 8)
    plain, scaled = encode(X, D, 0.2, tol=1e-9), encode(X * scale, D, 0.2 * scale, tol=1e-9)
    np.testing.assert_allclose(scaled.codes.toarray() / scale, plain.codes.toarray(), atol=1e-8)
    assert scaled.status is Status.CERTIFIED


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_data_types(dtype):
    rng = np.random.default_rng(10)
    X, D = torch.from_numpy(rng.standard_normal((25, 16))).to(dtype), torch.from_numpy(unit(rng, 40, 16)).to(dtype)
    result = encode(X, D, 0.3, tol=1e-8)
    exact = D.to(torch.float64).numpy()
    check(X.to(torch.float64).numpy(), exact / np.linalg.norm(exact, axis=1, keepdims=True), 0.3, result, 1e-8)


def test_batches_and_files_give_the_same_codes(tmp_path):
    rng = np.random.default_rng(11)
    X, D = rng.standard_normal((50, 8)).astype(np.float32), unit(rng, 20, 8)
    np.save(tmp_path / "x.npy", X)
    expected = encode(X, D, 0.3, tol=1e-8).codes.toarray()
    for form in (tmp_path / "x.npy", iter([X[:20], X[20:]]), np.load(tmp_path / "x.npy", mmap_mode="r")):
        np.testing.assert_allclose(encode(form, D, 0.3, tol=1e-8).codes.toarray(), expected, atol=1e-12)


def test_warm_start_needs_one_pass_and_gives_the_same_value():
    rng = np.random.default_rng(12)
    X, D = rng.standard_normal((200, 24)), unit(rng, 200, 24)
    cold = encode(X, D, 0.4, tol=1e-8)
    warm = encode(X, D, 0.4, tol=1e-8, warm_start=cold)
    assert warm.passes_max <= 2
    assert warm.passes_mean < cold.passes_mean
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-8)
    rough = sp.csr_array(cold.codes.toarray().astype(np.float16).astype(np.float64))
    assert encode(X, D, 0.4, tol=1e-8, warm_start=rough).passes_max <= 2
    check(X, D, 0.4, encode(X, D, 0.4, tol=1e-8, warm_start=sp.csr_array(np.ones((200, 200)))), 1e-8)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perturbed_code_is_not_certified(sign):
    rng = np.random.default_rng(13)
    X, D = rng.standard_normal((40, 12)), unit(rng, 50, 12)
    result = encode(X, D, 0.3, tol=1e-9)
    worse = result.codes.copy()
    worse.data *= 1 + 0.01 * sign
    value, bound = referee(X, D, 0.3, worse)
    active = np.diff(worse.indptr) > 0
    assert ((value - bound)[active] > 1e-7 * value[active]).all()


def enclosed_case(seed, d, K, integers):
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (7, d)).astype(float) if integers else rng.standard_normal((7, d))
    D = rng.integers(-1, 2, (K, d)).astype(float) if integers else rng.standard_normal((K, d))
    D[~D.any(axis=1)] = 1.0  # integers make ties, duplicates and antipodes
    return X, D / np.linalg.norm(D, axis=1, keepdims=True)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.floats(-4, 1), st.booleans())
@example(8388609, 9, 28, -4.0, True)
def test_bounds_enclose(seed, d, K, exponent, integers):
    X, D = enclosed_case(seed, d, K, integers)
    lam = 10.0**exponent
    check(X, D, lam, encode(X, D, lam, tol=1e-6), 1e-6)


@pytest.mark.parametrize("table_share", [400, 0])
def test_at_a_tiny_penalty_claims_hold_in_rational_arithmetic_and_overclaims_are_seen(table_share, monkeypatch):
    """λ = 1e-4 and codes of 350: the dual point is the residual as computed, which rounding moves off x − zD."""
    monkeypatch.setattr(screening, "TABLE_SHARE", table_share)
    X, D = enclosed_case(8388609, 9, 28, integers=True)
    result = encode(X, D, 1e-4, tol=1e-6)
    for x, z, value, gap in zip(X, result.codes.toarray(), result.values, result.gaps, strict=True):
        exact = rational_bound(x, D, 1e-4, z)
        assert Fraction(float(value)) * (1 - Fraction(float(gap))) <= exact
        assert float(exact) == pytest.approx(value, rel=1e-6)  # of any use
    with pytest.raises(AssertionError):  # nine digits of the value claimed too much, where float64 sees nothing wrong
        check(X, D, 1e-4, replace(result, gaps=-1e-9 + 0 * result.gaps), 1e-6)


def test_blocks_threads_and_memory_do_not_change_the_answer():
    rng = np.random.default_rng(14)
    X, D = rng.standard_normal((700, 16)), unit(rng, 500, 16)
    small = encode(X, D, 0.3, tol=1e-10, memory_limit=2**20)
    np.testing.assert_allclose(small.codes.toarray(), encode(X, D, 0.3, tol=1e-10).codes.toarray(), atol=1e-8)
    before = torch.get_num_threads()
    encode(X, D, 0.3)
    assert torch.get_num_threads() == before


def test_report():
    rng = np.random.default_rng(15)
    X, D = rng.standard_normal((30, 8)), unit(rng, 20, 8)
    result = encode(X, D, 0.3)
    Z = result.codes.toarray()
    assert result.l0 == pytest.approx((Z > 0).sum(1).mean())
    assert result.lambda_ratio == pytest.approx(0.3 / (X @ D.T).max())
    assert result.passes_mean <= result.passes_max <= result.rounds
    assert result.points_per_second > 0
    assert torch.allclose(result.to_torch(dtype=torch.float64).to_dense(), torch.from_numpy(Z))
    assert "certified" in repr(result)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bias": "free"}, "SparseCodes"),
        ({"lam": 0.0}, "above zero"),
        ({"tol": 1e-20}, "relative gap"),
        ({"engine": "abacus"}, "choose one of"),
        ({"device": "nowhere"}, "pass 'cpu'"),
        ({"warm_start": np.zeros((3, 4))}, "sparse array"),
        ({"warm_start": sp.csr_array((2, 2))}, "3 datapoints"),
        ({"dictionary": np.ones((4, 5))}, "dimension 2"),
        ({"X": np.full((3, 2), np.nan)}, "NaN"),
    ],
)
def test_rejections_say_what_to_do(change, words):
    arguments = {"X": np.ones((3, 2)), "dictionary": np.eye(2), "lam": 0.1} | change
    with pytest.raises(InputError, match=words):
        encode(arguments.pop("X"), arguments.pop("dictionary"), arguments.pop("lam"), **arguments)
