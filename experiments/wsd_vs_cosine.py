"""Does a WSD branch with a 10% decay end as low as a cosine trained to the same length, on the same data?

Two sizes, two lengths, two seeds. Every cosine is trained from scratch (MiniCPM, appendix B.1: down to a tenth of the
peak); the WSD points of one size and seed share a trunk. Same peak rate, same data order.

Command: `windtunnel run wsd_vs_cosine`.
Cost: 7.2e12 FLOPs (6ND), less what the quickstart has trained; 3 minutes on two cores.
Result: WSD ends 0.026 nats lower at 40 N and 0.006 higher at 80 N, for 0.70 of the FLOPs. See `LOG.md`.
"""

import dataclasses

from experiments.quickstart import LADDER
from scaling.config import DecayConfig
from scaling.recipe import Budget
from scaling.study import EvaluationConfig, RunSpec, Study

WIDTHS, LENGTHS, SEEDS = (24, 32), (Budget(40), Budget(80)), (0, 1)
# the quickstart's recipe, so that its trunks are not trained twice
WSD = dataclasses.replace(LADDER, budgets=(Budget(20), *LENGTHS))


def cosine(width: int, seed: int, length: Budget) -> RunSpec:
    """A whole run of this length whose cosine starts where the warm-up ends."""
    config = WSD.trunk(width, seed)
    warmup = config.schedule.warmup_steps
    steps = length.steps(config.model, config.data)
    decay = DecayConfig(start=warmup, steps=steps - warmup, shape="cosine", final=0.1)
    schedule = dataclasses.replace(config.schedule, decay=decay)
    label = f"w{width}-seed{seed}-cosine-{length.label}"
    return RunSpec(label, dataclasses.replace(config, schedule=schedule))


def study() -> Study:
    """Trunks with branches, and a cosine for each of them."""
    runs = []
    for width in WIDTHS:
        for seed in SEEDS:
            trunk = WSD.run(width, seed)
            branches = tuple(b for b in trunk.branches if b.label != "20N")
            runs.append(dataclasses.replace(trunk, label=f"w{width}-seed{seed}-wsd", branches=branches))
            runs += [cosine(width, seed, length) for length in LENGTHS]
    tasks = tuple(component.task for component in WSD.tasks)
    return Study("wsd_vs_cosine", __doc__.split("\n")[0], tuple(runs), EvaluationConfig(tasks), law=None)
