"""Global optima: known ones, those of a grid, encodings of the same problem, and proofs that are none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvxsae import Status, certify, encode, learn_dictionary, solve_globally
from cvxsae.penalties import (
    L0,
    L1,
    ElasticNet,
    Log,
    Matryoshka,
    Orthogonality,
    Signed,
    SquaredSum,
    TopOne,
    Tree,
    radial_bound,
)
from cvxsae.solvers.global_search.boxes import Boxes
from cvxsae.solvers.global_search.branch_and_bound import Search
from cvxsae.solvers.global_search.penalties import cost_of
from tests.helpers.sentences import rejects

NESTED = np.array([[1.0, 0.0], [1.0, 1.0]])
TOL = 1e-6


def degrees(dictionary):
    return np.sort(np.rad2deg(np.arctan2(dictionary[:, 1], dictionary[:, 0])))


@pytest.mark.parametrize("lam", [0.1, 0.4])
def test_c1_is_absorbed_and_unique(lam):
    theta, p = np.deg2rad(60), 0.3
    both = np.array([1 + np.cos(theta), np.sin(theta)])
    found = solve_globally([[1.0, 0.0], both], 2, lam, weights=[1 - p, p])
    rho = np.linalg.norm(both)
    assert found.value == pytest.approx((1 - p) * (lam - lam**2 / 2) + p * (rho * lam - lam**2 / 2), abs=1e-12)
    assert found.gap <= TOL and found.are_all and len(found.minimizers) == 1
    assert degrees(found.dictionary) == pytest.approx([0, 30], abs=1e-4)
    assert certify(found).is_certified


@pytest.mark.parametrize(
    "penalty", [L1(), Signed(), L0(), TopOne(), SquaredSum(), Log(0.3)], ids=lambda one: type(one).__name__
)
def test_t16_the_absorbed_dictionary_reaches_the_bound_at_any_angle_and_probability(penalty):
    rng = np.random.default_rng(16)
    for theta, p, lam in rng.uniform([0.05, 0, 0.01], [3.0, 1, 1.5], size=(200, 3)):
        both = np.array([1 + np.cos(theta), np.sin(theta)])
        X, weights = np.array([[1.0, 0.0], both]), np.array([1 - p, p])
        absorbed = np.array([[1.0, 0.0], both / np.linalg.norm(both)])
        value = weights @ cost_of(penalty, 2, lam).costs(X, absorbed)[0]
        assert value == pytest.approx(weights @ radial_bound(X, lam, penalty), abs=1e-9)
        true = np.array([[1.0, 0.0], [np.cos(theta), np.sin(theta)]])
        assert weights @ cost_of(penalty, 2, lam).costs(X, true)[0] >= value - 1e-12


@pytest.mark.parametrize("penalty", [Signed(), L0(), SquaredSum(), Log(0.5)], ids=lambda one: type(one).__name__)
def test_t16_absorption_is_optimal_for_all_of_them(penalty):
    found = solve_globally(NESTED, 2, 0.1, penalty=penalty)
    floor = float(radial_bound(NESTED, 0.1, penalty).mean())
    assert found.value == pytest.approx(floor, abs=1e-12)
    assert found.lower_bound >= floor - 1e-9
    angles = (degrees(found.minimizers[0].dictionary) + 90) % 180 - 90  # signs do not matter to signed codes
    assert np.sort(angles) == pytest.approx([0, 45], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("penalty", "p", "expected"),
    [
        (Matryoshka(0.25), 0.5, (-27, 42)),
        (Orthogonality(0.1), 0.2, (0, 85)),
        (Orthogonality(0.2), 0.5, (-41, 45)),
    ],
)
def test_cures_move_the_optimum_where_a_grid_finds_it(penalty, p, expected):
    found = solve_globally(NESTED, 2, 0.1, penalty=penalty, weights=[1 - p, p])
    assert found.gap <= TOL
    assert degrees(found.dictionary) == pytest.approx(expected, abs=1.0)
    steps = np.deg2rad(np.arange(0, 360, 10))
    circle = np.column_stack([np.cos(steps), np.sin(steps)])
    cost = cost_of(penalty, 2, 0.1)
    grid = [
        found.landscape.weights @ cost.costs(NESTED, circle[[i, j]])[0] + cost.coherence * (circle[i] @ circle[j]) ** 2
        for i in range(len(circle))
        for j in range(len(circle))
    ]
    assert found.lower_bound <= min(grid) and found.value <= min(grid) + 1e-12


def test_repeated_points_are_weights():
    X = np.random.default_rng(0).normal(size=(3, 2))
    once = solve_globally(X, 2, 0.2, weights=[3, 1, 2])
    again = solve_globally(np.repeat(X, [3, 1, 2], axis=0), 2, 0.2)
    assert once.value == pytest.approx(again.value, rel=1e-9)


@pytest.mark.slow
def test_scaled_data_and_turned_data_have_the_same_optimum():
    X = np.random.default_rng(1).normal(size=(4, 2))
    plain = solve_globally(X, 2, 0.2)
    turn = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    assert solve_globally(3 * X @ turn.T, 2, 0.6).value == pytest.approx(9 * plain.value, rel=1e-7)


@pytest.mark.slow
def test_no_learner_is_below_and_one_comes_close():
    X = np.random.default_rng(2).normal(size=(6, 2))
    found = solve_globally(X, 2, 0.2)
    fits = [learn_dictionary(X, 2, 0.2, bias=None, seed=seed, stationarity=1e-7).value for seed in range(3)]
    assert min(fits) >= found.lower_bound - 1e-12
    assert found.value <= min(fits) + 1e-9
    assert found.value == pytest.approx(encode(X, found.dictionary, 0.2, tol=1e-12).value, rel=1e-9)


@pytest.mark.slow
def test_three_atoms_and_three_dimensions():
    rng = np.random.default_rng(0)
    plane = solve_globally(rng.normal(size=(6, 2)), 3, 0.2, tol=1e-3)
    assert plane.gap <= 1e-3 and certify(plane).is_certified
    X = rng.normal(size=(3, 3))
    one = solve_globally(X, 1, 0.3)
    two = solve_globally(X, 2, 0.3, max_steps=10)
    fits = [min(learn_dictionary(X, K, 0.3, bias=None, seed=s).value for s in range(4)) for K in (1, 2)]
    assert one.gap <= TOL and one.value <= fits[0] + 1e-9
    assert two.lower_bound <= fits[1] <= one.value


@pytest.mark.slow
def test_a_free_bias_is_found():
    X = np.array([[1.0, 2.0], [1.5, 2.0]])
    found = solve_globally(X, 1, 0.1, bias="free")  # the bias λ from one point, the atom towards the other
    assert found.value == pytest.approx((0.1 * 0.5 - 0.1**2) / 2, abs=1e-8)
    assert found.gap <= TOL


@pytest.mark.slow
def test_time_and_steps_leave_a_true_gap():
    X = np.random.default_rng(4).normal(size=(5, 2))
    short = solve_globally(X, 2, 0.2, max_steps=2)
    whole = solve_globally(X, 2, 0.2)
    assert short.status is Status.MAX_ITER and short.gap > TOL and not short.is_certified
    assert short.lower_bound <= whole.value and short.value >= whole.lower_bound
    assert any("exceeds tol" in sentence for sentence in certify(short).objections)


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 3e-7])
def test_the_value_is_that_of_the_codes_also_where_opposite_atoms_cancel(angle):
    atoms = np.array([[1.0, 0.0], [-np.cos(angle), np.sin(angle)]])
    X = np.array([[0.85, 0.58], [-1.0, 0.3], [0.2, 1.0]])
    values, codes = cost_of(L0(), 2, 0.01).costs(X, atoms)
    direct = 0.5 * ((X - codes @ atoms) ** 2).sum(axis=1) + 0.01 * (codes > 0).sum(axis=1)
    assert codes.max() > 0.1 / angle  # large codes that cancel
    assert values == pytest.approx(direct, rel=1e-14)
    values, codes = cost_of(Matryoshka(0.4), 2, 0.01).costs(X, atoms)
    both = 0.5 * ((X - codes @ atoms) ** 2).sum(axis=1) + 0.2 * ((X - codes[:, :1] @ atoms[:1]) ** 2).sum(axis=1)
    assert values == pytest.approx(both + 0.01 * codes.sum(axis=1), rel=1e-12)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_minimizers_are_counted_alike_at_every_size_of_the_data(size):
    found = solve_globally(size * NESTED, 2, 0.1 * size)  # one atom at angle 0, which is 360 degrees as well
    assert found.are_all and len(found.minimizers) == 1
    assert degrees(found.minimizers[0].dictionary) == pytest.approx([0, 45], abs=1e-3)
    assert found.value == pytest.approx(0.1157106781 * size**2, rel=1e-9)


@pytest.mark.parametrize(("penalty", "count"), [(L1(), 4), (Signed(), 2)], ids=["L1", "signed"])
def test_symmetric_data_have_all_their_minimizers(penalty, count):
    cross = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = solve_globally(1e-5 * cross, 1, 1e-6, penalty=penalty, tol=1e-9)
    assert found.are_all and len(found.minimizers) == count


@pytest.mark.slow
def test_edges_of_the_cube_and_signs_do_not_make_two_of_one_minimizer():
    X = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, -1.0]])
    found = solve_globally(X, 1, 0.1, penalty=Signed())
    assert found.are_all and len(found.minimizers) == 2


@pytest.mark.slow
def test_where_no_atom_is_worth_its_price_one_minimizer_is_shown():
    found = solve_globally(NESTED, 2, 5.0)
    assert found.value == pytest.approx(0.75) and len(found.minimizers) == 1 and not found.are_all


@pytest.mark.slow
def test_many_datapoints_are_taken_in_small_steps():
    X = np.random.default_rng(0).normal(size=(2000, 2))
    found = solve_globally(X, 2, 0.2, max_steps=6)
    assert len(found.bounds) <= 1 + 4 * 6 and found.status is Status.MAX_ITER


def test_an_interrupt_after_the_gap_is_closed_keeps_the_answer(monkeypatch):
    def interrupted(self, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "refine", interrupted)
    assert solve_globally(NESTED, 2, 0.1).is_certified


@pytest.mark.slow
def test_the_referee_finds_what_is_wrong():
    found = solve_globally(np.random.default_rng(5).normal(size=(5, 2)), 2, 0.2)
    assert certify(found).is_certified
    few = len(found.bounds) // 2
    widest = np.argsort((found.boxes.hi - found.boxes.lo).prod(axis=1))[:few]
    holes = replace(found, boxes=found.boxes[widest], bounds=found.bounds[widest])
    assert any("do not cover" in sentence for sentence in certify(holes).objections)
    high = replace(found, bounds=found.bounds + 0.1 * found.value, lower_bound=found.value)
    assert any("in a box whose bound" in sentence for sentence in certify(high).objections)
    turned = Boxes(found.boxes.lo + 0.3, found.boxes.hi + 0.3, found.boxes.faces)
    assert certify(replace(found, boxes=turned)).objections
    assert any("is claimed" in one for one in certify(replace(found, value=0.9 * found.value)).objections)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"X": np.zeros((3, 4))}, "X"),
        ({"n_atoms": 4}, "n_atoms"),
        ({"penalty": Matryoshka(0.5), "n_atoms": 3}, "n_atoms"),
        ({"weights": [1, 0]}, "weights"),
        ({"weights": "ab"}, "weights"),
        ({"weights": [[1], [1, 2]]}, "weights"),
        ({"weights": [1e308, 1e308]}, "weights"),
        ({"weights": [1, 1, 1]}, "weights"),
        ({"penalty": L0(), "bias": "free"}, "bias"),
        ({"lam": -1}, "lam"),
        ({"tol": 0}, "tol"),
    ],
)
def test_what_cannot_be_used_is_refused(change, argument):
    asked = {"X": NESTED, "n_atoms": 2, "lam": 0.1, **change}
    with rejects(argument):
        solve_globally(**asked)


def test_the_bound_of_t16_needs_one_of_its_penalties():
    with rejects("penalty"):
        radial_bound(NESTED, 0.1, ElasticNet(0.1))
    with rejects("X"):
        radial_bound(NESTED * np.nan, 0.1, L1())


def test_the_report_says_what_is_proved():
    found = solve_globally(NESTED, 2, 0.1)
    assert "1, all there are" in str(found) and found.to_dict()["certified"]


@pytest.mark.slow
@pytest.mark.parametrize(("theta", "p", "expected"), [(90, 0.5, (-26, 43)), (60, 0.2, (2, 62))], ids=str)
def test_a_tree_norm_moves_the_optimum_to_where_a_grid_finds_it(theta, p, expected):
    child = np.array([np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))])
    X, tree = np.array([[1.0, 0.0], [1.0 + child[0], child[1]]]), Tree.of_parents([-1, 0])
    found = solve_globally(X, 2, 0.1, penalty=tree, weights=[1 - p, p])
    assert found.gap <= TOL and certify(found).is_certified
    assert degrees(found.dictionary) == pytest.approx(expected, abs=1.0)
    parent = np.rad2deg(np.arctan2(*found.dictionary[0, ::-1]))  # roles are ordered: the first atom is the parent
    assert parent == pytest.approx(expected[1] if expected[0] < -10 else expected[0], abs=1.0)


@pytest.mark.parametrize("penalty", [Log(0.4), Log(0.03), Tree.of_parents([-1, 0], [1.0, 0.5])], ids=str)
def test_codes_of_two_atoms_are_those_of_a_grid(penalty):
    """Values by brute force over the codes, and bounds over random dictionaries."""
    rng = np.random.default_rng(7)
    axis = np.linspace(0, 3, 151)
    Z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    charge = 0.2 * penalty.value(torch.from_numpy(Z)).numpy()
    X, cost = rng.normal(size=(4, 2)), cost_of(penalty, 2, 0.2)
    for angles in rng.uniform(0, 2 * np.pi, (12, 2)):
        atoms = np.column_stack([np.cos(angles), np.sin(angles)])
        values, codes = cost.costs(X, atoms)
        grid = np.array([(0.5 * ((x - Z @ atoms) ** 2).sum(axis=1) + charge).min() for x in X])
        own = 0.5 * ((X - codes @ atoms) ** 2).sum(axis=1) + 0.2 * penalty.value(torch.from_numpy(codes)).numpy()
        assert values == pytest.approx(own, rel=1e-13)
        assert (values <= grid + 1e-12).all() and (codes >= 0).all()
        near = (codes < 3).all(axis=1)
        assert (grid[near] <= values[near] + 1e-3).all()


def test_trees_of_other_shapes_and_widths_are_refused():
    with rejects(r"penalty is a tree of other groups than \[\[0, 1\], \[1\]\]"):
        solve_globally(NESTED, 2, 0.1, penalty=Tree([[0, 1]]))
    with rejects("n_atoms is 1; with the penalty 'log' pass 2"):
        solve_globally(NESTED, 1, 0.1, penalty=Log(0.5))
    with rejects("bias is 'free' with the penalty 'log'"):
        solve_globally(NESTED, 2, 0.1, penalty=Log(0.5), bias="free")
