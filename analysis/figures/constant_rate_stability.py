"""Long training at constant rates: `python -m analysis.figures.constant_rate_stability`.

Reads points.csv, curves.csv and steadiness.csv of analysis/results/constant_rate_stability/, which
`python -m analysis.record_study constant_rate_stability --curves --steadiness` writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.stable_phase import constant_rate_stability

if __name__ == "__main__":
    command(
        "constant_rate_stability",
        constant_rate_stability,
        "points",
        "curves",
        "steadiness",
        writer="python -m analysis.record_study constant_rate_stability --curves --steadiness",
    )
