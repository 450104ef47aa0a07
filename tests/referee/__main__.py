"""``python -m tests.referee --count 10000 --seed 0 --jobs 2``: how many answers of each kind end how, and which are
false. Exits 1 with a line that reproduces it for every false claim and every exception that is no ``InputError``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.referee.ask import Outcome, alone, referee
from tests.referee.draw import KINDS


def report(outcomes: list[Outcome]) -> str:
    """Counts, worst margins, slowest problems."""
    lines = []
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        if not of_kind:
            continue
        counts = ", ".join(f"{name} {count}" for name, count in Counter(o.ended for o in of_kind).most_common())
        lines.append(f"{kind:10s} {len(of_kind):6d}   {counts}")
        lines.append(
            f"{'':17s}   worst mismatch {max(abs(o.mismatch) for o in of_kind):.1e}, "
            f"worst margin {max(o.margin for o in of_kind):.1e}, CPU {sum(o.seconds for o in of_kind):.0f} s"
        )
    lines.append("slowest:")
    slowest = sorted(outcomes, key=lambda o: -o.seconds)[:8]
    lines += [f"  {o.seconds:6.1f} s  {o.kind} {o.index}: {o.story} ({o.ended})" for o in slowest]
    return "\n".join(lines)


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m tests.referee", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index to begin with; with --count 1 it reproduces")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    indices = range(asked.first, asked.first + asked.count)
    outcomes = []
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn"), initializer=alone) as pool:
        for o in pool.map(partial(referee, asked.seed), indices, chunksize=20):
            outcomes.append(o)
            if o.false:
                again = f"python -m tests.referee --seed {asked.seed} --first {o.index} --count 1"
                sys.stdout.write("\n  ".join([f"FALSE {o.kind}: {o.story} ({o.ended})", *o.false[:3], again]) + "\n")
                sys.stdout.flush()
    wrong = sum(bool(o.false) for o in outcomes)
    sys.stdout.write(f"{report(outcomes)}\n{len(outcomes)} problems, {wrong} with a false claim\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
