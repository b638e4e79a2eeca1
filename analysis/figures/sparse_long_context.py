"""Loss by position, and what is found again: `python -m analysis.figures.sparse_long_context`.

Reads loss_by_position.csv and retrieval.csv of analysis/results/sparse_long_context/, which
`python -m analysis.record_study sparse_long_context` writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.long_context import long_context

if __name__ == "__main__":
    command("sparse_long_context", long_context, "loss_by_position", "retrieval")
