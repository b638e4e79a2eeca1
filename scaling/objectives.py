"""What a training step minimises. Sums and counts, never means: microbatches and devices add them up."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (logits [B, T, V], tokens [B, T + 1], segments [B, T + 1]) -> (sum of nats, number of counted targets)
Objective = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def next_token(logits_BTV: jax.Array, tokens: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each next token, summed over the targets that count.

    A target counts when it belongs to the same record as its input: the first token of the next record in a packed
    row is independent of what precedes it, and its loss would be noise.

    Args:
        logits_BTV: predictions from tokens[:, :-1].
        tokens: int32 [B, T + 1].
        segments: int32 [B, T + 1], numbers of the records inside a row.

    Returns:
        Sum of nats (float32 scalar) and number of counted targets (int32 scalar).
    """
    targets_BT = tokens[:, 1:]
    counted_BT = segments[:, 1:] == segments[:, :-1]
    logits_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    nats_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - logits_BT
    return jnp.sum(jnp.where(counted_BT, nats_BT, 0.0)), jnp.sum(counted_BT)
