"""Supports of at most k atoms, many datapoints at once: greedy growth, and swaps of one atom for another.

*What a swap can gain.* For a support S with Gram matrix G_S, H = G_S⁻¹, least-squares codes z > 0 and residual r, let
atom i ∈ S leave and atom j enter. Before codes are kept nonnegative, with W_ij = Σ_l H_il d_l·d_j, the squared error
changes by

    z_i²/H_ii − (d_j·r + z_i W_ij/H_ii)² / (1 − ‖P_S d_j‖² + W_ij²/H_ii),     ‖P_S d_j‖² = Σ_l (d_l·d_j) W_lj,

the first term for i, the second for j: all pairs at the price of one product with H. Nonnegative codes gain no more.
And if what i leaves is still nonnegative, j gains nothing unless d_j·(residual without i) is positive. So where no pair
can gain, no swap helps, and pairs that can gain are tried in turn, the most promising first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float64, Int64

from cvxsae.parallel.context import Run
from cvxsae.parallel.threads import torch_threads
from cvxsae.relaxations.joint.active_gram import gram_inverses
from cvxsae.solvers.codes.refit import ROUNDING, refit_members

GRAM_ENTRIES = 2**24
"""Entries of the Gram matrix of all atoms up to which it is computed once and kept: 128 MB in float64."""

PAIR_ENTRIES = 2**22
"""Entries of the gains of all pairs that are held at a time: 32 MB in float64."""

IMPROVEMENT = 1e-10
"""What counts as a gain of the squared error, relative to ‖x − b‖²: above rounding, below anything of interest."""

TRIED_TOGETHER, MOST_TRIED = 4, 64
"""Pairs of a datapoint that are tried at once, and at most before it is left as it is, unproved."""

IN_SPAN = 1e-10
"""Squared distance of an atom from the span of others below which adding it adds nothing."""


@dataclass(frozen=True, eq=False)
class Atoms:
    """Unit-norm atoms (K, d), and their Gram matrix where it is small enough to be kept."""

    rows: Float64[torch.Tensor, "K d"]
    gram: Float64[torch.Tensor, "K K"] | None

    @classmethod
    def of(cls, rows: Float64[torch.Tensor, "K d"], device: torch.device) -> Atoms:
        """Bring them to a device."""
        rows = rows.to(device)
        return cls(rows, rows @ rows.T if len(rows) ** 2 <= GRAM_ENTRIES else None)

    @property
    def n(self) -> int:
        """Width K."""
        return len(self.rows)

    def products(self, index: Int64[torch.Tensor, "n m"]) -> Float64[torch.Tensor, "n m K"]:
        """Products of chosen atoms with all."""
        return self.rows[index] @ self.rows.T if self.gram is None else self.gram[index]


@dataclass(frozen=True, eq=False)
class Supports:
    """Supports of n datapoints with their codes: places, m of them for each, some of which hold an atom.

    Attributes
    ----------
    x
        Datapoints without bias, (n, d).
    index, held, z
        The atom of every place, whether there is one, and its code, positive where there is, (n, m).
    k
        Most atoms of each datapoint, (n,).
    closed
        Datapoints to which no atom can be added with a gain: their codes are best for every k, up to rounding, (n,).
    settled
        Datapoints of which it is proved that no swap of one atom gains more than :data:`IMPROVEMENT`, (n,).
    done
        Datapoints with which there is nothing left to try, (n,).
    """

    x: Float64[torch.Tensor, "n d"]
    index: Int64[torch.Tensor, "n m"]
    held: Bool[torch.Tensor, "n m"]
    z: Float64[torch.Tensor, "n m"]
    k: Int64[torch.Tensor, " n"]
    closed: Bool[torch.Tensor, " n"]
    settled: Bool[torch.Tensor, " n"]
    done: Bool[torch.Tensor, " n"]

    @classmethod
    def empty(cls, x: Float64[torch.Tensor, "n d"], k: Int64[torch.Tensor, " n"]) -> Supports:
        """No atoms yet."""
        shape = (len(x), max(1, int(k.max())))
        index = torch.zeros(shape, dtype=torch.int64, device=x.device)
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return cls(x, index, index > 0, index.to(x.dtype), k, none, none, none)

    @classmethod
    def of_codes(cls, x: Float64[torch.Tensor, "n d"], k: Int64[torch.Tensor, " n"], codes: sp.csr_array) -> Supports:
        """Those of the k largest positive codes, refitted."""
        made = cls.empty(x, k)
        index, z = np.zeros(tuple(made.z.shape), np.int64), np.zeros(tuple(made.z.shape))
        for row, most in enumerate(k.tolist()):
            part = slice(codes.indptr[row], codes.indptr[row + 1])
            values = codes.data[part]
            chosen = np.argsort(-values, kind="stable")[:most]
            chosen = chosen[values[chosen] > 0]
            index[row, : len(chosen)], z[row, : len(chosen)] = codes.indices[part][chosen], values[chosen]
        places = torch.from_numpy(index).to(x.device), torch.from_numpy(z).to(x)
        return replace(made, index=places[0], held=places[1] > 0, z=places[1])

    def residual(self, atoms: Atoms) -> Float64[torch.Tensor, "n d"]:
        """What the codes leave."""
        return self.x - torch.bmm(self.z[:, None], atoms.rows[self.index])[:, 0]

    def errors(self, atoms: Atoms) -> Float64[torch.Tensor, " n"]:
        """``½‖x − zD‖²``."""
        return self.residual(atoms).square().sum(dim=1) / 2

    @property
    def scale(self) -> Float64[torch.Tensor, " n"]:
        """``½‖x‖²``."""
        return self.x.square().sum(dim=1) / 2

    @property
    def has_room(self) -> Bool[torch.Tensor, " n"]:
        """Where another atom may be added."""
        return self.held.sum(dim=1) < self.k

    def rows(self, chosen: Int64[torch.Tensor, " r"]) -> Supports:
        """Some of the datapoints."""
        return Supports(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def updated(self, chosen: Int64[torch.Tensor, " r"], others: Supports) -> Supports:
        """With others instead of some."""
        names = self.__dataclass_fields__
        return Supports(*(getattr(self, n).index_copy(0, chosen, getattr(others, n)) for n in names))

    def better(self, other: Supports, atoms: Atoms) -> Supports:
        """Whichever has the smaller error, datapoint by datapoint."""
        rows = (other.errors(atoms) < self.errors(atoms)).nonzero().ravel()
        return self.updated(rows, other.rows(rows))

    def refitted(self, atoms: Atoms) -> Supports:
        """Nonnegative least squares on each support; atoms whose code is zero leave it."""
        members = atoms.rows[self.index] * self.held[:, :, None]
        parts = (part.cpu().numpy() for part in (members, self.x, self.z * self.held, self.held))
        z = torch.from_numpy(refit_members(*parts)).to(self.x)
        z = torch.where(self.held, z, 0.0).clamp(min=0)
        return replace(self, z=z, held=z > 0)

    def to_sparse(self, atoms: Atoms) -> sp.csr_array:
        """Codes, (n, K)."""
        rows, places = (part.cpu().numpy() for part in self.held.nonzero(as_tuple=True))
        columns, values = self.index.cpu().numpy()[rows, places], self.z.cpu().numpy()[rows, places]
        return sp.csr_array((values, (rows, columns)), shape=(len(self.x), atoms.n))


def pursue(supports: Supports, atoms: Atoms, run: Run, price: float = 0.0) -> Supports:
    """Add the atom that correlates most with the residual, refit, and again: nonnegative orthogonal matching pursuit.

    An atom that gains no more than ``price`` is not added, and ends it.

    A datapoint ends with k atoms, or where no atom correlates with the residual: then its codes are those of
    nonnegative least squares over all atoms.
    """
    rows = (supports.has_room & ~supports.closed).nonzero().ravel()
    while len(rows) and not run.is_late:
        some = supports.rows(rows)
        residual = some.residual(atoms)
        correlations = residual @ atoms.rows.T
        taken, places = some.held.nonzero(as_tuple=True)
        correlations[taken, some.index[taken, places]] = -torch.inf
        most, best = correlations.max(dim=1)
        open_ = most > ROUNDING * torch.linalg.vector_norm(some.x, dim=1)
        place = some.held.to(torch.int8).argmin(dim=1, keepdim=True)
        adds = open_[:, None]
        grown = replace(
            some,
            index=some.index.scatter(1, place, torch.where(adds, best[:, None], some.index.gather(1, place))),
            held=some.held.scatter(1, place, adds),
        ).refitted(atoms)
        gained = residual.square().sum(dim=1) / 2 - grown.errors(atoms) > price + ROUNDING * some.scale
        grown = replace(grown, closed=~(open_ & gained), done=~(open_ & gained))
        worse = (~gained).nonzero().ravel()
        grown = grown.updated(worse, replace(some, closed=grown.closed, done=grown.done).rows(worse))
        supports = supports.updated(rows, grown)
        rows = rows[(grown.has_room & ~grown.closed)]
    return supports


def swap(supports: Supports, atoms: Atoms, run: Run) -> Supports:
    """Exchange one atom for another wherever that helps, best pair first, until none does; freed places are filled."""
    width = supports.index.shape[1]
    at_once = max(1, PAIR_ENTRIES // (width * atoms.n))
    rows = (~supports.done & (supports.held.sum(dim=1) > 0)).nonzero().ravel()
    while len(rows) and not run.is_late:
        for part in torch.split(rows, at_once):
            if run.is_late:
                break
            supports = supports.updated(part, _swap_once(supports.rows(part), atoms))
        supports = pursue(supports, atoms, run)
        rows = rows[~supports.done[rows]]
    return supports


def _swap_once(some: Supports, atoms: Atoms) -> Supports:
    """The best swap that helps, or ``done``, and ``settled`` where that is proved."""
    gains, is_regular = pair_gains(some, atoms)
    needed = IMPROVEMENT * some.scale
    order = gains.flatten(1).topk(min(MOST_TRIED, gains[0].numel()), dim=1)
    promising = (gains > needed[:, None, None]).flatten(1).sum(dim=1)
    before = some.errors(atoms)
    best, gained = some, torch.zeros_like(before)
    open_rows = (promising > 0).nonzero().ravel()
    for start in range(0, order.indices.shape[1], TRIED_TOGETHER):
        if not len(open_rows):
            break
        pairs = order.indices[open_rows, start : start + TRIED_TOGETHER]
        useful = order.values[open_rows, start : start + TRIED_TOGETHER] > needed[open_rows, None]
        tried, errors = _tried(some.rows(open_rows), atoms, pairs)
        errors = torch.where(useful, errors, torch.inf)
        least, which = errors.min(dim=1)
        helps = before[open_rows] - least > needed[open_rows]
        winners = open_rows[helps]
        if len(winners):
            chosen = helps.nonzero().ravel() * pairs.shape[1] + which[helps]
            best = best.updated(winners, tried.rows(chosen))
            gained[winners] = before[winners] - least[helps]
        open_rows = open_rows[~helps & (promising[open_rows] > start + TRIED_TOGETHER)]
    still = gained == 0
    return replace(best, done=still, settled=still & is_regular & (promising <= order.indices.shape[1]))


def _tried(some: Supports, atoms: Atoms, pairs: Int64[torch.Tensor, "n c"]) -> tuple[Supports, torch.Tensor]:
    """Supports after each of some swaps, refitted, (n·c), and their errors, (n, c)."""
    n, c = pairs.shape
    many = some.rows(torch.arange(n, device=pairs.device).repeat_interleave(c))
    place, atom = pairs.reshape(-1, 1) // atoms.n, pairs.reshape(-1, 1) % atoms.n
    many = replace(many, index=many.index.scatter(1, place, atom), z=many.z.scatter(1, place, 0.0)).refitted(atoms)
    return many, many.errors(atoms).reshape(n, c)


def pair_gains(some: Supports, atoms: Atoms) -> tuple[Float64[torch.Tensor, "n m K"], Bool[torch.Tensor, " n"]]:
    """Upper bounds of what every swap gains of ``½‖x − zD‖²``, −∞ where there is none, and where they are proved.

    They are where the Gram matrix of the support is far from singular.
    """
    members = atoms.rows[some.index] * some.held[:, :, None]
    with torch_threads(1):  # matrices are small: threads would wait for each other
        inverse, singular = gram_inverses(members, some.held)  # zero where no atom is held, and so are rows of W
    products = atoms.products(some.index)
    W = torch.bmm(inverse, products)
    outside = 1 - products.mul_(W).sum(dim=1, keepdim=True)
    h = torch.where(some.held, inverse.diagonal(dim1=1, dim2=2), 1.0)[:, :, None]
    z = some.z[:, :, None]
    distance = torch.square(W, out=products).div_(h).add_(outside)
    correlations = W.mul_(z / h).add_((some.residual(atoms) @ atoms.rows.T)[:, None])
    left = some.z[:, None] - z / h * inverse  # codes of the others once an atom has left
    others = some.held[:, None] & ~torch.eye(left.shape[1], dtype=torch.bool, device=left.device)
    turns = ((left < 0) & others).any(dim=2)[:, :, None]
    impossible = (distance <= IN_SPAN) | ((correlations <= 0) & ~turns) | ~some.held[:, :, None]
    gains = correlations.square_().div_(distance.clamp_(min=IN_SPAN)).sub_(z.square() / h).div_(2)
    gains.masked_fill_(impossible, -torch.inf)
    rows, places = some.held.nonzero(as_tuple=True)
    gains[rows, :, some.index[rows, places]] = -torch.inf  # atoms that are there already
    return gains, ~singular
