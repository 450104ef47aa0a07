"""Kernels, cones and eigenvalues: each lemma of T14 and T15 against dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cvxsae import InputError
from cvxsae.relaxations.floors import kernels as bound
from tests.helpers.problems import huber, unit


def cheapest(x, D, lam, sweeps=150):
    """φ(x) for a dictionary, by coordinate descent."""
    z, gram, b = np.zeros(len(D)), D @ D.T, D @ x - lam
    for _ in range(sweeps):
        for k in range(len(D)):
            z[k] = max(0.0, z[k] + b[k] - gram[k] @ z)
    residual = x - z @ D
    return 0.5 * residual @ residual + lam * z.sum()


def share(v, D, k):
    """``‖Πψ(v)‖²`` as written."""
    return float(k(D @ v) @ np.linalg.lstsq(k(D @ D.T), k(D @ v), rcond=None)[0])


@pytest.mark.parametrize("value", [1, 2, 3, {2: 0.5, 3: 0.5}, {1: 3.0, 4: 1.0}])
def test_kernels_are_what_they_say(value):
    k = bound.kernel(value)
    t = torch.linspace(-1, 1, 11, dtype=torch.float64)
    expected = sum(c * t.numpy() ** p for p, c in zip(k.powers, k.coefficients, strict=True))
    np.testing.assert_allclose(k(t.clone()).numpy(), expected, atol=1e-15)
    assert float(k(torch.ones(1, dtype=torch.float64))) == pytest.approx(1, abs=1e-15)
    assert bound.kernel(k) is k


def test_exponential_kernel():
    k = bound.exponential_kernel(2.0)
    t = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(k(torch.from_numpy(t)), np.expm1(2 * t) / np.expm1(2), atol=1e-12)
    assert not k.one_parity
    assert "t^3" in str(k)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "is 0"),
        ({}, "powers is empty"),
        ({2: 0.0}, "one of the coefficients in kernels is 0"),
        ({2: -1}, "is -1"),
    ],
)
def test_kernels_that_cannot_be_used(value, message):
    with pytest.raises(InputError, match=message):
        bound.kernel(value)


def test_a_power_named_twice():
    with pytest.raises(InputError, match="twice"):
        bound.ZonalKernel((2, 2), (0.5, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("value", [1, 2, 3, {2: 0.5, 3: 0.5}])
@pytest.mark.parametrize("ratio", [0.03, 0.3, 0.8])
def test_no_dictionary_is_cheaper_than_its_cell(value, ratio, rng):
    k = bound.kernel(value)
    lower = bound.shares(k).numpy()
    for _ in range(25):
        d, atoms = rng.integers(2, 5), rng.integers(1, 5)
        x = unit(rng.normal(size=(1, d)))[0]
        D = unit(rng.normal(size=(atoms, d)) + rng.choice([0, 1, 3]) * x)
        q = share(x, D, lambda t: np.asarray(k(torch.as_tensor(t).clone())))
        cell = max(0, int(np.searchsorted(lower, q * (1 - 1e-9))) - 1)
        cost = bound.least_costs(torch.ones(1, dtype=torch.float64), ratio, k)[0, cell]
        assert float(cost) <= cheapest(x, D, ratio) * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [0, 1, 77, 336, 337, 398, 399])
def test_slopes_cover_every_atom_on_the_cone(cell, rng):
    """Exact points of (6d), worst tilts and shares included, against the table."""
    slopes, stretch = (a.numpy() for a in bound.cone_slopes())
    first, last = ((cell + i) ** 4 / bound.CELLS**4 for i in (0, 1))
    kappa = np.sqrt(stretch[cell] ** 2 - 1)
    edges = np.sin(np.linspace(0, np.pi / 2, slopes.shape[1] + 1))
    spread = 0.25 if first < 0.5 < last else max(first * (1 - first), last * (1 - last))
    for q in (first, last, rng.uniform(first, last)):
        for part in (0.0, 1.0, 1 - 1e-9, *rng.random(4)):
            gamma = part * math.sqrt(q * (1 - q) / 2)
            rho = math.sqrt(max(q * (1 - q) - 2 * gamma**2, 0))
            c = np.append(rng.random(400), [1e-9, 1.0]) * q**0.25
            reach = np.sqrt(1 - c**2)
            with np.errstate(divide="ignore", invalid="ignore"):
                p = np.minimum((rho * (1 - c**2) - (1 - q) * c**2) / (2 * gamma * c), reach)
            kept = p >= -reach
            tilt = min(int(np.searchsorted(edges * math.sqrt(spread / 2), gamma)), slopes.shape[1])
            for near in {max(tilt - 1, 0), min(tilt, slopes.shape[1] - 1)} if gamma == 0 else {max(tilt - 1, 0)}:
                worst = (c[kept][:, None] + kappa[near] * p[kept][:, None]).max(axis=0, initial=0)
                assert (np.maximum(worst, kappa[near]) <= slopes[cell, near] * (1 + 1e-12)).all()


@pytest.mark.slow
@pytest.mark.parametrize("both_signs", [False, True])
@pytest.mark.parametrize("ratio", [0.1])
def test_atoms_that_aim_at_a_low_cost_for_their_share(ratio, both_signs):
    """Descent on atoms and codes together towards the least φ/Ψ: it comes close to T15 and never below."""
    generator = torch.Generator().manual_seed(0)
    k = bound.kernel(2)
    costs, ends = bound.least_costs(torch.ones(1, dtype=torch.float64), ratio, k)[0], bound.shares(k)
    atoms = torch.randn((60, 3, 3), generator=generator, dtype=torch.float64)
    atoms[:, :, 0] = 1
    atoms.requires_grad_()
    codes = torch.rand((60, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.Adam([atoms, codes], lr=0.02)
    closest = math.inf
    for _ in range(100):
        D = atoms / torch.linalg.vector_norm(atoms, dim=2, keepdim=True)
        z = codes if both_signs else codes.square()
        residual = torch.eye(3, dtype=torch.float64)[0] - (z[:, :, None] * D).sum(dim=1)
        cost = residual.square().sum(dim=1) / 2 + ratio * z.abs().sum(dim=1)
        gram, products = (D @ D.transpose(1, 2)).square(), D[:, :, 0].square()
        q = (products * torch.linalg.solve(gram + 1e-12 * torch.eye(3), products)).sum(dim=1)
        above = torch.searchsorted(ends, q.detach()).clamp(1, bound.CELLS - 1)
        part = (q - ends[above - 1]) / (ends[above] - ends[above - 1])
        loss = cost / (costs[above - 1] * (1 - part) + costs[above] * part)
        sound = torch.linalg.eigvalsh(gram.detach())[:, 0] > 1e-6
        cell = (torch.searchsorted(ends, q.detach() * (1 + 1e-5), right=True) - 1).clamp(0, bound.CELLS - 1)
        assert bool((cost / costs[cell]).detach()[sound].min() >= 1 - 1e-9)
        busy = sound & (q.detach() < 0.9) & (costs[cell] > 1.03 * costs[-1])
        closest = min(closest, float((cost / costs[cell]).detach()[busy].min())) if bool(busy.any()) else closest
        steps.zero_grad()
        loss.sum().backward()
        steps.step()
    assert closest < 1.1


def two_atoms(ratio, steps=160):
    """Costs and shares (for t²) of pairs of atoms either side of x in a plane: close to the cheapest there are."""
    first, second = np.meshgrid(np.linspace(0.01, 1.5, steps), np.linspace(0.01, 2.8, steps), indexing="ij")
    c, e, g = np.cos(first), np.cos(second), np.cos(first + second)
    single = 0.5 - 0.5 * np.maximum(np.maximum(c, e) - ratio, 0) ** 2
    z = ((c - ratio) - g * (e - ratio)) / (1 - g**2), ((e - ratio) - g * (c - ratio)) / (1 - g**2)
    both = np.where((z[0] > 0) & (z[1] > 0), 0.5 - 0.5 * (z[0] * (c - ratio) + z[1] * (e - ratio)), np.inf)
    q = (c**4 - 2 * g**2 * c**2 * e**2 + e**4) / (1 - g**4)
    return np.minimum(single, both).ravel(), q.ravel()


@pytest.mark.parametrize("ratio", [0.05, 0.08, 0.2])
def test_the_cone_is_nearly_sharp(ratio):
    costs, q = two_atoms(ratio)
    k = bound.kernel(2)
    cells = bound.least_costs(torch.ones(1, dtype=torch.float64), ratio, k)[0].numpy()
    radial = bound._best_multiple(torch.ones(1), ratio * bound.CELLS / torch.arange(1, bound.CELLS + 1))
    ends = np.append(bound.shares(k).numpy(), 1.0)[1:]
    for cell in range(150, 390, 40):
        attained = costs[q <= ends[cell]].min()
        assert cells[cell] <= attained  # no lower bound of the least cost at this share or less is above one attained
        assert cells[cell] >= 0.93 * attained
        assert cells[cell] >= float(radial[cell]) * (1 - 1e-6)
        assert cell < 200 or cells[cell] > 1.02 * float(radial[cell])  # T15 beats T14


def test_costs_fall_with_the_share_and_end_at_the_wide_limit():
    lengths = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)
    for value in (1, 2, 3):
        costs = bound.least_costs(lengths, 0.1, bound.kernel(value))
        assert bool((costs.diff(dim=1) <= 1e-12).all())
        wide = torch.from_numpy(huber(lengths.numpy(), 0.1))
        assert bool((costs >= wide[:, None] * (1 - 1e-13)).all())
        assert bool((costs <= lengths[:, None].square() / 2).all())


@pytest.mark.parametrize("value", [1, 2, 3, {1: 0.5, 2: 0.5}])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_shares_stay_below_their_limit(value, width, rng):
    k = bound.kernel(value)
    for _ in range(20):
        V = unit(rng.normal(size=(12, 3)))
        w = rng.uniform(0, 2, 12) * (rng.random(12) < 0.8)
        D = unit(rng.normal(size=(width, 3))) if rng.random() < 0.5 else V[:width]
        limit = bound.share_limit(torch.from_numpy(V), torch.from_numpy(w), k, width)
        q = [share(v, D, lambda t: np.asarray(k(torch.as_tensor(t).clone()))) for v in V]
        assert w @ q <= limit * (1 + 1e-9)
        closest = np.maximum(D @ V.T, 0).max(axis=0)
        assert w @ np.asarray(k(torch.from_numpy(closest))) ** 2 <= limit * (1 + 1e-9)


def test_the_limit_is_an_upper_bound_of_exact_eigenvalues():
    V = torch.eye(4, dtype=torch.float64)
    w = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    for width, exact in ((1, 4), (2, 7), (3, 9), (4, 10), (9, 10)):
        limit = bound.share_limit(V, w, bound.kernel(2), width)
        assert exact <= limit <= exact * (1 + 1e-12)
    assert bound.share_limit(V, 0 * w, bound.kernel(2), 2) == 0


def test_inner_minimum_as_written(rng):
    costs, ends, w = rng.random((5, 7)), np.sort(rng.random(7)), rng.random(5)
    found = bound.inner_minimum(*(torch.from_numpy(a) for a in (costs, ends, w)))
    np.testing.assert_allclose(found.values, [(costs[n] + w[n] * ends).min() for n in range(5)])
    np.testing.assert_allclose(found.shares, [ends[(costs[n] + w[n] * ends).argmin()] for n in range(5)])


def test_ratio_grid_covers():
    for least in (0.9, 0.5, 1e-3, 1e-30):
        grid = bound.ratio_grid(least)
        assert float(grid[0]) <= least
        assert float(grid[-1]) == 1
        assert math.isclose(float(grid[-2]), 2**-0.25)
