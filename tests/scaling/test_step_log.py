from scaling import storage
from scaling.step_log import StepLog
from scaling.train import LogRow


def rows(first, last, loss=2.0):
    return [LogRow(step, 64 * step, 0.01, loss, 1.0, 0.5) for step in range(first, last + 1)]


def logged(path):
    return [(row["step"], row["loss"]) for row in storage.read_lines(path)]


def test_rows_beyond_the_checkpoint_are_cut_off_and_made_again(tmp_path):
    path = tmp_path / "log.jsonl"
    StepLog(path, 0, lambda _: None).record(rows(1, 7, loss=1.0))
    log = StepLog(path, 4, lambda _: None)
    assert log.mean_loss == 1.0
    log.record(rows(5, 6, loss=2.0))  # under another execution, say: what is logged is what led to the state
    assert logged(path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0)]
    assert log.mean_loss == (4 * 1.0 + 2 * 2.0) / 6


def test_a_replay_is_told_of_but_not_logged_again(tmp_path):
    path, told = tmp_path / "log.jsonl", []
    StepLog(path, 0, lambda _: None).record(rows(1, 7))
    log = StepLog(path, 7, told.extend)
    log.record(rows(3, 9, loss=3.0))
    assert [step for step, _ in logged(path)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [row.step for row in told] == [3, 4, 5, 6, 7, 8, 9]


def test_mean_loss_is_that_of_the_last_steps_alone(tmp_path):
    log = StepLog(tmp_path / "log.jsonl", 0, lambda _: None)
    assert log.mean_loss is None
    log.record(rows(1, 100, loss=9.0))
    log.record(rows(101, 150, loss=1.0))
    assert log.mean_loss == 1.0
    assert StepLog(tmp_path / "log.jsonl", 150, lambda _: None).mean_loss == 1.0
