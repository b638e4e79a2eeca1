"""Causal grouped-query attention with rotary positions, restricted to a document where segments are given.

Axis letters: models/README.md.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.layers import hidden_matrices, project

Implementation = Literal["batched_matmul", "dot_product_attention"]


def rope_tables(config: ModelConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [T, h/2] of the angles t theta^(-2i/h) (Su et al. 2021, section 3.2.2)."""
    i = jnp.arange(config.head_dim // 2, dtype=jnp.float32)
    frequencies = config.rope_theta ** (-2.0 * i / config.head_dim)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BNTh: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + h/2}) by position: the half-split layout of the released weights."""
    cos, sin = rope
    a, b = jnp.split(x_BNTh.astype(cos.dtype), 2, axis=-1)  # in float32: bfloat16 angles are too coarse for long rows
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BNTh.dtype)


def visibility_bias(length: int, segments_BT: jax.Array | None) -> jax.Array:
    """What is added to scores so that a query sees no later key and (with segments) no other document.

    Returns:
        0 where visible and -1e30 elsewhere, [1 or B, 1, T, T] float32; computed once for all layers.
    """
    visible = jnp.tril(jnp.ones((1, length, length), bool))
    if segments_BT is not None:
        visible &= segments_BT[:, :, None] == segments_BT[:, None, :]
    return jnp.where(visible, 0.0, -1e30)[:, None]


def batched_matmul_attention(
    q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, bias_B1TT: jax.Array
) -> jax.Array:
    """softmax(q k^T / sqrt(h) + bias) v in plain batched matrix products, heads leading: the fast form on a CPU.

    The G query heads of a key-value head become rows of one product, so keys and values are never repeated. Keys and
    values enter transposed, [h, T]: the gradient of a product with respect to its right operand has the left one
    transposed, which is twice as slow on a CPU when that is the T x T matrix, and fast when it is a T x h one.
    Scores and softmax are float32 whatever the operands are.
    """
    B, H, T, h = q_BHTh.shape
    K = k_BKTh.shape[1]
    q_BKRh = (q_BHTh * h**-0.5).reshape(B, K, -1, h)  # R = G T rows
    k_BKhT, v_BKhT = k_BKTh.swapaxes(2, 3), v_BKTh.swapaxes(2, 3)
    scores_BKRT = jnp.einsum("bkrh,bkht->bkrt", q_BKRh, k_BKhT, preferred_element_type=jnp.float32)
    scores_BHTT = scores_BKRT.reshape(B, H, T, T) + bias_B1TT
    weights_BHTT = jnp.exp(scores_BHTT - jax.lax.stop_gradient(scores_BHTT.max(axis=-1, keepdims=True)))
    weights_BKRT = weights_BHTT.reshape(B, K, -1, T).astype(v_BKTh.dtype)
    sums_BKRh = jnp.einsum("bkrt,bkht->bkrh", weights_BKRT, v_BKhT, preferred_element_type=jnp.float32)
    out_BHTh = sums_BKRh.reshape(B, H, T, h) / weights_BHTT.sum(axis=-1, keepdims=True)
    return out_BHTh.astype(v_BKTh.dtype)


def dot_product_attention(q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, bias_B1TT: jax.Array) -> jax.Array:
    """The same by jax.nn.dot_product_attention, for accelerators."""
    q_BTHh, k_BTKh, v_BTKh = q_BHTh.swapaxes(1, 2), k_BKTh.swapaxes(1, 2), v_BKTh.swapaxes(1, 2)
    return jax.nn.dot_product_attention(q_BTHh, k_BTKh, v_BTKh, bias=bias_B1TT).swapaxes(1, 2)


IMPLEMENTATIONS = {"batched_matmul": batched_matmul_attention, "dot_product_attention": dot_product_attention}


class Attention(nnx.Module):
    """Causal self-attention with H query heads that share K key-value heads, without biases."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        D, queries, keys = config.d_model, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query, self.key, self.value, self.output = hidden_matrices(
            config, key, (D, queries), (D, keys), (D, keys), (queries, D)
        )
        self.head_dim = config.head_dim

    def __call__(
        self,
        x_BTD: jax.Array,
        rope: tuple[jax.Array, jax.Array],
        bias_B1TT: jax.Array,
        implementation: Implementation,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D], with the bias of `visibility_bias` and the tables of `rope_tables`."""
        B, T, _ = x_BTD.shape

        def heads(weight: nnx.Param) -> jax.Array:
            return project(x_BTD, weight).reshape(B, T, -1, self.head_dim).swapaxes(1, 2)

        q_BHTh, k_BKTh = rotate(heads(self.query), rope), rotate(heads(self.key), rope)
        o_BHTh = IMPLEMENTATIONS[implementation](q_BHTh, k_BKTh, heads(self.value), bias_B1TT)
        return project(o_BHTh.swapaxes(1, 2).reshape(B, T, -1), self.output)
