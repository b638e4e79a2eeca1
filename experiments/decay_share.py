"""Which share of its tokens must a WSD branch spend on the decay: 2.5, 5, 10 or 20%?

Three sizes, two seeds, branches of 40 N, 60 N and 80 N tokens with a 1-sqrt decay to zero; the branches of one size and
seed share a trunk (MiniCPM, section 4.3, figure 5: 10% is enough, 2.5% falls short). The cosines that the figure
compares with are those of `cosine_horizon` that end where they stop.

Command: `windtunnel run decay_share`; figure: `python -m analysis.figures.decay_share`.
Cost: 5.4e12 FLOPs (6ND).
Result: 2.5% ends 0.035 to 0.047 nats above 10%, 5% 0.016 to 0.023 above, 20% 0.003 to 0.019 below. See `LOG.md`.
"""

from experiments import wsd
from experiments.quickstart import LADDER
from scaling.study import RunSpec, Study

WIDTHS, SEEDS = (16, 24, 32), (0, 1)
LENGTHS, SHARES = (40, 60, 80), (0.025, 0.05, 0.1, 0.2)


def branches(width: int, seed: int) -> RunSpec:
    """A trunk with a branch for every length and share."""
    config = LADDER.trunk(width, seed)
    decays = [
        wsd.decay(config, length, share=share, label=f"{length}N-{share:.1%}") for length in LENGTHS for share in SHARES
    ]
    return wsd.run(config, tuple(decays))


def study() -> Study:
    """Six trunks with twelve branches each."""
    runs = tuple(branches(width, seed) for width in WIDTHS for seed in SEEDS)
    return wsd.study("decay_share", __doc__.split("\n")[0], runs)
