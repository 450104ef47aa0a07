"""One fault: a run that it happens to, a second one that goes on, and what the two are worth."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvxsae.errors import InputError
from tests.faults import faults
from tests.faults.stores import Kind, Numbers, differences

PATIENCE = 90.0
"""Seconds after which a run counts as hung."""

AT_ONCE = "two processes at once"
AT_RANDOM = "kill -9 at a random moment"


@dataclass(frozen=True)
class Ended:
    """How a process ended: ``done`` with numbers, ``refused`` in one sentence, ``interrupted``, ``killed``, or ``raw``.

    ``steps`` is how often it flushed or renamed a file.
    """

    how: str
    numbers: Numbers | None = None
    said: str = ""
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Judged:
    """What a trial showed."""

    store: str
    fault: str
    outcome: str
    is_fine: bool
    details: str = ""


class Process:
    """A run of its own, forked from a process that has everything imported and compiled."""

    def __init__(self, kind: Kind, folder: Path, prepare: Callable[[faults.Steps], None] | None = None) -> None:
        reading, writing = os.pipe()
        self.started = time.perf_counter()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _child(kind, folder, prepare, writing)
        os.close(writing)
        self.reading = reading

    def kill_after(self, seconds: float) -> None:
        """At a moment that nothing in the process knows of."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> Ended:
        """Wait for it."""
        alarm = threading.Timer(PATIENCE, os.kill, (self.pid, signal.SIGKILL))
        alarm.start()
        with os.fdopen(self.reading, "rb") as stream:
            content = stream.read()
        _, status = os.waitpid(self.pid, 0)
        alarm.cancel()
        seconds = time.perf_counter() - self.started
        if seconds >= PATIENCE:
            return Ended("hung")
        if os.WIFSIGNALED(status) or not content:
            return Ended("killed", said=str(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else "", seconds=seconds)
        how, numbers, said, steps = pickle.loads(content)
        return Ended(how, numbers, said, steps, seconds)


def _child(kind: Kind, folder: Path, prepare: Callable[[faults.Steps], None] | None, writing: int) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    steps, numbers, said = faults.Steps(), None, ""
    try:
        if prepare is not None:
            prepare(steps)
        steps.install()
        numbers = kind.run(folder)
        how = "done"
    except InputError as error:
        how, said = "refused", str(error)
    except KeyboardInterrupt:
        how = "interrupted"
    except BaseException:
        how, said = "raw", traceback.format_exc()
    try:
        os.write(writing, pickle.dumps((how, numbers, said, steps.count)))
    finally:
        os._exit(0)


class Trials:
    """All trials of one store, compared with one undisturbed run."""

    def __init__(self, kind: Kind, scratch: Path) -> None:
        self.kind, self.scratch = kind, scratch
        self.whole = scratch / "whole"
        if not kind.trains:
            kind.run(scratch / "compiled")  # here, so that no process has to compile
        self.undisturbed = Process(kind, self.whole).end()
        if self.undisturbed.how != "done":
            raise RuntimeError(f"{kind.name} does not even run undisturbed: {self.undisturbed.said}")

    def names(self) -> list[str]:
        """The names of all that can happen here."""
        struck = [*faults.STRIKES, AT_RANDOM, "folder deleted at a write", "a quota", "jumping clocks", AT_ONCE]
        return [*struck, *faults.DAMAGES, *faults.FORGERIES]

    def run(self, fault: str, rng: np.random.Generator) -> Judged:
        """Let it happen, go on, and judge."""
        folder = self.scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        damage = faults.DAMAGES.get(fault) or faults.FORGERIES.get(fault)
        if damage is not None:
            shutil.copytree(self.whole, folder)
            files = sorted(folder.glob(self.kind.records))
            damage(files[int(rng.integers(0, len(files)))], rng)
            return self._judged(fault, [Ended("done", self.undisturbed.numbers)], folder, {})
        if fault == AT_ONCE:
            both = [Process(self.kind, folder) for _ in range(2)]
            ended = [process.end() for process in both]
        else:
            process = Process(self.kind, folder, self._preparation(fault, folder, rng))
            if fault == AT_RANDOM:
                process.kill_after(float(rng.uniform(0, self.undisturbed.seconds)))
            ended = [process.end()]
        return self._judged(fault, ended, folder, self._verified(folder))

    def _preparation(self, fault: str, folder: Path, rng: np.random.Generator) -> Callable[[faults.Steps], None]:
        at = int(rng.integers(1, self.undisturbed.steps + 1))

        def prepare(steps: faults.Steps) -> None:
            if fault == "a quota":
                faults.quota(rng)
            elif fault == "jumping clocks":
                faults.jumping_clock(rng)
            elif fault == "folder deleted at a write":
                steps.at, steps.strike = at, lambda: shutil.rmtree(folder)
            elif fault in faults.STRIKES:
                steps.at, steps.strike = at, faults.STRIKES[fault]

        return prepare

    def _verified(self, folder: Path) -> dict[str, int]:
        """Finished work that a second run must not lose: its files, with their times."""
        if self.kind.rewrites or not folder.exists():
            return {}
        return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.glob(self.kind.records)}

    def _judged(self, fault: str, ended: list[Ended], folder: Path, kept: dict[str, int]) -> Judged:
        """The first runs, and a second that goes on from what they left."""
        again = Process(self.kind, folder).end()
        said: list[str] = []
        for end in [*ended, again]:
            if end.how in ("raw", "hung"):
                said.append(f"{end.how}: {end.said}")
            if end.how == "refused" and ("\n" in end.said or not end.said.endswith(".")):
                said.append(f"not one sentence: {end.said}")
            if end.how == "done" and end.numbers is not None and self.undisturbed.numbers is not None:
                says_so = end.numbers.get("ended") == "INTERRUPTED" or "failed" in end.numbers.get("status", "")
                if end is again or not says_so:
                    said += differences(self.undisturbed.numbers, end.numbers, self.kind.rtol)
        lost = [name for name, when in kept.items() if self._verified(folder).get(name) != when]
        if again.how == "done" and lost:
            said.append(f"computed again: {', '.join(lost)}")
        outcome = f"{' and '.join(sorted(end.how for end in ended))}, then {again.how}"
        if fault in faults.DAMAGES or fault in faults.FORGERIES:
            outcome = again.how
        if again.how == "killed":
            said.append(f"the second run was killed ({again.said})")
        return Judged(self.kind.name, fault, outcome, not said, "; ".join(said))
