"""Seeded data whose features are arranged in trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.signature import show_flat
from cvxsae.data.synthetic import Added, Synthetic, assemble, directions, require_probability, sizes, strengths
from cvxsae.errors import InputError


@dataclass(frozen=True)
class Feature:
    """A feature of a hierarchy, with its children.

    Attributes
    ----------
    probability
        Probability that it fires if its parent does (for a root, on any datapoint).
    children
        Features that fire only where this one does.
    exclusive
        Whether at most one of the children fires; their probabilities then add up to at most 1.
    """

    probability: float
    children: tuple[Feature, ...] = ()
    exclusive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", require_probability(self.probability, "probability"))
        children = arguments.each(self.children, "children", _feature, least=0)
        object.__setattr__(self, "children", children)
        total = sum(child.probability for child in children)
        if arguments.flag(self.exclusive, "exclusive") and total > 1 + 1e-12:
            raise InputError(f"children that exclude each other have probabilities adding up to {total:g}; at most 1.")


def _feature(value: object, name: str) -> Feature:
    return arguments.instance(value, name, Feature, "a sequence of Features")


FOUR_FEATURES: tuple[Feature, ...] = (Feature(0.25, children=(Feature(0.2),)), Feature(0.05), Feature(0.05))
"""A frequent parent, a child that fires on a fifth of it (so on 5 % of all points), and two loners."""

TWENTY_FEATURES: tuple[Feature, ...] = (
    *3 * (Feature(0.15, children=3 * (Feature(0.2),), exclusive=True),),
    *8 * (Feature(0.05),),
)
"""Three parents with three mutually exclusive children each, and eight loners."""


def hierarchy(
    n_points: int,
    dim: int,
    features: Sequence[Feature] = FOUR_FEATURES,
    *,
    seed: int,
    strength: tuple[float, float] = (1.0, 1.0),
    orthogonal: bool = True,
    **added: Unpack[Added],
) -> Synthetic:
    """Generate data with features arranged in trees: a child fires only where its parent does.

    Parameters
    ----------
    n_points, dim
        N and d.
    features
        The roots; atoms are numbered depth first, so a parent comes right before its first child.
    seed, strength, orthogonal, noise, bias_norm
        As in :func:`sparse_features`.

    Returns
    -------
    Synthetic
        With ``parents`` telling the trees.

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> hierarchy(100, 50, FOUR_FEATURES, seed=0).parents
    array([-1,  0, -1, -1])
    """
    n_points, dim = sizes(n_points=n_points, dim=dim)
    features = arguments.each(features, "features", _feature)
    rng = np.random.default_rng(arguments.seed(seed))
    columns: list[np.ndarray] = []
    parents: list[int] = []

    def grow(siblings: Sequence[Feature], parent: int, exclusive: bool) -> None:
        draws = rng.random((n_points, 1 if exclusive else len(siblings)))
        edges = np.cumsum([0.0, *(sibling.probability for sibling in siblings)])
        for index, sibling in enumerate(siblings):
            if exclusive:
                fires = (draws[:, 0] >= edges[index]) & (draws[:, 0] < edges[index + 1])
            else:
                fires = draws[:, index] < sibling.probability
            columns.append(fires & columns[parent] if parent >= 0 else fires)
            parents.append(parent)
            if sibling.children:
                grow(sibling.children, len(columns) - 1, sibling.exclusive)

    grow(features, -1, False)
    active = np.stack(columns, axis=1)
    dictionary = directions(rng, len(columns), dim, orthogonal=orthogonal)
    codes = active * strengths(rng, active.shape, strength)
    return assemble("hierarchy", seed, rng, codes, dictionary, parents, **added)


show_flat(hierarchy, Added, {"noise": 0.0, "bias_norm": 0.0})
