"""Scale studies: a grid of certified cells, their results, and the folder that keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cvxsae.data import arguments
from cvxsae.study.plan import Cell, plan
from cvxsae.study.run import HowToRun, run
from cvxsae.study.spec import StudySpec, read_toml
from cvxsae.study.status import StudyStatus, status_of
from cvxsae.study.store import Store
from cvxsae.study.summary import summary
from cvxsae.study.table import table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ScaleStudy(StudySpec):
    """A study of how the nonconvex optimum, its floors, L0 and the phenomena change with width, data, λ and τ.

    Every combination of the axes that a method depends on is one *cell*: computed once, written when it ends, certified
    like every answer here. All values are in units of (P): mean per datapoint, with the ½. ``F*_K`` is not convex: what
    ``learned`` and ``trained_sae`` attain are upper bounds of it, the floors (T9, T10, T14, T15) lower ones.

    The same keys make a TOML file (:meth:`from_toml`): the axes under ``[grid]``, data sets under ``[data.NAME]``,
    options of a method under its name; there a single value may stand for a list of one.

    Parameters
    ----------
    folder
        Where cells and tables are kept; a run resumes where the last one ended and reuses
        every cell that still applies.
    methods
        Of ``wide_limit`` (T9), ``spectral_floor`` (T10), ``width_floor`` (T10, T14, T15), ``large_dictionary`` (7),
        ``learned`` (:func:`~cvxsae.learn_dictionary`, grown along the widths), ``trained_sae``
        (:func:`~cvxsae.sae.train_sae` and its ledger), ``check`` (:func:`~cvxsae.check_optimality` of what was
        learned).
    data
        Names: ``wordllama``, ``digits``, a generator of :mod:`cvxsae.data`, a file, or a key of ``sources``; or arrays
        by name, ``{"tokens": X}``; or one array, then called ``X``.
    held_out
        A share of the rows (0.25) that nothing is learned from: ``learned``, ``trained_sae``, their floors and
        ``check`` are of the others, and what their dictionaries cost on these, with intervals for the distribution
        (T17 b), stands in columns of its own. A data set may have rows of its own for that instead.
    sources
        Data sets by name: an array, or a table of ``source`` (a name, a file or an array), ``center`` (false),
        ``scale`` (``none``, ``mean_norm``: mean norm 1, ``mean_square``), ``seed`` (0) of the draw of rows,
        ``held_out`` (a file or array of rows that nothing is learned from), and the numbers of a generator.
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
        ``none`` (zero), ``free`` (optimized) or ``mean`` (fixed at the mean of the data).
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

    def __post_init__(self) -> None:
        folder = arguments.path(self.folder, "folder")
        super().__post_init__()
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "name", self.name or folder.name)

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
        file = arguments.path(path, "path")
        return cls(folder=file.stem if folder is None else folder, **read_toml(file))

    def plan(self) -> tuple[Cell, ...]:
        """The cells, in an order in which each comes after those it starts from; the data are read for their hashes."""
        return plan(self)

    def run(
        self,
        *,
        n_jobs: int | None = None,
        threads: int | None = None,
        device: str | torch.device | None = None,
        retry_failed: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Compute the cells that are missing, write the table, and return it.

        A cell computed earlier counts as there if its record is whole and of this very cell (data, method, options,
        seed) and, where a method keeps its dictionary (``learned``, ``trained_sae``), if that attains what the record
        says, on held-out rows too: data are coded anew. What else a record says is trusted
        (:func:`cvxsae.study.proof.proven`).

        Parameters
        ----------
        n_jobs
            Cells at a time, as in :class:`joblib.Parallel` (-1: one per core; None: one, or what
            :func:`joblib.parallel_config` says: under ``parallel_config("dask")`` cells run on the cluster).
        threads
            Threads of each cell; by default the cores shared out over the cells that run at a time.
        device
            Where cells compute: ``"cpu"`` (default) or ``"cuda"``.
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
        how = HowToRun(n_jobs=n_jobs, threads=threads, device=device, retry_failed=retry_failed, progress=progress)
        return run(self, self.folder, how)

    def table(self) -> pd.DataFrame:
        """One row per cell that has ended, floors joined on; ``docs/studies.md`` says what the columns mean."""
        return table(self.plan(), Store(self.folder))

    def status(self) -> StudyStatus:
        """What is done, failed and missing, why, and about how long the rest takes."""
        return status_of(self.name, self.plan(), Store(self.folder))

    def summary(self) -> str:
        """Summarize the findings in a few sentences."""
        return summary(self.name, self.table(), n_planned=len(self.plan()))

    def figures(self) -> dict[str, Figure]:
        """Return the figures that the finished cells allow, by name."""
        from cvxsae.study.figures import figures  # matplotlib, only where something is drawn

        return figures(self.table(), self.name)
