import dataclasses

import pytest
import tiny

from scaling.branches.decay import DecaySpec
from scaling.branches.schedule import ScheduleSpec
from scaling.config import DecayConfig, RunConfig, from_json, to_json
from scaling.errors import UserError
from scaling.study import (
    EvaluationConfig,
    LawConfig,
    RunSpec,
    flops_with_and_without_branching,
    load_study,
    plan_study,
    training,
)

HEAD = "from scaling.study import *\nfrom scaling.recipe import *\nfrom experiments.quickstart import *\n"


def planned(study=None):
    return plan_study(study or tiny.study(), {"tiny_code": "a", "tiny_prose": "b"})


def test_plan_is_the_trunk_and_then_its_branches():
    trunk, first, second = planned()
    assert [(e.label, e.kind, e.start, e.stop) for e in (trunk, first, second)] == [
        ("t", "trunk", 0, 40),
        ("t/30", "decay", 24, 30),
        ("t/50", "decay", 40, 50),
    ]
    assert (first.config.parent.run, first.config.parent.step) == (trunk.run, 24)
    assert first.config.schedule == dataclasses.replace(tiny.TRUNK.schedule, decay=DecayConfig(24, 6))
    row = second.entry()
    assert (row["D_total"], row["D_stable"], row["D_decay"]) == (50 * 64, 40 * 64, 10 * 64)
    assert row["D_total"] * row["N"] * 6 == row["flops"]["6ND"]


def test_tokens_of_a_branch_in_rows_of_another_shape_are_counted_in_its_shape():
    data = dataclasses.replace(tiny.DATA, batch_size=8)
    row = planned(tiny.study((tiny.decay(30, data=data),)))[1].entry()
    assert (row["D_stable"], row["D_decay"], row["D_total"]) == (24 * 64, 6 * 128, 24 * 64 + 6 * 128)


def test_branching_costs_the_trunk_once():
    entries = planned()
    spent, cosine = flops_with_and_without_branching(entries)
    assert cosine / spent == pytest.approx((30 + 50) / (40 + 6 + 10))
    assert spent == sum(6 * e.entry()["N"] * 64 * (e.stop - e.start) for e in entries)


def test_two_branches_that_are_one_run_are_one_run():
    trunk, a, b = planned(tiny.study((tiny.decay(30, label="a"), tiny.decay(30, label="b"))))
    assert a.run == b.run
    assert training([trunk, a, b]) == [trunk, a]


def test_a_run_read_off_at_two_steps_is_trained_once_to_the_later():
    decay = DecayConfig(6, 24)
    early, late = (ScheduleSpec(f"at{stop}", 6, stop, decay) for stop in (20, 30))
    entries = trunk, first, second = planned(tiny.study((early, late), law=None))
    assert first.run == second.run
    assert training(entries) == [trunk, second]
    spent, apart = flops_with_and_without_branching(entries)
    per_step = 6 * trunk.entry()["N"] * 64
    assert (spent, apart) == ((trunk.stop + 24) * per_step, (20 + 30) * per_step)


def test_without_data_there_is_a_plan_but_no_ids():
    assert {entry.run for entry in plan_study(tiny.study())} == {""}


def bad_schedule(**fields):
    schedule = dataclasses.replace(tiny.TRUNK.schedule, **fields)
    return tiny.study(config=dataclasses.replace(tiny.TRUNK, schedule=schedule))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DecaySpec(100, share=1.0), "decay share 1.0 of branch '100': it must lie between 0 and 1"),
        (lambda: DecaySpec(100, share=0.0), "decay share 0.0"),
        (lambda: DecaySpec(100, share=-0.1, label="20N"), "decay share -0.1 of branch '20N'"),
        (lambda: DecaySpec(4, share=0.1), "that is 0 steps of decay; make the branch longer"),
        (lambda: planned(tiny.study((tiny.decay(30), tiny.decay(30)))), "more than one run labelled t/30"),
        (lambda: planned(tiny.study(())), "run 't' has neither a decay nor branches"),
        (lambda: planned(bad_schedule(warmup_steps=25)), "decay starts at step 24, but the warm-up ends at step 25"),
        (lambda: planned(bad_schedule(peak=-1.0)), "schedule.peak is -1.0"),
        (
            lambda: tiny.study(tasks=(dataclasses.replace(tiny.CODE, record_tokens=9),)).tasks(),
            "two different tasks named 'tiny_code'",
        ),
    ],
)
def test_what_makes_no_sense_is_a_sentence_before_anything_runs(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        ((ScheduleSpec("kept", 24, 30),), "'t/kept' ends at step 30 without a decay"),
        (
            (tiny.decay(30), ScheduleSpec("early", 24, 29, DecayConfig(24, 6))),
            "'t/early' ends at step 29 before its decay does, at step 30",
        ),
    ],
)
def test_an_end_that_is_not_decayed_is_refused_where_a_law_is_asked_for(branches, words):
    with pytest.raises(UserError) as caught:
        planned(tiny.study(branches))
    way_out = "a law is fitted to decayed ends: let it decay to its end, or set law=None"
    assert str(caught.value) == f"study 'tiny': {words}, and {way_out}"
    assert len(planned(tiny.study(branches, law=None))) == 1 + len(branches)
    over = ScheduleSpec("floor", 24, 33, DecayConfig(24, 6))  # goes on at its floor
    assert len(planned(tiny.study((tiny.decay(30), over)))) == 3


def test_config_comes_back_from_json_whole():
    config = planned(tiny.study((tiny.decay(30, data=tiny.MIXED),)))[1].config
    assert from_json(RunConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("place", "key", "words"),
    [
        ((), "lr", "unknown key lr (keys of RunConfig: model, data, schedule, optimizer, seed, parent, branch)"),
        (("schedule",), "peek", "unknown key peek (keys of ScheduleConfig: peak, warmup_steps, decay)"),
        (("data",), "batch", "keys of DataConfig: mixture, sequence_length, batch_size, max_epochs"),
        (("optimizer",), "beta1", "keys of OptimizerConfig: kind, b1"),
    ],
)
def test_unknown_key_is_named_with_those_known_at_its_place(place, key, words):
    data = to_json(tiny.TRUNK)
    inner = data
    for name in place:
        inner = inner[name]
    inner[key] = 1
    with pytest.raises(UserError) as caught:
        from_json(RunConfig, data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ".".join(("RunConfig", *place)) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("model"), "key 'model' is missing"),
        (lambda d: d["model"].update(num_heads=3, num_kv_heads=2), "num_heads 3 is not a multiple of num_kv_heads 2"),
        (lambda d: d["optimizer"].update(kind="sgd"), "sgd"),
    ],
)
def test_missing_and_wrong_values_are_named(change, words):
    data = to_json(tiny.TRUNK)
    change(data)
    with pytest.raises(UserError) as caught:
        from_json(RunConfig, data)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def study(:\n", "study.py:1: SyntaxError: invalid syntax"),
        ("x = 1\n", "study.py has no function study(): write one"),
        ("def study():\n    return 3\n", "returned int, not a scaling.study.Study"),
        ("import nothing_like_it\n", "study.py:1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        (
            HEAD + "def study():\n    return DecaySpec(9, shaer=0.1)\n",
            "study.py:5: TypeError: DecaySpec.__init__() got",
        ),
        (HEAD + "def study():\n    return DecaySpec(9, share=2)\n", "decay share 2 of branch '9'"),
        (HEAD + "def study():\n    return ladder_model(17, 259)\n", "study.py:5: ValueError: ladder width 17"),
    ],
)
def test_a_study_file_that_is_wrong_is_one_line_with_its_place(tmp_path, text, words):
    path = tmp_path / "study.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_study(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["quickstarted", "nowhere/quickstart.py"])
def test_unknown_study_names_those_there_are(name):
    with pytest.raises(UserError, match=rf"no study '{name}': give the path of a Python file, or one of .*quickstart"):
        load_study(name)


def test_whole_run_is_a_point_of_its_own():
    (entry,) = planned(dataclasses.replace(tiny.study(), runs=(RunSpec("c", tiny.whole(tiny.TRUNK, 5, 45)),)))
    assert (entry.kind, entry.is_point, entry.start, entry.stop) == ("whole", True, 0, 50)
    assert entry.entry()["D_decay"] == 45 * 64


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LawConfig(holdout="largest"), "law.holdout is 'largest': one of largest_n, largest_d, largest_c"),
        (lambda: LawConfig(n="params"), "law.n is 'params': one of N, N_total"),
        (lambda: LawConfig(budgets=(1e15, -1.0)), "FLOPs, all above 0"),
        (lambda: dataclasses.replace(tiny.study(), name="../x"), "names a folder"),
        (
            lambda: dataclasses.replace(
                tiny.study(), evaluation=EvaluationConfig((tiny.CODE, dataclasses.replace(tiny.CODE, name="other")))
            ),
            "two tasks of one domain",
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_before_anything_is_trained(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_a_study_file_given_relatively_is_told_by_its_line_too(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("def study():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^own.py:2: ZeroDivisionError"):
        load_study("own.py")
