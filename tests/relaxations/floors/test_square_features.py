"""The kernel t² without its matrix: the same products, shares and sums of eigenvalues, and bounds that stay above."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvxsae.relaxations.floors import kernels as bound
from cvxsae.relaxations.floors import square_features as square
from cvxsae.relaxations.floors.square_features import SquareFeatures
from tests.helpers.problems import unit


@pytest.fixture
def case(rng):
    V = torch.from_numpy(unit(rng.normal(size=(90, 5)) + 0.5))
    w = torch.from_numpy(rng.gamma(1.0, size=90))
    w[::9] = 0
    return SquareFeatures(V), w, bound.kernel_matrix(V, w, bound.kernel(2))


def largest(matrix: torch.Tensor, count: int) -> float:
    return float(torch.linalg.eigvalsh(matrix).flip(0)[:count].sum())


def test_products_are_those_of_the_kernel_matrix(case, rng, monkeypatch):
    features, w, matrix = case
    columns = torch.from_numpy(rng.normal(size=(90, 4)))
    for entries in (square.BLOCK_ENTRIES, 200):
        monkeypatch.setattr(square, "BLOCK_ENTRIES", entries)
        torch.testing.assert_close(features.product(w, columns), matrix @ columns)
    torch.testing.assert_close(features.vector_product(w, columns[:, 0]), matrix @ columns[:, 0])


def test_features_have_the_kernel_and_its_shares(case):
    features, w, matrix = case
    blocks = torch.cat([block for _, block in features.features()])
    torch.testing.assert_close(blocks @ blocks.T, (features.directions @ features.directions.T) ** 2)
    moment = features.moment(w)
    assert moment.shape == (square.n_features(5),) * 2
    for count in (1, 4, 15):
        assert largest(moment, count) == pytest.approx(largest(matrix, count))
    vectors = torch.linalg.eigh(moment).eigenvectors[:, -4:]
    assert float(w @ features.shares(vectors)) == pytest.approx(largest(moment, 4))


@pytest.mark.parametrize("count", [1, 4, 14, 15, 40])
def test_the_limit_of_the_features_is_above_and_near(case, count):
    features, w, matrix = case
    exact = largest(matrix, count)
    assert exact <= square.feature_share_limit(features, w, count) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("quality", ["random", "near", "exact"])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_limit_of_products_is_above_whatever_the_basis(case, count, quality, rng):
    features, w, matrix = case
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, : count + 3]
    noise = torch.from_numpy(rng.normal(size=vectors.shape))
    basis = {"random": noise, "near": vectors + 1e-3 * noise, "exact": vectors}[quality]
    exact = largest(matrix, count)
    found = square.operator_share_limit(features, w, count, basis.float(), seed=3)
    assert exact <= found
    assert found <= exact * {"random": np.inf, "near": 1.01, "exact": 1.001}[quality]


def test_a_largest_eigenvalue_that_is_too_low_is_noticed(case, monkeypatch):
    """The bound of products stands on that eigenvalue: were it left out, the sum would come out below the truth."""
    features, w, matrix = case
    basis = torch.linalg.eigh(matrix).eigenvectors[:, :6]  # the wrong end of the spectrum
    assert square.operator_share_limit(features, w, 4, basis, seed=0) >= largest(matrix, 4)
    monkeypatch.setattr(square, "largest_eigenvalue_limit", lambda *_: 1e-12)
    assert square.operator_share_limit(features, w, 4, basis, seed=0) < largest(matrix, 4)


def test_a_basis_that_is_not_orthonormal_is_charged(case, monkeypatch):
    """A basis a little too short would make every eigenvalue that it catches too small."""
    features, w, matrix = case
    basis, exact = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :12], largest(matrix, 8)
    sound = square.operator_share_limit(features, w, 8, basis, seed=0)
    assert exact <= sound <= exact * (1 + 1e-6)
    for length in (1 - 1e-4, 1 + 1e-4):
        monkeypatch.setattr(torch.linalg, "qr", lambda columns, short=length: (short * columns, None))
        assert exact <= square.operator_share_limit(features, w, 8, basis, seed=0)
    monkeypatch.setattr(torch.linalg, "qr", lambda columns: ((1 - 1e-4) * columns, None))
    monkeypatch.setattr(square, "_apart", lambda _: 0.0)
    assert square.operator_share_limit(features, w, 8, basis, seed=0) < exact  # the control


@pytest.mark.parametrize("kind", ["flat", "gap", "rank one", "zero"])
@pytest.mark.parametrize("steps", [20, 60, 200])
def test_lanczos_bounds_the_largest_eigenvalue(kind, steps, rng):
    n = 300
    spectrum = {
        "flat": np.linspace(0.9, 1.0, n),
        "gap": np.r_[np.full(n - 1, 0.1), 1.0],
        "rank one": np.r_[np.zeros(n - 1), 1.0],
        "zero": np.zeros(n),
    }[kind]
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = torch.from_numpy(turn * spectrum @ turn.T)
    for seed in range(5):
        found = square.largest_eigenvalue_limit(lambda z: matrix @ z, n, seed, steps)
        assert found >= spectrum.max() * (1 - 1e-13)
        if steps == 200:
            assert found <= spectrum.max() * 1.01 + 1e-12


def test_one_start_that_misses_is_not_enough():
    """The identity but for one direction, of which the first start has next to nothing: its steps end early."""
    n, seed = 20_000, 3
    start = torch.from_numpy(np.random.default_rng([seed, square._STREAM]).standard_normal(n))
    start = start / start.norm()
    hidden = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = hidden - (hidden @ start) * start
    hidden = hidden / hidden.norm() + 2e-12 * start
    hidden = hidden / hidden.norm()

    def product(vector: torch.Tensor) -> torch.Tensor:
        return vector + hidden * (hidden @ vector)

    assert square._lanczos(product, start, 200).is_early and square._lanczos(product, start, 200).ritz < 1.1
    assert 2 <= square.largest_eigenvalue_limit(product, n, seed) <= 2.1


def test_starts_are_independent_of_what_the_search_drew(case):
    """The operator is made from a basis of the same seed; the theorem wants a start that knows nothing of it."""
    seed, n = 5, 90
    drawn = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = torch.from_numpy(np.random.default_rng([seed, square._STREAM]).standard_normal(n))
    assert abs(float(drawn @ other)) < 0.5 * float(drawn.norm() * other.norm())


def test_more_atoms_than_columns_or_no_weights_leave_the_mass(case, rng):
    features, w, _ = case
    basis = torch.from_numpy(rng.normal(size=(90, 4)))
    assert square.operator_share_limit(features, w, 6, basis, seed=0) == pytest.approx(float(w.sum()))
    assert square.operator_share_limit(features, 0 * w, 2, basis, seed=0) == 0
