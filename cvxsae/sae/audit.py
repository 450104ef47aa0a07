"""The audit of a trained sparse autoencoder: every level of its loss ledger, attained or certified (theory §7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import scipy.sparse as sp

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.diagnostics.sums import exact_codes
from cvxsae.errors import CertificateError, InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.convex.fixed_atoms import SparseCodes
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import GAP_SLACK
from cvxsae.sae.given import as_autoencoder
from cvxsae.sae.ledger import LossLedger
from cvxsae.solvers.codes.encode import decided_activity, relative_gap_asked
from cvxsae.solvers.dictionary.learn import Settings, learn
from cvxsae.solvers.dictionary.start import Given
from cvxsae.solvers.floors.search import WIDE_TOL, FloorSearch, find_floors, solved_wide_limit
from cvxsae.validation.certify import certify
from cvxsae.validation.claims import row_bounds, stationarity

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.relaxations.floors.floor import Floor
    from cvxsae.relaxations.solution import Solution
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.given import SAELike
    from cvxsae.solvers.codes.result import Codes
    from cvxsae.solvers.dictionary.result import DictionaryFit

_BIAS_TOLERANCE = 1e-5
"""How far, relative, a fixed bias may be from the SAE's ``b_dec``: files keep it in single precision."""

_CODES_SHARE = 0.5
"""Part of the time left that the exact codes may take; where they are not done, the encoder's own stand, and say so."""

_FLOOR_SHARE = 0.5
"""Part of the time left that the search for the floor may take; the search for a better dictionary has the rest."""


class AuditOptions(Compute, Seeded, total=False):
    """How :func:`audit` runs."""


@keywords(AuditOptions)
def audit(
    X: ActivationsLike,
    sae: SAELike,
    *,
    lam: float | None = None,
    bias: BiasLike = "free",
    stationarity: float = 1e-4,
    **options: Unpack[AuditOptions],
) -> LossLedger:
    """Say where the loss of a trained SAE goes: encoder, dictionary, width, or nothing that anyone could gain (§7).

    Exact codes of its dictionary (:func:`~cvxsae.encode`); a search for a better dictionary that starts from its own
    (:func:`~cvxsae.learn_dictionary`); the floor for its width (:func:`~cvxsae.width_floor`) and for every width
    (:class:`~cvxsae.WideLimit`). All on the data given here, be it the training set or not: floors hold even for
    dictionaries that were fitted to these very datapoints.

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    sae
        A :class:`~cvxsae.SparseAutoencoder`; its arrays by name (``W_enc (d, K)``, ``b_enc (K,)``, ``W_dec (K, d)``,
        ``b_dec (d,)``; atoms of any norm); or a folder in the layout of SAELens.
    lam
        Penalty λ of (P): for SAELens half its ``l1_coefficient``. Not needed where the SAE knows its own.
    bias
        ``"free"``: D' may have a bias of its own, and the floors hold for every bias. None or an array: the bias is
        fixed, and must be the SAE's ``b_dec``; then the floors for this bias are higher.
    stationarity
        What the search for D' aims at (T3), and the relative duality gap of every datapoint's codes.
    options
        ``device``, ``max_seconds`` (of the whole call: the floor has half of it, exact codes half of what is left, the
        search for D' the rest; where codes are not done the encoder's stand, and ``codes_gap`` says so; then the
        referee evaluates what was reached), ``progress`` and ``seed`` (of the search and the floor).

    Returns
    -------
    LossLedger
        Lines that add up to the loss, none of them negative, with what certifies each.

    Raises
    ------
    InputError
        For arguments that cannot be used, an unknown λ, or a fixed bias that is not the SAE's.
    CertificateError
        If a line is negative by more than rounding: then a floor, a code or this code is wrong.
    KeyboardInterrupt
        On Ctrl-C: a ledger with a line missing would not add up.
    """
    run = Run.start(options, AuditOptions)
    model = as_autoencoder(sae)
    penalty = model.lam if lam is None else arguments.penalty(lam, "lam")
    if penalty is None:
        raise InputError("lam is None and the SAE does not know its own; pass lam (SAELens: half of l1_coefficient).")
    data = all_rows(X)
    shift = _fixed_bias(model, data, bias)
    problem = JointProblem(data, model.n_atoms, penalty, bias="free" if shift is None else shift)
    stationarity = relative_gap_asked(stationarity, "stationarity")
    wide = solved_wide_limit(WideLimit(data, penalty, bias=problem.bias), WIDE_TOL, run)
    (floor,) = find_floors([problem], FloorSearch.of(), run.inner(share=_FLOOR_SHARE), wide)
    return account(model, floor, wide, stationarity, run)


def account(model: SparseAutoencoder, floor: Floor, wide: Solution, tol: float, run: Run) -> LossLedger:
    """:func:`audit` where the floors are known already: data, λ and bias are those of the floor's problem."""
    joint = floor.problem
    data, lam, fixed = joint.X, joint.lam, not joint.bias_is_free
    atoms = model.dictionary
    b = joint.fixed_bias().numpy() if fixed else model.b_dec.astype(np.float64)
    live = model.atom_norms > 0
    if not live.any():
        raise InputError("W_dec has only rows of norm 0; there is no dictionary to audit.")
    by_encoder = model.encode(data)
    problem = SparseCodes(data, atoms[live], lam, bias=b)
    codes = exact_codes(problem, by_encoder[:, live], tol, run.inner(share=_CODES_SHARE))
    loss = problem.primal_value(_candidate(problem, by_encoder[:, live]))
    exact = _candidate(problem, _better(codes, by_encoder[:, live], problem))
    certificate = certify(problem, exact, tol=1.0)
    start = atoms.copy()
    if not live.all():
        generator = np.random.default_rng(run.seed)
        start[~live] = generator.standard_normal((int((~live).sum()), model.dim))
    found, candidate, local, improved = problem, exact, certificate, False
    if not run.is_late:
        fit = _search(joint, (start, b), tol, run)
        better = SparseCodes(data, fit.dictionary, lam, bias=fit.bias)
        reached = _candidate(better, fit.codes)
        proof = certify(better, reached, tol=1.0)
        if improved := proof.value < certificate.value:
            found, candidate, local = better, reached, proof
    referee = certify(wide.problem, wide)
    residuals, drift = stationarity(found, candidate)
    pairs: list[tuple[SparseCodes, Any]] = [(problem, exact.codes), (found, candidate.codes)]
    activity, local_activity = (decided_activity(*pair, run) for pair in pairs)
    no_atom = int((~live).sum())
    return LossLedger(
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
        l0=by_encoder.nnz / len(data),
        exact_l0=activity.l0,
        local_l0=local_activity.l0,
        dead=_dead(by_encoder),
        exact_dead=activity.dead + no_atom,
        exact_l0_range=activity.l0_range,
        local_l0_range=local_activity.l0_range,
        exact_dead_range=(activity.dead_range[0] + no_atom, activity.dead_range[1] + no_atom),
        dictionary=np.asarray(candidate.dictionary),
        decoder_bias=np.asarray(candidate.bias),
    )


def _search(problem: JointProblem, start: tuple[np.ndarray, np.ndarray], tol: float, run: Run) -> DictionaryFit:
    """A better dictionary than the start. An interrupt passes through."""
    settings = Settings(tol, Given.of(start, problem))
    return learn(problem, settings, replace(run.inner(), progress=run.progress))


def _fixed_bias(model: SparseAutoencoder, data: Activations, bias: BiasLike) -> np.ndarray | None:
    """The bias the ledger is for, None if it is free; a fixed one must be the SAE's own."""
    if data.shape[1] != model.dim:
        raise InputError(f"X has shape {data.shape} but the SAE is for dimension {model.dim}; pass its activations.")
    vector = arguments.bias_vector(bias, model.dim)
    if isinstance(vector, str):
        return None
    fixed = np.zeros(model.dim) if vector is None else vector.numpy()
    own = model.b_dec.astype(np.float64)
    off = float(np.linalg.norm(fixed - own))
    if off > _BIAS_TOLERANCE * float(np.linalg.norm(own)):
        raise InputError(f"bias is fixed but differs from the SAE's b_dec by {off:.3g}; pass bias=b_dec or 'free'.")
    return fixed


def _candidate(problem: SparseCodes, codes: sp.csr_array) -> Candidate:
    return Candidate(bias=problem.fixed_bias().numpy(), dictionary=problem.atoms.numpy(), codes=codes)


def _better(codes: Codes, others: sp.csr_array, problem: SparseCodes) -> sp.csr_array:
    """Exact codes, except where the encoder's own are better by a hair (exact means to a tolerance)."""
    values, _ = row_bounds(problem, _candidate(problem, others))
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
