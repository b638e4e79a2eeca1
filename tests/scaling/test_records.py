import dataclasses
import math

import pytest
import tiny

from scaling import storage
from scaling.errors import UserError
from scaling.records import ResultRow, RunStore, measurements, points, status


def row_of(run, state="complete", step=10, reason=None):
    return ResultRow(run, state, step, 64 * step, 64 * step, 0.5, 2.5, reason, [], {}, {"seconds": 1.0})


def entry(label, run, start, stop, trunk="a"):
    flops = {"6ND": 1e6 * stop}
    return {
        "label": label, "kind": "decay" if start else "trunk", "run": run, "trunk": trunk, "trunk_label": "t",
        "is_point": start > 0, "seed": 0, "N": 100, "N_total": 120, "start": start, "stop": stop,
        "D_total": 64 * stop, "D_stable": 64 * start, "D_decay": 64 * (stop - start), "flops": flops,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path)
    entries = [entry("t", "a", 0, 20), entry("t/1", "b", 10, 12), entry("t/2", "c", 20, 24)]
    storage.write_json(store.study_dir("s") / "plan.json", {"entries": entries, "evaluation_digest": "e"})
    return store


def evaluation(step=12, digest="e", domain="code", nats=1.5):
    return {"step": step, "digest": digest, "domain": domain,
            "nats_per_token": nats, "nats_per_byte": nats, "bits_per_byte": nats}  # fmt: skip


def states(store):
    return {label: row.state for label, row in status(store, "s").items()}


def test_status_tells_what_lies_on_disk(store):
    assert states(store) == {"t": "missing", "t/1": "missing", "t/2": "missing"}
    store.run_dir("a").mkdir(parents=True)
    storage.append_lines(store.log_path("a"), [{"step": step} for step in range(1, 15)])
    assert status(store, "s")["t"].state == "partial"
    assert status(store, "s")["t"].done == 14
    store.write_result(row_of("a", step=19))  # by a study that asked for less
    assert states(store)["t"] == "partial"
    store.write_result(row_of("a", step=99))
    assert states(store)["t"] == "complete"
    store.write_result(row_of("b", step=12))
    assert states(store) == {"t": "complete", "t/1": "complete", "t/2": "missing"}


def test_branches_behind_a_failure_failed_with_their_trunk(store):
    store.write_result(row_of("a", "failed", step=15, reason="loss nan"))
    rows = status(store, "s")
    assert (rows["t"].state, rows["t"].done, rows["t"].reason) == ("failed", 15, "loss nan")
    assert rows["t/1"].state == "missing"  # leaves before the failure
    assert (rows["t/2"].state, rows["t/2"].done) == ("failed", 20)
    assert rows["t/2"].reason == "left out, because t failed: loss nan"
    store.write_result(row_of("c", step=24))  # trained before its trunk was
    assert states(store)["t/2"] == "complete"


def test_a_run_that_failed_at_its_end_is_no_complete_one(store):
    store.write_result(row_of("b", "failed", step=12, reason="not finite"))
    store.add_evaluations("b", [evaluation()])
    row = status(store, "s")["t/1"]
    assert (row.state, row.done, row.reason) == ("failed", 12, "not finite")
    assert points(store, "s").empty
    store.write_result(row_of("b", "failed", step=13, reason="not finite"))  # after it, for another study
    row = status(store, "s")["t/1"]
    assert (row.state, row.done, row.reason) == ("complete", 12, None)
    assert points(store, "s")["nats_per_token/code"].tolist() == [1.5]


def test_points_are_finished_branches_with_the_plans_evaluation(store):
    assert points(store, "s").empty
    for run, stop in (("a", 20), ("b", 12)):
        store.write_result(row_of(run, step=stop))
    store.add_evaluations("b", [evaluation(), evaluation(11, nats=9.0), evaluation(digest="other", nats=9.0)])
    table = points(store, "s")
    assert table["label"].tolist() == ["t/1"]
    row = table.iloc[0]
    assert (row["N"], row["D_total"], row["D_decay"], row["D_unique"]) == (100, 768, 128, 768)
    assert (row["C_6ND"], row["nats_per_token/code"]) == (12e6, 1.5)
    assert math.isnan(row["learning_rate"])  # its config is not there
    store.write_config("b", {"run": "b", "config": {"schedule": {"peak": 0.02}}})
    assert points(store, "s")["learning_rate"].tolist() == [0.02]
    store.write_result(row_of("b", "failed", step=12, reason="x"))
    assert points(store, "s").empty


def test_a_point_read_off_before_its_runs_end_has_not_the_ends_metrics(store):
    store.write_result(row_of("b", step=16))
    store.add_evaluations("b", [evaluation()])
    row = points(store, "s").iloc[0]
    assert (row["D_total"], row["nats_per_token/code"]) == (768, 1.5)
    assert row[["D_unique", "epochs", "train_loss"]].isna().all()


def test_evaluations_of_the_same_key_are_replaced(store):
    store.add_evaluations("b", [evaluation(nats=1.0), evaluation(domain="prose")])
    path = store.run_dir("b") / "evaluations.jsonl"
    path.write_text(path.read_text()[:-9])  # as a copy cut short would leave it
    store.add_evaluations("b", [evaluation(nats=2.0), evaluation(domain="prose")])
    rows = store.evaluations("b")
    assert [(row["domain"], row["nats_per_token"]) for row in rows] == [("code", 2.0), ("prose", 1.5)]


def test_result_comes_back_as_it_was_and_a_damaged_one_is_named(store):
    row = row_of("a")
    store.write_result(row)
    assert store.result("a") == row
    path = store.run_dir("a") / "result.json"
    path.write_text(path.read_text().replace('"tokens"', '"tokenz"'))
    with pytest.raises(UserError, match=r"result\.json is damaged .*tokenz"):
        store.result("a")
    assert store.result("none") is None


def test_a_finished_study_is_read_without_its_training_code(undisturbed):
    table = points(RunStore(undisturbed), "tiny")
    assert table["label"].tolist() == ["t/30", "t/50"]
    assert table["D_total"].tolist() == [30 * 64, 50 * 64]
    assert table["D_decay"].tolist() == [6 * 64, 10 * 64]
    assert table["learning_rate"].tolist() == [tiny.TRUNK.schedule.peak] * 2
    assert (table["D_unique"] == table["D_total"]).all()
    assert (table["nats_per_token/code"] < 5.6).all()  # of ln 259 = 5.56 and more at the start
    assert table["nats_per_token/code"].is_monotonic_decreasing
    assert {row.state for row in status(RunStore(undisturbed), "tiny").values()} == {"complete"}
    assert dataclasses.asdict(RunStore(undisturbed).result(table["run"][0]))["measured"]["seconds"] > 0
    assert len(RunStore(undisturbed).log(table["trunk"][0])) == 40
    assert tiny.outcome(undisturbed).keys() == {*table["run"], table["trunk"][0]}


def test_measurements_are_kept_by_step_digest_and_measure_and_read_by_the_plans(store):
    store.add_measurements(
        "b", 12, "e", "retrieval", [{"depth": 0.5, "accuracy": 0.1}, {"depth": 0.9, "accuracy": 0.2}]
    )
    store.add_measurements("b", 12, "e", "loss_by_position", [{"first": 1, "last": 8, "nats_per_token": 2.0}])
    store.add_measurements("b", 12, "other", "retrieval", [{"depth": 0.5, "accuracy": 0.9}])
    store.add_measurements("b", 11, "e", "retrieval", [{"depth": 0.5, "accuracy": 0.8}])
    store.add_measurements("b", 12, "e", "retrieval", [{"depth": 0.5, "accuracy": 0.3}])  # in place of both rows
    assert len(store.measurements("b")) == 4
    found = measurements(store, "s", "retrieval")
    assert found.to_dict("records") == [
        {"label": "t/1", "run": "b", "N": 100, "D_total": 64 * 12, "depth": 0.5, "accuracy": 0.3}
    ]
    assert measurements(store, "s", "loss_by_position")["nats_per_token"].tolist() == [2.0]
    assert measurements(store, "s", "else").empty
