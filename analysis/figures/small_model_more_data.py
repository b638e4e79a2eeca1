"""What a smaller model costs that reaches a larger one's loss: `python -m analysis.figures.small_model_more_data`.

Reads points.csv of analysis/results/small_model_more_data/, which
`python -m analysis.record_study small_model_more_data` writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.stable_phase import small_model_more_data

if __name__ == "__main__":
    command("small_model_more_data", small_model_more_data, "points")
