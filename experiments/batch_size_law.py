"""How does the batch that reaches a loss with the fewest tokens grow as the loss falls: is it MiniCPM's bs = a / L^b?

MiniCPM's method (arXiv 2404.06395, section 3.2; `scaling.tuning.batch_size` says how it is read): three sizes, six
batch sizes each a factor 2 apart, three seeds, one peak rate for all. The rate stays constant (theirs followed a
cosine) up to a tenth before the end; the law is read off there, from training losses on text that no model has seen
before. The decay at the end gives the best batch for decayed losses beside it. To tune the rate for every batch would
be a study of its own; without it the law is that of this rate (0.015 at width 16).

Commands: `windtunnel run batch_size_law`, then `python -m experiments.batch_size_record`, which writes the record that
`python -m analysis.figures.batch_size_law` draws.
Cost: 1.2e13 FLOPs (6ND); 52 minutes on two cores that much other work shared (alone: not timed, an estimated 8).
Result: a power law, bs = 3.3e4 / L^5.7 (90% interval of b 4.6 to 6.4, which holds MiniCPM's 6.24), but not one that
sizes share: alone they have b = 9.0, 7.7 and 6.2, smallest first, and at one loss the smaller model wants the larger
batch. Against tokens they do share one, bs ~ D^0.74 (0.62 to 0.84). MiniCPM's batch, converted to bytes, is 38 times
ours. After the decay the best batch is 540 to 610 tokens for all three, 37 to 50% of that line at their length. See
`LOG.md`.
"""

import dataclasses

from experiments.quickstart import CODE, LADDER
from scaling.branches.decay import DecaySpec
from scaling.config import RunConfig, ScheduleConfig
from scaling.recipe import Budget
from scaling.study import EvaluationConfig, RunSpec, Study

NAME = "batch_size_law"
LENGTHS = {16: Budget(80), 24: Budget(50), 32: Budget(30)}  # by width: 1.0 to 1.4 million tokens
ROWS = (1, 2, 4, 8, 16, 32)  # of 128 tokens
SEEDS = (0, 1, 2)


def run(width: int, rows: int, seed: int, length: Budget) -> RunConfig:
    """A run of the quickstart's ladder with another batch; warm-up and decay hold as many tokens whatever the batch."""
    ladder = LADDER.trunk(width, seed)
    data = dataclasses.replace(ladder.data, batch_size=rows)
    warmup = Budget(LADDER.warmup_tokens_per_parameter).steps(ladder.model, data)
    decay = DecaySpec(length.steps(ladder.model, data), LADDER.share, LADDER.shape).decay
    schedule = ScheduleConfig(ladder.schedule.peak, max(1, warmup), decay)
    return dataclasses.replace(ladder, data=data, schedule=schedule)


def study() -> Study:
    """Three sizes, six batches, three seeds."""
    runs = tuple(
        RunSpec(f"w{width}-rows{rows}-seed{seed}", run(width, rows, seed, length))
        for width, length in LENGTHS.items()
        for rows in ROWS
        for seed in SEEDS
    )
    return Study(NAME, __doc__.split("\n")[0], runs, EvaluationConfig((CODE,)), law=None)
