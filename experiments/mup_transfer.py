"""Does the best learning rate stay where it is as a model grows sixteenfold, under muP and without?

Seven rates, a factor 2 apart, at widths 16, 32 and 64 (12k, 47k and 189k parameters; four layers each), under muP with
base width 16 and in standard parametrisation, which is the same model at width 16 (`scaling.tuning.parametrization`).
Every run is whole: warm-up, constant rate, a tenth of decay. The rate is what is swept; all else follows the
quickstart's recipe in both parametrisations: 10 tokens per parameter, 1 of them warm-up, rows of 128 tokens, width / 4
rows a batch, so that steps grow as the width (233, 463, 923), and weight decay multiplied by each matrix's own rate.
So this is the question that a ladder asks: with the width go batch, steps and tokens. Depth stays.

Smaller sizes have more seeds, which tell how far noise alone moves an optimum.

Command: `windtunnel run mup_transfer`, then `python -m analysis.figures.mup_transfer`.
Cost: 3.4e13 FLOPs (6ND); 23 minutes on two cores that did other work too.
Result: the best rate is .026, .026 and .024 at the three sizes under muP, .026, .014 and .008 in
standard parametrisation.
"""

import dataclasses

from experiments.quickstart import LADDER
from scaling.recipe import Budget
from scaling.study import EvaluationConfig, RunSpec, Study
from scaling.tuning.parametrization import standard

RATES = tuple(LADDER.learning_rate * 2.0**k for k in range(-3, 4))
SEEDS = {16: (0, 1, 2, 3), 32: (0, 1), 64: (0,)}  # by width
LENGTH = Budget(10)


def whole(width: int, parametrization: str, rate: float, seed: int) -> RunSpec:
    """A run with decay from beginning to end at this rate.

    Args:
        width: of the ladder's model.
        parametrization: "mup", "standard", or "both" at the base width, where they are one.
        rate: peak learning rate at the base width.
        seed: of parameters and data order.
    """
    config = dataclasses.replace(LADDER, learning_rate=rate).whole(width, LENGTH, seed)
    if parametrization == "standard":
        config = dataclasses.replace(config, model=standard(config.model))
    return RunSpec(f"w{width}-{parametrization}-rate{rate:g}-seed{seed}", config)


def study() -> Study:
    """Every rate at every width in both parametrisations, the smallest models first."""
    base, *larger = SEEDS
    grid = [(base, "both"), *((width, name) for width in larger for name in ("mup", "standard"))]
    runs = [whole(width, name, rate, seed) for width, name in grid for seed in SEEDS[width] for rate in RATES]
    evaluation = EvaluationConfig(tuple(component.task for component in LADDER.tasks))
    return Study("mup_transfer", __doc__.split("\n")[0], tuple(runs), evaluation, law=None)
