"""Integer tables that kernels are steered by, made from block ids in plain XLA: no [Q, N] or [T, N] array, no gradient.

A kernel handles `tile` neighbouring tokens at a time. Going over queries (forward, dQ) it needs the union of the
blocks they see and, per block, which of them see it: `union_tables`. Going over keys (dK, dV) it needs the reverse,
the tiles that see a block: `inverse_index`. Everything is sorted rather than scattered into a dense table, so memory is
linear in the number of ids.

Axis letters: README.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MAX_TILE = 32  # bits of a member mask


class UnionTables(NamedTuple):
    """Of each query tile, the blocks that any of its tokens sees, and which tokens do; all int32.

    Attributes:
        blocks_BKQU: block ids, ascending and unique; after the last valid one it is repeated (0 where there is none),
            so that whoever prefetches the next slot stays in range. U = min(tile n, N).
        counts_BKQ: valid slots.
        members_BKQU: bit i is set where token i of the tile sees the block; 0 in slots that are not valid.
    """

    blocks_BKQU: jax.Array
    counts_BKQ: jax.Array
    members_BKQU: jax.Array


class InverseIndex(NamedTuple):
    """Work items of dK and dV: each is one block and at most `limit` of the (tile, slot) pairs that see it; all int32.

    A block that many tiles see has several items, which follow each other; each can write partial sums that are added
    by block afterwards, so that no block is one long piece of work and nothing is added atomically.

    Attributes:
        item_block_BKI: the item's block, ascending. I = N + P // limit, which always suffices.
        item_start_BKI: its first pair, an index into `tile_BKP`.
        item_count_BKI: its pairs, at most `limit`; 0 in items not needed, which come last and name the last block.
        tile_BKP: pairs grouped by block, within a block by tile, ascending. P = Q U.
        members_BKP: bit i is set where token i of the pair's tile sees the block; 0 in pairs not needed.
    """

    item_block_BKI: jax.Array
    item_start_BKI: jax.Array
    item_count_BKI: jax.Array
    tile_BKP: jax.Array
    members_BKP: jax.Array


def union_tables(ids_BKTn: jax.Array, tile: int, num_blocks: int) -> UnionTables:
    """The union of blocks of every `tile` consecutive tokens; T is padded to whole tiles with tokens that see nothing.

    Args:
        ids_BKTn: int32 block ids of every token, in any order; those outside of [0, N) are padding, duplicates count
            once.
        tile: tokens of a tile, at most 32.
        num_blocks: N.
    """
    if not 1 <= tile <= MAX_TILE:
        raise ValueError(f"tile {tile}: a tile has 1 to {MAX_TILE} tokens, the bits of a member mask")
    B, K, T, n = ids_BKTn.shape
    Q = -(-T // tile)
    ids_BKTn = jnp.pad(ids_BKTn, ((0, 0), (0, 0), (0, Q * tile - T), (0, 0)), constant_values=-1)
    ids_BKQtn = ids_BKTn.reshape(B, K, Q, tile, n)
    # One number per (block, token), so that one sort brings equal blocks together, and in them equal tokens.
    nothing = num_blocks * tile
    pairs = ids_BKQtn * tile + jnp.arange(tile, dtype=jnp.int32)[:, None]
    pairs = jnp.where((ids_BKQtn >= 0) & (ids_BKQtn < num_blocks), pairs, nothing).reshape(B, K, Q, tile * n)
    pairs = jnp.sort(pairs, axis=-1)
    before = jnp.pad(pairs[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)), constant_values=-1)
    bit = jnp.left_shift(jnp.uint32(1), (pairs % tile).astype(jnp.uint32))
    bit = jnp.where((pairs != before) & (pairs < nothing), bit, jnp.uint32(0))
    # A block's mask is the sum of its bits: a difference of running sums, right modulo 2^32.
    running = jnp.cumsum(bit, axis=-1, dtype=jnp.uint32)
    first = (pairs // tile != before // tile) & (pairs < nothing)  # -1 // tile is -1, no block
    # A second sort moves the first pair of every block to the front, with the running sum before it.
    heads, sums = jax.lax.sort((jnp.where(first, pairs // tile, num_blocks), running - bit), num_keys=1)
    U = min(tile * n, num_blocks)
    total = running[..., -1:]
    sums = jnp.where(heads < num_blocks, sums, total)
    following = jnp.concatenate([sums[..., 1:], total], axis=-1)
    counts = jnp.sum(first, axis=-1, dtype=jnp.int32)
    last = jnp.max(jnp.where(heads < num_blocks, heads, 0), axis=-1, keepdims=True)
    members = jax.lax.bitcast_convert_type(following - sums, jnp.int32)
    return UnionTables(jnp.where(heads < num_blocks, heads, last)[..., :U], counts, members[..., :U])


def inverse_index(tables: UnionTables, num_blocks: int, limit: int) -> InverseIndex:
    """The tiles that see each block, cut into items of at most `limit` tiles.

    Args:
        tables: of `union_tables`.
        num_blocks: N.
        limit: pairs of an item at most.
    """
    if limit < 1:
        raise ValueError(f"limit {limit}: an item has at least one pair")
    B, K, Q, U = tables.blocks_BKQU.shape
    P = Q * U
    valid = jnp.arange(U, dtype=jnp.int32) < tables.counts_BKQ[..., None]
    block = jnp.where(valid, tables.blocks_BKQU, num_blocks).reshape(B, K, P)
    tile = jnp.broadcast_to(jnp.arange(Q, dtype=jnp.int32)[:, None], (B, K, Q, U)).reshape(B, K, P)
    members = jnp.where(valid, tables.members_BKQU, 0).reshape(B, K, P)
    block, tile, members = jax.lax.sort((block, tile, members), num_keys=1, is_stable=True)

    edges = jnp.arange(num_blocks + 1, dtype=jnp.int32)
    start = jax.vmap(jax.vmap(lambda row: jnp.searchsorted(row, edges).astype(jnp.int32)))(block)
    counts = start[..., 1:] - start[..., :-1]
    pieces = -(-counts // limit)
    ends = jnp.cumsum(pieces, axis=-1)
    item = jnp.arange(num_blocks + P // limit, dtype=jnp.int32)
    owner = jax.vmap(jax.vmap(lambda row: jnp.searchsorted(row, item, side="right").astype(jnp.int32)))(ends)
    owner = jnp.minimum(owner, num_blocks - 1)

    def of_owner(x_BKN: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BKN, owner, axis=-1)

    skipped = (item - of_owner(ends - pieces)) * limit  # pairs of the block that earlier items hold
    count = jnp.clip(of_owner(counts) - skipped, 0, limit)
    start_BKI = jnp.where(count > 0, of_owner(start[..., :-1]) + skipped, 0)
    return InverseIndex(owner, start_BKI, count, tile, members)
