"""What does it cost to reach a larger model's loss with a smaller one and more data?

Branches of 20 N, 40 N, ... of the smaller models beside 40 N of larger ones, 10% decay (MiniCPM, section 4.3, figure 6:
0.036B reaches 0.17B at 40 N for about four times the training compute, and is five times cheaper to run). The tokens at
which the smaller one gets there are read off between its branches (`analysis.figures.small_model_more_data`).

Command: `windtunnel run small_model_more_data`; figure: `python -m analysis.figures.small_model_more_data`.
Cost: 6.5e12 FLOPs (6ND).
Result: half the size gets there for 0.9 to 1.3 times the training compute and about half of that of inference; a
quarter is .07 nats short at 1280 N, twice the compute. See `LOG.md`.
"""

from experiments import wsd
from experiments.quickstart import CODE, LADDER
from scaling.data import sources
from scaling.study import RunSpec, Study

SEEDS = (0, 1)
# width -> tokens per parameter; all below the 30M tokens of text that there are
LENGTHS = {16: (20, 40, 80, 160, 320, 640, 1280), 24: (20, 40, 80, 160, 320), 32: (40,)}
# where the distribution strips the standard library's tests there are 12 MB of text
STRIPPED_AT_MOST = 640


def branches(width: int, seed: int) -> RunSpec:
    """A trunk with a branch for every length of its size."""
    config, stripped = LADDER.trunk(width, seed), sources.notes(CODE.source)
    lengths = [length for length in LENGTHS[width] if length <= STRIPPED_AT_MOST or not stripped]
    return wsd.run(config, tuple(wsd.decay(config, length) for length in lengths))


def study() -> Study:
    """Three sizes, two seeds."""
    runs = tuple(branches(width, seed) for width in LENGTHS for seed in SEEDS)
    return wsd.study("small_model_more_data", __doc__.split("\n")[0], runs)
