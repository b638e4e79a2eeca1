"""Drawing that notebooks, figures and reports share: a table or a law in, a matplotlib figure out."""

from analysis.plots.laws import optimal_ratio, points_and_law
from analysis.plots.runs import loss_curves
from analysis.plots.style import save, size_colours

__all__ = ["loss_curves", "optimal_ratio", "points_and_law", "save", "size_colours"]
