"""The records that training keeps of its progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingRecord:
    """The state of training after ``step`` steps.

    Attributes
    ----------
    step
        Optimizer steps done.
    seconds
        Wall-clock time so far.
    loss
        Mean of the training batches' losses since the last record, in units of (P), with the full λ.
    l0
        Mean active features per datapoint, over the same batches.
    dead
        Features that fired on none of them.
    """

    step: int
    seconds: float
    loss: float
    l0: float
    dead: int
