"""Every public name with arguments of every wrong kind: one sentence, or the right answer.

``python -m tests.fuzz --calls 2000 --seed 0`` makes many such calls, each with a limit of ten seconds, and lists those
that end otherwise. The suite makes a few.
"""
