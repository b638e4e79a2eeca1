"""Every figure that a report of a fit comes with."""

from matplotlib.figure import Figure

from analysis.plots import approaches, diagnostics, laws, spending
from scaling.errors import UserError
from scaling.laws import isoflop
from scaling.laws.holdout import ErrorAgainstCompute
from scaling.laws.report import Report


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
        try:
            slices = isoflop.fit(report.fit.table, replicates=100)
        except UserError:  # too few slices, as the printed table of approaches says
            return figures
        figures["isoflop_slices"] = approaches.isoflop_slices(slices)
    return figures
