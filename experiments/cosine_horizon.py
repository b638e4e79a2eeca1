"""Where should a cosine end: before a run stops, where it stops, or after?

Cosines of period T from the warm-up's end to a tenth of the peak, each read off at S = 20, 40, 60 and 80 N tokens:
T > S is a run stopped early, T < S one that goes on at its floor or (cosine loop) back up. Two sizes, two seeds
(MiniCPM, section 4.1, figure 4: T = S ends lowest at every S). A period read off at four S is one run.

Command: `windtunnel run cosine_horizon`; figure: `python -m analysis.figures.cosine_horizon`.
Cost: 7.3e12 FLOPs (6ND).
Result: T < S always ends higher, by 0.03 to 0.27; T = S is lowest at 80 N, T = 2 S at 20 N (by 0.008 to 0.040). See
`LOG.md`.
"""

from experiments import wsd
from experiments.quickstart import LADDER
from scaling.branches.schedule import ScheduleSpec
from scaling.config import DecayConfig, DecayShape, RunConfig
from scaling.study import RunSpec, Study

WIDTHS, SEEDS = (16, 24), (0, 1)
STOPS, PERIODS, LOOPS = (20, 40, 60, 80), (10, 20, 40, 60, 80, 120, 160), (20, 40)


def cosine(config: RunConfig, period: int, stop: int, shape: DecayShape = "cosine") -> ScheduleSpec:
    """A cosine of this period read off at `stop`, both in tokens per parameter; it leaves where the warm-up ends."""
    start = config.schedule.warmup_steps
    decay = DecayConfig(start, wsd.steps(config, period) - start, shape, final=0.1)
    return ScheduleSpec(f"{shape}-T{period}N-S{stop}N", start, wsd.steps(config, stop), decay)


def branches(width: int, seed: int) -> RunSpec:
    """A warm-up with every period read off at every stop; a loop is the cosine up to its floor, so only after it."""
    config = LADDER.trunk(width, seed)
    ends = [cosine(config, period, stop) for period in PERIODS for stop in STOPS]
    ends += [cosine(config, period, stop, "cosine_loop") for period in LOOPS for stop in STOPS if stop > period]
    return wsd.run(config, tuple(ends))


def study() -> Study:
    """Four warm-ups with nine cosines each."""
    runs = tuple(branches(width, seed) for width in WIDTHS for seed in SEEDS)
    return wsd.study("cosine_horizon", __doc__.split("\n")[0], runs)
