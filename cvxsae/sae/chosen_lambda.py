"""A λ for an SAE, and where it came from: given, its own, or the one at which exact codes have its L0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.sae.given import as_autoencoder
from cvxsae.solvers.codes.correlation import largest_correlation
from cvxsae.solvers.codes.paths import SearchOptions, search_lambda

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.given import SAELike

MATCH = "match-l0"
"""What asks for the λ at which exact codes have the SAE's L0."""

MATCH_RTOL = 0.02
"""Relative difference of two L0 that count as the same, unless told otherwise."""

MATCH_POINTS = 4096
"""Most datapoints that the search for λ codes, unless told otherwise: L0 is then known to about a percent."""


@dataclass(frozen=True)
class ChosenLambda:
    """A penalty λ of (P), and where it came from.

    Attributes
    ----------
    lam
        The penalty; None where there is none to be had, and ``sentence`` says why.
    source
        ``"given"``, ``"own"`` (what the SAE was trained with) or ``"match-l0"``.
    sentence
        Where λ came from, in words.
    lambda_max
        The smallest λ at which all codes are zero, on the datapoints looked at; None where that was not needed.
    l0, target
        For ``"match-l0"``: active atoms per datapoint of the exact codes at λ, and of the SAE's codes, on the
        ``n_points`` datapoints looked at; None otherwise.
    is_matched
        Whether these are as close as was asked for.
    n_points
        How many datapoints were looked at.
    """

    lam: float | None
    source: str
    sentence: str
    lambda_max: float | None = None
    l0: float | None = None
    target: float | None = None
    is_matched: bool = False
    n_points: int = 0


@keywords(SearchOptions)
def lambda_matching_l0(
    X: ActivationsLike,
    sae: SAELike,
    *,
    rtol: float = MATCH_RTOL,
    max_points: int | None = MATCH_POINTS,
    **options: Unpack[SearchOptions],
) -> ChosenLambda:
    """Find the λ at which exact codes of an SAE's dictionary are as sparse as the SAE's own codes.

    It makes a λ of any SAE, of whatever architecture: the two L0 are the means over the same datapoints, and that of
    the exact codes is the optimum's as far as it can be decided (:func:`cvxsae.lambda_for_l0`).

    Parameters
    ----------
    X
        Datapoints (N, d), as the model has them.
    sae
        As in :func:`cvxsae.audit`.
    rtol
        Relative difference of the two L0 that is accepted.
    max_points
        Most datapoints to look at, drawn at random; None for all.
    options
        ``device``, ``max_seconds`` and ``seed`` (of the datapoints drawn).

    Returns
    -------
    ChosenLambda
        λ with a sentence on where it came from. Where L0 jumps over the SAE's, or time ran out, the nearest λ found,
        and ``is_matched`` is False; where no λ has so many active atoms, ``lam`` is None. The sentence says so.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C.
    """
    run = Run.start(options, SearchOptions)
    model, data = as_autoencoder(sae, "lambda_matching_l0"), all_rows(X)
    rtol = arguments.nonnegative(rtol, "rtol")
    most = len(data) if max_points is None else arguments.count(max_points, "max_points")
    return matching_l0(model, data, run, rtol=rtol, most=most)


def choose_lambda(model: SparseAutoencoder, data: Activations, lam: Any, run: Run) -> ChosenLambda:
    """λ as a verb was asked for it: a number, ``"match-l0"``, or None for the SAE's own, or else the matching one."""
    if isinstance(lam, str):
        arguments.choice(lam, "lam", (MATCH,))
        return matching_l0(model, data, run)
    if lam is not None:
        penalty = arguments.penalty(lam, "lam")
        return ChosenLambda(penalty, "given", f"λ = {penalty:.6g} was given.")
    if model.lam is not None:
        return ChosenLambda(model.lam, "own", f"λ = {model.lam:.6g} is what the SAE was trained with.")
    found = matching_l0(model, data, run)
    return replace(found, sentence=f"The SAE does not know its λ. {found.sentence}")


def matching_l0(
    model: SparseAutoencoder, data: Activations, run: Run, *, rtol: float = MATCH_RTOL, most: int = MATCH_POINTS
) -> ChosenLambda:
    """:func:`lambda_matching_l0` for arguments that have been checked."""
    rows = sampled(data, most, run.seed)
    target, n = model.encode(rows).nnz / len(rows), len(rows)
    live = model.atom_norms > 0
    nothing = ChosenLambda(None, MATCH, "", target=target, n_points=n)
    if not live.any():
        return replace(nothing, sentence="No λ matches the SAE's L0: W_dec has only rows of norm 0.")
    if not target:
        return replace(nothing, sentence=f"No λ matches the SAE's L0: it is 0 on the {n:,} rows looked at.")
    problem = SparseCodes(model.normalized(rows), model.dictionary[live], 1.0, bias=model.b_dec)
    top = max(0.0, largest_correlation(problem))
    nothing = replace(nothing, lambda_max=top)
    try:
        search = search_lambda(problem, target, rtol, run.inner())
    except InputError as why:
        return replace(nothing, sentence=f"No λ matches the SAE's L0: {why}")
    ends = [end for end in (search.above, search.below) if end is not None]
    if search.is_close:
        lam, l0 = search.lam, search.l0
    elif not ends:
        return replace(nothing, sentence="No λ was tried before time ran out; raise max_seconds.")
    else:
        lam, l0 = min(ends, key=lambda end: abs(end[1] - target))
    share = f"λ = {lam:.6g} = {lam / top:.4g} λ_max"
    if search.is_close:
        said = f"{share}: exact codes of its dictionary have the SAE's L0 there ({l0:.4g} against {target:.4g}"
    elif search.is_late:
        said = f"{share} is the nearest found in time to where exact codes have the SAE's L0 ({l0:.4g} for {target:.4g}"
    else:
        said = f"{share} is nearest to the SAE's L0, over which that of exact codes jumps ({l0:.4g} for {target:.4g}"
    said = f"{said}, on {n:,} rows)."
    return replace(nothing, sentence=said, lam=lam, l0=l0, is_matched=search.is_close)


def sampled(data: Activations, most: int, seed: int) -> Activations:
    """At most so many rows, drawn at random without replacement and in their order; all of them as they are."""
    if len(data) <= most:
        return data
    return data[numbers_sampled(len(data), most, seed)]


def numbers_sampled(n_points: int, most: int, seed: int) -> np.ndarray:
    """The numbers of the rows that :func:`sampled` draws."""
    if n_points <= most:
        return np.arange(n_points)
    return np.sort(np.random.default_rng(seed).choice(n_points, size=most, replace=False))
