import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import plots
from scaling.laws import published, report, table
from scaling.laws.forms import CHINCHILLA


@pytest.fixture(scope="module")
def found() -> report.Report:
    n = np.repeat([12e3, 24e3, 47e3, 95e3, 190e3, 24e3], 4)
    d = n * np.tile([20, 40, 60, 80], 6)
    law = {"E": 1.2, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38}
    loss = CHINCHILLA.predict(law, {"n": n, "d": d}) * np.exp(np.random.default_rng(0).normal(0, 2e-3, 24))
    trunk = np.repeat(list("abcdef"), 4)
    points = table.from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss, "trunk": trunk}))
    return report.analyse(points, budgets=(1e14,), bytes_per_token=2.0, replicates=100)


def legend_is_beside_the_data(figure: Figure) -> bool:
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend().get_window_extent()
    others = [axis.get_tightbbox() for axis in axes.child_axes]
    return not axes.get_window_extent().overlaps(legend) and not any(o.overlaps(legend) for o in others)


def test_every_point_is_drawn_once_and_the_held_out_ones_differ(found):
    figure = plots.points_and_law(found)
    lines = figure.axes[0].lines

    def drawn(marker: str) -> list[tuple[float, float]]:
        return sorted(xy for line in lines if line.get_marker() == marker for xy in zip(*line.get_data(), strict=True))

    rows, data = found.holdout.rows, found.fit.table
    assert drawn("o") == sorted(zip(data.columns["d"][~rows], data.loss[~rows], strict=True))
    assert drawn("D") == sorted(zip(data.columns["d"][rows], data.loss[rows], strict=True))
    (dashed,) = [line for line in lines if line.get_linestyle() == "--"]
    d, loss = dashed.get_data()
    assert loss == pytest.approx(found.holdout.fit.predict({"n": np.full(80, 190e3), "d": d}))
    assert legend_is_beside_the_data(figure)


def test_optimal_ratio_draws_the_laws_at_their_budgets(found):
    figure = plots.optimal_ratio(found)
    solid = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    curves = [lambda c: 2.0 * found.fit.form.optimum(found.fit.params, c)["d"] ** 2 * 6 / c] + [
        lambda c, law=law: law.bytes_per_token * law.tokens_per_parameter(c) for law in published.HEADLINE
    ]
    ranges = [6 * found.fit.table.columns["n"] * found.fit.table.columns["d"]] + [
        np.array(law.flops_range) for law in published.HEADLINE
    ]
    for line, curve, fitted in zip(solid, curves, ranges, strict=True):
        c, ratio = line.get_data()
        inside = np.isfinite(ratio)
        assert ratio[inside] == pytest.approx(curve(c[inside]))
        assert np.all((c[inside] >= fitted.min()) & (c[inside] <= fitted.max()))
    assert legend_is_beside_the_data(figure)


def test_loss_curves_tell_trunks_from_branches():
    tokens = np.geomspace(1e4, 1e6, 50)
    log = pd.concat(
        [
            pd.DataFrame({"run": "t", "kind": "trunk", "N": 12e3, "tokens": tokens, "loss": 3.0}),
            pd.DataFrame({"run": "b", "kind": "decay", "N": 12e3, "tokens": [9e5, 1e6], "loss": [3.0, 2.8]}),
            pd.DataFrame({"run": "c", "kind": "whole", "N": 12e3, "tokens": [1e4, 2e6], "loss": [3.0, 2.7]}),
        ]
    )
    figure = plots.loss_curves(log)
    trunk, branch, end, whole, whole_end = figure.axes[0].lines
    assert trunk.get_linewidth() < branch.get_linewidth()
    assert end.get_xydata().tolist() == [[1e6, 2.8]]
    assert [line.get_linestyle() for line in (trunk, branch, whole)] == ["-", "-", "--"]
    assert whole_end.get_xydata().tolist() == [[2e6, 2.7]]
    entries = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert entries == ["N = 12k", "trunk (constant rate)", "decay branch", "whole run (own schedule)"]
    assert legend_is_beside_the_data(figure)


def test_save_writes_both_kinds_and_leaves_nothing_else(tmp_path, monkeypatch):
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    paths = plots.save(figure, tmp_path / "new" / "figure.v1")
    assert [path.name for path in paths] == ["figure.v1.png", "figure.v1.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    before = [path.read_bytes() for path in paths]

    def fails(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, tmp_path / "new" / "figure.v1")
    assert [path.read_bytes() for path in paths] == before
    assert len(list((tmp_path / "new").iterdir())) == 2
