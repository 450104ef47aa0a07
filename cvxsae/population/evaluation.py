"""The public function that evaluates a dictionary on (usually held-out) rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from cvxsae.data import splits
from cvxsae.data.activations import Activations, ActivationsLike
from cvxsae.data.arguments import Bias
from cvxsae.parallel.context import Compute, Run, keywords
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.solvers.codes.correlation import FIXED_BIAS
from cvxsae.solvers.codes.encode import relative_gap_asked
from cvxsae.solvers.codes.evaluation import CONFIDENCE, Evaluation, evaluation_of, level

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

__all__ = ["Evaluation", "evaluate"]


class EvaluateOptions(Compute, total=False):
    """Options of :func:`evaluate` that it shares with other verbs."""


@keywords(EvaluateOptions)
def evaluate(
    X: ActivationsLike,
    dictionary: ArrayLike | torch.Tensor,
    lam: float,
    *,
    bias: ArrayLike | torch.Tensor | None = None,
    groups: Any = None,
    confidence: float = CONFIDENCE,
    tol: float = 1e-4,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Evaluate a dictionary on (usually held-out) rows: ``φ(x; D) = min_{z≥0} ½‖x − b − zD‖² + λ Σz``.

    Parameters
    ----------
    X
        Rows (N, d): anything :class:`~cvxsae.Activations` accepts; read in blocks.
    dictionary, lam, bias, tol
        As in :func:`cvxsae.encode`.
    groups
        Which document each row is of, (N,): integers or strings; None if rows are independent.
    confidence
        Of every interval.
    device, max_seconds, progress
        As in :func:`cvxsae.encode`.

    Returns
    -------
    Evaluation
        Its ``mean`` holds for the distribution at the confidence asked for, ``value`` for these rows.

    Raises
    ------
    InputError
        For arguments that cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxsae.population import evaluate
    >>> found = evaluate(np.array([[3.0, 0.0], [2.0, 1.0]]), np.eye(2), 1.0)
    >>> [round(float(v), 6) for v in found.values]
    [2.5, 2.0]
    """
    data = Activations(X)
    run = Run.start(options, EvaluateOptions)
    problem = SparseCodes(data, dictionary, lam, bias=Bias.fixed(bias, data.shape[1], FIXED_BIAS).vector)
    labels = splits.document_labels(groups, len(data))
    return evaluation_of(problem, run, tol=relative_gap_asked(tol), groups=labels, confidence=level(confidence))
