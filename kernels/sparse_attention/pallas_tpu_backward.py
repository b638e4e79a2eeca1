"""Gradients of block-sparse attention for TPUs, in Mosaic: dQ tile by tile, dK and dV block by block, no atomics.

dQ walks over the keys of a tile's union as the forward kernel does. dK and dV walk the other way: the inverse index
lists the tiles that see a block, so that a program holds one block of keys, streams those tiles of queries past it and
writes its sums once. A TensorCore runs the grid's programs one after another, so a block that every tile sees (the
first one) delays nobody: its list is one work item however long it is, fetched a window at a time, and no partial sums
go through memory.

Scores are transposed in dK and dV, keys on sublanes and query rows on lanes: every product is then a plain one, and
log-sum-exps lie where they are stored. Probabilities are recomputed from them.

Letters: pallas_tpu.py; n a block's tokens.
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
from kernels.sparse_attention.pallas_tpu import Buffers, Union, make_buffers, make_union, visit_keys
from kernels.sparse_attention.tables import InverseIndex, UnionTables, inverse_index, union_tables
from kernels.sparse_attention.tpu_tiles import (
    PARALLEL_3D,
    Geometry,
    Interpret,
    Ref,
    Step,
    diagonal,
    dot,
    from_blocks,
    from_tiles,
    geometry_of,
    in_hbm,
    rows_spec,
    scalars_spec,
    segment_lanes,
    start,
    stream,
    to_blocks,
    to_lanes,
    to_tiles,
    tokens_of_rows,
    wait,
)

WINDOW = (8, 128)  # pairs of the inverse index fetched at a time: one tile of int32 memory
PAIRS = WINDOW[0] * WINDOW[1]


class Viewers(NamedTuple):
    """What a program over a block of keys walks over.

    Attributes:
        first, size: the block's first pair in the inverse index and its number of pairs, in SMEM.
        pairs: tile and members of every pair, [B, K, windows, *WINDOW] each, in HBM.
        queries: q and do by tile, [B, K, Q, M, h] each, in HBM.
        statistics: log-sum-exp and delta, [B, K, Q, 2, M] float32, in HBM.
        segments: None, or the block's segments [1, n] in VMEM and the rows' [B, Q, 1, M] in HBM.
    """

    first: Any
    size: Any
    pairs: tuple[Any, Any]
    queries: tuple[Any, Any]
    statistics: Any
    segments: Any


class ViewerBuffers(NamedTuple):
    """A window of pairs in SMEM, two slots for everything of a tile, and a semaphore for each copy."""

    window: tuple[Any, Any]
    window_semaphores: Any
    queries: tuple[Any, Any]
    statistics: Any
    segments: Any
    semaphores: Any


def _dq_kernel(
    union: Union,
    q_ref: Ref,
    do_ref: Ref,
    statistics_ref: Ref,
    dq_ref: Ref,
    buffers: Buffers,
    acc_ref: Ref,
    *,
    geometry: Geometry,
) -> None:
    """dq = scale sum over keys of ds k, ds = p (do . v - delta)."""
    acc_ref[...] = jnp.zeros_like(acc_ref)
    lse_M1, delta_M1 = diagonal(statistics_ref[0:1], 1), diagonal(statistics_ref[1:2], 1)

    def body(k_Jh: jax.Array, v_Jh: jax.Array, seen_MJ: jax.Array) -> None:
        s_MJ = dot(q_ref[...], k_Jh, (1, 1)) * geometry.scale
        p_MJ = jnp.where(seen_MJ, jnp.exp(s_MJ - lse_M1), 0.0)
        ds_MJ = p_MJ * (dot(do_ref[...], v_Jh, (1, 1)) - delta_M1)
        acc_ref[...] += dot(ds_MJ.astype(k_Jh.dtype), k_Jh, (1, 0))

    visit_keys(union, buffers, geometry, body)
    dq_ref[...] = (acc_ref[...] * geometry.scale).astype(dq_ref.dtype)


def visit_queries(viewers: Viewers, buffers: ViewerBuffers, geometry: Geometry, body: Callable[..., None]) -> None:
    """Calls body(q_Mh, do_Mh, lse_1M, delta_1M, seen_nM) for every tile that sees the program's block.

    seen_nM says which key of the block each row sees, as in `visit_keys`.
    """
    b, kv_head, name = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    pair_start = viewers.first[0, 0]
    pair_end = pair_start + viewers.size[0, 0]
    token_1M = tokens_of_rows(geometry, 1)
    bit_1M = jnp.left_shift(1, token_1M)
    key_n1 = name * geometry.block + lax.broadcasted_iota(jnp.int32, (geometry.block, 1), 0)
    key_segment_n1 = None if viewers.segments is None else diagonal(viewers.segments[0][...], 1)

    @pl.loop(pair_start // PAIRS, pl.cdiv(pair_end, PAIRS))
    def _(window: jax.Array) -> None:
        copies = [
            pltpu.make_async_copy(hbm.at[b, kv_head, window], smem, buffers.window_semaphores.at[i])
            for i, (hbm, smem) in enumerate(zip(viewers.pairs, buffers.window, strict=True))
        ]
        start(copies)
        wait(copies)

        def of_pair(i: int, j: Step) -> Any:
            return buffers.window[i][j // WINDOW[1], lax.rem(j, WINDOW[1])]

        def fetch(j: Step, slot: Step) -> list[Any]:
            tile = of_pair(0, j)
            sources = [hbm.at[b, kv_head, tile] for hbm in (*viewers.queries, viewers.statistics)]
            targets = [*buffers.queries, buffers.statistics]
            if viewers.segments is not None:
                sources.append(viewers.segments[1].at[b, tile])
                targets.append(buffers.segments)
            return [
                pltpu.make_async_copy(source, target.at[slot], buffers.semaphores.at[slot, i])
                for i, (source, target) in enumerate(zip(sources, targets, strict=True))
            ]

        def step(j: jax.Array, slot: jax.Array) -> None:
            position_1M = of_pair(0, j) * geometry.tile + token_1M
            seen_nM = (of_pair(1, j) & bit_1M != 0) & (key_n1 <= position_1M)
            if buffers.segments is not None:
                seen_nM &= key_segment_n1 == buffers.segments[slot]
            q, do = buffers.queries
            body(q[slot], do[slot], buffers.statistics[slot, 0:1], buffers.statistics[slot, 1:2], seen_nM)

        begin = window * PAIRS
        stream(jnp.maximum(pair_start - begin, 0), jnp.minimum(pair_end - begin, PAIRS), fetch, step)


def _dkv_kernel(
    viewers: Viewers,
    k_ref: Ref,
    v_ref: Ref,
    dk_ref: Ref,
    dv_ref: Ref,
    buffers: ViewerBuffers,
    dk_acc_ref: Ref,
    dv_acc_ref: Ref,
    *,
    geometry: Geometry,
) -> None:
    """dv = sum over rows of p do, dk = scale sum over rows of ds q; the group's heads are rows like any others."""
    dk_acc_ref[...] = jnp.zeros_like(dk_acc_ref)
    dv_acc_ref[...] = jnp.zeros_like(dv_acc_ref)

    def body(q_Mh: jax.Array, do_Mh: jax.Array, lse_1M: jax.Array, delta_1M: jax.Array, seen_nM: jax.Array) -> None:
        s_nM = dot(k_ref[...], q_Mh, (1, 1)) * geometry.scale
        p_nM = jnp.where(seen_nM, jnp.exp(s_nM - lse_1M), 0.0)
        dv_acc_ref[...] += dot(p_nM.astype(do_Mh.dtype), do_Mh, (1, 0))
        ds_nM = p_nM * (dot(v_ref[...], do_Mh, (1, 1)) - delta_1M)
        dk_acc_ref[...] += dot(ds_nM.astype(q_Mh.dtype), q_Mh, (1, 0))

    visit_queries(viewers, buffers, geometry, body)
    dk_ref[...] = (dk_acc_ref[...] * geometry.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv_acc_ref[...].astype(dv_ref.dtype)


def block_spans(index: InverseIndex, blocks: int) -> tuple[jax.Array, jax.Array]:
    """First pair and number of pairs of every block, [B, K, N] each; pairs lie block by block without gaps."""
    sum_by_block = functools.partial(jax.ops.segment_sum, num_segments=blocks)
    counts_BKN = jax.vmap(jax.vmap(sum_by_block))(index.item_count_BKI, index.item_block_BKI)
    return jnp.cumsum(counts_BKN, axis=-1) - counts_BKN, counts_BKN


def _dkv(
    tables: UnionTables,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    segments_BT: jax.Array | None,
    q_BKQMh: jax.Array,
    do_BKQMh: jax.Array,
    statistics_BKQ2M: jax.Array,
    geometry: Geometry,
    interpret: Interpret,
) -> tuple[jax.Array, jax.Array]:
    """dK and dV, [B, S, K, h] each."""
    B, S, K, h = k_BSKh.shape
    block, M = geometry.block, geometry.rows
    N = num_blocks(S, block)
    index = inverse_index(tables, N, limit=max(1, tables.blocks_BKQU[0, 0].size))
    starts_BKN, counts_BKN = block_spans(index, N)

    def windows(x_BKP: jax.Array) -> jax.Array:
        return jnp.pad(x_BKP, ((0, 0), (0, 0), (0, -x_BKP.shape[-1] % PAIRS))).reshape(B, K, -1, *WINDOW)

    hbm, scalar = in_hbm(), scalars_spec(1)
    segments, segment_specs, segment_buffer = None, None, None
    if segments_BT is not None:
        segments = (segment_lanes(segments_BT, block, 1), segment_lanes(segments_BT, geometry.tile, geometry.group))
        segment_specs = (pl.BlockSpec((None, None, 1, block), lambda b, k, i: (b, i, 0, 0)), hbm)
        segment_buffer = pltpu.VMEM((2, 1, M), jnp.int32)
    viewers = Viewers(
        starts_BKN[..., None, None],
        counts_BKN[..., None, None],
        (windows(index.tile_BKP), windows(index.members_BKP)),
        (q_BKQMh, do_BKQMh),
        statistics_BKQ2M,
        segments,
    )
    rows_buffer = pltpu.VMEM((2, M, h), q_BKQMh.dtype)
    block_spec = rows_spec(block, h)
    accumulator = pltpu.VMEM((block, h), jnp.float32)
    dk_BKNnh, dv_BKNnh = pl.pallas_call(
        functools.partial(_dkv_kernel, geometry=geometry),
        grid=(B, K, N),
        in_specs=(
            Viewers(scalar, scalar, (hbm, hbm), (hbm, hbm), hbm, segment_specs),
            block_spec,
            block_spec,
        ),
        out_specs=(block_spec, block_spec),
        out_shape=(
            jax.ShapeDtypeStruct((B, K, N, block, h), k_BSKh.dtype),
            jax.ShapeDtypeStruct((B, K, N, block, h), v_BSKh.dtype),
        ),
        scratch_shapes=(
            ViewerBuffers(
                (pltpu.SMEM(WINDOW, jnp.int32), pltpu.SMEM(WINDOW, jnp.int32)),
                pltpu.SemaphoreType.DMA((2,)),
                (rows_buffer, rows_buffer),
                pltpu.VMEM((2, 2, M), jnp.float32),
                segment_buffer,
                pltpu.SemaphoreType.DMA((2, 3 if segments is None else 4)),
            ),
            accumulator,
            accumulator,
        ),
        compiler_params=PARALLEL_3D,
        interpret=interpret or False,
        name="block_sparse_dkv",
    )(viewers, to_blocks(k_BSKh, block), to_blocks(v_BSKh, block))
    return from_blocks(dk_BKNnh, S), from_blocks(dv_BKNnh, S)


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
    interpret: Interpret = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of `pallas_tpu.forward` in q, k and v.

    Args:
        q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT: what the forward pass got.
        o_BTHh: its output; only `delta_BHT` holds what is needed of it.
        lse_BHT: its log-sum-exp.
        do_BTHh: gradient of o.
        delta_BHT: rowsum(do * o) - gradient of lse, float32.
        block, scale, interpret: as in the forward pass.
    """
    del o_BTHh
    T, h, K = q_BTHh.shape[1], q_BTHh.shape[3], k_BSKh.shape[2]
    geometry = geometry_of(q_BTHh, k_BSKh, block, scale)
    tile, M = geometry.tile, geometry.rows
    tables = union_tables(ids_BKTn, tile, num_blocks(k_BSKh.shape[1], block))
    q_BKQMh, do_BKQMh = to_tiles(q_BTHh, K, tile), to_tiles(do_BTHh.astype(q_BTHh.dtype), K, tile)
    statistics_BKQ2M = jnp.concatenate([to_lanes(lse_BHT, K, tile), to_lanes(delta_BHT, K, tile)], axis=3)
    union, union_specs = make_union(tables, k_BSKh, v_BSKh, segments_BT, geometry)
    dq_BKQMh = pl.pallas_call(
        functools.partial(_dq_kernel, geometry=geometry),
        grid=q_BKQMh.shape[:3],
        in_specs=(union_specs, rows_spec(M, h), rows_spec(M, h), rows_spec(2, M)),
        out_specs=rows_spec(M, h),
        out_shape=jax.ShapeDtypeStruct(q_BKQMh.shape, q_BTHh.dtype),
        scratch_shapes=(
            make_buffers(k_BSKh, geometry, segments_BT is not None),
            pltpu.VMEM((M, h), jnp.float32),
        ),
        compiler_params=PARALLEL_3D,
        interpret=interpret or False,
        name="block_sparse_dq",
    )(union, q_BKQMh, do_BKQMh, statistics_BKQ2M)
    dk, dv = _dkv(tables, k_BSKh, v_BSKh, segments_BT, q_BKQMh, do_BKQMh, statistics_BKQ2M, geometry, interpret)
    return from_tiles(dq_BKQMh, tile, T), dk, dv
