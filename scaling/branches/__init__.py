"""Ways to leave the trunk, one file each: a `BranchSpec` that studies use, and a `Branch` named in `BRANCHES`."""

from scaling.branches import decay, long_context, schedule
from scaling.branches.contract import Branch

BRANCHES: dict[str, Branch] = {
    "decay": decay.BRANCH,
    "schedule": schedule.BRANCH,
    "long_context": long_context.BRANCH,
}
