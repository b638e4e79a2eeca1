"""Causal grouped-query attention with rotary positions, restricted to a document where segments are given.

Axis letters: models/README.md.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.layers import hidden_matrix, project

Implementation = Literal["batched_matmul", "dot_product_attention"]


def rope_tables(config: ModelConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [T, h/2] of the angles t theta^(-2i/h) (Su et al. 2021, section 3.2.2)."""
    i = jnp.arange(config.head_dim // 2, dtype=jnp.float32)
    frequencies = config.rope_theta ** (-2.0 * i / config.head_dim)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BNTh: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + h/2}) by position: the half-split layout of the released weights."""
    cos, sin = (table.astype(x_BNTh.dtype) for table in rope)
    a, b = jnp.split(x_BNTh, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def visible(length: int, segments_BT: jax.Array | None) -> jax.Array:
    """Which key a query sees: [1 or B, T, T] bool, causal and (with segments) within one document."""
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    if segments_BT is None:
        return mask
    return mask & (segments_BT[:, :, None] == segments_BT[:, None, :])


def batched_matmul_attention(q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, mask_BTT: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(h)) v as plain batched matrix products, heads leading: the fast form on a CPU.

    The G query heads of a key-value head become rows of one product, so keys and values are never repeated.
    Scores and softmax are float32 whatever the operands are.
    """
    B, H, T, h = q_BHTh.shape
    K = k_BKTh.shape[1]
    q_BKGTh = (q_BHTh * h**-0.5).reshape(B, K, H // K * T, h)
    scores = jnp.einsum("bkqh,bkth->bkqt", q_BKGTh, k_BKTh, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_BTT[:, None, None], scores.reshape(B, K, H // K, T, T), -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    flat = weights.reshape(B, K, H // K * T, T).astype(v_BKTh.dtype)
    out = jnp.einsum("bkqt,bkth->bkqh", flat, v_BKTh, preferred_element_type=jnp.float32)
    return (out.reshape(B, H, T, h) / total.reshape(B, H, T, 1)).astype(v_BKTh.dtype)


class Attention(nnx.Module):
    """Causal self-attention with H query heads that share K key-value heads, without biases."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        query_key, key_key, value_key, output_key = jax.random.split(key, 4)
        query_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = hidden_matrix(config, query_key, config.d_model, query_width)
        self.key = hidden_matrix(config, key_key, config.d_model, kv_width)
        self.value = hidden_matrix(config, value_key, config.d_model, kv_width)
        self.output = hidden_matrix(config, output_key, query_width, config.d_model)
        self.head_dim = config.head_dim

    def __call__(
        self,
        x_BTD: jax.Array,
        rope: tuple[jax.Array, jax.Array],
        mask_BTT: jax.Array,
        implementation: Implementation,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        B, T, _ = x_BTD.shape

        def heads(weight: nnx.Param) -> jax.Array:
            return project(x_BTD, weight).reshape(B, T, -1, self.head_dim).swapaxes(1, 2)

        q_BHTh, k_BKTh, v_BKTh = (
            rotate(heads(self.query), rope),
            rotate(heads(self.key), rope),
            heads(self.value),
        )
        if implementation == "batched_matmul":
            o_BTHh = batched_matmul_attention(q_BHTh, k_BKTh, v_BKTh, mask_BTT).swapaxes(1, 2)
        else:
            q_BTHh, k_BTKh, v_BTKh = (heads.swapaxes(1, 2) for heads in (q_BHTh, k_BKTh, v_BKTh))
            o_BTHh = jax.nn.dot_product_attention(q_BTHh, k_BTKh, v_BTKh, mask=mask_BTT[:, None])
        return project(o_BTHh.reshape(B, T, -1), self.output)
