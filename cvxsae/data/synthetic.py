"""Seeded data with ground truth: each set is ``codes @ dictionary + bias + noise``, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from jaxtyping import Float, Int

from cvxsae.data import arguments
from cvxsae.data.signature import show_flat
from cvxsae.errors import InputError


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Generated data with their ground truth: ``X == codes @ dictionary + bias + noise``, exactly.

    Attributes
    ----------
    X
        Datapoints, shape (N, d), float64.
    dictionary
        Unit-norm atoms, shape (K, d).
    codes
        Nonnegative activations, shape (N, K).
    bias
        Shape (d,).
    noise
        Shape (N, d).
    name
        The generator.
    seed
        Random seed: the same arguments and seed give the same arrays.
    parents
        For a hierarchy, the index of each feature's parent, −1 for a root, shape (K,); otherwise all −1.
    """

    X: Float[np.ndarray, "N d"]
    dictionary: Float[np.ndarray, "K d"]
    codes: Float[np.ndarray, "N K"]
    bias: Float[np.ndarray, " d"]
    noise: Float[np.ndarray, "N d"]
    name: str
    seed: int
    parents: Int[np.ndarray, " K"]


class Added(TypedDict, total=False):
    """What is added to ``codes @ dictionary``."""

    noise: float
    """Standard deviation of Gaussian noise, per coordinate."""
    bias_norm: float
    """Norm of the bias, which points in a random direction."""


def require_probability(value: float, name: str) -> float:
    """A number between 0 and 1."""
    number = arguments.nonnegative(value, name)
    if number > 1:
        raise InputError(f"{name} is {number:g}; it must be at most 1.")
    return number


def sparse_features(
    n_points: int,
    dim: int,
    n_features: int,
    *,
    seed: int,
    probability: float = 0.05,
    strength: tuple[float, float] = (1.0, 2.0),
    orthogonal: bool = False,
    **added: Unpack[Added],
) -> Synthetic:
    """Generate data with features that fire independently of each other.

    Parameters
    ----------
    n_points, dim, n_features
        N, d and K.
    seed
        Random seed.
    probability
        Probability that a feature fires on a datapoint.
    strength
        If it fires, its activation is uniform between these two.
    orthogonal
        Whether atoms are orthonormal (K ≤ d) rather than independent and uniform on the sphere.
    noise
        Standard deviation of the Gaussian noise, per coordinate.
    bias_norm
        Norm of the bias, which points in a random direction.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    n_points, dim, n_features = sizes(n_points=n_points, dim=dim, n_features=n_features)
    probability = require_probability(probability, "probability")
    rng = np.random.default_rng(arguments.seed(seed))
    dictionary = directions(rng, n_features, dim, orthogonal=orthogonal)
    active = rng.random((n_points, n_features)) < probability
    codes = active * strengths(rng, active.shape, strength)
    return assemble("sparse_features", seed, rng, codes, dictionary, **added)


def dense_signed_feature(
    n_points: int,
    dim: int,
    *,
    seed: int,
    levels: Sequence[float] | None = (-1.0, 0.0, 1.0),
    n_sparse: int = 0,
    probability: float = 0.05,
    strength: tuple[float, float] = (1.0, 2.0),
    **added: Unpack[Added],
) -> Synthetic:
    """Generate data with one direction that has a coefficient of either sign on every datapoint, and sparse features.

    The first two atoms are the antipodal pair u and −u; with three points, the default levels and
    nothing else this is case C8 of the theory.

    Parameters
    ----------
    n_points, dim
        N and d.
    levels
        Values of the coefficient, each taken equally often (as far as N allows) in random order;
        ``None`` for a standard Gaussian.
    n_sparse
        Number of sparse features orthogonal to u and to each other; at most d − 1.
    seed, probability, strength, noise, bias_norm
        As in :func:`sparse_features`; probability and strength are those of the sparse features.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    n_points, dim = sizes(n_points=n_points, dim=dim)
    n_sparse = arguments.count(n_sparse, "n_sparse", least=0)
    probability = require_probability(probability, "probability")
    rng = np.random.default_rng(arguments.seed(seed))
    atoms = directions(rng, 1 + n_sparse, dim, orthogonal=True)
    if levels is None:
        signed = rng.standard_normal(n_points)
    else:
        signed = rng.permutation(np.resize(arguments.each(levels, "levels", arguments.real), n_points))
    active = rng.random((n_points, n_sparse)) < probability
    sparse = active * strengths(rng, active.shape, strength)
    codes = np.column_stack([np.maximum(signed, 0), np.maximum(-signed, 0), sparse])
    dictionary = np.concatenate([atoms[:1], -atoms[:1], atoms[1:]])
    return assemble("dense_signed_feature", seed, rng, codes, dictionary, **added)


def circle_feature(
    n_points: int,
    dim: int,
    *,
    seed: int,
    radius: float = 1.0,
    even: bool = False,
    noise: float = 0.0,
    bias_norm: float = 0.0,
) -> Synthetic:
    """Generate datapoints that are uniform on a circle in a random plane.

    No finite dictionary is the true one; in its place stand the four half-axes of the plane, which represent every
    point with two nonnegative codes.

    Parameters
    ----------
    n_points, dim
        N and d ≥ 2.
    radius
        Radius of the circle.
    even
        Whether the angles are equally spaced from a random start, rather than independent.
    seed, noise, bias_norm
        As in :func:`sparse_features`.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    n_points, dim = arguments.count(n_points, "n_points"), arguments.count(dim, "dim", least=2)
    radius, even = arguments.positive(radius, "radius"), arguments.flag(even, "even")
    rng = np.random.default_rng(arguments.seed(seed))
    axes = directions(rng, 2, dim, orthogonal=True)
    turns = np.arange(n_points) / n_points + rng.random() if even else rng.random(n_points)
    plane = radius * np.column_stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
    codes = np.concatenate([np.maximum(plane, 0), np.maximum(-plane, 0)], axis=1)
    dictionary = np.concatenate([axes, -axes])
    return assemble("circle_feature", seed, rng, codes, dictionary, noise=noise, bias_norm=bias_norm)


def duplicated_rows(
    n_unique: int,
    dim: int,
    *,
    copies: int,
    seed: int,
    strength: tuple[float, float] = (1.0, 2.0),
    bias_norm: float = 0.0,
) -> Synthetic:
    """Generate random datapoints, each ``copies`` times, in random order; every distinct point has its own atom.

    Parameters
    ----------
    n_unique, dim
        Number of distinct points and d.
    copies
        Number of copies of each point, equal bit for bit.
    strength
        Norms are uniform between these two.
    seed, bias_norm
        As in :func:`sparse_features`.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    n_unique, dim, copies = sizes(n_unique=n_unique, dim=dim, copies=copies)
    rng = np.random.default_rng(arguments.seed(seed))
    dictionary = directions(rng, n_unique, dim, orthogonal=False)
    norms = strengths(rng, (n_unique,), strength)
    rows = rng.permutation(np.repeat(np.arange(n_unique), copies))
    return assemble("duplicated_rows", seed, rng, np.diag(norms)[rows], dictionary, bias_norm=bias_norm)


def clustered(
    n_points: int,
    dim: int,
    n_clusters: int,
    *,
    seed: int,
    strength: tuple[float, float] = (1.0, 2.0),
    noise: float = 0.05,
    bias_norm: float = 0.0,
) -> Synthetic:
    """Generate datapoints along a few random directions, one atom each, with noise around them.

    Parameters
    ----------
    n_points, dim, n_clusters
        N, d and K; clusters are equally large as far as N allows.
    strength
        The position along the direction is uniform between these two.
    seed, noise, bias_norm
        As in :func:`sparse_features`.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    n_points, dim, n_clusters = sizes(n_points=n_points, dim=dim, n_clusters=n_clusters)
    rng = np.random.default_rng(arguments.seed(seed))
    dictionary = directions(rng, n_clusters, dim, orthogonal=False)
    labels = rng.permutation(np.arange(n_points) % n_clusters)
    codes = np.eye(n_clusters)[labels] * strengths(rng, (n_points, 1), strength)
    return assemble("clustered", seed, rng, codes, dictionary, noise=noise, bias_norm=bias_norm)


def assemble(
    name: str,
    seed: int,
    rng: np.random.Generator,
    codes: np.ndarray,
    dictionary: np.ndarray,
    parents: Sequence[int] | None = None,
    **added: Unpack[Added],
) -> Synthetic:
    """Add bias and noise, drawn after everything else; refuse options that are not :class:`Added`."""
    n_points, dim = len(codes), dictionary.shape[1]
    for option in added:
        if option not in Added.__annotations__:
            raise InputError(f"{option!r} is not an argument here; {', '.join(Added.__annotations__)} are.")
    noise, length = added.get("noise", 0.0), added.get("bias_norm", 0.0)
    bias = arguments.nonnegative(length, "bias_norm") * directions(rng, 1, dim, orthogonal=False)[0]
    scatter = arguments.nonnegative(noise, "noise") * rng.standard_normal((n_points, dim))
    return Synthetic(
        X=codes @ dictionary + bias + scatter,
        dictionary=dictionary,
        codes=codes,
        bias=bias,
        noise=scatter,
        name=name,
        seed=arguments.seed(seed),
        parents=np.full(len(dictionary), -1) if parents is None else np.asarray(parents),
    )


def directions(rng: np.random.Generator, n_atoms: int, dim: int, *, orthogonal: bool) -> np.ndarray:
    """Return unit rows, uniform on the sphere, independent or orthonormal."""
    if arguments.flag(orthogonal, "orthogonal") and n_atoms > dim:
        raise InputError(f"{n_atoms} orthogonal atoms do not fit in dimension {dim}; raise dim or lower their number.")
    rows = rng.standard_normal((n_atoms, dim))
    if orthogonal:
        Q, R = np.linalg.qr(rows.T)
        return np.ascontiguousarray((Q * np.sign(np.diag(R))).T)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def strengths(rng: np.random.Generator, shape: tuple[int, ...], strength: tuple[float, float]) -> np.ndarray:
    """Activations, uniform between the two ends."""
    ends = arguments.each(strength, "strength", arguments.nonnegative)
    if len(ends) != 2:
        raise InputError(f"strength has {len(ends)} numbers; pass the least and the largest.")
    low, high = ends
    if high < low:
        raise InputError(f"strength is ({low:g}, {high:g}); the first must not exceed the second.")
    return rng.uniform(low, high, shape)


def sizes(**sizes: int) -> tuple[int, ...]:
    """Whole numbers of at least 1, checked."""
    return tuple(arguments.count(size, name) for name, size in sizes.items())


for _function in (sparse_features, dense_signed_feature):
    show_flat(_function, Added, {"noise": 0.0, "bias_norm": 0.0})
