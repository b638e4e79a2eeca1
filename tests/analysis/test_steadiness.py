import numpy as np
import pandas as pd
import pytest

from analysis.steadiness import SPIKE, WINDOW, by_parts, excess, spikes


def noise(steps=4000, seed=0):
    return np.random.default_rng(seed).normal(size=steps)


def test_excess_is_in_standard_deviations_of_the_steps_before():
    loss = 2.0 + 0.05 * noise()
    loss[1000] = 2.0 + 0.05 * 20
    found = excess(loss)
    assert np.isnan(found[:WINDOW]).all()
    assert found[1000] == pytest.approx(20, rel=0.35)  # a spread from 64 steps is that uncertain
    assert np.nanstd(np.delete(found, 1000)) == pytest.approx(1.0, abs=0.15)


def test_a_step_is_no_part_of_what_it_is_compared_with():
    for value in (10.0, -3.0):
        assert excess([-1.0, 1.0] * (WINDOW // 2) + [value, 99.0])[WINDOW] == pytest.approx(value / 1.4826)


def test_a_spike_is_counted_once_however_long_it_lasts_and_noise_is_none():
    loss = 2.0 + 0.05 * noise()
    assert spikes(loss).sum() == 0
    loss[500:510] += 5.0
    loss[3000] += 5.0
    assert np.flatnonzero(spikes(loss)).tolist() == [500, 3000]


@pytest.mark.parametrize("slope", [-1e-3, 1e-3])
def test_a_trend_is_no_spike(slope):
    """Over a window the loss moves by at most about a standard deviation, which is far from SPIKE of them."""
    assert SPIKE > 4
    assert spikes(2.0 + slope * np.arange(4000) + 0.05 * noise()).sum() == 0


def test_a_run_shorter_than_the_window_has_no_spikes():
    assert np.isnan(excess([1.0] * WINDOW)).all()
    assert spikes([1.0, 100.0, 1.0]).tolist() == [False] * 3


def test_parts_say_where_in_a_run_what_happened():
    steps = np.arange(1, 1001)
    loss = 2.0 + 0.05 * noise(1000)
    loss[750] += 4.0
    norm = np.where(steps <= 500, 1.0, 3.0)
    norm[20] = 50.0
    table = by_parts(pd.DataFrame({"step": steps, "tokens": 10 * steps, "loss": loss, "grad_norm": norm}), parts=4)
    assert table["tokens"].tolist() == [2500, 5000, 7500, 10000]
    assert table["steps"].tolist() == [250] * 4
    assert table["spikes"].tolist() == [0, 0, 0, 1]
    assert table["grad_norm"].tolist() == [1, 1, 3, 3]
    assert table["largest_grad_norm"].tolist() == [50, 1, 3, 3]
    assert table["largest_excess"].idxmax() == 3
