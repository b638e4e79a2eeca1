"""Step logs become curves, and curves tokens, without bias and with an error that is true."""

import numpy as np
import pandas as pd
import pytest

from scaling.tuning.token_curves import RUN, curve, loss_levels, smooth, tokens_to_loss


def log_of(loss_of_tokens, steps=4000, tokens_per_step=256, noise=0.0, seed=0):
    after = tokens_per_step * np.arange(1, steps + 1)
    loss = loss_of_tokens(np.maximum(after - tokens_per_step, 1)) + noise * np.random.default_rng(seed).normal(
        size=steps
    )
    return pd.DataFrame({"tokens": after, "loss": loss})


def falling(tokens):
    return 6.0 - 0.3 * np.log(tokens)


def tokens_at(loss):
    return np.exp((6.0 - loss) / 0.3)


def curves_of(log, first=20_000, last=900_000, run=(1000, 0, 256)):
    return curve(log, 256, first, last).assign(**dict(zip(RUN, run, strict=True)))


def test_every_step_between_the_ends_is_in_one_bin():
    log = log_of(falling, noise=0.3)
    found = curve(log, 256, 20_000, 900_000)
    inside = log[(log["tokens"] - 256 >= 20_000) & (log["tokens"] - 256 <= 900_000)]
    assert found["steps"].sum() == len(inside)
    assert (found["loss"] * found["steps"]).sum() == pytest.approx(inside["loss"].sum())
    assert found["tokens"].iloc[0] >= 20_000
    assert found["tokens"].iloc[-1] <= 900_000
    assert np.diff(np.log(found["tokens"])).max() < 0.1


def test_a_loss_belongs_to_the_tokens_before_its_step():
    # steps of 200,000 tokens: to count a step's own tokens would shift the curve by far
    log = log_of(falling, steps=40, tokens_per_step=20_000)
    found = tokens_to_loss(curve(log, 20_000, 40_000, 700_000).assign(N=1, seed=0, batch=20_000), [2.2])
    assert found["tokens"].iloc[0] == pytest.approx(tokens_at(2.2), rel=0.01)


def test_a_straight_curve_is_kept_and_its_levels_are_found():
    found = tokens_to_loss(curves_of(log_of(falling)), [2.9, 2.6, 2.2])
    assert found["tokens"].to_numpy() == pytest.approx([tokens_at(loss) for loss in (2.9, 2.6, 2.2)], rel=2e-3)


def test_levels_outside_the_curve_are_not_extrapolated():
    found = tokens_to_loss(curves_of(log_of(falling)), [falling(15_000), 2.5, falling(1e6)])
    assert found["level"].tolist() == [2.5]


def test_a_level_that_a_run_begins_below_is_left_out_for_its_size():
    late, early, other = (curves_of(log_of(falling), run=run) for run in ((1, 0, 256), (1, 0, 128), (2, 0, 256)))
    early = early[early["loss"] < 2.5]
    found = tokens_to_loss(pd.concat([late, early, other]), [2.7, 2.4])
    assert found[[*RUN, "level"]].to_numpy().tolist() == [
        [1, 0, 128, 2.4],
        [1, 0, 256, 2.4],
        [2, 0, 256, 2.7],
        [2, 0, 256, 2.4],
    ]


def test_the_standard_error_is_that_of_repeated_runs():
    losses, errors, crossings = [], [], []
    for seed in range(60):
        found = curves_of(log_of(falling, noise=0.4, seed=seed))
        smoothed, error = smooth(*(found[name].to_numpy(float) for name in ("tokens", "loss", "steps")))
        losses.append(smoothed)
        errors.append(error)
        crossings.append(tokens_to_loss(found, [2.3])["tokens"].iloc[0])
    assert np.mean(errors, 0) == pytest.approx(np.std(losses, 0), rel=0.35)
    assert np.mean(errors) == pytest.approx(np.std(losses, 0).mean(), rel=0.08)
    assert np.mean(np.log(crossings)) == pytest.approx(np.log(tokens_at(2.3)), abs=0.03)


def test_smoothing_is_a_line_by_weighted_least_squares():
    rng = np.random.default_rng(0)
    tokens, loss, steps = np.exp(np.arange(10, 12, 0.05)), rng.normal(3, 0.1, 40), rng.integers(1, 30, 40).astype(float)
    smoothed, _ = smooth(tokens, loss, steps, 0.21)
    near = slice(16, 25)
    expected = np.polyfit(np.log(tokens[near]) - 11, loss[near], 1, w=np.sqrt(steps[near]))
    assert smoothed[20] == pytest.approx(expected[1])


def test_levels_are_common_and_inside_what_was_seen():
    curves = pd.DataFrame({"loss": [3.0, 2.0, 2.5, 1.6]})
    levels = loss_levels(curves, 1.05)
    assert np.diff(np.log(levels)) == pytest.approx(-np.log(1.05))
    assert 3.0 >= levels[0] > 3.0 / 1.05
    assert 1.6 <= levels[-1] < 1.6 * 1.05
    shorter = loss_levels(curves[curves["loss"] > 1.9], 1.05)
    assert set(shorter) < set(levels)
