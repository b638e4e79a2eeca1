import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.best_rate import best_rates
from analysis.figures import coordinate_check as check_script
from analysis.figures import mup_transfer as sweep_script
from analysis.plots.transfer import HIDDEN, PANELS, coordinate_check, rate_sweep
from scaling.errors import UserError

LOSS = sweep_script.LOSS
BEST = {"both": {12_000: 0.02}, "mup": {48_000: 0.02}, "standard": {48_000: 0.006}}


@pytest.fixture(scope="module")
def points():
    rows = [
        (f"w{n}-{name}-rate{rate}-seed{seed}", n, seed, rate, 2.0 + 0.05 * np.log2(rate / best) ** 2 + 0.01 * seed)
        for name, sizes in BEST.items()
        for n, best in sizes.items()
        for rate, seed in itertools.product(0.015 * 2.0 ** np.arange(-3, 4), (0, 1))
    ]
    return pd.DataFrame(rows, columns=["label", "N", "seed", "learning_rate", LOSS])


@pytest.fixture(scope="module")
def sizes():
    """Under "standard" everything but embeddings grows as the width."""
    parts = [(quantity, part) for quantity, parts, _ in PANELS for part in parts]
    rows = [
        (name, width, step, *key, (step + 1) * (width / 64 if name == "standard" and key[1] != "embedding" else 1))
        for name in ("mup", "standard")
        for width, step, key in itertools.product((64, 256, 1024), (0, 1, 2), parts)
    ]
    return pd.DataFrame(rows, columns=["parametrization", "width", "step", "quantity", "part", "rms"])


def assert_nothing_overlaps(figure):
    figure.draw_without_rendering()
    inside = [axes.get_window_extent() for axes in figure.axes]
    outside = [axes.get_tightbbox() for axes in figure.axes]
    legends = [found.get_window_extent() for found in figure.findobj(matplotlib.legend.Legend)]
    for i, panel in enumerate(inside):
        assert not any(panel.overlaps(box) for j, box in enumerate(outside) if j != i)
        assert not any(panel.overlaps(box) for box in legends)


def test_a_line_per_step_at_its_sizes_and_its_slope_in_the_title(sizes):
    figure = coordinate_check(sizes)
    upper, lower = figure.axes[: len(PANELS)], figure.axes[len(PANELS) :]
    for row, growth in ((upper, 0.0), (lower, 1.0)):
        for axes, (_, parts, _) in zip(row, PANELS, strict=True):
            slope = 0.0 if parts == ("embedding",) else growth
            assert axes.get_title(loc="left").endswith(f"slope at the end: {slope:.2f}")
            for step, line in enumerate(axes.lines):
                assert line.get_xdata().tolist() == [64, 256, 1024]
                assert line.get_ydata() == pytest.approx((step + 1) * (np.array([1, 4, 16]) ** slope))
    assert parts_of(PANELS, "effect") == {*HIDDEN, "head"}
    assert_nothing_overlaps(figure)


def parts_of(panels, quantity):
    return {part for wanted, parts, _ in panels if wanted == quantity for part in parts}


def test_curves_go_through_seed_means_and_optima_are_marked_where_they_are(points):
    runs = sweep_script.sweep(points)
    best = sweep_script.under_each(best_rates(runs, ["parametrization", "N"], LOSS))
    figure = rate_sweep(sweep_script.under_each(runs), best, loss=LOSS)
    for axes, name in zip(figure.axes, ("mup", "standard"), strict=True):
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"]
        assert marks == pytest.approx([BEST["both"][12_000], BEST[name][48_000]])
        curves = [line for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) == 7]
        assert len(curves) == 2
        assert min(curves[0].get_ydata()) == pytest.approx(2.005 + 0.05 * np.log2(0.015 / 0.02) ** 2)
    assert_nothing_overlaps(figure)


def test_scripts_write_beside_their_tables(points, sizes, tmp_path, capsys):
    with pytest.raises(UserError, match="windtunnel run mup_transfer"):
        sweep_script.main(tmp_path)
    with pytest.raises(UserError, match=r"experiments\.coordinate_check"):
        check_script.main(tmp_path)
    points.to_csv(tmp_path / "points.csv", index=False)
    sizes.to_csv(tmp_path / "sizes.csv", index=False)
    written = {path.name for path in sweep_script.main(tmp_path) + check_script.main(tmp_path)}
    assert written == {f"{stem}.{kind}" for stem in ("mup_transfer", "coordinate_check") for kind in ("png", "pdf")}
    table = pd.read_csv(tmp_path / "best_rates.csv")
    assert table[["parametrization", "N"]].to_numpy().tolist() == [
        ["mup", 12_000], ["mup", 48_000], ["standard", 12_000], ["standard", 48_000]
    ]  # fmt: skip
    assert "0.30" in capsys.readouterr().out  # 0.006 / 0.02
