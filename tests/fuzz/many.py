"""Calls by the thousand, in a worker that is ended when one of them hangs."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

LIMIT = 10.0
"""Seconds of one call."""

FIRST = 300.0
"""Seconds of what comes before a worker's first call: imports, compilation, the valid calls."""

MOST_LOST = 10
"""Workers that may hang or die before it is not worth starting another."""

GOOD = ("refused", "right", "accepted")
"""How a call may end: with one sentence, with the answer of the plain call, with some answer to something unusual."""


def work(pipe: Connection, calls: int, seed: int, of_command: bool, prepared: bool) -> None:
    """Make calls and say before and after each what it is and how it ended."""
    import hypothesis
    from hypothesis import strategies as st

    from tests.fuzz.attempts import draw, judge, prepare
    from tests.fuzz.calls import folder
    from tests.fuzz.command import draw_command, judge_command, place, prepare_command

    os.chdir(folder())  # whatever is written to relative paths goes there
    if of_command:
        place()
    if prepared:
        prepare_command() if of_command else prepare()
    drawn: Callable[..., Any] = draw_command if of_command else draw
    judged: Callable[..., Any] = judge_command if of_command else judge

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=calls,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def attempt_one(data: st.DataObject) -> None:
        attempt = drawn(lambda options: data.draw(st.sampled_from(options)))
        pipe.send(("begun", str(attempt)))
        verdict = judged(attempt)
        pipe.send((verdict.outcome, verdict.detail))

    pipe.send(("ready", ""))
    attempt_one()
    pipe.send(("done", ""))


def many(calls: int, seed: int, *, of_command: bool = False, limit: float = LIMIT) -> tuple[Counter[str], list[str]]:
    """How so many calls ended, and a line for each that ended badly.

    Every valid call is made first, unless the limit is long enough for compilation too.
    """
    counts: Counter[str] = Counter()
    lines: list[str] = []
    while (left := calls - sum(counts.values())) > 0 and counts["hung"] + counts["died"] < MOST_LOST:
        before = sum(counts.values())
        for outcome, line in _of_one_worker(left, seed, of_command, limit):
            counts[outcome] += 1
            lines += [] if outcome in GOOD else [line]
        seed += 1_000_003  # other calls after one that hung
        if sum(counts.values()) == before:
            raise RuntimeError("a worker ended before its first call")
    return counts, lines


def _of_one_worker(calls: int, seed: int, of_command: bool, most: float) -> list[tuple[str, str]]:
    """What a worker reports until it is done, or one of its calls hangs or kills it."""
    here, there = mp.get_context("spawn").Pipe()
    worker = mp.get_context("spawn").Process(
        target=work, args=(there, calls, seed, of_command, most <= LIMIT), daemon=True
    )
    worker.start()
    there.close()
    found: list[tuple[str, str]] = []
    attempt, limit = "", FIRST
    begun = time.monotonic()
    try:
        while len(found) < calls:
            try:
                word, said = here.recv() if here.poll(limit) else ("hung", f"after {time.monotonic() - begun:.0f} s")
            except EOFError:
                word, said = "died", ""
            if word == "done" or (word == "died" and not attempt):
                break
            if word in ("ready", "begun"):
                attempt, limit, begun = said, most if word == "begun" else FIRST, time.monotonic()
                continue
            found.append((word, f"{word} | {attempt} | {said}"[:600]))
            limit = FIRST
            if word in ("hung", "died"):
                break
    finally:
        worker.kill()
        worker.join()
    return found
