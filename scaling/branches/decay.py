"""The D of WSD: from a trunk checkpoint the learning rate falls, on the trunk's data or on another mixture.

The end of such a branch is one L(N, D) point (MiniCPM, section 4.5).
"""

import dataclasses

from scaling.branches.contract import Branch
from scaling.config import DataConfig, DecayConfig, Parent, RunConfig
from scaling.objectives import next_token


def branch_config(parent: RunConfig, parent_run: str, decay: DecayConfig, data: DataConfig | None = None) -> RunConfig:
    """The branch's run config: the parent's, with a decay from `decay.start` and possibly other data.

    Args:
        parent: the trunk's config.
        parent_run: the trunk's run id.
        decay: its `start` is the branch point.
        data: another mixture, row length or batch size; None keeps the parent's.
    """
    return dataclasses.replace(
        parent,
        data=data or parent.data,
        schedule=dataclasses.replace(parent.schedule, decay=decay),
        parent=Parent(parent_run, decay.start),
        branch="decay",
    )


# The optimiser's state is kept: trunk and branch are one uninterrupted run under the decayed schedule.
BRANCH = Branch(start=lambda config, state: state, objective=next_token)
