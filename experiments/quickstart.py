"""How should this machine's next FLOPs be spent on Python source code: on parameters or on tokens?

Command: `make quickstart`, or `windtunnel run quickstart`.
Cost: 2.9e13 FLOPs (6ND); 12 minutes on two cores.
Result: L = 0.72 + 30 / N^0.44 + 32 / D^0.28; the largest size predicted to 0.8%; 253 bytes per parameter (9 to
1,883) at 1e14 FLOPs. See `LOG.md`.
"""

from scaling.config import MixtureComponent, SourceConfig, TaskConfig
from scaling.data import sources
from scaling.recipe import Budget, Ladder
from scaling.study import EvaluationConfig, LawConfig, Study

CODE = TaskConfig("python_stdlib", SourceConfig("python_stdlib", domain="code"))

LADDER = Ladder(
    tasks=(MixtureComponent(CODE),),
    budgets=tuple(Budget(multiple) for multiple in (20, 40, 60, 80)),
)
WIDTHS = (16, 24, 32, 48, 64)
# where the distribution strips the standard library's tests there are 12 MB of text, too few for 80 N of width 64
STRIPPED_WIDTHS = (16, 24, 32, 40, 48)


def study() -> Study:
    """Eight trunks of five sizes, with four decays or more each.

    The smallest sizes are cheap: two have further seeds (eight trunks, since fewer make intervals indicative) and
    longer branches, which tell what a size is worth once it has seen enough. The law is fitted to all points; the check
    refits it without the largest size and predicts that.
    """
    smallest, small, *others = STRIPPED_WIDTHS if sources.notes(CODE.source) else WIDTHS
    return Study(
        name="quickstart",
        question=__doc__.split("\n")[0],
        runs=(
            LADDER.run(smallest, seed=0, more=(Budget(160), Budget(320))),
            LADDER.run(smallest, seed=1),
            LADDER.run(smallest, seed=2),
            LADDER.run(small, seed=0, more=(Budget(160),)),
            LADDER.run(small, seed=1),
            *(LADDER.run(width) for width in others),
        ),
        evaluation=EvaluationConfig(tasks=(CODE,)),
        law=LawConfig(budgets=(1e14, 1e15, 1e16)),
    )
