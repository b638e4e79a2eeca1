"""Processes of `windtunnel run` that are killed, told to stop, and started twice at once."""

import json
import os
import random
import signal
import time

import pytest
import tiny

from scaling.checkpoint import Checkpoints
from scaling.records import RunStore, status

# a checkpoint after every dispatch, so that many kills fall into a write
SAVE_OFTEN = "from scaling import run\nrun.SAVE_EVERY_SECONDS = 0.0"
LADDER = "tiny.study((tiny.DecaySpec(240, share=0.75), tiny.DecaySpec(244, share=0.75)))"
TIMEOUT = 250
pytestmark = pytest.mark.slow


def wait_for(condition, process):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ends_well(process):
    out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, out
    return out


def rows_in(root):
    return sum(path.read_bytes().count(b"\n") for path in root.glob("runs/*/log.jsonl"))


def has_begun(root, kind, before):
    """Whether a process has logged steps of such a run since."""
    if not (root / "studies" / "tiny" / "plan.json").exists():
        return False
    logs = [RunStore(root).log_path(row.run) for row in status(RunStore(root), "tiny").values() if row.kind == kind]
    # not empty: beginning again cuts off what no checkpoint covers
    return any(path.exists() and path.stat().st_size and path.stat().st_mtime_ns > before for path in logs)


def in_a_write(root):
    """Whether a checkpoint lies there half written."""
    for folder in root.glob("runs/*/checkpoints"):
        whole = {str(step) for step in Checkpoints(folder).steps()}
        if any(path.is_dir() and path.name not in whole for path in folder.iterdir()):
            return True
    return False


@pytest.mark.timeout(600)
def test_killed_at_random_moments_it_ends_as_if_undisturbed(start, study_file, tmp_path):
    path, root, other = study_file(LADDER, SAVE_OFTEN), tmp_path / "killed", tmp_path / "undisturbed"
    ends_well(start(path, other))
    rng = random.Random(0)
    writes, killed_in = 0, []
    for kind in ["trunk"] * 6 + ["decay"] * 6:
        before = time.time_ns()
        process = start(path, root)
        wait_for(lambda kind=kind, before=before: has_begun(root, kind, before), process)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        writes += in_a_write(root)
        killed_in += [row.kind for row in status(RunStore(root), "tiny").values() if row.state == "partial"]
    ends_well(start(path, root))
    assert {kind: killed_in.count(kind) >= 3 for kind in ("trunk", "decay")} == {"trunk": True, "decay": True}
    assert writes >= 1
    tiny.assert_same_outcome(root, other)


@pytest.mark.timeout(600)
def test_signals_save_say_so_and_the_next_run_goes_on(start, study_file, tmp_path):
    path, root = study_file("tiny.study((tiny.decay(600),))"), tmp_path / "runs"
    reached = [0]
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(path, root)
        wait_for(lambda: rows_in(root) > reached[-1], process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 128 + number, out
        assert "t: stopped and saved at step" in out
        assert "the same command goes on from there" in out
        (folder,) = root.glob("runs/*/checkpoints")
        (step,) = Checkpoints(folder).steps()
        assert step == rows_in(root) > reached[-1]
        assert f"at step {step} of 480" in out
        reached.append(step)


MARKER = """
import json, os
from scaling import step_log
record = step_log.StepLog.record
def marked(log, rows):
    with open({path!r}, "a") as file:
        file.write(json.dumps([os.getpid(), log.path.parent.name, [row.step for row in rows]]) + "\\n")
    record(log, rows)
step_log.StepLog.record = marked
"""


@pytest.mark.timeout(600)
def test_two_processes_train_no_step_twice(start, study_file, tmp_path):
    marks, root = tmp_path / "marks", tmp_path / "runs"
    study = "tiny.study((tiny.decay(120), tiny.decay(240), tiny.decay(360)))"
    path = study_file(study, MARKER.format(path=str(marks)) + SAVE_OFTEN)
    both = [start(path, root), start(path, root)]
    for process in both:
        ends_well(process)
    trained = [json.loads(line) for line in marks.read_text().splitlines()]
    steps = [(run, step) for _, run, rows in trained for step in rows]
    assert len(steps) == len(set(steps)) == 288 + 24 + 48 + 72
    assert {row.state for row in status(RunStore(root), "tiny").values()} == {"complete"}
    alone = tmp_path / "alone"
    ends_well(start(path, alone))
    tiny.assert_same_outcome(root, alone)
