"""Branches under any schedule: stopped before its end, kept on after it, or at the constant rate."""

import dataclasses

import pytest
import tiny

from scaling.accounting import training_flops
from scaling.branches.decay import DecaySpec
from scaling.branches.schedule import ScheduleSpec
from scaling.config import DecayConfig
from scaling.errors import UserError
from scaling.records import RunStore, points, status
from scaling.schedules import learning_rates
from scaling.study import plan_study

COSINE = DecayConfig(start=5, steps=25, shape="cosine", final=0.1)


def spec(stop, decay=COSINE, start=5):
    return ScheduleSpec(f"{decay.shape if decay else 'stable'}-{stop}", start, stop, decay)


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    """A cosine over 30 steps read off before, at and after its end, and a trunk read off at its step 24."""
    wanted = tiny.study((spec(12), spec(30), spec(36), spec(24, decay=None, start=20), tiny.decay(30)), law=None)
    return tiny.execute(wanted, tmp_path_factory.mktemp("schedules"), data_dir)


def test_branches_that_differ_in_their_stop_are_one_run(made):
    runs = tiny.runs_by_label(made)
    assert runs["t/cosine-12"] == runs["t/cosine-30"] == runs["t/cosine-36"]
    assert len(set(runs.values())) == 4
    steps = [row["step"] for row in tiny.log(made.store.root, runs["t/cosine-12"])]
    assert steps == list(range(6, 37))
    assert all(row.state == "complete" for row in status(made.store, "tiny").values())


def test_every_stop_is_a_point_with_the_loss_of_the_uninterrupted_run_stopped_there(made, tmp_path, data_dir):
    found = points(made.store, "tiny").set_index("label")
    assert len(found) == 5
    for stop in (12, 36):
        alone = tiny.execute(tiny.study((spec(stop),), law=None), tmp_path / str(stop), data_dir)
        (row,) = points(RunStore(alone.store.root), "tiny").to_dict("records")
        # trained in other company, so to rounding
        assert found.loc[row["label"], "nats_per_token/code"] == pytest.approx(row["nats_per_token/code"], rel=1e-5)
    losses = [found.loc[f"t/cosine-{stop}", "nats_per_token/code"] for stop in (12, 30, 36)]
    assert len(set(losses)) == 3


def test_a_stable_end_is_the_trunk_there(made):
    logs = {label: tiny.log(made.store.root, run) for label, run in tiny.runs_by_label(made).items()}
    trunk = tiny.executor(tiny.study(), made.store.root, made.runner.data_dir)  # whose trunk goes on to step 40
    trunk.run()
    whole = {row["step"]: row for row in tiny.log(made.store.root, tiny.runs_by_label(trunk)["t"])}
    stable = logs["t/stable-24"]
    assert [row["step"] for row in stable] == [21, 22, 23, 24]
    for row in stable:  # trained in other company, so to rounding
        assert row == pytest.approx(whole[row["step"]], rel=1e-5)


def test_tokens_of_decay_are_those_that_were_trained_under_it():
    study = tiny.study((spec(12), spec(36), spec(24, None, 20)), law=None)
    entries = {entry.label: entry.entry() for entry in plan_study(study)}
    per_step = tiny.DATA.tokens_per_step
    found = {label: (row["D_total"], row["D_stable"], row["D_decay"]) for label, row in entries.items()}
    assert found["t/cosine-12"] == (12 * per_step, 5 * per_step, 7 * per_step)
    assert found["t/cosine-36"] == (36 * per_step, 11 * per_step, 25 * per_step)
    assert found["t/stable-24"] == (24 * per_step, 24 * per_step, 0)
    flops = training_flops(tiny.MODEL, tiny.DATA.sequence_length, 12 * per_step, "6ND")
    assert entries["t/cosine-12"]["flops"]["6ND"] == flops


def test_an_exponential_branch_ends_at_the_fraction_it_names():
    branch = DecaySpec(100, share=0.2, shape="exponential", final=0.1)
    config = branch.config(tiny.TRUNK, "0" * 16)
    rates = learning_rates(config.schedule, 79, 102) / config.schedule.peak
    assert rates[:2] == pytest.approx([1, 1])
    assert rates[11] == pytest.approx(0.1**0.5, rel=1e-6)
    assert rates[21:] == pytest.approx([0.1, 0.1], rel=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: spec(5), "'cosine-5' goes from step 5 to 5: let it end later"),
        (lambda: spec(9, start=6), "leaves at step 6, but its decay starts at 5"),
        (lambda: DecaySpec(100, shape="exponential"), r"'100': an exponential decay .* not at 0; MiniCPM's ends at"),
        (lambda: DecaySpec(100, shape="exponential", final=1.0), "not at 1"),
    ],
)
def test_branches_that_make_no_sense_are_refused_when_they_are_written(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_kinds_are_told_apart_in_run_ids(data_dir, tmp_path):
    """A branch of the same rates under another name is another run: the trunk's branch is not taken for it."""
    decay = tiny.decay(30)
    twin = ScheduleSpec("twin", decay.start, decay.stop, DecayConfig(decay.start, decay.decay_steps))
    made = tiny.executor(tiny.study((decay, twin)), tmp_path, data_dir)
    one, two = (entry for entry in made.entries if entry.kind != "trunk")
    assert one.run != two.run
    assert dataclasses.replace(two.config, branch="decay") == one.config
