"""Weights, gradients and curvature while the rate decays: `python -m analysis.figures.decay_dynamics`.

Reads exponential.csv and one_minus_sqrt.csv of analysis/results/decay_dynamics/, which
`python -m experiments.decay_dynamics` writes.
"""

from analysis.figures.study_tables import command
from analysis.plots.dynamics import decay_dynamics

if __name__ == "__main__":
    command(
        "decay_dynamics",
        decay_dynamics,
        "exponential",
        "one_minus_sqrt",
        writer="python -m experiments.decay_dynamics",
    )
