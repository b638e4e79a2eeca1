"""Does a constant learning rate stay stable over long training, below and above the best rate?

Two sizes at five peak rates (0.015 is the quickstart's), to 320 N and 160 N tokens: spikes of the training loss, growth
of the gradient norm, and whether a 10% decay still ends lower the later it is taken (MiniCPM, section 4.2: the stable
phase may go on as long as one likes; its paper shows no rates above the best).

Command: `windtunnel run constant_rate_stability`; figure: `python -m analysis.figures.constant_rate_stability`.
Cost: 5.2e12 FLOPs (6ND).
Result: stable: no run diverges, spikes are none to two in thousands of steps, gradient norms level off, and a later
decay ends lower at every rate; at .15 and .5 the loss stands still, and .005
overtakes .015 by 160 to 320 N. See `LOG.md`.
"""

import dataclasses

from experiments import wsd
from experiments.quickstart import LADDER
from scaling.study import RunSpec, Study

RATES = (0.005, 0.015, 0.05, 0.15, 0.5)
LENGTHS = {16: (40, 80, 160, 320), 24: (40, 80, 160)}  # width -> tokens per parameter


def branches(width: int, rate: float) -> RunSpec:
    """A long trunk at this rate, decayed at several lengths."""
    config = dataclasses.replace(LADDER, learning_rate=rate).trunk(width)
    return wsd.run(config, tuple(wsd.decay(config, length) for length in LENGTHS[width]), note=f"-rate{rate:g}")


def study() -> Study:
    """Ten trunks."""
    runs = tuple(branches(width, rate) for width in LENGTHS for rate in RATES)
    return wsd.study("constant_rate_stability", __doc__.split("\n")[0], runs)
