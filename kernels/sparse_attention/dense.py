"""Dense causal attention for rows too short for selection, without a [T, T] array."""

import jax
import jax.numpy as jnp

_CHUNK = 128  # queries whose scores exist at a time


def attention(
    q_BTHh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, segments_BT: jax.Array | None, *, cudnn: bool = False
) -> jax.Array:
    """Causal softmax(q k^T / sqrt(h)) v within each document, O [B, T, H, h] in the queries' dtype.

    A chunk of queries at a time against all keys; the backward pass computes a chunk's scores again, so memory is
    linear in T both ways.

    Args:
        q_BTHh: queries.
        k_BSKh: keys, S = T.
        v_BSKh: values.
        segments_BT: int32 documents, or None.
        cudnn: use cuDNN's flash attention where it can, which is with 16 bits.
    """
    if cudnn and q_BTHh.dtype in (jnp.bfloat16, jnp.float16):
        same = None if segments_BT is None else (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
        return jax.nn.dot_product_attention(q_BTHh, k_BSKh, v_BSKh, mask=same, is_causal=True, implementation="cudnn")
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    chunks = -(-T // _CHUNK)
    k_BKSh, v_BKSh = k_BSKh.swapaxes(1, 2), v_BSKh.swapaxes(1, 2)

    @jax.checkpoint
    def attend(stretch: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        first_query, q_BCHh, segments_BC = stretch
        q_BKGCh = q_BCHh.reshape(B, _CHUNK, K, H // K, h).transpose(0, 2, 3, 1, 4)
        q_BKRh = q_BKGCh.reshape(B, K, -1, h) * jnp.asarray(h**-0.5, q_BCHh.dtype)
        s_BKRS = jnp.einsum("bkrh,bksh->bkrs", q_BKRh, k_BKSh, preferred_element_type=jnp.float32)
        visible = (jnp.arange(S) <= (first_query + jnp.arange(_CHUNK))[:, None])[None]
        if segments_BC is not None and segments_BT is not None:
            # padded queries are of no document; the first key keeps their softmax finite
            visible &= segments_BC[:, :, None] == segments_BT[:, None, :]
        s_BKGCS = jnp.where(visible[:, None, None], s_BKRS.reshape(B, K, -1, _CHUNK, S), -1e30)
        p_BKRS = jax.nn.softmax(s_BKGCS, axis=-1).astype(v_BKSh.dtype).reshape(s_BKRS.shape)
        o_BKRh = jnp.einsum("bkrs,bksh->bkrh", p_BKRS, v_BKSh, preferred_element_type=jnp.float32)
        o_BCKGh = o_BKRh.reshape(B, K, -1, _CHUNK, h).transpose(0, 3, 1, 2, 4)
        return o_BCKGh.reshape(B, _CHUNK, H, h).astype(q_BTHh.dtype)

    def stretches(x_BTx: jax.Array) -> jax.Array:
        x_BTx = jnp.pad(x_BTx, ((0, 0), (0, chunks * _CHUNK - T), *[(0, 0)] * (x_BTx.ndim - 2)))
        return x_BTx.reshape(B, chunks, _CHUNK, *x_BTx.shape[2:]).swapaxes(0, 1)

    segments = None if segments_BT is None else stretches(segments_BT)
    o_cBCHh: jax.Array = jax.lax.map(attend, (_CHUNK * jnp.arange(chunks), stretches(q_BTHh), segments))
    return o_cBCHh.swapaxes(0, 1).reshape(B, chunks * _CHUNK, H, h)[:, :T]
