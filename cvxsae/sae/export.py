"""An encoder for a learned dictionary: one ReLU layer, regressed on exact codes, and what it loses against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from cvxsae.data.activations import Activations
from cvxsae.errors import InputError
from cvxsae.parallel.context import Run
from cvxsae.parallel.group import all_rows, group_of
from cvxsae.parallel.threads import threads_for_cost
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.encode import encode_rows
from cvxsae.validation.certify import certify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.solvers.dictionary.result import DictionaryFit

ENCODER = "cvxsae_encoder"
"""What the metadata of an SAE calls its encoder."""

_STEPS = 300
"""Most iterations of the regression. It is convex; on data of SAEs it ends after 50 to 200."""

_GRADIENT = 1e-6
"""Largest entry of the gradient at its end, in units of the codes: the loss is flat to 1e-12 of itself there."""

_NO_DIRECTION = 1e-10
"""Directions with less variance than this part of the largest one's are left as they are: data do not show them."""

_CODE_TOL = 1e-8
"""Relative gap of exact codes of other data than the dictionary's own; the amortization gap is known as closely."""

_BLOCK_ENTRIES = 2**22
"""Most entries of a block of pre-activations: 32 MB in float64."""


@dataclass(frozen=True, eq=False)
class Regression:
    """An encoder ``ReLU((x − b) W_enc + b_enc)`` and what is certain about it.

    Attributes
    ----------
    W_enc, b_enc
        (d, K) and (K,), float64.
    facts
        What it was fitted on, and its loss against exact codes there, for the metadata.
    """

    W_enc: Float64[np.ndarray, "d K"]
    b_enc: Float64[np.ndarray, " K"]
    facts: dict[str, Any]


def regressed(fit: DictionaryFit, X: ActivationsLike | None) -> Regression:
    """Regress an encoder on the exact codes of a learned dictionary, on its own data or on others.

    It minimizes ``mean_n Σ_k ½ReLU(p)² − z_nk p`` over ``p = (x_n − b) W + c``, the convex loss whose gradient is that
    of ``½(ReLU(p) − z)²`` where atoms are active, and which also draws on atoms that should be active and are not. With
    ``½z²`` added it is at least that loss, and equal where ``p ≥ 0``.

    The amortization gap that it states is the loss of (P) at the encoder's codes less the certified lower bound of all
    codes, mean per datapoint, of these datapoints.

    Raises
    ------
    InputError
        If the data are shared by several processes, or of another dimension.
    """
    data = fit.problem.X if X is None else all_rows(X)
    if not group_of(data).is_alone:
        raise InputError("fit was learned by several processes, which an encoder cannot be; pass all rows as X.")
    if data.shape[1] != fit.problem.dim:
        raise InputError(f"X has shape {data.shape} but the fit is of dimension {fit.problem.dim}; pass its data.")
    problem = SparseCodes(data, fit.dictionary, fit.lam, bias=fit.bias)
    exact = fit.encoding if X is None else encode_rows(problem, Run().inner(), tol=_CODE_TOL)
    with threads_for_cost(len(data) * problem.dim * fit.n_atoms):
        W, c = regress(data, exact.codes, fit.bias, (fit.dictionary.T, np.full(fit.n_atoms, -fit.lam)))
    blocks = [sp.csr_array(np.maximum((x - fit.bias) @ W + c, 0)) for x, _ in _blocks(data, exact.codes)]
    codes = sp.csr_array(sp.vstack(blocks, format="csr"))
    loss = problem.primal_value(Candidate(bias=fit.bias, dictionary=fit.dictionary, codes=codes))
    bound = certify(exact).lower_bound
    facts = {
        "kind": "ReLU layer regressed on exact codes",
        "datapoints": len(data),
        "loss": loss,
        "exact_lower_bound": bound,
        "amortization_gap": loss - bound,
        "relative_amortization_gap": (loss - bound) / loss if loss > 0 else 0.0,
        "l0": codes.nnz / len(data),
        "exact_l0": exact.codes.nnz / len(data),
        "holds_for": "the datapoints it was fitted on",
    }
    return Regression(W, c, facts)


def regress(
    data: Activations,
    codes: sp.csr_array,
    bias: Float64[np.ndarray, " d"],
    start: tuple[Float64[np.ndarray, "d K"], Float64[np.ndarray, " K"]],
) -> tuple[Float64[np.ndarray, "d K"], Float64[np.ndarray, " K"]]:
    """``W`` and ``c`` that minimize the loss of :func:`regressed`, by L-BFGS in coordinates that whiten the data."""
    import scipy.optimize

    if codes.nnz == 0:
        return np.array(start[0]), np.array(start[1])
    (d, K), count = start[0].shape, len(data)
    size = float(np.sqrt(codes.power(2).sum() / codes.nnz))
    unit = float(np.sqrt(sum(float(((x - bias) ** 2).sum()) for x, _ in _blocks(data, codes)) / count)) or 1.0

    def features(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d1"]:
        return np.hstack([x - bias, np.full((len(x), 1), unit)])

    moments = np.zeros((d + 1, d + 1))
    for x, _ in _blocks(data, codes):
        phi = features(x)
        moments += phi.T @ phi / count
    variances, directions = np.linalg.eigh(moments)
    seen = variances > _NO_DIRECTION * variances[-1]
    whitener = directions[:, seen] / np.sqrt(variances[seen])
    first = np.vstack([start[0], start[1][None] / unit])

    def loss_and_gradient(step: Float64[np.ndarray, " p"]) -> tuple[float, Float64[np.ndarray, " p"]]:
        layer = first + whitener @ step.reshape(-1, K) * size
        loss, gradient = 0.0, np.zeros((d + 1, K))
        for x, z in _blocks(data, codes):
            phi, target = features(x), z.toarray()
            pre = phi @ layer
            active = np.maximum(pre, 0)
            loss += float((0.5 * active * active - target * pre).sum())
            gradient += phi.T @ (active - target)
        return loss / (count * size**2), (whitener.T @ gradient).ravel() / (count * size)

    found = scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros(whitener.shape[1] * K),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS, "gtol": _GRADIENT, "ftol": 0.0},
    )
    layer = first + whitener @ found.x.reshape(-1, K) * size
    return np.ascontiguousarray(layer[:-1]), layer[-1] * unit


def _blocks(data: Activations, codes: sp.csr_array) -> Iterator[tuple[Float64[np.ndarray, "n d"], sp.csr_array]]:
    """Datapoints and their codes, some rows at a time."""
    row = 0
    for block in data.batches(rows=max(1, _BLOCK_ENTRIES // codes.shape[1])):
        yield block.cpu().numpy(), codes[row : row + len(block)]
        row += len(block)
