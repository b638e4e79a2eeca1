"""Loss on fixed held-out text, per token and per byte, per domain."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from scaling.data.heldout import heldout_rows
from scaling.data.shards import Shards
from scaling.mesh import DATA, RUNS, Execution, over_all_devices
from scaling.optimizers import Hyper
from scaling.train import Batch, LossFn, Params

# (params, batch of rows, scalars) -> of every target [B, T], its nats and whether it is the likeliest token
TargetFn = Callable[[Params, Batch, Hyper], tuple[jax.Array, jax.Array]]
ROWS_AT_ONCE, _TOKENS_AT_ONCE = 64, 8192  # of a device, at most


@functools.lru_cache
def _by_row(loss_fn: LossFn, execution: Execution) -> LossFn:
    """The compiled program: (params, rows, scalars) -> (sum of nats, counted targets) of every row.

    Rows with sparse layers go through one after another on each device: their kernels are loops whose length is data.
    """
    sparse = execution.sparse_attention is not None

    def by_row(params: Params, batch: Batch, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
        def of(row: Batch) -> tuple[jax.Array, jax.Array]:
            return loss_fn(params, jax.tree.map(lambda x: x[None], row), hyper)

        found: tuple[jax.Array, jax.Array] = jax.lax.map(of, batch) if sparse else jax.vmap(of)(batch)
        return found

    if not sparse:
        return jax.jit(by_row)
    everywhere, rows = PartitionSpec(), PartitionSpec((RUNS, DATA))
    return jax.jit(
        jax.shard_map(
            by_row, mesh=execution.mesh, in_specs=(everywhere, rows, everywhere), out_specs=rows, check_vma=False
        )
    )


def evaluate(
    params: Params,
    shards: Shards,
    tokens: int,
    sequence_length: int,
    loss_fn: LossFn,
    hyper: Hyper,
    execution: Execution,
) -> dict[str, Any]:
    """Mean loss of a model on a held-out split.

    Args:
        params: the model's parameters, replicated.
        shards: the split.
        tokens: how much of it at most; always the same part.
        sequence_length: T of the rows.
        loss_fn: (params, rows, hyper) -> (sum of nats, counted targets).
        hyper: the scales of the model's forward pass are what is read of it.
        execution: how the parameters lie on devices, for `ROWS_AT_ONCE` rows of this length on each.

    Returns:
        nats_per_token; nats_per_byte and bits_per_byte (bytes of UTF-8 that the counted targets stand for);
        tokens and bytes counted; standard_error of nats_per_token over rows, None for a single row.
    """
    held = heldout_rows(shards, tokens, sequence_length)
    rows, segments, target_bytes = held.tokens, held.segments, held.target_bytes.sum()
    mesh = execution.mesh
    # where the logits of so many rows come in chunks, rows that go through together have no more than a chunk
    fitting = max(1, (execution.loss_chunk or _TOKENS_AT_ONCE) // sequence_length)
    at_once = min(fitting, ROWS_AT_ONCE) * mesh.size

    by_row = _by_row(loss_fn, execution)
    nats, counts = [], []
    for start in range(0, len(rows), at_once):
        part = {"tokens": rows[start : start + at_once], "segments": segments[start : start + at_once]}
        missing = at_once - len(part["tokens"])  # the last batch is padded, so that there is one program
        padded = {name: np.pad(x, ((0, missing), (0, 0)), mode="edge") for name, x in part.items()}
        found = jax.device_get(by_row(params, jax.device_put(padded, over_all_devices(mesh)), hyper))
        nats.append(np.asarray(found[0], np.float64)[: at_once - missing])
        counts.append(np.asarray(found[1], np.float64)[: at_once - missing])
    nats_R, counts_R = np.concatenate(nats), np.concatenate(counts)
    total, count = nats_R.sum(), counts_R.sum()
    mean = total / count
    spread = nats_R - mean * counts_R
    error = math.sqrt(len(nats_R) / (len(nats_R) - 1) * (spread**2).sum()) / count if len(nats_R) > 1 else None
    return {
        "nats_per_token": total / count,
        "nats_per_byte": total / target_bytes,
        "bits_per_byte": total / target_bytes / math.log(2),
        "standard_error": error,
        "tokens": int(count),
        "bytes": int(target_bytes),
    }
