"""The referee of width floors: every number of a floor again, in numpy, from the data and the weights alone."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data.activations import Activations, ActivationsLike

if TYPE_CHECKING:
    from cvxsae.relaxations.floors import Floor, FloorPart
    from cvxsae.relaxations.kernel_floor import ZonalKernel

_TOL = 1e-10


def check_floor(X: ActivationsLike, floor: Floor, *, samples: int = 300) -> tuple[str, ...]:
    """What is wrong with a floor, one sentence each; empty if nothing is.

    It shares no code with :func:`~cvxsae.width_floor`. Eigenvalues are computed from all of them (their sum must be
    the trace); the inner minima are sampled at points, not bounded on intervals, so that they lie above what a sound
    floor claims, by about the width of a cell: a floor that claims more is refused.
    Time grows as N³ in the largest part.

    Parameters
    ----------
    X
        The data the floor was computed for, (N, d).
    floor
        What :func:`~cvxsae.width_floor` or :func:`~cvxsae.spectral_floor` returned.
    samples
        Points on [0, 1] at which the inner minima of T15 are sampled; eight times as many for T14.
    """
    data = Activations(X).to_numpy()
    shift = floor.bias if isinstance(floor.bias, np.ndarray) else np.zeros(data.shape[1])
    objections: list[str] = []
    rows = np.concatenate([part.rows for part in floor.parts]) if floor.parts else np.arange(len(data))
    partners = [part.partners for part in floor.parts if part.partners is not None]
    every = np.concatenate([rows, *partners])
    if floor.parts and (len(np.unique(every)) < len(every) or every.min() < 0 or every.max() >= len(data)):
        objections.append("The parts name a datapoint twice, or one that does not exist.")
        return tuple(objections)
    if isinstance(floor.bias, str) and any(part.partners is None for part in floor.parts):
        objections.append("The bias is free but a part has no pairs.")
        return tuple(objections)
    total = 0.0
    for index, part in enumerate(floor.parts):
        offsets = data[part.rows] - shift if part.partners is None else (data[part.rows] - data[part.partners]) / 2
        most, said = _most(offsets, floor, part, samples)
        objections += [f"Part {index}: {sentence}" for sentence in said]
        if not part.value <= most * (1 + _TOL):
            objections.append(f"Part {index} claims {part.value:.12g}; its weights prove at most {most:.12g}.")
        total += part.value * len(part.rows) * (1 if part.partners is None else 2)
    if floor.parts and not floor.value <= total / len(data) * (1 + _TOL):
        objections.append(f"The floor claims {floor.value:.12g}; its parts give {total / len(data):.12g}.")
    return tuple(objections)


def _most(offsets: np.ndarray, floor: Floor, part: FloorPart, samples: int) -> tuple[float, list[str]]:
    """The most that a part's weights can prove, and what is wrong with them."""
    norms = np.linalg.norm(offsets, axis=1)
    if part.theorem == "T9":
        return float(_huber(norms, floor.lam).mean()), []
    if part.theorem == "T10":
        shrunk = offsets * (1 - floor.lam / np.maximum(norms, floor.lam))[:, None]
        squares = np.linalg.svd(shrunk, compute_uv=False)[: floor.n_atoms] ** 2
        return float((np.sum(norms**2) - squares.sum()) / (2 * len(norms))), []
    if part.kernel is None or part.weights is None or part.share_limit is None:
        return 0.0, [f"{part.theorem} needs a kernel, weights and their limit."]
    if part.partners is not None and not part.kernel.one_parity:
        return 0.0, [f"the kernel {part.kernel} does not treat v and −v alike, but datapoints are paired."]
    if not (np.isfinite(part.weights).all() and (part.weights >= 0).all() and len(part.weights) == len(norms)):
        return 0.0, ["weights must be finite, zero or more, one a point."]
    used = part.weights > 0
    directions = offsets[used] / norms[used, None]
    root = np.sqrt(part.weights[used])
    matrix = _kernel(part.kernel, directions @ directions.T) * np.outer(root, root)
    eigenvalues = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    limit = float(eigenvalues[: floor.n_atoms].clip(0).sum())
    said = []
    if abs(eigenvalues.sum() - part.weights.sum()) > 1e-8 * part.weights.sum():
        said.append("the eigenvalues do not sum to the trace.")
    if part.share_limit < limit * (1 - _TOL):
        said.append(f"Λ_K is claimed to be {part.share_limit:.12g}; the largest eigenvalues sum to {limit:.12g}.")
    inner = _inner(norms, part.weights, floor.lam, part.kernel, part.theorem == "T15", samples)
    return (inner - limit) / len(norms), said


def _kernel(kernel: ZonalKernel, t: np.ndarray) -> np.ndarray:
    return np.asarray(sum(c * t**p for p, c in zip(kernel.powers, kernel.coefficients, strict=True)))


def _huber(a: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    t = np.minimum(a, level)
    return np.asarray(t * (a - t / 2))


def _inner(norms: np.ndarray, weights: np.ndarray, lam: float, kernel: ZonalKernel, cone: bool, samples: int) -> float:
    """``Σ_n min_q (Ψ_n(q) + w_n q)`` over sampled q."""
    c = _sampled(samples if cone else 8 * samples)
    charges = _kernel(kernel, c) ** 2
    table = _cone_table(samples) if cone else None
    total = 0.0
    for norm, weight in zip(norms, weights, strict=True):
        if norm == 0:
            continue
        costs = _huber(np.full_like(c, norm), lam / c)
        if table is not None and lam < norm:
            costs = np.maximum(costs, _cone_costs(table, norm, lam))
        total += float((costs + weight * charges).min())
    return total


def _sampled(samples: int) -> np.ndarray:
    return np.append((np.arange(samples) + 0.5) / samples, 1.0)


@lru_cache(maxsize=2)
def _cone_table(samples: int, tilts: int = 48, angles: int = 300, kappas: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """``max (c + κp)`` over atoms on the cone of T15, sampled, and ``√(1 + κ²)``: (q, tilt, κ)."""
    c = np.sin(np.linspace(0, np.pi / 2, angles))
    slopes, kappas_used = [], []
    for share in _sampled(samples) ** 4:
        gamma = np.sin(np.linspace(0, np.pi / 2, tilts))[:, None] * math.sqrt(share * (1 - share) / 2)
        rho = np.sqrt(np.maximum(share * (1 - share) - 2 * gamma**2, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = (rho * (1 - c**2) - (1 - share) * c**2) / (2 * gamma * c)
        outside = (p < -np.sqrt(1 - c**2)) | (c**4 > share)
        p = np.where(np.isfinite(p), np.minimum(p, np.sqrt(1 - c**2)), -1.0)
        on_cone = np.where(outside, 0.0, c)
        p[outside] = 0.0
        middle = np.full(tilts, 1.0)
        for width in 2.0 ** -np.arange(1, 26):  # bisection on the slope of a convex function of κ
            steepest = np.argmax(on_cone + middle[:, None] * p, axis=1)
            middle = middle - np.sign(np.take_along_axis(p, steepest[:, None], 1)[:, 0]) * width
        kappa = middle[:, None] * np.linspace(0, 1, kappas)
        products = on_cone[:, None] + kappa[:, :, None] * p[:, None]
        slopes.append(np.maximum(products.max(axis=2), kappa))
        kappas_used.append(kappa)
    return np.array(slopes), np.sqrt(1 + np.array(kappas_used) ** 2)


def _cone_costs(table: tuple[np.ndarray, np.ndarray], norm: float, lam: float) -> np.ndarray:
    slopes, stretch = table
    level = np.divide(lam * stretch, slopes, where=slopes > 0, out=np.full_like(slopes, np.inf))
    return np.asarray(_huber(norm / stretch, level).max(axis=2).min(axis=1))
