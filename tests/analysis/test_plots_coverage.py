import itertools

import pytest

from analysis.figures.record import draw_record
from analysis.plots.coverage import LABELS, coverage
from scaling.errors import UserError
from scaling.storage import write_json


@pytest.fixture(scope="module")
def record():
    def cell(share):
        return {"coverage": share, "standard_error": 0.01, "width": 1.0}

    def row(design, ratio, ours, naive):
        both = {"by cluster": ours, "by point": naive}
        shares = {how: {name: cell(share + i / 100) for i, name in enumerate(LABELS)} for how, share in both.items()}
        return {"design": design, "trunk_to_point": ratio, "clusters": 8} | shares

    return {"level": 0.9, "rows": [row("quickstart", 1.0, 0.9, 0.8), row("chinchilla", 3.0, 0.85, 0.6)]}


def test_every_coverage_is_drawn_at_its_value_with_its_error(record):
    figure = coverage(record)
    for i, panel in enumerate(figure.axes):
        for bars, shares in zip(panel.containers, ((0.9, 0.85), (0.8, 0.6)), strict=True):
            assert bars.lines[0].get_xdata() == pytest.approx([100 * share + i for share in shares])
            for (low, high), share in zip(bars.lines[2][0].get_segments(), shares, strict=True):
                assert (low[0], high[0]) == pytest.approx((100 * share + i - 2, 100 * share + i + 2))


def test_nothing_overlaps(record):
    figure = coverage(record)
    figure.draw_without_rendering()
    boxes = [panel.get_tightbbox() for panel in figure.axes]
    boxes.append(figure.axes[-1].get_legend().get_window_extent())
    panels = [panel.get_window_extent() for panel in figure.axes]
    for i, panel in enumerate(panels):
        assert not any(panel.overlaps(box) for j, box in enumerate(boxes) if j != i and j < len(panels))
        assert not panel.overlaps(boxes[-1])
    titles = [panel.title.get_window_extent() for panel in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(titles))


def test_figure_is_saved_beside_its_record(record, tmp_path):
    write_json(tmp_path / "coverage.json", record)
    draw_record("coverage", coverage, tmp_path / "coverage.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coverage.json", "coverage.pdf", "coverage.png"]
    with pytest.raises(UserError, match=r"absent.json: run `python -m experiments.simulations.coverage`"):
        draw_record("coverage", coverage, tmp_path / "absent.json")
