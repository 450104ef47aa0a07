"""Derivatives of F(D, b) at exact codes (T3, T5): finite differences, planted saddles, known curvatures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxsae import encode
from cvxsae.relaxations.joint.curvature import Curvature
from tests.helpers import problems


def at(X, D, lam, bias=None, *, free=False, codes=None, device=None):
    """The curvature at exact codes."""
    codes = encode(X, D, lam, bias=bias, tol=1e-13).codes if codes is None else codes
    return Curvature(
        torch.from_numpy(X),
        torch.from_numpy(D),
        lam,
        codes,
        bias=None if bias is None else torch.from_numpy(bias),
        bias_is_free=free,
        device=device,
    )


def turned(D, direction, t):
    """Along great circles: every atom turned by t·‖Δ_k‖ towards Δ_k; and the derivative of that."""
    speed = np.linalg.norm(direction, axis=1, keepdims=True)
    axis = direction / np.where(speed > 0, speed, 1)
    return np.cos(t * speed) * D + np.sin(t * speed) * axis


def problem(seed, *, n=40, d=6, K=10, lam=0.15):
    rng = np.random.default_rng(seed)
    X, D = problems.gaussian(rng, n, d), problems.unit(rng.normal(size=(K, d)))
    bias = 0.2 * rng.normal(size=d)
    direction = rng.normal(size=(K, d))
    direction -= D * (D * direction).sum(axis=1, keepdims=True)
    shift = rng.normal(size=d)
    norm = np.sqrt((direction**2).sum() + (shift**2).sum())
    return X, D, lam, bias, direction / norm, shift / norm


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_finite_differences_of_f(seed, device):
    """T5: first and second differences of F along great circles agree to 1e-5, and so do those of the gradient."""
    X, D, lam, b, direction, shift = problem(seed)
    here = at(X, D, lam, b, free=True, device=device)
    assert here.is_regular
    assert here.value == pytest.approx(encode(X, D, lam, bias=b, tol=1e-13).value, rel=1e-11)
    gradient, pull = (part.cpu().numpy() for part in here.gradient())
    image, bent = (part.cpu().numpy() for part in here.product(torch.from_numpy(direction), torch.from_numpy(shift)))
    step = 3e-5
    ahead, behind = (at(X, turned(D, direction, t), lam, b + t * shift, free=True) for t in (step, -step))
    first = np.sum(gradient * direction) + pull @ shift
    second = np.sum(image * direction) + bent @ shift
    assert (ahead.value - behind.value) / (2 * step) == pytest.approx(first, rel=1e-5)
    assert (ahead.value + behind.value - 2 * here.value) / step**2 == pytest.approx(second, rel=1e-5, abs=2e-6)
    # The whole vector: the gradient's change, projected on the tangent space where we are.
    change = (ahead.gradient()[0] - behind.gradient()[0]).numpy() / (2 * step)
    change -= D * (D * change).sum(axis=1, keepdims=True)
    assert np.abs(change - image).max() < 1e-5 * np.abs(image).max()
    assert np.abs((ahead.gradient()[1] - behind.gradient()[1]).numpy() / (2 * step) - bent).max() < 1e-5


def test_a_wrong_term_would_be_seen():
    """The negative control of the differences: without the code moves dz they disagree."""
    X, D, lam, b, direction, shift = problem(0)
    here = at(X, D, lam, b, free=True)
    image, bent = here.product(torch.from_numpy(direction), torch.from_numpy(shift))
    frozen = here
    frozen._solver.batches = [(slots, 0 * inverse) for slots, inverse in frozen._solver.batches]
    other, turn = frozen.product(torch.from_numpy(direction), torch.from_numpy(shift))
    second = float((image * torch.from_numpy(direction)).sum() + bent @ torch.from_numpy(shift))
    assert abs(float((other * torch.from_numpy(direction)).sum() + turn @ torch.from_numpy(shift)) / second - 1) > 1e-2


def test_the_product_is_symmetric_and_blind_to_what_is_not_tangent(rng):
    X, D, lam, b, direction, shift = problem(3)
    here = at(X, D, lam, b, free=True)
    other = torch.from_numpy(rng.normal(size=D.shape))
    pull = torch.from_numpy(rng.normal(size=D.shape[1]))
    image, bent = here.product(torch.from_numpy(direction), torch.from_numpy(shift))
    back, turn = here.product(other, pull)
    left = (image * other).sum() + bent @ pull
    right = (back * torch.from_numpy(direction)).sum() + turn @ torch.from_numpy(shift)
    assert float(left) == pytest.approx(float(right), rel=1e-10)
    assert float((image * here.dictionary).sum(dim=1).abs().max()) < 1e-12
    radial = torch.from_numpy(direction) + 3 * here.dictionary
    assert torch.allclose(here.product(radial, torch.from_numpy(shift))[0], image, atol=1e-13)


def test_the_polish_makes_codes_exact(rng):
    X, D, lam, _, _, _ = problem(1)
    rough = encode(X, D, lam, tol=1e-6).codes
    support = encode(X, D, lam, tol=1e-13).codes
    assert (rough.indices.shape == support.indices.shape) and (rough.indices == support.indices).all()
    here = at(X, D, lam, codes=rough)
    correlations = here.residuals.numpy() @ D.T
    rows, columns = here.indices.numpy()
    assert np.abs(correlations[rows, columns] - lam).max() < 1e-13
    correlations[rows, columns] = -np.inf
    assert here.least_slack == pytest.approx(1 - correlations.max() / lam)
    assert here.least_code == pytest.approx(float(here.codes.min()) / lam)


@pytest.mark.parametrize("free", [False, True])
def test_a_planted_saddle_is_found_and_left(free, rng):
    """One atom at the mean of two orthogonal directions: stationary by symmetry, a maximum along the turn.

    F(turned by t) = ½ − ¼[(cos(45° + t) − λ)² + (sin(45° + t) − λ)²], whose second derivative is −λ/√2.
    """
    lam, d = 0.1, 5
    X = np.eye(d)[:2]
    X = np.vstack([X, -X]) if free else X  # symmetric about the bias 0
    D = np.vstack([X[0] + X[1], -X[0] - X[1]])[: 2 if free else 1] / np.sqrt(2)
    here = at(X, D, lam, np.zeros(d), free=free)
    gradient, pull = here.gradient()
    assert gradient.abs().max() < 1e-15
    assert not free or pull.abs().max() < 1e-15
    turn = torch.zeros((len(D), d), dtype=torch.float64)
    turn[0, :2] = torch.tensor([1.0, -1.0]) / np.sqrt(2)
    if not free:
        assert float((here.product(turn)[0] * turn).sum()) == pytest.approx(-lam / np.sqrt(2))
    least = here.least()
    assert least.converged
    assert least.eigenvalue < -0.5
    assert least.curvature < 0
    move, shift = least.direction.numpy(), np.zeros(d) if least.bias_direction is None else least.bias_direction.numpy()
    assert np.sum(move**2) + np.sum(shift**2) == pytest.approx(1)
    step = 1e-2
    after = encode(X, turned(D, move, step), lam, bias=step * shift, tol=1e-13).value
    assert after - here.value == pytest.approx(least.curvature * step**2 / 2, rel=1e-2)


def test_a_minimum_has_none(rng):
    """C1: the global minimizer {v1, w} of the nested pair, curvature positive in every direction."""
    v1, v2 = np.eye(4)[:2]
    X = np.vstack([v1, v1 + v2])
    D = np.vstack([v1, (v1 + v2) / np.sqrt(2)])
    here = at(X, D, 0.1)
    assert here.value == pytest.approx(0.11571068, abs=1e-8)
    assert here.gradient()[0].abs().max() < 1e-15
    least = here.least()
    assert least.eigenvalue > 0.1
    assert least.curvature > 0


def test_lanczos_finds_the_least_eigenvalue_of_the_matrix(rng):
    X, D, lam, b, _, _ = problem(2, n=60, d=8, K=14)
    for free in (False, True):
        here = at(X, D, lam, b, free=free)
        size = D.size + (8 if free else 0)
        matrix = np.empty((size, size))
        for column, unit in enumerate(np.eye(size)):
            rows, shift = unit[: D.size].reshape(D.shape), unit[D.size :]
            image, bent = here.product(torch.from_numpy(rows), torch.from_numpy(shift) if free else None)
            matrix[:, column] = np.concatenate([image.numpy().ravel(), bent.numpy()[: len(shift)]])
        metric = np.concatenate([np.repeat(lam * here.mass.numpy(), 8), np.ones(8 if free else 0)])
        scaled = matrix / np.sqrt(np.outer(metric, metric))
        tangent = np.zeros((size, size))
        for k, atom in enumerate(D):
            block = slice(8 * k, 8 * k + 8)
            tangent[block, block] = np.outer(atom, atom) * 1e3  # radial directions out of the way
        expected = np.linalg.eigvalsh((scaled + scaled.T) / 2 + tangent)[0]
        least = here.least(tol=1e-8, products=2000)
        assert least.converged
        assert least.eigenvalue == pytest.approx(expected, rel=1e-6)
        assert least.residual <= 1e-8
        rough = here.least(products=3)
        assert not rough.converged
        assert rough.eigenvalue >= expected - 1e-9


def test_dead_atoms_are_left_out(rng):
    X = np.abs(problems.gaussian(rng, 30, 4))
    D = np.vstack([np.eye(4), -np.ones((1, 4)) / 2])  # the last never fires
    here = at(X, D, 0.2)
    assert here.live.tolist() == [True, True, True, True, False]
    least = here.least(tol=1e-8)
    assert not least.direction[4].any()
    assert least.eigenvalue != 0
    nothing = at(X, -np.eye(4), 0.2)
    assert nothing.least().eigenvalue == np.inf
    assert nothing.least_code == np.inf


def test_irregular_points_are_reported(rng):
    """Duplicate atoms make F kink; so does an atom exactly at λ."""
    X = np.array([[1.0, 0], [0, 1]])
    D = np.array([[1.0, 0], [1, 0], [0, 1]])
    codes = sp.csr_array(np.array([[0.4, 0.5, 0], [0, 0, 0.9]]))
    here = at(X, D, 0.1, codes=codes)
    assert here.singular == 1
    assert not here.is_regular
    assert np.allclose(here.codes.numpy(), [0.4, 0.5, 0.9])
    edge = at(np.array([[1.0, 0.1]]), np.eye(2), 0.1, codes=sp.csr_array(np.array([[0.9, 0]])))
    assert edge.least_slack == pytest.approx(0, abs=1e-15)
    wrong = at(np.array([[1.0, 0.5]]), np.eye(2), 0.1, codes=sp.csr_array(np.array([[0.9, 0]])))
    assert wrong.least_slack < -1
    assert not wrong.is_regular
