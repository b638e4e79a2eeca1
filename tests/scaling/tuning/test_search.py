import dataclasses
import json
import math
import sys

import numpy as np
import pytest

from scaling import storage
from scaling.errors import UserError
from scaling.tuning.search import Search, ask, best_trials, importances, read_journal, run_search
from scaling.tuning.space import Parameter

SPACE = (Parameter("learning_rate", 1e-3, 1e-1), Parameter("init_std", 0.01, 1.0))
OPTIMUM = {"learning_rate": 0.02, "init_std": 0.05}
SEARCH = Search(SPACE, rounds=4, per_round=4, seed=3)
EDGE = 0.03  # learning rates above it diverge, where a test says so


def bowl(values):
    return sum(math.log10(values[name] / best) ** 2 for name, best in OPTIMUM.items())


def train(trials, loss=bowl):
    """A round's trials told, without any training."""
    losses = [loss(trial.values) for trial in trials]
    reasons = [None if loss is not None else "it diverged" for loss in losses]
    return [t.told(f"run{t.number}", *outcome) for t, *outcome in zip(trials, losses, reasons, strict=True)]


def up_to_an_edge(values):
    """Better and better with the learning rate, up to where it diverges."""
    rate = values["learning_rate"]
    return None if rate > EDGE else -math.log(rate)


def run(search, path, **changes):
    return run_search(dataclasses.replace(search, **changes), path / "journal.json", train)


def test_a_search_is_a_function_of_its_seed(tmp_path):
    first, second, other = (run(SEARCH, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == second
    assert (tmp_path / "a" / "journal.json").read_bytes() == (tmp_path / "b" / "journal.json").read_bytes()
    assert {t.values["init_std"] for t in first}.isdisjoint(t.values["init_std"] for t in other)


def test_what_a_round_asks_for_depends_on_what_was_told(tmp_path):
    trials = run(SEARCH, tmp_path)
    told = trials[:12]
    swapped = [dataclasses.replace(trial, loss=-trial.loss) for trial in told]
    assert ask(SEARCH, told) == [dataclasses.replace(t, state="asked", loss=None, run="") for t in trials[12:]]
    assert ask(SEARCH, told) != ask(SEARCH, swapped)
    random = dataclasses.replace(SEARCH, sampler="random")
    assert ask(random, told) == ask(random, swapped)


def test_killed_anywhere_a_search_goes_on_as_if_undisturbed(tmp_path, monkeypatch):
    """Killed before every round, after it, and before and after every write of the journal, each in turn."""
    undisturbed = run(SEARCH, tmp_path / "undisturbed")
    write, passed, kill_at = storage.write_json, 0, 0

    class Killed(BaseException):
        pass

    def moment():
        nonlocal passed
        passed += 1
        if passed == kill_at:
            raise Killed

    def watched(work):
        def wrapped(*args):
            moment()
            done = work(*args)
            moment()
            return done

        return wrapped

    monkeypatch.setattr(storage, "write_json", watched(write))
    trained = watched(train)
    moments = 2 * SEARCH.rounds * 3
    for kill_at in range(1, moments + 1):
        path, passed = tmp_path / str(kill_at) / "journal.json", 0
        with pytest.raises(Killed):
            run_search(SEARCH, path, trained)
        before = path.read_text() if path.exists() else '{"trials": []}'
        assert run_search(SEARCH, path, train) == undisturbed
        # what was asked before the kill is what was trained after it
        settings = [row["values"] for row in json.loads(before)["trials"]]
        assert settings == [trial.values for trial in undisturbed][: len(settings)]
    passed, kill_at = 0, moments + 1
    run_search(SEARCH, tmp_path / "last" / "journal.json", trained)  # there is no further moment
    assert passed == moments


def test_more_rounds_extend_a_search_and_fewer_are_its_beginning(tmp_path):
    long = run(SEARCH, tmp_path / "long")
    assert run(SEARCH, tmp_path / "grown", rounds=2) == long[:8]
    assert run(SEARCH, tmp_path / "grown") == long
    assert run(SEARCH, tmp_path / "grown", rounds=3) == long[:12]
    assert len(read_journal(SEARCH, tmp_path / "grown" / "journal.json")) == 16


def test_a_failed_trial_is_told_as_a_bad_one():
    """A sampler that overlooked failures would run over the edge nine times in ten; a third is what an edge costs."""
    trials = []
    while len(trials) < 48:
        trials += train(ask(SEARCH, trials), up_to_an_edge)
    assert {trial.reason for trial in trials if trial.state == "failed"} == {"it diverged"}
    assert np.mean([trial.state == "failed" for trial in trials[16:]]) < 0.6
    assert best_trials(trials, 1)[0].values["learning_rate"] > 0.95 * EDGE


def test_all_trials_may_fail():
    trials = train(ask(SEARCH, []), lambda values: None)
    trials += train(ask(SEARCH, trials), lambda values: None)
    assert best_trials(trials, 3) == []
    assert len(ask(SEARCH, trials)) == 4
    assert importances(SEARCH, trials) == {}


def test_tpe_gets_closer_to_an_optimum_than_random_search(tmp_path):
    reached = {
        sampler: [
            best_trials(run(SEARCH, tmp_path / f"{sampler}{seed}", sampler=sampler, rounds=12, seed=seed), 1)[0].loss
            for seed in range(5)
        ]
        for sampler in ("tpe", "random")
    }
    assert np.median(reached["tpe"]) < np.median(reached["random"]) / 3


def test_random_search_is_uniform_over_the_logarithm_or_the_range():
    linear = (Parameter("learning_rate", 1e-3, 1e-1), Parameter("weight_decay", 0.0, 0.2, log=False))
    asked = ask(Search(linear, "random", per_round=400), [])
    rate, decay = (np.array([trial.values[p.name] for trial in asked]) for p in linear)
    for shares in ((np.log10(rate) + 3) / 2, decay / 0.2):
        assert np.quantile(shares, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)


def test_importance_is_that_of_the_parameter_that_matters():
    trials, search = [], dataclasses.replace(SEARCH, sampler="random", per_round=100)
    trials += train(ask(search, trials), lambda values: abs(math.log10(values["init_std"] / 0.05)))
    found = importances(search, trials)
    assert sum(found.values()) == pytest.approx(1)
    assert found["init_std"] > 0.9


def test_best_trials_are_the_lowest_in_order():
    trials = train(ask(SEARCH, []))
    failed = dataclasses.replace(trials[0], state="failed", loss=None)
    best = best_trials([failed, *trials[1:]], 2)
    assert [trial.loss for trial in best] == sorted(trial.loss for trial in trials[1:])[:2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": SPACE[:1]}, "over learning_rate=0.001:0.1, init_std=0.01:1 (sampler tpe"),
        ({"seed": 9}, "seed 3), not over"),
        ({"per_round": 5}, "4 a round"),
    ],
)
def test_the_journal_of_another_search_is_refused(tmp_path, change, words):
    run(SEARCH, tmp_path, rounds=1)
    with pytest.raises(UserError) as error:
        run(SEARCH, tmp_path, **change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_journal_is_said_to_be(tmp_path):
    run(SEARCH, tmp_path, rounds=1)
    path = tmp_path / "journal.json"
    path.write_text(path.read_text().replace('"values"', '"vaules"'))
    with pytest.raises(UserError, match="is damaged"):
        run(SEARCH, tmp_path)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'windtunnel\[tune\]'"):
        ask(SEARCH, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "grid"}, "sampler 'grid': one of tpe, random"),
        ({"rounds": 0}, "rounds is 0"),
        ({"per_round": 0}, "per_round is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"parameters": ()}, "nothing to search over"),
        ({"parameters": (SPACE[0], SPACE[0])}, "learning_rate is given twice"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(SEARCH, **change)
