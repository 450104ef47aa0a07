"""A scale study: what is asked, declared once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvxsae.data import EMBEDDED_NAMES
from cvxsae.data.arguments import InputError
from cvxsae.errors import reason
from cvxsae.study import keys

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cvxsae.study.plan import Cell
    from cvxsae.study.status import StudyStatus

_TABLES = ("name", "grid", "data", *keys.OPTIONS)


@dataclass(frozen=True, kw_only=True)
class ScaleStudy:
    """How the nonconvex optimum, its floors, L0 and the phenomena change with width, data, λ and τ.

    Every combination of the axes that a method depends on is one *cell*: computed once, written when it ends, certified
    like every answer here. All values are in units of (P): mean per datapoint, with the ½. ``F*_K`` is not convex: what
    ``learned`` and ``trained_sae`` attain are upper bounds of it, the floors (T9, T10, T14, T15) lower ones.

    The same keys make a TOML file (:meth:`from_toml`): the axes under ``[grid]``, data sets under ``[data.NAME]``,
    options of a method under its name; there a single value may stand for a list of one.

    Parameters
    ----------
    folder
        Where cells and tables are kept; a run goes on where the last one ended, cells that still apply are used again.
    methods
        Of ``wide_limit`` (T9), ``spectral_floor`` (T10), ``width_floor`` (T10, T14, T15), ``large_dictionary`` (7),
        ``learned`` (:func:`~cvxsae.learn_dictionary`, grown along the widths), ``trained_sae``
        (``train_sae`` and its ledger), ``check`` (:func:`~cvxsae.check_optimality` of what was learned).
    data
        Names: ``wordllama``, ``digits``, a generator of :mod:`cvxsae.data`, a file, or a key of ``sources``.
    sources
        Data sets by name: ``source``, ``center`` (false), ``scale`` (``none``, ``mean_norm``: mean norm 1,
        ``mean_square``), ``seed`` (0) of the draw of rows, and the numbers of a generator.
    n_points
        Numbers of datapoints N: the first N rows of one random order, so that smaller sets are parts of larger ones.
        Empty: all of them.
    n_atoms
        Widths K.
    lam, target_l0
        Penalties λ, or numbers of active atoms: then λ is calibrated, once for each data set and bias, until the
        dictionary learned at one width has that many.
    atom_cost
        Surcharges τ of the large dictionary.
    bias
        ``none`` (zero), ``free`` (optimised) or ``mean`` (fixed at the mean of the data).
    seeds
        Of searches and training.
    options
        By method; see ``docs/studies.md``.
    name
        What figures and summaries call it.

    Raises
    ------
    InputError
        One sentence that names the key, what was found and what is allowed.
    """

    folder: str | Path
    methods: Sequence[str]
    data: Sequence[str]
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_points: Sequence[int] = ()
    n_atoms: Sequence[int] = ()
    lam: Sequence[float] = ()
    target_l0: Sequence[float] = ()
    atom_cost: Sequence[float] = ()
    bias: Sequence[str] = ("free",)
    seeds: Sequence[int] = (0,)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = ""
    _beside: Path = field(default=Path(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for axis, key in keys.GRID.items():
            given = getattr(self, axis)
            if isinstance(given, list | tuple) and not given and axis not in ("methods", "data", "bias", "seeds"):
                value: tuple[Any, ...] = ()
            else:
                value = key.read(given, f"[grid] {axis}")
            object.__setattr__(self, axis, tuple(sorted(value)) if axis in ("n_points", "n_atoms") else value)
        object.__setattr__(self, "folder", Path(self.folder))
        keys.known("options", self.options, keys.OPTIONS)
        widths = tuple(self.n_atoms)
        read = {method: keys.options(method, self.options.get(method, {}), widths) for method in keys.OPTIONS}
        object.__setattr__(self, "options", read)
        object.__setattr__(self, "sources", self._sources())
        object.__setattr__(self, "name", str(self.name) or Path(self.folder).name)
        self._check_axes()

    def _sources(self) -> dict[str, dict[str, Any]]:
        """Every data set of the grid, as a table; a bare name is a source without keys."""
        given = {name: keys.data_source(name, table, self._beside) for name, table in self.sources.items()}
        bare = (*EMBEDDED_NAMES, *keys.GENERATORS)
        for name in self.data:
            if name in bare and name not in given:
                given[name] = keys.data_source(name, {}, self._beside)
            elif name not in given:
                if "." not in name:
                    keys.refuse("[grid] data", name, f"{keys.TEXTS.allowed}{keys.nearest(name, [*given, *bare])}")
                file = keys.data_file(name, self._beside, "[grid] data")
                given[name] = keys.data_source(name, {"source": file}, self._beside)
        return {name: given[name] for name in self.data}

    def _check_axes(self) -> None:
        """What one key alone cannot say: axes that belong together, and methods that need an axis."""
        if bool(self.lam) == bool(self.target_l0):
            found = "both" if self.lam else "neither"
            raise InputError(
                f"[grid] has {found} of lam and target_l0; give exactly one of the two, as a list of numbers."
            )
        widths = tuple(self.n_atoms)
        by_width = [method for method in self.methods if method in keys.WITH_WIDTH]
        for axis, users, who in (
            ("n_atoms", by_width, keys.WITH_WIDTH),
            ("atom_cost", [m for m in self.methods if m == "large_dictionary"], ("large_dictionary",)),
        ):
            if users and not getattr(self, axis):
                raise InputError(f"[grid] lacks {axis}, which the method {users[0]} needs; give a list of numbers.")
            if getattr(self, axis) and not users and not (axis == "n_atoms" and self.target_l0):
                raise InputError(
                    f"[grid] has {axis} but none of its methods depends on it; drop it or add one of {', '.join(who)}."
                )
        if "check" in self.methods and "learned" not in self.methods:
            raise InputError("[grid] methods has 'check', which checks what is learned; add 'learned'.")
        learned = self.options["learned"].get("n_atoms", widths)
        stray = [width for width in self.options["check"].get("n_atoms", ()) if width not in learned]
        if stray and "check" in self.methods:
            keys.refuse(
                "[check] n_atoms", stray[0], f"among the widths that are learned, {', '.join(map(str, learned))}"
            )
        if "spectral_floor" in self.methods and "free" in self.bias:
            raise InputError(
                "[grid] methods has 'spectral_floor', which holds at one bias, but [grid] bias has 'free'; "
                "take 'width_floor', which then holds for every bias, or a bias of none or mean."
            )
        if self.target_l0 and not (self.n_atoms or "n_atoms" in self.options["calibrate"]):
            raise InputError("[grid] has target_l0 but no width to calibrate λ at; give [calibrate] n_atoms.")
        for name, source in self.sources.items():
            if source["source"] in keys.GENERATORS and not self.n_points:
                raise InputError(f"[grid] lacks n_points, which the generator of data {name!r} needs; give a list.")

    @classmethod
    def from_toml(cls, path: str | Path, *, folder: str | Path | None = None) -> ScaleStudy:
        """Read a study from a TOML file.

        Parameters
        ----------
        path
            The file; data files in it are found relative to it.
        folder
            Where results go; by default a folder in the current directory named as the file.

        Raises
        ------
        InputError
            One sentence that names the key, what was found and what is allowed.
        """
        path = Path(path)
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"STUDY {str(path)!r} cannot be read ({error.strerror}); pass a TOML file.") from None
        except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested without end
            raise InputError(f"STUDY {str(path)!r} is not TOML ({reason(error)}); correct it.") from None
        for table in given:
            if table not in _TABLES:
                close = keys.nearest(table, _TABLES)
                raise InputError(
                    f"STUDY {str(path)!r} has the unknown table [{table}]{close}; its tables are "
                    f"{', '.join(f'[{one}]' for one in _TABLES[1:])}."
                )
        if "grid" not in given:
            raise InputError(
                f"STUDY {str(path)!r} lacks the table [grid]; its keys are {', '.join(sorted(keys.GRID))}."
            )
        grid = dict(keys.known("grid", given["grid"], keys.GRID))
        for axis in ("methods", "data"):
            if axis not in grid:
                raise InputError(f"[grid] lacks {axis}; it must be {keys.GRID[axis].allowed}.")
        for axis, value in grid.items():  # an empty list in a file is a slip, not a default
            grid[axis] = keys.GRID[axis].read(value, f"[grid] {axis}")
        sources = given.get("data", {})
        for name, source in keys.table_of_tables("data", sources):
            keys.data_source(name, source, path.parent)
        widths = tuple(grid.get("n_atoms", ()))
        for table, value in given.items():
            if table in keys.OPTIONS:
                keys.options(table, value, widths)
        name = keys.TEXT.read(given["name"], "name") if "name" in given else path.stem
        return cls(
            **grid, folder=Path(path.stem) if folder is None else folder, name=name, sources=sources,
            options={table: value for table, value in given.items() if table in keys.OPTIONS}, _beside=path.parent,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: axes, data sets and options, without the folder."""
        axes = {axis: list(getattr(self, axis)) for axis in keys.GRID}
        return {"name": self.name, "grid": axes, "data": dict(self.sources), "options": dict(self.options)}

    def plan(self) -> tuple[Cell, ...]:
        """The cells, in an order in which each comes after those it starts from; the data are read for their hashes."""
        from cvxsae.study.plan import plan

        return plan(self)

    def run(
        self, *, n_jobs: int | None = None, threads: int | None = None, retry_failed: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:  # fmt: skip
        """Compute the cells that are missing, write the table, and return it.

        Parameters
        ----------
        n_jobs
            Cells at a time, as in :class:`joblib.Parallel` (-1: one a core; None: one, or what
            :func:`joblib.parallel_config` says: under ``parallel_config("dask")`` cells run on the cluster).
        threads
            Threads of each cell; by default the cores shared out over the cells that run at a time.
        retry_failed
            Compute cells that failed again.
        progress
            Show progress over all cells, with an estimate of what is left.

        Returns
        -------
        pandas.DataFrame
            :meth:`table`; also written to ``table.parquet`` and ``table.csv``.

        Raises
        ------
        InputError
            If another process works on the folder, it holds something else, or the data do not fit the grid.
        """
        from cvxsae.study.run import run

        return run(self, n_jobs=n_jobs, threads=threads, retry_failed=retry_failed, progress=progress)

    def table(self) -> pd.DataFrame:
        """One row a cell that has ended, floors joined on; ``docs/studies.md`` says what the columns mean."""
        from cvxsae.study.store import Store
        from cvxsae.study.table import table

        return table(self.plan(), Store(self.folder))

    def status(self) -> StudyStatus:
        """What is done, failed and missing, why, and about how long the rest takes."""
        from cvxsae.study.status import status_of
        from cvxsae.study.store import Store

        return status_of(self.name, self.plan(), Store(self.folder))

    def summary(self) -> str:
        """What was found, in a few sentences."""
        from cvxsae.study.summary import summary

        return summary(self.name, self.table(), n_planned=len(self.plan()))

    def figures(self) -> dict[str, Figure]:
        """The figures whose data exist, by name."""
        from cvxsae.study.figures import figures

        return figures(self.table(), self.name)
