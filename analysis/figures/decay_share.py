"""The decay's share of the tokens: `python -m analysis.figures.decay_share`.

Reads points.csv of analysis/results/decay_share/ and of cosine_horizon/, which `python -m analysis.record_study STUDY`
writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.wsd import decay_share

if __name__ == "__main__":
    command("decay_share", decay_share, "points", "cosine_horizon/points")
