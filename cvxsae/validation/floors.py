"""The referee of width floors: every number of a floor again, in numpy, from the data and the weights alone."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.relaxations import linalg
from cvxsae.relaxations.floors.floor import FloorPart

if TYPE_CHECKING:
    from cvxsae.relaxations.floors.floor import Floor
    from cvxsae.relaxations.floors.kernels import ZonalKernel

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
    data, samples = Activations(X).to_numpy(), arguments.count(samples, "samples")
    misstated = _misstated(floor, *data.shape)
    if misstated:
        return misstated
    if not floor.parts and isinstance(floor.bias, str):
        most = _least_wide(data, floor.lam)
        return () if floor.value <= most * (1 + _TOL) else (f"A bias costs {most:.12g}, less than the floor.",)
    shift = np.zeros(data.shape[1]) if floor.bias is None or isinstance(floor.bias, str) else floor.bias
    objections: list[str] = []
    total = 0.0
    for index, part in enumerate(floor.parts or (FloorPart(np.arange(len(data)), None, floor.value, floor.theorem),)):
        offsets = data[part.rows] - shift if part.partners is None else (data[part.rows] - data[part.partners]) / 2
        most, said = _most(offsets, floor, part, samples)
        objections += [f"Part {index}: {sentence}" for sentence in said]
        if not part.value <= max(most, 0.0) * (1 + _TOL):
            objections.append(f"Part {index} claims {part.value:.12g}; its weights prove at most {most:.12g}.")
        total += part.value * len(part.rows) * (1 if part.partners is None else 2)
    if not floor.value <= total / len(data) * (1 + _TOL):
        objections.append(f"The floor claims {floor.value:.12g}; its parts give {total / len(data):.12g}.")
    return tuple(objections)


def _misstated(floor: Floor, n_points: int, dim: int) -> tuple[str, ...]:
    """What the floor says it holds for, and of which datapoints: a sentence if that makes no sense."""
    if not (0 < floor.lam < math.inf and floor.n_atoms >= 1 and int(floor.n_atoms) == floor.n_atoms):
        return (f"λ is {floor.lam} and the width {floor.n_atoms}; both must be above zero, the width a whole number.",)
    free = isinstance(floor.bias, str) and floor.bias == "free"
    given = isinstance(floor.bias, np.ndarray) and floor.bias.shape == (dim,) and np.isfinite(floor.bias).all()
    if not (floor.bias is None or free or given):
        return (f"The bias is neither None nor 'free' nor a finite array ({dim},).",)
    if not floor.parts:
        known = ("T9",) if free else ("T9", "T10")
        return () if floor.theorem in known else (f"{floor.theorem} at this bias needs parts to prove it.",)
    named = []
    for part in floor.parts:
        sides = [np.asarray(part.rows)] + ([] if part.partners is None else [np.asarray(part.partners)])
        if any(side.ndim != 1 or side.dtype.kind not in "iu" or len(side) != len(sides[0]) for side in sides):
            return ("The rows of a part must be whole numbers, with as many partners if there are any.",)
        if len(sides[0]) == 0:
            return ("A part has no datapoints.",)
        if free and part.partners is None:
            return ("The bias is free but a part has no pairs.",)
        named += sides
    every = np.concatenate(named)
    if len(np.unique(every)) < len(every) or every.min() < 0 or every.max() >= n_points:
        return ("The parts name a datapoint twice, or one that does not exist.",)
    return ()


def _least_wide(data: np.ndarray, lam: float) -> float:
    """The wide limit's value at a good bias: above its least value over all biases."""
    bias, best = data.mean(axis=0), math.inf
    for _ in range(1000):  # reweighted means: each step lowers the value
        norms = np.linalg.norm(data - bias, axis=1)
        value = float(_huber(norms, lam).mean())
        if not value < best * (1 - 1e-14):
            break
        best, pull = value, lam / np.maximum(norms, lam)
        bias = pull @ data / pull.sum()
    return best


def _most(offsets: np.ndarray, floor: Floor, part: FloorPart, samples: int) -> tuple[float, list[str]]:
    """The most that a part's weights can prove, and what is wrong with them."""
    norms = np.linalg.norm(offsets, axis=1)
    if part.theorem == "T9":
        return float(_huber(norms, floor.lam).mean()), []
    if part.theorem == "T10":
        shrunk = offsets * (1 - floor.lam / np.maximum(norms, floor.lam))[:, None]
        squares = linalg.singular_values(shrunk)[: floor.n_atoms] ** 2
        return float((np.sum(norms**2) - squares.sum()) / (2 * len(norms))), []
    if part.theorem not in ("T14", "T15") or part.kernel is None or part.weights is None or part.share_limit is None:
        return 0.0, [f"{part.theorem} needs a kernel, weights and their limit."]
    terms = list(zip(part.kernel.powers, part.kernel.coefficients, strict=True))
    if any(p != int(p) or p < 1 or not c > 0 for p, c in terms) or abs(math.fsum(c for _, c in terms) - 1) > _TOL:
        return 0.0, ["the kernel must have powers of at least 1 and coefficients above zero that sum to 1."]
    if part.theorem == "T15" and tuple(part.kernel.powers) != (2,):
        return 0.0, [f"T15 holds for the kernel t², not for {part.kernel}."]
    if part.partners is not None and len({p % 2 for p, _ in terms}) > 1:
        return 0.0, [f"the kernel {part.kernel} does not treat v and −v alike, but datapoints are paired."]
    if not (
        part.weights.shape == norms.shape
        and np.isrealobj(part.weights)
        and np.isfinite(part.weights).all()
        and (part.weights >= 0).all()
    ):
        return 0.0, ["weights must be finite, zero or more, one a point."]
    used = (part.weights > 0) & (norms > 0)
    directions = offsets[used] / norms[used, None]
    root = np.sqrt(part.weights[used])
    matrix = _kernel(part.kernel, directions @ directions.T) * np.outer(root, root)
    eigenvalues = np.sort(linalg.eigvalsh(matrix))[::-1]
    limit = float(eigenvalues[: floor.n_atoms].clip(0).sum())
    said = []
    if abs(eigenvalues.sum() - part.weights[used].sum()) > 1e-8 * part.weights[used].sum():
        said.append("the eigenvalues do not sum to the trace.")
    if not part.share_limit >= limit * (1 - _TOL):
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
