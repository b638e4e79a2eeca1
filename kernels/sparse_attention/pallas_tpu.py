"""Forward block-sparse attention for TPUs, in Mosaic.

A program attends the query rows of one tile to the union of the key blocks that its tokens see. K and V stay in HBM;
the union's ids come to SMEM tile by tile (all of them at once would not fit its 1 MiB at 128K tokens), and steer
double-buffered copies of `KEYS` keys at a time. The loop over the union is inside the kernel, so that no grid step is
spent on blocks that nobody sees. Which token of the tile sees which block is one bit of a scalar word.

`visit_keys` is that loop; dQ (pallas_tpu_backward.py) walks over the same keys with another body. Checked by compiling
and in interpreters; not timed on a chip. Letters: tpu_tiles.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.sparse_attention.config import num_blocks
from kernels.sparse_attention.tables import UnionTables, union_tables
from kernels.sparse_attention.tpu_tiles import (
    LANES,
    PARALLEL_3D,
    Geometry,
    Interpret,
    Ref,
    Step,
    diagonal,
    dot,
    from_lanes,
    from_tiles,
    geometry_of,
    in_hbm,
    rows_spec,
    scalars_spec,
    segment_lanes,
    stream,
    to_blocks,
    to_tiles,
    tokens_of_rows,
)

KEYS = LANES  # keys of a step, of several blocks where they are smaller: scores then fill whole registers
HEAD_SIZES = (64, 128)
BLOCKS = (64, 128)
DTYPES = ("bfloat16", "float32")
MASKED = -2.0e38  # near the least float32, but finite, so that differences of it are not NaN


class Union(NamedTuple):
    """What a program over queries walks over.

    Attributes:
        blocks, members, size: the tile's `UnionTables`, [1, U], [1, U] and [1, 1], in SMEM.
        keys: K and V, [B, K, N, block, h] each, in HBM.
        segments: None, or the rows' [1, M] in VMEM and the keys' [B, N, 1, J] in HBM.
    """

    blocks: Any
    members: Any
    size: Any
    keys: tuple[Any, Any]
    segments: Any


class Buffers(NamedTuple):
    """Two slots each for K, for V and for the keys' segments, and a semaphore for each copy."""

    keys: tuple[Any, Any]
    segments: Any
    semaphores: Any


def unsupported(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any, block: int, has_segments: bool
) -> str | None:
    """Why these kernels cannot run a case, as a sentence that names what they can; None where they can."""
    del k_shape, has_segments  # any group, with and without
    if q_shape[3] not in HEAD_SIZES:
        return f"head size {q_shape[3]}: the TPU kernels have {' and '.join(map(str, HEAD_SIZES))}"
    if block not in BLOCKS:
        return f"block {block}: the TPU kernels have {' and '.join(map(str, BLOCKS))}"
    if jnp.dtype(dtype).name not in DTYPES:
        return f"{jnp.dtype(dtype).name}: the TPU kernels take {' and '.join(DTYPES)}"
    return None


def make_union(
    tables: UnionTables, k_BSKh: jax.Array, v_BSKh: jax.Array, segments_BT: jax.Array | None, geometry: Geometry
) -> tuple[Union, Union]:
    """The arrays of a `Union`, and their block specs."""
    tile, block = geometry.tile, geometry.block
    segments, segment_specs = None, None
    if segments_BT is not None:
        rows = segment_lanes(segments_BT, tile, geometry.group)
        segments = (rows, segment_lanes(segments_BT, block, KEYS // block))
        segment_specs = (pl.BlockSpec((None, None, 1, geometry.rows), lambda b, k, i: (b, i, 0, 0)), in_hbm())
    arrays = Union(
        tables.blocks_BKQU[:, :, :, None],
        tables.members_BKQU[:, :, :, None],
        tables.counts_BKQ[..., None, None],
        (to_blocks(k_BSKh, block), to_blocks(v_BSKh, block)),
        segments,
    )
    ids = scalars_spec(tables.blocks_BKQU.shape[-1])
    return arrays, Union(ids, ids, scalars_spec(1), (in_hbm(), in_hbm()), segment_specs)


def make_buffers(k_BSKh: jax.Array, geometry: Geometry, has_segments: bool) -> Buffers:
    """Scratch for `visit_keys`."""
    per_step = KEYS // geometry.block
    keys = pltpu.VMEM((2, KEYS, k_BSKh.shape[-1]), k_BSKh.dtype)
    segments = pltpu.VMEM((2, per_step, 1, KEYS), jnp.int32) if has_segments else None
    return Buffers((keys, keys), segments, pltpu.SemaphoreType.DMA((2, 3 if has_segments else 2, per_step)))


def visit_keys(
    union: Union,
    buffers: Buffers,
    geometry: Geometry,
    body: Callable[[jax.Array, jax.Array, jax.Array], None],
) -> None:
    """Calls body(k_Jh, v_Jh, seen_MJ) for all keys of the tile's union, `KEYS` at a time.

    seen_MJ says which row sees which key: the row's token has the key's block among its ids, the key is not after it,
    and their segments are equal.
    """
    b, kv_head, tile = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    block, per_step = geometry.block, KEYS // geometry.block
    count = union.size[0, 0]
    token_M1 = tokens_of_rows(geometry, 0)
    bit_M1, position_M1 = jnp.left_shift(1, token_M1), tile * geometry.tile + token_M1
    lane_1J = lax.broadcasted_iota(jnp.int32, (1, KEYS), 1)
    row_segment_M1 = None if union.segments is None else diagonal(union.segments[0][...], 1)

    def per_lane(value: Callable[[int], jax.Array]) -> jax.Array:
        """value(i) in the lanes of the i-th block of a step: [1, J]."""
        chosen_1J = jnp.broadcast_to(value(0), (1, KEYS))
        for i in range(1, per_step):
            chosen_1J = jnp.where(lane_1J < i * block, chosen_1J, value(i))
        return chosen_1J

    def index(j: Step, i: int) -> jax.Array:
        # Where the last step is not full it has the last block once more, without members.
        return jnp.minimum(j * per_step + i, count - 1)

    def fetch(j: Step, slot: Step) -> list[Any]:
        copies = []
        for i in range(per_step):
            name = union.blocks[0, index(j, i)]
            pairs = [
                (hbm.at[b, kv_head, name], buffer.at[slot, pl.ds(i * block, block)])
                for hbm, buffer in zip(union.keys, buffers.keys, strict=True)
            ]
            if union.segments is not None:
                pairs.append((union.segments[1].at[b, name], buffers.segments.at[slot, i]))
            copies += [
                pltpu.make_async_copy(source, target, buffers.semaphores.at[slot, array, i])
                for array, (source, target) in enumerate(pairs)
            ]
        return copies

    def step(j: jax.Array, slot: jax.Array) -> None:
        def members(i: int) -> jax.Array:
            return jnp.where(j * per_step + i < count, union.members[0, index(j, i)], 0)

        key_1J = lane_1J + per_lane(lambda i: (union.blocks[0, index(j, i)] - i) * block)
        seen_MJ = (per_lane(members) & bit_M1 != 0) & (key_1J <= position_M1)
        if union.segments is not None:
            seen_MJ &= per_lane(lambda i: buffers.segments[slot, i]) == row_segment_M1
        body(buffers.keys[0][slot], buffers.keys[1][slot], seen_MJ)

    stream(0, pl.cdiv(count, per_step), fetch, step)


def _forward_kernel(
    union: Union,
    q_ref: Ref,
    o_ref: Ref,
    lse_ref: Ref,
    buffers: Buffers,
    m_ref: Ref,
    l_ref: Ref,
    acc_ref: Ref,
    *,
    geometry: Geometry,
) -> None:
    """Online softmax; its statistics are the same in all lanes, which spares broadcasts."""
    m_ref[...] = jnp.full_like(m_ref, MASKED)
    l_ref[...] = jnp.zeros_like(l_ref)
    acc_ref[...] = jnp.zeros_like(acc_ref)
    h = q_ref.shape[-1]

    def body(k_Jh: jax.Array, v_Jh: jax.Array, seen_MJ: jax.Array) -> None:
        s_MJ = jnp.where(seen_MJ, dot(q_ref[...], k_Jh, (1, 1)) * geometry.scale, MASKED)
        m_old = m_ref[...]
        m_new = jnp.maximum(m_old, jnp.max(s_MJ, axis=1, keepdims=True))
        p_MJ = jnp.where(seen_MJ, jnp.exp(s_MJ - m_new), 0.0)
        shrink = jnp.exp(m_old - m_new)
        m_ref[...] = m_new
        l_ref[...] = l_ref[...] * shrink + jnp.sum(p_MJ, axis=1, keepdims=True)
        acc_ref[...] = acc_ref[...] * shrink[:, :h] + dot(p_MJ.astype(v_Jh.dtype), v_Jh, (1, 0))

    visit_keys(union, buffers, geometry, body)
    l_M1 = l_ref[:, :1]
    sees = l_M1 > 0.0
    o_ref[...] = (acc_ref[...] / jnp.where(sees, l_M1, 1.0)).astype(o_ref.dtype)
    lse_ref[...] = diagonal(jnp.where(sees, m_ref[:, :1] + jnp.log(l_M1), -jnp.inf), 0)


def forward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    *,
    block: int,
    scale: float,
    interpret: Interpret = None,
) -> tuple[jax.Array, jax.Array]:
    """Attends every query to the blocks named by its ids: (o_BTHh, lse_BHT float32), as reference.py has it.

    Args:
        q_BTHh: queries, bfloat16 or float32.
        k_BSKh: keys, S = T.
        v_BSKh: values.
        ids_BKTn: block ids of every query.
        segments_BT: int32 documents, or None.
        block: tokens of a block, 64 or 128.
        scale: of q . k.
        interpret: None to compile; True for the HLO interpreter; `pltpu.InterpretParams` for the TPU interpreter.
    """
    B, T, _, h = q_BTHh.shape
    K = k_BSKh.shape[2]
    geometry = geometry_of(q_BTHh, k_BSKh, block, scale)
    M, Q = geometry.rows, pl.cdiv(T, geometry.tile)
    tables = union_tables(ids_BKTn, geometry.tile, num_blocks(k_BSKh.shape[1], block))
    union, union_specs = make_union(tables, k_BSKh, v_BSKh, segments_BT, geometry)
    statistics = pltpu.VMEM((M, LANES), jnp.float32)
    o_BKQMh, lse_BKQ1M = pl.pallas_call(
        functools.partial(_forward_kernel, geometry=geometry),
        grid=(B, K, Q),
        in_specs=(union_specs, rows_spec(M, h)),
        out_specs=(rows_spec(M, h), rows_spec(1, M)),
        out_shape=(
            jax.ShapeDtypeStruct((B, K, Q, M, h), q_BTHh.dtype),
            jax.ShapeDtypeStruct((B, K, Q, 1, M), jnp.float32),
        ),
        scratch_shapes=(
            make_buffers(k_BSKh, geometry, segments_BT is not None),
            statistics,
            statistics,
            pltpu.VMEM((M, h), jnp.float32),
        ),
        compiler_params=PARALLEL_3D,
        interpret=interpret or False,
        name="block_sparse_forward",
    )(union, to_tiles(q_BTHh, K, geometry.tile))
    return from_tiles(o_BKQMh, geometry.tile, T), from_lanes(lse_BKQ1M, geometry.tile, T)
