"""Coverage of intervals in simulated studies: `python -m analysis.figures.coverage`.

Reads analysis/results/coverage/coverage.json, which `experiments.simulations.coverage` writes.
"""

from analysis.figures.record import command
from analysis.plots.coverage import coverage

if __name__ == "__main__":
    command("coverage", coverage)
