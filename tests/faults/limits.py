"""How far past its limit every verb runs, where that time goes, and what comes back; the same after Ctrl-C.

    python -m tests.faults.limits --seconds 0.5,2,8 --interrupts 1,4 --calls encode,audit

Every call runs in a process of its own, which first makes a small call so that nothing is compiled under the limit.
A table is printed: call, size, limit, seconds past it on the wall clock and of CPU time, what came back, and the lines
of the package in which the stack was seen after the limit. Not part of the suite: it depends on the clock, which
``tests/conformance/test_limits.py`` does not.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.faults.long_calls import CALLS, LongCall

EVERY = 0.1
"""Seconds between two looks at the stack."""

PATIENCE = 60.0
"""Seconds past the limit after which a call counts as hung and its process is killed."""

PREPARATION = 240.0
"""Seconds that data, fits and kernels may take."""

MARK = "LIMITS "


class _Watch(threading.Thread):
    """Looks where the main thread is, once a moment has passed: the two innermost functions of the package.

    With the lock of the interpreter, unlike ``faulthandler``, which crashes at times where frames change meanwhile.
    """

    def __init__(self, moment: float) -> None:
        super().__init__(daemon=True)
        self.moment, self.counts, self.is_over = moment, collections.Counter[str](), threading.Event()

    def run(self) -> None:
        time.sleep(self.moment)
        main = threading.main_thread().ident
        while not self.is_over.wait(EVERY):
            stack = traceback.extract_stack(sys._current_frames()[main or 0])
            inside = [frame for frame in reversed(stack) if "/cvxsae/" in frame.filename]
            self.counts[" < ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in inside[:3])] += 1

    def places(self) -> list[str]:
        """Most frequent first."""
        self.is_over.set()
        return [f"{count * EVERY:.1f} s {place}" for place, count in self.counts.most_common(4)]


def _described(answer: Any) -> str:
    """What came back, in a few words; says where the answer objects to itself."""
    if isinstance(answer, tuple):
        return f"{len(answer)} × ({_described(answer[-1])})" if answer else "an empty tuple"
    parts = [type(answer).__name__]
    for name in ("status", "ended"):
        status = getattr(answer, name, None)
        if status is not None:
            parts.append(str(getattr(status, "name", status)))
            break
    for name in ("gap", "lower_bound", "value", "unfinished"):
        found = getattr(answer, name, None)
        if isinstance(found, float):
            parts.append(f"{name} {found:.3g}")
        elif found:
            parts.append(f"{name} {', '.join(map(str, found))}")
    if getattr(answer, "objections", ()):
        parts.append(f"OBJECTS {answer.objections[0]}")
    return " ".join(parts)


def _give_up(watch: _Watch) -> None:
    """End this process, and say where it was."""
    print(MARK + json.dumps({"hung": watch.places()}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _timed(call: Any, moment: float, *, interrupt: bool) -> dict[str, Any]:
    """One call that should end ``moment`` seconds from now, by its limit or by a signal."""
    watch = _Watch(moment)
    hung = threading.Timer(moment + PATIENCE, _give_up, (watch,))
    signal_at = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGINT))
    at_moment: list[float] = []
    looks = threading.Timer(moment, lambda: at_moment.append(time.process_time()))
    for thread in (watch, hung, looks):
        thread.start()
    started = time.perf_counter()
    try:
        if interrupt:
            signal_at.start()
            came = _described(call())
        else:
            came = _described(call(max_seconds=moment))
    except KeyboardInterrupt:
        came = "KeyboardInterrupt"
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    cpu = time.process_time() - at_moment[0] if at_moment else 0.0
    for timer in (hung, signal_at, looks):
        timer.cancel()
    return {
        "kind": "SIGINT" if interrupt else "limit",
        "seconds": moment,
        "over": seconds - moment,
        "cpu": cpu,
        "came": came,
        "places": watch.places(),
    }


def _child(call: LongCall, limits: list[float], interrupts: list[float]) -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background does not have
    small = call.prepare(False)
    small(max_seconds=20.0)
    large = call.prepare(True)
    with contextlib.suppress(Exception):  # nothing may have been reached in so little time
        large(max_seconds=0.3)  # kernels that only large problems reach
    print(MARK + "prepared", flush=True)
    for kind, moments in (("limit", limits), ("SIGINT", interrupts)):
        for moment in moments:
            print(MARK + json.dumps({"begins": kind, "seconds": moment}), flush=True)
            found = _timed(large, moment, interrupt=kind == "SIGINT")
            print(MARK + json.dumps(found), flush=True)


def _rows(call: LongCall, limits: list[float], interrupts: list[float]) -> list[dict[str, Any]]:
    """Run a call in processes of their own: where one is killed, the next goes on with what is left."""
    rows: list[dict[str, Any]] = []
    todo = [("limit", moment) for moment in limits] + [("SIGINT", moment) for moment in interrupts]
    while todo:
        command = [sys.executable, "-m", "tests.faults.limits", "--child", call.name]
        command += ["--seconds", ",".join(str(m) for kind, m in todo if kind == "limit")]
        command += ["--interrupts", ",".join(str(m) for kind, m in todo if kind == "SIGINT")]
        most = PREPARATION + sum(moment + PATIENCE for _, moment in todo)
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=most, check=False)
            out, err = ran.stdout, ran.stderr
        except subprocess.TimeoutExpired as late:
            out, err = (late.stdout or b"").decode(), "too long in preparation"
        said = [line[len(MARK) :] for line in out.splitlines() if line.startswith(MARK + "{")]
        found = [json.loads(line) for line in said]
        ended = [one for one in found if "over" in one]
        rows += ended
        todo = todo[len(ended) :]
        if todo:
            kind, moment = todo.pop(0)
            began, places = bool(found) and "begins" in found[-1], []
            came = f"FAILED {err.strip()[-300:]}"
            if found and "hung" in found[-1]:
                came, places, began = f"HUNG beyond {PATIENCE:.0f} s", found[-1]["hung"], True
            rows.append({"kind": kind, "seconds": moment, "over": PATIENCE, "cpu": 0.0, "came": came, "places": places})
            if not began:
                break
    return rows


def main() -> int:
    """Run the calls asked for, print the table; 1 if one ran further past its limit than ``--allowed``."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.limits", description=__doc__)
    parser.add_argument("--seconds", default="0.5,2,8", help="limits")
    parser.add_argument("--interrupts", default="1,4", help="moments of a SIGINT")
    parser.add_argument("--calls", default="", help="parts of names; all calls if empty")
    parser.add_argument("--allowed", type=float, default=2.0, help="seconds past the limit that are fine")
    parser.add_argument("--threads", type=int, default=0, help="of every process; 1 on a busy machine: no waiting")
    parser.add_argument("--child", default="")
    parser.add_argument("--json", default="", help="also write all rows there")
    asked = parser.parse_args()
    if asked.threads:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(asked.threads))
    limits = [float(part) for part in asked.seconds.split(",") if part]
    interrupts = [float(part) for part in asked.interrupts.split(",") if part]
    if asked.child:
        _child(next(call for call in CALLS if call.name == asked.child), limits, interrupts)
        return 0
    parts = [part for part in asked.calls.split(",") if part]
    worst = 0.0
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'call':<30}{'size':<34}{'kind':<7}{'at':>5}{'over':>7}{'CPU':>7}{'load':>6}  what came back")
    everything: dict[str, list[dict[str, Any]]] = {}
    for call in CALLS:
        if parts and not any(part in call.name for part in parts):
            continue
        everything[call.name] = rows = _rows(call, limits, interrupts)
        for row in rows:
            load = os.getloadavg()[0]
            line = f"{call.name:<30}{call.size:<34}{row['kind']:<7}{row['seconds']:>5g}"
            print(f"{line}{row['over']:>7.2f}{row['cpu']:>7.2f}{load:>6.1f}  {row['came']}")
            for place in row["places"]:
                print(f"{'':<10}{place}")
            worst = max(worst, row["over"])
        sys.stdout.flush()
        if asked.json:
            Path(asked.json).write_text(json.dumps(everything, indent=1))
    return 1 if worst > asked.allowed else 0


if __name__ == "__main__":
    sys.exit(main())
