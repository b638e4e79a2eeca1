import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from analysis.plots import diagnostics
from scaling.laws import fit, holdout, profile, table, uncertainty
from scaling.laws.forms import CHINCHILLA, FORMS
from scaling.laws.intervals import Interval

LAW = {"E": 1.2, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38}


@pytest.fixture(scope="module")
def fitted() -> fit.Fit:
    n = np.repeat([12e3, 24e3, 47e3, 95e3, 190e3, 24e3], 4)
    d = n * np.tile([20, 40, 60, 80], 6)
    loss = CHINCHILLA.predict(LAW, {"n": n, "d": d}) * np.exp(np.random.default_rng(0).normal(0, 2e-3, 24))
    columns = {"n": n, "d": d, "flops": 6 * n * d}
    return fit.fit(CHINCHILLA, table.Table(columns, loss, np.repeat(list("abcdef"), 4), {}))


@pytest.fixture(scope="module")
def replicated(fitted) -> uncertainty.Bootstrap:
    return uncertainty.bootstrap(fitted, replicates=100, audit_share=0)


def texts_are_apart(figure: Figure) -> bool:
    """Whether no two tick labels of an axis overlap, nor a legend its axes."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend()
        if legend and axes.get_window_extent().overlaps(legend.get_window_extent()):
            return False
        for axis in (axes.xaxis, axes.yaxis) if axes.get_visible() else ():
            low, high = sorted(axis.get_view_interval())
            shown = [
                t for t in axis.get_majorticklabels() if t.get_visible() and t.get_text() and t.get_rotation() == 0
            ]
            ticks = axis.get_majorticklocs()
            boxes = [t.get_window_extent() for t, at in zip(shown, ticks, strict=False) if low <= at <= high]
            if any(a.overlaps(b) for a, b in itertools.pairwise(boxes)):
                return False
    return True


def test_residuals_are_where_the_points_are(fitted):
    figure = diagnostics.residuals(fitted)
    *panels, bar = figure.axes
    values = [fitted.table.columns["n"], fitted.table.columns["d"], fitted.predict(fitted.table.columns)]
    miss = 100 * (fitted.table.loss / fitted.predict(fitted.table.columns) - 1)
    for axes, expected in zip(panels, values, strict=True):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([expected, miss], -1))
        joined = [line for line in axes.lines if line.get_linewidth() == 0.7]
        assert [len(line.get_xdata()) for line in joined] == [4] * 6
        band = axes.patches[0]
        assert (band.get_y(), band.get_height()) == pytest.approx((-0.1, 0.2))
    assert [axes.get_xlabel() for axes in panels] == ["parameters, N", "training tokens, D", "predicted loss"]
    assert bar.get_ylabel() == "parameters, N"
    low, high = panels[2].get_xlim()
    assert np.sum((panels[2].get_xticks() > low) & (panels[2].get_xticks() < high)) >= 3  # on less than a decade
    assert texts_are_apart(figure)


def test_clouds_hold_every_replicate_and_show_the_ridges(replicated):
    elsewhere = LAW | {"E": 0.2, "A": 900.0}
    known = {"planted": elsewhere}
    figure = diagnostics.bootstrap_clouds(replicated, known)
    names = CHINCHILLA.params
    grid = np.array(figure.axes).reshape(5, 5)
    for row in range(5):
        for column in range(row):
            axes = grid[row, column]
            cloud, planted, ours = axes.lines
            x, y = replicated.params[names[column]], replicated.params[names[row]]
            np.testing.assert_array_equal(cloud.get_xydata(), np.stack([x, y], -1))
            assert planted.get_xydata().tolist() == [[elsewhere[names[column]], elsewhere[names[row]]]]
            best = replicated.fit.params
            assert ours.get_xydata().tolist() == [[best[names[column]], best[names[row]]]]
            (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
            assert low < elsewhere[names[column]] < high
            assert bottom < elsewhere[names[row]] < top
            assert axes.get_xscale() == ("log" if column < 3 else "linear")
    alpha_against_a = grid[names.index("alpha"), names.index("A")]
    assert float(alpha_against_a.texts[0].get_text()) > 0.95
    assert not grid[0, 1].get_visible()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:2] == ["planted", "this fit"]
    assert labels[2] == "100 replicates (components, 6 clusters)"
    figure.draw_without_rendering()
    shown = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    assert not any(box.overlaps(legend.get_window_extent()) for box in shown)
    assert texts_are_apart(figure)


@pytest.mark.parametrize("name", ["alpha", "A"])
def test_a_profile_crosses_its_threshold_at_the_ends_of_its_interval(fitted, name):
    values = fitted.params[name] * np.array([0.7, 0.85, 1.0, 1.15, 1.3])
    interval = Interval(values[1], values[3])
    rise = np.array([8.0, 2.0, 0.0, 2.0, 8.0])
    found = profile.Profile(fitted, name, values, rise, {}, 2.0, 1.0, 0.9, interval)
    figure = diagnostics.profile(found, {"bootstrap": Interval(values[0], values[3])})
    (axes,) = figure.axes
    curve = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(curve.get_xydata(), np.stack([values, rise / 2.0], -1))
    shade = axes.patches[0]
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx(tuple(interval))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-2:] == [
        f"90% interval, {interval.low:.4g} to {interval.high:.4g}",
        f"bootstrap, {values[0]:.4g} to {values[3]:.4g}",
    ]
    assert axes.get_xscale() == ("log" if name == "A" else "linear")
    assert texts_are_apart(figure)


def test_error_against_compute_draws_every_prediction(fitted):
    found = holdout.error_against_compute(CHINCHILLA, fitted.table, "largest_n", cuts=2, replicates=20)
    figure = diagnostics.error_against_compute(found)
    (axes,) = figure.axes
    dots = np.concatenate([line.get_xydata() for line in axes.lines if line.get_marker() == "o"])
    expected = [(row.spent, 100 * e) for row in found.rows for e in row.check.relative_error]
    np.testing.assert_allclose(dots, expected)
    (mean,) = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == len(found.rows)
               and to_rgba(line.get_color()) == to_rgba(diagnostics.OURS)]  # fmt: skip
    np.testing.assert_allclose(mean.get_ydata(), [100 * np.mean(row.check.relative_error) for row in found.rows])
    bottom, top = axes.get_ylim()
    assert bottom < dots[:, 1].min()
    assert dots[:, 1].max() < top
    assert texts_are_apart(figure)


def test_budgets_within_a_decade_or_so_have_labels_that_are_apart(fitted):
    found = holdout.error_against_compute(CHINCHILLA, fitted.table, "largest_n", cuts=3, replicates=20)
    spent = np.geomspace(1.3e21, 2.2e22, len(found.rows))
    rows = tuple(dataclasses.replace(row, spent=cost) for row, cost in zip(found.rows, spent, strict=True))
    figure = diagnostics.error_against_compute(dataclasses.replace(found, rows=rows))
    assert texts_are_apart(figure)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels(which="both") if label.get_text()]
    assert {"2e+21", "5e+21", "1e+22", "2e+22"} <= set(labels)
    assert "3e+21" not in labels


def test_the_legend_of_few_clouds_lies_beside_them():
    flops = np.geomspace(1e17, 1e22, 12)
    loss = (1.7 + 3000 / flops**0.15) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 12))
    points = table.Table({"flops": flops}, loss, np.arange(12).astype(str), {})
    replicated = uncertainty.bootstrap(fit.fit(FORMS["compute"], points), replicates=20, audit_share=0)
    figure = diagnostics.bootstrap_clouds(replicated)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_window_extent()) for axes in figure.axes if axes.get_visible())
