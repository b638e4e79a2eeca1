"""Union tables and the inverse index against sets in plain Python; and that nothing of size Q x N is made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import largest_array
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.sparse_attention import tables

pytestmark = pytest.mark.timeout(300)


# (T, n, N, tile, limit): few, for each is compiled; what the ids are is drawn
SIZES = [(70, 3, 40, 8, 2), (33, 6, 5, 32, 7), (5, 1, 1, 1, 1), (64, 2, 3, 32, 1000), (61, 4, 17, 31, 1)]


@st.composite
def problems(draw):
    """Ids out of range on both sides, in no order, with duplicates; from all alike to all different."""
    T, n, N, tile, limit = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([1, 3, N, N + 2]))
    ids = rng.integers(-2, most, size=(2, 1, T, n)).astype(np.int32)
    return ids, tile, N, limit


def members_of(ids, tile, N):
    """{(b, k, tile): {block: {token in the tile}}}, by loops."""
    found = {}
    for b, k, t, slot in np.ndindex(ids.shape):
        seen = found.setdefault((b, k, t // tile), {})
        if 0 <= ids[b, k, t, slot] < N:
            seen.setdefault(int(ids[b, k, t, slot]), set()).add(t % tile)
    return found


def bits(mask):
    return {i for i in range(32) if int(mask) >> i & 1}  # of a negative int32 too: Python extends its sign


# every token of a full tile sees a block: all 32 bits, so a mask of -1
FULL = (np.zeros((1, 1, 64, 2), np.int32), 32, 3, 2)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def both(ids, tile, N, limit):
    union = tables.union_tables(ids, tile, N)
    return union, tables.inverse_index(union, N, limit)


@settings(max_examples=25, deadline=None)
@given(problems())
@example(FULL)
def test_tables_hold_what_the_ids_say(problem):
    ids, tile, N, limit = problem
    union, index = both(ids, tile, N, limit)
    want = members_of(ids, tile, N)
    blocks, counts, masks = (np.asarray(x) for x in union)
    assert blocks.shape[-1] == min(tile * ids.shape[-1], N)
    for (b, k, i), seen in want.items():
        count = counts[b, k, i]
        assert blocks[b, k, i, :count].tolist() == sorted(seen)
        assert [bits(m) for m in masks[b, k, i, :count]] == [seen[block] for block in sorted(seen)]
        assert set(blocks[b, k, i, count:].tolist()) <= {max(seen, default=0)}
        assert not masks[b, k, i, count:].any()

    item_block, start, items, tile_of, members = (np.asarray(x) for x in index)
    P = blocks.shape[2] * blocks.shape[3]
    assert item_block.shape[-1] == N + P // limit
    for b, k in np.ndindex(ids.shape[:2]):
        pairs = {}
        assert (np.diff(item_block[b, k]) >= 0).all()  # items of one block follow each other
        assert items[b, k].max(initial=0) <= limit
        for block, first, count in zip(item_block[b, k], start[b, k], items[b, k], strict=True):
            pairs.setdefault(int(block), []).extend(range(first, first + count))
        for block in range(N):
            got = pairs.get(block, [])
            tiles = sorted(i for (bb, kk, i), seen in want.items() if (bb, kk) == (b, k) and block in seen)
            assert tile_of[b, k][got].tolist() == tiles
            assert [bits(m) for m in members[b, k][got]] == [want[b, k, i][block] for i in tiles]


def test_memory_does_not_grow_with_tiles_times_blocks():
    """At 8K blocks, a table per (tile, block) would have 16 times the elements of the largest array there is."""
    T, n, tile, N = 8192, 4, 4, 8192
    ids = jax.ShapeDtypeStruct((1, 1, T, n), jnp.int32)
    assert largest_array(lambda ids: both(ids, tile, N, 64), ids) <= 2 * T * n


@pytest.mark.parametrize("tile", [0, 33])
def test_a_tile_has_as_many_tokens_as_a_mask_has_bits(tile):
    with pytest.raises(ValueError, match=f"tile {tile}: a tile has 1 to 32 tokens"):
        tables.union_tables(jnp.zeros((1, 1, 4, 1), jnp.int32), tile, 2)


def test_an_item_has_a_pair():
    union = tables.union_tables(jnp.zeros((1, 1, 4, 1), jnp.int32), 4, 2)
    with pytest.raises(ValueError, match="limit 0"):
        tables.inverse_index(union, 2, 0)
