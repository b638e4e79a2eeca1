import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.best_rate import best_rates
from scaling.errors import UserError

RATES = 0.015 * 2.0 ** np.arange(-3, 4)


def sweep(best, noise=0.0, seeds=(0, 1), rng=None, curvature=0.1, name="a"):
    """Losses on a parabola about log2(best), each seed at a height of its own."""
    rows = [
        (name, rate, seed, 1.5 + 0.3 * seed + curvature / 2 * np.log2(rate / best) ** 2)
        for rate, seed in itertools.product(RATES, seeds)
    ]
    table = pd.DataFrame(rows, columns=["name", "learning_rate", "seed", "loss"])
    if rng is not None:
        table["loss"] += noise * rng.standard_normal(len(table))
    return table


def test_the_vertex_of_exact_parabolas_comes_back_whatever_the_seeds_heights():
    table = pd.concat([sweep(0.01, name="a"), sweep(0.033, name="b", seeds=(3,))])
    # a seed that has only the worse rates must not pull the vertex
    table = table[~((table["name"] == "a") & (table["seed"] == 1) & (table["learning_rate"] < 0.01))]
    found = best_rates(table, ["name"], "loss").set_index("name")
    assert found["best_rate"].to_dict() == pytest.approx({"a": 0.01, "b": 0.033})
    assert found["low"].to_numpy() == pytest.approx(found["high"].to_numpy())  # no noise, no interval
    assert found["lowest_rate"].to_dict() == pytest.approx({"a": 0.0075, "b": 0.03})


def test_only_the_lowest_points_count():
    table = sweep(0.015)
    table.loc[np.abs(np.log2(table["learning_rate"] / 0.015)) > 2.5, "loss"] += 3.0
    assert best_rates(table, ["name"], "loss")["best_rate"].to_numpy() == pytest.approx(0.015)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(150):
        table = pd.concat([sweep(0.013, 0.01, rng=rng), sweep(0.02, 0.01, seeds=(0,), rng=rng, name="b")])
        found = best_rates(table, ["name"], "loss")
        held += [low < true < high for low, high, true in zip(found["low"], found["high"], (0.013, 0.02), strict=True)]
    assert 0.85 < np.mean(held) < 0.95


def test_an_optimum_at_the_end_of_the_sweep_is_not_one():
    row = best_rates(sweep(0.5), ["name"], "loss").iloc[0]
    assert not row["bracketed"]
    assert row["lowest_rate"] == pytest.approx(0.12)
    assert np.isnan(row[["best_rate", "low", "high"]].to_numpy(float)).all()


def test_a_flat_curve_has_no_interval():
    table = sweep(0.015, 0.01, rng=np.random.default_rng(1), curvature=0.0005)
    assert np.isnan(best_rates(table, ["name"], "loss")["low"]).all()


def test_an_interval_holds_its_own_vertex_or_is_none():
    """Where the curvature may be zero but the slope is not, Fieller's set is the outside of an interval."""
    rng, none = np.random.default_rng(2), 0
    for _ in range(60):
        table = sweep(0.015, 0.05, rng=rng, curvature=0.0)
        table["loss"] += 0.06 * np.log2(table["learning_rate"] / 0.015)
        row = best_rates(table, ["name"], "loss").iloc[0]
        if np.isnan(row["low"]):
            none += 1
        else:
            assert row["low"] < row["best_rate"] < row["high"]
    assert none > 30


def test_two_rates_make_no_parabola():
    table = sweep(0.015)
    with pytest.raises(UserError, match="2 learning rates, and a parabola takes three"):
        best_rates(table[table["learning_rate"].between(0.01, 0.04)], ["name"], "loss")
