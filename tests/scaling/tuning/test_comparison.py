import dataclasses

import numpy as np
import pytest
import tiny
from scipy import stats

from scaling.records import RunStore, points
from scaling.run import Runner
from scaling.study import RunSpec
from scaling.tuning.comparison import Measured, mean_interval, measure, train_runs
from scaling.tuning.result import Found, as_good_as_the_best, seed_deviation
from scaling.tuning.search import Search, Trial
from scaling.tuning.space import Parameter, with_setting

WHOLE = tiny.whole(tiny.TRUNK, start=8, steps=4)


def measured(name, *losses):
    return Measured(name, WHOLE, dict(enumerate(losses)))


def test_interval_is_students():
    values = [2.1, 2.4, 2.2, 2.6, 2.3]
    known = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert mean_interval(values) == pytest.approx((known.low, known.high))


def test_intervals_need_two_values_and_none_missing():
    assert mean_interval([2.0]) is None
    assert mean_interval([2.0, 2.1, None]) is None


def test_differences_are_taken_seed_by_seed():
    """Seeds that move both settings alike cancel; where one failed the seed is left out."""
    common = np.array([0.0, 0.4, -0.3, 0.2])
    mine, other = measured("a", *(2.1 + common), None), measured("b", *(2.0 + common), 1.0)
    difference = mine.minus(other)
    assert difference["mean"] == pytest.approx(0.1)
    assert difference["interval"] == pytest.approx([0.1, 0.1])
    assert mine.minus(measured("c", None)) == {"mean": None, "interval": None}


def test_the_winner_is_chosen_by_further_seeds_and_never_one_that_failed():
    search = Search((Parameter("learning_rate", 1e-3, 1e-1),))
    lucky = measured("lucky", 2.5, 2.6)
    found = Found(search, [], [lucky, measured("steady", 2.3, 2.4), measured("fragile", 1.0, None)])
    assert found.winner.name == "steady"


def test_deviation_over_seeds_is_pooled_within_settings():
    rng = np.random.default_rng(0)
    settings = [measured(str(i), *(i + 0.1 * rng.normal(size=20))) for i in range(20)]
    assert seed_deviation([*settings, measured("x", 5.0), measured("y", None)]) == pytest.approx(0.1, rel=0.1)


def test_trials_that_seeds_cannot_tell_from_the_best_give_each_parameters_range():
    search = Search((Parameter("learning_rate", 1e-3, 1e-1),))
    losses = {0.01: 2.00, 0.02: 2.15, 0.04: 2.19, 0.08: 2.21, 0.09: None}
    trials = [Trial(i, {"learning_rate": rate}).told("", loss) for i, (rate, loss) in enumerate(losses.items())]
    spread = measured("tpe-000", 1.9, 2.0, 2.1)  # standard deviation 0.1
    near = as_good_as_the_best(Found(search, trials, [spread]))
    assert near["trials"] == 3
    assert near["ranges"] == {"learning_rate": [0.01, 0.04]}
    assert as_good_as_the_best(Found(search, trials, [measured("tpe-000", 1.9, None)])) == {}


@pytest.fixture
def runner(tmp_path, data_dir):
    return Runner(RunStore(tmp_path), data_dir, tiny.EXECUTION)


def test_trained_losses_are_those_of_a_study_and_divergence_is_an_outcome(runner):
    """A planted divergence has a reason and no loss, and leaves the loss of the run beside it alone."""
    study = tiny.study((), name="found", tasks=(tiny.CODE, tiny.PROSE))
    wild = with_setting(WHOLE, {"learning_rate": 1e30})
    outcomes = train_runs(study, [RunSpec("good", WHOLE), RunSpec("wild", wild)], runner)
    assert outcomes["wild"].loss is None
    assert "non-finite" in outcomes["wild"].reason
    table = points(runner.store, "found")
    assert list(table["run"]) == [outcomes["good"].run]
    columns = ["nats_per_token/code", "nats_per_token/prose"]
    assert outcomes["good"].loss == pytest.approx(table[columns].to_numpy().mean(), rel=1e-12)
    assert train_runs(study, [RunSpec("good", WHOLE)], runner)["good"] == outcomes["good"]


def test_a_setting_is_measured_under_every_seed(runner):
    (found,) = measure({"a": dataclasses.replace(WHOLE, seed=99)}, [1, 2], tiny.study((), name="found"), runner)
    outcomes = train_runs(
        tiny.study((), name="alone"), [RunSpec(str(s), dataclasses.replace(WHOLE, seed=s)) for s in (1, 2)], runner
    )
    assert found.losses == {1: outcomes["1"].loss, 2: outcomes["2"].loss}
    assert found.losses[1] != found.losses[2]
