"""The audit of a trained sparse autoencoder: where its loss goes, and what to change first (theory §7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.deadline import OutOfTime
from cvxsae.diagnostics.check import Conditions, check
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.parallel.group import all_rows
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.sae.audits.account import STAGES, accounts, require_live
from cvxsae.sae.audits.answer import PARTS, Audit
from cvxsae.sae.audits.stages import Stages
from cvxsae.sae.chosen_lambda import MATCH, ChosenLambda, choose_lambda
from cvxsae.sae.frontiers.frontier import frontier_around
from cvxsae.sae.given import as_autoencoder
from cvxsae.sae.measures.metrics import Asked, metrics_of
from cvxsae.solvers.codes.encode import relative_gap_asked
from cvxsae.solvers.floors.search import WIDE_SHARE, WIDE_TOL, FloorSearch, find_floors, solved_wide_limit

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.diagnostics.report import OptimalityReport
    from cvxsae.sae.audits.account import Accounts
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.frontiers.curves import Frontier
    from cvxsae.sae.given import SAELike
    from cvxsae.sae.measures.result import Metrics
    from cvxsae.sae.self_test import SelfTest

_BIAS_TOLERANCE = 1e-5
"""How far, relative, a fixed bias may be from the SAE's ``b_dec``: files keep it in single precision."""

_FLOOR_SHARE = 0.5
"""Part of the ledger's time left that is kept for the floor of the width, which comes last."""

_LEDGER_SHARE = 0.5
"""Part of the time that the ledger may take where other parts are asked for too; they share what is left evenly."""

_DIAGNOSTIC_TOL = 1e-4
"""What counts as zero in the verdicts of the diagnostics, in units of λ: the default of ``check_optimality``."""

_METRICS = Asked(compat=None, loss=None, tol=1e-6, confidence=0.95)
"""How the metrics are measured: the defaults of :func:`cvxsae.sae.metrics`."""

_MATCH_SHARE = 0.2
"""Part of the time that the search for λ may take."""


class AuditOptions(Compute, Seeded, total=False):
    """How :func:`audit` runs, and what it measures beside the ledger."""

    metrics: bool
    """Whether to compute the field's metrics, for the encoder's and for exact codes."""
    frontier: bool | None
    """Whether to draw error against L0; None: where the SAE was trained for another objective than (P)."""
    diagnostics: bool
    """Whether to measure every condition of optimality on the SAE's dictionary."""
    report: str | Path | None
    """File for one page with all of it (then all parts are computed), or None."""


@keywords(AuditOptions, metrics=False, frontier=None, diagnostics=False, report=None)
def audit(
    X: ActivationsLike,
    sae: SAELike,
    *,
    lam: float | str | None = None,
    bias: BiasLike = "free",
    stationarity: float = 1e-4,
    **options: Unpack[AuditOptions],
) -> Audit:
    """Say where the loss of a trained SAE goes: encoder, dictionary, width, or nothing that anyone could gain (§7).

    First whether it reconstructs these data at all (:meth:`SparseAutoencoder.self_test`), and if not, why. Then the
    levels of its loss: exact codes of its dictionary (:func:`~cvxsae.encode`); a search for a better dictionary that
    starts from its own (:func:`~cvxsae.learn_dictionary`); the floor for its width (:func:`~cvxsae.width_floor`) and
    for every width (:class:`~cvxsae.WideLimit`). All on the data given here, be it the training set or not: floors
    hold even for dictionaries that were fitted to these very datapoints, and nothing is said of others.

    The ledger charges every SAE by (P), whatever it was trained for. Where that was no L1 penalty (TopK, JumpReLU) the
    answer says so, and the frontier (error against the number of active atoms) stands beside it.

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.data.Activations` accepts, as the model has them. Where the SAE
        normalizes them, values and bounds are those of the normalized data, and the answer says so.
    sae
        A :class:`~cvxsae.SparseAutoencoder`; its arrays by name (``W_enc (d, K)``, ``b_enc (K,)``, ``W_dec (K, d)``,
        ``b_dec (d,)``; atoms of any norm); or what :meth:`SparseAutoencoder.load` reads.
    lam
        Penalty λ of (P): for SAELens half its ``l1_coefficient``. ``"match-l0"``: the λ at which exact codes of its
        dictionary have as many active atoms per datapoint as the encoder's (:func:`~cvxsae.sae.lambda_matching_l0`).
        None: the SAE's own, or else the matching one. The ledger says which, and where it came from.
    bias
        ``"free"``: D' may have a bias of its own, and the floors hold for every bias. None or an array: the bias is
        fixed, and must be the SAE's ``b_dec``; then the floors for this bias are higher.
    stationarity
        What the search for D' aims at (T3), and the relative duality gap of every datapoint's codes.
    options
        ``device``, ``progress``, ``seed`` (of the search and the floor), and what is computed beside the ledger:
        ``metrics``, ``frontier``, ``diagnostics``, ``report`` (needs the extra: ``pip install cvxsae[report]``).
        ``max_seconds`` is the limit of the whole call: the ledger has half of it if more is asked for; of that half is
        for exact codes and the search for D', the rest for the floor of the width. Where codes are not done the
        encoder's stand, and ``codes_gap`` says so. What was not begun in time is named in ``missing``; without a floor
        of the width that of any width is one.

    Returns
    -------
    Audit
        A verdict in words, and the ledger: lines that add up to the loss, none of them negative, with what certifies
        each. And the parts asked for.

    Raises
    ------
    InputError
        For arguments that cannot be used, a λ that is not to be had, a fixed bias that is not the SAE's, or a report
        that could not be written: before anything is computed.
    CertificateError
        If a line is negative by more than rounding: then a floor, a code or this code is wrong.
    KeyboardInterrupt
        On Ctrl-C: a ledger with a line missing would not add up.
    """
    run = Run.start(options, AuditOptions)
    report = options.get("report")
    if report is not None:
        from cvxsae.sae.audits.report.page import require_report

        report = require_report(report, "report")
    model = as_autoencoder(sae)
    rows = all_rows(X)
    shift = _fixed_bias(model, rows, bias)
    stationarity = relative_gap_asked(stationarity, "stationarity")
    asked = _parts(model, options)
    require_live(model)
    is_searched = _is_searched(model, lam)
    with Stages(run, "audit", is_searched + 3 + len(STAGES) + len(asked) + (report is not None)) as stages:
        stages.begin("self-test")
        tested = model.self_test(rows)
        data, behind = model.normalized(rows), replace(model, normalization=None)
        searching = stages.begin("matching L0", share=_MATCH_SHARE) if is_searched else run.inner()
        chosen = choose_lambda(model, rows, lam, searching)
        ledger_run = run.inner(share=_LEDGER_SHARE if asked else 1.0)
        stages.run = replace(ledger_run, progress=run.progress)
        problem = JointProblem(data, model.n_atoms, _penalty(chosen), bias="free" if shift is None else shift)
        found = _accounts(behind, problem, stationarity, stages)
        ledger = replace(found.ledger, lam_source=_source(model, chosen), notes=_notes(model, tested))
        stages.run = run
        parts: dict[str, Any] = {}
        for place, part in enumerate(asked):
            if run.is_late:
                break
            inner = stages.begin(part, share=1 / (len(asked) - place))
            with suppress(OutOfTime):
                parts[part] = _MEASURES[part](_Measured(model, rows, found, chosen), inner)
        answer = Audit(
            ledger=ledger,
            sae=model,
            self_test=tested,
            missing=(*found.missing, *(part for part in asked if part not in parts)),
            accounts=found,
            seconds=stages.seconds,
            **parts,
        )
        if report is not None:
            stages.begin("report")
            answer.write_report(report)
    return answer


def _accounts(model: SparseAutoencoder, problem: JointProblem, tol: float, stages: Stages) -> Accounts:
    """The ledger, with the floors under it."""
    run = stages.run
    stages.begin("wide limit")
    limit = WideLimit(problem.X, problem.lam, bias=problem.bias)
    wide = solved_wide_limit(limit, WIDE_TOL, run, share=WIDE_SHARE)
    stages.run = replace(run.inner(share=1 - _FLOOR_SHARE), progress=run.progress)
    found = accounts(model, Floor(problem, wide.lower_bound, "T9"), wide, tol, stages)
    stages.run = run
    if run.is_late:  # the wide limit is a floor too; one of its own for this width takes a while to evaluate
        return replace(found, missing=(*found.missing, "width floor"))
    (floor,) = find_floors([problem], FloorSearch.of(), stages.begin("width floor"), wide)
    ledger = found.ledger
    if floor.value > ledger.floor:
        ledger = replace(ledger, floor=floor.value, floor_theorem=floor.theorem)
    return replace(found, ledger=ledger)


# --------------------------------------------------------------------------------------- what is asked


def _parts(model: SparseAutoencoder, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts beside the ledger, in the order in which they are computed."""
    everything, wanted = options.get("report") is not None, dict(options)
    if wanted.get("frontier") is None:
        wanted["frontier"] = not model.activation.is_trained_with_l1
    arguments.flag(wanted["frontier"], "frontier")
    return tuple(part for part in PARTS if everything or wanted.get(part, False))


def _is_searched(model: SparseAutoencoder, lam: Any) -> bool:
    """Whether λ has to be searched for; refuses what is none."""
    if isinstance(lam, str):
        arguments.choice(lam, "lam", (MATCH,))
        return True
    if lam is not None:
        arguments.penalty(lam, "lam")
    return lam is None and model.lam is None


def _penalty(chosen: ChosenLambda) -> float:
    """λ, if there is one."""
    if chosen.lam is None:
        why = chosen.sentence.rpartition(". ")[2].removesuffix(".")
        raise InputError(f"lam is not known ({why}); pass a number.")
    return chosen.lam


def _source(model: SparseAutoencoder, chosen: ChosenLambda) -> str:
    """Where λ came from, in a few words."""
    if chosen.source != MATCH:
        return chosen.source if chosen.source == "given" else model.lam_source.rstrip(".") or "the SAE's own"
    how = "where exact codes have the SAE's L0" if chosen.is_matched else "nearest to where exact codes have its L0"
    return f"{how}: {chosen.l0:.4g} against {chosen.target:.4g} on {chosen.n_points:,} rows"


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


def _notes(model: SparseAutoencoder, tested: SelfTest) -> tuple[str, ...]:
    """What has to be said beside the numbers, first of all whether the SAE fits these data at all."""
    notes = [] if tested.passed else [str(tested)]
    if not model.activation.is_trained_with_l1:
        notes.append(
            f"a {model.activation.name} SAE is trained for another objective than (P); the ledger charges its codes by "
            "(P) at this lambda, and its frontier (FVU against L0) is what it is to be judged by"
        )
    if model.normalization is not None:
        notes.append(model.normalization.sentence)
    return tuple(notes)


# --------------------------------------------------------------------------------------------- parts


class _Measured(NamedTuple):
    """What the parts are measured on: the SAE, the rows as they were given, the ledger's codes, and λ."""

    model: SparseAutoencoder
    rows: Activations
    accounts: Accounts
    lam: ChosenLambda


def _metrics(on: _Measured, run: Run) -> Metrics:
    """The field's metrics, for the SAE's codes, exact codes, and these refitted."""
    return metrics_of(on.rows, on.model, on.lam, _METRICS, run)


def _frontier(on: _Measured, run: Run) -> Frontier:
    """Error against L0, with the better dictionary that the ledger found, if it did."""
    ledger = on.accounts.ledger
    better = (ledger.dictionary, ledger.decoder_bias) if ledger.improved else False
    return frontier_around(on.model, on.rows, on.lam, better, _METRICS.tol, run)


def _diagnostics(on: _Measured, run: Run) -> OptimalityReport:
    """Every condition of optimality, on the SAE's dictionary (atoms of norm zero left out)."""
    is_free = on.accounts.ledger.bias == "free"
    return check(on.accounts.problem, on.accounts.exact, Conditions(), _DIAGNOSTIC_TOL, run, bias_is_free=is_free)


_MEASURES: dict[str, Callable[[_Measured, Run], Any]] = {
    "metrics": _metrics,
    "frontier": _frontier,
    "diagnostics": _diagnostics,
}
"""How each part is computed."""
