"""A trained SAE and its ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch

from cvxsae.data.overlap import seen_in_words
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.sae.audits.account import account
from cvxsae.sae.audits.held_out import STAGES as HELD_OUT_STAGES
from cvxsae.sae.audits.held_out import Drawn, held_out_accounts
from cvxsae.sae.audits.ledger import GAPS, LossLedger
from cvxsae.sae.audits.stages import Stages
from cvxsae.sae.train import Recipe, plan_of, train
from cvxsae.solvers.floors.search import WIDE_SHARE, WIDE_TOL, solved_wide_limit
from cvxsae.study.held_out import LOCAL, SAE_ARRAYS, added, arrays_of, gap_of, not_exact
from cvxsae.study.keys import COUNT, POSITIVE, YES_OR_NO, one_of
from cvxsae.study.method import CODES_TOL, CellInput, Method, Outcome, inexact, unexplained

TRAINING_SHARE = 0.5
"""Part of the time left, if there is a limit for the whole run, that training may take; the audit has the rest."""


def trained_sae(
    cell: CellInput,
    *,
    steps: Annotated[int, COUNT] = Recipe.steps,
    batch_size: Annotated[int, COUNT] = Recipe.batch_size,
    lr: Annotated[float, POSITIVE] = Recipe.lr,
    resample: Annotated[bool, YES_OR_NO] = Recipe.resample,
    trainer: Annotated[str, one_of(("adam", "saelens"))] = "adam",
    stationarity: Annotated[float, POSITIVE] = 1e-4,
    search_seconds: Annotated[float | None, POSITIVE] = 60.0,
) -> Outcome:
    """Train an SAE as practitioners do, and take its loss apart above the wide limit."""
    bias = cell.bias_value
    recipe, run = Recipe(steps=steps, batch_size=batch_size, lr=lr, resample=resample), cell.run
    sae = train(plan_of(cell.X, cell.width, cell.lam, bias, None, recipe, trainer, run.inner(share=TRAINING_SHARE)))
    wide = solved_wide_limit(WideLimit(cell.X, cell.lam, bias=bias), WIDE_TOL, cell.run, share=WIDE_SHARE)
    floor = Floor(JointProblem(cell.X, cell.width, cell.lam, bias=bias), wide.lower_bound, "T9")
    found = account(sae, floor, wide, stationarity, cell.within(search_seconds))
    numbers = {
        "value": found.loss,
        "lower_bound": found.wide,
        "exact": found.exact,
        "local": found.local,
        "codes_gap": found.codes_gap,
        "local_codes_gap": found.local_codes_gap,
        "stationarity": found.stationarity,
        "bias_residual": found.bias_residual,
        "l0": found.l0,
        "exact_l0": found.exact_l0,
        "local_l0": found.local_l0,
        "live_atoms": cell.width - found.dead,
        "fvu": unexplained(_squared_error(sae, cell), cell.X),
        "lambda_max": found.lambda_max,
        "train_seconds": sae.seconds,
        "outcome": "TRAINED",
    }
    arrays = {"dictionary": found.dictionary, "bias": found.decoder_bias}
    objections = inexact(max(found.codes_gap, found.local_codes_gap), stationarity)
    return _with_held_out(cell, sae, found, Outcome(numbers, objections, arrays, found.to_dict()))


def _with_held_out(cell: CellInput, sae: Any, sample: LossLedger, outcome: Outcome) -> Outcome:
    """With what the SAE, its own dictionary and the best found from it are worth on the held-out rows."""
    if cell.held_out is None:
        return outcome
    run = cell.run.inner()
    joint = JointProblem(cell.held_out, cell.width, cell.lam, bias=cell.bias_value)
    wide = solved_wide_limit(WideLimit(cell.held_out, cell.lam, bias=cell.bias_value), WIDE_TOL, run)
    numbers = np.arange(len(cell.held_out))
    drawn = Drawn(numbers=numbers, groups=cell.held_out_groups, confidence=cell.confidence)
    with Stages(run, "trained_sae", len(HELD_OUT_STAGES)) as stages:
        under = (Floor(joint, wide.lower_bound, "T9"), wide)
        found = held_out_accounts(sae, sample, drawn, under, CODES_TOL, stages)
    own, local, lost = (*found.evaluations.values(), found.ledger.estimates["amortization_gap"])
    kept = (found.problem.atoms.numpy(), found.problem.fixed_bias().numpy())
    more = {
        "held_out_loss": found.ledger.loss,
        "held_out_amortization_gap": lost.value,
        "held_out_amortization_gap_low": lost.low,
        "held_out_amortization_gap_high": lost.high,
        **gap_of(own, local),
    }
    ledger = found.ledger
    if cell.n_seen:
        ledger = replace(ledger, notes=(*ledger.notes, seen_in_words(cell.n_seen, len(cell.held_out))))
    outcome = replace(
        outcome,
        numbers={**outcome.numbers, **more},
        arrays={**outcome.arrays, **dict(zip(SAE_ARRAYS, kept, strict=True)), **arrays_of(local, LOCAL)},
        objections=(*outcome.objections, *not_exact(local)),
        held_out_ledger=ledger.to_dict(),
    )
    return added(cell, outcome, own, outcome.numbers["exact"])


def _squared_error(sae: Any, cell: CellInput) -> float:
    """Summed over the datapoints, with the encoder's codes."""
    codes, row, total = sae.encode(cell.X), 0, 0.0
    for batch in cell.X.batches():
        fitted = codes[row : row + len(batch)] @ sae.dictionary + sae.b_dec.astype(np.float64)
        total += float((batch - torch.from_numpy(fitted)).square().sum())
        row += len(batch)
    return total


def _difference(above: str, below: str) -> tuple[str, str]:
    return "Float64", f"trained_sae: {'value' if above == 'loss' else above} − {below}"


METHOD = Method(
    "trained_sae",
    trained_sae,
    axes=("n_atoms", "seed"),
    columns={
        "exact": ("Float64", "trained_sae: value of its dictionary with exact codes"),
        "local": ("Float64", "trained_sae: value of the best dictionary found from its own"),
        **{name: _difference(above, below) for name, (above, below, _) in GAPS.items()},
        "local_codes_gap": (
            "Float64",
            "trained_sae: codes_gap of the best dictionary found from its own",
        ),
        "exact_l0": ("Float64", "trained_sae: mean active atoms per datapoint of exact codes"),
        "local_l0": ("Float64", "trained_sae: the same for the best dictionary found from its own"),
        "train_seconds": ("Float64", "trained_sae: wall-clock time of training alone"),
        "held_out_loss": ("Float64", "trained_sae: value with its own encoder on the held-out rows"),
        "held_out_local": ("Float64", "trained_sae: value of the best dictionary found from its own, on held-out rows"),
        "held_out_amortization_gap": ("Float64", "trained_sae: held_out_loss − held_out, paired"),
        "held_out_amortization_gap_low": ("Float64", "trained_sae: lower end of its interval"),
        "held_out_amortization_gap_high": ("Float64", "trained_sae: upper end of its interval"),
        "held_out_gap": ("Float64", "trained_sae: held_out − held_out_local, paired"),
        "held_out_gap_low": ("Float64", "trained_sae: lower end of its interval"),
        "held_out_gap_high": ("Float64", "trained_sae: upper end of its interval"),
    },
    attains=("value", "exact", "local"),
    evaluates=True,
    attained="local",
    runs_beside=True,
)
