"""The objective and the dual of each problem, from the formulas of the theory page, in exact arithmetic."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tests.referee.exact import fraction, is_positive_semidefinite, root, whole

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Case:
    """A problem in plain arrays; ``kind`` is wide, codes, candidates or large, ``bias`` None, a vector or "free"."""

    kind: str
    X: np.ndarray
    lam: float
    tau: float = 0.0
    atoms: np.ndarray | None = None
    bias: np.ndarray | str | None = None

    @property
    def is_free(self) -> bool:
        return isinstance(self.bias, str)


def objective(X: np.ndarray, b: np.ndarray, D: np.ndarray, Z: np.ndarray, lam: float, tau: float = 0.0) -> Fraction:
    """``(1/N) [ ½‖X − 1bᵀ − ZD‖² + λ Σ_k ‖d_k‖ θ_τ(z_k) ]``."""
    s, (x, bias, d, z) = whole(X, b, D, Z)
    residual = ((x - bias[None]) << s) - z.dot(d) if len(d) else (x - bias[None]) << s
    squares = fraction(int((residual * residual).sum()), 4 * s)
    charge = Fraction(0)
    for k in range(len(d)):
        mass, energy = int(z[:, k].sum()), int((z[:, k] * z[:, k]).sum())
        theta = fraction(mass * mass, 2 * s) + Fraction(tau) * fraction(energy, 2 * s)
        charge += root(theta * fraction(int((d[k] * d[k]).sum()), 2 * s))
    return (squares / 2 + Fraction(lam) * charge) / len(X)


def rounding(X: np.ndarray, b: np.ndarray, D: np.ndarray, Z: np.ndarray, value: float) -> float:
    """What float64 may do to the objective, evaluated as it is written: a few units of its largest intermediate."""
    inside = np.linalg.norm(X, axis=1) + np.linalg.norm(b) + (Z @ np.linalg.norm(D, axis=1) if len(D) else 0.0)
    residual = np.linalg.norm(X - b - Z @ D, axis=1) if len(D) else np.linalg.norm(X - b, axis=1)
    units = EPS * (8 + sum(X.shape) + len(D))
    return units * (abs(value) + float(np.mean(inside * residual)) + units * float(np.mean(inside**2)))


def dual_value(case: Case, Y: np.ndarray, attained: Fraction) -> Fraction:
    """``(1/N) [⟨X − 1bᵀ, Y⟩ − ½‖Y‖²]``, below everything that costs at most ``attained``.

    With a free bias b drops out where ``Σ y = 0``. What is left of that sum is charged for every bias that could do as
    well: ``Σ z ≤ N · attained/λ`` and the mean residual is no longer than ``√(2 attained)``, so ``‖b − mean x‖`` is at
    most their sum.
    """
    n = len(case.X)
    at = np.zeros(case.X.shape[1]) if case.bias is None or case.is_free else np.asarray(case.bias)
    s, (x, bias, y) = whole(case.X, at, Y)
    bias = x[0] if case.is_free else bias
    total = fraction(int(((x - bias[None]) * y).sum()), 2 * s) - fraction(int((y * y).sum()), 2 * s) / 2
    if case.is_free:
        drift = root(fraction(int((y.sum(axis=0) ** 2).sum()), 2 * s))
        away = root(fraction(int(((x.sum(axis=0) - n * x[0]) ** 2).sum()), 2 * s)) / n
        total -= drift * (away + root(2 * attained) + attained / Fraction(case.lam)) * (1 + Fraction(1, 2**60))
    return total / n


def dual_excess(case: Case, D: np.ndarray, Y: np.ndarray, proof: dict[str, np.ndarray]) -> float:
    """By how much Y breaks ``polar(Y) ≤ λ``, relative to λ; zero if it is feasible, exactly. ``D`` are given atoms."""
    if case.kind == "wide" or (case.kind == "large" and case.tau == 0):
        return max(_excess(_norm_square(y), case.lam) for y in Y)
    if case.kind == "large":
        return _large_excess(case, Y, proof)
    worst = 0.0
    s, (y, d) = whole(Y, D)
    products = y.dot(d.T)
    for k in range(len(d)):
        size = fraction(int((d[k] * d[k]).sum()), 2 * s)
        column = [fraction(int(v), 2 * s) for v in products[:, k]]
        worst = max(worst, _excess(_theta_polar_square(column, case.tau) / size, case.lam))
    return worst


def _norm_square(y: np.ndarray) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in y), Fraction(0))


def _excess(square: Fraction, lam: float) -> float:
    """``(√square/λ − 1)_+``, zero exactly where ``square ≤ λ²``."""
    ratio = square / Fraction(lam) ** 2
    return 0.0 if ratio <= 1 else max(float(root(ratio) - 1), 5e-324)


def _theta_polar_square(v: list[Fraction], tau: float) -> Fraction:
    """``min_{a ≥ 0} a² + (1/τ) Σ (v_n − a)_+²`` (9), at the a that the sorted sums give: exact."""
    positive = sorted((value for value in v if value > 0), reverse=True)
    if not positive:
        return Fraction(0)
    if tau == 0:
        return positive[0] ** 2
    price, total, a = Fraction(tau), Fraction(0), Fraction(0)
    for count, value in enumerate(positive, start=1):
        total += value
        a = max(a, total / (price + count))
    return a * a + sum(((value - a) ** 2 for value in positive if value > a), Fraction(0)) / price


def _large_excess(case: Case, Y: np.ndarray, proof: dict[str, np.ndarray]) -> float:
    """Zero if ``λ²(11ᵀ + τI) − YYᵀ`` is proved copositive: by the arrays given, by P = 0, by the one-shot P, by slices,
    by ``‖y_n‖ ≤ λ``, or in up to two dimensions by arcs; else how far the polar found by a search is above λ."""
    if all(_excess(_norm_square(y), case.lam) == 0 for y in Y):
        return 0.0
    s, (y, lam, tau) = whole(Y, case.lam, case.tau)
    gram, n = y.dot(y.T), len(Y)
    price = np.full((n, n), int(lam) ** 2, dtype=object)
    price = (price << s) + np.diag([int(lam) ** 2 * int(tau)] * n).astype(object)  # in units of 2^-3s
    M = price - (gram << s)
    if "slices" in proof:
        return 0.0 if _slices_prove(M, 3 * s, proof["slices"]) else _searched_excess(case, Y)
    tries = [np.zeros((n, n), dtype=object)]
    one_shot = np.maximum(int(lam) ** 2 - gram, 0) << s
    np.fill_diagonal(one_shot, 0)
    tries.append(one_shot)
    if "P" in proof:
        given = np.clip((proof["P"] + proof["P"].T) / 2, 0, None)
        q, (p,) = whole(given)
        up = max(q - 3 * s, 0)
        tries, M = [(p << max(3 * s - q, 0)), *(P << up for P in tries)], M << up
    if any(is_positive_semidefinite(M - P) for P in tries):
        return 0.0
    if Y.shape[1] <= 2 and _arcs_prove(case, Y):
        return 0.0
    return _searched_excess(case, Y)


def _slices_prove(M: np.ndarray, shift: int, slices: np.ndarray) -> bool:
    """``(1 ⊗ M)_ijk ≥ (S)_ijk`` with every ``S_i ⪰ 0``, after what a slice lacks is added to its diagonal."""
    S = (slices + slices.transpose(0, 2, 1)) / 2
    n = len(S)
    for i in range(n):
        lack = 2 * n * EPS * float(np.linalg.norm(S[i])) - float(np.linalg.eigvalsh(S[i])[0])
        S[i] += max(0.0, lack) * np.eye(n)
    q, (s,) = whole(S)
    m, up = M << max(q - shift, 0), max(shift - q, 0)
    s = s << up
    if not all(is_positive_semidefinite(part) for part in s):
        return False
    spread = m[None] + m[:, None, :] + m[:, :, None]
    return bool((spread - (s + s.transpose(1, 0, 2) + s.transpose(1, 2, 0)) >= 0).all())


def _polar_at(Y: np.ndarray, tau: float, u: np.ndarray) -> float:
    """θ°_τ(Yu) in float64."""
    v = np.sort(np.clip(Y @ u, 0, None))[::-1]
    a = float((np.cumsum(v) / (tau + np.arange(1, len(v) + 1))).max())
    return float(np.sqrt(a * a + (np.clip(v - a, 0, None) ** 2).sum() / tau))


def _arcs_prove(case: Case, Y: np.ndarray) -> bool:
    """On an arc of half-angle δ between u₁ and u₂ the gauge is at most its larger end over cos δ: halved until ≤ λ."""
    limit = case.lam * (1 + 1e-13)  # rounding of these few products
    if Y.shape[1] == 1:
        return max(_polar_at(Y, case.tau, np.array([sign])) for sign in (1.0, -1.0)) <= limit

    def at(angle: float) -> float:
        return _polar_at(Y, case.tau, np.array([np.cos(angle), np.sin(angle)]))

    ends = np.linspace(0, 2 * np.pi, 65)
    arcs = [(left, right, at(left), at(right)) for left, right in itertools.pairwise(ends)]
    for _ in range(20_000):
        if not arcs:
            return True
        left, right, low, high = arcs.pop()
        if max(low, high) > limit:
            return False
        if max(low, high) > limit * np.cos((right - left) / 2):
            middle = (left + right) / 2
            arcs += [(left, middle, low, at(middle)), (middle, right, at(middle), high)]
    return False


def _searched_excess(case: Case, Y: np.ndarray) -> float:
    """How far above λ the polar is, at the best direction found from many starts; nothing found proves nothing."""
    rng, best = np.random.default_rng(0), 0.0
    scaled = Y / max(np.abs(Y).max(), np.finfo(np.float64).tiny)  # the same directions, and no square overflows
    for u in (*scaled, *-scaled, *rng.normal(size=(30, Y.shape[1]))):
        if not np.any(u):
            continue
        u = u / np.linalg.norm(u)
        for _ in range(60):
            v = np.clip(scaled @ u, 0, None)
            ordered = np.sort(v)[::-1]
            a = float((np.cumsum(ordered) / (case.tau + np.arange(1, len(v) + 1))).max())
            step = scaled.T @ np.clip(v - a, 0, None)
            if not np.any(step):
                break
            u = step / np.linalg.norm(step)
        best = max(best, _polar_at(Y, case.tau, u) / case.lam - 1)
    return best if best > 1e-12 else 0.0
