"""Trained SAEs, the best dictionaries found and the floors under them, side by side over a range of widths (§7)."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsae.data import arguments
from cvxsae.data.activations import Activations
from cvxsae.data.arguments import InputError
from cvxsae.data.files import read_arrays, write_arrays
from cvxsae.data.storage import write_atomically
from cvxsae.parallel.context import Run
from cvxsae.relaxations.convex.wide_limit import WideLimit
from cvxsae.relaxations.floors.floor import Floor
from cvxsae.relaxations.joint.joint import JointProblem
from cvxsae.relaxations.solution import GAP_SLACK, CertificateError, Solution
from cvxsae.sae.audit import AuditOptions, account
from cvxsae.sae.autoencoder import SparseAutoencoder
from cvxsae.sae.ledger import GAPS, LossLedger, stack_ledgers
from cvxsae.sae.train import train_sae
from cvxsae.solvers.convex.solve import solve
from cvxsae.solvers.dictionary.learn import learn_dictionary
from cvxsae.solvers.dictionary.result import DictionaryFit
from cvxsae.solvers.floors.search import WIDE_TOL, width_floor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cvxsae.data.activations import ActivationsLike
    from cvxsae.data.arguments import BiasLike

FILE = "compare.json"


DECIDED = ("X", "lam", "n_atoms", "widths", "bias", "device", "progress")
"""What a comparison passes on itself."""

TRAINING, FLOORS = (
    tuple(name for name in inspect.signature(function).parameters if name not in DECIDED)
    for function in (train_sae, width_floor)
)
"""Options of training and of the floors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WidthResult:
    """One width of a comparison. Values are in units of (P): mean per datapoint.

    Attributes
    ----------
    ledger
        That of the trained SAE.
    best
        Lowest F(D, b) found at this width with exact codes: by growing from narrower widths, from the SAE, or (a
        dictionary may leave atoms unused) at a narrower width.
    best_from
        Which of these: ``"grown"``, ``"sae"`` or ``"narrower"``.
    best_codes_gap, best_stationarity
        Certificates of the grown dictionary: relative duality gap of the mean, and largest residual of T3.
    grown
        What the grown dictionary itself attains.
    train_seconds, learn_seconds, floor_seconds, seconds
        Wall-clock time: training, growing, the floors (of all widths together), all for this width.
    """

    ledger: LossLedger
    best: float
    best_from: str
    grown: float
    best_codes_gap: float
    best_stationarity: float
    train_seconds: float
    learn_seconds: float
    floor_seconds: float
    seconds: float

    def __post_init__(self) -> None:
        if self.best < self.ledger.floor - GAP_SLACK * abs(self.best):
            raise CertificateError(
                f"a dictionary of {self.ledger.n_atoms} atoms attains {self.best!r}, below the floor "
                f"{self.ledger.floor!r} of that width; please report this."
            )

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        names = ("n_atoms", "loss", "exact", "local")
        tail = ("floor", "wide", *GAPS, "floor_theorem", "l0", "exact_l0", "local_l0", "dead", "exact_dead",
                "codes_gap", "local_codes_gap", "stationarity", "bias_residual", "wide_gap")  # fmt: skip
        own = [f.name for f in fields(self) if f.name != "ledger"]
        return {
            **{name: getattr(self.ledger, name) for name in names},
            "best": self.best,
            **{name: getattr(self.ledger, name) for name in tail},
            "best_gap": self.best - self.ledger.floor,
            **{name: getattr(self, name) for name in own if name != "best"},
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ledger"}
        return {"ledger": self.ledger.to_dict(), **own}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> WidthResult:
        """The inverse of :meth:`to_dict`."""
        parts = {f.name: report[f.name] for f in fields(cls)}
        return cls(**{**parts, "ledger": LossLedger.from_dict(report["ledger"])})


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ledgers, best dictionaries and floors by width.

    Attributes
    ----------
    results
        One for each width, in increasing order.
    settings
        What was asked for.
    dictionaries
        The grown dictionary (K, d) and bias (d,) of each width.
    """

    results: tuple[WidthResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    dictionaries: tuple[tuple[np.ndarray, np.ndarray], ...] = field(default=(), repr=False)

    def table(self) -> pd.DataFrame:
        """One row a width."""
        import pandas as pd

        return pd.DataFrame([result.row() for result in self.results])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"settings": self.settings, "results": [result.to_dict() for result in self.results]}

    def figure(self) -> Figure:
        """Left: the ledgers, stacked by width. Right: what is attained and what cannot be, against width."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 4.5), layout="constrained")
        stacked, lines = figure.subplots(1, 2)
        self.draw_ledgers(stacked)
        self.draw_levels(lines)
        return figure

    def draw_ledgers(self, axes: Axes) -> None:
        """The ledgers of the trained SAEs, stacked, one bar a width."""
        stack_ledgers(axes, self.table())
        axes.set_title("Where the loss of a trained SAE goes")

    def draw_levels(self, axes: Axes) -> None:
        """What is attained, and the floors, against width."""
        table = self.table()
        lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("loss", "trained SAE", {"color": "#c0504d", "marker": "o"}),
            ("exact", "its dictionary, exact codes", {"color": "#e8a33d", "marker": "s"}),
            ("best", "best dictionary found", {"color": "#2c7a3f", "marker": "D"}),
            ("floor", "no dictionary of that width is below", {"color": "#4f81bd", "marker": "_"}),
            ("wide", "no dictionary of any width is below", {"color": "#1f4e79", "linestyle": "--"}),
        )
        for column, label, style in lines:
            axes.plot(table["n_atoms"], table[column], label=label, **style)
        axes.fill_between(table["n_atoms"], table["floor"], color="#4f81bd", alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="width K", title="What is attained, and what cannot be")
        axes.legend(frameon=False, fontsize="small")


def compare(
    X: ActivationsLike,
    lam: float,
    widths: Sequence[int],
    *,
    bias: BiasLike = "free",
    seed: int = 0,
    tol: float = 1e-4,
    max_seconds: float | None = None,
    training: Mapping[str, Any] | None = None,
    floors: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    out: str | Path | None = None,
    callback: Callable[[WidthResult], None] | None = None,
) -> Comparison:
    """For each width: a trained SAE and its ledger, the best dictionary found, and the floors under both (§7).

    An SAE is trained (``train_sae``) and audited (:func:`~cvxsae.audit`); independently of it, a dictionary
    is learned at the first width and grown to each of the others (:func:`~cvxsae.learn_dictionary`). The floors hold
    for all of them (:func:`~cvxsae.width_floor`, :class:`~cvxsae.WideLimit`).

    Parameters
    ----------
    X
        Datapoints (N, d): anything :class:`~cvxsae.data.Activations` accepts.
    lam
        Penalty λ > 0, in the units of (P).
    widths
        Numbers of atoms; computed in increasing order.
    bias
        ``"free"``, None (zero) or an array (d,), for SAEs, dictionaries and floors alike.
    seed
        Of training and of the searches.
    tol
        As in :func:`~cvxsae.audit`.
    max_seconds
        Limit, for each width, of the search from the SAE and of the growing (each), and of the search for all floors.
    training, floors
        Further arguments of :func:`~cvxsae.sae.train_sae` (``steps``, ``trainer``, ...) and of
        :func:`~cvxsae.width_floor` (``kernels``, ``max_points``, ...).
    device, progress
        As elsewhere.
    out
        Folder for ``compare.json`` and one ``dictionary_K.npz`` a width, written as they come, each under another name
        first; a comparison that was interrupted goes on where it was.
    callback
        Called with every new :class:`WidthResult`.

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
    """
    data, penalty = Activations(X), arguments.penalty(lam, "lam")
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise InputError(f"widths is {widths!r}; pass a list of numbers of atoms.")
    chosen = sorted({arguments.count(width, "widths") for width in widths})
    if not chosen:
        raise InputError("widths is empty; pass at least one number of atoms.")
    vector = arguments.bias_vector(bias, data.shape[1])
    free = isinstance(vector, str)
    shift = None if free else np.zeros(data.shape[1]) if vector is None else np.asarray(vector)
    search = Search(tol=tol, max_seconds=max_seconds, seed=arguments.count(seed, "seed", least=0), device=device,
                    progress=progress)  # fmt: skip
    asked = _Asked(
        data, penalty, chosen, shift, search, _options(training, "training", TRAINING),
        _options(floors, "floors", FLOORS),
    )  # fmt: skip
    return _run(asked, None if out is None else _Store(Path(out), asked), callback)


def _options(given: Mapping[str, Any] | None, name: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Options for a function, if it takes them."""
    unknown = [str(key) for key in given or {} if key not in allowed]
    if unknown:
        raise InputError(f"{name} has {unknown[0]!r}, which it does not take; it takes {', '.join(allowed)}.")
    return dict(given or {})


def _run(asked: _Asked, store: _Store | None, callback: Callable[[WidthResult], None] | None) -> Comparison:
    """Width by width, from where the store is."""
    results, arrays, found = ([], [], None) if store is None else store.read()
    wide: Solution | None = None
    for width in asked.widths[len(results) :]:
        begun = time.perf_counter()
        sae = asked.train(width)  # first, since it is what can refuse its arguments
        found = found or asked.width_floors()
        wide = wide or asked.wide_limit()
        fit = asked.learn(width, arrays[-1] if arrays else None)
        previous = results[-1].best if results else None
        results.append(_result(asked, sae, fit, found[len(results)], wide, previous, begun))
        arrays.append((np.asarray(fit.dictionary), np.asarray(fit.bias)))
        if store is not None:
            store.write(results, arrays, found)
        if callback is not None:
            callback(results[-1])
    return Comparison(tuple(results), asked.settings(), tuple(arrays))


@dataclass(frozen=True)
class Search:
    """How hard to look for a better dictionary."""

    tol: float = 1e-4
    max_seconds: float | None = None
    seed: int = 0
    device: str | torch.device | None = None
    progress: bool = False

    def run(self) -> Run:
        """Of one audit."""
        asked = {"max_seconds": self.max_seconds, "seed": self.seed, "device": self.device, "progress": self.progress}
        return Run.start(asked, AuditOptions)


@dataclass(frozen=True)
class _Asked:
    """What a comparison is of, checked."""

    data: Activations
    lam: float
    widths: list[int]
    shift: np.ndarray | None
    search: Search
    training: dict[str, Any]
    floors: dict[str, Any]

    @property
    def bias(self) -> Any:
        return "free" if self.shift is None else self.shift

    def settings(self) -> dict[str, Any]:
        """Ready for JSON."""
        n_points, dim = self.data.shape
        bias = "free" if self.shift is None else self.shift.tolist()
        options = {"training": {k: str(v) for k, v in self.training.items()},
                   "floors": {k: str(v) for k, v in self.floors.items()}}  # fmt: skip
        return {"n_points": n_points, "dim": dim, "lam": self.lam, "widths": self.widths, "bias": bias,
                "seed": self.search.seed, "tol": self.search.tol, "max_seconds": self.search.max_seconds,
                **options}  # fmt: skip

    def width_floors(self) -> list[dict[str, Any]]:
        """Value, theorem and seconds for every width."""
        begun = time.perf_counter()
        options = {"seed": self.search.seed, "max_seconds": self.search.max_seconds, **self.floors}
        found = width_floor(
            self.data, self.widths, self.lam, bias=self.bias, device=self.search.device,
            progress=self.search.progress, **options,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        return [{"value": floor.value, "theorem": floor.theorem, "seconds": seconds} for floor in found]

    def wide_limit(self) -> Solution:
        return solve(
            WideLimit(self.data, self.lam, bias=self.bias),
            tol=WIDE_TOL,
            raise_on_failure=False,
            device=self.search.device,
        )

    def train(self, n_atoms: int) -> SparseAutoencoder:
        s = self.search
        options = {"seed": s.seed, "device": s.device, "progress": s.progress, **self.training}
        return train_sae(self.data, n_atoms, self.lam, bias=self.bias, **options)

    def learn(self, n_atoms: int, narrower: tuple[np.ndarray, np.ndarray] | None) -> DictionaryFit:
        """From scratch, or grown from a narrower dictionary and its bias."""
        s = self.search
        return learn_dictionary(
            self.data, n_atoms, self.lam, bias=self.bias, seed=s.seed, stationarity=s.tol, max_seconds=s.max_seconds,
            device=s.device, progress=s.progress, init=narrower,
        )  # fmt: skip


def _result(
    asked: _Asked, sae: SparseAutoencoder, fit: DictionaryFit, floor: Mapping[str, Any], wide: Solution,
    previous: float | None, begun: float,
) -> WidthResult:  # fmt: skip
    """Audit the SAE and set it beside the dictionary."""
    joint = JointProblem(asked.data, fit.n_atoms, asked.lam, bias=asked.bias)
    found = account(sae, Floor(joint, floor["value"], floor["theorem"]), wide, asked.search.tol, asked.search.run())
    attained = {"grown": fit.value, "sae": found.local}
    if previous is not None:
        attained["narrower"] = previous
    best_from = min(attained, key=attained.__getitem__)
    return WidthResult(
        ledger=found, best=attained[best_from], best_from=best_from, grown=fit.value, best_codes_gap=fit.encoding.gap,
        best_stationarity=fit.worst_stationarity, train_seconds=sae.seconds, learn_seconds=fit.seconds,
        floor_seconds=float(floor["seconds"]), seconds=time.perf_counter() - begun,
    )  # fmt: skip


class _Store:
    """The folder of a comparison: what was asked, the floors, the widths so far; nothing is left half written."""

    def __init__(self, folder: Path, asked: _Asked) -> None:
        self.folder, self.file, self.widths = folder, folder / FILE, asked.widths
        digest = hashlib.sha256()
        for batch in asked.data.batches():
            digest.update(batch.cpu().contiguous().numpy().tobytes())
        # All must be the same, widths too: the floors of all widths are computed at once.
        self.asked = {**asked.settings(), "data": digest.hexdigest()}
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise InputError(f"out {str(folder)!r} cannot be made, as {str(nearest)!r} is a file; pass a folder.")

    def read(self) -> tuple[list[WidthResult], list[tuple[np.ndarray, np.ndarray]], list[dict[str, Any]] | None]:
        """The widths and floors that are there already."""
        if not self.file.exists():
            return [], [], None
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            results = [WidthResult.from_dict(entry) for entry in known["results"]]
            asked, floors = known["settings"], known["floors"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{str(self.file)!r} is not a comparison's file; pass another folder.") from None
        if asked != json.loads(json.dumps(self.asked)):
            raise InputError(f"{str(self.folder)!r} holds another comparison (data or settings); pass another folder.")
        return results, [self._arrays(width) for width in self.widths[: len(results)]], floors

    def _path(self, width: int) -> Path:
        return self.folder / f"dictionary_{width}.npz"

    def _arrays(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        arrays: dict[str, Any] = dict(read_arrays(self._path(width), "out"))
        return arrays["dictionary"], arrays["bias"]

    def write(
        self, results: list[WidthResult], arrays: list[tuple[np.ndarray, np.ndarray]], floors: list[dict[str, Any]]
    ) -> None:
        """The newest width's arrays, then the list that names it."""
        dictionary, bias = arrays[-1]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path(self.widths[len(results) - 1]), {"dictionary": dictionary, "bias": bias}, "out")
        report = {"settings": self.asked, "floors": floors, "results": [result.to_dict() for result in results]}
        write_atomically(self.file, json.dumps(report, indent=1))
