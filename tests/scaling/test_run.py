"""Trunk and branches, resume, replay and failure, end to end in one process."""

import dataclasses
import logging
import re
import shutil
import warnings

import jax
import numpy as np
import pytest
import tiny

from models.config import ModelConfig
from scaling import execute as execute_module
from scaling import run as run_module
from scaling import step_log, storage
from scaling.branches.schedule import ScheduleSpec
from scaling.checkpoint import Checkpoints
from scaling.config import OptimizerConfig, Parent
from scaling.data.loader import Loader
from scaling.errors import UserError
from scaling.jobs import Goal
from scaling.records import RunStore, points, status
from scaling.run import Runner, dispatch_for
from scaling.study import RunSpec
from scaling.train import InterruptedRunError

SHAPES = ("linear", "cosine", "square", "mirror_cosine", "megatron")


def runner_of(root, data_dir, execution=tiny.EXECUTION, **fields):
    return Runner(RunStore(root), data_dir, execution, **fields)


def params_of(runner, config, step):
    return jax.device_get(runner.state_at(config, runner.run_id(config), step).state.params)


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def distance(a, b):
    """Largest difference, relative to the largest value of each array."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max() / np.abs(y).max(), a, b)))


@pytest.fixture
def store(tmp_path, undisturbed):
    """A copy of the finished tiny study's store."""
    shutil.copytree(undisturbed, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def dispatches(monkeypatch):
    """Counts steps computed: (run's schedule, first step) of every dispatch."""
    counted = []
    original = run_module.dispatch_for

    def spy(config, execution):
        dispatch = original(config, execution)

        def counting(state, rows, hyper, counts):
            counted.append(sum(counts))
            return dispatch(state, rows, hyper, counts)

        return counting

    monkeypatch.setattr(run_module, "dispatch_for", spy)
    return counted


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_trunk_and_branch_are_one_uninterrupted_run(tmp_path, data_dir, optimizer):
    runner = runner_of(tmp_path, data_dir)
    config = tiny.changed(optimizer=OptimizerConfig(kind=optimizer))
    runner.ensure([Goal(config, 24, [24])])
    trunk = runner.run_id(config)
    whole = tiny.whole(config, start=24, steps=6)
    branch = tiny.branch_config(config, trunk, whole.schedule.decay)
    runner.ensure([Goal(branch, 30)])
    runner.ensure([Goal(whole, 30)])
    assert_equal_trees(params_of(runner, branch, 30), params_of(runner, whole, 30))
    parts = tiny.log(tmp_path, trunk) + tiny.log(tmp_path, runner.run_id(branch))
    assert parts == tiny.log(tmp_path, runner.run_id(whole))
    assert [row["step"] for row in parts] == list(range(1, 31))
    rows = [runner.store.result(runner.run_id(config)) for config in (branch, whole)]
    assert rows[0].tokens == rows[1].tokens == 30 * 64
    assert rows[0].execution == rows[1].execution
    assert len(rows[0].execution) == 1


@pytest.mark.parametrize("other", [{"devices": 1}, {"microbatches": 2}], ids=["devices", "microbatches"])
@pytest.mark.parametrize("where", ["resume", "branch"])
def test_another_execution_is_warned_of_recorded_and_close(tmp_path, data_dir, other, where):
    trunk, stop = tiny.TRUNK, 40
    runner = runner_of(tmp_path, data_dir)
    runner.ensure([Goal(trunk, 20, [20])])
    config = trunk
    if where == "branch":
        config = tiny.branch_config(trunk, runner.run_id(trunk), tiny.whole(trunk, 20, 20).schedule.decay)
    elsewhere = runner_of(tmp_path, data_dir, dataclasses.replace(tiny.EXECUTION, **other))
    name = next(iter(other))
    with pytest.warns(UserWarning, match=rf"goes on from step 20 under another execution \(.*{name} .* -> "):
        elsewhere.ensure([Goal(config, stop, [stop])])
    segments = runner.store.result(runner.run_id(config)).execution
    assert [segment["from_step"] for segment in segments] == [0, 20]
    assert segments[0]["fingerprint"][name] != segments[1]["fingerprint"][name]
    undisturbed = runner_of(tmp_path / "undisturbed", data_dir)
    undisturbed.ensure([Goal(trunk, 20, [20])])
    undisturbed.ensure([Goal(config, stop, [stop])])
    rows = [tiny.log(root, runner.run_id(config)) for root in (tmp_path, tmp_path / "undisturbed")]
    for name in ("loss", "grad_norm"):  # also the norm: Adam would hide gradients of another scale
        np.testing.assert_allclose(*([row[name] for row in log] for log in rows), rtol=1e-5)
    assert distance(params_of(runner, config, stop), params_of(undisturbed, config, stop)) < 1e-5


def test_a_branch_in_rows_of_another_shape_is_no_other_execution(tmp_path, data_dir):
    runner = runner_of(tmp_path, data_dir)
    runner.ensure([Goal(tiny.TRUNK, 8, [8])])
    data = dataclasses.replace(tiny.DATA, batch_size=1, sequence_length=32)
    branch = tiny.branch_config(
        tiny.TRUNK, runner.run_id(tiny.TRUNK), tiny.whole(tiny.TRUNK, 8, 4).schedule.decay, data
    )
    runner.ensure(
        [Goal(branch, 12)]
    )  # on one device, because one row cannot be split: a warning would be an error here
    assert [s["fingerprint"]["devices"] for s in runner.store.result(runner.run_id(branch)).execution] == [2, 1]


class Killed(BaseException):
    pass


def kill_at(count, original):
    """The function, until its call number `count` kills the process in its stead."""
    calls = iter(range(count))

    def killing(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        return original(*args, **kwargs)

    return killing


PLACES = {
    "checkpoint save": (Checkpoints, "save"),
    "orbax done, no manifest": (storage, "write_json"),
    "log append": (storage, "append_lines"),
    "evaluations and logs": (storage, "write_lines"),
    "log record": (step_log.StepLog, "record"),
    "result": (RunStore, "write_result"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_killed_again_and_again_it_ends_with_the_same_rows(tmp_path, data_dir, undisturbed, monkeypatch, place):
    monkeypatch.setattr(run_module, "SAVE_EVERY_SECONDS", 0.0)  # a checkpoint after every dispatch
    kills = 0
    owner, name = place
    original = getattr(owner, name)
    for count in (0, 0, 1, 1, 2, 5, 3, 9, 4, 40):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, kill_at(count, original))
            try:
                tiny.execute(tiny.study(), tmp_path, data_dir)
            except Killed:
                kills += 1
    tiny.execute(tiny.study(), tmp_path, data_dir)
    assert kills >= 3
    tiny.assert_same_outcome(tmp_path, undisturbed)


def test_checkpoints_for_a_crash_only_do_not_pile_up(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_EVERY_SECONDS", 0.0)
    for stop in (9, 17):  # interrupted twice, in two processes
        asked = iter(range(stop))
        with pytest.raises(InterruptedRunError, match=r"stopped and saved at step \d+ of (24|40)"):
            tiny.execute(tiny.study(), tmp_path, data_dir, stop_requested=lambda asked=asked: next(asked, 3) == 3)
    made = tiny.execute(tiny.study(), tmp_path, data_dir)
    steps = {label: made.runner.checkpoints(run).steps() for label, run in tiny.runs_by_label(made).items()}
    assert steps == {"t": [24, 40], "t/30": [30], "t/50": [50]}


def damage(runner, run, step):
    folder = runner.checkpoints(run).directory / str(step)
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def stop_after(dispatches):
    """A stop request that comes after so many dispatches."""
    asked = iter(range(dispatches))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("damaged", [(36,), (24, 36)], ids=["newest", "all"])
def test_one_flipped_byte_costs_time_but_no_digit(tmp_path, data_dir, undisturbed, damaged):
    with pytest.raises(InterruptedRunError):
        tiny.execute(tiny.study(), tmp_path, data_dir, stop_requested=stop_after(8))
    made = tiny.executor(tiny.study(), tmp_path, data_dir)
    trunk = made.entries[0].run
    assert made.runner.checkpoints(trunk).steps() == [24, 36]
    for step in damaged:
        damage(made.runner, trunk, step)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        made.run()
    named = sorted(int(re.search(r"checkpoint (\d+) ", str(warning.message)).group(1)) for warning in caught)
    assert tuple(named) == damaged
    tiny.assert_same_outcome(tmp_path, undisturbed)


def test_damaged_branch_point_of_a_finished_trunk_is_replayed(store, data_dir, undisturbed, dispatches):
    made = tiny.executor(tiny.study(), store, data_dir)
    runs = tiny.runs_by_label(made)
    shutil.rmtree(store / "runs" / runs["t/50"])
    damage(made.runner, runs["t"], 40)
    with pytest.warns(UserWarning, match="checkpoint 40 .* is damaged"):
        made.run()
    tiny.assert_same_outcome(store, undisturbed)
    assert sum(dispatches) == (40 - 24) + 10


def test_damaged_end_is_retrained_when_another_evaluation_asks_for_it(store, data_dir, undisturbed):
    study = tiny.study(tasks=(tiny.CODE, tiny.PROSE))
    made = tiny.executor(study, store, data_dir)
    run = tiny.runs_by_label(made)["t/50"]
    damage(made.runner, run, 50)
    with pytest.warns(UserWarning, match="checkpoint 50 .* is damaged"):
        made.run()
    rows = made.store.evaluations(run)
    assert [row["domain"] for row in rows] == ["code", "code", "prose"]
    assert rows[0]["nats_per_token"] == rows[1]["nats_per_token"]
    assert tiny.log(store, run) == tiny.log(undisturbed, run)


def test_branch_point_inside_the_trunk_replays_and_trains_that_branch_alone(store, data_dir, dispatches):
    before = {path: path.read_bytes() for path in store.glob("runs/*/*.json*")}
    study = tiny.study((tiny.decay(30), tiny.decay(40), tiny.decay(50)))  # the new one leaves at 32
    made = tiny.execute(study, store, data_dir)
    assert sum(dispatches) == (32 - 24) + 8
    assert {path: path.read_bytes() for path in before} == before  # log, result, evaluations of the others
    fresh = tiny.execute(study, store / "fresh", data_dir)
    run = tiny.runs_by_label(made)["t/40"]
    assert tiny.outcome(store)[run] == tiny.outcome(fresh.store.root)[run]


def test_branch_point_beyond_the_end_extends_the_trunk(tmp_path, data_dir, dispatches):
    """On one device each, for otherwise the third branch would give the others other company, and other last digits."""
    alone = dataclasses.replace(tiny.EXECUTION, devices=1)
    tiny.execute(tiny.study(execution=alone), tmp_path / "extended", data_dir)
    before = sum(dispatches)
    study = tiny.study((tiny.decay(30), tiny.decay(50), tiny.decay(70)), execution=alone)  # leaves at 56
    made = tiny.execute(study, tmp_path / "extended", data_dir)
    assert sum(dispatches) - before == (56 - 40) + 14
    tiny.execute(study, tmp_path / "fresh", data_dir)
    tiny.assert_same_outcome(tmp_path / "extended", tmp_path / "fresh")
    assert [len(group.entries) for group in made.groups] == [1, 3]


def test_another_study_with_the_same_trunks_trains_none_of_them(store, data_dir, dispatches):
    study = tiny.study((tiny.decay(30, shape="linear"), tiny.decay(50)), name="another", label="mine")
    made = tiny.execute(study, store, data_dir)
    assert sum(dispatches) == 6  # the linear decay
    assert made.store.result(made.entries[0].run).step == 40


def test_finished_study_trains_nothing(store, data_dir, dispatches):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.rglob("runs/*/*") if path.is_file()}
    made = tiny.executor(tiny.study(), store, data_dir)
    assert made.is_finished()
    made.run()
    assert dispatches == []
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_one_compilation_for_a_trunk_and_one_for_branches_of_all_decay_shapes(tmp_path, data_dir, caplog):
    # a size of its own, so that no other test has compiled it
    model = dataclasses.replace(tiny.MODEL, d_ff=20)
    config = dataclasses.replace(tiny.TRUNK, model=model)
    branches = [tiny.decay(30, shape=shape, label=shape) for shape in SHAPES] + [tiny.decay(41)]
    study = tiny.study(branches, config)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        made = tiny.execute(study, tmp_path, data_dir)
    compiled = [r.getMessage() for r in caplog.records if re.match(r"Compiling jit\(in_turn\)", r.getMessage())]
    assert len(compiled) == 2, compiled  # for the trunk, which is alone, and for the group of its branches
    for group in made.groups:
        assert dispatch_for(config, made.runner.resolved(config, group.runs)).cache_size() == 1
    assert len(made.store.evaluations(made.entries[1].run)) == 1


def test_changed_mixture_at_a_branch_reads_every_source_on(tmp_path, data_dir, monkeypatch):
    read = {}
    original = Loader.batch

    def spy(loader, step, rows=slice(None)):
        batch = original(loader, step, rows)
        read[step] = batch["tokens"]
        return batch

    monkeypatch.setattr(Loader, "batch", spy)
    study = tiny.study((tiny.decay(40, data=tiny.MIXED),))  # from step 32 half of another source
    made = tiny.execute(study, tmp_path, data_dir)
    assert sorted(read) == list(range(40))
    branch = made.entries[1]
    streams = made.runner._streams(branch.config)
    seen = np.concatenate([read[step] for step in range(40)])[:, :-1]
    rows = {name: [] for name in streams}
    code, prose = tiny.CODE.name, tiny.PROSE.name
    # both sources are made of different words, so that any row tells which it is from
    for row in seen:
        of = [
            (name, lane, stream)
            for name, stream in streams.items()
            for lane in range(stream.lanes)
            if len(rows[name]) % stream.lanes == lane
            and np.array_equal(stream.read(lane, 16 * (len(rows[name]) // stream.lanes), 16)[0], row)
        ]
        assert len(of) == 1  # the next row of one source: none skipped, none repeated
        rows[of[0][0]].append(row)
    assert len(rows[code]) == 32 * 4 + 8 * 2
    assert len(rows[prose]) == 8 * 2
    position = made.runner.checkpoints(branch.run).restore(
        40, made.runner.state_at(branch.config, branch.run, 40).state
    )[1]
    assert position["consumed"] == {name: 16 * len(found) for name, found in rows.items()}


def test_diverging_run_is_marked_its_branches_left_out_and_the_others_go_on(tmp_path, data_dir, dispatches):
    hot = dataclasses.replace(tiny.TRUNK, schedule=dataclasses.replace(tiny.TRUNK.schedule, peak=1e20))
    study = tiny.study()
    study = dataclasses.replace(study, runs=(RunSpec("hot", hot, (tiny.decay(30), tiny.decay(50))), *study.runs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = tiny.execute(study, tmp_path, data_dir)
    results = {entry.label: made.store.result(entry.run) for entry in made.entries}
    failed = results["hot"]
    assert (failed.state, failed.step < 24) == ("failed", True)
    name = tiny.CODE.name
    assert f"at step {failed.step}, where the data stood at {{'{name}': {failed.step * 64}}}" in failed.reason
    assert "peak 1e+20" in failed.reason
    assert results["hot/30"] is None
    assert results["t/50"].state == "complete"
    log = tiny.log(tmp_path, failed.run)
    assert [row["step"] for row in log] == list(range(1, failed.step + 1))
    assert all(np.isfinite(row["loss"]) for row in log)
    assert made.is_finished()
    before = len(dispatches)
    made.run()
    made.runner.ensure([Goal(hot, 40, [24])])
    assert len(dispatches) == before  # the same mathematics would fail again


def test_branch_before_the_failure_of_an_extended_trunk_is_trained(store, data_dir, monkeypatch):
    made = tiny.executor(tiny.study(), store, data_dir)
    made.runner.fail(made.entries[0].config, 40, "non-finite loss nan at step 40")
    made = tiny.execute(tiny.study((tiny.decay(40), tiny.decay(50, shape="cosine"))), store, data_dir)
    states = [made.store.result(entry.run) for entry in made.entries]
    assert states[0].state == "failed"
    assert states[1].state == "complete"  # leaves at 32
    assert states[2] is None  # leaves at 40


def test_parameters_that_are_not_finite_at_the_very_end_fail_the_run(tmp_path, data_dir, monkeypatch):
    study = tiny.study((tiny.decay(30),))
    made = tiny.executor(study, tmp_path, data_dir)
    original = made.runner.state_at

    def broken(config, run, step):
        stored = original(config, run, step)
        if config.branch:
            params = jax.tree.map(lambda x: x * np.float32("nan"), stored.state.params)
            return stored._replace(state=stored.state._replace(params=params))
        return stored

    monkeypatch.setattr(made.runner, "state_at", broken)
    made.run()
    result = made.store.result(made.entries[1].run)
    assert result.state == "failed"
    assert result.reason == "the loss on tiny_code after step 30 is not finite"
    assert made.is_finished()
    rows = status(made.store, "tiny")
    assert [(row.state, row.done, row.reason) for row in rows.values()] == [
        ("complete", 24, None),
        ("failed", 30, result.reason),
    ]
    assert points(made.store, "tiny").empty


def read_off(*stops):
    """A study of one run without decay that is read off at several steps."""
    return tiny.study(tuple(ScheduleSpec(f"at{stop}", 24, stop) for stop in stops), law=None)


@pytest.fixture
def not_finite_at_28(monkeypatch):
    """Training after 28 updates gives a loss that is not finite."""
    original = run_module.dispatch_for

    def breaking(config, execution):
        dispatch = original(config, execution)

        def broken(state, rows, hyper, counts):
            steps = np.asarray(state.step)[:, None] + np.arange(execution.steps_per_dispatch)
            state, metrics = dispatch(state, rows, hyper, counts)
            return state, metrics | {"loss": np.where(steps >= 28, np.nan, metrics["loss"])}

        return broken

    monkeypatch.setattr(run_module, "dispatch_for", breaking)


def states(made):
    return {label: (row.state, row.done) for label, row in status(made.store, made.study.name).items()}


def test_what_was_read_off_before_a_failure_stays_a_point(tmp_path, data_dir, not_finite_at_28, dispatches):
    made = tiny.execute(read_off(26, 32), tmp_path, data_dir)
    expected = {"t": ("complete", 24), "t/at26": ("complete", 26), "t/at32": ("failed", 28)}
    assert states(made) == expected
    assert points(made.store, "tiny")["label"].tolist() == ["t/at26"]
    assert made.is_finished()
    # asked for after the failure, a stop before it is replayed to; one at it is not
    before = sum(dispatches)
    made = tiny.execute(read_off(25, 26, 28, 32), tmp_path, data_dir)
    assert states(made) == expected | {"t/at25": ("complete", 25), "t/at28": ("failed", 28)}
    assert points(made.store, "tiny")["label"].tolist() == ["t/at25", "t/at26"]
    assert made.is_finished()
    assert sum(dispatches) == before + 1


def test_a_stop_whose_loss_is_not_finite_fails_the_run_from_there(tmp_path, data_dir, monkeypatch):
    """Though its training went on to a later one."""
    original = execute_module.evaluate
    evaluated = iter([1.0, np.nan])
    monkeypatch.setattr(execute_module, "evaluate", lambda *args: original(*args) | {"nats_per_token": next(evaluated)})
    made = tiny.execute(read_off(25, 26, 32), tmp_path, data_dir)
    assert states(made) == {
        "t": ("complete", 24),
        "t/at25": ("complete", 25),
        "t/at26": ("failed", 26),
        "t/at32": ("failed", 26),
    }
    result = made.store.result(made.entries[1].run)
    assert (result.tokens, result.unique_tokens, result.train_loss) == (26 * 64, 26 * 64, None)
    assert made.is_finished()
    assert points(made.store, "tiny")["nats_per_token/code"].tolist() == [1.0]


def test_a_failed_replay_is_not_complete_because_the_end_lies_there(tmp_path, data_dir, monkeypatch, not_finite_at_28):
    """Killed before its result was written, with an earlier checkpoint damaged, whose replay then goes wrong."""
    runner, goal = runner_of(tmp_path, data_dir), Goal(tiny.TRUNK, 40, [24, 32])
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "dispatch_for", dispatch_for)  # as it was before
        patch.setattr(RunStore, "write_result", kill_at(0, RunStore.write_result))
        with pytest.raises(Killed):
            runner.ensure([goal])
    run = runner.run_id(tiny.TRUNK)
    damage(runner, run, 32)
    with pytest.warns(UserWarning, match="checkpoint 32 .* is damaged"):
        runner.ensure([goal])
    result = runner.store.result(run)
    assert (result.state, result.step) == ("failed", 28)


def test_more_than_the_corpus_has_is_an_error_before_anything_is_trained(tmp_path, data_dir, dispatches):
    study = tiny.study((tiny.decay(30), tiny.decay(5000)))
    with pytest.raises(UserError, match=r"tokens are asked by step 5000 .*epochs where data\.max_epochs is 1; set max"):
        tiny.execute(study, tmp_path, data_dir)
    assert dispatches == []


def test_vocabulary_of_another_size_is_an_error(tmp_path, data_dir):
    model = dataclasses.replace(tiny.MODEL, vocab_size=100)
    study = tiny.study(config=dataclasses.replace(tiny.TRUNK, model=model))
    with pytest.raises(UserError, match=r"model\.vocab_size is 100, but the shards of task 'tiny_code' have 259"):
        tiny.execute(study, tmp_path, data_dir)
    assert isinstance(model, ModelConfig)


def test_branch_of_a_trunk_that_is_nowhere_is_an_error(tmp_path, data_dir):
    config = dataclasses.replace(tiny.whole(tiny.TRUNK, 24, 6), parent=Parent("0" * 16, 24), branch="decay")
    with pytest.raises(UserError, match="run 0000000000000000, which a branch at step 24 leaves, is not in"):
        runner_of(tmp_path, data_dir).ensure([Goal(config, 30)])


@pytest.mark.parametrize("spoil", [lambda text: text.replace('"peak": 0.01', '"peak": 0.03'), lambda text: text[:-9]])
def test_damaged_config_of_a_trunk_is_noticed(store, data_dir, spoil):
    made = tiny.executor(tiny.study(), store, data_dir)
    trunk, branch = made.entries[:2]
    path = store / "runs" / trunk.run / "config.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError, match=rf"{path} is damaged"):
        runner_of(store, data_dir).timeline(branch.config)


@pytest.mark.parametrize("name", ["result.json", "evaluations.jsonl"])
def test_damaged_rows_are_a_sentence(store, data_dir, name):
    made = tiny.executor(tiny.study(), store, data_dir)
    path = store / "runs" / made.entries[1].run / name
    path.write_text(path.read_text().replace("{", "[", 1))
    with pytest.raises(UserError, match=rf"{path} is damaged"):
        made.is_finished()


@pytest.mark.parametrize("where", ["append_lines", "write_json", "write_lines"])
def test_full_disk_stops_with_a_sentence_and_the_next_run_goes_on(tmp_path, data_dir, undisturbed, monkeypatch, where):
    monkeypatch.setattr(run_module, "SAVE_EVERY_SECONDS", 0.0)
    original = getattr(storage, where)

    def full_at(path, *args):
        if path.name in ("log.jsonl", "result.json", "evaluations.jsonl", "16.sha256.json"):
            with storage.disk_full_is_a_user_error(path), path.open("a") as file:
                if where == "append_lines":
                    file.write('{"step": 1, "half')
                raise OSError(28, "No space left on device")
        original(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(storage, where, full_at)
        with pytest.raises(UserError, match=r"disk full while writing"):
            tiny.execute(tiny.study(), tmp_path, data_dir)
    for path in tmp_path.rglob("*.json*"):  # the stand-in for a full disk makes empty files, the real one does not
        if path.is_file() and not path.stat().st_size:
            path.unlink()
    tiny.execute(tiny.study(), tmp_path, data_dir)
    tiny.assert_same_outcome(tmp_path, undisturbed)
