"""What a training step minimises. Sums and counts, never means: microbatches and devices add them up."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# (features [B, T, D], output table [V, D], tokens [B, T + 1], segments [B, T + 1] or None, targets in a chunk of
# logits) -> (sum of nats, number of counted targets)
Objective = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None, int], tuple[jax.Array, jax.Array]]


def next_token(
    x_BTD: jax.Array, table_VD: jax.Array, tokens: jax.Array, segments: jax.Array | None, chunk: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each next token, summed over the targets that count.

    A target counts when it belongs to the same record as its input: the first token of the next record in a packed
    row is independent of what precedes it, and its loss would be noise.

    Args:
        x_BTD: features at tokens[:, :-1]; their products with the table's rows are the logits.
        table_VD: the output table, of the same type.
        tokens: int32 [B, T + 1].
        segments: int32 [B, T + 1], numbers of the records inside a row; None: a row is one record.
        chunk: how many targets' logits exist at a time, in either pass; 0 computes all at once. The sum and its
            gradients are the same but for last digits; a chunked one has no forward-mode derivative (`jax.jvp`).

    Returns:
        Sum of nats (float32 scalar) and number of counted targets (int32 scalar).
    """
    x_ND, targets_N = x_BTD.reshape(-1, x_BTD.shape[-1]), tokens[:, 1:].reshape(-1)
    one_record = jnp.ones_like(targets_N, bool)
    counted_N = one_record if segments is None else (segments[:, 1:] == segments[:, :-1]).reshape(-1)
    chunked = 0 < chunk < len(targets_N)
    nats = (
        _chunked_nats(x_ND, table_VD, targets_N, counted_N, chunk)
        if chunked
        else _nats(x_ND, table_VD, targets_N, counted_N)
    )
    return nats, jnp.sum(counted_N)


def _logits(x_ND: jax.Array, table_VD: jax.Array) -> jax.Array:
    return jnp.einsum("nd,vd->nv", x_ND, table_VD, preferred_element_type=jnp.float32)


def _nats(x_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, counted_N: jax.Array) -> jax.Array:
    """Sum of -log softmax(x table^T)[target] over the counted targets."""
    logits_NV = _logits(x_ND, table_VD)
    logits_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(counted_N, jax.nn.logsumexp(logits_NV, axis=-1) - logits_N, 0.0))


def _pieces(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [N, ...] as [N / chunk, chunk, ...], the last piece filled up with zeros, which count as nothing."""
    missing = -len(arrays[0]) % chunk
    padded = (jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]) for x in arrays)
    return tuple(x.reshape(-1, chunk, *x.shape[1:]) for x in padded)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked_nats(
    x_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, counted_N: jax.Array, chunk: int
) -> jax.Array:
    """`_nats` with the logits of `chunk` targets at a time, in the backward pass too."""
    pieces = _pieces(chunk, x_ND, targets_N, counted_N)
    return jnp.sum(lax.map(lambda piece: _nats(piece[0], table_VD, *piece[1:]), pieces))


def _nats_and_gradients(
    x_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, counted_N: jax.Array, chunk: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The sum with its gradients, which are known while the logits are there.

    So each chunk's logits are computed once: recomputing them in the backward pass would make four products of their
    size out of three. Gradients of logits are rounded to the operands' type, as those of all activations are.
    """

    def body(
        carry: tuple[jax.Array, jax.Array], piece: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        nats, d_table_VD = carry
        x_CD, targets_C, counted_C = piece
        logits_CV = _logits(x_CD, table_VD)
        log_z_C = jax.nn.logsumexp(logits_CV, axis=-1)
        is_target_CV = jnp.arange(len(table_VD)) == targets_C[:, None]
        nats_C = log_z_C - jnp.sum(jnp.where(is_target_CV, logits_CV, 0.0), axis=-1)
        d_logits_CV = jnp.exp(logits_CV - log_z_C[:, None]) - is_target_CV
        d_logits_CV = jnp.where(counted_C[:, None], d_logits_CV, 0.0).astype(x_CD.dtype)
        d_x_CD = jnp.einsum("cv,vd->cd", d_logits_CV, table_VD)
        d_table_VD += jnp.einsum("cv,cd->vd", d_logits_CV, x_CD, preferred_element_type=jnp.float32)
        return (nats + jnp.sum(jnp.where(counted_C, nats_C, 0.0)), d_table_VD), d_x_CD

    # zeros like the features: they vary over the devices as the sums will
    start = jnp.zeros_like(x_ND, jnp.float32, shape=()), jnp.zeros_like(x_ND, jnp.float32, shape=table_VD.shape)
    (nats, d_table_VD), d_x = lax.scan(body, start, _pieces(chunk, x_ND, targets_N, counted_N))
    d_x_ND = d_x.reshape(-1, x_ND.shape[-1])[: len(x_ND)]
    return nats, (d_x_ND, d_table_VD.astype(table_VD.dtype))


def _scaled_gradients(chunk: int, gradients: tuple[jax.Array, jax.Array], d_nats: jax.Array) -> tuple[Any, ...]:
    del chunk
    d_x_ND, d_table_VD = gradients
    return (d_nats * d_x_ND).astype(d_x_ND.dtype), (d_nats * d_table_VD).astype(d_table_VD.dtype), None, None


_chunked_nats.defvjp(_nats_and_gradients, _scaled_gradients)


def each_target(
    x_BTD: jax.Array, table_VD: jax.Array, tokens: jax.Array, chunk: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Of every target by itself, its negative log-likelihood and whether it is the likeliest token; no gradient.

    Args:
        x_BTD: features at tokens[:, :-1].
        table_VD: the output table, of the same type.
        tokens: int32 [B, T + 1].
        chunk: how many targets' logits exist at a time; 0 computes all at once.

    Returns:
        Nats [B, T] float32, and [B, T] bool.
    """
    B, T = tokens[:, 1:].shape
    x_ND, targets_N = x_BTD.reshape(B * T, -1), tokens[:, 1:].reshape(-1)

    def of(piece: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x_CD, targets_C = piece
        logits_CV = _logits(x_CD, table_VD)
        logits_C = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits_CV, axis=-1) - logits_C, jnp.argmax(logits_CV, axis=-1) == targets_C

    whole = (x_ND, targets_N)
    nats, likeliest = lax.map(of, _pieces(chunk, *whole)) if 0 < chunk < B * T else of(whole)
    return nats.reshape(-1)[: B * T].reshape(B, T), likeliest.reshape(-1)[: B * T].reshape(B, T)
