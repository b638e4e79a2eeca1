"""Figures of long rows: every branch and test is where its table says."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis.figures.study_tables import draw_tables
from analysis.plots import long_context
from scaling.errors import UserError

LABELS = ("w64/dense", "w64/dense/sparse-untrained", "w64/sparse", "w64/untrained")


@pytest.fixture(scope="module")
def tables():
    positions = pd.DataFrame(
        {"label": label, "domain": domain, "first": first, "last": first + 127, "standard_error": 0.01}
        | {"nats_per_token": 3 - np.log10(first) + place + (domain == "pairs")}
        for (place, label), domain, first in itertools.product(
            enumerate(LABELS), ("code", "pairs"), range(1, 1024, 128)
        )
    )
    retrieval = pd.DataFrame(
        {"label": label, "test": test, "length": length, "depth": depth, "questions": 4}
        | {"accuracy": (place / 8 + depth / 2) * (test == "needle")}
        for (place, label), test, length, depth in itertools.product(
            enumerate(LABELS), ("key_value", "needle"), (512, 1024, 2048), (0.25, 0.75)
        )
    )
    return positions, retrieval


def curves(axes):
    return {to_hex(line.get_color()) + str(line.get_linestyle()): line.get_ydata() for line in axes.lines}


def test_every_curve_is_its_table(tables):
    positions, retrieval = tables
    figure = long_context.long_context(positions, retrieval)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels[:2]] == ["loss on code", "loss on pairs"]
    assert len(panels) == 2 + 2 * 3
    code = positions[positions["domain"] == "code"].groupby("label")["nats_per_token"].apply(list)
    drawn = [list(line.get_ydata()) for line in panels[0].lines if len(line.get_ydata()) == 8]
    np.testing.assert_allclose(sorted(drawn), sorted(code))
    needles = panels[2 + 3 + 1]
    assert needles.get_title(loc="left") == "needles in code, 1024 tokens"
    found = {tuple(line.get_ydata()) for line in needles.lines}
    assert found == {(place / 8 + 0.125, place / 8 + 0.375) for place in range(4)}
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["dense", "sparse", "the dense one, read sparsely", "trunk, untrained at this length"]


def test_branches_are_told_apart_by_more_than_their_place(tables):
    figure = long_context.long_context(*tables)
    assert len(curves(figure.axes[3])) == len(LABELS)


def test_the_distance_from_dense_is_drawn_against_what_is_visible():
    runs = [("dense-1024", 2.0), ("window-64", 2.5), ("window-256", 2.2), ("selected-256", 2.1)]
    points = pd.DataFrame([{"label": label, long_context.LOSS: loss} for label, loss in runs])
    assert list(long_context.visibility(points)["visible"]) == [1024, 64, 256, 256]
    axes = long_context.attention_law(points).axes[0]
    selected, window, _ = axes.lines
    assert list(window.get_xdata()) == [64, 256]
    assert list(window.get_ydata()) == pytest.approx([0.5, 0.2])
    assert list(selected.get_ydata()) == pytest.approx([0.1])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="record_study sparse_long_context"):
        draw_tables(
            long_context.long_context, tmp_path, "sparse_long_context", ("sparse_long_context/loss_by_position",)
        )


def test_figures_are_saved(tables, tmp_path):
    folder = tmp_path / "sparse_long_context"
    folder.mkdir()
    for name, table in zip(("loss_by_position", "retrieval"), tables, strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    names = tuple(f"sparse_long_context/{name}" for name in ("loss_by_position", "retrieval"))
    paths = draw_tables(long_context.long_context, tmp_path, "sparse_long_context", names)
    assert [path.name for path in paths] == ["sparse_long_context.png", "sparse_long_context.pdf"]
    assert paths[0].stat().st_size > 20_000
