"""The audit of a trained sparse autoencoder: where its loss goes, and what to change first (theory §7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from cvxsae.data import arguments
from cvxsae.data.deadline import OutOfTime
from cvxsae.diagnostics.check import Conditions, check
from cvxsae.errors import InputError
from cvxsae.parallel.context import Compute, Run, Seeded, keywords
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.sae.audits.account import STAGES, accounts, require_live
from cvxsae.sae.audits.answer import PARTS, Audit
from cvxsae.sae.audits.held_out import STAGES as HELD_OUT_STAGES
from cvxsae.sae.audits.held_out import held_out_accounts
from cvxsae.sae.audits.rows import SHARE, RowOptions, Rows, rows_asked
from cvxsae.sae.audits.stages import Stages
from cvxsae.sae.chosen_lambda import MATCH, ChosenLambda, choose_lambda
from cvxsae.sae.frontiers.frontier import Around, frontier_around
from cvxsae.sae.given import as_autoencoder
from cvxsae.sae.measures.metrics import Asked, metrics_of
from cvxsae.solvers.codes.encode import relative_gap_asked
from cvxsae.solvers.codes.evaluation import CONFIDENCE
from cvxsae.solvers.floors.search import WIDE_SHARE, WIDE_TOL, FloorSearch, FloorSizes, find_floors, solved_wide_limit

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike
    from cvxsae.diagnostics.report import OptimalityReport
    from cvxsae.relaxations.solution import Solution
    from cvxsae.sae.audits.account import Accounts
    from cvxsae.sae.audits.ledger import LossLedger
    from cvxsae.sae.autoencoder import SparseAutoencoder
    from cvxsae.sae.frontiers.curves import Frontier
    from cvxsae.sae.given import SAELike
    from cvxsae.sae.measures.result import Metrics
    from cvxsae.sae.self_test import SelfTest

_BIAS_TOLERANCE = 1e-5
"""How far, relative, a fixed bias may be from the SAE's ``b_dec``: files keep it in single precision."""

_FLOOR_SHARE = 0.5
"""Part of the ledger's time left that is kept for the floor of the width, which comes last."""

_SAMPLE_SHARE = 0.5
"""Part of the ledger's time for the rows that the better dictionary is learned on; the held-out rows have the rest, and
what then is left is for the floor of the former."""

_LEDGER_SHARE = 0.5
"""Part of the time that the ledger may take where other parts are asked for too; they share what is left evenly."""

_DIAGNOSTIC_TOL = 1e-4
"""What counts as zero in the verdicts of the diagnostics, in units of λ: the default of ``check_optimality``."""

_TOL = 1e-6
"""Relative gap of the codes of metrics and frontier: the default of :func:`cvxsae.sae.metrics`."""

HELD_OUT = ", held out"
"""What stages on the held-out rows are called beside their names."""

_MATCH_SHARE = 0.2
"""Part of the time that the search for λ may take."""


class AuditOptions(RowOptions, Compute, Seeded, FloorSizes, total=False):
    """How :func:`audit` runs, and what it measures beside the ledger."""

    metrics: bool
    """Whether to compute the field's metrics, for the encoder's and for exact codes."""
    frontier: bool | None
    """Whether to draw error against L0; None: where the SAE was trained for another objective than (P)."""
    diagnostics: bool
    """Whether to measure every condition of optimality on the SAE's dictionary."""
    report: str | Path | None
    """File for one page with all of it (then all parts are computed), or None."""


@keywords(
    AuditOptions,
    held_out=SHARE,
    groups=None,
    held_out_groups=None,
    confidence=CONFIDENCE,
    drop_outliers=False,
    metrics=False,
    frontier=None,
    diagnostics=False,
    report=None,
    max_points=None,
    max_dim=None,
)
def audit(
    X: ActivationsLike,
    sae: SAELike,
    *,
    lam: float | str | None = None,
    bias: BiasLike = "free",
    stationarity: float = 1e-4,
    **options: Unpack[AuditOptions],
) -> Audit:
    """Find what causes the loss of a trained SAE: its encoder, its dictionary or its width.

    The audit first tests whether the SAE reconstructs these data at all (:meth:`SparseAutoencoder.self_test`), and if
    not, why. Then it computes the levels of the loss: exact codes of the SAE's dictionary (:func:`~cvxsae.encode`); a
    better dictionary, found by a search from the SAE's own (:func:`~cvxsae.learn_dictionary`); and the floors for its
    width (:func:`~cvxsae.width_floor`) and for every width (:class:`~cvxsae.WideLimit`).

    The better dictionary is learned on some rows, and all numbers are about other rows, which are held out: a
    dictionary costs less on the rows that it was learned on than on others, because of memorization (T17 b). So every
    line holds exactly for the held-out rows, and with a confidence for the distribution that they were drawn from, if
    the SAE has not seen them either. The floors hold for the held-out rows; in expectation they are below those of the
    distribution (T17 a).

    The ledger charges every SAE by (P), whatever it was trained for. If it was not trained with an L1 penalty (TopK,
    JumpReLU), the answer says so, and shows the frontier (error against the number of active atoms) too.

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.Activations` accepts, as the model has them. Where the SAE
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
        Target of the search for D' (T3), and the relative duality gap of every datapoint's codes.
    options
        Which rows are held out: ``held_out``, a share of X (a quarter unless told otherwise, drawn with ``seed``), or
        other data, or None: then everything is about the given rows, a dictionary's memory of them included. ``groups``
        (which document each row of X is of) holds out whole documents, and makes them the units of all intervals (T17
        d); for data held out that is ``held_out_groups``. ``confidence`` is that of the intervals. ``drop_outliers``
        leaves out rows of 10 (or so many) times the median norm, which are reported where they are kept.

        ``device``, ``progress``, ``seed`` (of the held-out rows, the search and the floor), and what is computed beside
        the ledger, on the same rows: ``metrics``, ``frontier``, ``diagnostics``, ``report`` (needs the extra: ``pip
        install cvxsae[report]``). ``max_seconds`` is the limit of the whole call: the ledger has half of it if more is
        asked for; of that half is for exact codes and the search for D', the rest for the held-out rows and the floors
        of the width. Where codes are not done the encoder's stand, and ``codes_gap`` says so. What was not begun in
        time is named in ``missing``; without a floor of the width that of any width is one. ``max_points`` and
        ``max_dim`` are those of the floor of the width (:func:`~cvxsae.width_floor`).

    Returns
    -------
    Audit
        A verdict in words, and the ledger of the held-out rows: lines that add up to the loss, with what certifies
        each. The dictionary gap can be negative there, and says "none shown" where its interval holds zero. ``sample``
        is the ledger of the rows that the better dictionary was learned on. And the parts asked for.

    Raises
    ------
    InputError
        For arguments that cannot be used, fewer than two rows (or documents) to divide, a λ that is not to be had, a
        fixed bias that is not the SAE's, or a report that could not be written: before anything is computed.
    CertificateError
        If a line that cannot be is negative by more than rounding: then a floor, a code or this code is wrong.
    KeyboardInterrupt
        On Ctrl-C: a ledger with a line missing would not add up.
    """
    run = Run.start(options, AuditOptions)
    report = options.get("report")
    if report is not None:
        from cvxsae.sae.audits.report.page import require_report

        report = require_report(report, "report")
    model = as_autoencoder(sae)
    stationarity = relative_gap_asked(stationarity, "stationarity")
    search = FloorSearch.of(max_points=options.get("max_points"), max_dim=options.get("max_dim"))
    asked = _parts(model, options)
    require_live(model)
    is_searched = _is_searched(model, lam)
    rows = rows_asked(X, model.dim, options, run.seed)
    shift = _fixed_bias(model, bias)
    count = is_searched + 3 + len(STAGES) + len(asked) + (report is not None)
    count += 0 if rows.held_out is None else 3 + len(HELD_OUT_STAGES)
    with Stages(run, "audit", count) as stages:
        stages.say(rows.notes)
        stages.begin("self-test")
        tested = model.self_test(rows.given)
        searching = stages.begin("matching L0", share=_MATCH_SHARE) if is_searched else run.inner()
        chosen = choose_lambda(model, rows.learned_on, lam, searching)
        ledger_run = run.inner(share=_LEDGER_SHARE if asked else 1.0)
        stages.run = replace(ledger_run, progress=run.progress)
        terms = {"n_atoms": model.n_atoms, "lam": _penalty(chosen), "bias": "free" if shift is None else shift}
        said: dict[str, Any] = {"lam_source": _source(model, chosen), "notes": _notes(model, tested) + rows.notes}
        found, sample = _ledgers(model, rows, terms, stationarity, search, stages)
        found = replace(found, ledger=replace(found.ledger, **said))
        stages.run = run
        parts: dict[str, Any] = {}
        for place, part in enumerate(asked):
            if run.is_late:
                break
            inner = stages.begin(part, share=1 / (len(asked) - place))
            with suppress(OutOfTime):
                parts[part] = _MEASURES[part](_Measured(model, rows, found, chosen), inner)
        answer = Audit(
            ledger=found.ledger,
            sample=found.ledger if rows.held_out is None else replace(sample, **said),
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


def _ledgers(
    model: SparseAutoencoder, rows: Rows, terms: Mapping[str, Any], tol: float, search: FloorSearch, stages: Stages
) -> tuple[Accounts, LossLedger]:
    """The accounts of the rows that the ledger is about, and the ledger of those that D' was learned on."""
    run, behind = stages.run, replace(model, normalization=None)
    seen = JointProblem(model.normalized(rows.learned_on), **terms)
    if rows.held_out is None:
        found = _above(seen, search, stages, lambda under: accounts(behind, *under, tol, stages))
        return found, found.ledger
    stages.run = replace(run.inner(share=_SAMPLE_SHARE), progress=run.progress)
    wide = _wide(seen, stages)
    sample, late = _of_sample(accounts(behind, _wide_floor(seen, wide), wide, tol, stages))
    stages.run, stages.where = run, HELD_OUT
    others = JointProblem(model.normalized(rows.held_out), **terms)
    found = _above(
        others, search, stages, lambda under: held_out_accounts(behind, sample, rows.drawn, under, tol, stages)
    )
    stages.where = ""
    sample, later = _with_floor(sample, seen, wide, search, stages)
    late += found.missing + tuple(f"{name} of the rows learned on" for name in later)
    return replace(found, missing=late), sample


def _of_sample(found: Accounts) -> tuple[LossLedger, tuple[str, ...]]:
    """What is kept of the accounts of the rows that D' was learned on: no codes."""
    return found.ledger, found.missing


def _wide(problem: JointProblem, stages: Stages) -> Solution:
    stages.begin("wide limit")
    limit = WideLimit(problem.X, problem.lam, bias=problem.bias)
    return solved_wide_limit(limit, WIDE_TOL, stages.run, share=WIDE_SHARE)


def _wide_floor(problem: JointProblem, wide: Solution) -> Floor:
    return Floor(problem, wide.lower_bound, "T9")


def _above(
    problem: JointProblem, search: FloorSearch, stages: Stages, levels: Callable[[tuple[Floor, Solution]], Accounts]
) -> Accounts:
    """The accounts of some rows, with the floors under them."""
    run = stages.run
    wide = _wide(problem, stages)
    stages.run = replace(run.inner(share=1 - _FLOOR_SHARE), progress=run.progress)
    found = levels((_wide_floor(problem, wide), wide))
    stages.run = run
    ledger, late = _with_floor(found.ledger, problem, wide, search, stages)
    return replace(found, ledger=ledger, missing=found.missing + late)


def _with_floor(
    ledger: LossLedger, problem: JointProblem, wide: Solution, search: FloorSearch, stages: Stages
) -> tuple[LossLedger, tuple[str, ...]]:
    """The same above the floor of the width, if there is time for it; and what is missing if not."""
    if stages.run.is_late:  # the wide limit is a floor too; one of its own for this width takes a while to evaluate
        return ledger, ("width floor",)
    (floor,) = find_floors([problem], search, stages.begin("width floor"), wide)
    if floor.value > ledger.floor:
        ledger = replace(ledger, floor=floor.value, floor_theorem=floor.theorem)
    return ledger, ()


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


def _fixed_bias(model: SparseAutoencoder, bias: BiasLike) -> np.ndarray | None:
    """The bias the ledger is for, None if it is free; a fixed one must be the SAE's own."""
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
    """What the parts are measured on: the SAE, the rows of the audit, the ledger's codes, and λ."""

    model: SparseAutoencoder
    rows: Rows
    accounts: Accounts
    lam: ChosenLambda


def _metrics(on: _Measured, run: Run) -> Metrics:
    """The field's metrics of the ledger's rows, for the SAE's codes, exact codes, and these refitted."""
    drawn = on.rows.drawn
    asked = Asked(compat=None, loss=None, tol=_TOL, confidence=drawn.confidence, groups=drawn.groups)
    return metrics_of(on.rows.judged, on.model, on.lam, asked, run)


def _frontier(on: _Measured, run: Run) -> Frontier:
    """Error against L0 on the ledger's rows, with the better dictionary that was found, if one was."""
    ledger = on.accounts.ledger
    better = (ledger.dictionary, ledger.decoder_bias) if ledger.improved else False
    around = Around(on.rows.judged, on.rows.drawn.confidence, on.rows.drawn.groups)
    drawn = frontier_around(on.model, around, on.lam, better, _TOL, run)
    if not (ledger.is_held_out and ledger.improved):
        return drawn
    note = f"All points are for held-out rows; the learned dictionary was learned on {ledger.n_seen:,} others."
    return replace(drawn, notes=(*drawn.notes, note))


def _diagnostics(on: _Measured, run: Run) -> OptimalityReport:
    """Every condition of optimality, on the SAE's dictionary (atoms of norm zero left out) and the ledger's rows."""
    is_free = on.accounts.ledger.bias == "free"
    return check(on.accounts.problem, on.accounts.exact, Conditions(), _DIAGNOSTIC_TOL, run, bias_is_free=is_free)


_MEASURES: dict[str, Callable[[_Measured, Run], Any]] = {
    "metrics": _metrics,
    "frontier": _frontier,
    "diagnostics": _diagnostics,
}
"""How each part is computed."""
