"""How far below its stable phase does a decay end, and does it matter when it is taken?

Three sizes, two seeds: decays over the last 10% of 40 N, 60 N and 80 N tokens, and the trunk itself read off at the
same tokens on the same held-out text (MiniCPM, section 4.3, figure 5: the loss drops as soon as the decay begins, to a
cosine's or lower, whichever checkpoint it leaves; the stable phase lies 0.05 to 0.11 nats above a cosine).

Command: `windtunnel run when_to_decay`; figure: `python -m analysis.figures.when_to_decay`.
Cost: 4e12 FLOPs (6ND).
Result: decays end 0.08 to 0.15 nats below the trunk at the same tokens, whenever they are taken. See `LOG.md`.
"""

from experiments import wsd
from experiments.quickstart import LADDER
from scaling.branches.schedule import ScheduleSpec
from scaling.study import RunSpec, Study

WIDTHS, SEEDS, LENGTHS = (16, 24, 32), (0, 1), (40, 60, 80)


def branches(width: int, seed: int) -> RunSpec:
    """A trunk whose branches leave at one step in pairs: one decays, one keeps the rate, both to the same tokens."""
    config = LADDER.trunk(width, seed)
    decays = [wsd.decay(config, length) for length in LENGTHS]
    kept = [ScheduleSpec(f"{decay.label}-stable", decay.start, decay.stop) for decay in decays]
    return wsd.run(config, (*decays, *kept))


def study() -> Study:
    """Six trunks with three pairs of branches each."""
    runs = tuple(branches(width, seed) for width in WIDTHS for seed in SEEDS)
    return wsd.study("when_to_decay", __doc__.split("\n")[0], runs)
