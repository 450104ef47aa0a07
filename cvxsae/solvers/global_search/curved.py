"""Exact codes of two atoms under penalties that are not quadratic on a support: a log penalty and a tree norm.

With ``q_k = d_k·(x − b)`` and ``c = d_1·d_2`` codes cost ``½‖x − b‖² − q·z + ½z_1² + ½z_2² + c z_1 z_2 + Ω(z)``.
The minimum is that of zero codes, of one atom, or of both at a root of a polynomial of degree four or of an equation in
one unknown that is increasing: every candidate is computed, and the cheapest is the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from cvxsae.relaxations.convex.penalties.nonconvex import Log, larger_root
from cvxsae.relaxations.convex.penalties.row_penalty import linear_radial

BISECTIONS = 60
"""Halvings of an interval of length 1: to the last digit."""

POLISHING = 3
"""Newton steps that take a candidate from half its digits to nearly all."""

TINY = 1e-300
"""What is divided by instead of zero."""


class Codes(NamedTuple):
    """Codes of both atoms, arrays of one shape."""

    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class CurvedCost(ABC):
    """What codes of two atoms in the plane cost, and what the bounds need to know of it.

    Attributes
    ----------
    name
        Of the penalty.
    """

    name: str

    n_atoms: ClassVar[int] = 2
    signed: ClassVar[bool] = False
    is_symmetric: ClassVar[bool] = False
    coherence: ClassVar[float] = 0.0
    power_scale: ClassVar[float] = 1.0

    @abstractmethod
    def penalty(self, z: Codes) -> np.ndarray:
        """Ω, λ included."""

    @abstractmethod
    def of_mass(self, s: np.ndarray) -> np.ndarray:
        """The g of T16: Ω of codes that sum to s is at least this, and it does not decrease."""

    @abstractmethod
    def mass_of(self, cost: np.ndarray) -> np.ndarray:
        """The largest sum of codes that can cost no more than this."""

    @abstractmethod
    def radial(self, r: np.ndarray) -> np.ndarray:
        """``min over t of ½(r − t)² + g(t)``: no codes of any atoms cost less at a point of length r (T16)."""

    @abstractmethod
    def of_sum(self, q: np.ndarray, a: np.ndarray) -> np.ndarray:
        """``min over s ≥ 0 of ½as² − qs + g(s)``."""

    @property
    @abstractmethod
    def most_concave(self) -> float:
        """By how much Ω can bend downwards at most: its second derivatives are at least minus this."""

    @abstractmethod
    def slopes(self, z: Codes) -> Codes:
        """The derivatives of Ω where it has them."""

    @abstractmethod
    def curvatures(self, z: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The second derivatives of Ω by codes (11, 12, 22), where both are positive."""

    @abstractmethod
    def alone(self, q: np.ndarray, atom: int) -> np.ndarray:
        """The codes of one atom that cost least without the other."""

    @abstractmethod
    def pairs(self, q: Codes, c: np.ndarray) -> list[Codes]:
        """Codes with both atoms active among which is the best such."""

    def cost(self, z: Codes, q: Codes, c: np.ndarray) -> np.ndarray:
        """What codes cost, less ``½‖x − b‖²``."""
        a, b = z
        return (0.5 * a - q.first) * a + (0.5 * b - q.second) * b + c * a * b + self.penalty(z)

    def codes(self, q: Codes, c: np.ndarray) -> Codes:
        """The best codes, for correlations and inner products that broadcast."""
        shape = np.broadcast_shapes(q.first.shape, c.shape)
        q, c = Codes(*(np.broadcast_to(part, shape) for part in q)), np.broadcast_to(c, shape)
        nothing = np.zeros(shape)
        candidates = [
            Codes(nothing, nothing),
            Codes(self.alone(q.first, 0), nothing),
            Codes(nothing, self.alone(q.second, 1)),
            *(self._polished(pair, q, c) for pair in self.pairs(q, c)),
        ]
        best, least = candidates[0], np.zeros(shape)
        for one in candidates[1:]:
            value = self.cost(one, q, c)
            better = value < least
            least = np.where(better, value, least)
            best = Codes(*(np.where(better, new, old) for new, old in zip(one, best, strict=True)))
        return best

    def _polished(self, z: Codes, q: Codes, c: np.ndarray) -> Codes:
        """A few Newton steps, each kept where it lowers the cost and both codes stay positive."""
        value = self.cost(z, q, c)
        for _ in range(POLISHING):
            slope = self.gradient(z, q, c)
            h11, h12, h22 = self.curvatures(z)
            h11, h12, h22 = 1 + h11, c + h12, 1 + h22
            determinant = h11 * h22 - h12**2
            safe = np.where(np.abs(determinant) > TINY, determinant, 1.0)
            a = z.first - (h22 * slope.first - h12 * slope.second) / safe
            b = z.second - (h11 * slope.second - h12 * slope.first) / safe
            inside = (a > 0) & (b > 0) & (z.first > 0) & (z.second > 0)
            moved = Codes(np.where(inside, a, z.first), np.where(inside, b, z.second))
            after = self.cost(moved, q, c)
            better = inside & (after <= value)
            z = Codes(np.where(better, moved.first, z.first), np.where(better, moved.second, z.second))
            value = np.where(better, after, value)
        return z

    def gradient(self, z: Codes, q: Codes, c: np.ndarray) -> Codes:
        """The derivatives of the cost by the codes, where Ω has them."""
        own = self.slopes(z)
        return Codes(z.first + c * z.second - q.first + own.first, z.second + c * z.first - q.second + own.second)

    def costs(
        self, X: Float64[np.ndarray, "N d"], atoms: Float64[np.ndarray, "K d"]
    ) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "N K"]]:
        """φ of every datapoint (already less the bias) and codes that attain it, in plain floating point."""
        products = X @ atoms.T
        z = self.codes(Codes(products[:, 0], products[:, 1]), np.array(atoms[0] @ atoms[1]))
        codes = np.stack(z, axis=1)
        return 0.5 * np.square(X - codes @ atoms).sum(axis=1) + self.penalty(z), codes


@dataclass(frozen=True)
class LogCost(CurvedCost):
    """``λ ε Σ_k log(1 + z_k/ε)``."""

    lam: float
    log: Log

    is_symmetric: ClassVar[bool] = True

    def penalty(self, z: Codes) -> np.ndarray:
        """Ω, λ included."""
        return self.of_mass(z.first) + self.of_mass(z.second)

    def of_mass(self, s: np.ndarray) -> np.ndarray:
        """``λ ε log(1 + s/ε)``: concave from zero, so that a sum pays no more than its parts."""
        return self.lam * self.log.of_mass(s)

    @property
    def epsilon(self) -> float:
        """ε."""
        return self.log.epsilon

    def mass_of(self, cost: np.ndarray) -> np.ndarray:
        """``ε (e^{cost/(λε)} − 1)``."""
        with np.errstate(over="ignore"):
            return self.epsilon * np.expm1(cost / (self.lam * self.epsilon))

    def radial(self, r: np.ndarray) -> np.ndarray:
        """The cost of a single code with the correlation r."""
        return self.log.radial(r, self.lam)

    def of_sum(self, q: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Zero, or at the larger root of ``(as − q)(s + ε) + λε``."""
        s = larger_root(q / a - self.epsilon, self.epsilon * (q - self.lam) / a)
        return np.minimum((0.5 * a * s - q) * s + self.of_mass(s), 0.0)

    @property
    def most_concave(self) -> float:
        """``λ/ε``, at zero."""
        return self.lam / self.epsilon

    def slopes(self, z: Codes) -> Codes:
        """``λ ε/(ε + z)``."""
        k = self.lam * self.epsilon
        return Codes(k / (self.epsilon + z.first), k / (self.epsilon + z.second))

    def curvatures(self, z: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``−λ ε/(ε + z)²``."""
        k = self.lam * self.epsilon
        own = [-k / (self.epsilon + part) ** 2 for part in z]
        return own[0], np.zeros_like(own[0]), own[1]

    def alone(self, q: np.ndarray, atom: int) -> np.ndarray:
        """The larger root of ``(z − q)(z + ε) + λε``, and zero where that is no better."""
        del atom
        return self.log.best_single(q, self.lam)

    def pairs(self, q: Codes, c: np.ndarray) -> list[Codes]:
        """Where both derivatives vanish: four roots of a polynomial in ``t = z_1 + ε``.

        With ``P_k = q_k + ε(1 + c)``, ``κ = λε`` and ``N = P_1 t − t² − κ`` the first derivative gives
        ``z_2 + ε = N/(c t)``, and the second ``P_2 c t N − N² − c² t² N − κ c² t² = 0``. The second code of a root is
        the best for the first.
        """
        k, eps = self.lam * self.epsilon, self.epsilon
        p1, p2 = q.first + eps * (1 + c), q.second + eps * (1 + c)
        # coefficients of t⁴ … 1, with N² = t⁴ − 2P₁t³ + (P₁² + 2κ)t² − 2P₁κ t + κ²
        coefficients = np.stack(
            [
                c**2 - 1,
                -p2 * c + 2 * p1 - c**2 * p1,
                p2 * c * p1 - p1**2 - 2 * k + c**2 * k - k * c**2,
                -p2 * c * k + 2 * p1 * k,
                np.full(c.shape, -(k**2)),
            ],
            axis=-1,
        )
        flat = coefficients.reshape(-1, 5)
        # of 1/t, whose leading coefficient −κ² is never zero; parallel atoms have a vanishing one of t⁴
        companion = np.zeros((len(flat), 4, 4))
        companion[:, 0] = -flat[:, 3::-1] / flat[:, 4:]
        companion[:, [1, 2, 3], [0, 1, 2]] = 1
        with np.errstate(divide="ignore", invalid="ignore"):
            roots = 1 / np.linalg.eigvals(companion)
        found = []
        for root in np.moveaxis(roots.reshape(*c.shape, 4), -1, 0):
            first = np.where(np.isfinite(root.real), np.maximum(root.real - eps, 0.0), 0.0)
            found.append(Codes(first, self.alone(q.second - c * first, 1)))
        return found


@dataclass(frozen=True)
class TreeCost(CurvedCost):
    """``λ (w_1 ‖(z_1, z_2)‖ + w_2 z_2)``: the first atom is the parent of the second. Given with λ."""

    both: float
    child: float

    @property
    def per_mass(self) -> float:
        """The least of Ω over codes that sum to 1: w_1 where the child pays as much as both, less otherwise."""
        if self.child >= self.both:
            return self.both
        # w_1 √((1 − t)² + t²) + w_2 t is least where its slope vanishes, at t < ½ with (1 − 2t)/norm = w_2/w_1
        ratio = self.child / self.both
        spread = ratio / np.sqrt(2 - ratio**2)  # 1 − 2t, since norm² = (1 + (1 − 2t)²)/2
        t = (1 - spread) / 2
        return float(self.both * np.sqrt((1 - t) ** 2 + t**2) + self.child * t) * (1 - 4 * np.finfo(float).eps)

    def penalty(self, z: Codes) -> np.ndarray:
        """Ω, λ included."""
        return self.both * np.hypot(*z) + self.child * z.second

    def of_mass(self, s: np.ndarray) -> np.ndarray:
        """A multiple of s, which single codes of the child exceed."""
        return self.per_mass * s

    def mass_of(self, cost: np.ndarray) -> np.ndarray:
        """Its inverse."""
        return cost / self.per_mass

    def radial(self, r: np.ndarray) -> np.ndarray:
        """``μr − μ²/2`` from μ on."""
        return linear_radial(r, self.per_mass)

    def of_sum(self, q: np.ndarray, a: np.ndarray) -> np.ndarray:
        """``−(q − μ)_+²/(2a)``."""
        return -(np.maximum(q - self.per_mass, 0.0) ** 2) / (2 * a)

    @property
    def most_concave(self) -> float:
        """A norm is convex."""
        return 0.0

    def slopes(self, z: Codes) -> Codes:
        """``w_1 z/‖z‖``, and w_2 more of the child."""
        norm = np.maximum(np.hypot(*z), TINY)
        return Codes(self.both * z.first / norm, self.both * z.second / norm + self.child)

    def curvatures(self, z: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``w_1 (I − z zᵀ/‖z‖²)/‖z‖``."""
        norm = np.hypot(*z)
        cube = np.maximum(norm, 1e-100) ** 3
        a, b = z
        return self.both * b**2 / cube, -self.both * a * b / cube, self.both * a**2 / cube

    def alone(self, q: np.ndarray, atom: int) -> np.ndarray:
        """``(q − w)_+``."""
        return np.maximum(q - self.both - (self.child if atom else 0.0), 0.0)

    def pairs(self, q: Codes, c: np.ndarray) -> list[Codes]:
        """``(G + ν I) z = q − w_2 e_2`` with the ν at which ``ν ‖z‖ = w_1``, which is increasing in ν."""
        first, second = q.first, q.second - self.child
        one, two = (first + second) / np.sqrt(2), (first - second) / np.sqrt(2)  # in the eigenvectors of G
        lo, hi = np.zeros(c.shape), np.ones(c.shape)
        for _ in range(BISECTIONS):  # of ν/(1 + ν)
            middle = (lo + hi) / 2
            nu = middle / np.maximum(1 - middle, TINY)
            short = nu * np.hypot(one / (1 + c + nu), two / (1 - c + nu)) < self.both
            lo, hi = np.where(short, middle, lo), np.where(short, hi, middle)
        nu = lo / np.maximum(1 - lo, TINY)
        u, v = one / np.maximum(1 + c + nu, TINY), two / np.maximum(1 - c + nu, TINY)
        a, b = (u + v) / np.sqrt(2), (u - v) / np.sqrt(2)
        both = (a > 0) & (b > 0) & (np.hypot(first, second) > self.both)
        return [Codes(np.where(both, a, 0.0), np.where(both, b, 0.0))]
