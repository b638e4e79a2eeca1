"""Loss against visible tokens: `python -m analysis.figures.attention_law`.

Reads points.csv of analysis/results/attention_law/, which `python -m analysis.record_study attention_law` writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.long_context import attention_law

if __name__ == "__main__":
    command("attention_law", attention_law, "points")
