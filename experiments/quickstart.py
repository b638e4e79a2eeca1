"""How should this machine's next FLOPs be spent on Python source code: on parameters or on tokens?

Command: `make quickstart`, or `windtunnel run quickstart`.
"""

from scaling.config import MixtureComponent, SourceConfig, TaskConfig
from scaling.recipe import Budget, Ladder
from scaling.study import EvaluationConfig, LawConfig, Study

CODE = TaskConfig("python_stdlib", SourceConfig("python_stdlib", domain="code"))

LADDER = Ladder(
    tasks=(MixtureComponent(CODE),),
    budgets=tuple(Budget(multiple) for multiple in (20, 40, 60, 80)),
)


def study() -> Study:
    """Eight trunks (fewer make intervals indicative) of five sizes, four decays each; the largest size is held out."""
    return Study(
        name="quickstart",
        question=__doc__.split("\n")[0],
        runs=tuple(
            LADDER.run(width, seed)
            for width, seed in ((16, 0), (16, 1), (16, 2), (24, 0), (24, 1), (32, 0), (48, 0), (64, 0))
        ),
        evaluation=EvaluationConfig(tasks=(CODE,)),
        law=LawConfig(budgets=(1e14, 1e15, 1e16)),
    )
