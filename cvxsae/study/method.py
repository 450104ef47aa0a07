"""The definition of a study method: a function of one cell, the axes it depends on, its options, columns and floor.

Each file in ``methods/`` defines one, ``METHOD``; :mod:`cvxsae.study.registry` lists them. A new method is one new file
and one new line there.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_type_hints

import numpy as np
import torch

from cvxsae.data.activations import Activations
from cvxsae.parallel.context import Run
from cvxsae.relaxations.candidate import Candidate
from cvxsae.relaxations.problem import Problem
from cvxsae.solvers.codes.evaluation import CONFIDENCE
from cvxsae.study.keys import COUNTS, Key

Start = tuple[np.ndarray, np.ndarray]
"""Dictionary and bias to start from."""

Columns = Mapping[str, tuple[str, str]]
"""Type and meaning of columns of the table, by name."""


@dataclass(frozen=True)
class CellInput:
    """All that a method is given.

    Attributes
    ----------
    method
        Its name.
    X
        The datapoints, (N, d).
    held_out
        Datapoints that nothing is learned from, (M, d), or None.
    groups, held_out_groups
        Which document each datapoint of either is of, integers from 0; None if rows are independent.
    confidence
        Of intervals for the distribution.
    n_seen
        How many datapoints of ``held_out`` are known to be equal to some of ``X``.
    lam
        λ; NaN for the calibration of λ.
    bias
        ``"none"``, ``"free"`` or ``"mean"``.
    options
        Of the method.
    n_atoms, atom_cost, target_l0
        K, τ, and the number of active atoms to calibrate for, where the method depends on them.
    start
        Dictionary and bias to start from, or to check.
    run
        Seed, device and the time left: of an inner call, so that an interrupt passes through.
    """

    method: str
    X: Activations
    lam: float
    bias: str
    options: Mapping[str, Any] = field(default_factory=dict)
    n_atoms: int | None = None
    atom_cost: float | None = None
    target_l0: float | None = None
    start: Start | None = None
    held_out: Activations | None = None
    groups: np.ndarray | None = None
    held_out_groups: np.ndarray | None = None
    confidence: float = CONFIDENCE
    n_seen: int = 0
    run: Run = field(default_factory=lambda: Run(is_outermost=False))

    @property
    def bias_value(self) -> Any:
        """None (zero), ``"free"`` or the mean of the data, as every verb takes it."""
        if self.bias == "mean":
            return mean_of(self.X).numpy()
        return None if self.bias == "none" else self.bias

    @property
    def width(self) -> int:
        """K, of a method that depends on it."""
        assert self.n_atoms is not None
        return self.n_atoms

    def within(self, seconds: float | None) -> Run:
        """The run with a method's own limit from now on, if that is the shorter one."""
        own = math.inf if seconds is None else time.perf_counter() + seconds
        return replace(self.run, deadline=min(own, self.run.deadline))


@dataclass(frozen=True)
class Outcome:
    """What a cell found.

    Attributes
    ----------
    numbers
        Columns of the table.
    objections
        What the referee says is wrong with it, a sentence each.
    arrays
        Dictionary and bias, for cells that start from them.
    ledger, held_out_ledger
        Those of a trained SAE on the rows learned from and on the held-out rows, at their wide limits' floors.
    """

    numbers: dict[str, Any]
    objections: tuple[str, ...] = ()
    arrays: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] | None = None
    held_out_ledger: dict[str, Any] | None = None


@dataclass(frozen=True)
class Bound:
    """A certified lower bound: of F at widths up to ``n_atoms``, or of any width (None)."""

    value: float
    theorem: str
    n_atoms: int | None

    def holds_for(self, n_atoms: int | None) -> bool:
        """A bound for K atoms holds for fewer."""
        return self.n_atoms is None or (n_atoms is not None and n_atoms <= self.n_atoms)


@dataclass(frozen=True)
class Method:
    """One method of a study.

    Attributes
    ----------
    name
        In ``[grid] methods``, and of the table of its options.
    compute
        What it does: a function of a :class:`CellInput` and keyword options, each annotated with the
        :class:`~cvxsae.study.keys.Key` it is checked by (``tol: Annotated[float, POSITIVE] = 1e-4``). An option whose
        default is None may be left out.
    axes
        Of ``n_atoms``, ``seed`` and ``atom_cost``, those it depends on (on data, λ and bias every method does).
    columns
        The columns of the table that only this method fills.
    floor_for
        From its numbers and K, the bound it proves for other rows; None for a method that proves none.
    attains
        Its numbers that are upper bounds of F*_K.
    attained
        Which of these the dictionary and bias that it keeps attain with exact codes; None if it keeps none.
    needs
        The method whose dictionary, of the same cell, this one cannot do without.
    planned
        Options that decide what a cell starts from, with their defaults; the function does not see them.
    evaluates
        Whether its dictionary is evaluated on held-out rows, where there are any.
    runs_beside
        Whether it waits for the level on which the dictionary of its width is learned: a chain of widths runs one
        after another, so that is when other cores are free.
    """

    name: str
    compute: Callable[..., Outcome]
    axes: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    floor_for: Callable[[Mapping[str, Any], int | None], Bound | None] | None = None
    attains: tuple[str, ...] = ()
    attained: str | None = None
    needs: str | None = None
    planned: Mapping[str, tuple[Key, Any]] = field(default_factory=dict)
    evaluates: bool = False
    runs_beside: bool = False

    @cached_property
    def options(self) -> dict[str, Key]:
        """The keys of its table; ``n_atoms`` among them picks widths of the grid."""
        own = {name: hint.__metadata__[0] for name, hint in self._hints().items()}
        widths = {"n_atoms": COUNTS} if "n_atoms" in self.axes else {}
        return {**widths, **own, **{name: key for name, (key, _) in self.planned.items()}}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Values of the options that have one."""
        parameters = inspect.signature(self.compute).parameters
        own = {name: parameters[name].default for name in self._hints() if parameters[name].default is not None}
        return {**own, **{name: value for name, (_, value) in self.planned.items()}}

    def _hints(self) -> dict[str, Any]:
        hints = get_type_hints(self.compute, include_extras=True)
        named = inspect.signature(self.compute).parameters.items()
        return {name: hints[name] for name, one in named if one.kind is inspect.Parameter.KEYWORD_ONLY}

    def run(self, cell: CellInput) -> Outcome:
        """Compute a cell with its options."""
        return self.compute(cell, **{name: cell.options[name] for name in self._hints() if name in cell.options})


def mean_of(X: Activations) -> torch.Tensor:
    """The mean of the datapoints, (d,)."""
    return torch.stack([batch.sum(dim=0) for batch in X.batches()]).sum(dim=0) / len(X)


def unexplained(squares: float, X: Activations) -> float | None:
    """The share of the variance about the mean that squared residuals are: None if there is no variance."""
    mean = mean_of(X)
    spread = sum(float((batch - mean).square().sum()) for batch in X.batches())
    return squares / spread if spread > 0 else None


def fvu(problem: Problem, candidate: Candidate, X: Activations) -> float | None:
    """Fraction of the variance that a candidate leaves unexplained."""
    return unexplained(sum(float(block.square().sum()) for _, block in problem.residual_batches(candidate)), X)


def l0(candidate: Candidate) -> float:
    """Active atoms per datapoint."""
    codes: Any = candidate.codes
    return float((codes > 0).sum() / codes.shape[0])


CODES_TOL = 1e-6
"""Largest relative duality gap of the codes of a certified dictionary."""


def inexact(gap: float, tol: float) -> tuple[str, ...]:
    """The objection to codes that are not exact to a tolerance, if they are not."""
    return () if gap <= tol else (f"The codes are exact to {gap:.1e} only, not to {tol:.0e}.",)
