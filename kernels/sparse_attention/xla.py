"""Block-sparse attention without a kernel: what a CPU runs, and what any other chip falls back to.

A tile of neighbouring tokens gathers the union of its tokens' blocks, a slab of some blocks at a time, into plain
batched matrix products with an online softmax, and masks what is not each token's own. The loop over slabs ends where
the tile's union does, so time follows what is selected and not what could be. Nothing larger than a slab's scores
exists beside the operands and results: memory is linear in T.

The backward pass makes one sweep of the same shape: it recomputes a slab's weights from the log-sum-exp, and adds the
slab's part of dK and dV into their blocks. Tiles follow each other, so the order of additions, and every bit, is the
same each time; the always-selected blocks need no care.

Axis letters: README.md; here R = G tile rows of one tile's products, W blocks of a slab, C = W block its keys.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.sparse_attention.config import num_blocks
from kernels.sparse_attention.tables import MAX_TILE, union_tables

# Rows of a tile's products if its 8 to 32 tokens allow, and keys of a slab; as measured on two CPU cores. Larger tiles
# make larger products and larger unions, larger slabs fewer steps and scores that leave the cache.
_ROWS, _SLAB = 128, 256


class _Keys(NamedTuple):
    """Keys and values of one batch row by block, and their documents."""

    k_KNch: jax.Array
    v_KNch: jax.Array
    segments_Nc: jax.Array | None


class _Tile(NamedTuple):
    """Queries of one tile, their documents, and the slots of its union; the leading axis runs over tiles outside."""

    first_query: jax.Array
    q_tKGh: jax.Array
    segments_t: jax.Array | None
    blocks_KU: jax.Array
    members_KU: jax.Array
    used: jax.Array  # slots, of the key-value head that has most


class _Cotangents(NamedTuple):
    """What the backward pass knows of one tile's results."""

    do_tKGh: jax.Array
    lse_tKG: jax.Array
    delta_tKG: jax.Array


class _Slab(NamedTuple):
    """Some blocks of a tile's union: keys, values, and which token of the tile sees which key."""

    ids_KW: jax.Array
    k_KCh: jax.Array
    v_KCh: jax.Array
    visible_KtC: jax.Array


def forward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    *,
    block: int,
    scale: float,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """O [B, T, H, h] and lse [B, H, T]; see `api.AttentionKernels`. `interpret` is for kernels, and unused here."""
    del interpret
    B, T, H, h = q_BTHh.shape

    def row(arrays: tuple[_Keys, _Tile]) -> tuple[jax.Array, jax.Array]:
        keys, tiles = arrays
        results: tuple[jax.Array, jax.Array] = jax.lax.map(lambda tile: _attend_tile(keys, tile, scale), tiles)
        return results

    o_BQtKGh, lse_BQKGt = jax.lax.map(row, _arrange(q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, block))
    lse_BHT = lse_BQKGt.transpose(0, 2, 3, 1, 4).reshape(B, H, -1)
    return o_BQtKGh.reshape(B, -1, H, h)[:, :T], lse_BHT[:, :, :T]


def backward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    o_BTHh: jax.Array,
    lse_BHT: jax.Array,
    do_BTHh: jax.Array,
    delta_BHT: jax.Array,
    *,
    block: int,
    scale: float,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v; see `api.AttentionKernels`."""
    del interpret, o_BTHh
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    G = H // K
    keys, tiles = _arrange(q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, block)
    tile = _tile_tokens(G)
    do_BQtKGh = _tiled(do_BTHh, tile).reshape(tiles.q_tKGh.shape)
    lse, delta = (_tiled(x_BHT.swapaxes(1, 2), tile).reshape(B, -1, tile, K, G) for x_BHT in (lse_BHT, delta_BHT))

    def row(arrays: tuple[_Keys, _Tile, _Cotangents]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        keys, tiles, results = arrays

        def add(
            dkv: tuple[jax.Array, jax.Array], tile: tuple[_Tile, _Cotangents]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            return _tile_gradients(keys, *tile, scale, dkv)

        zeros = jnp.zeros(keys.k_KNch.shape, jnp.float32)
        dkv, dq_QtKGh = jax.lax.scan(add, (zeros, zeros), (tiles, results))
        return dq_QtKGh, dkv

    dq_BQtKGh, gradients = jax.lax.map(row, (keys, tiles, _Cotangents(do_BQtKGh, lse, delta)))
    dk, dv = (x.reshape(B, K, -1, h)[:, :, :S].swapaxes(1, 2).astype(k_BSKh.dtype) for x in gradients)
    return dq_BQtKGh.reshape(B, -1, H, h)[:, :T], dk, dv


def _tile_tokens(G: int) -> int:
    """Tokens of a tile: as many as make `_ROWS` rows with the group's G heads, but 8 to 32."""
    return max(8, min(MAX_TILE, _ROWS // G))


def _tiled(x_BTx: jax.Array, tile: int) -> jax.Array:
    """Pads T to whole tiles and splits it: [B, Q, tile, ...]."""
    B, T = x_BTx.shape[:2]
    x_BTx = jnp.pad(x_BTx, ((0, 0), (0, -T % tile), *[(0, 0)] * (x_BTx.ndim - 2)))
    return x_BTx.reshape(B, -1, tile, *x_BTx.shape[2:])


def _arrange(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    block: int,
) -> tuple[_Keys, _Tile]:
    """Keys by block and queries by tile, with B leading everything and Q second in tiles."""
    B, _, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    N, tile = num_blocks(S, block), _tile_tokens(H // K)

    def by_block(x_BSx: jax.Array) -> jax.Array:
        x_BSx = jnp.pad(x_BSx, ((0, 0), (0, N * block - S), *[(0, 0)] * (x_BSx.ndim - 2)))
        return x_BSx.reshape(B, N, block, *x_BSx.shape[2:])

    k_BKNch, v_BKNch = (by_block(x_BSKh).transpose(0, 3, 1, 2, 4) for x_BSKh in (k_BSKh, v_BSKh))
    tables = union_tables(ids_BKTn, tile, N)
    W = _slab_blocks(block, N)
    spare = ((0, 0), (0, 0), (0, 0), (0, -tables.blocks_BKQU.shape[-1] % W))  # whole slabs; no member there
    blocks, members = (jnp.pad(x, spare).swapaxes(1, 2) for x in (tables.blocks_BKQU, tables.members_BKQU))
    q_BQtKGh = _tiled(q_BTHh, tile).reshape(B, -1, tile, K, H // K, h)
    Q = q_BQtKGh.shape[1]
    first_query = jnp.broadcast_to(tile * jnp.arange(Q, dtype=jnp.int32), (B, Q))
    return (
        _Keys(k_BKNch, v_BKNch, None if segments_BT is None else by_block(segments_BT)),
        _Tile(
            first_query,
            q_BQtKGh,
            None if segments_BT is None else _tiled(segments_BT, tile),
            blocks,
            members,
            tables.counts_BKQ.max(axis=1),
        ),
    )


def _slab_blocks(block: int, N: int) -> int:
    """W: blocks whose keys are gathered at a time."""
    return max(1, min(_SLAB // block, N))


def _slabs(keys: _Keys, tile: _Tile) -> jax.Array:
    """How many slabs hold the tile's union."""
    _, N, block, _ = keys.k_KNch.shape
    return -(-tile.used // _slab_blocks(block, N))


def _gather(keys: _Keys, tile: _Tile, j: jax.Array) -> _Slab:
    """Slab j of the tile's union."""
    K, N, block, h = keys.k_KNch.shape
    W = _slab_blocks(block, N)
    ids_KW = jax.lax.dynamic_slice_in_dim(tile.blocks_KU, j * W, W, axis=1)
    members_KW = jax.lax.dynamic_slice_in_dim(tile.members_KU, j * W, W, axis=1)
    t = tile.q_tKGh.shape[0]
    token_t = jnp.arange(t, dtype=jnp.int32)
    member_KtW1 = (members_KW[:, None, :, None] >> token_t[:, None, None] & 1) == 1
    key_K1Wc = (ids_KW[..., None] * block + jnp.arange(block, dtype=jnp.int32))[:, None]
    visible_KtWc = member_KtW1 & (key_K1Wc <= (tile.first_query + token_t)[:, None, None])
    if keys.segments_Nc is not None and tile.segments_t is not None:
        visible_KtWc &= keys.segments_Nc[ids_KW][:, None] == tile.segments_t[:, None, None]

    def take(x_KNch: jax.Array) -> jax.Array:
        return x_KNch[jnp.arange(K)[:, None], ids_KW].reshape(K, W * block, h)

    return _Slab(ids_KW, take(keys.k_KNch), take(keys.v_KNch), visible_KtWc.reshape(K, t, W * block))


def _scores(q_KRh: jax.Array, slab: _Slab, scale: float) -> jax.Array:
    """Scaled scores of a tile's rows over a slab's keys, -inf where not visible: [K, G, t, C] float32."""
    K, tile, C = slab.visible_KtC.shape
    s_KRC = jnp.einsum("krh,kch->krc", q_KRh, slab.k_KCh, preferred_element_type=jnp.float32)
    s_KGtC = scale * s_KRC.reshape(K, -1, tile, C)
    return jnp.where(slab.visible_KtC[:, None], s_KGtC, -jnp.inf)


def _rows(x_tKGh: jax.Array) -> jax.Array:
    """A tile's queries as rows of one product per key-value head: [K, G t, h]."""
    t, K, G, h = x_tKGh.shape
    return x_tKGh.transpose(1, 2, 0, 3).reshape(K, G * t, h)


def _tokens(x_KRh: jax.Array, t: int) -> jax.Array:
    """And back: [t, K, G, h]."""
    K, R, h = x_KRh.shape
    return x_KRh.reshape(K, R // t, t, h).transpose(2, 0, 1, 3)


def _attend_tile(keys: _Keys, tile: _Tile, scale: float) -> tuple[jax.Array, jax.Array]:
    """O [t, K, G, h] and lse [K, G, t] of one tile, by an online softmax over slabs."""
    t, K, G, h = tile.q_tKGh.shape
    q_KRh = _rows(tile.q_tKGh)

    def add(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        highest_KGt, sum_KGt, o_KRh = carry
        slab = _gather(keys, tile, j)
        s_KGtC = _scores(q_KRh, slab, scale)
        new_KGt = jnp.maximum(highest_KGt, s_KGtC.max(axis=-1))
        shift_KGt = jnp.where(new_KGt > -jnp.inf, new_KGt, 0.0)  # nothing seen yet: exp(-inf - 0) = 0
        p_KGtC = jnp.exp(s_KGtC - shift_KGt[..., None])
        decay_KGt = jnp.exp(highest_KGt - shift_KGt)
        p_KRC = p_KGtC.reshape(K, G * t, -1).astype(slab.v_KCh.dtype)
        part_KRh = jnp.einsum("krc,kch->krh", p_KRC, slab.v_KCh, preferred_element_type=jnp.float32)
        o_KRh = o_KRh * decay_KGt.reshape(K, G * t, 1) + part_KRh
        return new_KGt, sum_KGt * decay_KGt + p_KGtC.sum(axis=-1), o_KRh

    start = (
        jnp.full((K, G, t), -jnp.inf, jnp.float32),
        jnp.zeros((K, G, t), jnp.float32),
        jnp.zeros((K, G * t, h), jnp.float32),
    )
    highest_KGt, sum_KGt, o_KRh = jax.lax.fori_loop(0, _slabs(keys, tile), add, start)
    divisor_KGt = jnp.where(sum_KGt > 0, sum_KGt, 1.0)
    o_KRh = (o_KRh / divisor_KGt.reshape(K, G * t, 1)).astype(tile.q_tKGh.dtype)
    return _tokens(o_KRh, t), highest_KGt + jnp.log(divisor_KGt)  # -inf + log 1 where nothing is seen


def _tile_gradients(
    keys: _Keys,
    tile: _Tile,
    results: _Cotangents,
    scale: float,
    dkv_KNch: tuple[jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Adds one tile's part of dK and dV to them; and the tile's dQ, [t, K, G, h]."""
    t, K, G, h = tile.q_tKGh.shape
    q_KRh, do_KRh = _rows(tile.q_tKGh), _rows(results.do_tKGh)
    lse_KGt1, delta_KGt1 = (x_tKG.transpose(1, 2, 0)[..., None] for x_tKG in (results.lse_tKG, results.delta_tKG))
    lse_KGt1 = jnp.where(lse_KGt1 > -jnp.inf, lse_KGt1, 0.0)  # such a row's scores are all -inf

    def add(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        dq_KRh, dk_KNch, dv_KNch = carry
        slab = _gather(keys, tile, j)
        p_KGtC = jnp.exp(_scores(q_KRh, slab, scale) - lse_KGt1)
        dp_KRC = jnp.einsum("krh,kch->krc", do_KRh, slab.v_KCh, preferred_element_type=jnp.float32)
        ds_KGtC = scale * p_KGtC * (dp_KRC.reshape(p_KGtC.shape) - delta_KGt1)
        p_KRC, ds_KRC = (x.reshape(K, G * t, -1).astype(q_KRh.dtype) for x in (p_KGtC, ds_KGtC))
        dq_KRh += jnp.einsum("krc,kch->krh", ds_KRC, slab.k_KCh, preferred_element_type=jnp.float32)
        dk_KCh = jnp.einsum("krc,krh->kch", ds_KRC, q_KRh, preferred_element_type=jnp.float32)
        dv_KCh = jnp.einsum("krc,krh->kch", p_KRC, do_KRh, preferred_element_type=jnp.float32)
        return dq_KRh, _add_blocks(dk_KNch, slab.ids_KW, dk_KCh), _add_blocks(dv_KNch, slab.ids_KW, dv_KCh)

    start = (jnp.zeros((K, G * t, h), jnp.float32), *dkv_KNch)
    dq_KRh, dk_KNch, dv_KNch = jax.lax.fori_loop(0, _slabs(keys, tile), add, start)
    return (dk_KNch, dv_KNch), _tokens(dq_KRh.astype(tile.q_tKGh.dtype), t)


def _add_blocks(x_KNch: jax.Array, ids_KW: jax.Array, slab_KCh: jax.Array) -> jax.Array:
    """Adds a slab's blocks to where they came from; slots that hold no block add zeros."""
    K, _, block, h = x_KNch.shape
    slab_KWch = slab_KCh.reshape(K, -1, block, h)
    return x_KNch.at[jnp.arange(K)[:, None], ids_KW].add(slab_KWch)
