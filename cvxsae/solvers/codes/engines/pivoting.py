"""The small problems of a batch, solved together: block principal pivoting, every system factored at once.

Units are those of the engines: the penalty is 1, atoms have norm 1, so Gram matrices have the diagonal 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float

from cvxsae.relaxations.linalg import FAILURES

FIRST_RIDGE, RIDGES, RIDGE_GROWTH = 8, 6, 10
"""Ridge added to a Gram matrix (diagonal 1) that is singular in rounding: machine epsilons at first, tries, growth."""

PIVOT_PATIENCE = 3
"""Iterations in which the infeasible atoms need not become fewer, before they are exchanged one by one."""

PIVOTS = 20
"""Iterations of pivoting at most: few problems take ten; the rest goes to the active-set method."""

PIVOT_ROUNDING, PIVOT_SHARE = 32, 0.1
"""Where a gradient counts as zero: machine epsilons of the largest, or this share of ``tol``."""

STEPS, STEPS_PER_PLACE = 20, 3
"""Steps of the active-set method at most, and for every place: an atom enters or leaves at each."""


def masked_factor(gram: Float[torch.Tensor, "b m m"], free: Bool[torch.Tensor, "b m"]) -> Float[torch.Tensor, "b m m"]:
    """Cholesky factors of the Gram matrices of the free atoms, the identity elsewhere.

    Where one is singular, a ridge that grows; where that does not help, or LAPACK fails, the identity: the step is then
    a gradient's, and what it is worth is judged like that of any other.
    """
    both = free[:, :, None] & free[:, None, :]
    system = torch.where(both, gram, 0.0)
    diagonal = torch.diagonal(system, dim1=1, dim2=2)
    diagonal.masked_fill_(~free, 1.0)
    factor, bad = torch.zeros_like(system), torch.ones(len(system), dtype=torch.bool, device=gram.device)
    ridge = FIRST_RIDGE * torch.finfo(gram.dtype).eps
    for _ in range(RIDGES):
        try:
            factor, info = torch.linalg.cholesky_ex(system)
        except FAILURES:
            break
        bad = (info > 0) | ~factor.diagonal(dim1=1, dim2=2).isfinite().all(dim=1)
        if not bool(bad.any()):
            return factor
        diagonal[bad] += ridge
        ridge *= RIDGE_GROWTH
    factor[bad] = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return factor


def pivot(
    gram: Float[torch.Tensor, "b m m"], gradient: Float[torch.Tensor, "b m"], codes: Float[torch.Tensor, "b m"],
    valid: Bool[torch.Tensor, "b m"], tol: float | Float[torch.Tensor, "b one"],
) -> tuple[Float[torch.Tensor, "b m"], Bool[torch.Tensor, "b m"]]:  # fmt: skip
    """Block principal pivoting on ``max gradient·δ − ½ δ G δ, codes + δ ≥ 0``; the new codes and their support.

    All infeasible atoms change sides at once; a problem whose count of them has not fallen for three iterations
    exchanges only its last one (Júdice & Pires), which cannot cycle. What is returned is never worse than the start.
    """
    eps = torch.finfo(gram.dtype).eps
    linear = gradient + torch.bmm(gram, codes[:, :, None])[:, :, 0]
    scale = linear.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    floor = torch.maximum(PIVOT_ROUNDING * eps * scale, torch.ones_like(scale) * (PIVOT_SHARE * tol))
    free = valid & ((codes > 0) | (gradient > 0))
    fewest = torch.full((len(codes),), codes.shape[1] + 1, device=codes.device)
    patience = torch.full_like(fewest, PIVOT_PATIENCE)
    result, support = codes.clone(), valid & (codes > 0)
    open_rows = torch.arange(len(codes), device=codes.device)
    for _ in range(PIVOTS):
        G, h, mask, ok = gram[open_rows], linear[open_rows], free[open_rows], valid[open_rows]
        z = torch.cholesky_solve(torch.where(mask, h, 0.0)[:, :, None], masked_factor(G, mask))[:, :, 0]
        z = torch.where(mask, z, 0.0)
        slack = h - torch.bmm(G, z[:, :, None])[:, :, 0]
        wrong = (mask & (z < 0)) | (~mask & ok & (slack > floor[open_rows]))
        count = wrong.sum(dim=1)
        solved = count == 0
        result[open_rows[solved]], support[open_rows[solved]] = z[solved], mask[solved] & (z[solved] > 0)
        open_rows, wrong, count, mask = open_rows[~solved], wrong[~solved], count[~solved], mask[~solved]
        if not len(open_rows):
            break
        fell = count < fewest[open_rows]
        patience[open_rows] = torch.where(fell, PIVOT_PATIENCE, patience[open_rows] - 1)
        fewest[open_rows] = torch.minimum(fewest[open_rows], count)
        last = wrong.shape[1] - 1 - wrong.flip(1).to(torch.int8).argmax(dim=1)
        single = torch.zeros_like(wrong).scatter_(1, last[:, None], True)
        free[open_rows] = mask ^ torch.where((patience[open_rows] >= 0)[:, None], wrong, single)
    if len(open_rows):
        result[open_rows], support[open_rows] = active_set(
            gram[open_rows], linear[open_rows], codes[open_rows], valid[open_rows], floor[open_rows]
        )
    return result, support


def active_set(
    gram: Float[torch.Tensor, "b m m"], linear: Float[torch.Tensor, "b m"], codes: Float[torch.Tensor, "b m"],
    valid: Bool[torch.Tensor, "b m"], floor: Float[torch.Tensor, "b one"],
) -> tuple[Float[torch.Tensor, "b m"], Bool[torch.Tensor, "b m"]]:  # fmt: skip
    """One atom at a time (Lawson & Hanson 1974), for systems with more atoms than dimensions, which are singular.

    Codes stay feasible and the objective never rises: the best atom enters where all entries solved for are positive,
    else the step ends where the first of them is zero, and that atom leaves.
    """
    z, free = codes.clone(), valid & (codes > 0)
    for _ in range(STEPS + STEPS_PER_PLACE * codes.shape[1]):
        solved = torch.cholesky_solve(torch.where(free, linear, 0.0)[:, :, None], masked_factor(gram, free))[:, :, 0]
        solved = torch.where(free, solved, 0.0)
        blocking = free & (solved <= 0)
        blocked = blocking.any(dim=1, keepdim=True)
        shares = torch.where(blocking, z / (z - solved), torch.inf)  # z > 0 ≥ solved
        share, first = shares.min(dim=1, keepdim=True)
        z = torch.where(blocked, z + share * (solved - z), solved).clamp(min=0)
        slack = torch.where(valid & ~free, linear - torch.bmm(gram, z[:, :, None])[:, :, 0], -torch.inf)
        most, best = slack.max(dim=1, keepdim=True)
        if not bool((blocked | (most > floor)).any()):
            break
        leaves = torch.zeros_like(free).scatter_(1, first, blocked)
        enters = torch.zeros_like(free).scatter_(1, best, ~blocked & (most > floor))
        z = torch.where(leaves, 0.0, z)
        free = (free & ~leaves) | enters
    return z, valid & (z > 0)
