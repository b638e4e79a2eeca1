"""Suggested runs beside a fixed grid: `python -m analysis.figures.suggest_vs_grid`.

Reads analysis/results/suggest_vs_grid/suggest_vs_grid.json, which `experiments.simulations.suggest_vs_grid` writes.
"""

from analysis.figures.record import command
from analysis.plots.spending import suggest_vs_grid

if __name__ == "__main__":
    command("suggest_vs_grid", suggest_vs_grid)
