"""Two dictionaries: what is in both, and whether they are the same optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from cvxsae.data import arguments, tensors
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import Bias
from cvxsae.diagnostics.matching.assignment import SIMILAR, Assignment, assigned, baseline, kinds_of
from cvxsae.diagnostics.matching.between import between
from cvxsae.diagnostics.matching.result import Matching, Side
from cvxsae.diagnostics.matching.way import Placed, Questions
from cvxsae.errors import InputError, in_short
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.formats.objects import is_one
from cvxsae.sae.given import as_autoencoder
from cvxsae.solvers.codes.encode import relative_gap_asked
from cvxsae.solvers.dictionary.result import DictionaryFit

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.sae.normalization import Normalization

DRAWS, DRAWS_OF_WIDE, WIDE = 5, 1, 4096
"""Draws of each random baseline, and of dictionaries with more than so many atoms: there they hardly differ."""

POINTS = 7
"""Points between two dictionaries at which F is evaluated: an eighth of the way apart."""

TOL = 1e-6
"""Relative gap of the codes: a millionth of F is far below what tells optima apart."""

SAME_LAM = 1e-9
"""Relative difference of two penalties that are the same except for rounding."""


class MatchOptions(Compute, Seeded, total=False):
    """How :func:`match` runs."""

    draws: int | None
    """Pairs of random dictionaries for each baseline; None for 5, and for 1 where there are more than 4096 atoms."""
    points: int
    """Points between the two dictionaries at which F is evaluated; 0 for none."""
    tol: float
    """Relative duality gap of every datapoint's codes."""


@keywords(MatchOptions, points=POINTS, tol=TOL)
def match(
    A: Any,
    B: Any,
    X: ActivationsLike | None = None,
    lam: float | None = None,
    *,
    held_out: ActivationsLike | None = None,
    units: Any = None,
    similar: float = SIMILAR,
    **options: Unpack[MatchOptions],
) -> Matching:
    """Match the atoms of two dictionaries, find the kind of each, and whether they are the same optimum.

    Atoms are matched one to one so that the sum of cosines is largest (Hungarian method; exact), and every atom is
    called shared, split, merged or new (:func:`~cvxsae.diagnostics.matching.assignment.kinds_of`). Cosines are signed:
    codes are nonnegative, so antipodal atoms are different features. With data and λ, F of both is compared on the same
    rows with exact codes, and followed on the way from one to the other (T5): does it stay level, fall, or rise in
    between?

    Parameters
    ----------
    A, B
        Dictionaries: arrays (K, d) with atoms of any norm but zero, or pairs of such an array and a bias (d,); a
        :class:`~cvxsae.SparseAutoencoder`, one of another library, its arrays by name, or a path where one lies
        (:meth:`~cvxsae.SparseAutoencoder.load`); or what :func:`~cvxsae.learn_dictionary` returned. Atoms of norm zero
        of an SAE are left out; the others keep their indices. The numbers of atoms may differ.
    X
        Datapoints (N, d) on which to compare F, for instance those that both were fitted to. None: cosines only.
    lam
        Penalty λ > 0 of (P). Not needed where both know the same one.
    held_out
        Datapoints that *neither* was fitted to; only they say something about the distribution (T17). They stand in for
        ``X`` where that is None.
    units
        What each of them belongs to (documents, as integers or texts), (M,): datapoints of one unit are not taken as
        independent. None: each datapoint is a unit.
    similar
        Smallest cosine at which two atoms count as similar.
    options
        ``draws``, ``points``, ``tol`` (see :class:`MatchOptions`); ``device``; ``max_seconds`` (of the whole call:
        points on the way that are left are left out, and codes that are not exact have wider gaps, which every
        statement includes; the matching itself is always finished); ``progress``; ``seed`` of the baselines.

    Returns
    -------
    Matching
        Tables keyed by feature index, a report in words (``print``), JSON. Matching, and each draw of a baseline, takes
        ``8 K_A K_B`` bytes and one to two seconds at K = 4,096, 13 to 45 s at 16,384. F takes
        ``points + 2`` encodings (and two of ``held_out``); the curvature at both ends the data in float64.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae import match
    >>> atoms = np.eye(4)
    >>> found = match(atoms, atoms[[2, 0, 3, 1]])
    >>> found.pairs.tolist(), found.mean_cosine
    ([[0, 1], [1, 3], [2, 0], [3, 2]], 1.0)
    """
    run = Run.start(options, MatchOptions)
    first, second = _Given.of(A, "A"), _Given.of(B, "B")
    if first.dim != second.dim:
        raise InputError(f"A has atoms of dimension {first.dim} and B of {second.dim}; they must be the same.")
    similar, asked = _similarity(similar), _questions((first, second), (X, lam, held_out, units), options)
    drawn = options.get("draws")
    wide = max(len(first.features), len(second.features)) > WIDE
    draws = (DRAWS_OF_WIDE if wide else DRAWS) if drawn is None else arguments.count(drawn, "draws")
    atoms = first.placed.atoms, second.placed.atoms
    found, rng = assigned(*atoms), np.random.default_rng(run.seed)
    return Matching(
        A=_side(found, first, second, similar),
        B=_side(found.swapped(), second, first, similar),
        dim=first.dim,
        similar=similar,
        mean_cosine=found.mean_cosine,
        share=found.share(similar),
        baselines=tuple(baseline(kind, atoms, draws, similar, rng) for kind in ("isotropic", "alike")),
        between=None if asked is None else between(first.placed, second.placed, found, asked, run),
    )


@dataclass(frozen=True, eq=False)
class _Given:
    """A dictionary as it was passed.

    Attributes
    ----------
    placed
        Its atoms scaled to norm 1, and its bias.
    features
        Their indices.
    no_atom
        How many of norm zero were left out.
    lam, normalization
        The penalty it knows of, and what it does to data first; None for none.
    """

    placed: Placed
    features: np.ndarray
    no_atom: int = 0
    lam: float | None = None
    normalization: Normalization | None = None

    @property
    def dim(self) -> int:
        return self.placed.atoms.shape[1]

    @classmethod
    def of(cls, value: Any, name: str) -> _Given:
        """Whatever it is."""
        if isinstance(value, DictionaryFit):
            return cls(Placed(np.array(value.dictionary), np.array(value.bias)), np.arange(value.n_atoms), 0, value.lam)
        if isinstance(value, SparseAutoencoder | Mapping | str | Path) or is_one(value):
            model = as_autoencoder(value, "match")
            live = np.flatnonzero(model.atom_norms > 0)
            if not len(live):
                raise InputError(f"{name} has only atoms of norm 0; pass a dictionary that has been trained.")
            placed = Placed(model.dictionary[live], model.b_dec.astype(np.float64))
            return cls(placed, live, model.n_atoms - len(live), model.lam, model.normalization)
        rows, bias = value if _is_pair(value) else (value, None)
        matrix = tensors.matrix(rows, name, rows="atom")
        dim = matrix.shape[1]
        shift = Bias.fixed(bias, dim, f"pass the vector that belongs to {name}").vector_or_zeros(dim).numpy()
        atoms = tensors.unit_rows(matrix, name, dim)[0].cpu().numpy()
        return cls(Placed(atoms, shift), np.arange(len(atoms)))


def _is_pair(value: Any) -> bool:
    """Whether this is a dictionary and a bias, and not two atoms."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    try:
        return np.ndim(value[0]) == 2
    except (ValueError, TypeError, RuntimeError):  # what has no shape is refused as an array
        return False


def _similarity(value: Any) -> float:
    similar = arguments.positive(value, "similar")
    if similar > 1:
        raise InputError(f"similar is {similar:g}; it is a cosine, pass a number above 0 and at most 1.")
    return similar


def _questions(given: tuple[_Given, _Given], data: tuple[Any, Any, Any, Any], options: Any) -> Questions | None:
    """What is asked about data, if anything is."""
    X, lam, held_out, units = data
    tol = relative_gap_asked(options.get("tol", TOL))
    points = arguments.count(options.get("points", POINTS), "points", least=0)
    if X is None and held_out is None:
        for value, name in ((lam, "lam"), (units, "units")):
            if value is not None:
                raise InputError(f"{name} is given but there are no datapoints; pass X or held_out too.")
        return None
    if units is not None and held_out is None:
        raise InputError("units are given but held_out is not; they say what each held-out datapoint belongs to.")
    others = None if held_out is None else _rows(held_out, "held_out", given)
    rows = others if X is None else _rows(X, "X", given)
    assert rows is not None
    return Questions(
        rows=rows,
        lam=_penalty(lam, given),
        held_out=others,
        units=None if units is None or others is None else _labels(units, len(others)),
        tol=tol,
        points=points,
    )


def _rows(value: Any, name: str, given: tuple[_Given, _Given]) -> Activations:
    """The datapoints as both dictionaries are about them."""
    rows, (first, second) = all_rows(Activations(value, name=name)), given
    if rows.shape[1] != first.dim:
        raise InputError(f"{name} has shape {rows.shape} but the atoms have dimension {first.dim}; pass their data.")
    if first.normalization is None and second.normalization is None:
        return rows
    if first.normalization is None or type(first.normalization) is not type(second.normalization):
        raise InputError(f"A and B normalize {name} differently, so their values are of other data; leave {name} out.")
    mapped = first.normalization.apply(rows), second.normalization.apply(rows)
    if any(not bool((one == other).all()) for one, other in zip(*(m.batches() for m in mapped), strict=True)):
        raise InputError(f"A and B normalize {name} differently, so their values are of other data; leave {name} out.")
    return mapped[0]


def _penalty(lam: Any, given: tuple[_Given, _Given]) -> float:
    if lam is not None:
        return arguments.penalty(lam, "lam")
    first, second = (one.lam for one in given)
    if first is None or second is None:
        raise InputError("lam is None and not both dictionaries know their own; pass lam.")
    if abs(first - second) > SAME_LAM * first:
        raise InputError(f"lam is None and A was made at {first:.6g}, B at {second:.6g}; pass the one to use.")
    return first


def _labels(units: Any, count: int) -> np.ndarray:
    try:
        labels = np.asarray(units)
    except (ValueError, TypeError, RuntimeError):
        raise InputError(f"units are {in_short(units)}; pass one integer or text a held-out datapoint.") from None
    if labels.shape != (count,) or labels.dtype.kind not in "iuUS":
        raise InputError(
            f"units have shape {labels.shape} and dtype {labels.dtype}; pass {count} integers or texts, one for each "
            "held-out datapoint."
        )
    return labels


def _side(found: Assignment, own: _Given, other: _Given, similar: float) -> Side:
    """What became of the atoms of one dictionary, by the indices of features."""
    kinds, children = kinds_of(found, own.placed.atoms, other.placed.atoms, similar)
    partner = np.where(found.partner_a >= 0, other.features[found.partner_a], found.partner_a)
    return Side(
        features=own.features,
        kinds=kinds,
        partner=partner,
        cosine=found.cosine_a,
        nearest=other.features[found.nearest_a],
        nearest_cosine=found.nearest_cosine_a,
        children={
            int(own.features[one]): tuple(int(other.features[part]) for part in family)
            for one, family in children.items()
        },
        no_atom=own.no_atom,
    )
