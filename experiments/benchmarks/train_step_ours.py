"""Our side of the training-step benchmark: the program that `windtunnel run` trains with, on random rows."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks.train_shapes import Shape
from scaling import mesh
from scaling.config import from_json
from scaling.jobs import group_of_one, group_state
from scaling.optimizers import hyper
from scaling.run import dispatch_for, first_state


def random_rows(shape: Shape, steps: int) -> dict[str, np.ndarray]:
    """Rows of `steps` steps, [steps, B, T + 1], with documents packed into them where the shape says so."""
    random = np.random.default_rng(0)
    axes = (steps, shape.batch_size, shape.sequence_length + 1)
    rows = {"tokens": random.integers(0, shape.model.vocab_size, axes, dtype=np.int32)}
    if shape.document_tokens:
        rows["segments"] = np.cumsum(random.random(axes) < 1 / shape.document_tokens, axis=-1, dtype=np.int32) + 1
    return rows


def stepper(shape: Shape) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that trains the steps of one dispatch and reads the last loss, and how it is executed."""
    config = shape.run_config()
    execution = mesh.resolve(shape.execution, config.data, config.model)
    steps = execution.steps_per_dispatch
    dispatch = dispatch_for(config, execution)
    state = group_state({0: jax.device_get(first_state(config, execution))}, execution)
    rates = hyper(config.optimizer, config.model, np.full(steps, config.schedule.peak))
    inputs = group_of_one(random_rows(shape, steps), rates, steps, execution)

    def train() -> float:
        nonlocal state
        state, metrics = dispatch(state, *inputs)
        return float(np.asarray(metrics["loss"])[0, -1])

    return train, execution.fingerprint()


def matmul_gflops(dtype: str, size: int, repeats: int = 5) -> float:
    """Rate of products of two size x size matrices, one on every device at once; the best of `repeats`."""
    devices = jax.device_count()
    one_each = jax.make_mesh((devices,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("device")
    product = jax.jit(jax.shard_map(jnp.matmul, mesh=one_each, in_specs=(split, split), out_specs=split))
    a = jax.device_put(jnp.ones((devices, size, size), dtype), NamedSharding(one_each, split))
    taken = []
    product(a, a).block_until_ready()
    for _ in range(repeats):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        taken.append(time.perf_counter() - start)
    return 2 * size**3 * devices / min(taken) / 1e9


def peak_bytes() -> int:
    """Most memory held so far: on the first device, or (a CPU) by this process, compilation included."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serves the protocol of `experiments.benchmarks.contenders.Contender`."""
    shape = from_json(Shape, json.loads(sys.argv[1]))
    train, facts = stepper(shape)
    tokens = facts["steps_per_dispatch"] * shape.sequence_length * shape.batch_size
    size = 1024 if jax.default_backend() == "cpu" else 8192
    for _ in range(3):
        train()
    print(json.dumps(facts | {"peak_bytes": peak_bytes()}), flush=True)
    for line in sys.stdin:
        taken: list[float] = []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < float(line):
            start = time.perf_counter()
            train()
            taken.append(time.perf_counter() - start)
        answer = {
            "tokens_per_second": tokens / statistics.median(taken),
            "matmul_gflops": matmul_gflops(shape.model.compute_dtype, size),
            "seconds": time.perf_counter() - began,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
