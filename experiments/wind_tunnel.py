"""Does a search on the smallest model find better hyper-parameters than MiniCPM published, at the same budget?

The runs of this study are the settings to beat, 10 N tokens each as in MiniCPM's search (arXiv 2404.06395, section
3.1): the ladder's own (`quickstart`), and MiniCPM's lr 0.01, init_std 0.1, scale_emb 12, scale_depth 1.4. Those four
hold at muP's base width. Two readings: the base is the width that is searched, 16 here (theirs was 320 with a base of
256, nearly that); or it is 256 as in the released configurations, and muP's rule carries the numbers to width 16, where
hidden matrices then get 16 times the learning rate (0.16) and 4 times the standard deviation (0.4), and logits are
multiplied by 16.

Command: `windtunnel tune wind_tunnel --samplers tpe random --rounds 12` (the settings alone: `windtunnel run
wind_tunnel`).
Cost: 280 runs, 2.4e12 FLOPs (6ND); about ten minutes on two quiet cores.
Result: yes: lr 0.020, init_std 0.15, scale_emb 1.6, scale_depth 0.46 end 0.086 nats below MiniCPM's four and 0.058
below the ladder's own (another winner: 0.038 at 20 N, 0.011 +- 0.025 at 40 N). See `LOG.md`.
"""

import dataclasses

from experiments.quickstart import LADDER
from scaling.recipe import Budget
from scaling.study import EvaluationConfig, RunSpec, Study

WIDTH, BUDGET = 16, Budget(10)
MINICPM_RATE, MINICPM_BASE_WIDTH = 0.01, 256


def study() -> Study:
    """The ladder's setting, which a search departs from, and MiniCPM's in two readings."""
    ours = LADDER.whole(WIDTH, BUDGET)
    theirs = dataclasses.replace(LADDER, learning_rate=MINICPM_RATE).whole(WIDTH, BUDGET)
    carried = dataclasses.replace(theirs.model, mup_base_width=MINICPM_BASE_WIDTH)
    return Study(
        name="wind_tunnel",
        question=__doc__.split("\n")[0],
        runs=(
            RunSpec("quickstart", ours),
            RunSpec("minicpm-base16", theirs),
            RunSpec("minicpm-base256", dataclasses.replace(theirs, model=carried)),
        ),
        evaluation=EvaluationConfig(tuple(component.task for component in LADDER.tasks)),
        law=None,
    )
