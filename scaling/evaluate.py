"""Loss on fixed held-out text, per token and per byte, per domain."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scaling.data.heldout import heldout_rows
from scaling.data.shards import Shards
from scaling.mesh import Execution, over_all_devices
from scaling.optimizers import Hyper
from scaling.train import Batch, LossFn, Params

_ROWS_AT_ONCE = 64


@functools.lru_cache
def _by_row(loss_fn: LossFn) -> Callable[[Params, Batch, Hyper], tuple[jax.Array, jax.Array]]:
    """The compiled program: (params, rows, scalars) -> (sum of nats, counted targets) of every row."""

    @jax.jit
    def by_row(params: Params, batch: Batch, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda row: loss_fn(params, jax.tree.map(lambda x: x[None], row), hyper))(batch)

    return by_row


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
        execution: how the parameters lie on devices.

    Returns:
        nats_per_token; nats_per_byte and bits_per_byte (bytes of UTF-8 that the counted targets stand for);
        tokens and bytes counted; standard_error of nats_per_token over rows, None for a single row.
    """
    held = heldout_rows(shards, tokens, sequence_length)
    rows, segments, target_bytes = held.tokens, held.segments, held.target_bytes.sum()
    mesh = execution.mesh
    # where training chunks its logits, rows that go through together have no more of them than a chunk
    fitting = max(1, execution.loss_chunk // sequence_length) if execution.loss_chunk else _ROWS_AT_ONCE
    at_once = min(fitting, _ROWS_AT_ONCE) * mesh.size

    by_row = _by_row(loss_fn)
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
