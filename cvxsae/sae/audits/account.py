"""Every level of the loss ledger of an SAE, attained or certified, where its floors are known (theory §7)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from cvxsae.diagnostics.sums import exact_codes
from cvxsae.errors import CertificateError, InputError
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.audits.ledger import LossLedger
from cvxsae.sae.audits.stages import Stages
from cvxsae.solvers.codes.encode import decided_activity
from cvxsae.solvers.dictionary.learn import Settings, learn
from cvxsae.solvers.dictionary.start import Given
from cvxsae.validation.certify import certify
from cvxsae.validation.claims import row_values, stationarity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float64, Int64

    from cvxsae.parallel.context import Run
    from cvxsae.relaxations.floors.floor import Floor
    from cvxsae.relaxations.joint.joint import JointProblem
    from cvxsae.relaxations.solution import Solution
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.solvers.codes.evaluation import Evaluation
    from cvxsae.solvers.codes.result import Codes
    from cvxsae.solvers.dictionary.result import DictionaryFit

STAGES = ("the encoder's codes", "exact codes", "a better dictionary", "referee")
"""What :func:`accounts` does, in order."""

_CODES_SHARE = 0.5
"""Part of the time left that the exact codes may take; where they are not done, the encoder's own stand, and say so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Accounts:
    """A ledger, and what of the way there is of use to others.

    Attributes
    ----------
    ledger
        The ledger.
    problem
        The codes of the SAE's dictionary at its bias, as a problem; atoms of norm zero are left out.
    live
        Which atoms are in it, (K,).
    by_encoder, exact
        The encoder's codes and exact ones, for the atoms of ``problem``.
    encoder_values, exact_values
        Their values on every datapoint, (N,): ``loss`` and ``exact`` are the means.
    numbers
        The numbers of these rows in the data that they are from, (N,).
    missing
        Stages that were not begun because time had run out.
    evaluations
        On held-out rows: the SAE's dictionary (``"exact"``) and the better one (``"local"``), row by row.
    """

    ledger: LossLedger
    problem: SparseCodes
    live: Bool[np.ndarray, " K"]
    by_encoder: sp.csr_array
    exact: sp.csr_array
    encoder_values: Float64[np.ndarray, " N"]
    exact_values: Float64[np.ndarray, " N"]
    numbers: Int64[np.ndarray, " N"]
    missing: tuple[str, ...] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)


def account(model: SparseAutoencoder, floor: Floor, wide: Solution, tol: float, run: Run) -> LossLedger:
    """:func:`~cvxsae.audit` where the floors are known: data, λ and bias are those of the floor's problem."""
    with Stages(run, "audit", len(STAGES)) as stages:
        return accounts(model, floor, wide, tol, stages).ledger


def accounts(model: SparseAutoencoder, floor: Floor, wide: Solution, tol: float, stages: Stages) -> Accounts:
    """The ledger of an SAE that does not normalize, with the codes behind it. An interrupt passes through."""
    joint, run = floor.problem, stages.run
    b = own_bias(model, joint)
    coded = coded_rows(model, joint, tol, stages)
    problem, by_encoder = coded.problem, coded.by_encoder
    begun = time.perf_counter()
    own = attained(problem, by_encoder)
    loss, values = problem.primal_value(own), row_values(problem, own)
    chosen = better_codes(coded.exact, by_encoder, values)
    exact = attained(problem, chosen)
    certificate = certify(problem, exact, tol=1.0)
    set_aside = time.perf_counter() - begun  # the referee takes as long again for what the search finds
    found, candidate, local, improved = problem, exact, certificate, False
    searching = stages.begin("a better dictionary")
    is_late = not run.left > set_aside
    if not is_late:
        searching = replace(searching, deadline=searching.deadline - set_aside)
        fit = _search(joint, (_start(model, coded.live, run.seed), b), tol, searching)
        better = SparseCodes(joint.X, fit.dictionary, joint.lam, bias=fit.bias)
        reached = attained(better, fit.codes)
        proof = certify(better, reached, tol=1.0)
        if improved := proof.value < certificate.value:
            found, candidate, local = better, reached, proof
    stages.begin("referee")
    residuals, drift = stationarity(found, candidate)
    ledger = LossLedger(
        loss=loss,
        exact=certificate.value,
        local=local.value,
        codes_gap=certificate.gap,
        local_codes_gap=local.gap,
        stationarity=float(np.nanmax(residuals, initial=0)),
        bias_residual=drift if joint.bias_is_free else None,
        improved=improved,
        dictionary=np.asarray(candidate.dictionary),
        decoder_bias=np.asarray(candidate.bias),
        **facts(model, joint, coded, [(problem, exact.codes), (found, candidate.codes)], run),
        **floors(floor, wide),
    )
    return Accounts(
        ledger=ledger,
        problem=problem,
        live=coded.live,
        by_encoder=sp.csr_array(by_encoder),
        exact=chosen,
        encoder_values=values,
        exact_values=np.minimum(values, coded.exact.values),
        numbers=np.arange(len(joint.X)),
        missing=("a better dictionary",) if is_late else (),
    )


# ------------------------------------------------------------------------------- what is done to any rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """Rows under the SAE's dictionary, atoms of norm zero left out.

    Attributes
    ----------
    problem
        Their codes at the SAE's bias, as a problem.
    live
        Which atoms are in it, (K,).
    by_encoder
        The encoder's codes for these atoms.
    exact
        Exact ones, as far as there was time.
    l0, dead
        Active features per row by the encoder, and features that it never uses, of all K.
    """

    problem: SparseCodes
    live: Bool[np.ndarray, " K"]
    by_encoder: sp.csr_array
    exact: Codes
    l0: float
    dead: int


def own_bias(model: SparseAutoencoder, joint: JointProblem) -> Float64[np.ndarray, " d"]:
    """The bias of the SAE, as the problem has it where that is fixed."""
    return model.b_dec.astype(np.float64) if joint.bias_is_free else joint.fixed_bias().numpy()


def coded_rows(
    model: SparseAutoencoder, joint: JointProblem, tol: float, stages: Stages, share: float = _CODES_SHARE
) -> Coded:
    """The rows of a problem under the dictionary of an SAE that does not normalize."""
    live = require_live(model)
    stages.begin("the encoder's codes")
    codes = model.encode(joint.X)
    by_encoder = codes[:, live]
    problem = SparseCodes(joint.X, model.dictionary[live], joint.lam, bias=own_bias(model, joint))
    best = exact_codes(problem, by_encoder, tol, stages.begin("exact codes", share=share))
    l0, dead = codes.nnz / len(joint.X), _dead(codes)
    return Coded(problem=problem, live=live, by_encoder=by_encoder, exact=best, l0=l0, dead=dead)


def facts(
    model: SparseAutoencoder, joint: JointProblem, coded: Coded, pairs: list[tuple[SparseCodes, Any]], run: Run
) -> dict[str, Any]:
    """What a ledger says of its rows beside values: counts and sparsity. The pairs are exact codes of D and of D'."""
    activity, local_activity = (decided_activity(*pair, run) for pair in pairs)
    no_atom = int((~coded.live).sum())
    return {
        "bias": "free" if joint.bias_is_free else "fixed",
        "n_points": len(joint.X),
        "dim": model.dim,
        "n_atoms": model.n_atoms,
        "lam": joint.lam,
        "l0": coded.l0,
        "exact_l0": activity.l0,
        "local_l0": local_activity.l0,
        "dead": coded.dead,
        "exact_dead": activity.dead + no_atom,
        "exact_l0_range": activity.l0_range,
        "local_l0_range": local_activity.l0_range,
        "exact_dead_range": (activity.dead_range[0] + no_atom, activity.dead_range[1] + no_atom),
        "codes_ended": coded.exact.status.name.lower(),
    }


def floors(floor: Floor, wide: Solution) -> dict[str, Any]:
    """The levels that are proved, by the referee."""
    referee = certify(wide.problem, wide)
    return {
        "floor": max(floor.value, referee.lower_bound),
        "wide": referee.lower_bound,
        "wide_gap": referee.gap,
        "floor_theorem": floor.theorem if floor.value > referee.lower_bound else "T9",
        "lambda_max": referee.lambda_max,
    }


def require_live(model: SparseAutoencoder) -> Bool[np.ndarray, " K"]:
    """Say which atoms have a norm above zero; refuse a dictionary without any."""
    live = model.atom_norms > 0
    if not live.any():
        raise InputError("W_dec has only rows of norm 0; there is no dictionary to audit.")
    return live


def _start(model: SparseAutoencoder, live: np.ndarray, seed: int) -> np.ndarray:
    """The SAE's dictionary, with random atoms where it has none."""
    start = model.dictionary.copy()
    if not live.all():
        start[~live] = np.random.default_rng(seed).standard_normal((int((~live).sum()), model.dim))
    return start


def _search(problem: JointProblem, start: tuple[np.ndarray, np.ndarray], tol: float, run: Run) -> DictionaryFit:
    """A better dictionary than the start. An interrupt passes through."""
    return learn(problem, Settings(tol, Given.of(start, problem)), replace(run, is_outermost=False))


def attained(problem: SparseCodes, codes: sp.csr_array) -> Candidate:
    """Codes of a problem's own atoms at its own bias, for the referee."""
    return Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)


def better_codes(codes: Codes, others: sp.csr_array, values: np.ndarray) -> sp.csr_array:
    """Exact codes, except where others, of these values, are better by a hair (exact means to a tolerance)."""
    worse = codes.values > values
    if bool((values < codes.values * (1 - codes.gaps) - GAP_SLACK * values).any()):
        row = int((values - codes.values * (1 - codes.gaps)).argmin())
        raise CertificateError(f"the encoder's codes of datapoint {row} are below the lower bound of all codes.")
    if not worse.any():
        return codes.codes
    parts: list[Any] = [sp.diags_array(mask.astype(np.float64)) for mask in (~worse, worse)]
    return sp.csr_array(parts[0] @ codes.codes + parts[1] @ others)


def _dead(codes: Any) -> int:
    return int((np.asarray(codes.sum(axis=0)).ravel() == 0).sum())
