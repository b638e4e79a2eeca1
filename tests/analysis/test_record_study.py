import dataclasses

import numpy as np
import pandas as pd
import pytest
import tiny

from analysis.record_study import record, thinned
from scaling import run
from scaling.errors import UserError
from scaling.records import RunStore, points
from scaling.run import dispatch_for


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


@pytest.mark.parametrize("failed", [0, 1, 7])
def test_a_trunk_that_failed_at_once_is_kept_too(tmp_path, data_dir, monkeypatch, failed):
    """One of two diverges after so many steps: a row for each of them, or a row of nulls."""

    def not_finite_from(config, execution):
        dispatch = dispatch_for(config, execution)

        def broken(state, rows, hyper, counts):
            steps = np.asarray(state.step)[:, None] + np.arange(execution.steps_per_dispatch)
            state, metrics = dispatch(state, rows, hyper, counts)
            return state, metrics | {"loss": np.where(steps >= failed, np.nan, metrics["loss"])}

        return broken if config.seed else dispatch

    monkeypatch.setattr(run, "dispatch_for", not_finite_from)
    study = tiny.study((tiny.decay(30),), execution=dataclasses.replace(tiny.EXECUTION, runs_per_group=1))
    broken = tiny.study((tiny.decay(30),), config=tiny.changed(seed=1), label="broken")
    study = dataclasses.replace(study, runs=study.runs + broken.runs)
    made = tiny.execute(study, tmp_path / "runs", data_dir)
    record(made.store, "tiny", tmp_path / "kept", with_curves=True, with_steadiness=True)
    steady = pd.read_csv(tmp_path / "kept" / "steadiness.csv").groupby("label")
    found = steady.get_group("broken")
    assert set(found["state"]) == {"failed"}
    assert found["steps"].fillna(0).tolist() == ([1] * failed or [0])
    assert found["tokens"].dropna().tolist() == [64 * step for step in range(1, failed + 1)]
    assert steady.get_group("t")["steps"].sum() == 24


def test_steadiness_is_of_trunks(tmp_path, data_dir):
    study = dataclasses.replace(tiny.study(), runs=(tiny.RunSpec("whole", tiny.whole(tiny.TRUNK, 8, 4)),))
    made = tiny.execute(study, tmp_path / "runs", data_dir)
    with pytest.raises(UserError, match="study 'tiny' has no trunk"):
        record(made.store, "tiny", tmp_path / "kept", with_steadiness=True)


def test_what_is_not_trained_or_not_finished_is_refused(tmp_path, data_dir):
    with pytest.raises(UserError, match="`windtunnel run tiny` trains it"):
        record(RunStore(tmp_path), "tiny", tmp_path / "kept")
    tiny.executor(tiny.study(), tmp_path, data_dir).write_plan()
    with pytest.raises(UserError, match=r"3 of 3 runs are not finished \(t, ...\)"):
        record(RunStore(tmp_path), "tiny", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
