"""Which shape of decay ends lowest, at one length and one share?

Three sizes, two seeds, 60 N tokens of which the last 10% decay. MiniCPM used an exponential and compares no shapes;
Haegele et al. (arXiv 2405.18392) found 1-sqrt best. An exponential never reaches zero, so it is here with ends at a
tenth (MiniCPM's) and a hundredth of the rate, and the line with an end at a tenth beside it.

Command: `windtunnel run decay_shapes`; figure: `python -m analysis.figures.decay_shapes`.
Cost: 4e12 FLOPs (6ND).
Result: 1-sqrt lowest, the exponential to a tenth level with it (+0.001), a line +0.005, a cosine +0.010,
1 - r^2 +0.018. See `LOG.md`.
"""

from experiments import wsd
from experiments.quickstart import LADDER
from scaling.config import DecayShape
from scaling.study import RunSpec, Study

WIDTHS, SEEDS, LENGTH = (16, 24, 32), (0, 1), 60
# shape, and the fraction of the stable rate it ends at
SHAPES: tuple[tuple[DecayShape, float], ...] = (
    ("one_minus_sqrt", 0.0),
    ("linear", 0.0),
    ("linear", 0.1),
    ("cosine", 0.0),
    ("mirror_cosine", 0.0),
    ("square", 0.0),
    ("megatron", 0.0),
    ("exponential", 0.1),
    ("exponential", 0.01),
)


def branches(width: int, seed: int) -> RunSpec:
    """A trunk with a branch for every shape."""
    config = LADDER.trunk(width, seed)
    decays = [wsd.decay(config, LENGTH, shape=shape, final=end, label=f"{shape}-to-{end:g}") for shape, end in SHAPES]
    return wsd.run(config, tuple(decays))


def study() -> Study:
    """Six trunks with nine branches each."""
    runs = tuple(branches(width, seed) for width in WIDTHS for seed in SEEDS)
    return wsd.study("decay_shapes", __doc__.split("\n")[0], runs)
