"""Learning rates by step, computed on the host: warm-up, constant, and the decay shapes of WSD.

A step is the number of updates already done, so the first update has step 0. With peak rate eta, W warm-up
steps and a decay of n steps that starts at step s0 (MiniCPM, arXiv 2404.06395, section 4.2, eq. 1):

    eta(s) = eta (s + 1) / W      s < W     (the paper's s / W would waste the first update on a rate of 0)
           = eta                  W <= s < s0
           = eta f(r)             r = (s - s0) / n in [0, 1): the first decayed step still has the full rate
           = eta f(1)             s >= s0 + n (the cosine loop alone goes on: r is not capped there)

Every rate is computed by itself in Python floats and rounded to float32 once, so it depends on the step alone and not
on how many steps were asked for together: a branch repeats its trunk's rates bit by bit.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from scaling.config import DecayConfig, ScheduleConfig
from scaling.errors import UserError


def linear(r: float) -> float:
    """1 - r."""
    return 1.0 - r


def cosine(r: float) -> float:
    """(1 + cos(pi r)) / 2 (Loshchilov and Hutter, arXiv 1608.03983, eq. 5).

    MiniCPM's appendix B.1 prints cos(pi s / T) without the "1 +" and the half, which would end at -0.8 eta. Its
    "CosineLoop" is the same beyond r = 1 too: back at 1 for r = 2.
    """
    return 0.5 * (1.0 + math.cos(math.pi * r))


def one_minus_sqrt(r: float) -> float:
    """1 - sqrt(r) (Haegele et al., arXiv 2405.18392, section 3: better than linear)."""
    return 1.0 - math.sqrt(r)


def square(r: float) -> float:
    """1 - r^2 (Haegele et al., arXiv 2405.18392, appendix)."""
    return 1.0 - r * r


def mirror_cosine(r: float) -> float:
    """2 (1 - r) - (1 + cos(pi r)) / 2: the cosine reflected in the line (Haegele et al., arXiv 2405.18392)."""
    return 2.0 * linear(r) - cosine(r)


def megatron(r: float) -> float:
    """2 * 0.5^r - 1 (Megatron-LM's OptimizerParamScheduler, "exponential" WSD decay; MiniCPM4's engine)."""
    return float(2.0 * 0.5**r - 1.0)


# Shapes that fall from 1 at r = 0 to 0 at r = 1. The exponential is apart: it is set by a half-life, not an end.
# They stay there, except for the loop.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "one_minus_sqrt": one_minus_sqrt,
    "square": square,
    "mirror_cosine": mirror_cosine,
    "megatron": megatron,
    "cosine_loop": cosine,
}


def exponential(r: float, half_lives: float) -> float:
    """0.5^(r half_lives), with half_lives = length of the decay / half-life (MiniCPM, section 6.2).

    The paper prints f(s - T) = 0.5^((s - S) / T), which with eq. 1's S (all steps) exceeds 1. Read as
    0.5^((s - s0) / T) with half-life T = 5000 steps it gives the 1e-2 -> 1e-3 that its author reports.
    """
    return float(0.5 ** (r * half_lives))


def decay_fraction(decay: DecayConfig, r: float) -> float:
    """The fraction of the stable rate at progress r >= 0: 1 at r = 0, `decay.final` at r = 1."""
    r = r if decay.shape == "cosine_loop" else min(r, 1.0)
    if decay.shape == "exponential":
        return exponential(r, decay.steps / decay.half_life)
    return decay.final + (1.0 - decay.final) * SHAPES[decay.shape](r)


def check(schedule: ScheduleConfig) -> None:
    """Raises UserError if the schedule makes no sense."""
    decay = schedule.decay
    if schedule.peak <= 0 or not math.isfinite(schedule.peak):
        raise UserError(f"schedule.peak is {schedule.peak}: a learning rate must be positive and finite")
    if schedule.warmup_steps < 0:
        raise UserError(f"schedule.warmup_steps is {schedule.warmup_steps}: use 0 for no warm-up")
    if decay is None:
        return
    if decay.steps < 1:
        raise UserError(f"decay.steps is {decay.steps}: a decay needs at least one step; for none, leave decay out")
    if decay.start < schedule.warmup_steps:
        raise UserError(
            f"decay starts at step {decay.start}, but the warm-up ends at step {schedule.warmup_steps}: "
            "start the decay later or shorten the warm-up"
        )
    if decay.shape == "exponential":
        if decay.half_life <= 0:
            raise UserError(
                f"decay.half_life is {decay.half_life}: an exponential decay needs a positive one, in steps"
            )
    elif decay.shape not in SHAPES:
        raise UserError(f"decay.shape is {decay.shape!r}: use one of exponential, {', '.join(SHAPES)}")
    elif not 0 <= decay.final <= 1:
        raise UserError(f"decay.final is {decay.final}: it is a fraction of the stable rate, between 0 and 1")


def _rate(schedule: ScheduleConfig, step: int) -> float:
    if step < schedule.warmup_steps:
        return schedule.peak * (step + 1) / schedule.warmup_steps
    decay = schedule.decay
    if decay is None or step < decay.start:
        return schedule.peak
    return schedule.peak * decay_fraction(decay, (step - decay.start) / decay.steps)


def learning_rates(schedule: ScheduleConfig, start: int, stop: int) -> npt.NDArray[np.float32]:
    """The learning rates of steps start, ..., stop - 1.

    Raises:
        UserError: the schedule makes no sense (see `check`).
    """
    check(schedule)
    return np.array([_rate(schedule, step) for step in range(start, stop)], np.float32)


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """The learning rate of one step, as `learning_rates` gives it."""
    return float(learning_rates(schedule, step, step + 1)[0])
