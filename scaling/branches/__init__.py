"""Ways to leave the trunk, one file each. A kind of branch is a `Branch` value in `BRANCHES`, by name.

A branch's run config is made by its own file (what the branch is, as data: see `decay.branch_config`); here is
how its first state comes out of the parent's checkpoint, and what its steps minimise.
"""

from scaling.branches import decay
from scaling.branches.contract import Branch

BRANCHES: dict[str, Branch] = {"decay": decay.BRANCH}
