"""How long a step takes here: measured on random rows in a second or two a size, for plans and progress."""

import time

import jax
import numpy as np

from scaling import mesh
from scaling.config import ExecutionConfig, RunConfig
from scaling.optimizers import Hyper
from scaling.run import dispatch_for, first_state


def seconds_per_step(config: RunConfig, execution: ExecutionConfig, dispatches: int = 3) -> float:
    """Seconds of one optimiser step: the median over some dispatches, compilation not counted.

    The program compiled here is the one that training uses, so nothing is compiled twice.
    """
    resolved = mesh.resolve(execution, config.data, config.model.num_layers)
    dispatch, state = dispatch_for(config, resolved), first_state(config, resolved)
    count, data = resolved.steps_per_dispatch, config.data
    shape = (count, data.batch_size, data.sequence_length + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    rows = {"tokens": tokens, "segments": np.ones(shape, np.int32)}
    hyper = Hyper(np.full(count, 1e-6, np.float32), np.zeros(count, np.float32), np.ones(count, np.float32))
    taken = []
    for _ in range(dispatches + 1):
        start = time.perf_counter()
        state, metrics = dispatch(state, rows, hyper, count)
        jax.block_until_ready(metrics)
        taken.append((time.perf_counter() - start) / count)
    return float(np.median(taken[1:]))
