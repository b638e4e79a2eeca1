import dataclasses
import json

import pandas as pd
import pytest

from experiments.commands.tune import Plan, execute
from scaling.errors import UserError
from scaling.records import RunStore, status
from scaling.run import Runner
from scaling.tuning.search import Search
from scaling.tuning.space import Parameter

SPACE = (Parameter("learning_rate", 1e-3, 1.0), Parameter("scale_emb", 1.0, 20.0))
PLAN = Plan(tuple(Search(SPACE, sampler, rounds=2, per_round=2) for sampler in ("tpe", "random")), 1, 2)
WHOLE = "tiny.whole(tiny.TRUNK, 8, 4)"
RUNS = "tiny.study((), config=%s, label='base')"
PEER = "tiny.dataclasses.replace(made, runs=(*made.runs, tiny.RunSpec('peer', %s)))"


def text(runs=WHOLE, peer="tiny.whole(tiny.changed(seed=5), 8, 4)"):
    return f"(lambda made: {PEER % peer})({RUNS % runs})"


def test_a_search_from_beginning_to_end_and_once_more(study_file, tmp_path, data_dir, monkeypatch, capsys):
    study, runs_dir = study_file(text()), tmp_path / "runs"
    execute(str(study), PLAN, runs_dir, data_dir)
    folder = runs_dir / "studies" / "tiny-search"
    trials, best = pd.read_csv(folder / "trials.csv"), json.loads((folder / "best.json").read_text())
    assert list(trials["label"]) == [f"{sampler}-{i:03d}" for sampler in ("tpe", "random") for i in range(4)]
    assert set(trials["state"]) == {"complete"}
    by_name = {row["name"]: row for row in best["comparison"]}
    assert set(by_name) == {best["searches"][0]["winner"], best["searches"][1]["winner"], "base", "peer"}
    # the best trial of its seed is the finalist; trial 0 and what it is measured under differ in seed
    assert best["searches"][0]["winner"] == trials[:4].sort_values("loss")["label"].iloc[0]
    assert list(best["best"]["losses"]) == ["3", "4"]
    assert best["best"]["loss"] == pytest.approx(sum(best["best"]["losses"].values()) / 2)
    assert list(best["searches"][0]["finalists"][0]["losses"]) == ["1", "2"]
    # one budget, one recipe: the peer differs from the base in its seed alone, which is replaced
    assert by_name["peer"]["losses"] == by_name["base"]["losses"]
    assert (folder / "parameters.png").exists()
    assert (folder / "best_so_far.pdf").exists()
    assert {row.state for row in status(RunStore(runs_dir), "tiny-search").values()} == {"complete"}
    assert best["best"]["name"] in capsys.readouterr().out

    def trains(*_):
        raise AssertionError("nothing was left to train")

    monkeypatch.setattr(Runner, "_train", trains)
    again = [(folder / name).read_bytes() for name in ("trials.csv", "best.json", "tpe.json", "parameters.png")]
    execute(str(study), PLAN, runs_dir, data_dir)
    assert again == [(folder / name).read_bytes() for name in ("trials.csv", "best.json", "tpe.json", "parameters.png")]


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ("tiny.study()", "its run 't' has branches or no decay: give whole runs"),
        (
            text(peer="tiny.whole(tiny.TRUNK, 8, 5)"),
            "its run 'peer' has N = 1192, D = 832 where the first has N",
        ),
    ],
)
def test_a_study_that_cannot_be_tuned_is_refused(study, words, study_file, tmp_path, data_dir):
    with pytest.raises(UserError, match=words):
        execute(str(study_file(study)), PLAN, tmp_path / "runs", data_dir)


def test_when_every_trial_fails_it_is_said(study_file, tmp_path, data_dir):
    wild = (Parameter("learning_rate", 1e29, 1e30),)
    with pytest.raises(UserError, match=r"all 2 trials of the random search failed, the first with: non-finite"):
        execute(str(study_file(text())), Plan((Search(wild, "random", 1, 2),), 1, 2), tmp_path / "runs", data_dir)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"finalists": 0}, "finalists is 0"),
        ({"finalists": 5}, "finalists is 5"),
        ({"seeds": 1}, "seeds is 1"),
        ({"searches": ()}, "samplers are none"),
        ({"searches": PLAN.searches[:1] * 2}, "samplers are tpe tpe"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(PLAN, **change)
