"""One token at a time against a cache of keys and values, whose pooled keys grow with it.

A step reads the pooled keys (one per `stride` tokens) and the keys and values of the selected blocks, not the whole
cache: at 128K tokens of MiniCPM4 a thirteenth of the bytes. Rows of a batch have lengths of their own. Every function
is pure and has static shapes, so a loop of steps compiles once.

Axis letters: README.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.sparse_attention import selection
from kernels.sparse_attention.config import COARSENING, SelectionConfig, num_blocks


class Cache(NamedTuple):
    """Keys and values seen so far, and their pooled keys; what lies beyond a row's length is unspecified.

    Attributes:
        k_BSKh: rotated keys; S is the capacity, whole blocks.
        v_BSKh: values.
        pooled_BPKh: means of windows, as `selection.pool_keys` gives them, each written when its window is whole.
        coarse_BRKh: the coarse normaliser's; R = 0 with the exact one.
        lengths_B: tokens of each row, int32.
    """

    k_BSKh: jax.Array
    v_BSKh: jax.Array
    pooled_BPKh: jax.Array
    coarse_BRKh: jax.Array
    lengths_B: jax.Array


def prefill(
    k_BTKh: jax.Array, v_BTKh: jax.Array, lengths_B: jax.Array, capacity: int, config: SelectionConfig
) -> Cache:
    """A cache that holds the first lengths_B[b] of each row's T tokens; T = 0 makes an empty one.

    Args:
        k_BTKh: rotated keys of a prompt, rows padded to one length.
        v_BTKh: values.
        lengths_B: tokens of each row, int32.
        capacity: tokens that the cache must hold in all; rounded up to whole blocks.
        config: the selection.

    Raises:
        ValueError: the prompt does not fit.
    """
    T, S = k_BTKh.shape[1], num_blocks(capacity, config.block) * config.block
    if capacity < T:
        raise ValueError(f"a prompt of {T} tokens does not fit a cache of {capacity}: give it a larger capacity")
    k_BSKh, v_BSKh = (jnp.pad(x, ((0, 0), (0, S - T), (0, 0), (0, 0))) for x in (k_BTKh, v_BTKh))
    # A window that reaches beyond its row's length is written again when it is whole, and is invisible until then.
    pooled, coarse = (
        selection.pool_keys(k_BSKh, scale * config.kernel, scale * config.stride).keys_BPKh for scale in (1, COARSENING)
    )
    if config.normaliser == "exact":
        coarse = coarse[:, :0]
    return Cache(k_BSKh, v_BSKh, pooled, coarse, lengths_B.astype(jnp.int32))


def append(cache: Cache, k_BKh: jax.Array, v_BKh: jax.Array, config: SelectionConfig) -> Cache:
    """The cache with one more token in every row, and its pooled keys where a window has become whole.

    A row that is full keeps its tokens and counts on: `attend` gives nan for it.

    Args:
        cache: before.
        k_BKh: the token's rotated keys.
        v_BKh: its values.
        config: the selection.
    """
    row_B = jnp.arange(len(cache.lengths_B))
    k_BSKh, v_BSKh = (
        x_BSKh.at[row_B, cache.lengths_B].set(x_BKh, mode="drop")
        for x_BSKh, x_BKh in ((cache.k_BSKh, k_BKh), (cache.v_BSKh, v_BKh))
    )
    lengths_B = cache.lengths_B + 1

    def pool(pooled_BPKh: jax.Array, scale: int) -> jax.Array:
        """Writes the window that ends with the new token, if one does."""
        kernel, stride = scale * config.kernel, scale * config.stride
        P = pooled_BPKh.shape[1]
        if P == 0:
            return pooled_BPKh
        start_B = lengths_B - kernel
        window_BwKh = jax.vmap(lambda x_SKh, start: jax.lax.dynamic_slice_in_dim(x_SKh, start, kernel))(k_BSKh, start_B)
        mean_BKh = selection.pool_keys(window_BwKh, kernel, stride).keys_BPKh[:, 0]
        index_B = jnp.where((start_B >= 0) & (start_B % stride == 0), start_B // stride, P)
        return pooled_BPKh.at[row_B, index_B].set(mean_BKh, mode="drop")

    return Cache(k_BSKh, v_BSKh, pool(cache.pooled_BPKh, 1), pool(cache.coarse_BRKh, COARSENING), lengths_B)


def attend(cache: Cache, q_BHh: jax.Array, config: SelectionConfig, scale: float | None = None) -> jax.Array:
    """What the newest token of each row attends to, O [B, H, h] in the queries' dtype.

    Equal to the last row of `api.sparse_attention` over the row's tokens: up to `dense_len` of them it attends to all.

    Args:
        cache: with the newest token in it.
        q_BHh: the newest token's rotated queries.
        config: the selection.
        scale: of the scores, h^-0.5 if None.
    """
    B, H, h = q_BHh.shape
    S, K = cache.k_BSKh.shape[1:3]
    block, N = config.block, num_blocks(S, config.block)
    position_B = cache.lengths_B - 1
    ids_BKn = _visible_blocks(cache, q_BHh, config)

    row_B11, head_K1 = jnp.arange(B)[:, None, None], jnp.arange(K)[:, None]
    k_BKnch, v_BKnch = (
        x_BSKh.reshape(B, N, block, K, h)[row_B11, ids_BKn, :, head_K1] for x_BSKh in (cache.k_BSKh, cache.v_BSKh)
    )
    q_BKGh = q_BHh.reshape(B, K, H // K, h)
    s_BKGnc = jnp.einsum("bkgh,bknch->bkgnc", q_BKGh, k_BKnch, preferred_element_type=jnp.float32)
    key_BKnc = ids_BKn[..., None] * block + jnp.arange(block)
    visible = (ids_BKn[..., None] >= 0) & (key_BKnc <= position_B[:, None, None, None])
    s_BKGnc = jnp.where(visible[:, :, None], s_BKGnc * (h**-0.5 if scale is None else scale), -1e30)
    p_BKGnc = jax.nn.softmax(s_BKGnc, axis=(-2, -1)).astype(v_BKnch.dtype)
    o_BKGh = jnp.einsum("bkgnc,bknch->bkgh", p_BKGnc, v_BKnch, preferred_element_type=jnp.float32)
    o_BHh = jnp.where((cache.lengths_B <= S)[:, None, None], o_BKGh.reshape(B, H, h), jnp.nan)
    return o_BHh.astype(q_BHh.dtype)


def _visible_blocks(cache: Cache, q_BHh: jax.Array, config: SelectionConfig) -> jax.Array:
    """Ids [B, K, n]: all blocks of rows up to `dense_len`, the selected ones of others; n holds either."""
    B, K, S = len(q_BHh), cache.k_BSKh.shape[2], cache.k_BSKh.shape[1]
    dense = num_blocks(min(S, config.dense_len), config.block)
    all_n = jnp.arange(num_blocks(S, config.block), dtype=jnp.int32)
    if config.dense_len >= S:
        return jnp.broadcast_to(all_n, (B, K, len(all_n)))

    def select(q_Hh: jax.Array, pooled_PKh: jax.Array, coarse_RKh: jax.Array, position: jax.Array) -> jax.Array:
        coarse = None if config.normaliser == "exact" else coarse_RKh[None]
        scores = selection.block_scores(q_Hh[None, None], pooled_PKh[None], coarse, position, config, S)
        start = jnp.zeros((1, 1), jnp.int32)
        ids: jax.Array = selection.top_blocks(scores, position[None, None], start, config)[0, :, 0]
        return ids

    ids_BKn = jax.vmap(select)(q_BHh, cache.pooled_BPKh, cache.coarse_BRKh, cache.lengths_B - 1)
    n = max(ids_BKn.shape[-1], dense)
    ids_BKn = jnp.pad(ids_BKn, ((0, 0), (0, 0), (0, n - ids_BKn.shape[-1])), constant_values=-1)
    return jnp.where((cache.lengths_B <= config.dense_len)[:, None, None], all_n[:n], ids_BKn)
