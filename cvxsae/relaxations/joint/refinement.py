"""Where a dictionary would grow: the best new atom (T7) and the atom that splits best, and how (T8).

Both are searches on the sphere for the maximum of a convex function, by the iteration that maximizes its
linearization: every step increases it. What is found is attained, so each gain is a true lower bound of what the
best atom or split would give; nothing says that no better one exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64

from cvxsae.data import arguments
from cvxsae.data.deadline import go_on
from cvxsae.errors import InputError

Residuals: TypeAlias = torch.Tensor | Callable[[], Iterable[torch.Tensor]]
"""Residuals (N, d), or a function that yields them in blocks of rows, once a call."""

_BLOCK_ENTRIES = 2**22
"""Most entries of a block of products with directions: 32 MB in float64."""

_GATHER_ENTRIES = {"cpu": 2**20, "cuda": 2**26}
"""Most entries of residuals gathered by atom at a time: 8 MB on a CPU (its cache), 512 MB on a GPU."""


def refinement_gain(residuals: Residuals, lam: float, atoms: Float[torch.Tensor, "m d"]) -> Float[torch.Tensor, " m"]:
    """How much one more unit atom lowers F with all other codes fixed, (m,): ``(1/N) Σ_n ½(u·r_n − λ)_+²`` (T7).

    Exact for that move at exact codes, and a lower bound of the decrease once the other codes respond.
    """
    return _excess(residuals, lam, atoms)[0]


def best_new_atoms(
    residuals: Residuals,
    lam: float,
    starts: Float[torch.Tensor, "m d"],
    *,
    iterations: int = 100,
    rtol: float = 1e-6,
) -> tuple[Float[torch.Tensor, "m d"], Float[torch.Tensor, " m"]]:
    """Climb :func:`refinement_gain` from many starts at once: ``u ← normalize(Σ_n (u·r_n − λ)_+ r_n)`` (T7).

    The gain of every start increases monotonically, for the gain is convex in u and the step maximizes its
    linearization. A start that no residual exceeds λ along stays where it is, with gain zero. Ends after ``iterations``
    steps of two products with the residuals, or when no gain grew by more than ``rtol``, relative.

    Returns
    -------
    atoms, gains
        Atoms of norm 1, (m, d), in the order of their starts, and their gains in units of (P), (m,).
    """
    atoms = _normalized(starts)
    gains, steps = _excess(residuals, lam, atoms)
    for _ in range(iterations):
        moved = _normalized(steps, otherwise=atoms)
        reached, steps = _excess(residuals, lam, moved)
        better = reached > gains  # rounding may undo the last digits; never return less than was found
        growth = ((reached - gains) / reached.clamp(min=torch.finfo(reached.dtype).tiny)).amax()
        atoms = torch.where(better[:, None], moved, atoms)
        gains = torch.maximum(reached, gains)
        if float(growth) <= rtol:
            break
    return atoms, gains


def residual_starts(
    residuals: Float[torch.Tensor, "N d"], lam: float, count: int, *, seed: int = 0
) -> Float[torch.Tensor, "m d"]:
    """Directions of the longest residual and of others drawn with probability ∝ ``(‖r_n‖ − λ)_+²``, (m, d).

    Only residuals longer than λ can lower F (T7): m is smaller than ``count`` when fewer exist, and 0 when D is optimal
    among dictionaries of every width.
    """
    norms = torch.linalg.vector_norm(residuals, dim=1)
    weights = (norms - lam).clamp(min=0).square().to(device="cpu", dtype=torch.float64).numpy()
    longest = int(weights.argmax())
    if weights[longest] == 0:
        return residuals[:0]
    weights[longest] = 0
    others = min(count - 1, int(np.count_nonzero(weights)))
    chosen = [longest]
    if others > 0:
        rng = np.random.default_rng(seed)
        chosen += [int(n) for n in rng.choice(len(weights), size=others, replace=False, p=weights / weights.sum())]
    return _normalized(residuals[torch.tensor(chosen, device=residuals.device)])


def split_scores(
    residuals: Float[torch.Tensor, "N d"],
    codes: sp.csr_array | sp.csc_array,
    dictionary: Float[torch.Tensor, "K d"],
    *,
    atoms: Int64[np.ndarray, " k"] | None = None,
    iterations: int = 50,
    starts: int = 3,
    rtol: float = 1e-6,
    seed: int = 0,
) -> tuple[Float[torch.Tensor, " k"], Float[torch.Tensor, "k d"]]:
    """How fast F falls when an atom splits in two, and along which direction (T8, equation 4).

    ``s_k(v) = (1/N) Σ_n z_nk |v·r_n|``, maximized over ``‖v‖ = 1``, ``v ⊥ d_k`` by the monotone iteration
    ``v ← normalize(Σ_n z_nk sign(v·r_n) r_n^⊥)`` (an L1-PCA) from the longest weighted residual, the leading direction
    of the weighted covariance and random ones, ``starts`` in all, until no score grows by more than ``rtol``. Replacing
    ``d_k`` by ``normalize(d_k ± εv)`` lowers F by ``ε s_k + O(ε²)`` at exact codes. The score is attained by the
    direction returned, so it is a lower bound of the best one; zero means that all residuals of k's datapoints are
    parallel to ``d_k``. The cost is proportional to the active codes of ``atoms``, which are all unless given.

    Returns
    -------
    scores, directions
        In units of (P) per unit ε, (k,), and unit directions, (k, d); both zero for a dead atom and where nothing can
        be gained.
    """
    columns = codes.tocsc()
    wanted = np.arange(codes.shape[1]) if atoms is None else np.asarray(atoms, dtype=np.int64)
    if len(wanted) and not (wanted.min() >= 0 and wanted.max() < codes.shape[1]):
        raise InputError(f"atoms has an index outside 0 to {codes.shape[1] - 1}; pass indices of atoms.")
    starts = arguments.count(starts, "starts")
    counts = np.diff(columns.indptr)[wanted]
    scores = residuals.new_zeros(len(wanted))
    directions = residuals.new_zeros((len(wanted), residuals.shape[1]))
    generator = torch.Generator().manual_seed(seed)
    budget = _GATHER_ENTRIES[residuals.device.type] // residuals.shape[1]
    for group in _groups(counts, budget):
        members = _Members(residuals, columns, wanted[group], dictionary, budget)
        found = _split_group(members, starts, iterations, rtol, generator)
        where = torch.from_numpy(group).to(residuals.device)
        scores[where], directions[where] = found[0] / len(residuals), found[1]
    return scores, directions


def split_atom(
    dictionary: Float[torch.Tensor, "K d"], atom: int, direction: Float[torch.Tensor, " d"], step: float
) -> Float[torch.Tensor, "K1 d"]:
    """Replace atom k by ``normalize(d_k + εv)`` and add ``normalize(d_k − εv)`` as the last row (T8)."""
    pair = _normalized(torch.stack([dictionary[atom] + step * direction, dictionary[atom] - step * direction]))
    return torch.cat([dictionary[:atom], pair[:1], dictionary[atom + 1 :], pair[1:]])


def _excess(
    residuals: Residuals, lam: float, atoms: Float[torch.Tensor, "m d"]
) -> tuple[Float[torch.Tensor, " m"], Float[torch.Tensor, "m d"]]:
    """Gains (1/N) Σ ½(u·r − λ)_+² and their gradients (1/N) Σ (u·r − λ)_+ r, one pass over the residuals."""
    gains, steps = atoms.new_zeros(len(atoms)), torch.zeros_like(atoms)
    n_points = 0
    for block in residuals() if callable(residuals) else (residuals,):
        n_points += len(block)
        for rows in torch.split(block, max(1, _BLOCK_ENTRIES // max(1, len(atoms)))):
            go_on()
            over = (rows @ atoms.T).sub_(lam).clamp_(min=0)
            gains += over.square().sum(dim=0) / 2
            steps.addmm_(over.T, rows)
    return gains / n_points, steps / n_points


def _normalized(
    rows: Float[torch.Tensor, "*batch d"], *, otherwise: Float[torch.Tensor, "*batch d"] | None = None
) -> Float[torch.Tensor, "*batch d"]:
    """Rows scaled to norm 1; zero rows become those of ``otherwise``, or stay zero."""
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    fallback = torch.zeros_like(rows) if otherwise is None else otherwise
    return torch.where(norms > 0, rows / torch.where(norms > 0, norms, 1), fallback)


def _groups(counts: Int64[np.ndarray, " k"] | np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Live atoms in groups of similar support, such that a group's padded members stay within the budget."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * counts[order[stop]] <= budget:
            stop += 1
        yield order[start:stop]
        start = stop


class _Members:
    """Residuals and codes of the datapoints of a few atoms, padded to one length; gathered once if they fit."""

    def __init__(
        self,
        residuals: Float[torch.Tensor, "N d"],
        columns: sp.csc_array,
        atoms: np.ndarray,
        dictionary: Float[torch.Tensor, "K d"],
        budget: int,
    ) -> None:
        starts, ends = columns.indptr[atoms], columns.indptr[atoms + 1]
        length = int((ends - starts).max())
        places = starts[:, None] + np.arange(length)
        real = places < ends[:, None]
        places = np.where(real, places, starts[:, None])
        device = residuals.device
        self.rows = torch.from_numpy(columns.indices[places].astype(np.int64)).to(device)
        weights = torch.from_numpy(np.where(real, columns.data[places], 0.0))
        self.weights = weights.to(device=device, dtype=residuals.dtype)
        chosen = torch.from_numpy(atoms.astype(np.int64)).to(dictionary.device)
        self.atoms = dictionary[chosen].to(device=device, dtype=residuals.dtype)
        self.residuals = residuals
        self.step = length if len(atoms) * length <= budget else max(1, budget // len(atoms))
        self.kept = residuals[self.rows] if self.step == length else None

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Residuals (a, m, d) and codes (a, m), in pieces along m."""
        go_on()
        if self.kept is not None:
            yield self.kept, self.weights
            return
        for start in range(0, self.rows.shape[1], self.step):
            go_on()
            part = slice(start, start + self.step)
            yield self.residuals[self.rows[:, part]], self.weights[:, part]

    def orthogonal(self, V: Float[torch.Tensor, "a d s"]) -> Float[torch.Tensor, "a d s"]:
        """Unit columns orthogonal to each atom; zero where what is left is rounding."""
        atoms = self.atoms[:, :, None]
        before = torch.linalg.vector_norm(V, dim=1, keepdim=True)
        for _ in range(2):  # twice is enough for orthogonality to the last digit
            V = V - atoms * (atoms * V).sum(dim=1, keepdim=True)
        after = torch.linalg.vector_norm(V, dim=1, keepdim=True)
        some = after > 64 * torch.finfo(V.dtype).eps * before
        return torch.where(some, V / torch.where(some, after, 1), 0)

    def climb(self, V: Float[torch.Tensor, "a d s"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ z|v·r| of every direction, (a, s), and the next directions."""
        totals, steps = V.new_zeros((V.shape[0], V.shape[2])), torch.zeros_like(V)
        for R, z in self.blocks():
            along = torch.bmm(R, V)
            totals += (z[:, :, None] * along.abs()).sum(dim=1)
            # A residual that v does not see counts as positive: any sign is a subgradient, zero would waste it.
            steps += torch.bmm(R.mT, torch.where(along >= 0, z[:, :, None], -z[:, :, None]))
        return totals, self.orthogonal(steps)

    def start(self, count: int, generator: torch.Generator) -> Float[torch.Tensor, "a d s"]:
        """The longest weighted residual, the leading direction of the weighted covariance, random ones."""
        a, d = self.atoms.shape
        longest, length = self.atoms.new_zeros((a, d)), self.atoms.new_full((a,), -1.0)
        for R, z in self.blocks():
            along = torch.bmm(R, self.atoms[:, :, None])[:, :, 0]
            sizes = z * (R.square().sum(dim=2) - along.square()).clamp(min=0).sqrt()
            best = sizes.argmax(dim=1)
            size = sizes.gather(1, best[:, None])[:, 0]
            longest = torch.where((size > length)[:, None], R[torch.arange(a, device=R.device), best], longest)
            length = torch.maximum(size, length)
        first = self.orthogonal(longest[:, :, None])
        columns = [first, self._leading(first)][:count]
        if count > 2:
            drawn = torch.randn((a, d, count - 2), generator=generator, dtype=torch.float32).to(first)
            columns.append(self.climb(self.orthogonal(drawn))[1])
        return torch.cat(columns, dim=2)

    def _leading(self, V: Float[torch.Tensor, "a d 1"], steps: int = 8) -> Float[torch.Tensor, "a d 1"]:
        for _ in range(steps):
            total = torch.zeros_like(V)
            for R, z in self.blocks():
                total += torch.bmm(R.mT, z[:, :, None] * torch.bmm(R, V))
            V = self.orthogonal(total)
        return V


def _split_group(
    members: _Members, starts: int, iterations: int, rtol: float, generator: torch.Generator
) -> tuple[Float[torch.Tensor, " a"], Float[torch.Tensor, "a d"]]:
    """Best Σ z|v·r| of every atom of a group, and its direction."""
    V = members.start(starts, generator)
    totals, following = members.climb(V)
    for _ in range(iterations):
        reached, after = members.climb(following)
        better = reached > totals
        growth = ((reached - totals) / reached.clamp(min=torch.finfo(reached.dtype).tiny)).amax()
        V = torch.where(better[:, None, :], following, V)
        totals, following = torch.maximum(reached, totals), after
        if float(growth) <= rtol:
            break
    best = totals.argmax(dim=1)
    return totals.gather(1, best[:, None])[:, 0], V[torch.arange(len(best), device=V.device), :, best]
