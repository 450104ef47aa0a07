"""Codes with at most k active atoms per datapoint: what TopK encoders look for, searched for as hard as is affordable.

``min ½‖x − b − zD‖²`` over ``z ≥ 0`` with at most k of its entries above zero. The problem is not convex: what is found
is attained, and proves that any worse codes of the same k are suboptimal by at least the difference. How far it is from
the best is bounded where the dictionary allows it (:class:`Coherence`), and otherwise not known.

*Search.* Orthogonal matching pursuit with nonnegative least squares on the support after every atom, from nothing and
from the codes given; then, from the better of the two for each datapoint, swaps of one active atom for another
(:mod:`cvxsae.solvers.codes.swaps`) until none helps. So it is never worse than plain nonnegative matching pursuit, nor
than nonnegative least squares on the support given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from cvxsae.data import arguments
from cvxsae.data.arguments import Bias
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.convex.coherence import Coherence
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.correlation import FIXED_BIAS, centered
from cvxsae.solvers.codes.encode import warm_codes
from cvxsae.solvers.codes.swaps import Atoms, Supports, pursue, swap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64
    from numpy.typing import ArrayLike

    from cvxsae.data.activations import ActivationsLike

BLOCK_ENTRIES = 2**22
"""Entries of a block of correlations of datapoints with all atoms: 32 MB in float64."""

SWAP_ENTRIES = 2**25
"""Products of a block's active atoms with all atoms, of which swaps hold a few at a time: 256 MB in float64."""


class KSparseOptions(Compute, total=False):
    """How :func:`k_sparse_codes` runs."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KSparseCodes:
    """Codes with at most k active atoms per datapoint. Values are ``½‖x − b − zD‖²``, in units of (P) without λ.

    Attributes
    ----------
    codes
        Sparse (N, K), float64, positive where stored, for atoms of norm 1.
    k
        Most active atoms of each datapoint, (N,).
    values
        Attained by these codes, (N,): the best there is has at most this.
    lower_bounds
        No codes with at most k active atoms have less, (N,); zero, which says nothing, where the dictionary is too
        coherent for a bound (:class:`Coherence`).
    is_unconstrained
        Datapoints whose codes are those of nonnegative least squares over all atoms, whatever k: no atom correlates
        with the residual by more than 1e-13 ‖x − b‖, (N,).
    swap_optimal
        Datapoints of which no exchange of one active atom for another helps, (N,): that is proved, not just tried.
    done
        Datapoints that were searched to the end before time ran out, (N,); the others have what had been reached.
    """

    codes: sp.csr_array
    k: Int64[np.ndarray, " N"]
    values: Float64[np.ndarray, " N"]
    lower_bounds: Float64[np.ndarray, " N"]
    is_unconstrained: Bool[np.ndarray, " N"]
    swap_optimal: Bool[np.ndarray, " N"]
    done: Bool[np.ndarray, " N"]

    @property
    def value(self) -> float:
        """Mean of the values."""
        return float(self.values.mean())

    @property
    def lower_bound(self) -> float:
        """Mean of the lower bounds: no k-sparse codes have a smaller mean."""
        return float(self.lower_bounds.mean())

    @property
    def gap(self) -> float:
        """Relative gap of the means, (value − lower_bound)/value; 1 where nothing is known, 0 where the value is 0."""
        return (self.value - self.lower_bound) / self.value if self.value > 0 else 0.0

    @property
    def l0(self) -> float:
        """Mean number of active atoms per datapoint."""
        return self.codes.nnz / len(self.values)

    def __repr__(self) -> str:
        n, K = self.codes.shape
        return (
            f"KSparseCodes({n} x {K}, L0 {self.l0:.4g}, value {self.value:.6g} ≥ {self.lower_bound:.6g}, "
            f"{int(self.swap_optimal.sum())} proved best among single swaps)"
        )


@keywords(KSparseOptions)
def k_sparse_codes(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    k: int | ArrayLike,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    start: Any = None,
    **options: Unpack[KSparseOptions],
) -> KSparseCodes:
    """Find nonnegative codes with at most k active atoms per datapoint and a small error.

    ``min ½‖x − b − Σ_k z_k d_k‖²`` over ``z ≥ 0`` with at most k positive entries, for every row x of X.

    Parameters
    ----------
    X
        Data (N, d): anything :class:`cvxsae.Activations` takes.
    dictionary
        Atoms (K, d), rows of any non-zero norm; codes are for the rows scaled to norm 1.
    k
        Most active atoms: a number, or one for every datapoint, (N,).
    bias
        ``None`` (zero) or a fixed array (d,).
    start
        Codes (N, K) to start from too: a :class:`~cvxsae.results.Codes` or a sparse array. Of more than k positive ones
        of a datapoint the largest k are taken.
    options
        ``device``, ``max_seconds`` and ``progress``. Where time runs out, datapoints that are not ``done`` have the
        least squares of the support given, or no codes: values are true all the same.

    Returns
    -------
    KSparseCodes
        Codes with their values, lower bounds where there are any, and whether single swaps are proved not to help.

    Raises
    ------
    InputError
        For arguments that cannot be used.
    KeyboardInterrupt
        On Ctrl-C.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.solvers import k_sparse_codes
    >>> k_sparse_codes(np.array([[3.0, 2.0, 1.0]]), np.eye(3), 2).codes.toarray().round(6).tolist()
    [[3.0, 2.0, 0.0]]
    """
    run = Run.start(options, KSparseOptions)
    data = all_rows(X)
    problem = SparseCodes(data, dictionary, 1.0, bias=Bias.fixed(bias, data.shape[1], FIXED_BIAS).vector)
    return search(problem, most_active(k, len(data)), warm_codes(start, problem, "start"), run)


def most_active(k: Any, n: int) -> Int64[np.ndarray, " N"]:
    """Check k: a count, or one of at least zero for every datapoint."""
    if np.ndim(k) == 0:
        return np.full(n, arguments.count(k, "k"), dtype=np.int64)
    each = np.array(arguments.each(k, "k", lambda value, name: arguments.count(value, name, least=0)), dtype=np.int64)
    if len(each) != n:
        raise InputError(f"k has {len(each)} numbers but there are {n} datapoints; pass one number or one for each.")
    return each


def search(problem: SparseCodes, k: Int64[np.ndarray, " N"], start: sp.csr_array | None, run: Run) -> KSparseCodes:
    """:func:`k_sparse_codes` for arguments that have been checked; λ plays no part. An interrupt passes through."""
    atoms = Atoms.of(problem.atoms, run.device)
    floor = Coherence.of(problem.atoms, int(k.max()))
    rows = max(1, min(BLOCK_ENTRIES, SWAP_ENTRIES // max(1, int(k.max()))) // problem.n_atoms)
    parts, begin = [], 0
    bar = tqdm(total=problem.n_points, disable=not run.progress, desc="k-sparse codes", unit="points")
    for block in problem.X.batches(rows=rows):
        at = slice(begin, begin + len(block))
        begin = at.stop
        x = centered(block, problem)
        parts.append(_block(x, atoms, torch.from_numpy(k[at]), None if start is None else start[at], run))
        parts[-1]["lower_bounds"] = np.minimum(floor.bounds(x, problem.atoms, k[at]), parts[-1]["values"])
        bar.update(len(block))
    bar.close()
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "codes"}
    codes = sp.csr_array(sp.vstack([part["codes"] for part in parts], format="csr"))
    return KSparseCodes(codes=codes, k=k, **whole)


def _block(
    x: Float64[torch.Tensor, "n d"], atoms: Atoms, k: Int64[torch.Tensor, " n"], start: sp.csr_array | None, run: Run
) -> dict[str, Any]:
    """The best of what the starts lead to, for some datapoints."""
    x, k = x.to(run.device), k.to(run.device).clamp(max=atoms.n)
    starts = [] if start is None else [Supports.of_codes(x, k, start).refitted(atoms)]
    starts.append(Supports.empty(x, k))
    ends = [pursue(supports, atoms, run) for supports in starts]
    best = swap(ends[0] if len(ends) == 1 else ends[0].better(ends[1], atoms), atoms, run)
    return {
        "codes": best.to_sparse(atoms),
        "values": best.errors(atoms).cpu().numpy(),
        "is_unconstrained": best.closed.cpu().numpy(),
        "swap_optimal": (best.settled | best.closed | (k == 0)).cpu().numpy(),
        "done": (best.done | (k == 0)).cpu().numpy(),
    }
