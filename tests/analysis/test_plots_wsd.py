"""Figures of the studies of schedules: what stands where, and that nothing stands on anything else."""

import itertools
import re
import runpy

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis.figures.study_tables import draw_tables
from analysis.plots import dynamics, stable_phase, wsd
from scaling.errors import UserError

LOSS = wsd.LOSS
SIZES, SEEDS = {16: 12_000, 24: 27_000}, (0, 1)


def points(labels_and_losses, kind="decay"):
    """A table of points of two sizes and two seeds; larger models are 0.3 lower, seed 1 0.01 higher."""
    rows = []
    for (width, size), seed in itertools.product(SIZES.items(), SEEDS):
        for label, multiple, loss in labels_and_losses:
            row = {"label": f"w{width}-seed{seed}/{label}", "N": size, "seed": seed, "kind": kind}
            row |= {"D_total": multiple * size, "C_6ND": 6 * size**2 * multiple}
            rows.append(row | {LOSS: loss - 0.3 * (width == 24) + 0.01 * seed})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def cosines():
    cells = [(f"cosine-T{t}N-S{s}N", s, 2 + abs(np.log2(t / s)) / 10) for t in (20, 40, 80) for s in (40, 60, 80)]
    cells += [("cosine-T60N-S60N", 60, 2.0), ("cosine_loop-T20N-S40N", 40, 2.5)]
    return points(cells)


@pytest.fixture(scope="module")
def figures(cosines):
    shares = [(f"{n}N-{s:.1f}%", n, 2.0 + 0.1 * (10 - s) / 10) for n in (40, 60, 80) for s in (2.5, 5, 10, 20)]
    shapes = [(f"{shape}-to-{end}", 60, 2 + shift) for shape, end, shift in SHAPES]
    ends = points([(f"{n}N", n, 2 - n / 1000) for n in (40, 60, 80)])
    stable = points([(f"{n}N-stable", n, 2.1 - n / 1000) for n in (40, 60, 80)], kind="schedule")
    data = points([(f"{n}N", n, 3 - np.log10(n) / 2) for n in (20, 40, 80, 160, 320)])
    return {
        "horizon": wsd.cosine_horizon(cosines),
        "share": wsd.decay_share(points(shares), cosines),
        "shapes": wsd.decay_shapes(points(shapes)),
        "when": stable_phase.when_to_decay(pd.concat([ends, stable]), curves(), cosines),
        "data": stable_phase.small_model_more_data(data),
        "stability": stable_phase.constant_rate_stability(*stability()),
        "dynamics": dynamics.decay_dynamics(replayed(), replayed(end=0.01)),
    }


SHAPES = (("one_minus_sqrt", 0, 0.0), ("linear", 0, 0.01), ("linear", 0.1, 0.03), ("exponential", 0.01, -0.01))


def curves(suffix=""):
    tables = []
    for (width, size), seed in itertools.product(SIZES.items(), SEEDS):
        runs = {"": ("trunk", 1, 72)} | {f"/{n}N": ("decay", 0.9 * n, n) for n in (40, 60, 80)}
        for name, (kind, first, last) in runs.items():
            tokens = size * np.linspace(first, last, 30)
            loss = 3 - np.log10(tokens / size)
            run = f"w{width}-seed{seed}{suffix}{name}"
            tables.append(pd.DataFrame({"run": run, "kind": kind, "N": size, "tokens": tokens, "loss": loss}))
    return pd.concat(tables, ignore_index=True)


def stability():
    trunks, ends, steady = [], [], []
    for rate, lift in ((0.01, 0.0), (0.1, 0.5)):
        trunk = curves(f"-rate{rate:g}")
        trunks.append(trunk.assign(loss=trunk["loss"] + lift))
        ends.append(points([(f"{n}N", n, 2 - n / 1000 + lift) for n in (40, 60, 80)]))
        ends[-1]["label"] = ends[-1]["label"].str.replace("/", f"-rate{rate:g}/")
        for width, size in SIZES.items():
            tenths = {"tokens": size * np.linspace(8, 72, 10), "steps": 500, "grad_norm": 0.2 + lift, "spikes": 3}
            steady.append(pd.DataFrame({"label": f"w{width}-seed0-rate{rate:g}", "N": size, "peak": rate} | tenths))
    return pd.concat(ends), pd.concat(trunks), pd.concat(steady)


def replayed(steps=200, decay=100, end=0.1):
    rng = np.random.default_rng(0)
    rate = 0.01 * np.concatenate([np.ones(decay), end ** (np.arange(1, steps - decay + 1) / (steps - decay))])
    table = {"step": np.arange(1001, 1001 + steps), "learning_rate": rate}
    table |= {"change_hidden": 3 * rate, "change_embedding": 4 * rate}
    for batch in ("batch", "fixed"):
        table |= {f"{batch}_{name}": np.exp(rng.normal(size=steps)) for name in ("norm", "d1", "d2", "curvature")}
        table[f"{batch}_cosine"] = rng.uniform(-1, 1, steps)
    return pd.DataFrame(table)


@pytest.mark.parametrize("name", ["horizon", "share", "shapes", "when", "data", "stability", "dynamics"])
def test_nothing_overlaps(figures, name):
    figure = figures[name]
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [legend.get_window_extent() for legend in figure.legends]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("name", ["horizon", "share", "shapes", "when", "data", "stability", "dynamics"])
def test_axes_say_what_they_show(figures, name):
    figure = figures[name]
    assert any("nats per token" in axes.get_ylabel() + axes.get_xlabel() for axes in figure.axes) or name == "dynamics"
    shared = {axes.get_subplotspec().colspan.start for axes in figure.axes if axes.get_xlabel()}
    assert shared == {axes.get_subplotspec().colspan.start for axes in figure.axes}


def lines(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_horizons_are_differences_from_the_matched_cosine(figures):
    """Loss rises by 0.1 for every factor of two between T and S, whatever size and seed add to it."""
    panel = figures["horizon"].axes[0]
    assert panel.get_title(loc="left") == "S = 40 N"
    for line in lines(panel, "o"):
        assert dict(zip(line.get_xdata(), np.round(line.get_ydata(), 9), strict=True)) == {0.5: 0.1, 1.0: 0.0, 2.0: 0.1}
    for line in lines(panel, "D"):
        assert (line.get_xdata().tolist(), np.round(line.get_ydata(), 9).tolist()) == ([0.5], [0.5])


def test_shares_are_differences_from_a_tenth_with_the_cosines_beside(figures):
    panel = figures["share"].axes[0]
    for line in lines(panel, "o"):
        assert line.get_xdata() == pytest.approx([2.5, 5, 10, 20])
        assert line.get_ydata() == pytest.approx([0.075, 0.05, 0, -0.1])
    cosines = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in cosines] == pytest.approx([0.0, 0.0])


def test_shapes_stand_best_first(figures):
    axes = figures["shapes"].axes[0]
    ticks = dict(zip(axes.get_yticks(), [label.get_text() for label in axes.get_yticklabels()], strict=True))
    names = ["exponential to 1%", "1-sqrt to 0", "linear to 0", "linear to 10%"]
    assert [ticks[height] for height in sorted(ticks, reverse=True)] == names
    means = [line.get_xdata()[0] for line in axes.lines if line.get_linewidth() == 1.6]
    assert sorted(means) == pytest.approx([-0.01, 0, 0.01, 0.03])


def test_decayed_and_stable_ends_are_means_over_seeds(figures):
    below = figures["when"].axes[2]
    stable, decayed = lines(below, "o")
    assert decayed.get_ydata() == pytest.approx([1.965, 1.945, 1.925])
    assert stable.get_ydata() == pytest.approx([2.065, 2.045, 2.025])
    (cosine,) = lines(below, "x")
    assert cosine.get_ydata() == pytest.approx([2.005] * 3)


def test_a_match_is_marked_where_the_curves_cross_and_told_in_words(figures):
    figure = figures["data"]
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    # 0.3 nats are a factor of 10^0.6 = 3.98 in tokens per parameter
    ratio = 40 * 10**0.6
    assert star.get_xdata() == pytest.approx([6 * 12_000**2 * ratio])
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "at 159 N and 159 N, 0.79 and 0.79 times" in said[-1]
    assert "0.44 times that of inference" in said[-1]


def test_what_was_not_reached_is_said():
    far = points([(f"{n}N", n, 5 - np.log10(n) / 10) for n in (20, 40, 80)])
    far = far[(far["N"] == 12_000) | (far["D_total"] == 40 * far["N"])]
    said = [text.get_text() for text in stable_phase.small_model_more_data(far).legends[0].get_texts()]
    assert "not reached by 80 N, 0.270 nats short" in said[-1]


def test_spikes_are_a_rate_and_every_rate_has_its_colour(figures):
    grid = np.array(figures["stability"].axes).reshape(4, 2)
    for line in grid[2, 0].lines:
        assert line.get_ydata() == pytest.approx([6.0] * 10)
    colours = [[to_hex(line.get_color()) for line in axes.lines] for axes in grid[:, 0]]
    assert len(set(colours[0])) == 2
    assert all(found == colours[0] for found in colours)


def test_a_rate_that_a_size_lacks_and_a_trunk_that_failed_at_once_leave_the_others_drawn():
    ends, trunks, steady = stability()
    failed = steady["label"] == "w24-seed0-rate0.1"
    nulls = steady[failed].head(1).assign(tokens=np.nan, steps=np.nan, grad_norm=np.nan, spikes=np.nan)
    steady = pd.concat([steady[~failed & (steady["label"] != "w16-seed0-rate0.1")], nulls])
    figure = stable_phase.constant_rate_stability(
        ends, trunks[~trunks["run"].str.startswith("w24-seed0-rate0.1")], steady
    )
    figure.draw_without_rendering()
    grid = np.array(figure.axes).reshape(4, 2)
    assert [len(axes.lines) for axes in grid[1]] == [1, 2]
    drawn = [np.isfinite(line.get_ydata().astype(float)).sum() for line in grid[1, 1].lines]
    assert drawn == [10, 0]


def test_the_decay_is_marked_where_it_begins(figures):
    for axes in figures["dynamics"].axes:
        assert axes.lines[0].get_xdata()[0] == 1100


def test_a_figure_lies_beside_its_tables_and_a_missing_one_is_named(tmp_path, cosines):
    (tmp_path / "cosine_horizon").mkdir()
    cosines.to_csv(tmp_path / "cosine_horizon" / "points.csv", index=False)
    made = draw_tables(wsd.cosine_horizon, tmp_path, "cosine_horizon", ("cosine_horizon/points",))
    assert [path.relative_to(tmp_path).as_posix() for path in made] == [
        "cosine_horizon/cosine_horizon.png",
        "cosine_horizon/cosine_horizon.pdf",
    ]
    with pytest.raises(UserError, match=r"decay_share/points.csv: `windtunnel run decay_share`, then `python -m"):
        draw_tables(wsd.decay_share, tmp_path, "decay_share", ("decay_share/points", "cosine_horizon/points"))


def written_by(script, results, monkeypatch, capsys):
    """The commands that a figure's script names for the first table that is not there."""
    monkeypatch.setattr("sys.argv", [script, "--results", str(results)])
    with pytest.raises(SystemExit):
        runpy.run_module(f"analysis.figures.{script}", run_name="__main__")
    return re.findall("`(.*?)`", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("script", "writer"),
    [
        ("constant_rate_stability", "python -m analysis.record_study constant_rate_stability --curves --steadiness"),
        ("when_to_decay", "python -m analysis.record_study when_to_decay --curves"),
        ("decay_dynamics", "python -m experiments.decay_dynamics"),
        ("decay_shapes", "python -m analysis.record_study decay_shapes"),
    ],
)
def test_the_command_that_writes_a_missing_table_is_named(script, writer, tmp_path, monkeypatch, capsys):
    assert written_by(script, tmp_path, monkeypatch, capsys) == [f"windtunnel run {script}", writer]


def test_another_studys_table_is_written_by_its_own_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "when_to_decay").mkdir()
    for name in ("points", "curves"):
        (tmp_path / "when_to_decay" / f"{name}.csv").touch()
    said = written_by("when_to_decay", tmp_path, monkeypatch, capsys)
    assert said == ["windtunnel run cosine_horizon", "python -m analysis.record_study cosine_horizon"]
