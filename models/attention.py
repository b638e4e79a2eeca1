"""Causal grouped-query attention with rotary positions, restricted to a document where segments are given.

Axis letters: models/README.md.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from kernels.sparse_attention import api
from kernels.sparse_attention.config import Backend
from models.config import ModelConfig, SelectionConfig, ntk_theta
from models.layers import hidden_matrices, project

Implementation = Literal["batched_matmul", "dot_product_attention", "cudnn"]
# Of a long row's queries on a CPU. Smaller blocks compute fewer scores and are slower.
_QUERY_BLOCKS, _BLOCK_QUERIES = 4, 64


def rope_frequencies(config: ModelConfig, length: int) -> jax.Array:
    """Angles per position, theta^(-2i/h) for i < h/2 (Su et al. 2021, section 3.2.2), stretched by `rope_scaling`."""
    i, scaling = jnp.arange(config.head_dim // 2, dtype=jnp.float32), config.rope_scaling
    theta, divisors = config.rope_theta, jnp.ones_like(i)
    if scaling is not None and scaling.kind == "longrope":
        long = length > scaling.original_length
        divisors = jnp.asarray(scaling.long_factors if long else scaling.short_factors, jnp.float32)
    elif scaling is not None:
        factor = scaling.factor
        if scaling.kind == "dynamic_ntk":
            factor = max(1.0, factor * length / scaling.original_length - (factor - 1))
        theta = ntk_theta(theta, factor, config.head_dim)
    return theta ** (-2.0 * i / config.head_dim) / divisors


def rope_tables(config: ModelConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [T, h/2] of position times frequency.

    LongRoPE multiplies both by sqrt(1 + ln(factor) / ln(original_length)), whatever the row's length: queries and keys
    grow together, which sharpens attention over long rows (as the released configs' code has it).
    """
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * rope_frequencies(config, length)
    scaling, amplitude = config.rope_scaling, 1.0
    if scaling is not None and scaling.kind == "longrope":
        amplitude = math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_length))
    return amplitude * jnp.cos(angles), amplitude * jnp.sin(angles)


def rotate(x_BNTh: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x_i, x_{i + h/2}) by position: the half-split layout of the released weights."""
    cos, sin = rope
    a, b = jnp.split(x_BNTh.astype(cos.dtype), 2, axis=-1)  # in float32: bfloat16 angles are too coarse for long rows
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BNTh.dtype)


def visibility_bias(length: int, segments_BT: jax.Array | None) -> jax.Array:
    """What is added to scores so that a query sees no later key and (with segments) no other document.

    Returns:
        0 where visible and -1e30 elsewhere, [1 or B, 1, T, T] float32.
    """
    visible = jnp.tril(jnp.ones((1, 1, length, length), bool))
    if segments_BT is not None:
        visible &= same_document(segments_BT)
    return jnp.where(visible, 0.0, -1e30)


def same_document(segments_BT: jax.Array) -> jax.Array:
    """Whether a query and a key are of one document, [B, 1, T, T]."""
    return segments_BT[:, None, :, None] == segments_BT[:, None, None, :]


def visibility(implementation: Implementation, length: int, segments_BT: jax.Array | None) -> jax.Array | None:
    """What an implementation must be told of which keys a query sees; computed once for all layers."""
    if implementation != "cudnn":
        return visibility_bias(length, segments_BT)
    return None if segments_BT is None else same_document(segments_BT)


def batched_matmul_attention(
    q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, bias_B1TT: jax.Array
) -> jax.Array:
    """softmax(q k^T / sqrt(h) + bias) v in plain batched matrix products, heads leading: the fast form on a CPU.

    Queries of long rows go in blocks, each with the keys up to its end alone: the bias hides the later ones, and a
    quarter (two blocks) to three eighths (four) of all scores need not be computed.
    """
    T = q_BHTh.shape[2]
    blocks = max(1, min(_QUERY_BLOCKS, T // _BLOCK_QUERIES))
    ends = [T * i // blocks for i in range(blocks + 1)]
    return jnp.concatenate(
        [
            _attend(q_BHTh[:, :, start:end], k_BKTh[:, :, :end], v_BKTh[:, :, :end], bias_B1TT[:, :, start:end, :end])
            for start, end in itertools.pairwise(ends)
        ],
        axis=2,
    )


def _attend(q_BHTh: jax.Array, k_BKSh: jax.Array, v_BKSh: jax.Array, bias_B1TS: jax.Array) -> jax.Array:
    """T queries over S keys.

    The G query heads of a key-value head become rows of one product, so keys and values are never repeated. Keys and
    values enter transposed, [h, T]: the gradient of a product with respect to its right operand has the left one
    transposed, which is twice as slow on a CPU when that is the T x T matrix, and fast when it is a T x h one.
    Scores and softmax are float32 whatever the operands are.
    """
    B, H, T, h = q_BHTh.shape
    K, S = k_BKSh.shape[1:3]
    q_BKRh = (q_BHTh * h**-0.5).reshape(B, K, -1, h)  # R = G T rows
    k_BKhS, v_BKhS = k_BKSh.swapaxes(2, 3), v_BKSh.swapaxes(2, 3)
    scores_BKRS = jnp.einsum("bkrh,bkhs->bkrs", q_BKRh, k_BKhS, preferred_element_type=jnp.float32)
    scores_BHTS = scores_BKRS.reshape(B, H, T, S) + bias_B1TS
    weights_BHTS = jnp.exp(scores_BHTS - jax.lax.stop_gradient(scores_BHTS.max(axis=-1, keepdims=True)))
    weights_BKRS = weights_BHTS.reshape(B, K, -1, S).astype(v_BKSh.dtype)
    sums_BKRh = jnp.einsum("bkrs,bkhs->bkrh", weights_BKRS, v_BKhS, preferred_element_type=jnp.float32)
    out_BHTh = sums_BKRh.reshape(B, H, T, h) / weights_BHTS.sum(axis=-1, keepdims=True)
    return out_BHTh.astype(v_BKSh.dtype)


def dot_product_attention(q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, bias_B1TT: jax.Array) -> jax.Array:
    """The same by jax.nn.dot_product_attention, for accelerators: XLA's, which keeps all scores."""
    q_BTHh, k_BTKh, v_BTKh = q_BHTh.swapaxes(1, 2), k_BKTh.swapaxes(1, 2), v_BKTh.swapaxes(1, 2)
    return jax.nn.dot_product_attention(q_BTHh, k_BTKh, v_BTKh, bias=bias_B1TT).swapaxes(1, 2)


def cudnn_attention(
    q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array, same_document_B1TT: jax.Array | None
) -> jax.Array:
    """The same by cuDNN's flash attention, for bfloat16 on an NVIDIA GPU: no [T, T] array of scores is kept.

    Later keys are skipped, not masked. Other documents are masked: cuDNN can skip them too (packed rows by offsets),
    but jax.nn does not pass offsets on. A boolean mask, unlike a bias, costs no gradient of its own size.
    """
    q_BTHh, k_BTKh, v_BTKh = q_BHTh.swapaxes(1, 2), k_BKTh.swapaxes(1, 2), v_BKTh.swapaxes(1, 2)
    out_BTHh = jax.nn.dot_product_attention(
        q_BTHh, k_BTKh, v_BTKh, mask=same_document_B1TT, is_causal=True, implementation="cudnn"
    )
    return out_BTHh.swapaxes(1, 2)


IMPLEMENTATIONS: dict[Implementation, Callable[..., jax.Array]] = {
    "batched_matmul": batched_matmul_attention,
    "dot_product_attention": dot_product_attention,
    "cudnn": cudnn_attention,
}


# (q [B, H, T, h], k and v [B, K, T, h], rotated) -> o [B, H, T, h]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def dense(implementation: Implementation, length: int, segments_BT: jax.Array | None) -> Attend:
    """Attention to all earlier keys of the document, by one of `IMPLEMENTATIONS`."""
    visible_B1TT = visibility(implementation, length, segments_BT)
    return lambda q_BHTh, k_BKTh, v_BKTh: IMPLEMENTATIONS[implementation](q_BHTh, k_BKTh, v_BKTh, visible_B1TT)


def sparse(config: SelectionConfig, segments_BT: jax.Array | None, backend: Backend) -> Attend:
    """Attention to the key blocks that `config` selects for each query, by `kernels.sparse_attention`."""

    def attend(q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array) -> jax.Array:
        q_BTHh, k_BTKh, v_BTKh = q_BHTh.swapaxes(1, 2), k_BKTh.swapaxes(1, 2), v_BKTh.swapaxes(1, 2)
        o_BTHh = api.sparse_attention(q_BTHh, k_BTKh, v_BTKh, config, segments_BT=segments_BT, backend=backend)
        return o_BTHh.swapaxes(1, 2)

    return attend


class Attention(nnx.Module):
    """Causal self-attention with H query heads that share K key-value heads, without biases."""

    def __init__(self, config: ModelConfig, key: jax.Array, init_std: ArrayLike):
        D, queries, keys = config.d_model, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query, self.key, self.value, self.output = hidden_matrices(
            config, key, init_std, (D, queries), (D, keys), (D, keys), (queries, D)
        )
        self.head_dim = config.head_dim

    def __call__(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array], attend: Attend) -> jax.Array:
        """[B, T, D] -> [B, T, D], attending as `dense` or `sparse` gave it, with the tables of `rope_tables`."""
        B, T, _ = x_BTD.shape

        def heads(weight: nnx.Param) -> jax.Array:
            return project(x_BTD, weight).reshape(B, T, -1, self.head_dim).swapaxes(1, 2)

        o_BHTh = attend(rotate(heads(self.query), rope), rotate(heads(self.key), rope), heads(self.value))
        return project(o_BHTh.swapaxes(1, 2).reshape(B, T, -1), self.output)
