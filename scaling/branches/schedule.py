"""A branch that goes on under any learning-rate schedule to any step: what a schedule is worth before or after its end.

With a decay that is not over at `stop` it is a cosine stopped early; with one that is over before, a cosine kept at its
floor; without a decay, the stable phase read off at a step.
"""

import dataclasses

from scaling.branches.contract import Branch, BranchSpec
from scaling.config import DataConfig, DecayConfig, Parent, RunConfig
from scaling.errors import UserError
from scaling.objectives import next_token


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """A branch as a study declares it: from `start` to `stop` under `decay`.

    Branches that differ in `stop` alone are one run, stopped more than once.

    Attributes:
        label: what tables call it.
        start: step of the trunk at which it leaves.
        stop: step at which it ends, wherever its schedule stands there.
        decay: how the rate falls; it may begin after `start` and end before or after `stop`. None keeps it constant.
        data: another mixture; None keeps the trunk's.
        branches: what leaves this branch.
    """

    label: str
    start: int
    stop: int
    decay: DecayConfig | None = None
    data: DataConfig | None = None
    branches: tuple[BranchSpec, ...] = ()

    kind = "schedule"

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise UserError(f"branch {self.label!r} goes from step {self.start} to {self.stop}: let it end later")
        if self.decay is not None and self.decay.start < self.start:
            raise UserError(
                f"branch {self.label!r} leaves at step {self.start}, but its decay starts at {self.decay.start}: the "
                f"trunk before it does not decay, so let the decay start at {self.start} or later"
            )

    def config(self, parent: RunConfig, parent_run: str) -> RunConfig:
        """The trunk's config with this schedule, and possibly other data."""
        return dataclasses.replace(
            parent,
            data=self.data or parent.data,
            schedule=dataclasses.replace(parent.schedule, decay=self.decay),
            parent=Parent(parent_run, self.start),
            branch=self.kind,
        )


# The optimiser's state is kept: trunk and branch are one uninterrupted run.
BRANCH = Branch(start=lambda config, state: state, objective=next_token)
