"""What every kind of branch gives the engine: how a study declares it, how it starts, what it minimises."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from scaling.config import DataConfig, RunConfig
from scaling.objectives import Objective
from scaling.train import TrainState


class BranchSpec(Protocol):
    """A branch as a study declares it.

    Attributes:
        kind: its name in `scaling.branches.BRANCHES`.
        label: what it is called in tables.
        start: step of the trunk at which it leaves.
        stop: step at which it ends, counted from the trunk's start.
        data: what it reads; None keeps the trunk's.
        branches: what leaves this branch in turn, at its end or before.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def stop(self) -> int: ...  # noqa: D102
    @property
    def data(self) -> DataConfig | None: ...  # noqa: D102
    @property
    def branches(self) -> tuple["BranchSpec", ...]: ...  # noqa: D102

    def config(self, parent: RunConfig, parent_run: str) -> RunConfig:
        """The branch's run config, given the trunk's and its run id."""
        ...


@dataclasses.dataclass(frozen=True)
class Branch:
    """How a kind of branch leaves the trunk.

    Attributes:
        start: (branch's config, parent's state at the branch point) -> the branch's first state: optimiser kept,
            reset or re-warmed, parameters converted.
        objective: what a step minimises.
    """

    start: Callable[[RunConfig, TrainState], TrainState]
    objective: Objective
