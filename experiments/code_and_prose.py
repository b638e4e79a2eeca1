"""Does one ladder, trained half on code and half on English prose, scale alike on both?

The prose is yours: text files, .jsonl, .parquet or .zip archives of texts that the glob in WINDTUNNEL_PROSE names
(default: `text/*.zip` below the current folder). One law is fitted for each evaluation domain.

Command: `WINDTUNNEL_PROSE='texts/*.zip' windtunnel run code_and_prose`.
Cost: 8.0e12 FLOPs (6ND); 4 minutes on two cores.
Result: weakly determined on both; no exponent differs by more than its interval. See `LOG.md`.
"""

import dataclasses
import os

from experiments.quickstart import CODE, LADDER
from scaling.config import MixtureComponent, SourceConfig, TaskConfig
from scaling.study import EvaluationConfig, LawConfig, Study

PROSE = TaskConfig(
    "prose", SourceConfig("files", domain="prose", glob=os.environ.get("WINDTUNNEL_PROSE", "text/*.zip"))
)
HALF_AND_HALF = dataclasses.replace(LADDER, tasks=(MixtureComponent(CODE, 0.5), MixtureComponent(PROSE, 0.5)))


def study() -> Study:
    """Five trunks of four sizes on the mixture, evaluated on both domains."""
    return Study(
        name="code_and_prose",
        question=__doc__.split("\n")[0],
        runs=tuple(HALF_AND_HALF.run(width, seed) for width, seed in ((16, 0), (16, 1), (24, 0), (32, 0), (48, 0))),
        evaluation=EvaluationConfig(tasks=(CODE, PROSE)),
        law=LawConfig(budgets=(1e14, 1e15, 1e16)),
    )
