"""Trained SAEs, the best dictionaries found and the floors under them, side by side over a range of widths (§7).

A comparison is a study (:class:`~cvxsae.ScaleStudy`) of one data set and λ with the methods ``trained_sae``,
``learned`` and ``width_floor``, and the wide limit under all of them.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from tqdm.auto import tqdm

from cvxsae.data import arguments
from cvxsae.data.arguments import Bias, BiasLike
from cvxsae.data.storage import Folder, fingerprint, json_text, write_atomically
from cvxsae.errors import CertificateError, Error, InputError
from cvxsae.parallel.context import Compute, Kept, Run, Seeded, keywords
from cvxsae.sae.audits.ledger import LossLedger
from cvxsae.sae.audits.rows import SHARE, HeldOutOptions
from cvxsae.solvers.codes.encode import relative_gap_asked
from cvxsae.solvers.codes.evaluation import CONFIDENCE
from cvxsae.study.compared_rows import ComparedRows
from cvxsae.study.comparison import Comparison, HeldOutWidth, WidthResult
from cvxsae.study.held_out import LOCAL
from cvxsae.study.plan import Cell
from cvxsae.study.registry import OPTIONS
from cvxsae.study.run import HowToRun, run
from cvxsae.study.spec import StudySpec
from cvxsae.study.store import Record, Store

if TYPE_CHECKING:
    from cvxsae.data.activations import ActivationsLike

FILE, CELLS = "compare.json", "study"
"""What a comparison writes beside one ``dictionary_K.npz`` a width; the folder of its study."""

NO_LIMIT = 1e9
"""Seconds of a search that only the limit of the whole call can end: thirty years."""

TRAINING = tuple(name for name in OPTIONS["trained_sae"] if name not in ("n_atoms", "stationarity", "search_seconds"))
"""Options of training."""

FLOORS = tuple(name for name in OPTIONS["width_floor"] if name not in ("n_atoms", "max_seconds", "held_out"))
"""Options of the floors."""


class CompareOptions(HeldOutOptions, Compute, Seeded, Kept, total=False):
    """How :func:`compare` runs, and on which rows."""


@keywords(CompareOptions, held_out=SHARE, groups=None, held_out_groups=None, confidence=CONFIDENCE)
def compare(
    X: ActivationsLike,
    widths: Sequence[int],
    lam: float,
    *,
    bias: BiasLike = "free",
    stationarity: float = 1e-4,
    training: Mapping[str, Any] | None = None,
    floors: Mapping[str, Any] | None = None,
    callback: Callable[[WidthResult], None] | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Compare, at each width, a trained SAE and its ledger, the best dictionary found, and the floors under both.

    An SAE is trained (:func:`~cvxsae.sae.train_sae`) and audited (:func:`~cvxsae.audit`); independently of it, a
    dictionary is learned at the first width and grown to each of the others (:func:`~cvxsae.learn_dictionary`). The
    floors hold for all of them (:func:`~cvxsae.width_floor`, :class:`~cvxsae.WideLimit`).

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.Activations` accepts.
    widths
        Numbers of atoms; computed in increasing order.
    lam
        Penalty λ > 0, in the units of (P).
    bias
        ``"free"``, None (zero) or an array (d,), for SAEs, dictionaries and floors alike.
    stationarity
        That the searches for dictionaries aim at (T3), and the relative gap of codes, as in :func:`~cvxsae.audit`.
    training, floors
        Further arguments of :func:`~cvxsae.sae.train_sae` (``steps``, ``trainer``, ...) and of
        :func:`~cvxsae.width_floor` (``kernels``, ``max_points``, ``max_dim``, ``tol``).
    callback
        Called with every :class:`~cvxsae.study.WidthResult` as soon as its width is done.
    held_out
        A share of X that nothing is learned from (a quarter unless told otherwise, drawn with ``seed``), or other rows
        (M, d), or None. SAEs, dictionaries and floors are then of the other rows, and what the dictionaries cost on
        these comes first: the ledgers of the SAEs, intervals for the distribution and paired differences (T17 b;
        :attr:`WidthResult.ledger <cvxsae.study.WidthResult>`, :attr:`WidthResult.held_out`). With None everything is
        about the given rows, a dictionary's memory of them included.
    groups, held_out_groups
        Which document each row is of, (N,) of X or (M,) of other held-out rows, integers or strings: whole documents
        are held out, and intervals are over documents (T17 d). None if rows are independent.
    confidence
        Of every interval for the distribution.
    options
        ``device``; ``max_seconds`` (of the whole call: what is left is shared out over the searches that are left; once
        it has passed, the first width is finished as quickly as can be, and the others are left out); ``progress``;
        ``seed`` (of training and searches); and ``folder``, where ``compare.json`` and one ``dictionary_K.npz`` a width
        are written as they come: a comparison that was interrupted resumes where it was.

    Returns
    -------
    Comparison
        Table, figure, JSON, and the dictionaries.

    Raises
    ------
    InputError
        For arguments that cannot be used, or a folder that holds another comparison.
    CertificateError
        If anything attains less than a floor.
    KeyboardInterrupt
        On Ctrl-C; what was finished is in the folder.
    """
    how, callback = Run.start(options, CompareOptions), arguments.function_or_none(callback, "callback")
    drawn = ComparedRows.of(X, options, how.seed)
    data, penalty = drawn.data, arguments.penalty(lam, "lam")
    chosen = Bias.of(bias, data.shape[1])
    shift = None if chosen.vector is None else chosen.vector.numpy()
    stationarity = relative_gap_asked(stationarity, "stationarity")
    spec = StudySpec(
        name="compare",
        data={"X": drawn.table(shift)},
        held_out=drawn.share,
        methods=("wide_limit", "width_floor", "learned", "trained_sae"),
        n_atoms=tuple(sorted(set(arguments.each(widths, "widths", arguments.count)))),
        lam=(penalty,),
        bias=("free" if chosen.is_free else "none",),
        seeds=(how.seed,),
        options={
            "learned": {"stationarity": stationarity, "warm": "n_atoms"},
            "trained_sae": {
                "stationarity": stationarity,
                "search_seconds": NO_LIMIT,
                **_options(training, "training", TRAINING),
            },
            "width_floor": {
                **_options(floors, "floors", FLOORS),
                **({"held_out": True} if drawn.n_held_out else {}),
            },
        },
    )
    seconds = options.get("max_seconds")
    settings = {
        "n_points": drawn.n_points,
        "dim": data.shape[1],
        "lam": penalty,
        "widths": list(spec.n_atoms),
        "bias": "free" if chosen.is_free else chosen.vector_or_zeros(data.shape[1]).tolist(),
        "seed": how.seed,
        "stationarity": stationarity,
        "max_seconds": None if seconds is None else float(seconds),
        "training": {name: spec.options["trained_sae"][name] for name in TRAINING},
        "floors": _settings_of_floors(spec.options["width_floor"]),
    }
    settings |= drawn.settings
    if how.progress:
        for note in drawn.notes:
            tqdm.write(f"compare: {note}", file=sys.stderr)
    known = {**settings, "data": fingerprint(data), **drawn.known()} if how.folder is not None else {}
    kept = None if how.folder is None else Folder(how.folder, "a comparison", known)
    return _compare(_Progress(settings, spec, shift, kept, callback, how.deadline, drawn.notes), how)


def _compare(progress: _Progress, how: Run) -> Comparison:
    """Run the study, in its folder or in one that is gone afterwards."""
    kept = progress.kept
    with tempfile.TemporaryDirectory() if kept is None else nullcontext(kept.path) as folder:
        progress.store = Store(Path(folder) / CELLS)
        asked = HowToRun(
            n_jobs=1,
            device=how.device,
            retry_failed=True,
            progress=how.progress,
            deadline=how.deadline,
            ended=progress.ended,
        )
        with suppress(_EnoughError):
            run(progress.spec, progress.store.folder, asked)
    return progress.comparison()


class _EnoughError(Exception):
    """Time is over and some widths are done: the others are left out."""


def _options(given: Mapping[str, Any] | None, name: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Options for a method, if it takes them."""
    given = {} if given is None else arguments.instance(given, name, Mapping, "a dict of options")
    unknown = [str(key) for key in given if key not in allowed]
    if unknown:
        raise InputError(f"{name} has {unknown[0]!r}, which it does not take; it takes {', '.join(allowed)}.")
    return {key: value for key, value in given.items() if value is not None}


def _settings_of_floors(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a floor, None if not given; folders of comparisons without ``max_dim`` stay what they were."""
    return {name: given.get(name) for name in FLOORS if name != "max_dim" or name in given}


@dataclass
class _Progress:
    """The widths that are done, from cells as they end."""

    settings: dict[str, Any]
    spec: StudySpec
    shift: np.ndarray | None
    kept: Folder | None
    callback: Callable[[WidthResult], None] | None
    deadline: float
    notes: tuple[str, ...]
    store: Store = field(init=False)
    records: dict[tuple[str, int | None], Record] = field(default_factory=dict)
    results: list[WidthResult] = field(default_factory=list)
    dictionaries: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def comparison(self) -> Comparison:
        """What is done so far."""
        return Comparison(tuple(self.results), self.settings, tuple(self.dictionaries), self.notes)

    def ended(self, cell: Cell, record: Record) -> None:
        """Take a cell in; a width is done once its four cells are."""
        if record["status"] == "failed":
            raise _error(record["reason"])
        self.records[cell.method, cell.n_atoms] = record
        for width in self.spec.n_atoms[len(self.results) :]:
            needed = [("wide_limit", None), *((name, width) for name in ("width_floor", "learned", "trained_sae"))]
            if not all(one in self.records for one in needed):
                break
            self._finish(width)
        if self.results and time.perf_counter() > self.deadline:
            raise _EnoughError

    def _finish(self, width: int) -> None:
        result = self._result(width)
        arrays = self.store.arrays(self.records["learned", width]["id"])
        if arrays is None:
            raise InputError("folder was changed while the comparison ran; start it again.")
        dictionary, bias = arrays
        self.dictionaries.append((dictionary, bias if self.shift is None else bias + self.shift))
        is_new = self.kept is None or f"dictionary_{width}" not in self.kept.keys()  # noqa: SIM118
        self.results.append(result)
        if self.kept is not None:
            arrays_kept = dict(zip(("dictionary", "bias"), self.dictionaries[-1], strict=True))
            self.kept.write(f"dictionary_{width}", result.to_dict(), arrays_kept)
            write_atomically(self.kept.path / FILE, json_text(self.comparison().to_dict()), "folder")
        if is_new and self.callback is not None:
            self.callback(result)

    def _result(self, width: int) -> WidthResult:
        """Set the SAE and the dictionary of one width beside each other, above their floor."""
        sae, learned, proved = (self.records[name, width] for name in ("trained_sae", "learned", "width_floor"))
        floor = proved["numbers"]
        sample = _above(LossLedger.from_dict(sae["ledger"]), floor["lower_bound"], floor["theorem"])
        ledger = sample
        if sae["held_out_ledger"]:
            there = LossLedger.from_dict(sae["held_out_ledger"])
            ledger = _above(there, floor["held_out_floor"], floor["held_out_floor_theorem"])
        attained = {"grown": learned["numbers"]["value"], "sae": sample.local}
        if self.results:
            attained["narrower"] = self.results[-1].best
        best_from = min(attained, key=attained.__getitem__)
        return WidthResult(
            ledger=ledger,
            sample=sample,
            best=attained[best_from],
            best_from=best_from,
            grown=attained["grown"],
            best_codes_gap=learned["numbers"]["codes_gap"],
            best_stationarity=learned["numbers"]["stationarity"],
            train_seconds=sae["numbers"]["train_seconds"],
            learn_seconds=learned["seconds"],
            floor_seconds=proved["seconds"],
            seconds=math.fsum(record["seconds"] for record in (sae, learned, proved)),
            held_out=self._on_held_out(width),
        )

    def _on_held_out(self, width: int) -> HeldOutWidth | None:
        """The same on the held-out rows, from what the cells keep of every row."""
        sae, learned = (self.records[name, width] for name in ("trained_sae", "learned"))
        if "held_out" not in learned["numbers"]:
            return None
        exact, grown = (self.store.evaluation(record["id"]) for record in (sae, learned))
        local = self.store.evaluation(sae["id"], LOCAL)
        before = self.spec.n_atoms[len(self.results) - 1] if self.results else None
        narrower = None if before is None else self.store.evaluation(self.records["learned", before]["id"])
        if exact is None or grown is None or local is None or (before is not None and narrower is None):
            raise InputError("folder was changed while the comparison ran; start it again.")
        return HeldOutWidth(
            loss=sae["numbers"]["held_out_loss"],
            exact=exact.mean,
            grown=grown.mean,
            dictionary_gap=exact.minus(local),
            sae_gap=exact.minus(grown),
            fall=None if narrower is None else narrower.minus(grown),
            wide=self.records["wide_limit", None]["numbers"]["held_out_wide"],
        )


def _above(ledger: LossLedger, floor: float, theorem: str) -> LossLedger:
    """The ledger above the floor of its width, where that is higher than the one it has."""
    return ledger if floor <= ledger.floor else replace(ledger, floor=floor, floor_theorem=theorem)


def _error(reason: str) -> Exception:
    """The exception that a failed cell recorded."""
    kind, _, sentence = reason.partition(": ")
    known = {one.__name__: one for one in (InputError, CertificateError)}
    return known[kind](sentence) if kind in known else Error(f"a cell of the comparison failed ({reason}).")
