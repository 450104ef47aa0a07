"""Cleaning up an answer: merging parallel atoms, dropping dead ones, and counting the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse
import torch

from cvxsae.errors import InputError
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.large_dictionary import LargeDictionary

_COSINES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-6, 1 - 1e-10)
"""Cosines from which two atoms are merged, tried from the boldest; the first that costs nothing is taken."""

_MASSES = (0.1, 3e-2, 1e-2, 1e-3, 1e-5, 1e-8)
"""Masses, relative to the largest, below which an atom is dropped, tried in the same way."""

_WORSE = 1e-9
"""How much of the value tidying may cost: rounding of a refit."""


def tidy(problem: LargeDictionary, candidate: Candidate, *, slack: float = _WORSE) -> Candidate:
    """Merge the atoms that need not be two and drop those that need not be there, at no cost in value.

    Two parallel atoms are never cheaper than one (θ_τ is a gauge: ``θ(z + z') ≤ θ(z) + θ(z')``), and an atom whose
    activations are nearly zero is one the descent had not finished removing. Thresholds are tried from the boldest
    to the most timid; each result is refitted (bias and dictionary by ridge regression, D eliminated from (7)) and
    kept if its value is at most ``1 + slack`` times the one given: rounding by default, and a larger slack gives a
    narrower dictionary that is that close. Other arrays of the candidate stay as they were.
    """
    if _dense(candidate).shape[1] == 0:
        return candidate
    best, ceiling = candidate, problem.primal_value(candidate) * (1 + slack)
    for shrink in (_merge_parallel, _drop_dead):
        for threshold in _MASSES if shrink is _drop_dead else _COSINES:
            trial = shrink(problem, best, threshold)
            if trial is not None:
                value = problem.primal_value(trial)
                if value <= ceiling:
                    best = trial
                    break
    return best


def live_atoms(candidate: Candidate) -> int:
    """Number of atoms that some datapoint uses."""
    if candidate.codes is None:
        return 0
    return int((np.asarray(candidate.codes.sum(axis=0)).ravel() > 0).sum())


def factor_of(problem: LargeDictionary, candidate: Candidate) -> np.ndarray:
    """``B ≥ 0`` (N, K) with ``BBᵀ`` the similarity of a dictionary and its codes: ``b_k = z_k √(‖d_k‖/θ_τ(z_k))``."""
    codes = _dense(candidate)
    prices = _prices(problem, codes)
    norms = np.linalg.norm(np.asarray(candidate.dictionary), axis=1)
    return codes * np.sqrt(np.divide(norms, prices, where=prices > 0, out=np.zeros_like(prices)))


def _prices(problem: LargeDictionary, codes: np.ndarray) -> np.ndarray:
    return problem.penalty.value(torch.from_numpy(codes)).numpy()


def _dense(candidate: Candidate) -> np.ndarray:
    if candidate.codes is None or candidate.dictionary is None:
        raise InputError("the candidate has no codes; pass one with a dictionary and codes.")
    return candidate.codes.toarray() if scipy.sparse.issparse(candidate.codes) else np.asarray(candidate.codes)


def _drop_dead(problem: LargeDictionary, candidate: Candidate, threshold: float) -> Candidate | None:
    """Without the atoms whose mass is below ``threshold`` times the largest; None where there are none."""
    factor = factor_of(problem, candidate)
    mass = factor.sum(axis=0)
    keep = mass > threshold * mass.max()
    return None if keep.all() else _refit(problem, candidate, factor[:, keep])


def _merge_parallel(problem: LargeDictionary, candidate: Candidate, threshold: float) -> Candidate | None:
    """Sum the codes of atoms whose cosine with a heavier one is at least ``threshold``; None where there are none."""
    codes, atoms = _dense(candidate), np.asarray(candidate.dictionary)
    order = np.argsort(-codes.sum(axis=0))
    cosines = atoms @ atoms.T
    owner = np.full(len(atoms), -1)
    for k in order:
        heads = np.flatnonzero(owner == np.arange(len(atoms)))
        near = heads[cosines[k, heads] >= threshold]
        owner[k] = near[np.argmax(cosines[k, near])] if len(near) else k
    heads, column = np.unique(owner, return_inverse=True)
    if len(heads) == len(atoms):
        return None
    merged = np.zeros((len(codes), len(heads)))
    np.add.at(merged.T, column, codes.T)
    prices = _prices(problem, merged)
    factor = np.divide(merged, np.sqrt(prices), where=prices > 0, out=np.zeros_like(merged))
    return _refit(problem, candidate, factor)


def _refit(problem: LargeDictionary, candidate: Candidate, factor: np.ndarray) -> Candidate:
    point = problem.from_factor(np.ascontiguousarray(factor))
    return replace(candidate, bias=point.bias, dictionary=point.dictionary, codes=point.codes)
