from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.laws import conventions, counting, embedding, fit, reading, uncertainty
from scaling.laws.budget import Market
from scaling.laws.forms import CHINCHILLA

QUICKSTART = Path(__file__).parents[3] / "analysis" / "results" / "quickstart" / "points.csv"
COLUMNS = {"d": "D_total", "loss": "nats_per_token/code", "cluster": "trunk"}
LAW = {"E": 1.817, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}


@pytest.fixture(scope="module")
def quickstart() -> list[conventions.Alternative]:
    return conventions.alternatives(reading.read_frame(QUICKSTART), columns=COLUMNS)


def planted(low: float, high: float) -> pd.DataFrame:
    """Runs whose loss follows a law in all parameters, listed with those outside the embeddings as well."""
    n = np.repeat(np.geomspace(low, high, 7), 4)
    n_total = embedding.total(n, embedding.CHINCHILLA_OMEGA)
    d = n_total * np.tile([5, 20, 80, 320], 7)
    loss = CHINCHILLA.predict(LAW, {"n": n_total, "d": d})
    return pd.DataFrame({"non_embedding_params": n, "total_params": n_total, "tokens": d, "loss": loss})


def test_every_pair_of_an_n_and_a_c_is_listed_once(quickstart):
    assert [alternative.name for alternative in quickstart] == [
        "N = N, C = 6 N D",
        "N = N, C = C_6ND_total",
        "N = N, C = C_counted",
        "N = N_total, C = 6 N D",
        "N = N_total, C = C_6ND",
        "N = N_total, C = C_counted",
    ]
    first, last = quickstart[0].table, quickstart[-1].table
    assert first.columns["flops"] == pytest.approx(first.budgets)
    assert last.columns["n"].min() == 16064
    assert last.columns["flops"].min() == pytest.approx(3.46e10, rel=1e-3)
    assert max(alternative.residual for alternative in quickstart) < 2e-3


def test_an_asked_column_comes_first_and_one_convention_is_enough():
    frame = planted(1e7, 1e9)
    asked = conventions.alternatives(frame, columns={"n": "total_params"})
    assert [row.name for row in asked] == ["N = total_params, C = 6 N D", "N = non_embedding_params, C = 6 N D"]
    frame["flops"] = 6.003 * frame["total_params"] * frame["tokens"]  # 6 N D, but for rounding
    only = conventions.alternatives(frame.drop(columns="non_embedding_params"))
    assert [row.name for row in only] == ["N = total_params, C = 6 N D"]
    sizes = frame.drop(columns="flops").assign(model_size=7.0)  # gigabytes on disk, or whatever: no N
    assert [row.name for row in conventions.alternatives(sizes, columns={"n": "total_params"})] == [
        "N = total_params, C = 6 N D",
        "N = non_embedding_params, C = 6 N D",
    ]
    billions = frame.assign(total_params=frame["total_params"] / 1e9)  # and the other N in ones
    stated = conventions.alternatives(billions, columns={"n": "total_params"}, units={"n": 1e9})
    assert [row.name for row in stated] == ["N = total_params, C = 6 N D"]
    twice = pd.concat([frame, frame.head(3)])
    assert len(conventions.alternatives(twice, duplicates="drop")[0].table) == len(frame)
    from_flops = conventions.alternatives(frame[["total_params", "flops", "loss"]])
    assert [row.name for row in from_flops] == ["N = total_params, C = 6 N D"]


def test_counted_flops_carry_over_to_a_larger_model(quickstart):
    columns = quickstart[2].table.columns
    n, flops = columns["n"], columns["flops"]
    known = n < n.max()
    counted = counting.count("C", n[known], columns["d"][known], flops[known])
    predicted = counted.cost.training({"n": n[~known]}) * columns["d"][~known]
    assert predicted == pytest.approx(flops[~known], rel=0.01)
    assert np.all(np.abs(6 * n[~known] * columns["d"][~known] / flops[~known] - 1) > 0.2)  # what 6 N D is off by


def test_a_cost_is_positive_and_finite_at_any_size(quickstart):
    sizes = np.geomspace(1, 1e13, 40)
    for alternative in quickstart:
        per_token = alternative.cost.training({"n": sizes})
        assert np.all(np.diff(per_token) > 0)
        assert np.all((per_token / sizes > 0.1) & (per_token / sizes < 1e3))


def test_kaplan_against_chinchilla():
    """Leaving embeddings out of N and C makes a larger exponent of the same runs, as Pearce & Song derive."""
    low, high = 1e6, 1.5e9
    without, total = conventions.sensitivity(
        conventions.alternatives(planted(low, high)), times_largest=1.0, replicates=100
    )
    assert total.a == pytest.approx(LAW["beta"] / (LAW["alpha"] + LAW["beta"]), abs=2e-3)
    derived = embedding.NonEmbeddingLaw(LAW, embedding.CHINCHILLA_OMEGA).fitted_exponent(low, high)
    assert derived > 0.6
    assert without.a == pytest.approx(derived, abs=0.03)
    assert without.a - total.a > 0.15
    assert total.d == pytest.approx(CHINCHILLA.optimum(LAW, total.flops)["d"], rel=0.01)


def test_counting_every_flop_twice_moves_no_optimum():
    frame = planted(1e7, 1e9).drop(columns="non_embedding_params")
    frame["loss"] *= np.exp(np.random.default_rng(0).normal(0, 3e-3, len(frame)))
    frame["flops"] = 12 * frame["total_params"] * frame["tokens"]
    once, twice = conventions.sensitivity(conventions.alternatives(frame), replicates=100)
    assert twice.flops == pytest.approx(2 * once.flops)
    for name in ("a", "n", "d", "ratio"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=1e-4)
        assert getattr(twice, f"{name}_interval") == pytest.approx(getattr(once, f"{name}_interval"), rel=1e-4)
    assert once.n_interval.low < once.n < once.n_interval.high
    assert once.a_interval.low < once.a < once.a_interval.high
    assert once.ratio == pytest.approx(once.d / once.n)


def test_the_asked_count_of_flops_comes_first(quickstart):
    frame = reading.read_frame(QUICKSTART)
    found = conventions.alternatives(frame, columns=COLUMNS | {"flops": "C_counted"})
    assert [row.name for row in found[:2]] == ["N = N, C = C_counted", "N = N, C = 6 N D"]
    assert {row.name for row in found} == {row.name for row in quickstart}
    assert found[0].table.budgets == pytest.approx(frame["C_counted"].to_numpy())
    assert found[1].table.counted is None


def test_the_reports_own_table_is_not_fitted_again():
    """Its intervals are those of the law's table, to the last digit, for every C of that N."""
    frame = planted(1e7, 1e9)
    frame["loss"] *= np.exp(np.random.default_rng(0).normal(0, 3e-3, len(frame)))
    found = conventions.alternatives(frame)
    known = uncertainty.bootstrap(fit.fit(CHINCHILLA, found[0].table), replicates=150)
    own, other = conventions.sensitivity(found, known=known, replicates=100, times_largest=10)
    market = Market(CHINCHILLA)
    n_R = market.optimum(known.params, own.flops)["n"]
    assert own.n_interval == known.interval(n_R)
    again = conventions.sensitivity(found, replicates=100, times_largest=10)
    assert again[1] == other
    assert again[0].n_interval != own.n_interval


def test_every_convention_is_fitted_with_the_threshold_of_the_report():
    frame = planted(1e7, 1e9)
    frame["loss"] *= np.exp(np.random.default_rng(0).normal(0, 3e-3, len(frame)))
    found = conventions.alternatives(frame)
    rows = {delta: conventions.sensitivity(found[:1], delta=delta, replicates=20)[0] for delta in (1e-4, 1.0)}
    for delta, row in rows.items():
        assert row.params == pytest.approx(dict(fit.fit(CHINCHILLA, found[0].table, delta=delta).params))
    assert abs(rows[1e-4].a - rows[1.0].a) > 1e-3
