import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.plots import approaches as plots
from analysis.plots import of_report
from experiments.simulations import isoflop_bias
from scaling.laws import approaches, envelope, fit, isoflop, published, report, table, uncertainty
from scaling.laws.forms import CHINCHILLA

LAW = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}


@pytest.fixture(scope="module")
def points() -> table.Table:
    rng = np.random.default_rng(0)
    sizes, budgets = np.geomspace(3e7, 1.2e10, 24), np.geomspace(1e18, 1e21, 6)
    n, flops = (axis.ravel() for axis in np.meshgrid(sizes, budgets))
    assert CHINCHILLA.optimum is not None
    near = np.abs(np.log(n / CHINCHILLA.optimum(LAW, flops)["n"])) < np.log(6)
    columns = {"n": n[near], "d": flops[near] / 6 / n[near], "flops": flops[near]}
    loss = CHINCHILLA.predict(LAW, columns) * np.exp(rng.normal(0, 1e-3, near.sum()))
    return table.Table(columns, loss, columns["n"].astype(str), {})


def legend_is_beside_the_data(figure: Figure) -> bool:
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    return not any(axes.get_window_extent().overlaps(legend) for axes in figure.axes)


def marked(figure: Figure, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def test_every_minimum_is_marked_on_its_slice(points):
    found = isoflop.fit(points, replicates=50)
    figure = plots.isoflop_slices(found)
    for estimator, marker in plots.MARKS.items():
        expected = [(one.n, one.loss) for one in found.optima[estimator] if one.n is not None]
        assert np.array(marked(figure, marker)) == pytest.approx(np.array(expected))
        style = plots.LINES[estimator]
        curves = [line for line in figure.axes[0].lines if line.get_linestyle() == style and len(line.get_xdata()) > 1]
        assert [float(line.get_ydata().min()) for line in curves] == pytest.approx([v for _, v in expected], rel=1e-4)
    assert legend_is_beside_the_data(figure)


def test_slices_that_are_not_used_say_so():
    found = isoflop.fit(isoflop_bias.Grid(4.0, drift=5.0).table(LAW), replicates=20)
    labels = [text.get_text() for text in plots.isoflop_slices(found).axes[0].get_legend().get_texts()]
    assert sum("not used" in label for label in labels) == 2


def test_the_envelope_is_drawn_where_it_is_used(points):
    found = envelope.fit(points, replicates=5)
    figure = plots.envelope(found)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 4]
    drawn = np.nansum([np.isfinite(line.get_ydata()).sum() for line in thick])
    assert drawn == len(found.budgets)
    assert legend_is_beside_the_data(figure)


def test_side_by_side_draws_answers_bands_and_the_published_line(points):
    bootstrap = uncertainty.bootstrap(fit.fit(CHINCHILLA, points, starts=16), replicates=100)
    budgets = tuple(np.geomspace(1e17, 1e23, 13))
    rows = approaches.three_approaches(points, bootstrap, budgets, replicates=50)
    missing = approaches.Approach(approaches.ENVELOPE, None, None, None, None, (), None, "", ("too few sizes",))
    figure = plots.approaches_side_by_side((missing, *rows[1:]))
    upper, lower = figure.axes
    dotted = [line for line in upper.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 3
    for line, row in zip(dotted, rows[1:], strict=True):
        assert line.get_ydata() == pytest.approx([one.n for one in row.at])
    solid = [line for line in upper.lines if line.get_linestyle() == "-"]
    for line, row in zip(solid, rows[1:], strict=True):
        shown = np.array(budgets)[np.isfinite(line.get_ydata())]
        assert list(shown) == [c for c in budgets if row.budgets[0] <= c <= row.budgets[1]]
    (hoffmann,) = [line for line in lower.lines if line.get_linestyle() == "-."]
    assert hoffmann.get_ydata() == pytest.approx(published.HOFFMANN.tokens_per_parameter(np.array(budgets)))
    labels = [text.get_text() for text in upper.get_legend().get_texts()]
    assert f"{approaches.ENVELOPE}: cannot run" in labels
    assert legend_is_beside_the_data(figure)


def test_a_reports_figures_show_the_fits_behind_its_table(points):
    """Slices and lines are those printed, not fitted anew under another seed or level; and approach 1 is drawn."""
    found = report.analyse(points, budgets=(1e20, 1e22), level=0.8, seed=3, replicates=100, inference_tokens=1e9)
    figures = of_report(found)
    assert {"approaches", "envelope", "isoflop_slices"} <= figures.keys()
    labels = [text.get_text() for text in figures["approaches"].axes[0].get_legend().get_texts()]
    for row in found.approaches:
        assert f"{row.name}\na = {row.a:.3f} [{row.a_interval.low:.3f}, {row.a_interval.high:.3f}]" in labels
    assert figures["approaches"].axes[0].get_title(loc="left").endswith("on one table, training alone")
    slices = [text.get_text() for text in figures["isoflop_slices"].axes[0].get_legend().get_texts()]
    assert f"parabola\na = {found.approaches[1].a:.3f}" in slices
    assert f"a = {found.approaches[0].a:.3f}" in figures["envelope"].axes[0].get_title(loc="left")


def test_the_bias_figure_shows_published_values_on_our_curve():
    law = isoflop_bias.SURFACES["Chinchilla"]
    widths = list(isoflop_bias.WIDTHS)
    grids = [isoflop_bias.Grid(width) for width in widths]
    curves = [isoflop_bias.sweep(name, widths, [law] * 4, grids) for name in ("other", "Chinchilla", "another")]
    d = np.array(isoflop_bias.PUBLISHED["Chinchilla"])
    record = {"published": {"Chinchilla": {"width": widths, "n": (-d / (1 + d)).tolist()}}}
    record |= dict.fromkeys(("width", "asymmetry", "offset", "drift"), curves)
    figure = plots.isoflop_bias(record)
    (crosses,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    dashed = figure.axes[0].lines[2]
    assert crosses.get_color() == dashed.get_color()
    assert crosses.get_ydata() == pytest.approx(dashed.get_ydata(), rel=1e-9)
