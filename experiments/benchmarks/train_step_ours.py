"""Our side of the training-step benchmark: the program that `windtunnel run` trains with, on random rows."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from models.config import ModelConfig
from scaling import mesh
from scaling.config import (
    DataConfig,
    ExecutionConfig,
    MixtureComponent,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    TaskConfig,
    from_json,
)
from scaling.optimizers import Hyper
from scaling.run import dispatch_for, first_state

DOCUMENT_TOKENS = 400  # mean length of a document in the packed rows


def run_config(task: dict[str, Any]) -> RunConfig:
    """The run that the benchmark's shape belongs to; its corpus is named and never read."""
    corpus = TaskConfig("random", SourceConfig("files", "random"))
    data = DataConfig((MixtureComponent(corpus),), task["sequence_length"], task["batch_size"])
    return RunConfig(from_json(ModelConfig, task["model"]), data, ScheduleConfig(1e-3, 0))


def stepper(config: RunConfig, steps: int) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that trains `steps` steps and reads the last loss, and how it is executed."""
    execution = mesh.resolve(ExecutionConfig(steps_per_dispatch=steps), config.data, config.model.num_layers)
    dispatch, state = dispatch_for(config, execution), first_state(config, execution)
    random, data = np.random.default_rng(0), config.data
    shape = (steps, data.batch_size, data.sequence_length + 1)
    rows = {
        "tokens": random.integers(0, config.model.vocab_size, shape, dtype=np.int32),
        "segments": np.cumsum(random.random(shape) < 1 / DOCUMENT_TOKENS, axis=-1, dtype=np.int32) + 1,
    }
    optimizer = config.optimizer
    values = (config.schedule.peak, optimizer.weight_decay, optimizer.clip_norm)
    hyper = Hyper(*(np.full(steps, value, np.float32) for value in values))

    def train() -> float:
        nonlocal state
        state, metrics = dispatch(state, rows, hyper, steps)
        return float(np.asarray(metrics["loss"])[-1])

    return train, execution.fingerprint()


def matmul_gflops(size: int = 1024, repeats: int = 5) -> float:
    """Rate of float32 products of two size x size matrices, one on every device at once; the best of `repeats`."""
    devices = jax.device_count()
    one_each = jax.make_mesh((devices,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("device")
    product = jax.jit(jax.shard_map(jnp.matmul, mesh=one_each, in_specs=(split, split), out_specs=split))
    a = jax.device_put(np.ones((devices, size, size), np.float32), NamedSharding(one_each, split))
    taken = []
    product(a, a).block_until_ready()
    for _ in range(repeats):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        taken.append(time.perf_counter() - start)
    return 2 * size**3 * devices / min(taken) / 1e9


def main() -> None:
    """Serves the protocol of `experiments.benchmarks.train_step.Contender`."""
    task = json.loads(sys.argv[1])
    config = run_config(task)
    train, facts = stepper(config, task["steps"])
    tokens = task["steps"] * config.data.tokens_per_step
    for _ in range(3):
        train()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        taken: list[float] = []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < float(line):
            start = time.perf_counter()
            train()
            taken.append(time.perf_counter() - start)
        answer = {
            "tokens_per_second": tokens / statistics.median(taken),
            "matmul_gflops": matmul_gflops(),
            "seconds": time.perf_counter() - began,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
