"""Codes of few atoms in closed form, support by support, for every penalty that is quadratic on a support.

On a support the cost of the codes is ``½‖x − b‖² s − z·p + ½ zᵀ A z``, and a fixed cost of every active atom, with
``p_k = s_k d_k·(x − b) − λ_k`` and ``A = S ∘ G + M`` (G the Gram matrix): one small quadratic per support, and φ(x; D)
is the least of those whose codes are nonnegative. That covers L1, weighted and signed L1, elastic net, L0, TopK, (Σz)²
and prefix losses with shared codes; a term on the coherence of the atoms is added once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64

MOST_ACTIVE = 2
"""Atoms of a support: in the plane no codes need more, and no more than two atoms are searched elsewhere."""


@dataclass(frozen=True, eq=False)
class CodeCost:
    """What the codes of one datapoint cost, as numbers a support.

    Attributes
    ----------
    name
        Of the penalty.
    linear
        λ_k, (K,).
    correlation_scale, gram_scale
        s_k and S of the first lines, (K,) and (K, K): 1 but for prefix losses.
    ridge
        M, (K, K), added to the Gram matrix.
    per_atom
        Fixed cost of an active atom.
    most_active
        Atoms that may be active at a time, at most two.
    signed
        Whether every atom may also be used with its sign reversed.
    coherence
        γ of ``γ Σ_{k<l} cos²(d_k, d_l)``, a term on the dictionary.
    power_scale
        s, the factor of ½‖x − b‖².
    """

    name: str
    linear: Float64[np.ndarray, " K"]
    correlation_scale: Float64[np.ndarray, " K"]
    gram_scale: Float64[np.ndarray, "K K"]
    ridge: Float64[np.ndarray, "K K"]
    per_atom: float = 0.0
    most_active: int = MOST_ACTIVE
    signed: bool = False
    coherence: float = 0.0
    power_scale: float = 1.0

    @classmethod
    def plain(
        cls, name: str, n_atoms: int, linear: float, *, ridge: Float64[np.ndarray, "K K"] | float = 0.0, **more: object
    ) -> CodeCost:
        """The same λ for every atom, and a ridge: a number for each atom's own, or a matrix."""
        ones = np.ones(n_atoms)
        matrix = ridge * np.eye(n_atoms) if np.ndim(ridge) == 0 else np.asarray(ridge, dtype=np.float64)
        return cls(name, linear * ones, ones, np.ones((n_atoms, n_atoms)), matrix, **more)  # type: ignore[arg-type]

    @property
    def n_atoms(self) -> int:
        """K."""
        return len(self.linear)

    @property
    def is_convex(self) -> bool:
        """Whether the codes are a convex problem: then where they are unique φ is smooth across supports."""
        return self.per_atom == 0 and self.most_active >= min(self.n_atoms, MOST_ACTIVE)

    @property
    def is_symmetric(self) -> bool:
        """Whether atoms can be exchanged."""
        alike = (np.ptp(a) == 0 for a in (self.linear, self.correlation_scale))
        off = self.gram_scale[~np.eye(self.n_atoms, dtype=bool)], self.ridge[~np.eye(self.n_atoms, dtype=bool)]
        own = np.diag(self.gram_scale), np.diag(self.ridge)
        return all(alike) and all(np.ptp(a) == 0 for a in (*off, *own) if len(a))

    @property
    def diagonal(self) -> Float64[np.ndarray, " K"]:
        """That of A."""
        return np.diag(self.gram_scale) + np.diag(self.ridge)

    def both_signs(self) -> CodeCost:
        """The same with every atom and its negative as atoms of their own."""
        if not self.signed:
            return self
        twice = np.tile
        return CodeCost(
            self.name,
            twice(self.linear, 2),
            twice(self.correlation_scale, 2),
            twice(self.gram_scale, (2, 2)),
            twice(self.ridge, (2, 2)),
            self.per_atom,
            self.most_active,
            False,
            self.coherence,
            self.power_scale,
        )

    def supports(self, n_atoms: int) -> tuple[tuple[int, ...], ...]:
        """All supports, of atoms and, where they are signed, of negatives (k + K) as well."""
        width = self.n_atoms
        pairs = [pair for pair in combinations(range(width), 2) if pair[1] - pair[0] != n_atoms or width == n_atoms]
        found: list[tuple[int, ...]] = [(), *((k,) for k in range(width)), *pairs]
        return tuple(support for support in found if len(support) <= self.most_active)

    def costs(
        self, X: Float64[np.ndarray, "N d"], atoms: Float64[np.ndarray, "K d"]
    ) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "N K"]]:
        """φ of every datapoint (already less the bias) and codes that attain it, in plain floating point."""
        full = self.both_signs()
        rows = np.concatenate([atoms, -atoms]) if self.signed else atoms
        power = self.power_scale * 0.5 * (X**2).sum(axis=1)
        p = full.correlation_scale * (X @ rows.T) - full.linear
        A = full.gram_scale * (rows @ rows.T) + full.ridge
        best, codes = power.copy(), np.zeros((len(X), full.n_atoms))
        for support in full.supports(len(atoms))[1:]:
            on = list(support)
            block = A[np.ix_(on, on)]
            if len(on) == MOST_ACTIVE and np.linalg.det(block) <= _PARALLEL * block[0, 0] * block[1, 1]:
                continue
            z = np.linalg.solve(block, p[:, on].T).T
            value = full._at(X, rows, on, z)
            better = (z >= 0).all(axis=1) & (value < best)
            best[better] = value[better]
            codes[better] = 0
            codes[np.ix_(better, on)] = z[better]
        if self.signed:
            codes = codes[:, : len(atoms)] - codes[:, len(atoms) :]
        return best, codes

    def _at(
        self, X: Float64[np.ndarray, "N d"], rows: Float64[np.ndarray, "K d"], on: list[int], z: np.ndarray
    ) -> Float64[np.ndarray, " N"]:
        """The cost of codes z (N, |S|) on a support, by residuals.

        The closed form ``½‖x‖² s − ½ z·p`` loses all digits where opposite atoms have large codes that cancel, as L0
        allows.
        """
        D, block = rows[on], np.ix_(on, on)
        residual = X - z @ D
        own = 0.5 * np.square(residual).sum(axis=1) + z @ self.linear[on] + self.per_atom * len(on)
        own += 0.5 * np.einsum("nk,kj,nj->n", z, self.ridge[block], z)
        if self.power_scale == 1:
            return own
        # what prefix losses add to the first loss
        more = 0.5 * (self.power_scale - 1) * np.square(X).sum(axis=1)
        more -= ((self.correlation_scale[on] - 1) * z * (X @ D.T)).sum(axis=1)
        return own + more + 0.5 * np.einsum("nk,kj,nj->n", z, (self.gram_scale[block] - 1) * (D @ D.T), z)


_PARALLEL = 1e-14
"""Relative determinant below which two atoms are one: a single one does as well."""
