"""How long steps take here: measured on random rows in a second or two a size, for plans and progress."""

import time
from collections.abc import Sequence

import jax
import numpy as np

from scaling.config import RunConfig
from scaling.jobs import group_state
from scaling.mesh import Execution
from scaling.optimizers import hyper
from scaling.run import dispatch_for, first_state


def seconds_per_step(config: RunConfig, execution: Execution, dispatches: int = 3) -> float:
    """Seconds in which a set of devices does one step: of one run, or of all its runs where they go side by side.

    The median over some dispatches, compilation not counted. The program compiled here is the one that training uses,
    so nothing is compiled twice.
    """
    dispatch, data = dispatch_for(config, execution), config.data
    size, lanes = execution.steps_per_dispatch, 1 if execution.run_axis == "vmap" else execution.lanes
    state = group_state({0: jax.device_get(first_state(config, execution))}, execution)
    shape = (execution.runs, size, data.batch_size, data.sequence_length + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    rows = {"tokens": tokens, "segments": np.ones(shape, np.int32)}
    rates = hyper(config.optimizer, config.model, np.full(shape[:2], 1e-6))
    count = max(1, size // lanes)
    taken = []
    for _ in range(dispatches + 1):
        start = time.perf_counter()
        state, metrics = dispatch(state, rows, rates, [count] * execution.runs)
        jax.block_until_ready(metrics)
        taken.append((time.perf_counter() - start) / (count * lanes))
    return float(np.median(taken[1:]))


def group_seconds(per_step: float, steps: Sequence[int], execution: Execution) -> float:
    """Seconds in which a group's runs do so many steps each, at `seconds_per_step`."""
    if execution.run_axis == "vmap":
        return per_step * max(steps)
    return per_step * max(max(steps), sum(steps) / execution.run_devices)
