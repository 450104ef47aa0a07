"""Kill, starve and damage every store at random, and see that nothing false, lost or silent comes of it.

    python -m tests.faults --count 200 --seed 0

Every trial is a run in a process of its own that something happens to, and a second run that goes on from what is
left. The second must give the numbers of an undisturbed run, or refuse in one sentence; finished work must not be
computed again. Exits with 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # a process with threads of its own cannot be forked


def main() -> int:
    """Run the trials, print a table of store × fault × outcome."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    from tests.faults.stores import GULLIBLE, KINDS
    from tests.faults.trial import Judged, Trials

    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="trials over all stores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stores", default=",".join(kind.name for kind in KINDS))
    asked = parser.parse_args()
    kinds = [kind for kind in (*KINDS, GULLIBLE) if kind.name in asked.stores.split(",")]
    rng = np.random.default_rng(asked.seed)
    judged: list[Judged] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, kind in enumerate(kinds):
            share = asked.count // len(kinds) + (number < asked.count % len(kinds))
            place_of_kind = Path(scratch) / kind.name
            place_of_kind.mkdir()
            trials = Trials(kind, place_of_kind)
            names = trials.names()
            order = [names[place] for place in rng.permutation(len(names))]
            for turn in range(share):
                found = trials.run(order[turn % len(order)], rng)
                judged.append(found)
                if not found.is_fine:
                    print(f"{found.store}, {found.fault}: {found.outcome}: {found.details}", file=sys.stderr)
    counts = collections.Counter((one.store, one.fault, one.outcome, one.is_fine) for one in judged)
    print(f"{'store':<17}{'fault':<28}{'outcome':<36}{'count':>6}  verdict")
    for (store, fault, outcome, is_fine), count in sorted(counts.items()):
        print(f"{store:<17}{fault:<28}{outcome:<36}{count:>6}  {'fine' if is_fine else 'WRONG'}")
    wrong = sum(not one.is_fine for one in judged)
    print(f"{len(judged)} trials (seed {asked.seed}): {len(judged) - wrong} fine, {wrong} wrong")
    return 1 if wrong or not judged else 0


if __name__ == "__main__":
    sys.exit(main())
