"""Growing a dictionary: the best new atom (T7) and the best split (T8)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxsae import InputError, encode
from cvxsae.relaxations.joint import refinement
from cvxsae.relaxations.joint.refinement import (
    best_new_atoms,
    refinement_gain,
    residual_starts,
    split_atom,
    split_scores,
)
from tests.helpers import problems


def coded(rng, *, n=60, d=6, K=9, lam=0.2):
    """Data, a random dictionary, and exact codes with their residuals."""
    X, D = problems.gaussian(rng, n, d), problems.unit(rng.normal(size=(K, d)))
    codes = encode(X, D, lam, tol=1e-12).codes
    return X, D, codes, X - codes @ D


def written_gain(R, lam, u):
    return np.mean(0.5 * np.clip(R @ u - lam, 0, None) ** 2)


def written_score(R, z, v):
    return np.mean(z * np.abs(R @ v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gain_is_the_decrease_with_other_codes_held(dtype, device, rng):
    X, D, codes, R = coded(rng)
    lam, Z = 0.2, codes.toarray()
    U = problems.unit(rng.normal(size=(5, 6)))
    gains = refinement_gain(torch.tensor(R, dtype=dtype, device=device), lam, torch.tensor(U, dtype=dtype).to(device))
    before = problems.primal(X, 0.0, D, Z, lam)
    for u, gain in zip(U, gains.cpu().numpy(), strict=True):
        z_new = np.clip(R @ u - lam, 0, None)  # the best code of u alone
        after = problems.primal(X, 0.0, np.vstack([D, u]), np.column_stack([Z, z_new]), lam)
        assert gain == pytest.approx(before - after, rel=1e-9 if dtype == torch.float64 else 1e-4)
        assert gain == pytest.approx(written_gain(R, lam, u), rel=1e-9 if dtype == torch.float64 else 1e-4)
        # With every code free to move, F falls by at least as much.
        assert encode(X, np.vstack([D, u]), lam, tol=1e-12).value <= before - gain + 1e-7


@pytest.mark.slow
def test_the_search_is_monotone_and_never_below_its_start(rng):
    R = torch.from_numpy(coded(rng)[3])
    starts = torch.randn((20, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    unit = starts / starts.norm(dim=1, keepdim=True)
    previous = refinement_gain(R, 0.2, unit)
    for iterations in range(1, 8):
        atoms, gains = best_new_atoms(R, 0.2, starts, iterations=iterations, rtol=0)
        assert (gains >= previous).all()
        assert torch.allclose(gains, refinement_gain(R, 0.2, atoms), rtol=1e-12)
        assert torch.allclose(atoms.norm(dim=1), torch.ones(20, dtype=torch.float64))
        previous = gains
    assert gains.max() > 1.5 * refinement_gain(R, 0.2, unit).median()


def test_the_best_of_a_planted_direction(rng):
    u = problems.unit(rng.normal(size=(1, 8)))[0]
    R = 0.02 * rng.normal(size=(300, 8))
    R[:100] += rng.uniform(0.5, 1, (100, 1)) * u
    R = torch.from_numpy(R)
    starts = residual_starts(R, 0.1, 12, seed=3)
    atoms, gains = best_new_atoms(R, 0.1, starts)
    best = int(gains.argmax())
    assert abs(float(atoms[best] @ torch.from_numpy(u))) > 0.999
    grid = torch.nn.functional.normalize(torch.randn((4000, 8), dtype=torch.float64), dim=1)
    assert gains[best] >= refinement_gain(R, 0.1, grid).max()


@pytest.mark.slow
def test_blocks_are_the_same_as_a_whole(rng):
    R = torch.from_numpy(coded(rng)[3])
    starts = residual_starts(R, 0.2, 7)
    whole = best_new_atoms(R, 0.2, starts)
    blocks = best_new_atoms(lambda: R.split(17), 0.2, starts)
    assert torch.allclose(whole[0], blocks[0], atol=1e-10)
    assert torch.allclose(whole[1], blocks[1])


def test_short_residuals_have_nothing_to_gain(rng):
    """T7: ``max ‖r_n‖ ≤ λ`` is optimality among dictionaries of every width."""
    R = torch.from_numpy(0.3 * problems.unit(rng.normal(size=(40, 5))))
    assert residual_starts(R, 0.3 + 1e-12, 4).shape == (0, 5)
    starts = torch.eye(5, dtype=torch.float64)
    atoms, gains = best_new_atoms(R, 0.3, starts)
    assert torch.equal(atoms, starts)
    assert not gains.any()
    assert (best_new_atoms(R, 0.29, residual_starts(R, 0.29, 4))[1] > 0).all()  # and the converse


def test_starts_are_long_residuals(rng):
    R = torch.from_numpy(rng.normal(size=(50, 4)) * np.linspace(0.1, 2, 50)[:, None])
    starts = residual_starts(R, 0.5, 10, seed=0)
    lengths = R.norm(dim=1)
    rows = [(int((R / lengths[:, None] @ s).argmax())) for s in starts]
    assert len(set(rows)) == 10
    assert all(lengths[row] > 0.5 for row in rows)
    assert rows[0] == int(lengths.argmax())
    assert torch.equal(starts, residual_starts(R, 0.5, 10, seed=0))
    assert not torch.equal(starts, residual_starts(R, 0.5, 10, seed=1))


# ---------------------------------------------------------------------------------------------- splits


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_split_lowers_f_at_the_rate_of_its_score(seed):
    """T8: the measured decrease of F at exact codes agrees with the score to 1 % at ε = 1e-3."""
    rng = np.random.default_rng(seed)
    X, D, codes, R = coded(rng)
    scores, directions = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D))
    base, step = encode(X, D, 0.2, tol=1e-13).value, 1e-3
    order = np.argsort(-scores.numpy())
    for k in order[:3]:
        halves = split_atom(torch.from_numpy(D), int(k), directions[k], step)
        decrease = base - encode(X, halves, 0.2, tol=1e-13).value
        assert decrease / step == pytest.approx(float(scores[k]), rel=1e-2)


def test_another_direction_falls_more_slowly(rng):
    """The negative control of the rate: a random direction predicts its own rate, not the score."""
    X, D, codes, R = coded(rng)
    scores, directions = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D))
    k = int(scores.argmax())
    v = rng.normal(size=6)
    v -= (v @ D[k]) * D[k]
    v -= 0.9 * (v @ directions[k].numpy()) * directions[k].numpy()
    v /= np.linalg.norm(v)
    halves = split_atom(torch.from_numpy(D), k, torch.from_numpy(v), 1e-3)
    base = encode(X, D, 0.2, tol=1e-13).value
    rate = (base - encode(X, halves, 0.2, tol=1e-13).value) / 1e-3
    assert rate == pytest.approx(written_score(R, codes.toarray()[:, k], v), rel=1e-2)
    assert rate < 0.9 * float(scores[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_what_their_directions_attain(dtype, device, rng):
    _, D, codes, R = coded(rng)
    scores, directions = split_scores(torch.tensor(R, dtype=dtype, device=device), codes, torch.from_numpy(D))
    rel = 1e-10 if dtype == torch.float64 else 1e-4
    for k in range(len(D)):
        v, z = directions[k].cpu().double().numpy(), codes.toarray()[:, k]
        assert np.linalg.norm(v) == pytest.approx(1, rel=rel)
        assert abs(v @ D[k]) < 10 * rel
        assert float(scores[k]) == pytest.approx(written_score(R, z, v), rel=rel)


def test_scores_are_close_to_the_best_of_many_directions(rng):
    """In the plane orthogonal to an atom of R³ the best direction can be found by trying them all."""
    _, D, codes, R = coded(rng, d=3, K=4, n=80)
    scores, _ = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D))
    angles = np.linspace(0, np.pi, 2001)
    for k in range(4):
        plane = np.linalg.svd(D[k : k + 1])[2][1:]
        circle = np.outer(np.cos(angles), plane[0]) + np.outer(np.sin(angles), plane[1])
        every = (codes.toarray()[:, k, None] * np.abs(R @ circle.T)).mean(axis=0)
        assert float(scores[k]) >= every.max() * (1 - 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), d=st.integers(2, 6))
def test_the_split_search_is_monotone(seed, n, d):
    rng = np.random.default_rng(seed)
    D = problems.unit(rng.normal(size=(3, d)))
    codes = sp.csr_array(rng.uniform(0, 1, (n, 3)) * (rng.random((n, 3)) < 0.6))
    R = torch.from_numpy(rng.normal(size=(n, d)))
    previous = torch.zeros(3, dtype=torch.float64)
    for iterations in (0, 1, 2, 5, 20):
        scores, _ = split_scores(R, codes, torch.from_numpy(D), iterations=iterations, rtol=0)
        assert (scores >= previous * (1 - 1e-12)).all()
        previous = scores


def test_a_subset_in_any_order_and_atoms_too_dense_to_gather(rng, monkeypatch):
    _, D, codes, R = coded(rng)
    every, directions = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D), starts=2)
    chosen = np.array([7, 0, 3])
    some, along = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D), atoms=chosen, starts=2)
    assert torch.allclose(some, every[chosen], rtol=1e-9)
    assert torch.allclose((along * directions[chosen]).sum(dim=1).abs(), torch.ones(3, dtype=torch.float64))
    monkeypatch.setitem(refinement._GATHER_ENTRIES, "cpu", 30)
    streamed, _ = split_scores(torch.from_numpy(R), codes, torch.from_numpy(D), starts=2)
    assert torch.allclose(streamed, every, rtol=1e-9)
    with pytest.raises(InputError, match="outside 0 to 8"):
        split_scores(torch.from_numpy(R), codes, torch.from_numpy(D), atoms=np.array([9]))


def test_dead_atoms_and_residuals_along_the_atom_score_zero():
    D = torch.eye(3, dtype=torch.float64)
    codes = sp.csr_array(np.array([[1.0, 0, 0], [2.0, 1, 0], [0.0, 1, 0]]))
    R = torch.tensor([[0.1, 0, 0], [0.1, 0.1, 0.3], [0, 0.1, -0.3]], dtype=torch.float64)
    scores, directions = split_scores(R, codes, D)
    # Orthogonal to atom 0 only datapoint 1 leaves anything, (0.1, 0.3) with code 2; for atom 1 it is (0.1, 0.3) and
    # (0, −0.3), which add up to (0.1, 0.6) with opposite signs; atom 2 is dead.
    assert scores.tolist() == pytest.approx([2 * np.sqrt(0.1) / 3, np.sqrt(0.37) / 3, 0.0])
    assert not directions[2].any()
    assert split_scores(0.1 * D, sp.csr_array(np.eye(3)), D)[0].abs().max() < 1e-15
