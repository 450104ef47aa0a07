"""The spectral floor (T10)."""

from __future__ import annotations

import numpy as np
import pytest

from cvxsae import InputError, SparseCodes, WideLimit
from cvxsae.relaxations.floors.spectral import spectral_floor
from tests.helpers import problems
from tests.helpers.problems import solve


def low_rank(rng, n=40, d=6, rank=2):
    """Data near a plane."""
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + 0.05 * rng.normal(size=(n, d))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 4, 6, 12])
@pytest.mark.parametrize("lam", [1e-3, 0.3, 2.0])
@pytest.mark.parametrize("bias", [None, "mean"])
def test_no_dictionary_of_that_width_goes_below(width, lam, bias, rng):
    X = low_rank(rng)
    b = X.mean(axis=0) if bias == "mean" else None
    floor = spectral_floor(X, width, lam, bias=b)
    centered = X if b is None else X - b
    axes = np.linalg.svd(centered)[2]
    signed = np.vstack([axes, -axes])[:width]  # PCA-like: the ones that come close
    for atoms in (signed, *(rng.normal(size=(width, 6)) for _ in range(3)), centered[:width]):
        value = solve(SparseCodes(X, atoms, lam, bias=b), raise_on_failure=False).value
        assert floor.value <= value
    assert (floor.n_atoms, floor.lam, floor.theorem) == (width, lam, "T10")


def test_equation_six(rng):
    X, lam, b = problems.gaussian(rng, 20, 5), 0.4, rng.normal(size=5)
    for width in (1, 3):
        centered = X - b
        w = np.clip(1 - lam / np.linalg.norm(centered, axis=1), 0, None) ** 2
        eigenvalues = np.linalg.eigvalsh((centered * w[:, None]).T @ centered)[::-1][:width]
        expected = (np.sum(centered**2) / 2 - eigenvalues.sum() / 2) / 20
        assert spectral_floor(X, width, lam, bias=b).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("width", [5, 6, 100])
def test_enough_atoms_reach_the_wide_limit(width, rng):
    X, b = problems.gaussian(rng, 30, 5), rng.normal(size=5)
    floor = spectral_floor(X, width, 0.4, bias=b).value
    wide = solve(WideLimit(X, 0.4, bias=b)).value
    assert floor == pytest.approx(wide, rel=1e-10)
    assert floor <= wide


def test_informative_for_few_atoms(rng):
    X = low_rank(rng)
    wide = solve(WideLimit(X, 0.1, bias=None)).value
    floors = [spectral_floor(X, k, 0.1).value for k in range(1, 7)]
    assert floors[0] > 2 * wide
    assert (np.diff(floors) <= 0).all()


def test_awkward_data(rng):
    assert spectral_floor(np.zeros((3, 2)), 1, 0.5).value == 0
    assert spectral_floor(np.ones((1, 1)), 1, 0.5).value == pytest.approx(0.375)
    tiny, huge = (spectral_floor(s * low_rank(rng), 2, s * 0.1).value / s**2 for s in (1e-12, 1e12))
    assert tiny > 0
    assert huge > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 0}, "lam is 0"),
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"bias": "free"}, "'free'"),
        ({"bias": np.zeros(3)}, "bias has shape"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        spectral_floor(**{"X": np.ones((4, 2)), "lam": 0.5, "n_atoms": 1, **arguments})
