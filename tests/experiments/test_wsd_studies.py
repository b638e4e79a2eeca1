"""What the studies of schedules ask: that they compare what they say, and train nothing twice."""

import re
import runpy
import sys

import numpy as np
import pandas as pd
import pytest

from experiments import decay_dynamics, small_model_more_data
from experiments.decay_dynamics import KEPT, table
from experiments.quickstart import LADDER
from scaling import environment
from scaling.config import canonical, to_json
from scaling.data import sources
from scaling.schedules import learning_rate
from scaling.study import load_study, plan_study

NAMES = (
    "cosine_horizon",
    "decay_share",
    "decay_shapes",
    "when_to_decay",
    "small_model_more_data",
    "constant_rate_stability",
    "decay_dynamics",
)


@pytest.fixture(scope="module")
def plans():
    return {name: (load_study(name), plan_study(load_study(name))) for name in NAMES}


def points(plan):
    return [entry for entry in plan if entry.is_point]


def mathematics(entry):
    """What a run's id covers, up to its parent's id."""
    return entry.trunk_label, canonical(to_json(entry.config))


def final_rate(entry):
    return learning_rate(entry.config.schedule, entry.stop) / entry.config.schedule.peak


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_in_the_docstring_is_what_is_trained_each_run_once(plans, name):
    study, plan = plans[name]
    runs = {}
    for entry in plan:
        flops = 6 * entry.entry()["N"] * entry.tokens(entry.start, entry.stop)
        runs[mathematics(entry)] = max(flops, runs.get(mathematics(entry), 0.0))
    (said,) = re.findall(r"^Cost: ([\d.e+]+) FLOPs", load_docstring(name), re.MULTILINE)
    assert float(said) == pytest.approx(sum(runs.values()), rel=0.01)
    assert study.question == load_docstring(name).split("\n")[0]


def load_docstring(name):
    module = __import__(f"experiments.{name}", fromlist=["study"])
    return module.__doc__


def test_ladder_branches_are_the_quickstarts(plans):
    """Those of 40, 60 and 80 N with a tenth of 1-sqrt have the quickstart's mathematics, so they are trained once."""
    wanted = {}
    for width, seed in ((16, 0), (24, 1)):
        run = LADDER.run(width, seed)
        branches = {branch.label: branch for branch in run.branches}
        for length in ("40N", "60N", "80N"):
            wanted[f"w{width}-seed{seed}", length] = canonical(to_json(branches[length].config(run.config, "")))
    for name, label in (("decay_share", "{}-10.0%"), ("when_to_decay", "{}"), ("small_model_more_data", "{}")):
        found = {entry.label: canonical(to_json(entry.config)) for entry in plans[name][1]}
        for (trunk, length), config in wanted.items():
            there = found.get(f"{trunk}/{label.format(length)}")
            assert there == config or (name, length) == ("small_model_more_data", "60N")


def test_one_period_is_one_run_read_off_at_every_stop(plans):
    _, plan = plans["cosine_horizon"]
    by_run = {}
    for entry in points(plan):
        by_run.setdefault(mathematics(entry), []).append(entry.stop)
    assert len(by_run) == 4 * 9
    assert all(stops == sorted(stops) for stops in by_run.values())  # so that a run is extended, never replayed


def test_cosines_end_before_at_and_after_their_floor(plans):
    _, plan = plans["cosine_horizon"]
    for entry in points(plan):
        shape, period, stop = re.search(r"/(\w+)-T(\d+)N-S(\d+)N", entry.label).groups()
        if shape == "cosine":
            assert (final_rate(entry) == pytest.approx(0.1)) == (int(period) <= int(stop))
        else:
            assert int(period) < int(stop)
    loops = {entry.label.split("/")[1]: final_rate(entry) for entry in points(plan) if "loop" in entry.label}
    assert loops["cosine_loop-T20N-S40N"] > 0.95  # about two periods: back at the peak
    assert loops["cosine_loop-T20N-S60N"] == pytest.approx(0.1, abs=0.03)


def test_shares_are_of_all_tokens(plans):
    for entry in points(plans["decay_share"][1]):
        length, share = re.search(r"/(\d+)N-([\d.]+)%", entry.label).groups()
        row = entry.entry()
        assert row["D_total"] / row["N"] == pytest.approx(float(length), rel=0.002)
        half_a_step = entry.config.data.tokens_per_step / 2
        assert row["D_decay"] == pytest.approx(float(share) / 100 * row["D_total"], abs=half_a_step)
        assert final_rate(entry) == 0


def test_shapes_end_where_their_names_say_after_one_length(plans):
    _, plan = plans["decay_shapes"]
    assert {(e.entry()["D_total"], e.start) for e in points(plan) if e.trunk_label == "w24-seed0"} == {(1602816, 1878)}
    for entry in points(plan):
        assert final_rate(entry) == pytest.approx(float(entry.label.split("-to-")[1]), abs=1e-7)
    assert len({entry.config.schedule.decay.shape for entry in points(plan)}) == 7


@pytest.mark.parametrize(("notes", "text", "longest"), [((), 30e6, 1280), ((sources.NO_TEST_PACKAGE,), 11e6, 640)])
def test_no_branch_is_longer_than_the_text_there_is(monkeypatch, notes, text, longest):
    monkeypatch.setattr(sources, "notes", lambda source: notes)
    found = [entry.entry() for entry in plan_study(small_model_more_data.study()) if entry.is_point]
    assert max(row["D_total"] for row in found) < text
    assert max(round(row["D_total"] / row["N"]) for row in found) == longest


def test_every_decay_has_the_constant_rate_beside_it(plans):
    _, plan = plans["when_to_decay"]
    ends = {entry.label: (entry.start, entry.stop) for entry in points(plan)}
    decays = [label for label in ends if not label.endswith("-stable")]
    assert len(decays) == len(ends) / 2
    for label in decays:
        assert ends[f"{label}-stable"] == ends[label]
    kept = [final_rate(entry) for entry in points(plan) if entry.kind == "schedule"]
    assert kept == pytest.approx([1.0] * 18)


def test_rates_differ_and_nothing_else(plans):
    study, _ = plans["constant_rate_stability"]
    trunks = [run for run in study.runs if run.label.startswith("w16")]
    assert [run.config.schedule.peak for run in trunks] == [0.005, 0.015, 0.05, 0.15, 0.5]
    plain = [to_json(run.config) for run in trunks]
    for config in plain:
        config["schedule"].pop("peak")
    assert all(config == plain[0] for config in plain)
    assert {branch.start for branch in trunks[0].branches} == {branch.start for branch in trunks[4].branches}


def test_the_replayed_stretch_is_as_long_as_the_decays_and_meets_them(plans):
    _, (trunk, stretch, *decays) = plans["decay_dynamics"]
    for decay in decays:
        assert stretch.stop == decay.start
        assert stretch.stop - stretch.start == decay.stop - decay.start
    assert trunk.stop == decays[0].start
    assert [final_rate(decay) for decay in decays] == pytest.approx([0.1, 0.0])


def test_the_replay_is_a_process_prepared_for_training(monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "prepare", lambda: asked.append(True))
    monkeypatch.setattr(sys, "argv", ["decay_dynamics", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(decay_dynamics.__file__, run_name="__main__")
    assert asked == [True]


def test_a_recorded_table_keeps_four_digits_and_the_largest_change():
    measured = pd.DataFrame({name: [np.pi * 1e-5, -np.pi] for name in KEPT})
    measured = measured.assign(step=[100001, 100002], learning_rate=0.015, loss=1.23456789, fixed_loss=2.0)
    changes = {"change/embedding": 0.5, "change/blocks/mlp/up": [0.1, 0.3], "change/blocks/mlp/down": [0.2, 0.1]}
    found = table(measured.assign(**changes))
    assert found["step"].tolist() == [100001, 100002]
    assert found["batch_d2"].tolist() == [3.142e-5, -3.142]
    assert found["loss"].tolist() == [1.235, 1.235]
    assert found["change_hidden"].tolist() == [0.2, 0.3]
    assert found["change_embedding"].tolist() == [0.5, 0.5]
