"""One line on stderr for each stage of a long verb, where a progress bar would not be seen."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cvxsae.cli.options import wants_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGES = "cvxsae.sae.audits.stages"
"""The logger that hears of every stage that begins."""


@contextmanager
def stage_lines(progress: bool | None) -> Iterator[None]:
    """Print stages as they begin, unless there is a progress bar or ``--no-progress`` was passed."""
    if progress is not None or wants_progress(progress):
        yield
        return
    logger, handler = logging.getLogger(STAGES), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
