"""Values as written, prox by optimality and by brute force, polars and conjugates by Fenchel–Young."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from cvxsae import PenalizedCodes, certify, encode, solve, solve_globally
from cvxsae.errors import CertificateError
from cvxsae.penalties import (
    L0,
    L1,
    ElasticNet,
    Exclusive,
    Group,
    Log,
    Prefixes,
    Signed,
    Simplex,
    Slope,
    SquaredSum,
    TopK,
    Tree,
    radial_bound,
)
from cvxsae.results import Candidate
from tests.helpers.sentences import rejects

K = 7
LABELS = (0, 1, 1, 0, 2, 2, 2)
WEIGHTS = (1.0, 0.5, 2.0)
NESTED = ((0, 1, 2, 3), (1, 2), (2,), (4, 5, 6), (6,), (4, 5, 6))
NESTED_WEIGHTS = (1.0, 0.5, 0.7, 0.4, 2.0, 0.3)
SORTED = (2.0, 1.5, 1.5, 1.0, 0.3, 0.0, 0.0)
EACH = (1.0, 0.5, 2.0, 1.0, 0.7, 0.3, 1.2)
PENALTIES = {
    "L1": L1(EACH),
    "signed L1": Signed(),
    "elastic net": ElasticNet(0.6, EACH),
    "group": Group(LABELS, WEIGHTS),
    "tree": Tree(NESTED, NESTED_WEIGHTS),
    "SLOPE": Slope(SORTED),
    "exclusive": Exclusive(LABELS),
    "simplex": Simplex(0.8),
    "simplex, exactly": Simplex(1.5, exactly=True),
}
GAUGES = ("L1", "signed L1", "group", "tree", "SLOPE")


@pytest.fixture(params=PENALTIES)
def named(request):
    return request.param, PENALTIES[request.param]


def written(name, z):
    """Ω of one vector, as the docstring writes it."""
    z = np.asarray(z)
    if name == "L1":
        return np.dot(EACH, z)
    if name == "signed L1":
        return np.sum(np.abs(z))
    if name == "elastic net":
        return np.dot(EACH, z) + 0.3 * np.sum(z**2)
    members = [[k for k in range(K) if LABELS[k] == g] for g in range(3)]
    if name == "group":
        return sum(w * np.sqrt(np.sum(z[g] ** 2)) for w, g in zip(WEIGHTS, members, strict=True))
    if name == "tree":
        return sum(w * np.sqrt(np.sum(z[list(g)] ** 2)) for w, g in zip(NESTED_WEIGHTS, NESTED, strict=True))
    if name == "SLOPE":
        return sum(w * part for w, part in zip(SORTED, sorted(z, reverse=True), strict=True))
    if name == "exclusive":
        return sum(np.sum(z[g]) ** 2 for g in members) / 2
    return 0.0


def draws(rng, n=24):
    """Vectors of all kinds: of both signs, short and long, with ties and zeros."""
    V = rng.normal(size=(n, K)) * 10.0 ** rng.uniform(-2, 2, (n, 1))
    V[0], V[1], V[2] = 0, -1, 1
    V[3] = np.round(V[3])
    V[4, 1:4] = V[4, 0]
    V[5, 2:] = 0
    return torch.from_numpy(V)


def disagreement(penalty, V, step):
    """How far ``Ω(z) + Ω*(u) − u·z`` is from zero at ``z = prox(v)``, ``u = (v − z)/step``, in units of its terms."""
    Z = penalty.prox(V, step)
    assert (Z >= 0).all()
    U = (V - Z) / step
    scale = 1 + (U.abs() * Z.abs()).sum(dim=1)
    if penalty.is_gauge:
        return max(
            float((penalty.polar(U) - 1).clamp(min=0).max()),
            float(((penalty.value(Z) - (U * Z).sum(dim=1)).abs() / scale).max()),
        )
    charge = step * penalty.conjugate(U) if penalty.degree == 1 else penalty.conjugate(U)
    product = (U * Z).sum(dim=1) * (step if penalty.degree == 1 else 1)
    return float(((penalty.value(Z) + charge - product).abs() / scale).max())


def test_values_are_those_of_the_formula(named, rng):
    name, penalty = named
    Z = penalty.prox(draws(rng).abs(), 0.3)
    np.testing.assert_allclose(penalty.value(Z), [written(name, z) for z in Z.numpy()], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("step", [0.05, 7.0])
def test_prox_value_and_conjugate_agree_by_fenchel_and_young(named, step, rng):
    assert disagreement(named[1], draws(rng), step) < 1e-10


@pytest.mark.parametrize(
    "wrong",
    [
        type("Full", (ElasticNet,), {"conjugate": lambda self, V: 2 * ElasticNet.conjugate(self, V)})(0.6, EACH),
        type("Cheap", (L1,), {"polar": lambda self, V: 0.9 * L1.polar(self, V)})(EACH),
        type("Short", (Group,), {"polar": lambda self, V: 0.9 * Group.polar(self, V)})(LABELS, WEIGHTS),
        type("Long", (Slope,), {"polar": lambda self, V: 1.1 * Slope.polar(self, V)})(SORTED),
        type("Half", (Exclusive,), {"conjugate": lambda self, V: Exclusive.conjugate(self, V) / 2})(LABELS),
        type("Sum", (Simplex,), {"conjugate": lambda self, V: V.clamp(min=0).sum(dim=1) * self.total})(0.8),
    ],
    ids=lambda penalty: type(penalty).__name__,
)
def test_a_wrong_polar_or_conjugate_is_caught(wrong, rng):
    """The polar of a point on the boundary is 1: neither more (Fenchel–Young) nor less (the next test)."""
    V = draws(rng)
    off = disagreement(wrong, V, 1.0)
    if wrong.is_gauge:
        Z = wrong.prox(V, 1.0)
        polars = wrong.polar(V - Z)[wrong.value(Z) > 0]
        off = max(off, float((polars - 1).abs().max()))
    assert off > 0.01


@pytest.mark.parametrize("name", GAUGES)
def test_polars_are_attained_and_never_exceeded(name, rng):
    penalty, V = PENALTIES[name], draws(rng)
    polars = penalty.polar(V)
    for _ in range(100):  # no direction does better
        Z = torch.from_numpy(rng.exponential(size=(len(V), K)) * (rng.random((len(V), K)) < rng.random()))
        ratio = (V * Z).sum(dim=1) / penalty.value(Z).clamp(min=1e-300)
        assert (ratio[Z.sum(dim=1) > 0] <= polars[Z.sum(dim=1) > 0] * (1 + 1e-12)).all()
    assert (penalty.prox(V, 1.0)[polars <= 1] == 0).all()
    on_edge = V[polars > 0] / polars[polars > 0, None]
    assert not penalty.prox(on_edge, 1 + 1e-9).any()
    Z = penalty.prox(on_edge, 1 - 1e-6)  # and the prox just below attains it
    np.testing.assert_allclose((on_edge * Z).sum(dim=1) / penalty.value(Z), 1, rtol=1e-5)
    np.testing.assert_allclose(penalty.polar(3 * V), 3 * polars, rtol=1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_no_point_nearby_and_none_of_a_grid_beats_the_prox(name, rng):
    penalty = PENALTIES[name]
    V = torch.from_numpy(rng.normal(size=(6, K)) + 0.3)
    Z = penalty.prox(V, 0.4)

    def objective(points):
        return (points - V).square().sum(dim=-1) / 2 + 0.4 * penalty.value(points)

    best = objective(Z)
    for _ in range(300):
        moved = Z + torch.from_numpy(rng.normal(size=Z.shape) * 10.0 ** rng.uniform(-6, 0))
        allowed = penalty.prox(moved, 0.0) if name.startswith("simplex") else moved.clamp(min=0)
        assert (objective(allowed) >= best - 1e-12).all()


def test_a_grid_of_two_codes():
    v = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    small = [
        L1([1.0, 0.5]),
        ElasticNet(0.4),
        Group([0, 0]),
        Tree([[0, 1], [1]]),
        Slope([1.0, 0.4]),
        Exclusive([0, 0]),
        Simplex(0.7),
    ]
    axis = np.linspace(0, 1, 101)
    grid = torch.tensor(list(itertools.product(axis, axis)), dtype=torch.float64)
    for penalty in small:
        values = (grid - v).square().sum(dim=1) / 2 + 0.3 * penalty.value(grid)
        z = penalty.prox(v, 0.3)
        mine = float((z - v).square().sum() / 2 + 0.3 * penalty.value(z)[0])
        assert mine <= float(values.min()) + 1e-12
        assert float((grid[values.argmin()] - z).abs().max()) < 0.011


def test_a_limit_that_is_tiny_beside_the_codes():
    v = torch.tensor([[3e20, 3e20, 1.0]], dtype=torch.float64)
    np.testing.assert_allclose(Simplex(0.5).prox(v, 1.0), [[0.25, 0.25, 0]], rtol=1e-15)


def test_trees_of_parents_are_nested_groups():
    tree = Tree.of_parents([-1, 0, 1, 0, -1], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert tree.groups == ((0, 1, 2, 3), (1, 2), (2,), (3,), (4,))
    assert tree == Tree(tree.groups, tree.weights)
    # two nested groups of one atom, by hand: 5 − 1 − 2
    assert Tree([[0], [0]], [1.0, 2.0]).prox(torch.tensor([[5.0]], dtype=torch.float64), 1.0).item() == 2.0


def test_polars_of_a_tree_by_hand():
    # max (3a + 4b)/(‖(a, b)‖ + b): t with ‖(3, 4 − t)‖ = t is 25/8
    assert Tree([[0, 1], [1]]).polar(torch.tensor([[3.0, 4.0]], dtype=torch.float64)).item() == pytest.approx(25 / 8)


def test_a_dual_point_that_is_not_feasible_is_no_bound(rng):
    """With a polar that is too short the bound of zero codes lies above what better codes attain."""
    X, D = rng.normal(size=(5, 4)), rng.normal(size=(K, 4))
    wrong = type("Short", (Group,), {"polar": lambda self, V: 0.2 * Group.polar(self, V)})(LABELS, WEIGHTS)
    true, false = PenalizedCodes(X, D, 0.1, PENALTIES["group"]), PenalizedCodes(X, D, 0.1, wrong)

    found = solve(true, tol=1e-9)
    assert true.lower_bound(true.zero_candidate()) <= found.value
    assert false.lower_bound(false.zero_candidate()) > found.value * 1.01
    dual = false.feasible_dual(torch.from_numpy(X)).numpy()
    lie = Candidate(bias=found.bias, dictionary=found.dictionary, codes=found.codes, dual=dual)
    with pytest.raises(CertificateError, match="lies above its value"):
        certify(false, lie)
    assert certify(true, found).is_certified


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group([0, 2, 2]), "groups has no atom in group 1; "),
        (lambda: Group([0, 0.5]), "groups holds 0.5 at atom 1; "),
        (lambda: Group([0, 9]), "groups holds 9 for 2 atoms; "),
        (lambda: Group([0, 1], [1.0]), r"weights has shape \(1,\); there are 2 groups"),
        (lambda: Group([0, 1], [1.0, 0.0]), "weights holds 0 for group 1; "),
        (lambda: Exclusive([-1, 0]), "groups holds -1 at atom 0; "),
        (lambda: Tree([[0, 1], [1, 2]]), "groups 0 and 1 overlap; "),
        (lambda: Tree([[0], [2]]), "groups leaves out atom 1; "),
        (lambda: Tree([[0], []]), "groups is empty"),
        (lambda: Tree.of_parents([1, 0]), "parents leads atom 0 in a circle; "),
        (lambda: Tree.of_parents([7]), "parents sends atom 0 to 7; "),
        (lambda: Slope([1.0, 2.0]), "weights rises at 1, to 2; "),
        (lambda: Slope([0.0, 0.0]), "weights holds 0; "),
        (lambda: Slope([1.0, -1.0]), "weights holds -1; "),
        (lambda: Simplex(0.0), "total is 0; "),
        (lambda: Prefixes([2, 2]), r"sizes is \[2, 2\]; "),
        (lambda: Prefixes([1, 2], [1.0]), "betas has 1 numbers for 2 prefixes; "),
        (lambda: Prefixes([1, 2]).stack(np.ones((1, 2)), np.eye(2)[:1]), "sizes ends with 2 and the dictionary has 1"),
        (lambda: Prefixes([1]).stack(np.ones((1, 2)), np.eye(2)[:1], "free"), "bias is 'free'"),
    ],
)
def test_parameters_are_checked_in_a_sentence(make, message):
    with rejects(message):
        make()


@pytest.mark.slow
def test_matryoshka_losses_are_a_lasso_on_stacked_data(rng):
    from scipy.optimize import minimize

    X, D, bias = rng.normal(size=(4, 5)), rng.normal(size=(6, 5)), rng.normal(size=5)
    sizes, betas, lam = (2, 3, 6), (0.5, 0.2, 1.0), 0.2
    stacked = Prefixes(sizes, betas).stack(X, D, bias)
    codes = encode(stacked.X, stacked.dictionary, lam, weights=stacked.weights, tol=1e-10, engine="torch")
    unit = D / np.linalg.norm(D, axis=1, keepdims=True)

    def loss(z, x):
        fits = sum(b / 2 * np.sum((x - bias - z[:m] @ unit[:m]) ** 2) for m, b in zip(sizes, betas, strict=True))
        return fits + lam * np.sum(z)

    Z = codes.for_own_rows().toarray()
    values = np.array([loss(z, x) for z, x in zip(Z, X, strict=True)])
    np.testing.assert_allclose(codes.values, values, rtol=1e-12)
    assert certify(codes, tol=1e-9).is_certified
    for x, value in zip(X, values, strict=True):
        found = minimize(loss, np.full(6, 0.1), args=(x,), bounds=[(0, None)] * 6, options={"ftol": 1e-14})
        assert found.fun == pytest.approx(value, rel=1e-6)


def test_signed_codes_are_those_of_a_dictionary_and_its_negative(rng):
    X, D = rng.normal(size=(5, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    codes = encode(X, np.vstack([D, -D]), 0.4, tol=1e-12, engine="torch").codes.toarray()
    signed = codes[:, :3] - codes[:, 3:]
    products = X @ D.T
    np.testing.assert_allclose(signed, np.sign(products) * np.maximum(abs(products) - 0.4, 0), atol=1e-6)


def test_solve_globally_refuses_them_in_a_sentence():
    unchecked: Any = inspect.unwrap(solve_globally)
    with rejects(r"penalty is a Group; pass L1, Signed, L0, .* of cvxsae.penalties\."):
        unchecked(np.eye(2), 2, 0.1, penalty=Group([0, 0]))


WITH_G: dict[str, Any] = {
    "L1": L1(),
    "weighted alike": L1([0.5] * K),
    "signed L1": Signed(),
    "groups of one": Group(range(K)),
    "tree of one": Tree([[k] for k in range(K)]),
    "SLOPE, equal": Slope([0.7] * K),
    "exclusive, one group": Exclusive([0] * K),
    "simplex": Simplex(1.3),
    "squared sum": SquaredSum(),
    "L0": L0(),
    "TopK": TopK(3),
    "log": Log(0.4),
}


@pytest.mark.parametrize("name", WITH_G)
def test_t16_g_is_below_and_reached_by_single_codes(name, rng):
    penalty = WITH_G[name]
    Z = rng.exponential(size=(400, K)) * (rng.random((400, K)) < rng.random((400, 1)))
    single = np.eye(K)[rng.integers(K, size=50)] * rng.exponential(size=(50, 1))

    def value(codes):
        if isinstance(penalty, SquaredSum):
            return codes.sum(axis=1) ** 2
        return penalty.value(torch.from_numpy(codes)).numpy()

    assert (value(Z) >= penalty.of_mass(Z.sum(axis=1)) * (1 - 1e-12)).all()
    np.testing.assert_allclose(value(single), penalty.of_mass(single.sum(axis=1)), rtol=1e-12)
    t = np.linspace(0, 4, 200)
    g = penalty.of_mass(t)
    assert g[0] == 0 and (g[1:] >= g[:-1]).all()
    for lam in (0.1, 1.5):  # the radial bound is the least of ½(r − t)² + λg(t), and no codes do better
        lengths = np.array([0.0, 0.3, 1.0, 3.0])
        fine = np.linspace(0, 3, 30001)
        charge = np.where(penalty.of_mass(fine) == 0, 0.0, lam * penalty.of_mass(fine))
        grid = [np.min((r - fine) ** 2 / 2 + charge) for r in lengths]
        np.testing.assert_allclose(penalty.radial(lengths, lam), grid, atol=1e-7)
        X, D = rng.normal(size=(400, 4)), rng.normal(size=(K, 4))
        D /= np.linalg.norm(D, axis=1, keepdims=True)
        cost = value(Z)
        attained = ((X - Z @ D) ** 2).sum(axis=1) / 2 + np.where(cost == 0, 0.0, lam * cost)
        assert (radial_bound(X, lam, penalty) <= attained * (1 + 1e-12)).all()


WITHOUT_G: dict[str, Any] = {
    "weights": (L1(EACH), np.eye(K)[2]),
    "elastic net": (ElasticNet(0.6), np.full(K, 1 / K)),
    "L0 with a ridge": (L0(100.0), np.full(K, 1 / K)),
    "group": (Group(LABELS), np.array([0.5, 0, 0, 0.5, 0, 0, 0])),
    "tree": (Tree(NESTED), np.array([0.5, 0, 0, 0.5, 0, 0, 0])),
    "SLOPE": (Slope(SORTED), np.full(K, 1 / K)),
    "exclusive": (Exclusive(LABELS), np.array([0.5, 0.5, 0, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("name", WITHOUT_G)
def test_others_have_no_g_and_say_why(name):
    """The codes given have the same sum as a single one and another cost: below it, or that of a dearer atom."""
    penalty, z = WITHOUT_G[name]
    costs = penalty.value(torch.from_numpy(np.stack([z, np.eye(K)[0]])))
    assert costs[0] < costs[1] or name == "weights"
    assert costs[0] != costs[1] and penalty.mass_objection
    for refused in (lambda: radial_bound(np.eye(2), 0.1, penalty), lambda: penalty.of_mass(np.ones(1))):
        with rejects(f"penalty '{penalty.name}' has no bound by the sum of the codes"):
            refused()
    with rejects("penalty 'simplex' has no bound by the sum of the codes .*: codes must not be zero"):
        radial_bound(np.eye(2), 1.0, Simplex(exactly=True))
