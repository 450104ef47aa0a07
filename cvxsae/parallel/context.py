"""How a call runs: one frozen :class:`Run`, which a public function makes and passes to all inner functions.

Verbs take its options as flat keywords, declared once in the typed dictionaries below (PEP 692)::

    class EncodeOptions(Compute, Kept, total=False):
        pass

    @keywords(EncodeOptions)
    def encode(X, dictionary, lam, *, bias=None, tol=1e-4, **options: Unpack[EncodeOptions]) -> Codes:
        run = Run.start(options, EncodeOptions)

An option that a verb does not declare is refused, so none is ever ignored.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import torch

from cvxsae.data import arguments
from cvxsae.data.arithmetic import own_arithmetic
from cvxsae.data.signature import show_flat
from cvxsae.errors import InputError
from cvxsae.parallel.group import ALONE, ProcessGroup, chosen_device

F = TypeVar("F", bound=Callable[..., Any])

SHORTEST = 1e-3
"""Seconds that a part of a call gets at the least: enough for a first evaluation, so that something can be returned."""

GRACE = 0.5
"""Seconds past its deadline in which what was begun may still end; what was there before is the answer otherwise."""


class Compute(TypedDict, total=False):
    """Options of every verb that computes."""

    device: str | torch.device | None
    """Where to compute: ``"cpu"`` (default) or ``"cuda"``."""
    max_seconds: float | None
    """Wall-clock limit of the whole call; None for none."""
    progress: bool
    """Whether to show a progress bar on stderr."""


class Steps(Compute, total=False):
    """Options of every verb that runs one loop."""

    max_steps: int | None
    """Most iterations; None for the algorithm's own limit."""
    callback: Any
    """Called with a :class:`~cvxsae.relaxations.solution.Record` at every evaluation of value and bound."""


class Seeded(TypedDict, total=False):
    """Options of every verb that draws random numbers."""

    seed: int
    """Of every random choice."""


class Kept(TypedDict, total=False):
    """Options of every verb that keeps its work."""

    folder: str | Path | None
    """Where finished work is kept; a later call with the same arguments resumes from there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a call runs. Values are checked by :meth:`start`.

    Attributes
    ----------
    device
        Where torch computes.
    deadline
        When the whole call must end, on the clock of ``time.perf_counter``; infinite for no limit.
    max_steps
        Most iterations of the loop, or None for the algorithm's own limit.
    progress
        Whether to show a progress bar on stderr.
    callback
        Called with a :class:`~cvxsae.relaxations.solution.Record` at every evaluation of value and bound, or None.
    seed
        Of every random choice.
    folder
        Where finished work is kept, or None.
    is_outermost
        Whether this is the call the user made. Only that one turns Ctrl-C into a status; inner ones let it pass.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    deadline: float = math.inf
    max_steps: int | None = None
    progress: bool = False
    callback: Callable[[Any], None] | None = None
    seed: int = 0
    folder: Path | None = None
    is_outermost: bool = True

    @classmethod
    def start(cls, options: Mapping[str, Any], kind: type, *, group: ProcessGroup = ALONE) -> Run:
        """Check the keyword options of a verb that declares them in ``kind``.

        Raises
        ------
        InputError
            For an option the verb does not have, and for values that cannot be used.
        """
        known = kind.__annotations__
        for name in options:
            if name not in known:
                raise InputError(f"{name!r} is not an option here; the options are {', '.join(sorted(known))}.")
        seconds, steps = options.get("max_seconds"), options.get("max_steps")
        folder, callback = options.get("folder"), options.get("callback")
        limit = math.inf if seconds is None else arguments.positive(seconds, "max_seconds")
        if limit > threading.TIMEOUT_MAX:  # three centuries, and more than can be waited for
            limit = math.inf
        return cls(
            device=chosen_device(options.get("device"), group),
            deadline=time.perf_counter() + limit,
            max_steps=None if steps is None else arguments.count(steps, "max_steps", least=0),
            progress=bool(options.get("progress", False)),
            callback=arguments.function_or_none(callback, "callback"),
            seed=arguments.seed(options.get("seed", 0)),
            folder=None if folder is None else arguments.path(folder, "folder"),
        )

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline - time.perf_counter()

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.left <= 0

    @property
    def last_moment(self) -> float:
        """Until when work that begins now is worth waiting for: the deadline, or now if it has passed, and grace."""
        return max(self.deadline, time.perf_counter()) + GRACE

    def inner(self, *, share: float = 1.0) -> Run:
        """For a call inside this one: same device, seed and deadline, silent, and interrupts pass through it.

        Parameters
        ----------
        share
            The part of the time left that the inner call may take, above 0 and at most 1.
        """
        deadline = self.deadline
        if share < 1 and math.isfinite(deadline):
            deadline = time.perf_counter() + max(self.left * share, SHORTEST)
        return Run(device=self.device, deadline=deadline, seed=self.seed, is_outermost=False)

    def without_limit(self) -> Run:
        """The same with no deadline, for what has to be finished whatever the time."""
        return replace(self, deadline=math.inf)


def keywords(kind: type, **defaults: Any) -> Callable[[F], F]:
    """Make a verb: its ``**options`` are flat in ``help()`` and tab completion, its arithmetic is its own.

    ``defaults`` are those of options that only this verb has. The caller's autocast, inference mode and default device
    do not reach what the verb computes.
    """
    known = {**_DEFAULTS, **defaults}

    def decorate(function: F) -> F:
        hints = {**function.__annotations__, **kind.__annotations__}
        flags = {name for name, hint in hints.items() if getattr(hint, "__forward_arg__", hint) == "bool"}

        @functools.wraps(function)
        def verb(*given: Any, **options: Any) -> Any:
            options |= {name: arguments.flag(options[name], name) for name in flags & options.keys()}
            with own_arithmetic():
                return function(*given, **options)

        show_flat(verb, kind, known)
        return cast("F", verb)

    return decorate


_DEFAULTS: dict[str, Any] = {"progress": False, "seed": 0}
