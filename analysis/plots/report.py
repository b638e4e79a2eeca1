"""Every figure that a report of a fit comes with."""

import numpy as np
from matplotlib.figure import Figure

from analysis.plots import approaches, diagnostics, laws, spending
from scaling.laws.approaches import Fitted
from scaling.laws.holdout import ErrorAgainstCompute
from scaling.laws.report import TRAINING_ALONE, Report


def of_report(report: Report) -> dict[str, Figure]:
    """Figures by name; those that the form or the table cannot give are left out."""
    figures = {}
    if set(report.fit.form.columns) == {"n", "d"}:
        figures["points_and_law"] = laws.points_and_law(report)
    elif len(report.fit.form.columns) == 1:
        figures["points_and_law"] = laws.law_of_one_column(report)
    figures["residuals"] = diagnostics.residuals(report.fit)
    figures["bootstrap_clouds"] = diagnostics.bootstrap_clouds(report.bootstrap)
    if isinstance(report.error_against_compute, ErrorAgainstCompute):
        figures["error_against_compute"] = diagnostics.error_against_compute(report.error_against_compute)
    if report.allocations:
        figures["optimal_ratio"] = laws.optimal_ratio(report)
        figures["allocation"] = spending.allocation(
            report.bootstrap, report.allocations, bytes_per_token=report.bytes_per_token
        )
    if report.fitted is not None:
        figures |= _approaches(report, report.fitted)
    return figures


def _approaches(report: Report, fitted: Fitted) -> dict[str, Figure]:
    """Chinchilla's approaches as they were fitted for the printed table, which says why one could not run."""
    figures = {}
    if sum(approach.a is not None for approach in report.approaches) > 1:
        figures["approaches"] = _side_by_side(report, fitted)
    if not isinstance(fitted.envelope, str):
        figures["envelope"] = approaches.envelope(fitted.envelope)
    if not isinstance(fitted.isoflop, str):
        figures["isoflop_slices"] = approaches.isoflop_slices(fitted.isoflop)
    return figures


def _side_by_side(report: Report, fitted: Fitted) -> Figure:
    """The approaches over the whole range of budgets, from the smallest run to the largest that is asked about."""
    table, asked = report.fit.table, [row.flops for row in report.allocations]
    budgets = np.geomspace(min(table.budgets.min(), *asked), max(table.budgets.max(), *asked), 40)
    return approaches.approaches_side_by_side(
        fitted.at(list(budgets)),
        counting=table.cost.name,
        note=TRAINING_ALONE if report.inference_tokens else "",
    )
