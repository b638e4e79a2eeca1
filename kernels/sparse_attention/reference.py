"""The specification: what block-sparse attention means, with a dense mask, in plain jnp and float32.

Memory is quadratic in T. Every backend runs the tests that compare it with this one. Axis letters: README.md.
"""

import jax
import jax.numpy as jnp

from kernels.sparse_attention.config import num_blocks


def visible_keys(ids_BKTn: jax.Array, S: int, block: int, segments_BT: jax.Array | None) -> jax.Array:
    """Whether query t of key-value head k sees key s: [B, K, T, S].

    It does iff s <= t, block s // block is among the ids of t, and (with segments) both are of one document.

    Args:
        ids_BKTn: block ids; those outside of [0, N) are padding.
        S: keys of a row.
        block: tokens of a block.
        segments_BT: documents, or None for one document; S = T then.
    """
    B, K, T, _ = ids_BKTn.shape
    N = num_blocks(S, block)
    slots = jnp.where((ids_BKTn >= 0) & (ids_BKTn < N), ids_BKTn, N)
    b, k, t = jnp.ogrid[:B, :K, :T]
    selected = jnp.zeros((B, K, T, N + 1), bool).at[b[..., None], k[..., None], t[..., None], slots].set(True)
    visible = jnp.repeat(selected[..., :N], block, axis=-1)[..., :S] & (jnp.arange(S) <= jnp.arange(T)[:, None])
    if segments_BT is not None:
        visible &= (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    return visible


def attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    *,
    block: int,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """softmax(scale q k^T) v over the visible keys, and the log-sum-exp (base e) of what the softmax was taken of.

    A query that sees nothing has o = 0 and lse = -inf. Gradients are those of autodiff.

    Returns:
        o_BTHh in the queries' dtype, lse_BHT in float32.
    """
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    q_BTKGh, k_BSKh, v_BSKh_ = (x.astype(jnp.float32) for x in (q_BTHh.reshape(B, T, K, H // K, h), k_BSKh, v_BSKh))
    visible = visible_keys(ids_BKTn, S, block, segments_BT)[:, :, None]
    s_BKGTS = jnp.where(visible, scale * jnp.einsum("btkgh,bskh->bkgts", q_BTKGh, k_BSKh), -jnp.inf)
    highest = jax.lax.stop_gradient(s_BKGTS.max(axis=-1, keepdims=True))
    highest = jnp.where(highest > -jnp.inf, highest, 0.0)
    p_BKGTS = jnp.exp(s_BKGTS - highest)
    sum_BKGT1 = p_BKGTS.sum(axis=-1, keepdims=True)
    sees = sum_BKGT1 > 0
    divisor = jnp.where(sees, sum_BKGT1, 1.0)
    o_BTKGh = jnp.einsum("bkgts,bskh->btkgh", p_BKGTS / divisor, v_BSKh_)
    lse_BKGT1 = jnp.where(sees, highest + jnp.log(divisor), -jnp.inf)
    return o_BTKGh.reshape(B, T, H, h).astype(q_BTHh.dtype), lse_BKGT1.reshape(B, H, T)
