"""Planted laws come back, within their intervals; what is no minimum is left out and said."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.tuning import batch_size, valleys
from scaling.tuning.batch_size import MINICPM, MINICPM_BYTES_PER_TOKEN, PowerLaw, best_batch_at_end, fit_law

BATCHES = 128 * 2 ** np.arange(6)
LOSSES = np.geomspace(2.6, 2.0, 8)


def table(log_tokens, losses, *, seeds=2, noise=0.0, luck=0.1, sizes=(1000, 2000), rng_seed=0):
    """Runs that come down to each loss after exp(log_tokens(batch, loss)) tokens.

    Every seed has luck of its own, which no best batch depends on. `noise` is the standard deviation of two errors
    of log tokens: one that all levels of a run share, and one of each level.
    """
    rng, rows = np.random.default_rng(rng_seed), []
    for size in sizes:
        for seed in range(seeds):
            offset = luck * rng.normal()
            for batch in BATCHES:
                shared = noise * rng.normal()
                for loss in losses:
                    tokens = np.exp(log_tokens(batch, loss) + offset + shared + noise * rng.normal())
                    rows.append((size, seed, batch, loss, tokens))
    return pd.DataFrame(rows, columns=["N", "seed", "batch", "level", "tokens"]).dropna()


def valley(law):
    """Least at the law's batch, and symmetric about it in log batch."""
    return lambda batch, loss: 15 - 8 * np.log(loss) + np.log(np.cosh(np.log(batch / law.batch(loss))))


def noise_floor(q, g):
    """Loss A s^-g + q / B after s steps of B tokens, solved for B s; without a solution NaN."""

    def log_tokens(batch, loss):
        reducible = loss - q / batch
        return np.log(batch) - np.log(reducible) / g if reducible > 0 else np.nan

    return log_tokens


@settings(max_examples=25, deadline=None)
@given(b=st.floats(-2, 6), middle=st.floats(500, 1000))
def test_a_planted_law_comes_back(b, middle):
    law = PowerLaw(middle * 2.3**b, b)
    found = fit_law(table(valley(law), LOSSES), replicates=20)
    assert found.law.b == pytest.approx(b, abs=0.15)
    assert found.law.batch(2.3) == pytest.approx(middle, rel=0.02)
    assert found.scatter < 0.05


@settings(max_examples=15, deadline=None)
@given(q=st.floats(60, 250), g=st.floats(0.2, 0.5))
def test_loss_with_a_noise_floor_has_its_exact_best_batch(q, g):
    losses = np.geomspace(0.5, 2, 9)
    found = fit_law(table(noise_floor(q, g), losses), replicates=20)
    assert found.law.b == pytest.approx(1, abs=0.2)
    at = float(np.median(found.optima["level"][found.optima["problem"] == ""]))
    assert found.law.batch(at) == pytest.approx(q * (1 + 1 / g) / at, rel=0.2)


def test_intervals_hold_the_planted_law_as_often_as_they_say():
    law, held = PowerLaw(600 * 2.3**5, 5.0), []
    for study in range(50):
        found = fit_law(table(valley(law), LOSSES, seeds=3, noise=0.1, rng_seed=study), replicates=200, seed=study)
        (low_b, high_b), (low, high) = found.b_interval, found.batch_interval(2.3)
        held.append((low_b <= law.b <= high_b, low <= law.batch(2.3) <= high))
    assert found.clusters == 6
    assert np.all((np.mean(held, 0) > 0.76) & (np.mean(held, 0) < 1))  # 90% less three standard errors


def test_more_seeds_of_the_same_noise_give_narrower_intervals():
    law = PowerLaw(600 * 2.3**5, 5.0)

    def width(seeds, study):
        ends = fit_law(table(valley(law), LOSSES, seeds=seeds, noise=0.05, rng_seed=study), replicates=200).b_interval
        return ends.high - ends.low

    few, many = ([width(seeds, study) for study in range(6)] for seeds in (3, 12))
    assert np.mean(few) / np.mean(many) == pytest.approx(np.sqrt(12 / 3) * 1.2, rel=0.4)  # Student's quantiles: 1.2


def test_with_the_rate_tuned_to_each_batch_no_batch_is_best():
    def tuned(batch, loss):  # McCandlish et al., equation 2.11
        return 15 - 8 * np.log(loss) + np.log1p(batch / 1000)

    with pytest.raises(UserError, match="0 of 16 losses have a best batch"):
        fit_law(table(tuned, LOSSES), replicates=20)


def test_what_is_no_minimum_is_left_out_and_said():
    law = PowerLaw(600 * 2.3**5, 5.0)
    points = table(valley(law), [*LOSSES, 1.75, 1.68, 1.5])
    hill = (points["level"] == 2.0) & (points["N"] == 1000)
    points.loc[hill, "tokens"] = 1e5 * np.exp(-0.05 * np.log(points["batch"][hill] / 600) ** 2)
    points = points[(points["level"] != LOSSES[0]) | (points["N"] == 2000) | (points["batch"] > 512)]
    found = fit_law(points, replicates=20)
    problem = found.optima.set_index(["N", "level"])["problem"]
    assert problem[1000, LOSSES[0]] == batch_size.TOO_FEW  # of six, three come down to it
    assert problem[1000, 2.0] == batch_size.DOWNWARD
    assert problem[1000, 1.5] == batch_size.OUTSIDE  # 5084, of 4096
    assert problem[1000, 1.68] == batch_size.AT_THE_EDGE  # 2885
    assert problem[1000, 1.75] == ""  # 2352
    assert sum(found.left_out.values()) == (problem != "").sum() == 2 + 2 * 2
    assert found.law.b == pytest.approx(5, abs=0.15)  # none of them bends the law


def test_minima_near_an_end_do_not_flatten_the_law():
    # noise moves some minima inwards and puts the others outside; to keep the first alone would bend the line
    law, b = PowerLaw(250 * 2.6**6, 6.0), []
    for study in range(12):
        found = fit_law(table(valley(law), np.geomspace(2.9, 2.0, 9), noise=0.1, rng_seed=study), replicates=2)
        b.append(found.law.b)
    assert np.mean(b) == pytest.approx(6, abs=3 * np.std(b) / np.sqrt(12) + 0.15)


def test_one_seed_of_a_size_is_an_error_that_says_so():
    points = table(valley(PowerLaw(600.0, 0.0)), LOSSES)
    with pytest.raises(UserError, match=r"\{1000: 1, 2000: 2\}"):
        fit_law(points[(points["N"] == 2000) | (points["seed"] == 0)])


def test_a_seed_that_misses_a_batch_does_not_move_the_minimum():
    law = PowerLaw(700.0, 0.0)
    points = table(valley(law), LOSSES)
    kept = points[(points["seed"] == 0) | (points["batch"] != BATCHES[1])]
    assert fit_law(kept, replicates=20).law.batch(2.3) == pytest.approx(700, rel=0.03)


def test_intervals_of_minima_hold_them_and_parabolas_pass_through_them():
    law = PowerLaw(600 * 2.3**5, 5.0)
    found = fit_law(table(valley(law), LOSSES, seeds=4, noise=0.03), replicates=400)
    rows = found.optima[found.optima["problem"] == ""]
    assert ((rows["low"] < rows["batch"]) & (rows["batch"] < rows["high"])).all()
    exact = fit_law(table(valley(law), LOSSES, luck=0.0), replicates=2).optima
    assert exact["tokens"].to_numpy() == pytest.approx(np.exp(15 - 8 * np.log(exact["level"])), rel=0.04)


def test_the_end_of_runs_of_one_length_has_its_best_batch():
    ends = table(lambda batch, loss: 0.5 + 0.01 * np.log(batch / 700) ** 2, [0.0], seeds=3)
    ends = ends.rename(columns={"tokens": "loss"}).drop(columns="level")
    found = best_batch_at_end(ends, replicates=200)
    assert found["batch"].to_numpy() == pytest.approx(700, rel=1e-6)
    assert found["low"].to_numpy() == pytest.approx(700, rel=1e-6)
    sloping = ends.assign(loss=ends["batch"] ** -0.05)
    assert set(best_batch_at_end(sloping)["problem"]) <= {batch_size.OUTSIDE, batch_size.DOWNWARD}


@pytest.mark.parametrize(("loss", "batch"), [(5, 5.3e4), (4, 2.1e5), (3.5, 4.9e5), (3, 1.28e6), (2.5, 4.0e6)])
def test_minicpm_law_has_its_values(loss, batch):
    assert MINICPM.batch(loss) == pytest.approx(batch, rel=0.02)
    assert np.log(MINICPM.a) == pytest.approx(20.91, abs=0.01)
    in_bytes = MINICPM.in_bytes(MINICPM_BYTES_PER_TOKEN)
    assert in_bytes.batch(loss / 3.4) == pytest.approx(3.4 * MINICPM.batch(loss))


@given(clusters=st.integers(2, 6))
@settings(max_examples=5, deadline=None)
def test_bootknife_has_the_variance_of_a_mean(clusters):
    values = np.random.default_rng(clusters).normal(size=clusters)
    drawn = valleys.bootknife(clusters, 20_000, np.random.default_rng(0))
    assert (drawn.sum(1) == clusters).all()
    assert np.var(drawn @ values / clusters) == pytest.approx(np.var(values, ddof=1) / clusters, rel=0.05)
