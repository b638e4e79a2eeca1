"""Drawing that notebooks, figures and reports share: a table or a law in, a matplotlib figure out."""

from analysis.plots.approaches import approaches_side_by_side, envelope, isoflop_bias, isoflop_slices
from analysis.plots.coverage import coverage
from analysis.plots.diagnostics import bootstrap_clouds, error_against_compute, profile, residuals
from analysis.plots.laws import law_of_one_column, optimal_ratio, points_and_law
from analysis.plots.report import of_report
from analysis.plots.runs import loss_curves
from analysis.plots.spending import allocation, suggest_vs_grid, suggestion
from analysis.plots.style import save, size_colours

__all__ = [
    "allocation",
    "approaches_side_by_side",
    "bootstrap_clouds",
    "coverage",
    "envelope",
    "error_against_compute",
    "isoflop_bias",
    "isoflop_slices",
    "law_of_one_column",
    "loss_curves",
    "of_report",
    "optimal_ratio",
    "points_and_law",
    "profile",
    "residuals",
    "save",
    "size_colours",
    "suggest_vs_grid",
    "suggestion",
]
