"""Decays taken at three lengths, and the stable phase above them: `python -m analysis.figures.when_to_decay`.

Reads points.csv and curves.csv of analysis/results/when_to_decay/, which
`python -m analysis.record_study when_to_decay --curves` writes, and points.csv of cosine_horizon/.
"""

from analysis.figures.study_tables import command
from analysis.plots.stable_phase import when_to_decay

if __name__ == "__main__":
    command(
        "when_to_decay",
        when_to_decay,
        "points",
        "curves",
        "cosine_horizon/points",
        writer="python -m analysis.record_study when_to_decay --curves",
    )
