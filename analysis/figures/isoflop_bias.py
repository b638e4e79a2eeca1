"""The bias of IsoFLOP parabolas without noise: `python -m analysis.figures.isoflop_bias`.

Reads analysis/results/isoflop_bias/isoflop_bias.json, which `experiments.simulations.isoflop_bias` writes.
"""

from analysis.figures.record import command
from analysis.plots.approaches import isoflop_bias

if __name__ == "__main__":
    command("isoflop_bias", isoflop_bias)
