"""What every kind of branch gives the engine."""

import dataclasses
from collections.abc import Callable

from scaling.config import RunConfig
from scaling.objectives import Objective
from scaling.train import TrainState


@dataclasses.dataclass(frozen=True)
class Branch:
    """A way to leave the trunk.

    Attributes:
        start: (branch's config, parent's state at the branch point) -> the branch's first state: optimiser kept,
            reset or re-warmed, parameters converted.
        objective: what a step minimises.
    """

    start: Callable[[RunConfig, TrainState], TrainState]
    objective: Objective
