import numpy as np
import pandas as pd
import pytest

from analysis.figures.wind_tunnel import main
from analysis.plots.search import best_so_far, parameters
from scaling.errors import UserError
from scaling.storage import write_json

SPACE = {"learning_rate": (1e-3, 0.3), "init_std": (0.01, 1.0), "scale_emb": (1.0, 100.0)}


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sampler": np.repeat(["tpe", "random"], 12), "number": np.tile(np.arange(12), 2)})
    for name, (low, high) in SPACE.items():
        frame[name] = np.exp(rng.uniform(np.log(low), np.log(high), 24))
    frame["loss"] = rng.uniform(2.0, 3.0, 24)
    frame["state"] = "complete"
    frame.loc[[3, 12], ["state", "loss"]] = "failed", np.nan  # the first of its search, too
    return frame


def row(name, loss, **values):
    middle = {name: (low * high) ** 0.5 for name, (low, high) in SPACE.items()}
    interval = None if loss is None else [loss - 0.02, loss + 0.03]
    losses = {"9": loss, "10": None if loss is None else loss + 0.01}
    return {"name": name, "values": middle | values, "loss": loss, "interval": interval, "losses": losses}


@pytest.fixture(scope="module")
def result():
    searched = [{"name": name, "low": low, "high": high, "log": True} for name, (low, high) in SPACE.items()]
    searches = [
        {"search": {"sampler": sampler, "parameters": searched}, "winner": f"{sampler}-007"}
        for sampler in ("tpe", "random")
    ]
    rows = [row("tpe-007", 2.05), row("random-007", 2.1), row("published", 2.2, init_std=0.1), row("broken", None)]
    budget = {"N": 11_920, "D": 119_296}
    return {"best": rows[0], "comparison": rows, "searches": searches, "interval_level": 0.9, "budget": budget}


def points(axes):
    """Every drawn point as {(x, y)}, to six digits."""
    lines = [line for line in axes.get_lines() if line.get_marker() not in (None, "None", "")]
    return {(f"{x:.6g}", f"{y:.6g}") for line in lines for x, y in zip(*line.get_data(), strict=True)}


def test_every_trial_is_drawn_at_its_value_and_hopeless_or_failed_ones_at_the_edge(trials, result):
    figure = parameters(trials, result)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_xlabel().split(" ")[0] for panel in panels] == ["learning", "init_std", "scale_emb"]
    for panel, name in zip(panels, SPACE, strict=True):
        drawn, edge = points(panel), panel.get_ylim()[1]
        for _, trial in trials.iterrows():
            y = trial["loss"] if trial["loss"] <= edge else edge
            assert (f"{trial[name]:.6g}", f"{y:.6g}") in drawn
    assert (f"{0.1:.6g}", f"{2.2:.6g}") in points(panels[1])  # the peer, where it was published


def test_best_so_far_is_the_running_minimum_whatever_failed(trials, result):
    left, right = best_so_far(trials, result).axes
    for line, sampler in zip(left.get_lines()[::2], ("tpe", "random"), strict=True):
        losses = trials.loc[trials["sampler"] == sampler, "loss"].to_numpy()
        for x, y in zip(*line.get_data(), strict=True):
            known = losses[:x][~np.isnan(losses[:x])]
            assert np.isnan(y) if len(known) == 0 else y == known.min()
    # lowest at the top; what failed has no loss to draw
    assert [label.get_text() for label in right.get_yticklabels()] == ["published", "random-007", "tpe-007"]


def test_nothing_overlaps(trials, result):
    for figure in (parameters(trials, result), best_so_far(trials, result)):
        figure.draw_without_rendering()
        panels = [panel for panel in figure.axes if panel.get_visible()]
        boxes = [panel.get_tightbbox() for panel in panels]
        for i, panel in enumerate(panels):
            others = [box for j, box in enumerate(boxes) if j != i]
            others += [legend.get_window_extent() for legend in figure.legends]
            assert not any(panel.get_window_extent().overlaps(box) for box in others)


def test_the_script_draws_beside_the_tables_and_says_where_none_are(trials, result, tmp_path):
    with pytest.raises(UserError, match=r"no trials\.csv and best\.json"):
        main(tmp_path)
    trials.to_csv(tmp_path / "trials.csv", index=False)
    write_json(tmp_path / "best.json", result)
    assert {path.name for path in main(tmp_path)} == {
        f"{stem}.{kind}" for stem in ("parameters", "best_so_far") for kind in ("png", "pdf")
    }
