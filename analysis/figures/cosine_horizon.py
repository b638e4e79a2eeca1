"""Where a cosine should end: `python -m analysis.figures.cosine_horizon`.

Reads points.csv of analysis/results/cosine_horizon/, which `python -m analysis.record_study cosine_horizon`
writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.wsd import cosine_horizon

if __name__ == "__main__":
    command("cosine_horizon", cosine_horizon, "points")
