"""Where a dictionary would grow (T7, T8), for arrays of any kind; results are numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from cvxsae.data import arguments, tensors
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.errors import InputError
from cvxsae.relaxations.joint import refinement

STARTS = 32
"""Starts of the search for new atoms, unless told otherwise: the longest residual and others drawn at random."""


@own_arithmetic()
def refinement_gain(residuals: Any, lam: float, atoms: Any) -> Float64[np.ndarray, " m"]:
    """Compute how much one more atom lowers F with all other codes fixed, ``(1/N) Σ_n ½(u·r_n − λ)_+²`` (T7).

    It is exact for that move, and a lower bound of the decrease once the other codes respond.

    Parameters
    ----------
    residuals
        ``r_n = x_n − b − z_n D`` as rows, (N, d), at exact codes.
    lam
        Penalty λ > 0.
    atoms
        Candidate atoms as rows, (m, d), of any norm but zero: they are scaled to norm 1.

    Returns
    -------
    numpy.ndarray
        Gains in units of (P), (m,).
    """
    rows = _rows(residuals)
    unit = tensors.unit_rows(atoms, "atoms", rows.shape[1])[0]
    return _numpy(refinement.refinement_gain(rows, arguments.penalty(lam, "lam"), unit))


@own_arithmetic()
def best_new_atoms(
    residuals: Any, lam: float, starts: Any = None, *, seed: int = 0
) -> tuple[Float64[np.ndarray, "m d"], Float64[np.ndarray, " m"]]:
    """Climb :func:`refinement_gain` from many starts at once: ``u ← normalize(Σ_n (u·r_n − λ)_+ r_n)`` (T7).

    Every gain is attained by its atom, so it is a lower bound of the gain of the best new atom; a better atom may
    exist.

    Parameters
    ----------
    residuals, lam
        As in :func:`refinement_gain`.
    starts
        Directions to start from, (m, d); by default the longest residual and 31 others, drawn among those longer than
        λ, since no other can lower F.
    seed
        Random seed of that draw.

    Returns
    -------
    atoms, gains
        Atoms of norm 1, (m, d), in the order of their starts, and their gains in units of (P), (m,). Both are empty
        where no residual is longer than λ: then the dictionary is optimal among those of every width.
    """
    rows, penalty, seed = _rows(residuals), arguments.penalty(lam, "lam"), arguments.seed(seed)
    if starts is None:
        directions = refinement.residual_starts(rows, penalty, STARTS, seed=seed)
    else:
        directions = tensors.unit_rows(starts, "starts", rows.shape[1])[0]
    if not len(directions):
        return np.zeros((0, rows.shape[1])), np.zeros(0)
    atoms, gains = refinement.best_new_atoms(rows, penalty, directions)
    return _numpy(atoms), _numpy(gains)


@own_arithmetic()
def split_scores(
    residuals: Any, codes: Any, dictionary: Any, *, atoms: Any = None, seed: int = 0
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "k d"]]:
    """How fast F falls when an atom splits in two, and along which direction (T8, equation 4).

    Replacing ``d_k`` by ``normalize(d_k ± εv)`` lowers F by ``ε s_k + O(ε²)`` at exact codes, with
    ``s_k(v) = (1/N) Σ_n z_nk |v·r_n|`` maximized over unit ``v ⊥ d_k`` from several starts. The score is attained by
    the direction returned, so it is a lower bound of the best one.

    Parameters
    ----------
    residuals
        ``r_n`` as rows, (N, d).
    codes
        Codes, (N, K), sparse or dense, for atoms of norm 1.
    dictionary
        Atoms as rows, (K, d), of any norm but zero: they are scaled to norm 1.
    atoms
        Indices of the atoms to score, (k,); all of them unless given.
    seed
        Of the random starts.

    Returns
    -------
    scores, directions
        In units of (P) per unit ε, (k,), and unit directions, (k, d); both zero for a dead atom and where nothing can
        be gained.
    """
    rows, Z = _rows(residuals), tensors.sparse_matrix(codes, "codes")
    unit = tensors.unit_rows(dictionary, "dictionary", rows.shape[1])[0]
    if Z.shape != (len(rows), len(unit)):
        raise InputError(
            f"codes has shape {Z.shape}; with these residuals and atoms it must be {(len(rows), len(unit))}."
        )
    chosen = arguments.indices(atoms, "atoms", len(unit))
    scores, directions = refinement.split_scores(rows, Z, unit, atoms=chosen, seed=arguments.seed(seed))
    return _numpy(scores), _numpy(directions)


@own_arithmetic()
def split_atom(dictionary: Any, atom: int, direction: Any, step: float) -> Float64[np.ndarray, "K1 d"]:
    """Replace atom k by ``normalize(d_k + εv)`` and add ``normalize(d_k − εv)`` as the last row (T8).

    Parameters
    ----------
    dictionary
        Atoms as rows, (K, d), of any norm but zero; the result has norm 1.
    atom
        Which atom to split.
    direction
        v, (d,), as :func:`split_scores` gives it.
    step
        ε.

    Returns
    -------
    numpy.ndarray
        The wider dictionary, (K + 1, d).
    """
    along = tensors.vector(direction, "direction")
    unit = tensors.unit_rows(dictionary, "dictionary", len(along))[0]
    index = arguments.index(atom, "atom", len(unit))
    return _numpy(refinement.split_atom(unit, index, along, arguments.positive(step, "step")))


def _rows(residuals: Any) -> torch.Tensor:
    rows = tensors.matrix(residuals, "residuals")
    tensors.require_finite(rows, "residuals")
    return rows.to(torch.float64)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()
