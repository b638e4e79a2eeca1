"""Runs that train as one program: each comes out as it would alone, whatever becomes of the others."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from scaling import execute, storage
from scaling import run as run_module
from scaling.config import DecayConfig, OptimizerConfig, ScheduleConfig
from scaling.jobs import Goal
from scaling.records import RunStore
from scaling.run import Runner
from scaling.study import RunSpec
from scaling.train import InterruptedRunError

STEPS = 20


def runner_of(root, data_dir, **execution):
    return Runner(RunStore(root), data_dir, dataclasses.replace(tiny.EXECUTION, **execution))


def member(stop=STEPS, **fields):
    """A run that differs from the others in what enters the program as data."""
    model = {name: fields.pop(name) for name in ("scale_emb", "scale_depth", "init_std") if name in fields}
    return Goal(tiny.changed(model=dataclasses.replace(tiny.MODEL, **model), **fields), stop)


MEMBERS = (
    member(),
    member(schedule=ScheduleConfig(0.03, 2)),
    member(schedule=ScheduleConfig(0.02, 3, DecayConfig(11, 9, "linear")), seed=4),
    member(optimizer=OptimizerConfig(weight_decay=0.3, clip_norm=0.2)),
    member(seed=3, scale_emb=4.0),
    member(scale_depth=0.7, init_std=0.05),
    member(data=tiny.MIXED),
    member(stop=13, seed=5),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """Every member trained by itself on one device."""
    root = tmp_path_factory.mktemp("alone")
    runner = runner_of(root, data_dir, devices=1)
    for goal in MEMBERS:
        runner.ensure([goal])
    return root


def params_of(root, data_dir, goal):
    runner = runner_of(root, data_dir, devices=1)
    return jax.device_get(runner.state_at(goal.config, runner.run_id(goal.config), goal.stop).state.params)


def test_one_after_another_has_the_bits_of_alone(tmp_path, data_dir, alone):
    runner = runner_of(tmp_path, data_dir, devices=1)
    assert runner.resolved(tiny.TRUNK, len(MEMBERS)).run_devices == 2
    runner.ensure(MEMBERS)
    tiny.assert_same_outcome(tmp_path, alone)  # fingerprints too
    for goal in MEMBERS:
        jax.tree.map(
            np.testing.assert_array_equal, params_of(tmp_path, data_dir, goal), params_of(alone, data_dir, goal)
        )


def test_side_by_side_is_close_to_alone_and_says_so(tmp_path, data_dir, alone):
    runner = runner_of(tmp_path, data_dir, devices=1, run_axis="vmap")
    runner.ensure(MEMBERS)
    for goal in MEMBERS:
        run = runner.run_id(goal.config)
        mine, theirs = tiny.log(tmp_path, run), tiny.log(alone, run)
        assert [row["step"] for row in mine] == [row["step"] for row in theirs] == list(range(1, goal.stop + 1))
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose([r[name] for r in mine], [r[name] for r in theirs], rtol=1e-5)
        ends = (params_of(root, data_dir, goal) for root in (tmp_path, alone))  # also of those that ended early
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), *ends)
        assert runner.store.result(run).execution[0]["fingerprint"]["vmapped_runs"] == 4  # on each of two devices


@pytest.mark.parametrize("run_axis", ["map", "vmap"])
def test_planted_divergence_is_marked_with_its_step_and_the_others_do_not_notice(tmp_path, data_dir, run_axis):
    """The others' logs and results are byte by byte those of the same group with a sound run in its place."""
    hot = member(schedule=ScheduleConfig(100.0, 1), stop=60)
    others = [member(stop=60, seed=seed) for seed in (1, 2, 3)]
    roots = {"hot": tmp_path / "hot", "sound": tmp_path / "sound"}
    for name, fourth in (("hot", hot), ("sound", member(stop=60))):
        runner_of(roots[name], data_dir, run_axis=run_axis).ensure([others[0], fourth, *others[1:]])
    runner = runner_of(roots["hot"], data_dir)
    failed = runner.store.result(runner.run_id(hot.config))
    assert failed.state == "failed"
    assert 0 < failed.step < 60
    assert f"at step {failed.step}, where the data stood at" in failed.reason
    log = tiny.log(roots["hot"], failed.run)
    assert [row["step"] for row in log] == list(range(1, failed.step + 1))
    assert np.isfinite([row["loss"] for row in log]).all()
    found, expected = tiny.outcome(roots["hot"]), tiny.outcome(roots["sound"])
    for goal in others:
        run = runner.run_id(goal.config)
        assert runner.store.result(run).state == "complete"
        assert found[run] == expected[run]


def grid(execution=tiny.EXECUTION):
    """Three trunks with branches that leave at different steps, and a whole run: two groups, one of 4 and one of 6."""
    runs = [RunSpec(f"t-seed{seed}", tiny.changed(seed=seed), tiny.BRANCHES) for seed in range(3)]
    runs.append(RunSpec("t-whole", tiny.whole(tiny.TRUNK, 5, 23)))
    return dataclasses.replace(tiny.study(), runs=tuple(runs), execution=execution)


AXES = {"map": tiny.EXECUTION, "vmap": dataclasses.replace(tiny.EXECUTION, run_axis="vmap")}


@pytest.fixture(scope="module", params=AXES.values(), ids=AXES.keys())
def executed(request, tmp_path_factory, data_dir):
    """The grid, run in one go, with its execution."""
    root = tmp_path_factory.mktemp("grid")
    return tiny.execute(grid(request.param), root, data_dir)


def test_branches_of_several_trunks_join_though_they_start_at_different_steps(executed):
    assert [(group.label, group.runs) for group in executed.groups] == [("t x4", 4), ("t decay x6", 6)]
    starts = [entry.start for entry in executed.groups[1].entries]
    assert sorted(starts) == [24] * 3 + [40] * 3
    for entry in executed.entries:
        assert executed.store.result(entry.run).step == entry.stop
        steps = [row["step"] for row in tiny.log(executed.store.root, entry.run)]
        assert steps == list(range(entry.start + 1, entry.stop + 1))


def stopped_after(dispatches):
    asked = iter(range(dispatches))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("often", [True, False])
def test_a_group_interrupted_again_and_again_ends_with_the_same_rows(tmp_path, data_dir, executed, monkeypatch, often):
    if often:
        monkeypatch.setattr(run_module, "SAVE_EVERY_SECONDS", 0.0)
    for dispatches in (0, 2, 4, 1):
        with pytest.raises(InterruptedRunError):
            tiny.execute(executed.study, tmp_path, data_dir, stop_requested=stopped_after(dispatches))
    tiny.execute(executed.study, tmp_path, data_dir)
    tiny.assert_same_outcome(tmp_path, executed.store.root)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", [(run_module.Checkpoints, "save"), (RunStore, "write_result")], ids=lambda x: x[1])
def test_killed_while_one_of_a_group_is_saved_the_rest_is_made_up_for(tmp_path, data_dir, executed, monkeypatch, place):
    """Killed before a result, a run has its last checkpoint already: it was computed as its group was."""
    original, calls = getattr(*place), iter(range(3))

    def save(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(*place, save)
        with pytest.raises(Killed):
            tiny.execute(executed.study, tmp_path, data_dir)
    tiny.execute(executed.study, tmp_path, data_dir)
    tiny.assert_same_outcome(tmp_path, executed.store.root)


@pytest.mark.parametrize("group", [0, 1])
def test_a_run_that_another_process_holds_is_left_out_and_its_group_comes_out_the_same(
    tmp_path, data_dir, executed, monkeypatch, group
):
    held, asked = executed.groups[group].entries[1].run, []

    def wait(seconds):
        asked.append(seconds)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(execute.time, "sleep", wait)
    lock = storage.try_lock(RunStore(tmp_path).run_dir(held) / "lock")
    lock.__enter__()
    tiny.execute(executed.study, tmp_path, data_dir)
    assert len(asked) == 1
    tiny.assert_same_outcome(tmp_path, executed.store.root)


def test_one_run_a_group_trains_as_if_there_were_none(tmp_path, data_dir):
    branches = (tiny.decay(30), tiny.decay(30, shape="linear", label="linear"))
    for name, runs in (("alone", 1), ("together", 0)):
        execution = dataclasses.replace(tiny.EXECUTION, runs_per_group=runs, devices=1)
        made = tiny.execute(tiny.study(branches, execution=execution), tmp_path / name, data_dir)
        assert len(made.groups) == (3 if name == "alone" else 2)
    tiny.assert_same_outcome(tmp_path / "alone", tmp_path / "together")
