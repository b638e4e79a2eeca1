import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.plots import spending
from scaling.laws import allocation, fit, published, suggest, table, uncertainty
from scaling.laws.forms import CHINCHILLA


@pytest.fixture(scope="module")
def replicated() -> uncertainty.Bootstrap:
    n = np.repeat([12e3, 24e3, 47e3, 95e3, 190e3, 24e3], 4)
    d = n * np.tile([20, 40, 60, 80], 6)
    law = {"E": 1.2, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38}
    loss = CHINCHILLA.predict(law, {"n": n, "d": d}) * np.exp(np.random.default_rng(0).normal(0, 2e-3, 24))
    points = table.from_frame(pd.DataFrame({"n": n, "d": d, "loss": loss, "trunk": np.repeat(list("abcdef"), 4)}))
    return uncertainty.bootstrap(fit.fit(CHINCHILLA, points), replicates=100, audit_share=0)


def legend_is_beside_the_data(figure: Figure) -> bool:
    figure.draw_without_rendering()
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return not any(axes.get_window_extent().overlaps(legend.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize("served", [0.0, 1e7])
def test_allocation_draws_the_budget_and_its_flat_region(replicated, served):
    rows = [allocation.allocate(replicated, c, 2.0, inference_tokens=served) for c in (1e12, 1e13)]
    figure = spending.allocation(replicated, rows, bytes_per_token=2.0)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_linewidth() == 1.3]
    flats = [line for line in axes.lines if line.get_linewidth() == 8]
    optima = [line.get_data() for line in axes.lines if line.get_marker() == "o"]
    assert [(n[0], loss[0]) for n, loss in optima] == [(row.n, row.loss) for row in rows]
    for row, curve, flat in zip(rows, curves, flats, strict=True):
        n, loss = curve.get_data()
        d = (row.flops - 2 * n * served) / (6 * n)
        assert loss == pytest.approx(replicated.fit.predict({"n": n, "d": d}))
        n, loss = flat.get_data()
        assert loss.max() <= 1.001 * row.loss
        assert (n[0], n[-1]) == pytest.approx(tuple(row.flat_n), rel=0.05)
    (theirs,) = [line for line in axes.lines if line.get_marker() == "D"]
    law = published.CHINCHILLA_CONVERGED
    for row, n, loss in zip(rows, *theirs.get_data(), strict=True):
        d = n * law.tokens_per_parameter(row.flops) * law.bytes_per_token / 2
        assert 6 * n * d + 2 * n * served == pytest.approx(row.flops)
        assert loss == pytest.approx(float(replicated.fit.predict({"n": n, "d": d})))
        assert loss > row.loss
    assert legend_is_beside_the_data(figure)


def test_suggestion_draws_every_run_once_and_what_it_gives(replicated):
    found = suggest.suggest(replicated, suggest.exponent(1e12), 1e13)
    figure = spending.suggestion(found)
    plane, gain = figure.axes
    drawn = [line.get_data() for line in plane.lines]
    points = found.table.columns
    assert sorted(zip(*drawn[0], strict=True)) == sorted(zip(points["n"], points["d"], strict=True))
    assert [tuple(d) for _, d in drawn[1:]] == [run.tokens for run in found.runs]
    for (n, _), run in zip(drawn[1:], found.runs, strict=True):
        assert n == pytest.approx(run.n, rel=0.5)
    assert len({tuple(n) for n, _ in drawn[1:]}) == len(found.runs)
    labels = [line for text in plane.texts for line in text.get_text().splitlines()]
    seeds = {int(label.split()[0]): int((label + " (x1)").split("(x")[1].split(")")[0]) for label in labels}
    assert seeds == {number: run.seeds for number, run in enumerate(found.runs, 1)}
    assert len(labels) == len(found.runs)
    ours, repeat = gain.lines
    assert [*ours.get_ydata()[1:]] == [run.half_width for run in found.runs]
    assert [*ours.get_xdata()[1:]] == [run.spent for run in found.runs]
    assert repeat.get_xdata()[-1] == pytest.approx(found.budget)
    assert repeat.get_ydata()[-1] == pytest.approx(found.repeat_half_width)
    assert legend_is_beside_the_data(figure)
    boxes = [text.get_window_extent() for text in plane.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_study_is_drawn_by_answer():
    ways = {"start": [0.0], "grid": [2e13, 1e14], "repeat": [0.0, 7e12], "suggest": [1e12, 2e13]}
    answers = {"exponent": {"text": "exponent a", "unit": ""}, "loss": {"text": "loss at N", "unit": "loss"}}
    curves = [
        {
            "way": way,
            "answer": answer,
            "spent": spent,
            "rms_error": [0.1 / (1 + s / 1e12) for s in spent],
            "half_width": [0.2 / (1 + s / 1e12) for s in spent],
        }
        for way, spent in ways.items()
        for answer in answers
    ]
    figure = spending.suggest_vs_grid({"answers": answers, "curves": curves, "studies": 3})
    for axes in figure.axes:
        solid = [line.get_data() for line in axes.lines if line.get_linestyle() == "-"]
        assert [len(x) for x, _ in solid] == [2, 1, 2]  # nothing spent has no place on a log axis
        dotted = [line.get_data() for line in axes.lines if line.get_linestyle() == ":"]
        for (_, error), (_, width) in zip(solid, dotted, strict=True):
            assert width == pytest.approx(2 * error)
    assert legend_is_beside_the_data(figure)
