"""Ways to leave the trunk, one file each: a `BranchSpec` that studies use, and a `Branch` named in `BRANCHES`."""

from scaling.branches import decay, schedule
from scaling.branches.contract import Branch

BRANCHES: dict[str, Branch] = {"decay": decay.BRANCH, "schedule": schedule.BRANCH}
