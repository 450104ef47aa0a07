"""Counts of many calls by outcome, and every one that ended badly: exit code 1 if there was any.

python -m tests.fuzz --calls 2000 --seed 0
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.many import LIMIT, many
from tests.fuzz.settings import settings_complaints

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("--calls", type=int, default=2000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a call")
parser.add_argument("--command", action="store_true", help="command lines instead of calls from Python")
parser.add_argument("--settings", action="store_true", help="valid calls in every setting of torch and numpy instead")

if __name__ == "__main__":
    asked = parser.parse_args()
    lines, said = settings_complaints() if asked.settings else [], "settings"
    if not asked.settings:
        counts, lines = many(asked.calls, asked.seed, of_command=asked.command, limit=asked.limit)
        said = f"seed {asked.seed}: {dict(counts.most_common())}"
    sys.stdout.write("\n".join([*lines, said, ""]))
    sys.exit(bool(lines))
