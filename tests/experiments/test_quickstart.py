"""What the quickstart promises, read off its plan."""

import pytest

from experiments import quickstart
from scaling.data import sources
from scaling.study import plan_study

# tokens of the training split, with and without the standard library's tests (a little below what was seen)
TEXT = {(): 30_000_000, (sources.NO_TEST_PACKAGE,): 11_000_000}


@pytest.mark.parametrize("notes", TEXT, ids=["whole", "stripped"])
def test_the_ladder_is_a_real_one_and_there_is_text_for_it(monkeypatch, notes):
    monkeypatch.setattr(sources, "notes", lambda source: notes)
    study = quickstart.study()
    planned = plan_study(study)
    assert len(study.runs) >= 6
    sizes = sorted({entry.entry()["N"] for entry in planned})
    assert len(sizes) == 5
    assert 11_000 < sizes[0] < 13_000
    assert sizes[-1] > 180_000 or notes
    for entry in (entry for entry in planned if entry.is_point):
        row = entry.entry()
        assert entry.stop >= 400
        assert entry.stop - entry.start >= 40
        assert row["D_decay"] == pytest.approx(0.1 * row["D_total"], rel=0.02)
        assert row["D_total"] <= TEXT[notes]
    for spec in study.runs:
        row = [e.entry() for e in planned if e.trunk_label == spec.label and e.is_point]
        assert {20, 40, 60, 80} <= {round(r["D_total"] / r["N"]) for r in row}
