"""The D of WSD: from a trunk checkpoint the learning rate falls, on the trunk's data or on another mixture.

The end of such a branch is one L(N, D) point (MiniCPM, section 4.5).
"""

import dataclasses
import math

from scaling.branches.contract import Branch, BranchSpec
from scaling.config import DataConfig, DecayConfig, DecayShape, Parent, RunConfig
from scaling.errors import UserError
from scaling.objectives import next_token


@dataclasses.dataclass(frozen=True)
class DecaySpec:
    """A decay branch as a study declares it: its whole length, and the share of it that is decay.

    Attributes:
        total_steps: steps from the trunk's start to the branch's end.
        share: decay steps / total steps, in (0, 1): a share of the tokens too, where `data` keeps the batch's size.
        shape: of the decay.
        final: fraction of the stable learning rate at the end; an exponential's half-life follows from it.
        data: another mixture for the decay; None keeps the trunk's.
        label: what the branch is called in tables; by default its length.
        branches: what leaves this branch.
    """

    total_steps: int
    share: float = 0.1
    shape: DecayShape = "one_minus_sqrt"
    final: float = 0.0
    data: DataConfig | None = None
    label: str = ""
    branches: tuple[BranchSpec, ...] = ()

    kind = "decay"

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", str(self.total_steps))
        if not 0 < self.share < 1:
            raise UserError(
                f"decay share {self.share} of branch {self.label!r}: it must lie between 0 and 1, for example 0.1"
            )
        if not 0 < self.decay_steps < self.total_steps:
            raise UserError(
                f"branch of {self.total_steps} steps with decay share {self.share}: that is {self.decay_steps} "
                f"steps of decay; make the branch longer or its batch smaller"
            )
        if self.shape == "exponential" and not 0 < self.final < 1:
            raise UserError(
                f"branch {self.label!r}: an exponential decay ends at a fraction between 0 and 1 of the stable rate, "
                f"not at {self.final:g}; MiniCPM's ends at final=0.1"
            )

    @property
    def decay_steps(self) -> int:
        """Steps of the decay."""
        return round(self.share * self.total_steps)

    @property
    def start(self) -> int:
        """The branch point."""
        return self.total_steps - self.decay_steps

    @property
    def stop(self) -> int:
        """The branch's end."""
        return self.total_steps

    @property
    def decay(self) -> DecayConfig:
        """What it does to the learning rate."""
        half_life = self.decay_steps / -math.log2(self.final) if self.shape == "exponential" else 0.0
        return DecayConfig(self.start, self.decay_steps, self.shape, self.final, half_life)

    def config(self, parent: RunConfig, parent_run: str) -> RunConfig:
        """The trunk's config with this decay, and possibly other data."""
        return dataclasses.replace(
            parent,
            data=self.data or parent.data,
            schedule=dataclasses.replace(parent.schedule, decay=self.decay),
            parent=Parent(parent_run, self.start),
            branch=self.kind,
        )


# The optimiser's state is kept: trunk and branch are one uninterrupted run under the decayed schedule.
BRANCH = Branch(start=lambda config, state: state, objective=next_token)
