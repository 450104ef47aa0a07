"""The parts of a long call by name: which one is at work, and how much of the time left it may take."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvxsae.parallel.context import Run

_LOG = logging.getLogger(__name__)


class Stages:
    """A progress bar of stages, above the bars of what works in them; a context manager.

    Parameters
    ----------
    run
        The call that the stages are of.
    name
        What stands before the name of every stage.
    count
        How many there will be.

    Attributes
    ----------
    seconds
        Wall-clock time of every stage that has ended, by name.
    where
        What is added to the name of every stage that begins.
    """

    def __init__(self, run: Run, name: str, count: int) -> None:
        self.run, self.name, self.seconds, self.where = run, name, dict[str, float](), ""
        self._bar = tqdm(total=count, disable=not run.progress, desc=name, unit="stage")
        self._now, self._since = "", time.perf_counter()

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: Any) -> None:
        self._end()
        self._bar.set_description(self.name)
        self._bar.close()

    def say(self, sentences: Iterable[str]) -> None:
        """Print sentences above the bar, if there is one."""
        for sentence in sentences if self.run.progress else ():
            tqdm.write(f"{self.name}: {sentence}", file=sys.stderr)

    def begin(self, stage: str, *, share: float = 1.0) -> Run:
        """Begin a stage, which may take this share of the time left; interrupts pass through what is run so."""
        self._end()
        stage += self.where
        self._now, self._since = stage, time.perf_counter()
        _LOG.info("%s: %s", self.name, stage)
        self._bar.set_description(f"{self.name}: {stage}")
        return replace(self.run.inner(share=share), progress=self.run.progress)

    def _end(self) -> None:
        if self._now:
            self.seconds[self._now] = time.perf_counter() - self._since
            self._bar.update()
        self._now = ""
