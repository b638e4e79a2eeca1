"""Learning rates value by value, and what holds for every decay shape."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.config import DecayConfig, ScheduleConfig
from scaling.errors import UserError
from scaling.schedules import SHAPES, learning_rate, learning_rates

ALL_SHAPES = ["exponential", *SHAPES]
ENDING_SHAPES = [shape for shape in ALL_SHAPES if shape != "cosine_loop"]


def wsd(shape: str, warmup: int = 4, start: int = 10, steps: int = 8, final: float = 0.0) -> ScheduleConfig:
    decay = DecayConfig(start=start, steps=steps, shape=shape, final=final, half_life=steps / 4)  # type: ignore[arg-type]
    return ScheduleConfig(peak=0.5, warmup_steps=warmup, decay=decay)


def test_warmup_and_constant_by_hand() -> None:
    rates = learning_rates(ScheduleConfig(peak=0.8, warmup_steps=4), 0, 7)
    np.testing.assert_array_equal(rates, np.float32([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8]))
    assert rates.dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "closed_form"),
    [
        ("linear", lambda r: 1 - r),
        ("cosine", lambda r: math.cos(math.pi * r / 2) ** 2),
        ("one_minus_sqrt", lambda r: 1 - r**0.5),
        ("square", lambda r: (1 - r) * (1 + r)),
        ("mirror_cosine", lambda r: 2 - 2 * r - math.cos(math.pi * r / 2) ** 2),
        ("megatron", lambda r: 2 * math.exp(-r * math.log(2)) - 1),
        ("exponential", lambda r: math.exp(-4 * r * math.log(2))),  # four half-lives
    ],
)
def test_shapes_value_by_value(shape: str, closed_form: Callable[[float], float]) -> None:
    expected = [0.5 * closed_form(k / 8) for k in range(8)]
    np.testing.assert_allclose(learning_rates(wsd(shape), 10, 18), expected, rtol=1e-6)


def test_every_named_shape_is_tested_above_and_configurable() -> None:
    assert set(ALL_SHAPES) == set(DecayConfig.__dataclass_fields__["shape"].type.__args__)


@pytest.mark.parametrize("shape", ENDING_SHAPES)
def test_a_decay_begins_at_the_stable_rate_and_ends_at_its_final_one(shape: str) -> None:
    schedule = wsd(shape, final=0.125)
    assert learning_rate(schedule, 9) == learning_rate(schedule, 10) == 0.5  # no jump: r is 0 at the first step
    end = 0.5 * (2.0**-4 if shape == "exponential" else 0.125)
    assert learning_rate(schedule, 18) == learning_rate(schedule, 1000) == pytest.approx(end, abs=1e-9)


@given(
    shape=st.sampled_from(ENDING_SHAPES),
    warmup=st.integers(0, 50),
    stable=st.integers(0, 50),
    steps=st.integers(1, 200),
    final=st.floats(0, 1),
)
def test_rates_rise_and_then_fall_and_stay_in_range(
    shape: str, warmup: int, stable: int, steps: int, final: float
) -> None:
    schedule = wsd(shape, warmup, warmup + stable, steps, final)
    rates = learning_rates(schedule, 0, warmup + stable + steps + 3)
    assert (np.diff(rates[: warmup + stable]) >= 0).all()
    assert (np.diff(rates[max(warmup - 1, 0) :]) <= 0).all()
    assert rates.min() >= 0
    assert rates.max() <= np.float32(0.5)
    assert rates[0] > 0  # no update is wasted


@given(shape=st.sampled_from(ALL_SHAPES), cut=st.integers(0, 30))
def test_a_rate_is_a_function_of_its_step_alone(shape: str, cut: int) -> None:
    """Bitwise, however the steps are grouped into dispatches."""
    schedule = wsd(shape)
    parts = [learning_rates(schedule, 0, cut), learning_rates(schedule, cut, 30)]
    np.testing.assert_array_equal(np.concatenate(parts)[:30], learning_rates(schedule, 0, max(cut, 30))[:30])


def test_a_branch_shares_its_trunks_rates_before_the_decay() -> None:
    trunk = dataclasses.replace(wsd("linear"), decay=None)
    np.testing.assert_array_equal(learning_rates(trunk, 0, 10), learning_rates(wsd("linear"), 0, 10))


def test_a_cosine_run_is_the_papers_cosine() -> None:
    """MiniCPM, appendix B.1, as meant: 0.1 eta + 0.9 eta (1 + cos(pi s / T)) / 2, then 0.1 eta."""
    schedule = wsd("cosine", warmup=3, start=3, steps=20, final=0.1)
    expected = [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * min(s, 20) / 20)) / 2) for s in range(25)]
    np.testing.assert_allclose(learning_rates(schedule, 3, 28), expected, rtol=1e-6)


def test_the_cosine_loop_is_the_cosine_up_to_its_floor_and_comes_back() -> None:
    """MiniCPM, appendix B.1: "CosineLoop" has no cap at s = T; its period is 2 T."""
    cosine, loop = (wsd(shape, warmup=3, start=3, steps=20, final=0.1) for shape in ("cosine", "cosine_loop"))
    np.testing.assert_array_equal(learning_rates(loop, 0, 24), learning_rates(cosine, 0, 24))
    np.testing.assert_allclose(learning_rates(loop, 23, 44), learning_rates(loop, 3, 24)[::-1], rtol=1e-6)
    assert learning_rate(loop, 43) == learning_rate(loop, 83) == 0.5
    assert learning_rate(loop, 33) == pytest.approx(0.5 * 0.55)
    assert learning_rate(loop, 63) == pytest.approx(0.05)


def test_the_released_models_decay_to_a_tenth_in_log2_10_half_lives() -> None:
    """Section 6.2 with T read as half-life, 5000 steps: 1e-2 becomes 1e-3 after 16.6k steps, as its author says."""
    decay = DecayConfig(start=260_000, steps=20_000, shape="exponential", half_life=5000)
    schedule = ScheduleConfig(peak=1e-2, warmup_steps=2000, decay=decay)
    assert learning_rate(schedule, 260_000 + 16_610) == pytest.approx(1e-3, rel=1e-4)


def test_zero_warmup_starts_at_the_peak() -> None:
    assert learning_rate(ScheduleConfig(peak=0.3, warmup_steps=0), 0) == np.float32(0.3)
    assert learning_rate(wsd("linear", warmup=0, start=0), 0) == 0.5


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (wsd("linear", steps=0), "decay.steps is 0"),
        (wsd("linear", warmup=12), "starts at step 10, but the warm-up ends at step 12"),
        (wsd("linear", warmup=-1), "warmup_steps is -1"),
        (wsd("linear", final=1.5), "decay.final is 1.5"),
        (wsd("parabola"), "'parabola': use one of exponential, linear"),
        (ScheduleConfig(0.1, 0, DecayConfig(0, 5, "exponential")), "decay.half_life is 0"),
        (ScheduleConfig(0.0, 0), "peak is 0.0"),
        (ScheduleConfig(math.nan, 0), "peak is nan"),
    ],
)
def test_nonsense_is_named(schedule: ScheduleConfig, says: str) -> None:
    with pytest.raises(UserError, match=says):
        learning_rates(schedule, 0, 1)
