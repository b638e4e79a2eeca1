"""Which runs of a plan are trained together."""

import dataclasses
import functools
import math

import jax
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from scaling import mesh
from scaling.branches.schedule import ScheduleSpec
from scaling.config import ExecutionConfig, OptimizerConfig
from scaling.groups import groups, places
from scaling.mesh import Room
from scaling.study import RunSpec, plan_study


def planned(study):
    return plan_study(study, {"tiny_code": "a", "tiny_prose": "b"})


def sweep(*configs, branches=(), **study):
    """A study of runs with these configs."""
    runs = tuple(RunSpec(f"r{i}", config, tuple(branches)) for i, config in enumerate(configs))
    return dataclasses.replace(tiny.study(**study), runs=runs)


def grouped(study, runs=8, sets=1):
    made = groups(planned(study), lambda config: Room(runs, lambda n: sets))
    return [[entry.label for entry in group.entries] for group in made]


def as_data():
    """Runs that differ in everything that enters a program as data."""
    whole = tiny.whole(tiny.TRUNK, 24, 6)
    model = dataclasses.replace(tiny.MODEL, scale_emb=3.0, scale_depth=0.5, init_std=0.02)
    return (
        whole,
        dataclasses.replace(whole, seed=1),
        dataclasses.replace(whole, model=model),
        dataclasses.replace(whole, schedule=dataclasses.replace(whole.schedule, peak=0.3, warmup_steps=7)),
        dataclasses.replace(whole, optimizer=OptimizerConfig(weight_decay=0.0, clip_norm=3.0)),
        dataclasses.replace(whole, data=tiny.MIXED),
    )


def test_runs_that_differ_in_data_like_values_are_one_group():
    assert grouped(sweep(*as_data())) == [["r0", "r1", "r2", "r3", "r4", "r5"]]


@pytest.mark.parametrize(
    "other",
    [
        tiny.changed(model=dataclasses.replace(tiny.MODEL, d_ff=24)),
        tiny.changed(data=dataclasses.replace(tiny.DATA, batch_size=8)),
        tiny.changed(data=dataclasses.replace(tiny.DATA, sequence_length=8)),
        tiny.changed(optimizer=OptimizerConfig(kind="muon")),
        tiny.changed(optimizer=OptimizerConfig(b2=0.99)),
    ],
    ids=["model", "batch", "length", "optimizer", "beta"],
)
def test_runs_of_another_program_are_another_group(other):
    assert grouped(sweep(tiny.whole(tiny.TRUNK, 24, 6), tiny.whole(other, 24, 6))) == [["r0"], ["r1"]]


def test_trunks_come_before_their_branches_and_those_of_all_trunks_together():
    wider = tiny.changed(model=dataclasses.replace(tiny.MODEL, d_ff=24))
    study = sweep(tiny.TRUNK, wider, tiny.changed(seed=1), branches=(tiny.decay(30), tiny.decay(50)))
    assert grouped(study) == [["r0", "r2"], ["r0/50", "r2/50", "r0/30", "r2/30"], ["r1"], ["r1/50", "r1/30"]]


@pytest.mark.parametrize(
    ("limit", "sizes", "runs"), [(1, [1] * 7, 1), (2, [2, 2, 2, 1], 2), (6, [4, 3], 4), (7, [7], 7), (100, [7], 7)]
)
def test_groups_are_of_one_size_with_a_place_left_over_at_most(limit, sizes, runs):
    study = sweep(*(tiny.whole(tiny.changed(seed=seed), 24, 6) for seed in range(7)))
    made = groups(planned(study), lambda config: Room(limit, lambda n: 1))
    assert [len(group.entries) for group in made] == sizes
    assert {group.runs for group in made} == {runs}  # so that they share a program


def test_runs_of_like_length_come_together():
    whole = [tiny.whole(tiny.changed(seed=steps), 24, steps) for steps in (6, 60, 7, 50)]
    assert grouped(sweep(*whole), runs=2) == [["r1", "r3"], ["r2", "r0"]]


def test_two_ends_of_one_run_are_one_member():
    study = sweep(tiny.TRUNK, branches=(ScheduleSpec("a", 24, 30), ScheduleSpec("b", 24, 36), tiny.decay(30)), law=None)
    made = groups(planned(study), lambda config: Room(8, lambda n: 1))
    assert [(group.label, group.runs) for group in made] == [("r0", 1), ("r0/b", 1), ("r0/30", 1)]


def lengths(*steps):
    """A study of runs of these lengths."""
    return sweep(*(tiny.whole(tiny.changed(seed=seed), 6, n - 6) for seed, n in enumerate(steps)))


@pytest.mark.parametrize(
    ("steps", "sets", "alone"),
    [
        ((40, 40), 2, 0),
        ((40, 40, 40), 2, 1),  # else one device would wait while the other trains the third
        ((40, 10, 10), 2, 1),
        ((40, 20, 10, 10), 2, 0),
        ((40, 30, 20, 10), 2, 0),
        ((40, 30, 10, 10), 2, 2),
        ((40, 10), 2, 2),
        ((40, 10), 1, 0),
        ((80, 20, 20, 20, 20), 4, 1),
        ((40,) * 9, 2, 1),
    ],
)
def test_a_run_that_would_leave_devices_idle_has_them_to_itself(steps, sets, alone):
    found = grouped(lengths(*steps), runs=16, sets=sets)
    assert [len(group) for group in found] == [1] * alone + [len(steps) - alone] * (alone < len(steps))
    assert [group[0] for group in found[:alone]] == [f"r{i}" for i in range(alone)]


@pytest.mark.parametrize(
    ("steps", "there", "sizes", "how"),
    [
        ((40, 40), 4, [2], (2, 2, 1)),  # devices of a run, sets of devices, runs of a set
        ((40,) * 8, 16, [8], (2, 8, 1)),
        ((40,) * 3, 4, [1, 2], None),  # the third has all devices to itself
        ((40, 10), 4, [1, 1], None),
    ],
)
def test_more_devices_than_runs_leave_the_runs_together(monkeypatch, steps, there, sizes, how):
    monkeypatch.setattr(jax, "device_count", lambda: there)
    execution = ExecutionConfig()
    found = groups(planned(lengths(*steps)), functools.partial(mesh.room, execution))
    assert [len(group.entries) for group in found] == sizes
    if how:
        made = mesh.resolve(execution, tiny.DATA, tiny.MODEL, runs=found[0].runs)
        assert (made.devices, made.run_devices, made.lanes) == how


def test_groups_fill_all_devices():
    study = lengths(*[40] * 10)
    assert [len(group) for group in grouped(study, runs=8, sets=2)] == [6, 4]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_every_run_has_a_place_of_its_own(steps, sets, spare):
    lanes = math.ceil(len(steps) / sets) + spare
    found = places(steps, sets, lanes)
    assert len(set(found)) == len(steps)
    assert all(0 <= place < sets * lanes for place in found)
    if len(steps) > sets and spare:  # the longest first, each to whoever has least to do
        busy = [sum(n for n, place in zip(steps, found, strict=True) if place // lanes == s) for s in range(sets)]
        assert max(busy) <= sum(steps) / sets + max(steps)
