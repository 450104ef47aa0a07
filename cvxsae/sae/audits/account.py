"""Every level of the loss ledger of an SAE, attained or certified, where its floors are known (theory §7)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
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
    from jaxtyping import Bool, Float64

    from cvxsae.parallel.context import Run
    from cvxsae.relaxations.floors.floor import Floor
    from cvxsae.relaxations.joint.joint import JointProblem
    from cvxsae.relaxations.solution import Solution
    from cvxsae.sae.autoencoder import SparseAutoencoder
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
    missing
        Stages that were not begun because time had run out.
    """

    ledger: LossLedger
    problem: SparseCodes
    live: Bool[np.ndarray, " K"]
    by_encoder: sp.csr_array
    exact: sp.csr_array
    encoder_values: Float64[np.ndarray, " N"]
    exact_values: Float64[np.ndarray, " N"]
    missing: tuple[str, ...] = ()


def account(model: SparseAutoencoder, floor: Floor, wide: Solution, tol: float, run: Run) -> LossLedger:
    """:func:`~cvxsae.audit` where the floors are known: data, λ and bias are those of the floor's problem."""
    with Stages(run, "audit", len(STAGES)) as stages:
        return accounts(model, floor, wide, tol, stages).ledger


def accounts(model: SparseAutoencoder, floor: Floor, wide: Solution, tol: float, stages: Stages) -> Accounts:
    """The ledger of an SAE that does not normalize, with the codes behind it. An interrupt passes through."""
    joint, run = floor.problem, stages.run
    data, lam, fixed = joint.X, joint.lam, not joint.bias_is_free
    b = joint.fixed_bias().numpy() if fixed else model.b_dec.astype(np.float64)
    live = require_live(model)
    stages.begin("the encoder's codes")
    codes = model.encode(data)
    by_encoder = codes[:, live]
    problem = SparseCodes(data, model.dictionary[live], lam, bias=b)
    best = exact_codes(problem, by_encoder, tol, stages.begin("exact codes", share=_CODES_SHARE))
    begun = time.perf_counter()
    own = _candidate(problem, by_encoder)
    loss, values = problem.primal_value(own), row_values(problem, own)
    chosen = _better(best, by_encoder, values)
    exact = _candidate(problem, chosen)
    certificate = certify(problem, exact, tol=1.0)
    set_aside = time.perf_counter() - begun  # the referee takes as long again for what the search finds
    found, candidate, local, improved = problem, exact, certificate, False
    searching = stages.begin("a better dictionary")
    is_late = not run.left > set_aside
    if not is_late:
        searching = replace(searching, deadline=searching.deadline - set_aside)
        fit = _search(joint, (_start(model, live, run.seed), b), tol, searching)
        better = SparseCodes(data, fit.dictionary, lam, bias=fit.bias)
        reached = _candidate(better, fit.codes)
        proof = certify(better, reached, tol=1.0)
        if improved := proof.value < certificate.value:
            found, candidate, local = better, reached, proof
    stages.begin("referee")
    referee = certify(wide.problem, wide)
    residuals, drift = stationarity(found, candidate)
    pairs: list[tuple[SparseCodes, Any]] = [(problem, exact.codes), (found, candidate.codes)]
    activity, local_activity = (decided_activity(*pair, run) for pair in pairs)
    no_atom = int((~live).sum())
    ledger = LossLedger(
        loss=loss,
        exact=certificate.value,
        local=local.value,
        floor=max(floor.value, referee.lower_bound),
        wide=referee.lower_bound,
        codes_gap=certificate.gap,
        local_codes_gap=local.gap,
        stationarity=float(np.nanmax(residuals, initial=0)),
        bias_residual=None if fixed else drift,
        wide_gap=referee.gap,
        floor_theorem=floor.theorem if floor.value > referee.lower_bound else "T9",
        improved=improved,
        bias="fixed" if fixed else "free",
        n_points=len(data),
        dim=model.dim,
        n_atoms=model.n_atoms,
        lam=lam,
        lambda_max=referee.lambda_max,
        l0=codes.nnz / len(data),
        exact_l0=activity.l0,
        local_l0=local_activity.l0,
        dead=_dead(codes),
        exact_dead=activity.dead + no_atom,
        exact_l0_range=activity.l0_range,
        local_l0_range=local_activity.l0_range,
        exact_dead_range=(activity.dead_range[0] + no_atom, activity.dead_range[1] + no_atom),
        dictionary=np.asarray(candidate.dictionary),
        decoder_bias=np.asarray(candidate.bias),
    )
    return Accounts(
        ledger=ledger,
        problem=problem,
        live=live,
        by_encoder=sp.csr_array(by_encoder),
        exact=chosen,
        encoder_values=values,
        exact_values=np.minimum(values, best.values),
        missing=("a better dictionary",) if is_late else (),
    )


def require_live(model: SparseAutoencoder) -> Bool[np.ndarray, " K"]:
    """Which atoms have a norm; without any there is no dictionary."""
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


def _candidate(problem: SparseCodes, codes: sp.csr_array) -> Candidate:
    return Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)


def _better(codes: Codes, others: sp.csr_array, values: np.ndarray) -> sp.csr_array:
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
