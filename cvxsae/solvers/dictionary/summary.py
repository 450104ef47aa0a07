"""Facts about the data before the search begins: a certified lower bound, and sums measured from its bias."""

from __future__ import annotations

import torch

from cvxsae.data.deadline import OutOfTime
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.solvers.convex.driver import run_loop
from cvxsae.solvers.convex.wide_newton import WideLimitNewton
from cvxsae.solvers.dictionary.state import DataSummary

TOL = 1e-9
"""Relative gap to which the wide limit is solved."""

TIME_SHARE = 0.5
"""Share of the time left that it may take: its bound is valid wherever it ends, and the search needs time too."""


def summarize(problem: JointProblem, run: Run) -> DataSummary:
    """Solve the wide limit (T9), and measure the data from its bias, or from the fixed one.

    Where there is no time for even one evaluation of it: from the mean, and with the lower bound zero.
    """
    group = problem.group
    wide = WideLimit(problem.X, problem.lam, bias=problem.bias)
    try:
        scan = run_loop(WideLimitNewton(), wide, TOL, run.inner(share=TIME_SHARE))
        bias, bound = scan.primal.bias.cpu(), scan.dual.scan.lower_bound
    except OutOfTime:
        bias, bound = wide.starting_bias(), 0.0
    bias = problem.fixed_bias() if not problem.bias_is_free else bias
    total, energy = torch.zeros(problem.dim, dtype=torch.float64), 0.0
    for batch in problem.X.batches():
        shifted = batch.cpu() - bias
        total += shifted.sum(dim=0)
        energy += float(shifted.square().sum())
    (total,), n_points = group.sum(total), int(group.total(problem.n_points))
    return DataSummary(bias.to(run.device), total.to(run.device), group.total(energy), bound, n_points)
