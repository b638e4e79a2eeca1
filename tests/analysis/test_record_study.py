import pandas as pd
import pytest
import tiny

from analysis.record_study import record, thinned
from scaling.errors import UserError
from scaling.records import RunStore, points


def test_thinning_keeps_the_ends_and_the_order_of_every_run():
    log = pd.DataFrame({"run": ["b"] * 100 + ["a"] * 3, "tokens": [*range(100), 7, 8, 9]})
    found = thinned(log, rows=5)
    assert found["run"].tolist() == ["b"] * 5 + ["a"] * 3
    assert found["tokens"].tolist() == [0, 25, 50, 74, 99, 7, 8, 9]


def test_a_finished_study_is_kept_as_tables(tmp_path, data_dir):
    made = tiny.execute(tiny.study(), tmp_path / "runs", data_dir)
    record(made.store, "tiny", tmp_path / "kept", with_curves=True, with_steadiness=True)
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "kept").iterdir()}
    assert set(tables) == {"points", "curves", "steadiness"}
    pd.testing.assert_frame_equal(tables["points"], points(made.store, "tiny"))
    assert set(tables["curves"]["run"]) == {"t", "t/30", "t/50"}
    steady = tables["steadiness"]
    assert steady["steps"].sum() == 40
    assert (steady["label"].iloc[0], steady["peak"].iloc[0], steady["state"].iloc[0]) == ("t", 0.01, "complete")
    log = made.store.log(tiny.runs_by_label(made)["t"])
    assert steady["loss"].iloc[0] == pytest.approx(log["loss"][:4].median(), abs=1e-4)


def test_what_is_not_trained_or_not_finished_is_refused(tmp_path, data_dir):
    with pytest.raises(UserError, match="`windtunnel run tiny` trains it"):
        record(RunStore(tmp_path), "tiny", tmp_path / "kept")
    tiny.executor(tiny.study(), tmp_path, data_dir).write_plan()
    with pytest.raises(UserError, match=r"3 of 3 runs are not finished \(t, ...\)"):
        record(RunStore(tmp_path), "tiny", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
