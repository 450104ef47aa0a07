"""The referee of width floors: recomputes every number of a floor in numpy, from the data and the weights alone."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from cvxsae.data.sources import rows_in_turn
from cvxsae.data.storage import fingerprint
from cvxsae.relaxations import linalg
from cvxsae.relaxations.floors.floor import Floor, FloorPart
from cvxsae.relaxations.floors.kernels import ZonalKernel
from cvxsae.relaxations.joint.joint import JointProblem

SAMPLES = 300
"""Points at which inner minima are sampled; more make the referee stricter by less than a tenth of a percent."""

TILTS, ANGLES, KAPPAS = 96, 600, 5
"""Tilts γ, angles of atoms and multiples κ of T15 that are sampled; twice as many change a floor by less than 0.1 %."""

_FINER = 2
"""Samples of q for T15, per sample asked for."""

_PER_OCTAVE = 32
"""Ratios λ/‖x‖ per power of two at which costs of T15 are computed."""

_BETWEEN = 2e-4
"""Costs are raised by this, relative: more than what interpolating them between these ratios can lose."""

_HALVINGS = 18
"""Steps of the bisection for the best κ, to 2⁻¹⁷."""

_TOL = 1e-10
"""Claims may exceed what is recomputed by this, relative: rounding of two float64 computations."""

_MEANS = 1000
"""Reweighted means at most in the search for a good bias; any bias gives a valid comparison."""

_SAME = 1e-14
"""A relative decrease below this ends that search."""

DENSE = 8000
"""Rows of a matrix of which all eigenvalues are computed; above, those of T15 are enclosed."""

ENCLOSED = 2e-3
"""How far, relative, a claimed sum of eigenvalues may be below the upper end of what encloses it."""

_BLOCK = 2**24
"""Entries of products that are made at a time."""

_SEED = 77
"""Of the random start of an enclosure: it is not that of any search."""

_COLUMNS = 1.35
"""Columns of its basis, per atom."""

_SWEEPS = 8
"""How often the basis is filtered at most."""

_DEGREE = 6
"""Of the Chebyshev filter."""

_RAISED = 2e-3
"""By which the largest eigenvalue that ARPACK finds is raised."""

_TRACE = 1e-8
"""How far, relative, the sum of all eigenvalues may be from the trace."""


def floor_objections(problem: JointProblem, floor: Floor, *, samples: int = SAMPLES) -> tuple[float, tuple[str, ...]]:
    """The most that a floor's weights can prove, and what is wrong with it, one sentence each; none if nothing is.

    It shares no code with :func:`~cvxsae.width_floor`. Eigenvalues are computed from all of them (their sum must be
    the trace); the inner minima are sampled at points, not bounded on intervals, so that they lie above what a sound
    floor claims, by about the width of a cell: a floor that claims more is refused.
    Time grows as N³ in the largest part. Data, width, λ and bias are the problem's, not the floor's; ``samples``
    are the points on [0, 1] at which the inner minima of T15 are sampled, eight times as many for T14.
    """
    misstated = _mismatch(problem, floor) + _misstated(floor, problem)
    if misstated:
        return math.nan, misstated
    if not floor.parts and problem.bias_is_free:
        most, _ = least_wide(problem.X.to_numpy(), problem.lam)
        fits = floor.value <= most * (1 + _TOL)
        return most, () if fits else (f"A bias costs {most:.12g}, less than the floor {floor.value:.12g}.",)
    shift = np.zeros(problem.dim) if problem.bias_is_free else problem.fixed_bias().numpy()
    objections: list[str] = []
    claimed = proved = 0.0
    n_points = problem.n_points
    parts = floor.parts or (FloorPart(np.arange(n_points), None, floor.value, floor.theorem),)
    sides = [np.asarray(side, np.int64) for part in parts for side in (part.rows, part.partners) if side is not None]
    points = rows_in_turn(problem.X, sides)
    for index, part in enumerate(parts):
        offsets = next(points).numpy()
        offsets = offsets - shift if part.partners is None else (offsets - next(points).numpy()) / 2
        most, said = _most(offsets, problem, part, samples)
        objections += [f"Part {index}: {sentence}" for sentence in said]
        if not part.value <= max(most, 0.0) * (1 + _TOL):
            objections.append(f"Part {index} claims {part.value:.12g}; its weights prove at most {most:.12g}.")
        count = len(part.rows) * (1 if part.partners is None else 2)
        claimed, proved = claimed + part.value * count, proved + max(most, 0.0) * count
    if not floor.value <= claimed / n_points * (1 + _TOL):
        objections.append(f"The floor claims {floor.value:.12g}; its parts give {claimed / n_points:.12g}.")
    return proved / n_points, tuple(objections)


def _mismatch(problem: JointProblem, floor: Floor) -> tuple[str, ...]:
    """Where the floor is about another problem."""
    theirs = floor.problem
    said = []
    if theirs.lam != problem.lam:
        said.append(f"The floor is for λ = {theirs.lam:g}, the problem has λ = {problem.lam:g}.")
    if theirs.n_atoms < problem.n_atoms:
        said.append(
            f"The floor is for {theirs.n_atoms} atoms, the problem has {problem.n_atoms}: more can go below it."
        )
    if not theirs.bias_is_free and (problem.bias_is_free or not torch.equal(theirs.fixed_bias(), problem.fixed_bias())):
        said.append("The floor is for another bias than the problem's.")
    if floor.fingerprint and floor.fingerprint != fingerprint(problem.X):
        said.append("The data are not those that the floor was computed for: their fingerprints differ.")
    return tuple(said)


def _misstated(floor: Floor, problem: JointProblem) -> tuple[str, ...]:
    """Of which datapoints the floor says it is made: a sentence if that makes no sense."""
    free, n_points = problem.bias_is_free, problem.n_points
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


def least_wide(data: np.ndarray, lam: float) -> tuple[float, np.ndarray]:
    """The wide limit's value at a good bias, which is above its least value over all biases, and that bias."""
    bias, best = data.mean(axis=0), math.inf
    for _ in range(_MEANS):  # reweighted means: each step lowers the value
        norms = np.linalg.norm(data - bias, axis=1)
        value = float(_huber(norms, lam).mean())
        if not value < best * (1 - _SAME):
            break
        best, pull = value, lam / np.maximum(norms, lam)
        bias = pull @ data / pull.sum()
    return best, bias


def _most(offsets: np.ndarray, problem: JointProblem, part: FloorPart, samples: int) -> tuple[float, list[str]]:
    """The most that a part's weights can prove, and what is wrong with them."""
    if (axes := part.projection) is not None:
        axes = np.asarray(axes)
        fits = axes.ndim == 2 and len(axes) == offsets.shape[1] and axes.size > 0
        if not fits or axes.dtype.kind != "f" or not np.isfinite(axes).all():
            return 0.0, ["the projection must have a finite row for each dimension."]
        if not linalg.singular_values(axes)[0] <= 1 + _TOL:
            return 0.0, ["the projection lengthens points: its largest singular value is above 1."]
        offsets = offsets @ axes
    norms = np.linalg.norm(offsets, axis=1)
    if part.theorem == "T9":
        return float(_huber(norms, problem.lam).mean()), []
    if part.theorem == "T10":
        shrunk = offsets * (1 - problem.lam / np.maximum(norms, problem.lam))[:, None]
        squares = linalg.singular_values(shrunk)[: problem.n_atoms] ** 2
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
    if len(root) > DENSE and part.theorem == "T15":
        limit, said = _checked_limit(directions, root, problem.n_atoms, part.share_limit)
    else:
        matrix = _kernel(part.kernel, directions @ directions.T) * np.outer(root, root)
        limit, said = _exact_limit(matrix, problem.n_atoms, part.share_limit)
    inner = _inner(norms, part.weights, problem.lam, part.kernel, part.theorem == "T15", samples)
    return (inner - limit) / len(norms), said


def _exact_limit(matrix: np.ndarray, n_atoms: int, claimed: float) -> tuple[float, list[str]]:
    """The sum of the largest eigenvalues of a matrix, from all of them, and what is wrong with what is claimed."""
    eigenvalues = np.sort(linalg.eigvalsh(matrix))[::-1]
    limit, trace = float(eigenvalues[:n_atoms].clip(0).sum()), float(np.trace(matrix))
    said = []
    if abs(eigenvalues.sum() - trace) > _TRACE * trace:
        said.append("the eigenvalues do not sum to the trace.")
    if not claimed >= limit * (1 - _TOL):
        said.append(f"Λ_K is claimed to be {claimed:.12g}; the largest eigenvalues sum to {limit:.12g}.")
    return limit, said


def _checked_limit(directions: np.ndarray, root: np.ndarray, n_atoms: int, claimed: float) -> tuple[float, list[str]]:
    """The same for t² and many datapoints, whose matrix ``[√w_n (v_n·v_m)² √w_m]`` is too large.

    In few dimensions from all eigenvalues of ``Σ_n w_n (v_n ⊗ v_n)(v_n ⊗ v_n)ᵀ`` on symmetric matrices, whose entries
    off the diagonal are counted once, times √2. In many dimensions the sum is enclosed:
    what an orthonormal basis catches is below it, and what is above follows from the largest eigenvalue that the
    basis leaves (floors_proofs.md, Lemma 4), which ARPACK finds. The claim must not be below what is certain.
    """
    n, d = directions.shape
    i, j = np.triu_indices(d)
    if len(i) <= DENSE:
        moment, twice = np.zeros((len(i), len(i))), np.where(i == j, 1, math.sqrt(2))
        for start in range(0, n, _BLOCK // len(i)):
            part = slice(start, start + _BLOCK // len(i))
            V = directions[part]
            squares = V[:, i] * V[:, j] * (twice * root[part, None])
            moment += squares.T @ squares
        return _exact_limit(moment, n_atoms, claimed)
    low, high = _enclosed_limit(directions, root, n_atoms)
    if not claimed >= low * (1 - _TOL):
        return low, [f"Λ_K is claimed to be {claimed:.12g}; the largest eigenvalues sum to at least {low:.12g}."]
    if not claimed >= high * (1 - ENCLOSED):
        return low, [f"Λ_K is claimed to be {claimed:.12g}; it could only be confirmed to be below {high:.12g}."]
    return low, []


def _enclosed_limit(directions: np.ndarray, root: np.ndarray, n_atoms: int) -> tuple[float, float]:
    """Two ends between which the sum of the K largest eigenvalues of the kernel matrix of t² is."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n, scale = len(root), float(root.max())
    root = root / scale  # single precision holds few powers of ten
    rng = np.random.default_rng(_SEED)
    columns = min(n, int(_COLUMNS * n_atoms) + 10)
    V, basis = directions.astype(np.float32), rng.standard_normal((n, columns), dtype=np.float32)

    def times(V: np.ndarray, Q: np.ndarray) -> np.ndarray:
        right, result = root[:, None].astype(Q.dtype) * Q, np.empty_like(Q)
        for start in range(0, n, max(1, _BLOCK // n)):
            part = slice(start, start + max(1, _BLOCK // n))
            result[part] = root[part, None] * ((V[part] @ V.T) ** 2 @ right)
        return result

    for _ in range(4):
        basis = np.linalg.qr(times(V, basis))[0]
    low, high = 0.0, math.inf
    for _ in range(_SWEEPS):
        image = times(V, basis)
        values, turn = np.linalg.eigh((basis.T @ image).astype(np.float64))
        cut, turn = max(float(values[0]), 1e-3 * float(values[-1]), 1e-30), turn.astype(np.float32)
        one = basis @ turn
        two = image @ turn * np.float32(2 / cut) - one
        for _ in range(_DEGREE - 1):
            one, two = two, 2 * (times(V, two) * np.float32(2 / cut) - two) - one
        basis = np.linalg.qr(two)[0]
        Q = np.linalg.qr(basis.astype(np.float64))[0]
        image = times(directions, Q)
        inner = Q.T @ image
        rest = image - Q @ inner

        def left(vector: np.ndarray, Q: np.ndarray = Q) -> np.ndarray:
            vector = np.ravel(vector)
            vector = vector - Q @ (Q.T @ vector)
            S = (directions * (root * vector)[:, None]).T @ directions
            moved = root * np.einsum("ni,ni->n", directions @ S, directions)
            return moved - Q @ (Q.T @ moved)

        start = rng.standard_normal(n)
        largest = eigsh(LinearOperator((n, n), left), k=1, v0=start, ncv=60, tol=1e-4, return_eigenvectors=False)
        s = float(largest[0]) * (1 + _RAISED)
        caught = np.sort(linalg.eigvalsh((inner + inner.T) / 2))[::-1]
        low = max(low, float(caught[:n_atoms].sum()))
        levels = s * (1 + 2.0 ** np.arange(-12, 1, 0.5))
        for t in (*levels, max(float(caught[n_atoms - 1]), levels[0])):
            raised = linalg.eigvalsh((inner + inner.T) / 2 + rest.T @ rest / (t - s))
            high = min(high, n_atoms * t + float((raised - t).clip(0).sum()))
        if high - low <= ENCLOSED / 2 * high:
            break
    return low * scale**2, high * scale**2


def _kernel(kernel: ZonalKernel, t: np.ndarray) -> np.ndarray:
    return np.asarray(sum(c * t**p for p, c in zip(kernel.powers, kernel.coefficients, strict=True)))


def _huber(a: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    t = np.minimum(a, level)
    return np.asarray(t * (a - t / 2))


def _inner(norms: np.ndarray, weights: np.ndarray, lam: float, kernel: ZonalKernel, cone: bool, samples: int) -> float:
    """``Σ_n min_q (Ψ_n(q) + w_n q)`` over sampled q, many datapoints at a time."""
    c = _sampled(_FINER * samples if cone else 8 * samples)
    charges = _kernel(kernel, c) ** 2
    live = norms > 0
    norms, weights = norms[live], weights[live]
    grid = rows = None
    if cone and (norms > lam).any():
        grid = _ratios(lam / norms.max())
        rows = np.stack([_cone_costs(_cone_table(samples), ratio) for ratio in grid]) * (1 + _BETWEEN)
    total = 0.0
    for start in range(0, len(norms), max(1, _BLOCK // len(c))):
        part = slice(start, start + max(1, _BLOCK // len(c)))
        norm, weight = norms[part, None], weights[part, None]
        costs = _huber(norm, lam / c)
        if grid is not None and rows is not None:
            place = np.interp((lam / norms[part]).clip(max=1.0), grid, np.arange(len(grid)))
            left = np.minimum(place.astype(int), len(grid) - 2)
            share = (place - left)[:, None]
            np.maximum(costs, norm**2 * ((1 - share) * rows[left] + share * rows[left + 1]), out=costs)
        total += float((costs + weight * charges).min(axis=1).sum())
    return total


def _sampled(samples: int) -> np.ndarray:
    return np.append((np.arange(samples) + 0.5) / samples, 1.0)


def _ratios(least: float) -> np.ndarray:
    """Ratios λ/‖x‖, rising to 1, between which costs are interpolated."""
    return np.geomspace(min(least, 0.5), 1.0, math.ceil(_PER_OCTAVE * -math.log2(min(least, 0.5))) + 1)


@lru_cache(maxsize=2)
def _cone_table(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """``max (c + κp)`` over atoms on the cone of T15, sampled, and ``√(1 + κ²)``: (q, tilt, κ)."""
    c = np.sin(np.linspace(0, np.pi / 2, ANGLES))
    reach = np.sqrt(1 - c**2)
    slopes, kappas_used = [], []
    for share in _sampled(_FINER * samples) ** 4:
        gamma = np.sin(np.linspace(0, np.pi / 2, TILTS))[:, None] * math.sqrt(share * (1 - share) / 2)
        rho = np.sqrt(np.maximum(share * (1 - share) - 2 * gamma**2, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = (rho * (1 - c**2) - (1 - share) * c**2) / (2 * gamma * c)
        p = np.fmin(p, reach)  # where γc = 0 the cone does not limit p, or leaves no atom: ∞ and 0/0, or -∞
        outside = (p < -reach) | (c**4 > share)
        on_cone = np.where(outside, 0.0, c)
        p[outside] = 0.0
        middle = np.full(TILTS, 1.0)
        for width in 2.0 ** -np.arange(1, _HALVINGS):  # bisection on the slope of a convex function of κ
            steepest = np.argmax(on_cone + middle[:, None] * p, axis=1)
            middle = middle - np.sign(np.take_along_axis(p, steepest[:, None], 1)[:, 0]) * width
        kappa = middle[:, None] * np.linspace(0, 1, KAPPAS)
        products = on_cone[:, None] + kappa[:, :, None] * p[:, None]
        slopes.append(np.maximum(products.max(axis=2), kappa))
        kappas_used.append(kappa)
    return np.array(slopes), np.sqrt(1 + np.array(kappas_used) ** 2)


def _cone_costs(table: tuple[np.ndarray, np.ndarray], ratio: float) -> np.ndarray:
    """What a datapoint of length 1 costs at least at λ = ``ratio``, at each sampled q."""
    slopes, stretch = table
    level = np.divide(ratio * stretch, slopes, where=slopes > 0, out=np.full_like(slopes, np.inf))
    return np.asarray(_huber(1 / stretch, level).max(axis=2).min(axis=1))
