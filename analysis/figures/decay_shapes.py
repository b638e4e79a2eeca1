"""Shapes of decay side by side: `python -m analysis.figures.decay_shapes`.

Reads points.csv of analysis/results/decay_shapes/, which `python -m analysis.record_study decay_shapes`
writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.wsd import decay_shapes

if __name__ == "__main__":
    command("decay_shapes", decay_shapes, "points")
